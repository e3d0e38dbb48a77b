//! Blocking by hand.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use rustix::process::Signal;
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
    assert!(exporter.log().contains("why=\"expiry\""), "{}", exporter.log());
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
        (&["block", "192.0.2.1", "--reason", "a\nb"], "control characters"),
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
