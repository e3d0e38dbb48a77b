use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use tempfile::TempDir;

use super::{Journal, Limits};
use crate::{
    audit::{
        AuditError,
        folder::{Folder, rotated},
        record::Entry,
        statistics::Statistics,
        verify::{Expected, Note, Verified, VerifyError, files, verify},
    },
    event::{Event, Happening},
};

/// Room for some ten lines.
const SMALL: Limits = Limits { size: 4096, keep: 100 };

/// A folder, and the path of a log in it.
pub(in crate::audit) fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("log").join("audit.jsonl");
    (folder, file)
}

fn try_open(file: &Path, limits: Limits) -> Result<Journal, AuditError> {
    Journal::open(Folder::open(file)?, limits, Arc::new(Statistics::default()))
}

fn open(file: &Path, limits: Limits) -> Journal {
    try_open(file, limits).unwrap_or_else(|error| panic!("{error}"))
}

fn started() -> Entry {
    let what = Happening::Started { version: "1", configuration: "ab".to_owned(), took_over: false };
    Entry::event(&Event { time: SystemTime::now(), what })
}

fn stopped() -> Entry {
    Entry::event(&Event { time: SystemTime::now(), what: Happening::Stopped { persists: false } })
}

fn switched(on: bool) -> Entry {
    Entry::event(&Event { time: SystemTime::now(), what: Happening::GuardSwitched { on } })
}

/// Writes a log with `count` events, from start to stop, in files of some ten lines.
pub(in crate::audit) fn write(file: &Path, count: usize) {
    write_with(file, count, SMALL);
}

fn write_with(file: &Path, count: usize, limits: Limits) {
    let mut journal = open(file, limits);
    journal.add(&started()).expect("is added");
    for number in 0..count {
        journal.add(&switched(number % 2 == 0)).expect("is added");
        if number % 3 == 0 {
            journal.flush().expect("is written");
        }
    }
    journal.add(&stopped()).expect("is added");
    journal.flush().expect("is written");
}

fn verified(file: &Path) -> Result<Verified, VerifyError> {
    verify(&files(&[file.to_owned()])?, Expected::default())
}

#[test]
fn the_chain_goes_on_from_file_to_file_and_start_to_start() {
    let (_folder, file) = place();
    for _ in 0..3 {
        write(&file, 50);
    }
    let verified = verified(&file).expect("is as it was written");
    // Each file begins with a line of its own.
    assert_eq!(verified.records, 3 * 52 + verified.files.len() as u64);
    assert!(verified.files.len() >= 10 && verified.is_stopped && verified.notes.is_empty(), "{verified}");
    assert_eq!((verified.first, verified.head.sequence), (1, verified.records));
    for (path, _) in &verified.files {
        let metadata = fs::metadata(path).expect("is there");
        assert!(metadata.len() <= SMALL.size, "{path:?}");
        assert_eq!(metadata.permissions().mode() & 0o777, 0o640);
    }
    assert_eq!(fs::metadata(file.parent().expect("one")).expect("is there").mode() & 0o777, 0o750);
}

#[test]
fn the_oldest_files_go_and_that_is_said() {
    let (_folder, file) = place();
    let mut journal = open(&file, Limits { keep: 2, ..SMALL });
    for _ in 0..100 {
        journal.add(&switched(true)).expect("is added");
    }
    journal.flush().expect("is written");
    assert_eq!(rotated(&file).expect("is read").len(), 2);
    let verified = verified(&file).expect("is as it was written");
    assert!(verified.first > 50 && verified.to_string().contains("begins late"), "{verified}");
}

#[test]
fn a_line_that_was_not_written_to_its_end_is_recorded() {
    let (_folder, file) = place();
    let write = |count| write_with(&file, count, Limits { size: 1 << 20, ..SMALL });
    write(5);
    for (junk, bytes) in [(&b"{\"sequence\":9,\"ti"[..], 18), (b"\0\0\0", 4), (b"{\"sequ\n{\"se", 12)] {
        OpenOptions::new().append(true).open(&file).and_then(|mut file| file.write_all(junk)).expect("is written");
        assert!(matches!(verified(&file), Err(VerifyError::Fault { .. })), "nobody has recorded that yet");
        write(1);
        let verified = verified(&file).expect("is as it was written");
        assert!(verified.notes.iter().any(|(_, _, note)| *note == Note::Torn { bytes }), "{verified}");
    }
    // What is left of a torn line is under the chain too.
    let text = fs::read(&file).expect("is read");
    let place = text.windows(2).position(|two| two == b"\0\0").expect("is there");
    let mut edited = text.clone();
    edited[place] = b'x';
    fs::write(&file, edited).expect("is written");
    assert!(matches!(verified(&file), Err(VerifyError::Fault { .. })));
    // The newline alone is missing.
    fs::write(&file, &text[..text.len() - 1]).expect("is written");
    write(1);
    let verified = verified(&file).expect("is as it was written");
    assert!(verified.notes.iter().any(|(_, _, note)| *note == Note::Torn { bytes: 0 }), "{verified}");
}

