//! The flow table over real traffic: every packet of a conversation is counted in it once, and nobody else's.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    slice::from_ref,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{CpuSet, sched_setaffinity};
use tidewaiter::{
    accounting::Accounting,
    api::Transport,
    kernel::FlowTable::{Established, New},
    snapshot::Counters,
};
use tidewaiter_common::{
    direction::Direction,
    flow::{Flow, FlowKey, ONE_WAY_PACKETS},
    packet::tcp_flag::{ACK, FIN, RST, SYN},
};
use tidewaiter_tests::{
    accounting::{account, counted, flows},
    capture::Capture,
    frames::{End, Kind, frame},
    namespace::Namespace,
    network::{INTERFACE, Network, Offload, send_frames},
    traffic::exchange,
    wait::wait_until,
};

const NEVER: Duration = Duration::MAX;
/// Long enough for any look at the flows.
const NEVER_LATE: Duration = Duration::from_mins(1);
const SERVER: End = (IpAddr::V4(Network::SERVER4), 8080);
/// What is sent over a connection, beside the last acknowledgements.
const PLAIN: u8 = ACK;

/// An end of the `number`th client.
fn client(number: usize) -> End {
    let [_, a, b, c] = u32::try_from(number).expect("a small number").to_be_bytes();
    (Ipv4Addr::new(172, 16 + a, b, c).into(), 40_000)
}

/// A segment with `flags`.
fn segment(flags: u8, from: End, to: End) -> Vec<u8> {
    let mut frame = frame(Kind { transport: Transport::Tcp, options: false, payload: 6 }, from, to);
    frame[14 + 20 + 13] = flags;
    frame
}

fn datagram(from: End, to: End) -> Vec<u8> {
    frame(Kind { transport: Transport::Udp, options: false, payload: 18 }, from, to)
}

/// Sends each of `frames` `times` over from `host`.
fn send(host: &Namespace, frames: &[Vec<u8>], times: usize) {
    host.run(|| send_frames(INTERFACE, frames, times)).expect("is sent");
}

/// The packets of all flows, by direction.
fn sum(flows: &[(FlowKey, Flow)]) -> [Counters; Direction::COUNT] {
    [0, 1].map(|at| flows.iter().map(|(_, flow)| flow.wire()[at]).sum())
}

/// The flows of both tables that have an end at `port`.
fn at_port(accounting: &mut Accounting, port: u16) -> [Vec<(FlowKey, Flow)>; 2] {
    [Established, New].map(|table| {
        let mut flows = flows(accounting, table);
        flows.retain(|(key, _)| key.local_port == port);
        flows
    })
}

/// The tables of flows with how many there were when they were last looked at, and how many there can be.
fn tables(accounting: &mut Accounting) -> Vec<(&'static str, usize, usize)> {
    let tables = accounting.snapshot().tables.into_iter().filter(|table| table.name.ends_with("flows"));
    tables.map(|table| (table.name, table.entries, table.capacity)).collect()
}

/// Sees that no packet is missing anywhere: those of the interface are those of the APIs and of no API, and those of the
/// flows, or of none for want of room, if `with_flows` says that none was forgotten.
fn assert_sums(accounting: &mut Accounting, with_flows: bool) {
    let tracked = [flows(accounting, Established), flows(accounting, New)].map(|flows| sum(&flows));
    let (orders, unmapped, interface) = counted(accounting);
    if with_flows {
        let packets = |counters: [Counters; 2]| counters[0].packets + counters[1].packets;
        let tracked = packets(tracked[0]) + packets(tracked[1]);
        assert_eq!(
            tracked + orders.untracked.packets + unmapped.untracked.packets,
            packets(orders.wire) + packets(unmapped.wire)
        );
    }
    for at in [0, 1] {
        let mut seen = orders.wire[at];
        seen += unmapped.wire[at];
        seen += interface.uncounted[at].into_iter().sum();
        assert_eq!(seen, interface.totals[at].wire, "{at}");
    }
}

