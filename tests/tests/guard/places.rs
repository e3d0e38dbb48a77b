//! The guard moves from one place to another while packets arrive.

use std::{process::Command, sync::Arc};

use rustix::process::Signal;
use tidewaiter_tests::{
    bpf_file_system::BpfFileSystem, command::output, exporter::Exporter, network::INTERFACE, wait::wait_until,
};

use crate::restart::{Stream, configuration, network};

#[test]
fn no_packet_is_judged_in_two_places() {
    let network = network();
    let bpf = Arc::new(BpfFileSystem::mount());
    let mut exporter = Exporter::start_after(&bpf, &network.server, &configuration("tc", "60s"), &[]);
    let stream = Stream::default();
    stream.under(&network, || {
        for (generation, place) in (2..).zip(["xdp", "tc", "auto", "tc", "xdp"]) {
            stream.go_on(50);
            exporter.configure(&configuration(place, "60s"));
            exporter.signal(Signal::HUP);
            wait_until("the other place", || {
                exporter.metrics().get("tidewaiter_config_generation", &[]) == Some(generation)
            });
        }
        stream.go_on(50);
    });
    let judged = ["pass", "drop", "reject"].map(|verdict| {
        let labels = [("interface", INTERFACE), ("direction", "receive"), ("verdict", verdict)];
        exporter.metrics().get("tidewaiter_interface_guard_packets_total", &labels).unwrap_or_default()
    });
    let mut read = Command::new("ip");
    read.args(["netns", "exec", network.client.name(), "cat"]);
    read.arg(format!("/sys/class/net/{INTERFACE}/statistics/tx_packets"));
    let sent: u64 = output(&mut read).trim().parse().unwrap();
    let judged: u64 = judged.iter().sum();
    assert!(judged > 0 && judged <= sent, "{judged} of {sent}");
    // Those who may come have come all the while.
    let (sent, come) = (stream.sent()[1], stream.come()[1]);
    assert!(sent - come < 10, "{come} of {sent}");
    exporter.metrics().assert_the_sums_prove_it();
    exporter.end(Signal::TERM);
}
