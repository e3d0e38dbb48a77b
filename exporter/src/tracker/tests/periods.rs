//! Flows that go on for longer than the active timeout are told in parts, which add up to them.

use std::{
    iter::from_fn,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use proptest::{collection::vec, prelude::Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest, strategy::Just};
use tidewaiter_common::{
    api::ApiSlot,
    direction::Direction,
    flow::{ENDED, Flow, FlowKey, REFUSED},
    wire::Wire,
};
use tokio::sync::mpsc::Receiver;

use super::{Fixture, FlowTracker, MINUTE, WEB, context, key};
use crate::{
    flow::{CloseReason, FlowContext, FlowEnd, FlowRecord},
    snapshot::Counters,
    tracker::{ACTIVE_TIMEOUT, PERIOD, periods::MOST},
};

/// A second, as flows have times.
const SECOND: u64 = 1_000_000_000;
const TIMEOUT: u64 = ACTIVE_TIMEOUT.as_secs() * SECOND;
const IDLE: FlowEnd = FlowEnd::Closed(CloseReason::Idle);

/// A flow as the kernel keeps it, in a capture: its clock is that of its packets.
struct Kept {
    key: FlowKey,
    flow: Flow,
}

impl Kept {
    fn begin(client: u32, first: u64) -> Self {
        let mut kept = Self { key: key(client), flow: Flow::new(WEB, first, first) };
        kept.flow.handshake = 7;
        kept
    }

    /// Packets pass at `time`, and an answer among them.
    fn pass(&mut self, direction: Direction, packets: u64, time: u64) {
        let wire = Wire { packets, bytes: 100 * packets };
        // SAFETY: it is ours alone.
        unsafe { Flow::count(&raw mut self.flow, direction, wire, 0, time) };
        self.flow.responses += 1;
        self.flow.response_time += packets;
        self.flow.retransmitted += packets % 2;
    }

    /// Time passes, and nothing else: what it is by the clock of a capture.
    const fn wait(&mut self, time: u64) {
        self.flow.last = time;
    }

    /// What the kernel shows of it when it tells that it goes on.
    fn tell(&mut self) -> Flow {
        let mut copy = self.flow;
        // SAFETY: both are ours alone.
        assert!(unsafe { Flow::tell(&raw mut self.flow, &raw mut copy, self.flow.last) });
        copy
    }

    /// What the kernel shows of it when it is over, and another connection of the same ends begins.
    fn take(&mut self, next: u64) -> Flow {
        let mut copy = self.flow;
        // SAFETY: as above.
        unsafe {
            Flow::take(&raw mut self.flow, &raw mut copy);
            Flow::begin_anew(&raw mut self.flow, 0, next);
        }
        self.flow.handshake = 7;
        copy
    }
}

/// A tracker with a sink for records.
struct Told {
    fixture: Fixture,
    context: FlowContext,
    records: Receiver<Arc<FlowRecord>>,
}

impl Told {
    fn new() -> Self {
        let mut fixture = Fixture::new(20);
        let records = fixture.tracker.add_sink("test", MOST + 10);
        Self { fixture, context: context(), records }
    }

    fn go_on(&mut self, kept: &mut Kept) {
        let shown = kept.tell();
        self.fixture.tracker.go_on(&kept.key, &shown, Some(&self.context));
    }

    fn live(&mut self, kept: &Kept) {
        self.fixture.tracker.live(&kept.key, &kept.flow, Some(&self.context));
    }

    fn force(&mut self, kept: &mut Kept) {
        let shown = kept.tell();
        self.fixture.tracker.force_end(&kept.key, &shown, Some(&self.context));
    }

    /// It is over, and another begins at `next`.
    fn finish(&mut self, kept: &mut Kept, next: u64) {
        let shown = kept.take(next);
        self.fixture.tracker.finish(&kept.key, &shown, Some(&self.context));
    }

    /// Records since the last time.
    fn records(&mut self) -> Vec<FlowRecord> {
        from_fn(|| self.records.try_recv().ok()).map(|record| FlowRecord::clone(&record)).collect()
    }

    /// Packets that were received by them, and how they ended.
    fn received(&mut self) -> Vec<(u64, Option<FlowEnd>)> {
        self.records().iter().map(|record| (record.wire[0].packets, record.end)).collect()
    }

    /// Flows that are told in parts.
    fn kept(&self) -> usize {
        self.fixture.tracker.periods.len()
    }
}

fn time(nanoseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds)
}

