//! What a scrape costs: CPU time and bytes, with few flows in the table and with many.
//!
//! In this process: `Accounting::snapshot`, then written in each format. The tables all have room for as many flows, and every
//! API has as many named clients as it may have. In the daemon: a whole request over loopback, by the CPU time of its process.

use std::{
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use tidewaiter::{accounting::Accounting, metrics::exposition::Format, tracker::FlowTracker};
use tidewaiter_tests::{
    connections::Connections,
    exporter::Exporter,
    measure::{PROFILE, cpu_milliseconds, goal, median, process_cpu_time},
};

use crate::{
    live,
    subject::{CLIENT_PORT, CLIENT4, PORT, SERVER4, apis, subject},
};

/// Flows in the table.
const FLOWS: [u32; 4] = [10, 1_000, 100_000, 1_000_000];
/// Room in it.
const CAPACITY: u32 = 1 << 20;
const APIS: [u16; 2] = [10, 100];
/// Names that clients of an API may have: the default.
const NAMES: u32 = 20;
const SCRAPES: usize = 31;
const FORMATS: [(&str, Format); 3] =
    [("classic", Format::ClassicText), ("OpenMetrics", Format::OpenMetrics), ("protobuf", Format::Protobuf)];
const GOAL: f64 = 10.0;
const GOAL_RATIO: f64 = 1.2;

pub(crate) fn print() {
    println!("median of {SCRAPES} interleaved scrapes ({PROFILE} build); {NAMES} named clients of each API");
    for count in APIS {
        let mut tables = FLOWS.map(|flows| table(count, flows));
        println!(
            "\n{:<34}{}",
            format!("{count} APIs, ms of CPU time"),
            FLOWS.map(|flows| format!("{flows:>9} flows")).join("")
        );
        let mut rounds: [[Vec<f64>; 4]; 4] = Default::default();
        let mut bytes = [[0; 4]; 4];
        for _ in 0..SCRAPES {
            for (at, accounting) in tables.iter_mut().enumerate() {
                let (time, snapshot) = cpu_milliseconds(|| Arc::new(accounting.snapshot()));
                rounds[0][at].push(time);
                for (format, (_, how)) in FORMATS.into_iter().enumerate() {
                    let (encoding, body) = cpu_milliseconds(|| how.encode(&snapshot).expect("can be written"));
                    rounds[format + 1][at].push(time + encoding);
                    bytes[format + 1][at] = body.len();
                }
            }
        }
        let whats = ["the snapshot alone"].into_iter().chain(FORMATS.map(|(name, _)| name));
        for ((what, rounds), bytes) in whats.zip(&rounds).zip(bytes) {
            let medians = rounds.each_ref().map(|round| median(round));
            let [few, .., many] = medians;
            println!(
                "{what:<34}{}   ratio {:.2} ({} {GOAL_RATIO}){}",
                medians.map(|time| format!("{time:>15.2}")).join(""),
                many / few,
                verdict(many / few),
                if bytes[3] > 0 { format!(", {} bytes", bytes[3]) } else { String::new() },
            );
        }
        let worst = rounds[1..].iter().map(|rounds| median(&rounds[3])).fold(0.0, f64::max);
        goal(format_args!("the dearest with {count} APIs and {} flows", FLOWS[3]), worst, GOAL, "ms");
    }
    daemon();
}

/// The same of the real daemon.
fn daemon() {
    println!("\nthe daemon, a request of /metrics in classic text, with 10 APIs:");
    let network = live::wire();
    let exporter = live::start(&network, &live::configuration(10, &format!("capacity = {CAPACITY}")));
    let few = requests(&exporter);
    live::send(&network, false, FLOWS[3], 8, Duration::ZERO);
    // It has looked at the whole table then.
    sleep(Duration::from_secs(18));
    let many = requests(&exporter);
    println!("ratio {:.2}, {} its goal of {GOAL_RATIO}", many / few, verdict(many / few));
}

fn verdict(ratio: f64) -> &'static str {
    if ratio < GOAL_RATIO { "within" } else { "OVER" }
}

/// Accounting of `apis` APIs, all of whose clients have names, and with `flows` in its table.
fn table(count: u16, flows: u32) -> Accounting {
    let mut accounting = subject(CAPACITY, &apis(count));
    accounting.follow_flows(FlowTracker::new(NAMES as usize, Instant::now())).expect("can be read");
    let port = |at: u16| (SERVER4, PORT + at);
    for at in 0..count {
        let some = Connections::new(accounting.kernel(), (CLIENT4, CLIENT_PORT), port(at));
        some.open(0, NAMES);
        some.close(0, NAMES);
    }
    sleep(Duration::from_millis(1_200));
    (0..16)
        .for_each(|_| while accounting.sweep_flows(Instant::now() + Duration::from_mins(1)).expect("can be read") {});
    for at in 0..count {
        let of_this = flows / u32::from(count) + u32::from(u32::from(at) < flows % u32::from(count));
        let some = Connections::new(accounting.kernel(), (CLIENT4, CLIENT_PORT + 1), port(at));
        some.open(0, of_this);
    }
    accounting
}

/// The median CPU time of the daemon for a request, in milliseconds.
fn requests(exporter: &Exporter<'_>) -> f64 {
    let mut times = Vec::new();
    let mut text = String::new();
    for _ in 0..SCRAPES {
        let before = process_cpu_time(exporter.pid());
        text = exporter.text("/metrics", &[]);
        times.push(process_cpu_time(exporter.pid()).saturating_sub(before).as_secs_f64() * 1e3);
        sleep(live::PAUSE);
    }
    let time = median(&times);
    let entries = text.lines().find_map(|line| line.strip_prefix("tidewaiter_map_entries{map=\"flows\"} "));
    goal(format_args!("{} flows in the table, {} bytes", entries.unwrap_or("?"), text.len()), time, GOAL, "ms");
    time
}
