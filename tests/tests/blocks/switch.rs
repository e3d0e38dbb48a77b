//! Switching the guard off and on.

use std::fs;

use rustix::process::Signal;
use tidewaiter_tests::{network::Network, wait::wait_until};

use crate::Host;

const RULE: &str = "[[rule]]\nname = \"closed\"\napi = \"orders\"\naction = \"drop\"\nmode = \"enforce\"\n";

#[test]
fn off_works_at_once_though_the_exporter_hangs_and_the_configuration_is_broken() {
    let host = Host::new();
    let mut exporter = host.start("", RULE);
    host.done(&["block", "fd77::2"]);
    assert!(!host.gets_through(Network::SERVER4) && !host.gets_through(Network::SERVER6));
    assert_eq!(host.done(&["guard", "status"]), "the guard is on\n");

    exporter.signal(Signal::STOP);
    let broken = host.folder.path().join("broken.toml");
    fs::write(&broken, "interfaces = [[\n").unwrap();
    let said = host.done(&["guard", "off", "--config", broken.to_str().unwrap()]);
    assert!(said.contains("the guard is off: written to the kernel at "), "{said}");
    assert!(host.gets_through(Network::SERVER4) && host.gets_through(Network::SERVER6));
    assert_eq!(host.done(&["guard", "status"]), "the guard is off: everything passes\n");

    exporter.signal(Signal::CONT);
    wait_until("the exporter to notice", || exporter.log().contains("the guard was switched off"));
    exporter.end(Signal::KILL);
    drop(exporter);
    let exporter = host.start("", RULE);
    assert!(exporter.log().contains("the guard is switched off"), "{}", exporter.log());
    assert!(host.gets_through(Network::SERVER4), "a restart does not switch it on");
    host.done(&["guard", "on"]);
    assert!(!host.gets_through(Network::SERVER4) && !host.gets_through(Network::SERVER6));
    wait_until("the exporter to notice", || exporter.log().contains("the guard was switched on"));
}

#[test]
fn without_pins_the_exporter_is_asked() {
    let host = Host::new();
    let _exporter = host.start("", RULE);
    assert!(!host.gets_through(Network::SERVER4));
    let elsewhere = host.folder.path().join("nothing").display().to_string();
    let said = host.done(&["guard", "off", "--pin-path", &elsewhere]);
    assert!(said.contains("nothing is pinned at ") && said.contains("says that the guard is off"), "{said}");
    assert!(host.gets_through(Network::SERVER4));
    let nobody = host.folder.path().join("nobody").display().to_string();
    let output = host.run(&["guard", "on", "--pin-path", &elsewhere, "--socket", &nobody]);
    assert_eq!(output.status.code(), Some(1));
    assert!(host.gets_through(Network::SERVER4));
}