#[test]
fn a_connection_is_one_flow_as_a_capture_has_it() {
    let network = Network::new(Offload::Off);
    for server in Network::SERVERS {
        let capture = Capture::start(&network.server, INTERFACE);
        let mut accounting = account(&network.server, INTERFACE, 1024, NEVER);
        exchange(&network.server, &network.client, SocketAddr::new(server, 8080), &[300_000]);
        network.wait_until_quiet();

        let mut expected: [(Counters, u8); Direction::COUNT] = Default::default();
        let mut ports = Vec::new();
        let transport = 14 + if server.is_ipv4() { 20 } else { 40 };
        for packet in capture.end() {
            // Whatever else the hosts say to each other is not TCP.
            let protocol = packet.start[if server.is_ipv4() { 23 } else { 20 }];
            let is_ours = packet.start[12..14] == if server.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] };
            if is_ours && protocol == 6 {
                let (counters, flags) = &mut expected[packet.direction.index()];
                *counters += Counters { packets: 1, bytes: packet.length as u64 };
                *flags |= packet.start[transport + 13];
                let port = &packet.start[transport + if packet.direction == Direction::Receive { 0 } else { 2 }..][..2];
                ports.push(u16::from_be_bytes(port.try_into().unwrap()));
            }
        }
        let [established, new] = at_port(&mut accounting, 8080);
        let [(key, flow)] = established.try_into().expect("one established flow");
        assert_eq!(Direction::ALL.map(|d| (flow.wire()[d.index()], flow.tcp_flags(d))), expected);
        assert!(expected.iter().all(|(counters, flags)| counters.packets > 50 && flags & (SYN | FIN | ACK) == 0x13));
        let remote = if server.is_ipv4() { Network::CLIENTS[0] } else { Network::CLIENTS[1] };
        assert_eq!((key.local, key.remote), (server.into(), remote.into()));
        assert!(ports.iter().all(|port| *port == key.remote_port), "there was but one connection");
        let ticks = accounting.kernel().ticks().expect("the clock runs");
        assert!(flow.first > 0 && flow.last <= ticks.now && flow.last > ticks.ago(Duration::from_mins(1)), "{ticks:?}");
        // Where it began, nothing of it is left.
        assert!(sum(&new).iter().all(|counters| *counters == Counters::default()), "{new:?}");
        let (orders, _, _) = counted(&mut accounting);
        assert_eq!((orders.wire, orders.untracked.packets), (flow.wire(), 0));
    }
}

#[test]
fn a_flood_of_openings_leaves_no_flow_and_displaces_none() {
    const SOURCES: usize = 100_000;
    const TALKERS: usize = 200;
    let network = Network::new(Offload::Off);
    let Network { server, client: far } = &network;
    let mut accounting = account(server, INTERFACE, 1024, NEVER);
    let talkers: Vec<_> = (0..TALKERS).map(|number| client(1_000_000 + number)).collect();
    let talk = |flags, is_to_server| -> Vec<_> {
        let segment =
            |&talker| if is_to_server { segment(flags, talker, SERVER) } else { segment(flags, SERVER, talker) };
        talkers.iter().map(segment).collect()
    };
    send(far, &talk(SYN, true), 1);
    send(server, &talk(SYN | ACK, false), 1);
    send(far, &talk(PLAIN, true), 1);
    let before = flows(&mut accounting, Established);
    assert_eq!(before.len(), TALKERS);

    // Refused, accepted by a cookie, asked again and again, or not answered at all.
    let sources: Vec<_> = (0..SOURCES).map(client).collect();
    let to = |flags: u8, every: usize| -> Vec<_> {
        sources.iter().step_by(every).map(|&source| segment(flags, source, SERVER)).collect()
    };
    let from = |flags: u8, every: usize| -> Vec<_> {
        sources.iter().step_by(every).map(|&source| segment(flags, SERVER, source)).collect()
    };
    send(far, &to(SYN, 1), 1);
    send(server, &from(SYN | ACK, 2), 1);
    send(server, &from(RST | ACK, 3), 1);
    let few = &to(SYN, 1)[..100];
    send(far, few, 2 * usize::try_from(ONE_WAY_PACKETS).unwrap());
    assert!(flows(&mut accounting, Established) == before, "the flood has changed the table of established flows");
    let new = flows(&mut accounting, New);
    eprintln!("{} flows in the other table", new.len());
    assert!(!new.is_empty() && new.len() <= 1024);

    send(far, &talk(PLAIN, true), 10);
    send(server, &talk(PLAIN, false), 10);
    let length = segment(SYN, SERVER, SERVER).len() as u64;
    let after = flows(&mut accounting, Established);
    assert_eq!(after.len(), TALKERS);
    for (_, flow) in after {
        let packets = flow.wire().map(|counters| counters.packets);
        assert_eq!((packets, flow.wire().map(|counters| counters.bytes)), ([12, 11], [12 * length, 11 * length]));
    }
    let (orders, _, _) = counted(&mut accounting);
    let received = (2 * TALKERS + SOURCES + few.len() * 16 + TALKERS * 10) as u64;
    let transmitted = (TALKERS + SOURCES / 2 + SOURCES.div_ceil(3) + TALKERS * 10) as u64;
    assert_eq!(orders.wire.map(|counters| counters.packets), [received, transmitted]);
    assert_eq!(orders.untracked.packets, 0);
    assert_sums(&mut accounting, false);
}