#[test]
fn a_flow_that_goes_on_for_long_is_told_in_parts() {
    let mut told = Told::new();
    let mut kept = Kept::begin(1, 5 * SECOND);
    let mut expected = Vec::new();
    for minute in 1..=50 {
        let now = 5 * SECOND + minute * 60 * SECOND;
        kept.pass(Direction::Receive, minute, now);
        kept.pass(Direction::Transmit, 1, now);
        told.go_on(&mut kept);
        if minute % 15 == 0 {
            expected.push((minute - 14..=minute, FlowEnd::ActiveTimeout));
        }
    }
    told.finish(&mut kept, 0);
    expected.push((46..=50, IDLE));

    let records = told.records();
    assert_eq!(records.len(), expected.len());
    let mut before = 5 * SECOND;
    for (record, (minutes, end)) in records.iter().zip(expected) {
        let (packets, count) = (minutes.clone().sum::<u64>(), minutes.clone().count() as u64);
        let last = 5 * SECOND + minutes.end() * 60 * SECOND;
        assert_eq!(
            record.wire.map(|wire| (wire.packets, wire.bytes)),
            [(packets, 100 * packets), (count, 100 * count)]
        );
        assert_eq!((record.responses, record.response_time), (2 * count, Duration::from_nanos(packets + count)));
        assert_eq!((record.first, record.last, record.end), (time(before), time(last), Some(end)));
        assert_eq!(record.handshake, (before == 5 * SECOND).then_some(Duration::from_nanos(7)));
        before = last;
    }
    let bytes = records.iter().flat_map(|record| record.wire).map(|wire| wire.bytes).sum::<u64>();
    assert_eq!(told.fixture.sum(), bytes);
    assert_eq!(told.kept(), 0);
}

#[test]
fn nothing_is_told_of_a_period_without_a_packet() {
    let mut told = Told::new();
    let mut kept = Kept::begin(1, 0);
    kept.pass(Direction::Receive, 3, SECOND);
    told.go_on(&mut kept);
    assert_eq!(told.records().len(), 0, "it is young");
    // The kernel has told all there is, and does not do so again: it is found by the walk, once.
    kept.wait(TIMEOUT);
    told.live(&kept);
    kept.wait(2 * TIMEOUT);
    told.live(&kept);
    let [first] = told.records().try_into().expect("one record");
    assert_eq!((first.wire[0].packets, first.end), (3, Some(FlowEnd::ActiveTimeout)));

    // What is being counted may be read as more than it is, and is not told from that.
    kept.pass(Direction::Receive, 2, 3 * TIMEOUT);
    told.live(&kept);
    assert_eq!(told.records().len(), 0);
    told.go_on(&mut kept);
    let [second] = told.records().try_into().expect("one record");
    assert_eq!((second.wire[0].packets, second.first, second.last), (2, first.last, time(3 * TIMEOUT)));

    told.finish(&mut kept, 0);
    assert_eq!(told.records().len(), 0, "nothing was left of it");
    assert_eq!(told.kept(), 0);
}

#[test]
fn a_flow_that_has_ended_is_told_by_its_end() {
    let mut told = Told::new();
    let mut kept = Kept::begin(1, 0);
    kept.pass(Direction::Receive, 3, TIMEOUT);
    kept.flow.seen |= ENDED;
    told.go_on(&mut kept);
    assert_eq!(told.records().len(), 0);
    let fin = Some(FlowEnd::Closed(CloseReason::Fin));
    told.finish(&mut kept, TIMEOUT);
    assert_eq!(told.received(), [(3, fin)]);
}

#[test]
fn an_end_by_force_tells_what_is_left() {
    let mut told = Told::new();
    let mut kept = Kept::begin(1, 0);
    kept.pass(Direction::Receive, 3, TIMEOUT);
    told.go_on(&mut kept);
    kept.pass(Direction::Receive, 2, TIMEOUT + SECOND);
    for _ in 0..3 {
        told.force(&mut kept);
    }
    // One that is young, and one that was refused meanwhile.
    let mut young = Kept::begin(2, TIMEOUT);
    young.pass(Direction::Transmit, 1, TIMEOUT);
    told.force(&mut young);
    let mut refused = Kept::begin(3, TIMEOUT);
    refused.pass(Direction::Transmit, 1, TIMEOUT);
    refused.flow.seen |= ENDED | REFUSED;
    told.force(&mut refused);
    told.force(&mut Kept::begin(4, 0));

    let ends = [FlowEnd::ActiveTimeout, FlowEnd::ForcedEnd, FlowEnd::ForcedEnd, FlowEnd::Refused].map(Some);
    assert_eq!(told.received(), [3, 2, 0, 0].into_iter().zip(ends).collect::<Vec<_>>());
    assert_eq!(told.fixture.sum(), 700);
}

