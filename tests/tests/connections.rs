//! The life of connections, from the attempt to what is told of them in the end, with a clock that the test sets: captures of
//! a few packets are replayed.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
};

use tidewaiter::kernel::{
    CapturedPacket, FlowCapacity,
    FlowTable::{Established, New},
    Kernel, LoadOptions, QuietSince,
};
use tidewaiter_common::{
    api::{ApiSlot, PortEntry, port_index},
    counters::Counters,
    details::{ApiDetails, CloseReason},
    direction::Direction::{self, Receive, Transmit},
    event::{FinishedFlow, Lost},
    flow::{BEGUN, ENDED, Flow, FlowKey, ONE_WAY_PACKETS, REFUSED, RESET},
    frame::Framing,
    histogram::{Histogram, Range},
    interface::InterfaceSlot,
    packet::{
        protocol,
        tcp_flag::{ACK, FIN, PSH, RST, SYN},
    },
    protocol::Protocol,
    role::Role,
    transport::Transport,
};
use tidewaiter_tests::frames::{End, Kind, frame};

const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLISECOND;
const INTERFACE: u32 = 7;

/// The API that this host serves, at 8080, the one that has it later, and one that this host calls, at 9090.
const ORDERS: ApiSlot = ApiSlot(1);
const OTHERS: ApiSlot = ApiSlot(2);
const CALLS: ApiSlot = ApiSlot(3);

const US: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const SERVER: End = (US, 8080);

/// Nothing is quiet for long enough.
const NEVER: u64 = 0;

/// An end of the `number`th client.
fn client(number: u32) -> End {
    (Ipv4Addr::from(0xac10_0000 + number).into(), 40_000)
}

/// The ends of a connection, this host's first.
#[derive(Clone, Copy, Debug)]
struct Ends(End, End);

/// One that the `number`th client opens to this host.
fn served(number: u32) -> Ends {
    Ends(SERVER, client(number))
}

/// One that this host opens.
const CALL: Ends = Ends((US, 50_000), (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)), 9090));

/// A host with a clock.
struct Host {
    kernel: Kernel,
    now: u64,
    /// What was told of flows that are in no table any more.
    finished: Vec<FinishedFlow>,
    /// What was told of flows that go on.
    going_on: Vec<FinishedFlow>,
}

impl Host {
    fn new(flows: u32) -> Self {
        let options =
            LoadOptions { flows: FlowCapacity::for_established(flows), replay: true, ..LoadOptions::default() };
        let mut kernel = Kernel::load(options).expect("the kernel takes the programs");
        for transport in Transport::ALL {
            for (port, role, slot) in [(8080, Role::Server, ORDERS), (9090, Role::Client, CALLS)] {
                let mut entry = PortEntry::UNMAPPED;
                entry.set_any_address(role, slot);
                kernel.set_port(port_index(transport, port), entry).expect("is written");
            }
        }
        kernel.set_interface(INTERFACE, InterfaceSlot(1), Framing::Ethernet).expect("is written");
        Self { kernel, now: 1_000 * SECOND, finished: Vec::new(), going_on: Vec::new() }
    }

    const fn after(&mut self, time: u64) -> &mut Self {
        self.now += time;
        self
    }

    fn pass(&mut self, direction: Direction, data: &[u8]) -> &mut Self {
        let packet = CapturedPacket { data, length: data.len() as u32, time: self.now, interface: INTERFACE };
        self.kernel.replay(direction, packet).expect("is taken");
        self
    }

    /// A segment of TCP passes, with a byte of payload for PSH.
    fn segment(&mut self, ends: Ends, direction: Direction, flags: u8, sequence: u32) -> &mut Self {
        let Ends(local, remote) = ends;
        let (from, to) = if direction == Transmit { (local, remote) } else { (remote, local) };
        let payload = usize::from(flags & PSH != 0);
        let mut frame = frame(Kind { transport: Transport::Tcp, options: false, payload }, from, to);
        frame[14 + 20 + 4..][..4].copy_from_slice(&sequence.to_be_bytes());
        // Who asks has received the answer to its opening and nothing yet, who answers has all that was ever sent.
        let asks = (direction == Receive) == (local.1 == SERVER.1);
        let acknowledged: u32 = if asks { 150 } else { 0x4000_0000 };
        frame[14 + 20 + 8..][..4].copy_from_slice(&acknowledged.to_be_bytes());
        frame[14 + 20 + 13] = flags;
        self.pass(direction, &frame)
    }

