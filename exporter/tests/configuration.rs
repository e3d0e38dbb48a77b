//! Configuration: what each mistake is told as, and what good ones resolve to.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests panic for a stack trace")]

mod check;

use std::{
    fs,
    net::IpAddr,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use tempfile::TempDir;
use tidewaiter::{
    anomaly::thresholds::Thresholds,
    api::{Api, PortRange, Protocol, Role, Transport},
    cli::{LogOverrides, Overrides},
    config::{
        ApiSource, AttachMode, Configuration, Discovery, Flows, InterfacePatterns, InterfaceSelection, Log, LogFormat,
        LogLevel, error::Place,
    },
};

use self::check::{NONE, check};

/// Bad configuration (`EX_CONFIG`, `sysexits.h`).
const BAD_CONFIGURATION: Option<i32> = Some(78);

/// Every key but those of APIs, none with its default.
const EXAMPLE: &str = r#"listen = "127.0.0.1:9000"
interfaces = ["lo", "eth*"]
attach = "clsact"
pin_path = "/sys/fs/bpf/tidewaiter/edge"
persist = true
web_config = "/etc/tidewaiter/web.config.yml"
api_token_file = "/etc/tidewaiter/token"

[flows]
capacity = 4096
idle_timeout = "2m"
active_timeout = "5m"
clients = 7

[discovery]
interval = "1m 30s"
limit = 512
forget_after = "0s"

[log]
level = "debug"
format = "json"
"#;

fn load_with(contents: impl AsRef<[u8]>, overrides: &Overrides) -> Result<Configuration, String> {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("tidewaiter.toml");
    fs::write(&path, contents).unwrap();
    load_path(&path, overrides)
}

fn load_path(path: &Path, overrides: &Overrides) -> Result<Configuration, String> {
    Configuration::load(Some(path), overrides)
        .map_err(|error| format!("{:#}", anyhow::Error::from(error)).replace(&path.display().to_string(), "FILE"))
}

fn load(contents: &str) -> Configuration {
    load_with(contents, &Overrides::default()).unwrap_or_else(|problems| panic!("{contents}\n{problems}"))
}

fn problems(contents: impl AsRef<[u8]>) -> String {
    load_with(contents, &Overrides::default()).err().unwrap_or_default()
}

#[track_caller]
fn assert_refused(cases: &[(&str, &str)]) {
    for (contents, expected) in cases {
        assert_eq!(problems(contents), *expected, "{contents}");
    }
}

/// As [`assert_refused`], for lines from the third on of a file with the API `a`.
#[track_caller]
fn assert_api_refused(cases: &[(&str, &str)]) {
    for (lines, expected) in cases {
        assert_eq!(problems(format!("[[api]]\nname = \"a\"\n{lines}")), *expected, "{lines}");
    }
}

fn apis(contents: &str) -> Vec<Api> {
    match load(contents).apis {
        ApiSource::Configured(apis) => apis,
        ApiSource::Discovered(discovery) => panic!("{contents}\n{discovery:?}"),
    }
}

#[test]
fn what_is_not_toml_is_told_with_its_line() {
    assert_refused(&[
        ("\nlisten = ", "FILE:2: not valid TOML: string values must be quoted, expected literal string"),
        ("listen = \"x\"\nlisten = \"y\"", "FILE:2: not valid TOML: duplicate key"),
        ("[[api]\n", "FILE:1: not valid TOML: unclosed array table, expected `]`"),
    ]);
}

#[test]
fn unknown_keys_are_told_with_the_known_ones() {
    assert_refused(&[
        (
            "# a comment\ncolor = 1",
            r#"FILE:2: color: unknown key, expected one of "listen", "web_config", "api_token_file", "interfaces", "attach", "pin_path", "persist", "watch", "flows", "discovery", "guard", "anomalies", "otlp", "audit", "log", "api", "rule", "response""#,
        ),
        (
            "[discovery]\nlimits = 1",
            r#"FILE:2: discovery.limits: unknown key, expected one of "interval", "limit", "forget_after""#,
        ),
        (
            "[flows]\nsize = 1",
            r#"FILE:2: flows.size: unknown key, expected one of "capacity", "idle_timeout", "active_timeout", "clients""#,
        ),
        ("[log]\nfile = \"x\"", r#"FILE:2: log.file: unknown key, expected one of "level", "format""#),
        (
            "[[api]]\nname = \"a\"\nports = [1]\n[[api]]\nname = \"b\"\nports = [2]\nprotocol = \"tcp\"",
            "FILE:7: api.1.protocol: unknown key, \
             expected one of \"name\", \"ports\", \"transport\", \"address\", \"role\", \"expect\"",
        ),
    ]);
}

#[test]
fn values_of_the_wrong_type_are_told_with_the_right_one() {
    assert_refused(&[
        ("listen = 5", "FILE:1: listen: found 5, expected a string"),
        ("listen = true", "FILE:1: listen: found true, expected a string"),
        ("interfaces = 3", "FILE:1: interfaces: found 3, expected a string or a list of strings"),
        ("interfaces = [\n\"lo\",\n3]", "FILE:3: interfaces.1: found 3, expected a string"),
        ("attach = 1", r#"FILE:1: attach: found 1, expected "auto", "tcx" or "clsact""#),
        ("discovery = 3", "FILE:1: discovery: found 3, expected a table"),
        ("[discovery]\nlimit = \"many\"", "FILE:2: discovery.limit: found \"many\", expected a whole number"),
        ("[discovery]\nlimit = 1.5", "FILE:2: discovery.limit: found 1.5, expected a whole number"),
        ("log = \"debug\"", "FILE:1: log: found \"debug\", expected a table"),
        ("log.level = 1", r#"FILE:1: log.level: found 1, expected "error", "warn", "info", "debug" or "trace""#),
        ("log.format = 1", r#"FILE:1: log.format: found 1, expected "text" or "json""#),
        ("api = 3", "FILE:1: api: found 3, expected a list"),
        ("api = [3]", "FILE:1: api.0: found 3, expected a table"),
        ("[api]\nname = \"a\"", "FILE:1: api: found a table, expected a list"),
        ("[[api]]\nname = 5\nports = [1]", "FILE:2: api.0.name: found 5, expected a string"),
    ]);
    assert_api_refused(&[
        ("ports = \"80\"", "FILE:3: api.0.ports: found \"80\", expected a list"),
        ("ports = 80", "FILE:3: api.0.ports: found 80, expected a list"),
        ("ports = [1]\nrole = 1", r#"FILE:4: api.0.role: found 1, expected "server" or "client""#),
        ("ports = [1]\ntransport = 1", "FILE:4: api.0.transport: found 1, expected a string or a list of strings"),
        ("ports = [1]\ntransport = [1]", r#"FILE:4: api.0.transport.0: found 1, expected "tcp", "udp" or "sctp""#),
        ("ports = [1]\naddress = 5", "FILE:4: api.0.address: found 5, expected a string or a list of strings"),
        ("ports = [1]\nexpect = 5", "FILE:4: api.0.expect: found 5, expected a string or a list of strings"),
        (
            "ports = [1]\nexpect = [5]",
            "FILE:4: api.0.expect.0: found 5, expected the name of a protocol such as \"http1\"",
        ),
    ]);
}

#[test]
fn what_flows_and_pins_cannot_be_is_told() {
    let capacity =
        |found| format!("FILE:2: flows.capacity: found {found}, expected 1024 to 16777216, or 0 for no flows");
    assert_refused(&[
        (
            "pin_path = \"pins\"",
            "FILE:1: pin_path: found \"pins\", expected an absolute path such as \"/sys/fs/bpf/tidewaiter/edge\"",
        ),
        ("persist = 1", "FILE:1: persist: found 1, expected true or false"),
        ("[flows]\ncapacity = 1023", &capacity("1023")),
        ("[flows]\ncapacity = 16777217", &capacity("16777217")),
        ("[flows]\ncapacity = -1", &capacity("-1")),
        ("[flows]\nidle_timeout = \"999ms\"", "FILE:2: flows.idle_timeout: found \"999ms\", expected at least \"1s\""),
        ("[flows]\nactive_timeout = \"0s\"", "FILE:2: flows.active_timeout: found \"0s\", expected at least \"1s\""),
        (
            "[flows]\nactive_timeout = 900",
            "FILE:2: flows.active_timeout: found 900, expected a span of time such as \"30s\" or \"5m\"",
        ),
        ("[flows]\nclients = 1001", "FILE:2: flows.clients: found 1001, expected 0 to 1000"),
        ("[flows]\nclients = -1", "FILE:2: flows.clients: found -1, expected 0 to 1000"),
    ]);
    assert_eq!(load("[flows]\ncapacity = 0").flows.capacity, 0);
    assert_eq!(load("[flows]\nactive_timeout = \"1s\"").flows.active_timeout, Duration::from_secs(1));
    assert_eq!([0, 1000].map(|clients| load(&format!("[flows]\nclients = {clients}")).flows.clients), [0, 1000]);
}

#[test]
fn what_is_no_port_is_told() {
    for (written, found) in [
        ("0", "0"),
        ("70000", "70000"),
        ("-1", "-1"),
        ("1.5", "1.5"),
        ("true", "true"),
        ("[1]", "a list"),
        ("{ a = 1 }", "a table"),
        ("\"\"", "\"\""),
        ("\"http\"", "\"http\""),
        ("\"0-5\"", "\"0-5\""),
        ("\"80-70000\"", "\"80-70000\""),
        ("\"5-4\"", "\"5-4\""),
        ("\"80-x\"", "\"80-x\""),
        ("\"1-2-3\"", "\"1-2-3\""),
        ("\"80,81\"", "\"80,81\""),
    ] {
        let expected = "expected a port from 1 to 65535, or a range such as \"9000-9010\"";
        let lines = format!("ports = [\n  443,\n  {written},\n]");
        assert_api_refused(&[(&lines, &format!("FILE:5: api.0.ports.1: found {found}, {expected}"))]);
    }
}

#[test]
fn ports_that_are_none_or_twice_are_told() {
    let twice = |port| format!("FILE:3: api.0.ports: found port {port} twice, expected each port once");
    assert_api_refused(&[
        ("ports = []", "FILE:3: api.0.ports: found an empty list, expected at least one port"),
        ("ports = [80, 80]", &twice(80)),
        ("ports = [80, \"79-81\"]", &twice(80)),
        ("ports = [80, \"80-80\"]\naddress = \"10.0.0.1\"", &twice(80)),
    ]);
}

#[test]
fn a_port_of_two_apis_is_told() {
    let clash = |line: usize, port: &str, kind: &str| {
        format!(
            "FILE:{line}: api.1.ports: found {port}, which belongs to \"a\" already, \
             expected ports that no other {kind} API has at the same address"
        )
    };
    for (a, b, line, port, kind) in [
        ("ports = [80]", "ports = [80]", 6, "tcp port 80", "tcp server"),
        ("ports = ['10-20']", "ports = ['15-30']", 6, "tcp port 15", "tcp server"),
        ("ports = ['10-20']", "ports = [\n5,\n20]", 6, "tcp port 20", "tcp server"),
        ("ports = [80]\nrole = 'client'", "role = 'client'\nports = [80]", 8, "tcp port 80", "tcp client"),
        ("ports = [53]\ntransport = ['tcp', 'udp']", "ports = [53]\ntransport = 'udp'", 7, "udp port 53", "udp server"),
        (
            "ports = [80]\naddress = '10.0.0.1'",
            "ports = [80]\naddress = ['10.0.0.2', '10.0.0.1']",
            7,
            "tcp port 80 at 10.0.0.1",
            "tcp server",
        ),
        (
            "ports = [80]\naddress = '10.0.0.1'",
            "ports = [80]\naddress = '::ffff:10.0.0.1'",
            7,
            "tcp port 80 at 10.0.0.1",
            "tcp server",
        ),
        (
            "ports = [80]\naddress = '2001:db8::1'",
            "ports = [80]\naddress = '2001:DB8:0::1'",
            7,
            "tcp port 80 at 2001:db8::1",
            "tcp server",
        ),
    ] {
        let lines = format!("{a}\n\n[[api]]\nname = \"b\"\n{b}");
        assert_api_refused(&[(&lines, &clash(line + 1, port, kind))]);
    }
}

#[test]
fn apis_may_share_a_port_where_packets_tell_them_apart() {
    for (a, b) in [
        ("", "transport = 'udp'"),
        ("", "role = 'client'"),
        ("", "address = '10.0.0.1'"),
        ("address = '10.0.0.1'", ""),
        ("address = '10.0.0.1'", "address = ['10.0.0.2', '2001:db8::1']"),
    ] {
        let contents = format!("[[api]]\nname = 'a'\nports = [80]\n{a}\n[[api]]\nname = 'b'\nports = [80]\n{b}");
        assert_eq!(apis(&contents).len(), 2, "{contents}");
    }
}

#[test]
fn names_that_cannot_be_are_told() {
    let long = "é".repeat(101);
    let quality = "expected at most 100 characters, none of them a control character";
    for (name, complaint) in [
        ("", "expected a name that is not empty"),
        (" \\t ", "expected a name that is not empty"),
        (&long, quality),
        ("a\\tb", quality),
        ("a\\u0085b", quality),
        ("unmapped", "this name is reserved, expected another"),
        ("removed", "this name is reserved, expected another"),
        ("other", "this name is reserved, expected another"),
    ] {
        let found = name.replace("\\u0085", "\\u{85}");
        let expected = format!("FILE:3: api.0.name: found \"{found}\", {complaint}");
        assert_refused(&[(&format!("[[api]]\nports = [1]\nname = \"{name}\""), &expected)]);
    }
    assert_api_refused(&[(
        "ports = [1]\n[[api]]\nports = [2]\nname = \"a\"",
        "FILE:6: api.1.name: found \"a\", another API has this name, expected one of its own",
    )]);
    assert_eq!(apis(&format!("[[api]]\nname = '{}'\nports = [1]", "é".repeat(100))).len(), 1);
}

#[test]
fn missing_keys_are_told_with_the_line_of_their_table() {
    assert_refused(&[
        ("\n[[api]]\nports = [1]", "FILE:2: api.0: the key \"name\" is missing"),
        ("[[api]]\nname = \"a\"\nports = [1]\n\n[[api]]\nname = \"b\"", "FILE:5: api.1: the key \"ports\" is missing"),
    ]);
}

#[test]
fn other_values_of_apis_are_told() {
    assert_api_refused(&[
        (
            "ports = [1]\ntransport = \"quic\"",
            r#"FILE:4: api.0.transport: found "quic", expected one of "tcp", "udp", "sctp""#,
        ),
        (
            "ports = [1]\ntransport = [\"tcp\", \"quic\"]",
            r#"FILE:4: api.0.transport.1: found "quic", expected one of "tcp", "udp", "sctp""#,
        ),
        (
            "ports = [1]\ntransport = []",
            r#"FILE:4: api.0.transport: found an empty list, expected "tcp", "udp" or others"#,
        ),
        ("ports = [1]\nrole = \"peer\"", r#"FILE:4: api.0.role: found "peer", expected one of "server", "client""#),
        (
            "ports = [1]\naddress = \"localhost\"",
            r#"FILE:4: api.0.address: found "localhost", expected an IP address such as "10.0.0.1" or "2001:db8::1""#,
        ),
        (
            "ports = [1]\naddress = [\"10.0.0.1\", \"10.0.0.0/8\"]",
            "FILE:4: api.0.address.1: found \"10.0.0.0/8\", \
             expected an IP address such as \"10.0.0.1\" or \"2001:db8::1\"",
        ),
        (
            "ports = [1]\naddress = []",
            "FILE:4: api.0.address: found an empty list, expected at least one address, or no key at all",
        ),
        (
            "ports = [1]\naddress = \"0.0.0.0\"",
            "FILE:4: api.0.address: found \"0.0.0.0\", \
             expected the address of one end, or no key at all for any address",
        ),
        (
            "ports = [1]\naddress = [\"10.0.0.1\", \"::\"]",
            "FILE:4: api.0.address: found \"::\", expected the address of one end, or no key at all for any address",
        ),
    ]);
}

#[test]
fn what_cannot_be_expected_is_told_with_what_can() {
    let names: Vec<_> = Protocol::ALL.iter().skip(1).map(|protocol| format!("\"{}\"", protocol.as_str())).collect();
    let names = names.join(", ");
    assert!(names.starts_with("\"http1\", \"http2\", ") && !names.contains("unknown"), "{names}");
    assert_api_refused(&[
        (
            "ports = [1]\nexpect = \"gopher\"",
            &format!("FILE:4: api.0.expect: found \"gopher\", expected one of {names}"),
        ),
        (
            "ports = [1]\nexpect = [\n\"tls\",\n\"unknown\"]",
            &format!("FILE:6: api.0.expect.1: found \"unknown\", expected one of {names}"),
        ),
        (
            "ports = [1]\nexpect = []",
            "FILE:4: api.0.expect: found an empty list, expected at least one protocol, or no key at all",
        ),
    ]);
    for protocol in Protocol::ALL.iter().skip(1) {
        let contents = format!("[[api]]\nname = 'a'\nports = [1]\nexpect = '{}'", protocol.as_str());
        assert_eq!(apis(&contents)[0].expect, [*protocol]);
    }
}

#[test]
fn other_values_are_told() {
    let listen = r#"expected an address and a port such as "0.0.0.0:9473" or "[::1]:9473""#;
    for written in ["", "localhost", "9473", ":9473", "::1:9473", "0.0.0.0:70000", "localhost:9473"] {
        assert_refused(&[(
            &format!("listen = \"{written}\""),
            &format!("FILE:1: listen: found \"{written}\", {listen}"),
        )]);
    }
    assert_refused(&[
        ("interfaces = []", "FILE:1: interfaces: found an empty list, expected at least one name or glob"),
        ("interfaces = \"\"", "FILE:1: interfaces.0: found \"\", expected the name of an interface, or a glob"),
        (
            "interfaces = [\n\"lo\",\n\"\"]",
            "FILE:3: interfaces.1: found \"\", expected the name of an interface, or a glob",
        ),
        (
            "interfaces = [\"lo\", \"et[h\"]",
            "FILE:1: interfaces.1: found \"et[h\", not a glob: unclosed character class; missing ']'",
        ),
        ("attach = \"xdp\"", r#"FILE:1: attach: found "xdp", expected one of "auto", "tcx", "clsact""#),
        ("[discovery]\ninterval = \"999ms\"", r#"FILE:2: discovery.interval: found "999ms", expected at least "1s""#),
        (
            "[discovery]\ninterval = \"often\"",
            r#"FILE:2: discovery.interval: found "often", expected a span of time such as "30s" or "5m""#,
        ),
        (
            "[discovery]\ninterval = 10",
            r#"FILE:2: discovery.interval: found 10, expected a span of time such as "30s" or "5m""#,
        ),
        (
            "[discovery]\nforget_after = \"-1s\"",
            r#"FILE:2: discovery.forget_after: found "-1s", expected a span of time such as "30s" or "5m""#,
        ),
        ("[discovery]\nlimit = 0", "FILE:2: discovery.limit: found 0, expected 1 to 512"),
        ("[discovery]\nlimit = -1", "FILE:2: discovery.limit: found -1, expected 1 to 512"),
        ("[discovery]\nlimit = 513", "FILE:2: discovery.limit: found 513, expected 1 to 512"),
        (
            "[log]\nlevel = \"loud\"",
            r#"FILE:2: log.level: found "loud", expected one of "error", "warn", "info", "debug", "trace""#,
        ),
        ("[log]\nformat = \"xml\"", r#"FILE:2: log.format: found "xml", expected one of "text", "json""#),
    ]);
}

#[test]
fn more_than_the_tables_hold_is_told() {
    let many = |count: usize| {
        let apis: Vec<_> = (1..=count).map(|port| format!("[[api]]\nname = 'a{port}'\nports = [{port}]\n")).collect();
        apis.concat()
    };
    assert_eq!(apis(&many(1023)).len(), 1023);
    assert_eq!(problems(many(1024)), "FILE:1: api: found 1024 APIs, expected at most 1023");

    let at = |addresses| format!("ports = ['1-65535']\ntransport = ['tcp', 'udp']\naddress = {addresses}");
    assert_api_refused(&[(
        &at("['10.0.0.1', '10.0.0.2', '10.0.0.3']"),
        "FILE:1: api: found 393210 combinations of port, transport and address, expected at most 262144",
    )]);
    assert_eq!(apis(&format!("[[api]]\nname = 'a'\n{}", at("['10.0.0.1', '10.0.0.2']"))).len(), 1);
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    assert_refused(&[(
        "listen = 'x'\ninterfaces = ['', 'et[h']\n[discovery]\ninterval = '0s'\nlimit = 0\n\
         [[api]]\nname = ''\nports = []\ntransport = []\n[[api]]\nname = 'other'\nports = [1]\naddress = []",
        r#"FILE:1: listen: found "x", expected an address and a port such as "0.0.0.0:9473" or "[::1]:9473"
FILE:2: interfaces.0: found "", expected the name of an interface, or a glob
FILE:2: interfaces.1: found "et[h", not a glob: unclosed character class; missing ']'
FILE:4: discovery.interval: found "0s", expected at least "1s"
FILE:5: discovery.limit: found 0, expected 1 to 512
FILE:13: api.1.address: found an empty list, expected at least one address, or no key at all
FILE:7: api.0.name: found "", expected a name that is not empty
FILE:11: api.1.name: found "other", this name is reserved, expected another
FILE:8: api.0.ports: found an empty list, expected at least one port
FILE:9: api.0.transport: found an empty list, expected "tcp", "udp" or others"#,
    )]);
}

#[test]
fn a_file_that_cannot_be_read_is_told() {
    let directory = TempDir::new().unwrap();
    for (path, why) in [
        (directory.path().join("absent.toml"), "No such file or directory (os error 2)"),
        (directory.path().to_owned(), "Is a directory (os error 21)"),
    ] {
        let problems = load_path(&path, &Overrides::default()).err();
        assert_eq!(problems, Some(format!("cannot read the configuration file FILE: {why}")));
    }
    assert_eq!(
        problems(b"listen = \"\xff\""),
        "cannot read the configuration file FILE: stream did not contain valid UTF-8"
    );
}

#[test]
fn an_empty_file_has_the_defaults() {
    let Configuration {
        file,
        listen,
        web_config,
        api_token_file,
        interfaces,
        attach,
        pin_path,
        persist,
        watch,
        flows,
        apis,
        anomalies,
        guard: _,
        otlp,
        audit,
        log,
        fingerprint,
    } = load("");
    assert_eq!((web_config, api_token_file), (None, None));
    assert_eq!(anomalies, Thresholds::default());
    assert_eq!(file.unwrap().file_name().unwrap(), "tidewaiter.toml");
    assert_eq!(listen.to_string(), "0.0.0.0:9473");
    assert!(matches!(interfaces, InterfaceSelection::Default), "{interfaces:?}");
    assert_eq!(attach, AttachMode::Auto);
    assert_eq!((pin_path, persist, watch), (None, false, true));
    let [idle_timeout, active_timeout] = [1, 15].map(Duration::from_mins);
    assert_eq!(flows, Flows { capacity: 262_144, idle_timeout, active_timeout, clients: 20 });
    let ApiSource::Discovered(discovery) = apis else { panic!("{apis:?}") };
    let forget_after = Duration::from_mins(5);
    assert_eq!(discovery, Discovery { interval: Duration::from_secs(10), limit: 64, forget_after });
    assert!(!otlp.is_on(), "{otlp:?}");
    assert_eq!((audit, fingerprint.difference(&load("").fingerprint)), (None, Vec::new()));
    assert_eq!(log, Log { level: LogLevel::Info, format: LogFormat::Text });
}

#[test]
fn a_full_file_resolves_to_what_it_says() {
    let Configuration {
        file: _,
        listen,
        web_config,
        api_token_file,
        interfaces,
        attach,
        pin_path,
        persist,
        flows,
        apis,
        log,
        ..
    } = load(EXAMPLE);
    assert_eq!(web_config.as_deref(), Some(Path::new("/etc/tidewaiter/web.config.yml")));
    assert_eq!(api_token_file.as_deref(), Some(Path::new("/etc/tidewaiter/token")));
    assert_eq!(listen.to_string(), "127.0.0.1:9000");
    let InterfaceSelection::Matching(InterfacePatterns { patterns, globs }) = interfaces else {
        panic!("{interfaces:?}")
    };
    assert_eq!(patterns.iter().map(|pattern| pattern.text.as_str()).collect::<Vec<_>>(), ["lo", "eth*"]);
    assert!(patterns.iter().all(|pattern| matches!(pattern.place, Place::File { line: Some(2), .. })), "{patterns:?}");
    assert_eq!(
        ["lo", "eth0", "eth", "wlan0", "lo1"].map(|name| globs.is_match(name)),
        [true, true, true, false, false]
    );
    assert_eq!(attach, AttachMode::Clsact);
    assert_eq!((pin_path.as_deref(), persist), (Some(Path::new("/sys/fs/bpf/tidewaiter/edge")), true));
    let [idle_timeout, active_timeout] = [2, 5].map(Duration::from_mins);
    assert_eq!(flows, Flows { capacity: 4096, idle_timeout, active_timeout, clients: 7 });
    let ApiSource::Discovered(discovery) = apis else { panic!("{apis:?}") };
    let interval = Duration::from_secs(90);
    assert_eq!(discovery, Discovery { interval, limit: 512, forget_after: Duration::ZERO });
    assert_eq!(log, Log { level: LogLevel::Debug, format: LogFormat::Json });
}

#[test]
fn apis_resolve_to_what_they_say() {
    let contents = r#"
        [[api]]
        name = "orders"
        ports = [443, "9000-9010", "8443"]

        [[api]]
        name = "names: ünïcode, \"quotes\""
        ports = [53]
        transport = ["udp", "tcp", "udp"]
        address = ["::ffff:10.0.0.2", "2001:db8::1", "10.0.0.1", "10.0.0.2"]
        role = "client"
        expect = ["tls", "dns", "http1", "tls"]
    "#;
    let range = |first, last| PortRange::new(first, last).unwrap();
    let addresses = ["10.0.0.1", "10.0.0.2", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap());
    let expected = [
        Api {
            name: "orders".to_owned(),
            role: Role::Server,
            transports: vec![Transport::Tcp],
            ports: vec![443.into(), range(9000, 9010), 8443.into()],
            addresses: Vec::new(),
            expect: Vec::new(),
        },
        Api {
            name: "names: ünïcode, \"quotes\"".to_owned(),
            role: Role::Client,
            transports: vec![Transport::Tcp, Transport::Udp],
            ports: vec![53.into()],
            addresses: addresses.to_vec(),
            expect: vec![Protocol::Http1, Protocol::Tls, Protocol::Dns],
        },
    ];
    assert_eq!(apis(contents), expected);
}

#[test]
fn one_value_is_a_list_of_one() {
    let api = |values: &str| apis(&format!("[[api]]\nname = 'a'\nports = [1]\n{values}"));
    assert_eq!(
        api("transport = 'udp'\naddress = '::1'\nexpect = 'dns'"),
        api("transport = ['udp']\naddress = ['::1']\nexpect = ['dns']")
    );
    for written in ["interfaces = 'lo'", "interfaces = ['lo']"] {
        let interfaces = load(written).interfaces;
        let InterfaceSelection::Matching(matching) = interfaces else { panic!("{interfaces:?}") };
        assert_eq!(matching.patterns.iter().map(|pattern| pattern.text.as_str()).collect::<Vec<_>>(), ["lo"]);
    }
}

#[test]
fn the_command_line_comes_before_the_file() {
    let overrides = Overrides {
        listen: Some("[::1]:1".to_owned()),
        interfaces: vec!["wlan*".to_owned()],
        log: LogOverrides { level: Some(LogLevel::Error), format: None },
        ..Overrides::default()
    };
    let Configuration { listen, interfaces, attach, log, .. } = load_with(EXAMPLE, &overrides).unwrap();
    assert_eq!(listen.to_string(), "[::1]:1");
    let InterfaceSelection::Matching(InterfacePatterns { patterns, .. }) = interfaces else { panic!("{interfaces:?}") };
    let [pattern] = patterns.as_slice() else { panic!("{patterns:?}") };
    assert_eq!((pattern.text.as_str(), &pattern.place), ("wlan*", &Place::CommandLine));
    assert_eq!(attach, AttachMode::Clsact);
    assert_eq!(log, Log { level: LogLevel::Error, format: LogFormat::Json });

    let wrong = Overrides { listen: Some("x".to_owned()), interfaces: vec![String::new()], ..Overrides::default() };
    assert_eq!(
        load_with(EXAMPLE, &wrong).err().unwrap_or_default(),
        "command line: listen: found \"x\", expected an address and a port such as \"0.0.0.0:9473\" or \"[::1]:9473\"\n\
         command line: interfaces.0: found \"\", expected the name of an interface, or a glob"
    );
}

#[test]
fn check_prints_what_a_file_resolves_to() {
    let contents = "interfaces = 'lo'\n[[api]]\nname = 'orders'\nports = [8080, '9000-9010']\n\
                    [[api]]\nname = 'dns'\nports = [53]\ntransport = ['udp', 'tcp']\nrole = 'client'\naddress = '::1'\nexpect = ['tls', 'dns']";
    let checked = check(contents, NONE, &[]);
    let expected = "\
file        FILE
listen      0.0.0.0:9473
http        in the clear, for everybody
interfaces  lo (lo)
attach      auto
pin_path    one for this network namespace
persist     false
watch       true
flows       at most 262144, forgotten 1m after the last packet
            told in parts of 15m if they go on for longer
clients     at most 20 of each API
anomalies   all kinds
guard       no rules: everything passes
blocks      at most 10000, kept over a restart in /var/lib/tidewaiter/blocks.json
            by command at /run/tidewaiter/control.sock, by alert of whom the label client names for 10m
otlp        nothing is sent: no endpoint for a signal that is enabled
audit       no audit log: no audit.file
log         info, as text
api         orders: server, tcp 8080,9000-9010 at any address
api         dns: client, tcp,udp 53 at ::1, expects tls,dns
";
    assert_eq!((checked.code, without_hash(&checked.stdout), checked.stderr.as_str()), (Some(0), expected, ""));
}

/// What is said before the hash, which comes last.
#[track_caller]
fn without_hash(stdout: &str) -> &str {
    let (before, hash) = stdout.rsplit_once("hash        ").unwrap();
    assert!(hash.len() == 65 && hash.trim_end().bytes().all(|byte| byte.is_ascii_hexdigit()), "{stdout}");
    before
}

#[test]
fn the_environment_comes_between_the_file_and_the_command_line() {
    let contents = "listen = '1.1.1.1:1'\ninterfaces = 'eth*'\n[discovery]\nlimit = 3\ninterval = '3s'\n\
                    [log]\nlevel = 'error'\nformat = 'json'";
    let variables = [
        ("TIDEWAITER_LISTEN", "2.2.2.2:2"),
        ("TIDEWAITER_INTERFACES", "[lo]"),
        ("TIDEWAITER_DISCOVERY__LIMIT", "5"),
        ("TIDEWAITER_DISCOVERY__FORGET_AFTER", "7m"),
        ("TIDEWAITER_LOG__LEVEL", "warn"),
        ("TIDEWAITER_PERSIST", "true"),
        ("TIDEWAITER_FLOWS__CAPACITY", "4096"),
    ];
    let lines = |arguments: &[&str]| {
        let checked = check(contents, &variables, arguments);
        assert_eq!(checked.code, Some(0), "{checked:?}");
        without_hash(&checked.stdout).to_owned()
    };
    let expected = "\
file        FILE
listen      2.2.2.2:2
http        in the clear, for everybody
interfaces  lo (lo)
attach      auto
pin_path    one for this network namespace
persist     true
watch       true
flows       at most 4096, forgotten 1m after the last packet
            told in parts of 15m if they go on for longer
clients     at most 20 of each API
anomalies   all kinds
guard       no rules: everything passes
blocks      at most 10000, kept over a restart in /var/lib/tidewaiter/blocks.json
            by command at /run/tidewaiter/control.sock, by alert of whom the label client names for 10m
otlp        nothing is sent: no endpoint for a signal that is enabled
audit       no audit log: no audit.file
log         warn, as json
apis        the listening sockets, at most 5, every 3s, forgotten after 7m
";
    assert_eq!(lines(&[]), expected);
    assert_eq!(
        lines(&["--listen", "3.3.3.3:3", "--log-level", "trace"]),
        expected.replace("2.2.2.2:2", "3.3.3.3:3").replace("warn", "trace")
    );
}

#[test]
fn the_file_may_be_named_in_the_environment() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("tidewaiter.toml");
    fs::write(&path, "color = 1").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidewaiter"));
    let Output { status, stderr, .. } =
        command.env_clear().env("TIDEWAITER_CONFIG", &path).arg("check").output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), BAD_CONFIGURATION, "{stderr}");
    assert!(stderr.starts_with(&format!("tidewaiter: {}:1: color: unknown key", path.display())), "{stderr}");
}

#[test]
fn mistakes_in_the_environment_are_told_with_their_variable() {
    for (name, value, expected) in [
        ("TIDEWAITER_DISCOVERY__LIMIT", "0", "discovery.limit: found 0, expected 1 to 512"),
        (
            "TIDEWAITER_LISTEN",
            "x",
            r#"listen: found "x", expected an address and a port such as "0.0.0.0:9473" or "[::1]:9473""#,
        ),
        ("TIDEWAITER_LISTEN", "5", "listen: found 5, expected a string"),
        ("TIDEWAITER_ATTACH", "xdp", r#"attach: found "xdp", expected one of "auto", "tcx", "clsact""#),
        (
            "TIDEWAITER_INTERFACES",
            r#"[lo, ""]"#,
            r#"interfaces.1: found "", expected the name of an interface, or a glob"#,
        ),
        ("TIDEWAITER_INTERFACES", "[]", "interfaces: found an empty list, expected at least one name or glob"),
        ("TIDEWAITER_DISCOVERY", "x", r#"discovery: found "x", expected a table"#),
        ("TIDEWAITER_LOG", "debug", r#"log: found "debug", expected a table"#),
        ("TIDEWAITER_LOG__FILE", "x", r#"log.file: unknown key, expected one of "level", "format""#),
        (
            "TIDEWAITER_API",
            "[{name=a, ports=[0]}]",
            r#"api.0.ports.0: found 0, expected a port from 1 to 65535, or a range such as "9000-9010""#,
        ),
        (
            "TIDEWAITER_COLOR",
            "1",
            r#"color: unknown key, expected one of "listen", "web_config", "api_token_file", "interfaces", "attach", "pin_path", "persist", "watch", "flows", "discovery", "guard", "anomalies", "otlp", "audit", "log", "api", "rule", "response""#,
        ),
    ] {
        for contents in ["", EXAMPLE] {
            let checked = check(contents, &[(name, value)], &[]);
            let expected = format!("tidewaiter: environment variable {name}: {expected}\n");
            assert_eq!((checked.code, checked.stderr), (BAD_CONFIGURATION, expected), "{name}={value}\n{contents}");
        }
    }
}

#[test]
fn exit_codes_tell_a_bad_configuration_from_a_bad_command_line() {
    let bad_file = check("listen = 5", NONE, &[]);
    assert_eq!(
        (bad_file.code, bad_file.stderr.as_str()),
        (BAD_CONFIGURATION, "tidewaiter: FILE:1: listen: found 5, expected a string\n")
    );

    for (contents, arguments, place) in [
        ("", &["--interface", "lo", "--interface", "nosuch0"][..], "command line: interfaces.1"),
        ("interfaces = [\n'lo',\n'nosuch0']", &[], "FILE:3: interfaces.1"),
    ] {
        let no_interface = check(contents, NONE, arguments);
        assert_eq!(no_interface.code, BAD_CONFIGURATION, "{no_interface:?}");
        let expected =
            format!("tidewaiter: {place}: found \"nosuch0\", which matches no interface, expected some of lo");
        assert!(no_interface.stderr.starts_with(&expected), "{no_interface:?}");
    }

    for arguments in [&["--bogus"][..], &["--log-level", "loud"], &["--listen"], &["second-file"]] {
        let bad_command_line = check("", NONE, arguments);
        assert_eq!((bad_command_line.code, bad_command_line.stdout.as_str()), (Some(2), ""), "{bad_command_line:?}");
        assert!(bad_command_line.stderr.contains(arguments[0]), "{bad_command_line:?}");
    }
}

#[test]
fn thresholds_of_anomalies_are_what_the_file_says_and_else_the_defaults() {
    let Configuration { anomalies, .. } = load(
        "[anomalies.land]\nenabled = false\n[anomalies.port_scan]\nports = 30\n\
         [anomalies.unexpected_protocol]\nexpected = [\"tcp\", \"gre\", 253]\n[anomalies.syn_flood]\nwindow = \"2s\"",
    );
    let mut expected = Thresholds { expected_protocols: vec![6, 47, 253], ..Thresholds::default() };
    expected.enabled.retain(|kind| kind.as_str() != "land");
    expected.port_scan.ports = 30;
    expected.syn_flood.window = Duration::from_secs(2);
    assert_eq!(anomalies, expected);
}

#[test]
fn thresholds_that_cannot_be_are_told_with_what_can() {
    for (contents, complaint) in [
        ("[anomalies.port_scan]\nports = 1", "FILE:2: anomalies.port_scan.ports: found 1, expected 2 to 512"),
        (
            "[anomalies.port_scan]\naddresses = 129",
            "FILE:2: anomalies.port_scan.addresses: found 129, expected 2 to 128",
        ),
        (
            "[anomalies.icmp_flood]\nwindow = \"100ms\"",
            r#"FILE:2: anomalies.icmp_flood.window: found "100ms", expected "1s" to "1h""#,
        ),
        (
            "[anomalies.syn_flood]\ncompleted_percent = 101",
            "FILE:2: anomalies.syn_flood.completed_percent: found 101, expected 0 to 100",
        ),
        (
            "[anomalies.amplification]\nratio = -1",
            "FILE:2: anomalies.amplification.ratio: found -1, expected 2 to 10000",
        ),
        (
            "[anomalies.unexpected_protocol]\nexpected = [\"udp\"]",
            "FILE:2: anomalies.unexpected_protocol.expected: expected \"tcp\" among them: this exporter is asked over it",
        ),
        ("[anomalies.land]\nports = 3", r#"FILE:2: anomalies.land.ports: unknown key, expected one of "enabled""#),
    ] {
        assert_eq!(problems(contents), complaint);
    }
    for protocol in ["\"tpc\"", "256"] {
        let told = problems(format!("[anomalies.unexpected_protocol]\nexpected = [{protocol}]"));
        assert!(told.contains("expected a number from 0 to 255, or one of \"icmp\", \"igmp\""), "{told}");
    }
}
