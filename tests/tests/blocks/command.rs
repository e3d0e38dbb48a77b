//! Blocking by hand.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use rustix::process::Signal;
use serde_json::Value;
use tidewaiter_tests::{exporter::binary, network::Network, wait::wait_until};

use crate::Host;

fn who_is_blocked_is_not_let_in(attach: &str) {
    let host = Host::new();
    let _exporter = host.start(&format!("attach = \"{attach}\""), "");
    assert!(Network::SERVERS.iter().all(|server| host.gets_through(*server)));
    assert_eq!(host.done(&["blocks"]).lines().count(), 1, "a head alone");

    let said = host.done(&["block", "10.77.0.2", "--for", "1h", "--reason", "too loud"]);
    assert!(said.starts_with("10.77.0.2/32 is blocked until "), "{said}");
    assert!(!host.gets_through(Network::SERVER4));
    assert!(host.gets_through(Network::SERVER6), "nobody has blocked that");
    host.done(&["block", "fd77::/64"]);
    assert!(!host.gets_through(Network::SERVER6));
    let listed = host.done(&["blocks"]);
    assert!(listed.contains("too loud") && listed.contains("command_line") && listed.contains("fd77::/64"), "{listed}");

    host.done(&["unblock", "10.77.0.2"]);
    assert!(host.gets_through(Network::SERVER4));
    assert!(!host.gets_through(Network::SERVER6));
    assert!(host.refused(&["unblock", "10.77.0.2"]).contains("10.77.0.2/32 is not blocked"));
    host.done(&["unblock", "fd77::/64"]);
    assert!(host.gets_through(Network::SERVER6));
}

#[test]
fn who_is_blocked_is_not_let_in_by_xdp() {
    who_is_blocked_is_not_let_in("xdp");
}

#[test]
fn who_is_blocked_is_not_let_in_by_tc() {
    who_is_blocked_is_not_let_in("tc");
}

#[test]
fn what_is_only_observed_passes() {
    let host = Host::new();
    let _exporter = host.start("mode = \"observe\"", "");
    host.done(&["block", "10.77.0.2"]);
    assert!(host.gets_through(Network::SERVER4));
}

#[test]
fn what_is_protected_and_how_many_there_can_be_change_with_the_configuration() {
    let host = Host::new();
    let exporter = host.start("", "");
    host.done(&["block", "192.0.2.1"]);
    let response = "[[response]]\non = \"port_scan\"\nblock_for = \"1m\"\n";
    exporter.configure(&host.configuration("protect = \"198.51.100.0/24\"\nmax_blocks = 3", response));
    wait_until("what is protected now to be refused", || {
        !host.run(&["block", "198.51.100.7", "--for", "1s"]).status.success()
    });
    assert!(host.refused(&["block", "198.51.100.7"]).contains("198.51.100.0/24"));
    wait_until("what was not protected before to be let in again", || host.blocked() == ["192.0.2.1/32"]);
    host.done(&["block", "192.0.2.2"]);
    host.done(&["block", "192.0.2.3"]);
    assert!(!host.run(&["block", "192.0.2.4"]).status.success(), "there is room for three");
}

#[test]
fn a_block_ends_by_itself() {
    let host = Host::new();
    let exporter = host.start("", "");
    host.done(&["block", "10.77.0.2", "--for", "2s"]);
    host.done(&["block", "192.0.2.0/24", "--for", "1h"]);
    wait_until("it to be over", || host.gets_through(Network::SERVER4));
    wait_until("it to be forgotten", || host.blocked() == ["192.0.2.0/24"]);
    wait_until("it to be logged", || exporter.log().contains("why=\"expiry\""));
}

#[test]
fn a_restart_keeps_them() {
    let host = Host::new();
    for signal in [Signal::TERM, Signal::KILL] {
        let mut exporter = host.start("", "");
        host.done(&["block", "10.77.0.2", "--for", "1h"]);
        host.done(&["block", "192.0.2.1", "--for", "1h"]);
        exporter.end(signal);
        drop(exporter);
        let exporter = host.start("", "");
        assert!(!host.gets_through(Network::SERVER4), "{signal:?}");
        assert_eq!(host.blocked(), ["10.77.0.2/32", "192.0.2.1/32"]);
        host.done(&["unblock", "10.77.0.2"]);
        assert!(host.gets_through(Network::SERVER4));
        drop(exporter);
    }
    assert_eq!(fs::metadata(host.state()).unwrap().permissions().mode() & 0o777, 0o600);
    // What is no state is put aside, and stops nobody.
    fs::write(host.state(), "{").unwrap();
    let exporter = host.start("", "");
    assert_eq!(host.blocked(), [""; 0]);
    assert!(exporter.log().contains("is no file of blocks"), "{}", exporter.log());
}