    fn receive(&mut self, ends: Ends, flags: u8) -> &mut Self {
        self.segment(ends, Receive, flags, 100)
    }

    fn transmit(&mut self, ends: Ends, flags: u8) -> &mut Self {
        self.segment(ends, Transmit, flags, if flags & SYN == 0 { 200 } else { 100 })
    }

    fn datagram(&mut self, ends: Ends, direction: Direction) -> &mut Self {
        let Ends(local, remote) = ends;
        let (from, to) = if direction == Transmit { (local, remote) } else { (remote, local) };
        let frame = frame(Kind { transport: Transport::Udp, options: false, payload: 20 }, from, to);
        self.pass(direction, &frame)
    }

    /// A client opens a connection to this host.
    fn open(&mut self, ends: Ends) -> &mut Self {
        self.receive(ends, SYN).transmit(ends, SYN | ACK).receive(ends, ACK)
    }

    /// Both sides close it.
    fn close(&mut self, ends: Ends) -> &mut Self {
        self.receive(ends, FIN | ACK).transmit(ends, FIN | ACK).receive(ends, ACK)
    }

    fn details(&self, api: ApiSlot) -> ApiDetails {
        self.kernel.api_details(api).expect("can be read")
    }

    fn orders(&self) -> ApiDetails {
        self.details(ORDERS)
    }

    /// Sees how many connections of `api` were attempted, refused, opened, adopted, closed by reason, and left; and that as
    /// many are active as that makes.
    #[track_caller]
    fn expect(&mut self, api: ApiSlot, expected: Life) -> &mut Self {
        let details = self.details(api);
        let ApiDetails { attempts, refused, opened, adopted, closed, left, .. } = details;
        assert_eq!(Life { attempts, refused, opened, adopted, closed, left }, expected);
        assert!(opened + adopted >= closed.iter().sum::<u64>() + left, "more have ended than have begun");
        self
    }

    /// The flows that the kernel says have ended.
    fn ended(&mut self) -> Vec<FlowKey> {
        let mut keys = Vec::new();
        self.kernel.read_ended(usize::MAX, &mut keys);
        keys
    }

    /// What was told since the last time.
    fn finished(&mut self) -> Vec<FinishedFlow> {
        let mut finished = Vec::new();
        self.kernel
            .read_finished(|flow| if flow.goes_on == 0 { finished.push(*flow) } else { self.going_on.push(*flow) });
        self.finished.extend(&finished);
        finished
    }

    /// Has a flow finished, and answers with what it was, if it was.
    fn finish(&mut self, key: &FlowKey, ended: u64, others: u64) -> Option<FinishedFlow> {
        let done = self.kernel.finish_flows(&[*key], QuietSince { ended, others, told: 0 }).expect("can be asked");
        assert_eq!(done, 1);
        let finished = self.finished();
        assert!(finished.len() <= 1 && finished.iter().all(|flow| flow.key == *key), "{finished:?}");
        finished.into_iter().next()
    }

    fn established(&self) -> Vec<(FlowKey, Flow)> {
        self.kernel.all_flows(Established).expect("can be read")
    }

    fn new_flows(&self) -> Vec<(FlowKey, Flow)> {
        let mut flows = self.kernel.all_flows(New).expect("can be read");
        // Where one that is established began, an empty entry stays.
        flows.retain(|(_, flow)| packets(flow) != [0, 0]);
        flows
    }