#[test]
fn flows_that_find_the_table_full_are_said_to_be_untracked() {
    const CAPACITY: usize = 1024;
    const MORE: usize = 300;
    let network = Network::new(Offload::Off);
    let Network { server, client: far } = &network;
    let mut accounting = account(server, INTERFACE, u32::try_from(CAPACITY).unwrap(), NEVER);
    let to =
        |range: std::ops::Range<usize>| -> Vec<_> { range.map(|number| datagram(client(number), SERVER)).collect() };
    let from =
        |range: std::ops::Range<usize>| -> Vec<_> { range.map(|number| datagram(SERVER, client(number))).collect() };

    // In pieces that the table of new flows has room for.
    for start in (0..CAPACITY).step_by(256) {
        send(far, &to(start..start + 256), 3);
        send(server, &from(start..start + 256), 1);
    }
    assert_eq!(flows(&mut accounting, Established).len(), CAPACITY);
    assert_eq!(counted(&mut accounting).0.untracked.packets, 0);
    assert_sums(&mut accounting, true);

    // The first packet of each may be one of somebody who will not be answered; with the second it is a conversation, and
    // both are part of none.
    let others = CAPACITY..CAPACITY + MORE;
    send(far, &to(others.clone()), 1);
    assert_eq!(counted(&mut accounting).0.untracked.packets, 0);
    send(server, &from(others.clone()), 1);
    assert_eq!(counted(&mut accounting).0.untracked.packets, 2 * MORE as u64);
    // One way alone it takes some packets until it is one.
    send(far, &to(others.clone()), 2 * usize::try_from(ONE_WAY_PACKETS).unwrap());
    assert_eq!(counted(&mut accounting).0.untracked.packets, (2 + 16) * MORE as u64);
    // Those that were there first go on.
    send(far, &to(0..CAPACITY), 1);
    let established = flows(&mut accounting, Established);
    assert_eq!(established.len(), CAPACITY);
    assert_eq!(sum(&established).map(|counters| counters.packets), [4 * CAPACITY as u64, CAPACITY as u64]);
    let (orders, _, _) = counted(&mut accounting);
    let packets = [4 * CAPACITY + 17 * MORE, CAPACITY + MORE].map(|packets| packets as u64);
    assert_eq!(orders.wire.map(|counters| counters.packets), packets);
    assert_sums(&mut accounting, true);

    // What was untracked stays so when there is room again.
    for (key, _) in &established[..MORE] {
        accounting.kernel().remove_flow(Established, key).expect("is there");
    }
    send(far, &to(others.clone()), 1);
    send(server, &from(others), 1);
    let all = flows(&mut accounting, Established);
    assert_eq!(all.len(), CAPACITY);
    let late: Vec<_> = all.into_iter().filter(|flow| !established.iter().any(|(key, _)| *key == flow.0)).collect();
    assert_eq!(late.len(), MORE);
    assert_eq!(sum(&late).map(|counters| counters.packets), [MORE as u64; 2]);
    assert_eq!(counted(&mut accounting).0.untracked.packets, 18 * MORE as u64);
}

/// Has each of `jobs` done over and over on a CPU of its own, all beginning at once.
fn at_once(jobs: &[(&Namespace, Vec<Vec<u8>>)], times: usize) {
    let barrier = Barrier::new(jobs.len());
    let cpus = thread::available_parallelism().expect("is known").get();
    thread::scope(|scope| {
        for (number, (host, frames)) in jobs.iter().enumerate() {
            let barrier = &barrier;
            scope.spawn(move || {
                host.run(|| {
                    let mut cpu = CpuSet::new();
                    cpu.set(number % cpus);
                    sched_setaffinity(None, &cpu).expect("is permitted");
                    barrier.wait();
                    send_frames(INTERFACE, frames, times).expect("is sent");
                });
            });
        }
    });
}

