//! What a packet costs: both programs beside one that does nothing, in the same run.
//!
//! `cargo bench` prints nanoseconds per packet, by `BPF_PROG_TEST_RUN`. In each round every program runs on every kind of
//! packet, so that whatever else the machine does hits all of them alike; a shared machine has slow spells that last longer
//! than a round, so each figure is that of the round which a tenth of all rounds are faster than.

#![allow(clippy::expect_used, reason = "a benchmark that cannot go on has failed, and says where")]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use tidewaiter::{
    accounting::Accounting,
    api::{Api, Role},
    config::AttachMode,
    interfaces::{Interface, LinkLayer},
    kernel::{FlowCapacity, Kernel, LoadOptions},
    snapshot::Direction,
};
use tidewaiter_common::transport::Transport;
use tidewaiter_tests::{
    frames::{Kind, frame},
    namespace::Namespace,
};

/// Turns that each program takes on each kind of packet.
const ROUNDS: usize = 100;
/// Which of them counts, when they are sorted.
const QUICK: usize = ROUNDS / 10;
/// What the first kind of packet may cost above the no-op, in nanoseconds: without flows, and with them.
const BUDGETS: [f64; 2] = [30.0, 60.0];
/// Runs in each turn.
const REPEAT: u32 = 50_000;

const CLIENT4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));
const SERVER4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
const CLIENT6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2));
const SERVER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1));

fn main() {
    for (what, flows, budget) in [
        ("parsing and API counters alone", FlowCapacity::NONE, BUDGETS[0]),
        ("and the flow table", FlowCapacity::default(), BUDGETS[1]),
    ] {
        println!("\n{what}:");
        let worst = table(&mut accounting(flows));
        let verdict = if worst <= budget { "within" } else { "OVER" };
        println!("the first line is {verdict} its budget of {budget} ns above the no-op");
    }
}

/// Accounting in a namespace where nothing passes the interface, but `TEST_RUN` pretends that the frames do.
fn accounting(flows: FlowCapacity) -> Accounting {
    Namespace::new().run(|| {
        let options = LoadOptions { flows, ..LoadOptions::default() };
        let kernel = Kernel::load(options).expect("the kernel takes the programs");
        let mut accounting = Accounting::new(kernel, AttachMode::Auto, Duration::MAX).expect("it can be read");
        accounting.apply_apis(&[api("any", 8080, Vec::new()), api("one", 8081, vec![SERVER4])]).expect("is written");
        let lo = Interface { index: 1, name: "lo".to_owned(), link_layer: LinkLayer::Loopback };
        assert!(accounting.apply_interfaces(&[lo]).is_empty());
        accounting
    })
}

/// Prints what each kind of packet costs; answers with what the first costs above the no-op in the dearer direction.
fn table(accounting: &mut Accounting) -> f64 {
    let plain = Kind { transport: Transport::Tcp, options: false, payload: 100 };
    let options = Kind { options: true, ..plain };
    let udp = Kind { transport: Transport::Udp, ..plain };
    let kinds = [
        ("IPv4/TCP, a mapped API", plain, CLIENT4, SERVER4, 8080),
        ("IPv4/TCP with options, a mapped API", options, CLIENT4, SERVER4, 8080),
        ("IPv6/TCP, a mapped API", plain, CLIENT6, SERVER6, 8080),
        ("IPv4/UDP, a mapped API", udp, CLIENT4, SERVER4, 8080),
        ("IPv4/TCP, an API with an address", plain, CLIENT4, SERVER4, 8081),
        ("IPv4/TCP, unmapped", plain, CLIENT4, SERVER4, 8082),
    ];
    let frames = kinds.map(|(_, kind, client, server, port)| {
        let (client, server) = ((client, 40_000), (server, port));
        [frame(kind, client, server), frame(kind, server, client)]
    });
    let costs = measure(accounting.kernel(), &frames);

    println!("{:<42}{:>10}{:>18}{:>18}", "nanoseconds per packet", "no-op", "account_receive", "account_transmit");
    for ((what, ..), [noop, receive, transmit]) in kinds.iter().zip(&costs) {
        println!(
            "{what:<42}{noop:>10.1}{:>18}{:>18}",
            format!("{receive:.1} (+{:.1})", receive - noop),
            format!("{transmit:.1} (+{:.1})", transmit - noop)
        );
    }
    let [noop, receive, transmit] = costs[0];
    receive.max(transmit) - noop
}

fn api(name: &str, port: u16, addresses: Vec<IpAddr>) -> Api {
    let transports = Transport::ALL.to_vec();
    Api {
        name: name.to_owned(),
        role: Role::Server,
        transports,
        ports: vec![port.into()],
        addresses,
        expect: Vec::new(),
    }
}

/// For each two of `frames`, nanoseconds per packet of the no-op, of the receiving program on the first of them, and of the
/// transmitting one on the second.
fn measure<const KINDS: usize>(kernel: &mut Kernel, frames: &[[Vec<u8>; 2]; KINDS]) -> [[f64; 3]; KINDS] {
    let mut rounds: [[Vec<f64>; 3]; KINDS] = std::array::from_fn(|_| Default::default());
    for _ in 0..ROUNDS {
        for ([received, transmitted], rounds) in frames.iter().zip(&mut rounds) {
            let runs = [
                kernel.test_run_baseline(received, REPEAT),
                kernel.test_run(Direction::Receive, received, REPEAT),
                kernel.test_run(Direction::Transmit, transmitted, REPEAT),
            ];
            for (round, run) in rounds.iter_mut().zip(runs) {
                round.push(run.expect("the kernel takes the frame").duration.as_secs_f64() * 1e9);
            }
        }
    }
    rounds.map(|programs| {
        programs.map(|mut round| {
            round.sort_unstable_by(f64::total_cmp);
            round[QUICK]
        })
    })
}