    /// Sees that each packet is in what was told, in a table, or in none for want of room; all of what was told must have been
    /// read.
    #[track_caller]
    fn assert_sums(&mut self) {
        self.finished();
        let mut counted = Counters::default();
        let mut found = Counters::default();
        for api in [ApiSlot::UNMAPPED, ORDERS, OTHERS, CALLS] {
            let counters = self.kernel.api_counters(api).expect("can be read");
            counters.wire.into_iter().for_each(|wire| counted += wire);
            found += counters.untracked;
        }
        let tables = [self.established(), self.new_flows()].concat();
        let told = self.finished.iter().map(|finished| finished.flow);
        tables
            .into_iter()
            .map(|(_, flow)| flow)
            .chain(told)
            .flat_map(|flow| flow.wire())
            .for_each(|wire| found += wire);
        assert_eq!(found, counted);
        assert!(self.kernel.lost().expect("can be read")[Lost::Finished as usize] == 0, "not all was told");
    }
}

/// What is counted of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Life {
    attempts: u64,
    refused: u64,
    opened: u64,
    adopted: u64,
    closed: [u64; CloseReason::COUNT],
    left: u64,
}

fn packets(flow: &Flow) -> [u64; 2] {
    flow.wire().map(|counters| counters.packets)
}

/// Sees that there is one duration in `histogram`, exactly this one.
#[track_caller]
fn assert_one(histogram: &Histogram, range: Range, nanoseconds: u64) {
    assert_eq!((histogram.counts.iter().sum::<u64>(), histogram.sum), (1, nanoseconds));
    assert_eq!(histogram.counts[range.bucket(nanoseconds)], 1);
}

#[test]
fn a_connection_is_attempted_once_opened_once_and_closed_once() {
    let mut host = Host::new(1024);
    let ends = served(1);
    host.receive(ends, SYN).after(SECOND).receive(ends, SYN).transmit(ends, SYN | ACK);
    host.after(SECOND).receive(ends, SYN).transmit(ends, SYN | ACK);
    host.expect(ORDERS, Life { attempts: 1, ..Life::default() });
    host.after(12_345).receive(ends, ACK);
    let open = Life { attempts: 1, opened: 1, ..Life::default() };
    host.expect(ORDERS, open);
    assert_one(&host.orders().handshake, Range::Latency, 2 * SECOND + 12_345);
    assert_eq!(host.orders().active(), 1);

    host.receive(ends, PSH | ACK).after(MILLISECOND).transmit(ends, PSH | ACK);
    assert_one(&host.orders().response, Range::Latency, MILLISECOND / 128 * 128);
    host.after(SECOND).receive(ends, FIN | ACK).receive(ends, FIN | ACK).expect(ORDERS, open);
    assert!(host.ended().is_empty());
    host.transmit(ends, FIN | ACK).receive(ends, ACK).transmit(ends, FIN | ACK).receive(ends, FIN | ACK);
    let closed = Life { closed: [1, 0, 0], ..open };
    host.expect(ORDERS, closed);
    assert_eq!(host.orders().active(), 0);
    assert_one(&host.orders().lifetime, Range::Lifetime, 3 * SECOND + 12_345 + MILLISECOND);
    let [key] = host.ended().try_into().expect("it is said once");
    // A reset after the end is no other end.
    host.receive(ends, RST).expect(ORDERS, closed);
    assert_eq!(host.orders().reset_packets, [1, 0]);
    assert!(host.ended().is_empty());
    host.assert_sums();

    let now = host.now;
    assert_eq!(host.finish(&key, now - 1, NEVER), None, "it is not quiet yet");
    let told = host.finish(&key, now, NEVER).expect("it is");
    assert_eq!((packets(&told.flow), told.flow.last), ([10, 5], now));
    assert_eq!(told.flow.handshake, 2 * SECOND + 12_345);
    assert_eq!((told.flow.responses, told.flow.opened_by()), (1, Some(Receive)));
    assert_eq!(told.flow.seen & (BEGUN | ENDED | RESET | REFUSED), BEGUN | ENDED);
    assert_eq!(told.flow.tcp_flags(Receive), SYN | ACK | FIN | RST | PSH);
    host.expect(ORDERS, closed);
    assert!(host.established().is_empty() && host.new_flows().is_empty());
    assert_eq!(host.finish(&key, now, now), None, "it is gone");
    host.assert_sums();
}

