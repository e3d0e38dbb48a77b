//! The audit log's configuration, and `tidewaiter audit verify` as its users run it.

#![allow(clippy::unwrap_used, reason = "tests panic for a stack trace")]

mod check;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;
use tidewaiter::{
    cli::Overrides,
    config::{Audit, AuditSync, Configuration},
    event::facts::Key,
};

use self::check::{NONE, check};

/// Bad configuration (`EX_CONFIG`, `sysexits.h`).
const BAD_CONFIGURATION: Option<i32> = Some(78);

fn load(contents: &str) -> Option<Audit> {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("tidewaiter.toml");
    fs::write(&path, contents).unwrap();
    Configuration::load(Some(&path), &Overrides::default()).unwrap().audit
}

#[test]
fn there_is_an_audit_log_if_it_has_a_file() {
    assert_eq!(load(""), None);
    assert_eq!(load("[audit]\nkeep = 3"), None);
    let audit = load("[audit]\nfile = '/var/log/tidewaiter/audit.jsonl'").unwrap();
    assert_eq!((audit.max_size, audit.keep, audit.sync, audit.flows), (64 << 20, 10, AuditSync::Interval, false));
    let all = "[audit]\nfile = '/a'\nmax_size = '1GB'\nkeep = 1\nsync = 'never'\nflows = true";
    let expected = Audit { file: "/a".into(), max_size: 1_000_000_000, keep: 1, sync: AuditSync::Never, flows: true };
    assert_eq!(load(all), Some(expected));
}

#[test]
fn what_is_wrong_with_it_is_told() {
    for (lines, expected) in [
        (
            "file = 'audit.jsonl'",
            "FILE:2: audit.file: found \"audit.jsonl\", expected the absolute path of a file such as \"/var/log/tidewaiter/audit.jsonl\"",
        ),
        (
            "file = '/var/log/'",
            "FILE:2: audit.file: found \"/var/log/\", expected the absolute path of a file such as \"/var/log/tidewaiter/audit.jsonl\"",
        ),
        ("file = '/a'\nmax_size = '1KiB'", "FILE:3: audit.max_size: found 1.0 KiB, expected 64.0 KiB to 1.0 TiB"),
        (
            "file = '/a'\nmax_size = 'much'",
            "FILE:3: audit.max_size: found \"much\", expected a number of bytes such as \"64MiB\"",
        ),
        ("file = '/a'\nkeep = 0", "FILE:3: audit.keep: found 0, expected 1 to 100000"),
        ("file = '/a'\nsync = 'often'", "FILE:3: audit.sync: found \"often\", expected one of \"interval\", \"never\""),
        ("flows = true", "FILE:2: audit.flows: found true, expected audit.file with it"),
        (
            "file = '/a'\nflows = true\n[flows]\ncapacity = 0",
            "FILE:3: audit.flows: found true, expected false while flows.capacity is 0: no flows are kept",
        ),
        (
            "path = '/a'",
            "FILE:2: audit.path: unknown key, expected one of \"file\", \"max_size\", \"keep\", \"sync\", \"flows\"",
        ),
    ] {
        let checked = check(&format!("[audit]\n{lines}"), NONE, &[]);
        assert_eq!((checked.code, checked.stderr), (BAD_CONFIGURATION, format!("tidewaiter: {expected}\n")), "{lines}");
    }
}

#[test]
fn check_shows_it() {
    let shown = |contents: &str| {
        let checked = check(contents, NONE, &[]);
        assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""));
        checked.stdout.lines().find_map(|line| line.strip_prefix("audit       ").map(str::to_owned)).unwrap()
    };
    assert_eq!(shown(""), "no audit log: no audit.file");
    assert_eq!(
        shown("[audit]\nfile = '/a'\nflows = true"),
        "/a, 10 files more of at most 64.0 MiB each, kept on the disk each second, with each finished flow"
    );
}

fn verify(path: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidewaiter"));
    let Output { status, stdout, stderr } =
        command.args(["audit", "verify"]).arg(path).args(arguments).output().unwrap();
    let [stdout, stderr] =
        [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap().replace(&path.display().to_string(), "FILE"));
    (status.code(), stdout, stderr)
}

/// Two lines of a log, with the hashes that `sha256sum` finds.
const LOG: &str = concat!(
    r#"{"sequence":1,"time":"2026-01-01T00:00:00.000000000Z","event":"tidewaiter.audit.opened","severity":"INFO","message":"the audit log begins","why":"begun","previous":"0000000000000000000000000000000000000000000000000000000000000000"}"#,
    "\n",
    r#"{"sequence":2,"time":"2026-01-01T00:00:01.000000000Z","event":"tidewaiter.stopped","severity":"INFO","message":"stopping","persists":false,"previous":"FIRST"}"#,
    "\n"
);

/// The hash that `sha256sum` finds of `line`.
fn sha256sum(line: &str) -> String {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("line");
    fs::write(&path, line).unwrap();
    let Output { stdout, .. } = Command::new("sha256sum").arg(&path).output().unwrap();
    String::from_utf8(stdout).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn verify_says_what_is_there_and_what_is_wrong() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("audit.jsonl");
    let log = LOG.replace("FIRST", &sha256sum(LOG.lines().next().unwrap()));
    let last = sha256sum(log.lines().last().unwrap());
    fs::write(&path, &log).unwrap();
    let expected = format!(
        "FILE: 2 lines\n\
         verified      2 records, 1 to 2\n\
         time          2026-01-01T00:00:00.000000000Z to 2026-01-01T00:00:01.000000000Z\n\
         ends          in order\n\
         last hash     {last}\n"
    );
    assert_eq!(verify(&path, &[]), (Some(0), expected.clone(), String::new()));
    assert_eq!(verify(&path, &["--expect-last", &last]).1, expected);
    let other = "ab".repeat(32);
    let (code, _, stderr) = verify(&path, &["--expect-last", &other]);
    let wrong = format!(
        "tidewaiter: FILE:2: this is the last line, expected one with the hash {other}: lines were cut off, or edited\n"
    );
    assert_eq!((code, stderr), (Some(1), wrong));
    assert_eq!(verify(&path, &["--expect-last", "nonsense"]).0, Some(2));

    fs::write(&path, log.replace("begins", "began")).unwrap();
    let (code, stdout, stderr) = verify(&path, &[]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.starts_with("tidewaiter: FILE:1: this line was edited"), "{stderr}");
    assert_eq!(verify(&directory.path().join("none"), &[]).0, Some(1));
}

#[test]
fn the_readme_has_every_field() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    for key in Key::ALL {
        let (field, attribute) = (format!("| `{}`", key.plain()), format!("| `{}` |", key.attribute()));
        assert!(readme.lines().any(|line| line.starts_with(&field) && line.ends_with(&attribute)), "{key:?}");
    }
}