#[test]
fn a_start_without_a_stop_is_noted() {
    let (_folder, file) = place();
    let mut journal = open(&file, SMALL);
    journal.add(&started()).expect("is added");
    journal.flush().expect("is written");
    drop(journal);
    write(&file, 1);
    let verified = verified(&file).expect("is as it was written");
    assert_eq!(verified.notes.iter().map(|(_, line, note)| (*line, *note)).collect::<Vec<_>>(), [(3, Note::Unstopped)]);
}

#[test]
fn a_rotation_that_was_interrupted_is_made_good() {
    let (_folder, file) = place();
    write(&file, 3);
    let head = verified(&file).expect("is as it was written").head.sequence;
    fs::rename(&file, file.with_file_name(format!("audit.jsonl.{head:012}"))).expect("is renamed");
    write(&file, 3);
    let verified = verified(&file).expect("is as it was written");
    assert_eq!((verified.files.len(), verified.records), (2, 2 * 6));
    assert!(fs::read_to_string(&file).expect("text").contains(&format!("\"continues\":\"audit.jsonl.{head:012}\"")));
}

#[test]
fn a_file_that_somebody_takes_away_is_followed_by_another() {
    let (_folder, file) = place();
    let mut journal = open(&file, SMALL);
    journal.add(&started()).expect("is added");
    journal.flush().expect("is written");
    journal.look().expect("it is there");
    let moved = file.with_file_name("moved.jsonl");
    fs::rename(&file, &moved).expect("is renamed");
    journal.look().expect("another is made");
    journal.add(&stopped()).expect("is added");
    journal.flush().expect("is written");
    let verified = verify(&[moved, file.clone()], Expected::default()).expect("one chain");
    assert_eq!(verified.records, 4);
    assert!(fs::read_to_string(&file).expect("text").contains("\"why\":\"replaced\""));
}

#[test]
fn what_somebody_else_does_to_the_file_while_it_is_written_shows() {
    let (_folder, file) = place();
    for change in [&b""[..], b"{\"seq", b"more\n"] {
        let _ = fs::remove_file(&file);
        let mut journal = open(&file, SMALL);
        for _ in 0..3 {
            journal.add(&switched(true)).expect("is added");
        }
        journal.flush().expect("is written");
        fs::write(&file, change).expect("is written");
        journal.add(&switched(false)).expect("is added");
        journal.flush().expect("is written");
        assert!(matches!(verified(&file), Err(VerifyError::Fault { line: 1, .. })), "{change:?}");
        assert!(fs::read_to_string(&file).expect("text").lines().last().expect("one").contains("\"on\":false"));
    }
}

#[test]
fn nothing_but_a_log_of_ours_is_written_to() {
    let (_folder, file) = place();
    write(&file, 1);
    let busy = open(&file, SMALL);
    assert!(matches!(try_open(&file, SMALL), Err(AuditError::Busy { .. })));
    drop(busy);

    let other = file.with_file_name("other");
    fs::write(&other, "root:x:0:0\n").expect("is written");
    assert!(matches!(try_open(&other, SMALL), Err(AuditError::Foreign { .. })));
    assert_eq!(fs::read_to_string(&other).expect("text"), "root:x:0:0\n", "it is as it was");

    let link = file.with_file_name("link");
    symlink(&file, &link).expect("is made");
    let refused = try_open(&link, SMALL).expect_err("is refused");
    assert!(refused.is_configuration() && refused.to_string().contains("is a symbolic link"), "{refused}");
    let folder = file.parent().expect("one").to_owned();
    assert!(matches!(try_open(&folder, SMALL), Err(AuditError::NoFile { what: "a folder", .. })));
    let below = file.join("file").join("audit.jsonl");
    assert!(matches!(try_open(&below, SMALL), Err(AuditError::Folder { .. })));
    let pipe = file.with_file_name("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("is made");
    assert!(matches!(try_open(&pipe, SMALL), Err(AuditError::NoFile { .. })));
}