#[test]
fn a_host_that_opens_a_connection_measures_until_it_is_answered() {
    let mut host = Host::new(1024);
    host.segment(CALL, Transmit, SYN, 1).after(7 * MILLISECOND).segment(CALL, Receive, SYN | ACK, 2);
    host.after(SECOND).segment(CALL, Receive, SYN | ACK, 2).segment(CALL, Transmit, ACK, 2);
    host.expect(CALLS, Life { attempts: 1, opened: 1, ..Life::default() });
    assert_one(&host.details(CALLS).handshake, Range::Latency, 7 * MILLISECOND);
    let [(_, flow)] = host.established().try_into().expect("one");
    assert_eq!((flow.opened_by(), flow.handshake), (Some(Transmit), 7 * MILLISECOND));
    // It asks, and is answered.
    host.segment(CALL, Transmit, PSH | ACK, 2).after(128 * 10).segment(CALL, Receive, PSH | ACK, 150);
    assert_one(&host.details(CALLS).response, Range::Latency, 128 * 10);
    host.assert_sums();
}

#[test]
fn an_attempt_that_is_refused_is_told_at_once() {
    for (api, ends, [ask, answer]) in [(ORDERS, served(1), [Receive, Transmit]), (CALLS, CALL, [Transmit, Receive])] {
        let mut host = Host::new(1024);
        for attempt in 1..=3 {
            host.segment(ends, ask, SYN, 1).after(SECOND).segment(ends, ask, SYN, 1).segment(
                ends,
                answer,
                RST | ACK,
                0,
            );
            host.expect(api, Life { attempts: attempt, refused: attempt, ..Life::default() });
            let [told] = host.finished().try_into().expect("one");
            let mut expected = [0; 2];
            (expected[ask.index()], expected[answer.index()]) = (2, 1);
            assert_eq!(packets(&told.flow), expected);
            assert_eq!(told.flow.seen & (BEGUN | ENDED | REFUSED), ENDED | REFUSED);
            assert!(host.new_flows().is_empty() && host.established().is_empty() && host.ended().is_empty());
        }
        assert_eq!(host.details(api).reset_packets[answer.index()], 3);
        // Whoever resets what he has asked for himself has not been refused, nor has who was answered before.
        host.segment(ends, ask, SYN, 9).segment(ends, ask, RST, 10);
        host.segment(ends, ask, SYN, 11).segment(ends, answer, SYN | ACK, 1).segment(ends, answer, RST, 2);
        host.expect(api, Life { attempts: 5, refused: 3, ..Life::default() });
        host.assert_sums();
    }
}

#[test]
fn a_flood_of_openings_is_counted_and_touches_no_connection() {
    const SOURCES: u32 = 100_000;
    let mut host = Host::new(1024);
    host.open(served(0xf_ffff));
    let before = host.established();
    for number in 0..SOURCES {
        host.receive(served(number), SYN);
    }
    host.expect(ORDERS, Life { attempts: u64::from(SOURCES) + 1, opened: 1, ..Life::default() });
    assert_eq!(host.established(), before);
    assert!(host.new_flows().len() <= 1024 && host.finished().is_empty());
}