#[test]
fn without_room_a_flow_is_told_whole_when_it_is_over() {
    let mut told = Told::new();
    let most = u32::try_from(MOST).expect("a small number");
    let mut flows: Vec<_> = (0..most + 5).map(|client| Kept::begin(client, 0)).collect();
    for kept in &mut flows {
        kept.pass(Direction::Receive, 3, TIMEOUT);
        told.go_on(kept);
    }
    assert_eq!((told.records().len(), told.kept()), (MOST, MOST));
    // Those that have a place keep it, and those that have none are told by the end.
    let mut packets = Vec::new();
    for kept in &mut flows[MOST - 2..] {
        kept.pass(Direction::Receive, 1, 2 * TIMEOUT);
        told.go_on(kept);
        packets.extend(told.received());
    }
    assert_eq!(packets, [(1, Some(FlowEnd::ActiveTimeout)); 2]);
    // With an end there is room for one more.
    told.finish(&mut flows[MOST + 4], 0);
    told.finish(&mut flows[0], 0);
    assert_eq!(told.kept(), MOST - 1);
    let kept = &mut flows[MOST + 3];
    kept.pass(Direction::Receive, 1, 3 * TIMEOUT);
    told.go_on(kept);
    assert_eq!(told.received(), [(4, Some(IDLE)), (5, Some(FlowEnd::ActiveTimeout))]);
    assert_eq!(told.kept(), MOST);
}

/// How a connection ends when another begins at some time.
type End = fn(&mut Told, &mut Kept, u64);

#[test]
fn another_connection_of_the_same_ends_is_told_from_its_own_beginning() {
    let begin = |told: &mut Told| {
        let mut kept = Kept::begin(1, 0);
        kept.pass(Direction::Receive, 3, TIMEOUT);
        told.go_on(&mut kept);
        kept.pass(Direction::Receive, 2, TIMEOUT + SECOND);
        kept
    };
    let next = 2 * TIMEOUT;
    let handshake = Some(Duration::from_nanos(7));
    // The end of the one before is told, found no room, or was not even seen.
    let ends: [(End, u64); 3] = [
        (|told, kept, next| told.finish(kept, next), 9),
        // SAFETY: it is ours alone.
        (|_, kept, next| unsafe { Flow::begin_anew(&raw mut kept.flow, 0, next) }, 2 + 9),
        (|_, kept, next| *kept = Kept::begin(1, next), 9),
    ];
    for (end, packets) in ends {
        let mut told = Told::new();
        let mut kept = begin(&mut told);
        end(&mut told, &mut kept, next);
        told.records();
        kept.flow.handshake = 7;
        kept.pass(Direction::Receive, 9, 4 * TIMEOUT);
        told.go_on(&mut kept);
        let [record] = told.records().try_into().expect("one record");
        assert_eq!((record.wire[0].packets, record.first, record.handshake), (packets, time(next), handshake));
        kept.pass(Direction::Receive, 1, 4 * TIMEOUT);
        told.finish(&mut kept, 0);
        assert_eq!((told.received(), told.kept()), (vec![(1, Some(IDLE))], 0));
    }
}

#[test]
fn what_was_told_is_forgotten_when_its_flow_is_seen_no_more() {
    let mut told = Told::new();
    let [mut quiet, mut gone] = [1, 2].map(|client| Kept::begin(client, 0));
    for kept in [&mut quiet, &mut gone] {
        kept.pass(Direction::Receive, 3, TIMEOUT);
        told.go_on(kept);
    }
    for _ in 0..60 {
        told.fixture.pass(MINUTE);
        told.live(&quiet);
    }
    assert_eq!(told.kept(), 2);
    told.fixture.pass(MINUTE);
    assert_eq!(told.kept(), 1, "one was seen no more");
    told.live(&quiet);
    told.fixture.pass(60 * MINUTE);
    assert_eq!(told.kept(), 1);
    assert_eq!(told.records().len(), 2);
    quiet.pass(Direction::Receive, 1, 2 * TIMEOUT);
    told.finish(&mut quiet, 0);
    assert_eq!(told.records()[0].wire[0].packets, 1, "however long it was quiet");
}

