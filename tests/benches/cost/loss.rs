//! Packets that are lost at full speed: what the exporter has counted beside what the device has, and what was sent.

use std::time::Duration;

use tidewaiter_common::direction::Direction;
use tidewaiter_tests::{
    accounting::{account, counted},
    bpf::Program,
    measure::{seconds, stay_on},
    network::{INTERFACE, Offload},
};

use crate::live;

const PACKETS: u32 = 4_000_000;
const TIMES: usize = 5;

pub(crate) fn print() {
    println!("{PACKETS} frames of 64 bytes over a veth pair, made by XDP, {TIMES} times");
    println!("{:>12}{:>12}{:>12}{:>12}", "packets/s", "the device", "ours", "lost");
    let network = live::wire();
    let mut accounting = account(&network.server, INTERFACE, 1024, Duration::MAX);
    let frame = live::datagram();
    let index = live::index(&network.client);
    let mut seen = 0;
    for _ in 0..TIMES {
        let before = network.kernel_counters();
        let took = network.client.run(|| {
            stay_on(1);
            let program = Program::redirect(index);
            seconds(|| program.run_live(&frame, PACKETS).expect("is run"))
        });
        network.wait_until_quiet();
        let device = (network.kernel_counters() - before).on_the_wire(Offload::Both).packets[0];
        let (_, _, interface) = counted(&mut accounting);
        let ours = interface.totals[Direction::Receive.index()].wire.packets;
        println!(
            "{:>12.0}{device:>12}{:>12}{:>12}",
            f64::from(PACKETS) / took,
            ours - seen,
            u64::from(PACKETS).abs_diff(ours - seen)
        );
        seen = ours;
    }
}