#[test]
fn resets_and_ends_in_any_order_are_one_end() {
    type Case = (&'static [(Direction, u8)], [u64; CloseReason::COUNT]);
    let mut host = Host::new(1024);
    let steps: [Case; 6] = [
        (&[(Receive, RST)], [0, 1, 0]),
        (&[(Transmit, RST | ACK), (Receive, RST)], [0, 1, 0]),
        (&[(Receive, FIN | ACK), (Receive, RST)], [0, 1, 0]),
        (&[(Receive, FIN | ACK), (Transmit, FIN | ACK), (Transmit, RST)], [1, 0, 0]),
        (&[(Transmit, FIN | ACK), (Receive, FIN | PSH | ACK), (Receive, ACK)], [1, 0, 0]),
        (&[(Transmit, RST), (Receive, FIN | ACK), (Transmit, FIN | ACK)], [0, 1, 0]),
    ];
    let mut life = Life::default();
    for (number, (steps, closed)) in (0..).zip(steps) {
        host.open(served(number));
        for (direction, flags) in steps {
            host.segment(served(number), *direction, *flags, 300);
        }
        (life.attempts, life.opened) = (life.attempts + 1, life.opened + 1);
        (0..3).for_each(|reason| life.closed[reason] += closed[reason]);
        host.expect(ORDERS, life);
        let [key] = host.ended().try_into().expect("it is said once");
        let now = host.now;
        let told = host.finish(&key, now, NEVER).expect("it has ended");
        assert_eq!(told.flow.seen & RESET != 0, closed[1] == 1);
        host.expect(ORDERS, life);
    }
    assert_eq!(host.orders().active(), 0);
    assert_eq!(host.orders().reset_packets, [3, 3]);
    host.assert_sums();
}

#[test]
fn the_same_ends_may_open_another_connection() {
    let mut host = Host::new(1024);
    let ends = served(1);
    let mut life = Life::default();
    for round in 1..=3_u32 {
        host.after(SECOND).segment(ends, Receive, SYN, 1000 * round).after(MILLISECOND).transmit(ends, SYN | ACK);
        host.after(MILLISECOND).receive(ends, ACK).receive(ends, PSH | ACK).after(SECOND).transmit(ends, PSH | ACK);
        (life.attempts, life.opened) = (life.attempts + 1, life.opened + 1);
        host.expect(ORDERS, life);
        assert_eq!(host.orders().active(), 1);
        let told = host.finished();
        assert_eq!(told.len(), usize::from(round > 1), "what was is told when another begins");
        for told in told {
            assert_eq!((packets(&told.flow), told.flow.responses), ([5, 3], 1));
            assert_eq!(told.flow.seen & (BEGUN | ENDED), BEGUN | ENDED);
            assert_eq!(told.flow.handshake, 2 * MILLISECOND);
        }
        let [(key, flow)] = host.established().try_into().expect("one");
        assert_eq!((packets(&flow), flow.responses, flow.handshake), ([3, 2], 1, 2 * MILLISECOND));
        // Nobody takes it away because the one before it has ended.
        let now = host.now;
        assert_eq!(host.finish(&key, now, NEVER), None);
        host.assert_sums();
        host.close(ends);
        life.closed[0] += 1;
        host.expect(ORDERS, life);
        assert_eq!(host.ended().len(), 1);
    }
    // The opening of the last one comes again, late: it opens nothing.
    host.segment(ends, Receive, SYN, 3000).expect(ORDERS, life);
    // Another attempt is refused, and another; the ends are in their place still.
    for (number, sequence) in [(1, 5000), (2, 6000)] {
        host.segment(ends, Receive, SYN, sequence).after(SECOND).segment(ends, Receive, SYN, sequence);
        host.transmit(ends, RST | ACK);
        life = Life { attempts: 3 + number, refused: number, ..life };
        host.expect(ORDERS, life);
        assert_eq!(host.finished().len(), 1);
    }
    // One is given up, and then one is opened.
    host.segment(ends, Receive, SYN, 7000).after(SECOND).segment(ends, Receive, SYN, 8000);
    host.after(MILLISECOND).transmit(ends, SYN | ACK).receive(ends, ACK);
    life = Life { attempts: life.attempts + 2, opened: 4, ..life };
    host.expect(ORDERS, life);
    assert_eq!(host.orders().active(), 1);
    let [(_, flow)] = host.established().try_into().expect("one");
    assert_eq!(flow.handshake, MILLISECOND);
    host.close(ends);
    life.closed[0] += 1;
    host.expect(ORDERS, life).assert_sums();
}

#[test]
fn an_opening_that_anybody_can_send_changes_nothing_of_a_connection() {
    let mut host = Host::new(1024);
    let ends = served(1);
    host.open(ends).receive(ends, PSH | ACK);
    let before = host.established()[0].1;
    for sequence in [0, 1, 99, u32::MAX] {
        host.segment(ends, Receive, SYN, sequence).segment(ends, Transmit, ACK, 201);
    }
    host.expect(ORDERS, Life { attempts: 1, opened: 1, ..Life::default() });
    let after = host.established()[0].1;
    assert_eq!((after.first, after.opened, after.handshake), (before.first, before.opened, before.handshake));
    assert!(host.finished().is_empty() && host.ended().is_empty());
    host.after(MILLISECOND).transmit(ends, PSH | ACK);
    assert_eq!(host.orders().response.counts.iter().sum::<u64>(), 1);
    host.assert_sums();
}

#[test]
fn connections_that_were_there_before_are_adopted() {
    let mut host = Host::new(1024);
    host.receive(served(1), ACK).transmit(served(1), ACK);
    host.expect(ORDERS, Life { adopted: 1, ..Life::default() });
    assert_eq!((host.orders().active(), host.orders().handshake), (1, Histogram::default()));
    host.receive(served(1), RST);
    // Of one side alone there must be more.
    for _ in 1..ONE_WAY_PACKETS {
        host.receive(served(2), ACK);
    }
    host.expect(ORDERS, Life { adopted: 1, closed: [0, 1, 0], ..Life::default() });
    host.receive(served(2), ACK);
    host.expect(ORDERS, Life { adopted: 2, closed: [0, 1, 0], ..Life::default() });
    assert_eq!(host.ended().len(), 1);
    // One that is just being closed.
    host.receive(served(3), FIN | ACK).transmit(served(3), FIN | ACK).receive(served(3), ACK);
    host.expect(ORDERS, Life { adopted: 3, closed: [1, 1, 0], ..Life::default() });
    assert_eq!((host.ended().len(), host.orders().active()), (1, 1));
    host.assert_sums();
}

#[test]
fn what_finds_the_table_full_is_opened_and_left() {
    const CAPACITY: u32 = 16;
    let mut host = Host::new(CAPACITY);
    // (The kernel may have room for some more, by CPU.)
    let mut number = 0;
    while host.orders().left == 0 {
        number += 1;
        assert!(number < 200, "never full");
        host.open(served(number)).receive(served(number), PSH | ACK).transmit(served(number), PSH | ACK);
    }
    let there = u64::from(number) - 1;
    let full = Life { attempts: there + 1, opened: there + 1, left: 1, ..Life::default() };
    host.expect(ORDERS, full);
    assert_eq!(host.orders().active(), there);
    assert_eq!(host.orders().handshake.counts.iter().sum::<u64>(), there + 1);
    host.assert_sums();
    // Nobody sees its end.
    host.close(served(number)).receive(served(number), RST);
    host.expect(ORDERS, full).assert_sums();
    // Others that are left, and that are quiet.
    host.open(served(number + 1))
        .expect(ORDERS, Life { attempts: there + 2, opened: there + 2, left: 2, ..Life::default() });
    let now = host.now;
    let established: HashSet<_> = host.established().into_iter().map(|(key, _)| key).collect();
    for (key, _) in host.new_flows() {
        if !established.contains(&key) {
            host.finish(&key, now, now).expect("it is quiet");
        }
    }
    host.expect(ORDERS, Life { attempts: there + 2, opened: there + 2, closed: [0, 0, 0], left: 2, ..Life::default() });
    host.assert_sums();
    // One that is left goes on when there is room: it is taken up, and ends.
    host.open(served(number + 2));
    let some = host.established()[0].0;
    host.close(Ends(SERVER, (IpAddr::from(some.remote), 40_000)));
    host.ended();
    host.finish(&some, now, NEVER).expect("it has ended");
    let mut life = Life { attempts: there + 3, opened: there + 3, closed: [1, 0, 0], left: 3, ..Life::default() };
    host.expect(ORDERS, life);
    host.receive(served(number + 2), ACK);
    life.adopted = 1;
    host.expect(ORDERS, life);
    assert_eq!(host.orders().active(), there);
    host.close(served(number + 2));
    life.closed[0] = 2;
    host.expect(ORDERS, life).assert_sums();
    assert_eq!(host.ended().len(), 1);
}

#[test]
fn a_connection_of_a_port_that_changes_hands_is_left_by_one_and_adopted_by_the_other() {
    let mut host = Host::new(1024);
    host.open(served(1)).open(served(2)).close(served(2)).open(served(3)).close(served(3));
    let mut entry = PortEntry::UNMAPPED;
    entry.set_any_address(Role::Server, OTHERS);
    host.kernel.set_port(port_index(Transport::Tcp, 8080), entry).unwrap();
    let before = Life { attempts: 3, opened: 3, closed: [2, 0, 0], ..Life::default() };
    host.expect(ORDERS, before);
    // One goes on; one that has ended says its last; one begins anew, and what it was is told as the former one's.
    host.receive(served(1), ACK).transmit(served(1), ACK).receive(served(2), ACK);
    host.segment(served(3), Receive, SYN, 9000).transmit(served(3), SYN | ACK).receive(served(3), ACK);
    let [told] = host.finished().try_into().expect("one");
    assert_eq!((told.flow.api, packets(&told.flow)), (ORDERS, [4, 2]));
    // What was counted before is told as the former one's, too.
    let going_on: Vec<_> = host.going_on.iter().map(|told| (told.flow.api, packets(&told.flow))).collect();
    assert_eq!(going_on[..2], [(ORDERS, [2, 1]), (ORDERS, [4, 2])]);
    host.expect(ORDERS, Life { left: 1, ..before });
    host.expect(OTHERS, Life { attempts: 1, opened: 1, adopted: 1, ..Life::default() });
    assert_eq!([ORDERS, OTHERS].map(|api| host.details(api).active()), [0, 2]);
    host.close(served(1)).close(served(3));
    host.expect(OTHERS, Life { attempts: 1, opened: 1, adopted: 1, closed: [2, 0, 0], ..Life::default() });
    host.assert_sums();
}

#[test]
fn what_is_quiet_for_long_is_finished() {
    let mut host = Host::new(1024);
    host.open(served(1)).receive(served(1), PSH | ACK);
    host.datagram(served(2), Receive).datagram(served(2), Transmit);
    // These two are in the other table.
    host.datagram(served(3), Receive).receive(served(4), SYN);
    assert_eq!((host.established().len(), host.new_flows().len()), (2, 2));
    let quiet_since = host.now;
    host.after(SECOND).receive(served(5), SYN).transmit(served(5), SYN | ACK);
    host.open(served(6)).close(served(6)).ended();

    let keys: HashSet<_> = host.established().into_iter().chain(host.new_flows()).map(|(key, _)| key).collect();
    let keys: Vec<_> = keys.into_iter().collect();
    assert_eq!(keys.len(), 6);
    let quiet = |since| QuietSince { ended: since, others: since, told: 0 };
    assert_eq!(host.kernel.finish_flows(&keys, quiet(quiet_since - 1)).unwrap(), 6);
    assert!(host.finished().is_empty());
    let before = Life { attempts: 4, opened: 2, closed: [1, 0, 0], ..Life::default() };
    host.expect(ORDERS, before).assert_sums();
    assert_eq!(host.kernel.finish_flows(&keys, quiet(quiet_since)).unwrap(), 6);
    let told = host.finished();
    assert_eq!(told.len(), 4);
    host.expect(ORDERS, Life { closed: [1, 0, 1], ..before });
    // Of those that have spoken, which the attempt has not.
    assert_eq!(host.orders().protocols[Protocol::Unknown.index()], 3);
    assert_eq!((host.established().len(), host.new_flows().len()), (1, 1), "those that are not quiet");
    host.assert_sums();
    // What comes after all is of another flow.
    host.receive(served(1), ACK).transmit(served(1), ACK).datagram(served(2), Transmit).assert_sums();
    host.expect(ORDERS, Life { closed: [1, 0, 1], adopted: 1, ..before });
    let now = host.now;
    host.kernel.finish_flows(&keys, quiet(now)).unwrap();
    host.expect(ORDERS, Life { closed: [1, 0, 2], adopted: 1, ..before }).assert_sums();
    assert_eq!(host.orders().active(), 0);
    assert!(host.established().is_empty() && host.new_flows().is_empty());
    assert_eq!(host.kernel.finish_flows(&[], quiet(now)).unwrap(), 0);
}

#[test]
fn more_are_finished_than_can_be_told_at_once() {
    const FLOWS: u32 = 6_000;
    let mut host = Host::new(2 * FLOWS);
    for number in 0..FLOWS {
        host.datagram(served(number), Receive).datagram(served(number), Transmit);
    }
    let mut keys: Vec<_> = host.established().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys.len(), FLOWS as usize);
    let now = host.now;
    let (mut pauses, mut told) = (0, 0);
    while !keys.is_empty() {
        let batch = &keys[..keys.len().min(Kernel::FINISH_BATCH)];
        let count = batch.len();
        let done = host.kernel.finish_flows(batch, QuietSince { ended: now, others: now, told: 0 }).unwrap();
        keys.drain(..done);
        if done < count {
            pauses += 1;
            let finished = host.finished();
            assert!(finished.iter().all(|finished| packets(&finished.flow) == [1, 1]));
            told += finished.len();
        }
    }
    assert_eq!((pauses, told + host.finished().len()), (1, FLOWS as usize));
    assert!(host.established().is_empty() && host.new_flows().is_empty());
    // That it was full is known; nothing is lost by it.
    let counters = host.finished.iter().flat_map(|finished| finished.flow.wire()).map(|wire| wire.packets).sum::<u64>();
    assert_eq!(counters, u64::from(2 * FLOWS));
}