#[test]
fn nothing_is_kept_of_flows_that_nobody_wants_records_of() {
    let mut fixture = Fixture::new(20);
    let mut kept = Kept::begin(1, 0);
    kept.pass(Direction::Receive, 3, TIMEOUT);
    let shown = kept.tell();
    fixture.tracker.go_on(&kept.key, &shown, None);
    fixture.tracker.live(&kept.key, &kept.flow, None);
    fixture.tracker.force_end(&kept.key, &kept.flow, None);
    assert_eq!((fixture.tracker.periods.len(), fixture.sum()), (0, 300));

    let short = FlowTracker::new(0, Instant::now()).with_active_timeout(Duration::from_secs(2));
    assert_eq!(short.period(), PERIOD, "nobody hears of parts");
    let mut wanted = short;
    let _records = wanted.add_sink("test", 1);
    assert_eq!(wanted.period(), Duration::from_secs(2));
    let mut long = FlowTracker::new(0, Instant::now());
    let _records = long.add_sink("test", 1);
    assert_eq!(long.period(), PERIOD, "bytes of clients are not as late as that");
}

/// What happens to one of some flows.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Packets pass.
    Pass(Direction, u64),
    /// Time passes, in seconds.
    Wait(u64),
    /// The kernel tells that it goes on.
    GoOn,
    /// The walk finds it.
    Live,
    /// It is over, and its ends open another connection.
    Reopen,
    /// The same, but there is no room to tell.
    ReopenUntold,
    /// It is another API's from now on.
    ChangeHands,
    /// It is told by force.
    Force,
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let step = prop_oneof![
        8 => (0..2_usize, 1..1_000_u64).prop_map(|(at, packets)| Step::Pass(Direction::ALL[at], packets)),
        4 => (0..2_000_u64).prop_map(Step::Wait),
        6 => Just(Step::GoOn),
        4 => Just(Step::Live),
        2 => Just(Step::Reopen),
        1 => Just(Step::ReopenUntold),
        1 => Just(Step::ChangeHands),
        1 => Just(Step::Force),
    ];
    (0..3_usize, step)
}

proptest! {
    #[test]
    fn the_records_of_a_flow_add_up_to_it(steps in vec(step(), 1..200)) {
        let mut tracked = Told::new();
        let mut flows = [0, 1, 2].map(|client| Kept::begin(client, SECOND));
        let mut passed = [[Counters::default(); Direction::COUNT]; 3];
        let (mut answers, mut now) = ([0; 3], SECOND);
        // In the end all are over.
        for (at, step) in steps.into_iter().chain([0, 1, 2].map(|at| (at, Step::Reopen))) {
            let kept = &mut flows[at];
            kept.wait(now);
            match step {
                Step::Pass(direction, packets) => {
                    kept.pass(direction, packets, now);
                    passed[at][direction.index()] += Counters { packets, bytes: 100 * packets };
                    answers[at] += 1;
                }
                Step::Wait(seconds) => now += seconds * SECOND,
                Step::GoOn => tracked.go_on(kept),
                Step::Live => tracked.live(kept),
                Step::Reopen => tracked.finish(kept, now),
                // SAFETY: it is ours alone.
                Step::ReopenUntold => unsafe { Flow::begin_anew(&raw mut kept.flow, 0, now) },
                Step::ChangeHands => {
                    tracked.go_on(kept);
                    kept.flow.api = ApiSlot(kept.flow.api.0 ^ 1);
                }
                Step::Force => tracked.force(kept),
            }
        }
        let (mut told, mut told_answers) = ([[Counters::default(); Direction::COUNT]; 3], [0; 3]);
        let mut until = [SystemTime::UNIX_EPOCH; 3];
        for record in tracked.records() {
            let IpAddr::V4(client) = record.remote.ip() else { panic!("{record:?}") };
            let at = client.to_bits() as usize;
            for direction in Direction::ALL {
                told[at][direction.index()] += record.wire[direction.index()];
            }
            told_answers[at] += record.responses;
            prop_assert!(record.wire.iter().any(|wire| wire.packets > 0), "{:?}", record);
            prop_assert!(record.end.is_some() && until[at] <= record.first && record.first <= record.last, "{:?}", record);
            until[at] = record.last;
        }
        prop_assert_eq!(told, passed);
        prop_assert_eq!(told_answers, answers);
        prop_assert_eq!(tracked.kept(), 0);
    }
}
