//! Blocks and responses in a configuration: what each mistake is told as.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests panic for a stack trace")]

mod check;

use self::check::{NONE, check};

const API: &str = "[[api]]\nname = \"orders\"\nports = [8080]\n";

/// Sees that `contents` are refused, with a line that has `expected` in it.
fn refuses(contents: &str, expected: &str) {
    let checked = check(&format!("interfaces = [\"lo\"]\n{contents}"), NONE, &[]);
    assert_eq!(checked.code, Some(78), "{contents}: {checked:?}");
    assert!(checked.stderr.contains(expected), "{contents}: {}", checked.stderr);
}

#[test]
fn what_is_right_is_taken() {
    let contents = format!(
        "interfaces = [\"lo\"]\n[guard]\nmax_blocks = 65536\nstate = \"/tmp/a\"\nsocket = \"/tmp/b\"\nalert_label = \"source\"\n\
         alert_block_for = \"1h\"\n{API}[[response]]\non = [\"port_scan\", \"icmp_flood\"]\nblock_for = \"10m\"\n\
         api = [\"orders\", \"unmapped\"]\nipv4_prefix = 24\nipv6_prefix = 48\n"
    );
    let checked = check(&contents, NONE, &[]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.stdout.contains("orders"), "{checked:?}");
}

#[test]
fn mistakes_are_told() {
    for (line, expected) in [
        ("max_blocks = 0", "guard.max_blocks: found 0, expected 1 to 65536"),
        ("max_blocks = 65537", "guard.max_blocks: found 65537"),
        ("state = \"blocks.json\"", "guard.state: found \"blocks.json\", expected an absolute path"),
        ("socket = \"/\"", "guard.socket: found \"/\", expected an absolute path"),
        ("alert_label = \"\"", "guard.alert_label: expected a name"),
        ("alert_block_for = \"0s\"", "guard.alert_block_for: found \"0s\", expected \"1s\" to"),
    ] {
        refuses(&format!("[guard]\n{line}\n"), expected);
    }
    for (lines, expected) in [
        ("on = \"port_scan\"", "block_for"),
        ("on = []\nblock_for = \"1m\"", "response.0.on: found an empty list"),
        ("on = \"rain\"\nblock_for = \"1m\"", "expected the name of an anomaly"),
        ("on = \"land\"\nblock_for = \"1m\"", "response.0.on: found \"land\""),
        ("on = \"port_scan\"\nblock_for = \"2years\"", "response.0.block_for: found \"2years\""),
        ("on = \"port_scan\"\nblock_for = \"1m\"\napi = \"other\"", "response.0.api: found \"other\", which is no API"),
        (
            "on = \"port_scan\"\nblock_for = \"1m\"\nipv4_prefix = 15",
            "response.0.ipv4_prefix: found 15, expected 16 to 32",
        ),
        (
            "on = \"port_scan\"\nblock_for = \"1m\"\nipv6_prefix = 129",
            "response.0.ipv6_prefix: found 129, expected 32 to 128",
        ),
        ("on = \"port_scan\"\nblock_for = \"1m\"\nmore = 1", "more"),
    ] {
        refuses(&format!("{API}[[response]]\n{lines}\n"), expected);
    }
}

#[test]
fn responses_that_could_never_be_are_refused() {
    let response = "[[response]]\non = [\"bad_tcp_flags\", \"port_scan\"]\nblock_for = \"1m\"\n";
    for (before, expected) in [
        ("[anomalies.port_scan]\nenabled = false\n", "response.0.on: found \"port_scan\", which is not looked for"),
        ("[flows]\ncapacity = 0\n", "response.0.on: found \"port_scan\", expected another while flows.capacity is 0"),
    ] {
        refuses(&format!("{before}{API}{response}"), expected);
    }
    let client = "role = \"client\"\n";
    refuses(
        &format!("{API}{client}{response}api = \"orders\"\n"),
        "response.0.api: found \"orders\", expected an API whose role is \"server\"",
    );
    let both = format!("interfaces = [\"lo\"]\n[anomalies.land]\nenabled = false\n{API}{response}api = \"orders\"\n");
    assert_eq!(check(&both, NONE, &[]).code, Some(0));
}