#[test]
fn icmp_is_a_flow_that_ends_when_it_is_quiet() {
    let mut host = Host::new(1024);
    let mut echo = frame(Kind { transport: Transport::Udp, options: false, payload: 20 }, client(1), SERVER);
    echo[14 + 9] = protocol::ICMP;
    let mut answer = frame(Kind { transport: Transport::Udp, options: false, payload: 20 }, SERVER, client(1));
    answer[14 + 9] = protocol::ICMP;
    host.pass(Receive, &echo).pass(Transmit, &answer).after(SECOND).pass(Receive, &echo);
    let [(key, flow)] = host.established().try_into().expect("one");
    assert_eq!((key.protocol, key.local_port, packets(&flow), flow.application()), (1, 0, [2, 1], Protocol::Unknown));
    let now = host.now;
    assert_eq!(host.finish(&key, now, now - 1), None);
    assert!(host.finish(&key, now, now).is_some());
    host.expect(ApiSlot::UNMAPPED, Life::default());
    assert_eq!(host.details(ApiSlot::UNMAPPED).protocols, [0; Protocol::COUNT]);
    host.assert_sums();
}

#[test]
fn of_a_flow_that_goes_on_for_long_all_is_told_once() {
    let mut host = Host::new(1024);
    host.open(served(1));
    let key = host.established()[0].0;
    let mut told = [Counters::default(); 2];
    let mut tell = |host: &mut Host, since: u64| {
        let quiet = QuietSince { ended: 0, others: 0, told: since };
        assert_eq!(host.kernel.finish_flows(&[key], quiet).unwrap(), 1);
        let mut news = Vec::new();
        host.kernel.read_finished(|flow| news.push(*flow));
        for flow in &news {
            assert_eq!((flow.key, flow.goes_on), (key, 1));
            for (told, new) in told.iter_mut().zip(flow.flow.untold()) {
                *told += new;
            }
        }
        news.len()
    };
    let begun = host.now;
    assert_eq!(tell(&mut host, begun), 0, "it has just begun");
    assert_eq!(tell(&mut host, u64::MAX), 1);
    host.after(SECOND).receive(served(1), ACK).transmit(served(1), ACK);
    assert_eq!(tell(&mut host, u64::MAX), 1);
    assert_eq!(host.established()[0].1.wire(), told);
    host.after(SECOND).receive(served(1), ACK).close(served(1));
    let now = host.now;
    let end = host.finish(&key, now, now).expect("it has ended");
    assert_eq!(end.goes_on, 0);
    for (told, new) in told.iter_mut().zip(end.flow.untold()) {
        *told += new;
    }
    assert_eq!(told, end.flow.wire());
    host.assert_sums();
}
