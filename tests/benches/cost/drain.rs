//! Flows that are over: how long it takes to have a million of them finished by the kernel, and taken in here.
//!
//! A million connections of as many clients are opened and closed, and let rest; then they are looked for in the table, as the
//! daemon does each second for those whose end found no room in the ring; or taken from the ring, as it does ten times a second.
//! Once nothing is done with what the kernel tells, and once the tracker has it: the difference is what that costs.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use tidewaiter::{accounting::Accounting, kernel::FlowTable, tracker::FlowTracker};
use tidewaiter_tests::{
    connections::Connections,
    measure::{PROFILE, goal, seconds},
};

use crate::subject::{CLIENT_PORT, CLIENT4, PORT, SERVER4, apis, subject};

const FLOWS: u32 = 1_000_000;
/// Room for all of them.
const CAPACITY: u32 = 1 << 20;
/// How long flows rest after their end before they are looked at, and a little.
const REST: Duration = Duration::from_millis(1_200);
/// Names that clients may have: the default.
const NAMES: usize = 20;
/// For how long a drain may go on, as in the daemon.
const SLICE: Duration = Duration::from_millis(5);
const GOAL: f64 = 2.0;

/// Flows that end between two looks at the ring, fewer than there is room for; how many such looks there are before they have
/// rested; and how often they rest.
const LOOK: u32 = 30_000;
const LOOKS: usize = 4;
const RESTS: usize = 3;

pub(crate) fn print() {
    println!("{FLOWS} finished flows of as many clients ({PROFILE} build)");
    let read = swept(None);
    line("by looking through the table, and doing nothing with them", FLOWS, read);
    let tracked = swept(Some(NAMES));
    line("by looking through the table, and taking them in", FLOWS, tracked);
    let each = 1e9 / f64::from(FLOWS);
    println!(
        "of that {:.0} ns a flow in the kernel and to read it, {:.0} ns to take it in",
        read * each,
        (tracked - read) * each
    );
    let (flows, took) = drained();
    line("as the ring tells of their end, and taking them in", flows, took);
    goal("a million by looking through the table", tracked, GOAL, "s");
    goal("a million as the ring tells", took * f64::from(FLOWS) / f64::from(flows), GOAL, "s");
}

fn line(what: &str, flows: u32, seconds: f64) {
    let flows = f64::from(flows);
    println!("{what:<78}{:>6.2} s{:>12.0} flows/s{:>8.0} ns a flow", seconds, flows / seconds, seconds / flows * 1e9);
}

/// A table full of finished flows.
fn filled(names: Option<usize>) -> Accounting {
    let mut accounting = subject(CAPACITY, &apis(1));
    if let Some(names) = names {
        accounting.follow_flows(FlowTracker::new(names, Instant::now())).expect("can be read");
    }
    let some = Connections::new(accounting.kernel(), (CLIENT4, CLIENT_PORT), (SERVER4, PORT));
    some.open(0, FLOWS);
    some.close(0, FLOWS);
    accounting
}

fn established(accounting: &mut Accounting) -> u32 {
    let flows = accounting.kernel().all_flows(FlowTable::Established).expect("can be read");
    flows.len().try_into().expect("is bounded")
}

/// How long it takes to look through the table, in seconds.
fn swept(names: Option<usize>) -> f64 {
    let mut accounting = filled(names);
    assert_eq!(established(&mut accounting), FLOWS);
    sleep(REST);
    // Each looks at a sixteenth.
    let took =
        seconds(|| (0..16).for_each(|_| while accounting.sweep_flows(Instant::now() + SLICE).expect("can be read") {}));
    let left = established(&mut accounting);
    if left > 0 {
        println!("({left} flows were left)");
    }
    took
}

/// How many flows the ring told of, and how long it took to deal with them, in seconds: without the time for which they rest.
fn drained() -> (u32, f64) {
    let mut accounting = subject(CAPACITY, &apis(1));
    accounting.follow_flows(FlowTracker::new(NAMES, Instant::now())).expect("can be read");
    let some = Connections::new(accounting.kernel(), (CLIENT4, CLIENT_PORT), (SERVER4, PORT));
    let (mut first, mut took) = (0, 0.0);
    for _ in 0..RESTS {
        for _ in 0..LOOKS {
            some.open(first, LOOK);
            some.close(first, LOOK);
            first += LOOK;
            took += seconds(|| drain(&mut accounting));
        }
        sleep(REST);
        took += seconds(|| drain(&mut accounting));
    }
    let left = established(&mut accounting);
    (first - left, took)
}

fn drain(accounting: &mut Accounting) {
    while accounting.drain_flows(Instant::now() + SLICE).expect("can be read") {}
}
