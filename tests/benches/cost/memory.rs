//! Memory of the daemon, while a million connections pass it.
//!
//! Each has ten packets, the last of them a reset, and comes from another client; they come as fast as the other end of the wire
//! can make them, or at a tenth of that. The daemon has the default table, and one with room for all of them.

use std::{thread::sleep, time::Duration};

use tidewaiter_common::direction::Direction;
use tidewaiter_tests::{
    exporter::Exporter,
    measure::{PROFILE, goal, memory, seconds},
    network::INTERFACE,
};

use crate::live;

const CONNECTIONS: u32 = 1_000_000;
/// Packets of each.
const EACH: u32 = 10;
const GOAL: f64 = 64.0;
/// By then all that is over was finished, also what the ring had no room for.
const REST: Duration = Duration::from_secs(20);

pub(crate) fn print() {
    println!(
        "{CONNECTIONS} connections of as many clients pass the daemon ({PROFILE} build); VmRSS, and VmHWM, in MiB"
    );
    for (what, flows) in [("the default", ""), ("1048576", "capacity = 1048576")] {
        let network = live::wire();
        let exporter = live::start(&network, &live::configuration(10, flows));
        println!("capacity {what}");
        line("at the start", &exporter);
        let sent = seconds(|| live::send(&network, true, CONNECTIONS, EACH, Duration::ZERO));
        line(&format!("all sent, {:.0} connections/s", f64::from(CONNECTIONS) / sent), &exporter);
        sleep(REST);
        let _scraped = exporter.text("/metrics", &[]);
        line("all over, and scraped", &exporter);
        let metrics = exporter.metrics();
        let labels = [("api", "api-0"), ("role", "server")];
        let count = |name: &str| metrics.get(&format!("tidewaiter_{name}"), &labels).unwrap_or_default();
        println!(
            "  counted: {} packets, {} connections opened, {} packets untracked",
            metrics.interface(INTERFACE, Direction::Receive).packets,
            count("api_connections_opened_total"),
            count("api_untracked_packets_total"),
        );
        goal("  at most", memory(exporter.pid(), "VmHWM"), GOAL, "MiB");
    }
}

fn line(what: &str, exporter: &Exporter<'_>) {
    let [now, most, own, files] = ["VmRSS", "VmHWM", "RssAnon", "RssFile"].map(|line| memory(exporter.pid(), line));
    println!(
        "  {what:<40}{now:>8.1}{most:>8.1}   ({own:.1} its own, {files:.1} of files and of the rings it shares with the kernel)"
    );
}