/// The lines of the audit log that are called `event`, each with its place.
fn told(audit: &Path, event: &str) -> Vec<(usize, Value)> {
    let text = fs::read_to_string(audit).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok()).enumerate();
    lines.filter(|(_, line): &(usize, Value)| line["event"] == event).collect()
}

#[test]
fn what_a_restart_ends_is_told_after_the_start() {
    let host = Host::new();
    let audit = host.folder.path().join("audit.jsonl");
    let more = format!("[audit]\nfile = {audit:?}");
    let mut exporter = host.start("", &more);
    for network in ["10.77.0.2", "192.0.2.1", "203.0.113.7"] {
        host.done(&["block", network, "--for", "1h"]);
    }
    assert!(exporter.end(Signal::TERM).success());
    drop(exporter);
    let mut state: Value = serde_json::from_str(&fs::read_to_string(host.state()).unwrap()).unwrap();
    state["blocks"][1]["until"] = "2020-01-01T00:00:00Z".into();
    fs::write(host.state(), state.to_string()).unwrap();
    let _exporter = host.start("protect = \"203.0.113.0/24\"", &more);
    assert_eq!(host.blocked(), ["10.77.0.2/32"]);
    let event = "tidewaiter.block.removed";
    wait_until("both to be told", || told(&audit, event).len() == 2);
    let started = told(&audit, "tidewaiter.started")[1].0;
    let fields = told(&audit, event).into_iter().map(|(place, line)| {
        assert!(place > started, "{line}");
        ["network", "by", "reason"].map(|field| line[field].as_str().unwrap_or_default().to_owned())
    });
    let expected = [["192.0.2.1/32", "expiry", ""], ["203.0.113.7/32", "restart", "protected"]];
    assert_eq!(fields.collect::<Vec<_>>(), expected);
}

#[test]
fn what_the_kernel_blocks_stays_where_the_file_cannot_be_read() {
    let host = Host::new();
    let mut exporter = host.start("", "");
    for network in ["10.77.0.2", "192.0.2.0/24", "2001:db8::/32"] {
        host.done(&["block", network, "--for", "1h"]);
    }
    exporter.end(Signal::KILL);
    drop(exporter);
    fs::remove_file(host.state()).unwrap();
    fs::create_dir(host.state()).unwrap();
    let exporter = host.start("", "");
    assert_eq!(host.blocked(), ["10.77.0.2/32", "192.0.2.0/24", "2001:db8::/32"]);
    assert!(!host.gets_through(Network::SERVER4));
    let rows: Value = serde_json::from_str(&host.done(&["blocks", "--format", "json"])).unwrap();
    assert_eq!(rows[0]["by"], "unknown", "{rows}");
    host.done(&["unblock", "10.77.0.2"]);
    assert!(host.gets_through(Network::SERVER4));
    assert!(host.state().is_dir(), "nothing is written over it");
    assert!(exporter.log().contains("the blocks of before are not known"), "{}", exporter.log());
}

#[test]
fn who_is_unblocked_within_a_larger_block_is_told_so_and_no_news_is_no_event() {
    let host = Host::new();
    let audit = host.folder.path().join("audit.jsonl");
    let exporter = host.start("max_blocks = 2", &format!("[audit]\nfile = {audit:?}"));
    host.done(&["block", "10.77.0.0/16", "--for", "1h", "--reason", "first"]);
    host.done(&["block", "10.77.0.2", "--for", "1h"]);
    host.done(&["block", "10.77.0.0/16", "--for", "1m", "--reason", "second"]);
    assert!(host.refused(&["block", "192.0.2.1"]).contains("there are 2 blocks already"));
    let refused = |reason| exporter.metrics().get("tidewaiter_blocks_refused_total", &[("reason", reason)]);
    assert_eq!((refused("capacity"), refused("kernel")), (Some(1), Some(0)));
    let metrics = exporter.metrics();
    let entries =
        ["tidewaiter_map_entries", "tidewaiter_map_capacity"].map(|name| metrics.get(name, &[("map", "blocks")]));
    assert_eq!(entries, [Some(2), Some(2)]);
    let said = host.done(&["unblock", "10.77.0.2"]);
    assert!(said.contains("but 10.77.0.0/16 is"), "{said}");
    assert!(!host.gets_through(Network::SERVER4));
    let said = host.refused(&["unblock", "10.77.0.2"]);
    assert!(said.contains("10.77.0.2/32 is not blocked by itself, but 10.77.0.0/16 is"), "{said}");
    wait_until("the end to be told", || told(&audit, "tidewaiter.block.removed").len() == 1);
    let added: Vec<_> = told(&audit, "tidewaiter.block.added").into_iter().map(|(_, line)| line).collect();
    assert_eq!(added.len(), 2, "{added:?}");
    assert_eq!(added[0]["reason"], "first");
    // What was blocked once has its series for good.
    host.done(&["unblock", "10.77.0.0/16"]);
    let labels = [("api", "orders"), ("rule", "block"), ("verdict", "drop")];
    assert!(exporter.metrics().get("tidewaiter_guard_packets_total", &labels) >= Some(1));
}