#[test]
fn no_packet_of_a_flow_is_lost_between_cpus() {
    const TIMES: usize = 200_000;
    let network = Network::new(Offload::Off);
    let Network { server, client: far } = &network;
    let mut accounting = account(server, INTERFACE, 1024, NEVER);
    let (to, from) = (datagram(client(1), SERVER), datagram(SERVER, client(1)));
    // Two CPUs receive, and two transmit.
    let job = |host, frame: &Vec<u8>| (host, vec![frame.clone()]);
    at_once(&[job(far, &to), job(far, &to), job(server, &from), job(server, &from)], TIMES);

    let packets = 2 * TIMES as u64;
    let counters = Counters { packets, bytes: packets * to.len() as u64 };
    let [(_, flow)] = flows(&mut accounting, Established).try_into().expect("one flow");
    assert_eq!(flow.wire(), [counters; 2]);
    assert!(sum(&flows(&mut accounting, New)).iter().all(|rest| rest.packets == 0));
    assert_eq!(counted(&mut accounting).0.wire, [counters; 2]);
    assert_sums(&mut accounting, true);
}

#[test]
fn flows_whose_first_packets_come_at_once_lose_none() {
    const FLOWS: usize = 500;
    const ROUNDS: usize = 100;
    let network = Network::new(Offload::Off);
    let Network { server, client: far } = &network;
    let mut accounting = account(server, INTERFACE, 1024 * 64, NEVER);
    for round in 0..ROUNDS {
        let range = round * FLOWS..(round + 1) * FLOWS;
        let to: Vec<_> = range.clone().map(|number| datagram(client(number), SERVER)).collect();
        let from: Vec<_> = range.map(|number| datagram(SERVER, client(number))).collect();
        at_once(&[(far, to.clone()), (far, to), (server, from.clone()), (server, from)], 3);
    }
    let established = flows(&mut accounting, Established);
    let new = flows(&mut accounting, New);
    let lacking: Vec<_> =
        established.iter().filter(|(_, flow)| flow.wire().map(|counters| counters.packets) != [6, 6]).collect();
    let rest: Vec<_> = new.iter().filter(|(_, flow)| flow.wire().iter().any(|counters| counters.packets > 0)).collect();
    assert!(lacking.is_empty() && rest.is_empty(), "{lacking:?}\n{rest:?}");
    assert_eq!(established.len(), FLOWS * ROUNDS);
    let packets = (6 * FLOWS * ROUNDS) as u64;
    assert_eq!(counted(&mut accounting).0.wire.map(|counters| counters.packets), [packets; 2]);
    assert_sums(&mut accounting, true);
}

#[test]
fn a_flow_is_forgotten_when_it_is_idle_and_begins_anew() {
    const IDLE: Duration = Duration::from_secs(1);
    let network = Network::new(Offload::Off);
    let Network { server, client: far } = &network;
    let mut accounting = account(server, INTERFACE, 1024, IDLE);
    let (to, from) = (datagram(client(1), SERVER), datagram(SERVER, client(1)));
    for round in 1..=3 {
        send(far, from_ref(&to), round);
        assert!(flows(&mut accounting, Established).is_empty(), "nobody has answered");
        let [(_, new)] = flows(&mut accounting, New).try_into().expect("one flow");
        assert_eq!(new.wire().map(|counters| counters.packets), [round as u64, 0]);
        assert!(!accounting.sweep_flows(Instant::now() + NEVER_LATE).expect("can be read"));
        assert_eq!(tables(&mut accounting), [("flows", 0, 1024), ("new_flows", 1, 1024)]);
        send(server, from_ref(&from), 1);
        let [(_, flow)] = flows(&mut accounting, Established).try_into().expect("one flow");
        assert_eq!(flow.wire().map(|counters| counters.packets), [round as u64, 1]);
        assert!(!accounting.sweep_flows(Instant::now() + NEVER_LATE).expect("can be read"));
        assert_eq!(flows(&mut accounting, Established).len(), 1, "it is not idle yet");
        assert_eq!(tables(&mut accounting)[0], ("flows", 1, 1024));
        wait_until("the flow to be forgotten", || {
            assert!(!accounting.sweep_flows(Instant::now() + NEVER_LATE).expect("can be read"));
            flows(&mut accounting, Established).is_empty()
        });
    }
    assert_eq!(counted(&mut accounting).0.wire.map(|counters| counters.packets), [6, 3]);
}