#[test]
fn the_last_seconds_are_told_before_the_end() {
    let host = Host::new();
    let audit = host.folder.path().join("audit.jsonl");
    let rule = "[[rule]]\nname = \"all\"\naction = \"drop\"\n";
    let mut exporter = host.start("", &format!("{rule}[audit]\nfile = {audit:?}"));
    let labels = [("api", "orders"), ("rule", "all"), ("verdict", "would_drop")];
    assert!(host.gets_through(Network::SERVER4), "it only observes");
    let counted = exporter.metrics().get("tidewaiter_guard_packets_total", &labels);
    assert!(counted >= Some(1), "{counted:?}");
    assert!(exporter.end(Signal::TERM).success());
    let stopped = told(&audit, "tidewaiter.stopped")[0].0;
    let hits = told(&audit, "tidewaiter.rule.hits");
    assert!(hits.iter().all(|(place, _)| *place < stopped), "{hits:?}");
    let told = hits.iter().filter(|(_, line)| line["api"] == "orders").filter_map(|(_, line)| line["packets"].as_u64());
    assert!(Some(told.sum::<u64>()) >= counted, "{hits:?}");
}

#[test]
fn what_cannot_be_blocked_is_refused() {
    let host = Host::new();
    let _exporter = host.start("max_blocks = 2\nprotect = [\"198.51.100.0/24\"]", "");
    for (arguments, why) in [
        (&["block", "198.51.0.0/16"][..], "198.51.100.0/24 is always let in"),
        (&["block", "10.0.0.0/7"], "expected a prefix of 8 bits or more"),
        (&["block", "203.0.113.7/24"], "203.0.113.0/24"),
        (&["block", "somebody"], "somebody"),
        (&["block", "192.0.2.1", "--for", "soon"], "expected a span of time"),
        (&["block", "192.0.2.1", "--for", "0s"], "expected 1s to"),
        (&["block", "192.0.2.1", "--reason", "a\nb"], "cannot be seen"),
        (&["block", "192.0.2.1", "--reason", "a\u{202e}b"], "cannot be seen"),
    ] {
        let said = host.refused(arguments);
        assert!(said.contains(why), "{arguments:?}: {said}");
    }
    host.done(&["block", "192.0.2.1"]);
    host.done(&["block", "192.0.2.2"]);
    assert!(host.refused(&["block", "192.0.2.3"]).contains("there are 2 blocks already"));
    host.done(&["block", "192.0.2.2", "--for", "1h"]);
    assert_eq!(host.blocked(), ["192.0.2.1/32", "192.0.2.2/32"]);
}

#[test]
fn nobody_else_is_let_in_at_the_socket() {
    let host = Host::new();
    let exporter = host.start("", "");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&host.socket()), mode(host.socket().parent().unwrap())), (0o600, 0o700));
    // Nobody can get at the program where it was built.
    let program = host.folder.path().join("tidewaiter");
    fs::copy(binary(), &program).unwrap();
    let ask = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        command.args(["block", "192.0.2.1", "--socket"]).arg(host.socket()).output().unwrap()
    };
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    open(host.folder.path(), 0o755);
    let said = ask();
    assert!(String::from_utf8_lossy(&said.stderr).contains("Permission denied"), "{said:?}");
    // Even if somebody has opened it.
    open(host.socket().parent().unwrap(), 0o755);
    open(&host.socket(), 0o666);
    let said = ask();
    assert_eq!(said.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&said.stderr).contains("does not answer"), "{said:?}");
    assert_eq!(host.blocked(), [""; 0]);
    drop(exporter);
    assert!(!host.socket().exists());
}
