mod periods;

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use proptest::{
    collection::vec,
    prelude::{Strategy, any},
    prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use tidewaiter_common::{address::Address, api::ApiSlot, direction::Direction, flow::Flow, flow::FlowKey, wire::Wire};

use super::{FlowTracker, MAX_NAMES, MINUTE};
use crate::{flow::FlowClock, flow::FlowContext, greeting::Greetings, kernel::Ticks, snapshot::ClientsSnapshot};

const WEB: ApiSlot = ApiSlot(1);
/// The tick that it is in all tests at the start.
const NOW: u64 = 1_000_000;

/// A tracker with an API, and a clock that goes as far as it is told.
struct Fixture {
    tracker: FlowTracker,
    now: Instant,
    tick: u64,
}

impl Fixture {
    fn new(budget: usize) -> Self {
        let now = Instant::now();
        let mut tracker = FlowTracker::new(budget, now);
        tracker.begin(WEB, 0, 0);
        let mut fixture = Self { tracker, now, tick: NOW };
        fixture.pass(Duration::ZERO);
        fixture
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.tick += u64::try_from(time.as_millis()).expect("not so long") / 4;
        self.tracker.tick(self.now, Ticks { now: self.tick, length: Duration::from_millis(4) });
    }

    fn count(&mut self, client: u32, bytes: u64) {
        self.tracker.count(WEB, address(client), bytes);
    }

    fn clients(&self) -> ClientsSnapshot {
        self.tracker.clients(WEB, 0).expect("there is an API")
    }

    /// Bytes by client, and of the others.
    fn bytes(&self) -> (HashMap<IpAddr, u64>, u64) {
        let ClientsSnapshot { named, other, .. } = self.clients();
        (named.into_iter().map(|client| (client.address, client.bytes)).collect(), other.expect("it is counted"))
    }

    fn sum(&self) -> u64 {
        let (named, other) = self.bytes();
        named.values().sum::<u64>() + other
    }

    fn is_named(&self, client: u32) -> bool {
        self.bytes().0.contains_key(&ip(client))
    }

    fn watched(&self) -> usize {
        self.tracker.apis[1].as_ref().expect("there is one").clients.watched()
    }
}

fn address(client: u32) -> Address {
    ip(client).into()
}

fn ip(client: u32) -> IpAddr {
    IpAddr::V4(client.into())
}

fn key(client: u32) -> FlowKey {
    FlowKey { local: address(1), remote: address(client), interface: 2, local_port: 80, remote_port: 9, protocol: 6 }
}

/// A flow of `slot` with so many bytes received and one sent, last seen at `tick`.
fn flow(slot: ApiSlot, bytes: u64, tick: u64) -> Flow {
    let mut flow = Flow::new(slot, 0, tick);
    for (direction, bytes) in [(Direction::Receive, bytes), (Direction::Transmit, 1)] {
        let wire = Wire { packets: 1, bytes };
        // SAFETY: it is ours alone.
        unsafe { Flow::count(&raw mut flow, direction, wire, 0, tick) };
    }
    flow
}

fn context() -> FlowContext {
    FlowContext {
        greetings: Greetings::default(),
        apis: std::iter::once((WEB, ("web".into(), crate::api::Role::Server))).collect(),
        interfaces: HashMap::new(),
        clock: FlowClock::Captured,
    }
}

#[test]
fn few_clients_are_counted_by_themselves_from_their_first_byte() {
    let mut fixture = Fixture::new(20);
    for client in 0..20 {
        fixture.tracker.finish(&key(client), &flow(WEB, 99, NOW), None);
    }
    let (named, other) = fixture.bytes();
    assert_eq!((named.len(), other), (20, 0));
    assert!(named.values().all(|bytes| *bytes == 100), "both directions");
    fixture.count(20, 7);
    assert_eq!((fixture.bytes().0.len(), fixture.bytes().1), (20, 7));
    assert_eq!(fixture.clients().distinct, 20, "bytes alone are nobody who was seen");
}

#[test]
fn nothing_is_counted_by_client_without_a_budget() {
    let mut fixture = Fixture::new(0);
    fixture.tracker.finish(&key(1), &flow(WEB, 1, NOW), None);
    let ClientsSnapshot { named, other, distinct, .. } = fixture.clients();
    assert_eq!((named.len(), other, distinct), (0, None, 1));
}

#[test]
fn what_was_in_no_flow_is_of_others() {
    let mut fixture = Fixture::new(1);
    fixture.tracker.begin(WEB, 0, 1_000);
    fixture.count(1, 5);
    assert_eq!(fixture.tracker.clients(WEB, 1_000).and_then(|clients| clients.other), Some(0));
    assert_eq!(fixture.tracker.clients(WEB, 1_300).and_then(|clients| clients.other), Some(300));
}

#[test]
fn a_name_changes_hands_only_to_one_who_has_clearly_more() {
    let mut fixture = Fixture::new(1);
    fixture.count(1, 1_000);
    fixture.count(2, 1_900);
    fixture.pass(MINUTE);
    assert!(fixture.is_named(1), "not even twice as much");
    // Half of what was is left.
    fixture.count(2, 200);
    fixture.pass(MINUTE);
    let (named, other) = fixture.bytes();
    assert_eq!(named, HashMap::from([(ip(2), 0)]), "it begins when it gets its name");
    assert_eq!(other, 3_100, "what it had before stays, and what the other had is there too");
    // The loser is watched with what it had: one who is as strong again does not get in at once.
    for _ in 0..10 {
        fixture.count(1, 1_000);
        fixture.count(2, 1_000);
        fixture.pass(MINUTE);
        assert!(fixture.is_named(2), "equals do not take turns");
    }
}

#[test]
fn few_names_change_hands_at_a_time() {
    let mut fixture = Fixture::new(20);
    (0..20).for_each(|client| fixture.count(client, 10));
    let mut before = fixture.bytes().0;
    for minute in 1..=4 {
        (100..120).for_each(|client| fixture.count(client, 1_000_000));
        fixture.pass(MINUTE);
        let now = fixture.bytes().0;
        assert_eq!(now.keys().filter(|client| !before.contains_key(client)).count(), 5, "minute {minute}");
        before = now;
    }
    assert!((100..120).all(|client| fixture.is_named(client)));
}

#[test]
fn a_flood_neither_takes_memory_nor_names() {
    let mut fixture = Fixture::new(20);
    // First come the crowd, then ten who have much, among more of the crowd.
    (0..100_000).for_each(|client| fixture.count(1_000_000 + client, 60));
    let mut total = 100_000 * 60;
    for minute in 0..6 {
        for client in 0..100_000_u32 {
            fixture.count(2_000_000 + minute * 100_000 + client, 60);
            if client % 100 == 0 {
                fixture.count(client / 100 % 10, 10_000);
                total += 10_000;
            }
            total += 60;
        }
        fixture.pass(MINUTE);
        assert_eq!(fixture.sum(), total);
        assert!(fixture.watched() <= 160, "{}", fixture.watched());
        assert_eq!(fixture.bytes().0.len(), 20);
    }
    assert!((0..10).all(|client| fixture.is_named(client)));
    // And they keep them.
    (0..1_000_000).for_each(|client| fixture.count(50_000_000 + client, 60));
    fixture.pass(MINUTE);
    assert!((0..10).all(|client| fixture.is_named(client)));
    let estimate = fixture.clients().distinct;
    assert_eq!(estimate, 0, "nobody was seen, only counted");
}

#[test]
fn very_many_equals_keep_names_where_they_are() {
    let mut fixture = Fixture::new(20);
    (0..20).for_each(|client| fixture.count(client, 1_000));
    let before: Vec<_> = fixture.clients().named.iter().map(|client| client.address).collect();
    for minute in 0..30 {
        (0..10_000).for_each(|client| fixture.count(1_000 + minute * 10_000 + client, 1_000));
        fixture.pass(MINUTE);
    }
    let after: Vec<_> = fixture.clients().named.iter().map(|client| client.address).collect();
    assert_eq!(after, before, "no series comes and goes for next to nothing");
}

#[test]
fn all_apis_share_a_bound() {
    let mut tracker = FlowTracker::new(1_000, Instant::now());
    for slot in 1..=30 {
        tracker.begin(ApiSlot(slot), 0, 0);
        (0..1_000).for_each(|client| tracker.count(ApiSlot(slot), address(client), 1));
    }
    let named =
        |tracker: &FlowTracker, slot| tracker.clients(ApiSlot(slot), 0).map_or(0, |clients| clients.named.len());
    assert_eq!((1..=30).map(|slot| named(&tracker, slot)).sum::<usize>(), MAX_NAMES);
    tracker.forget(ApiSlot(1));
    tracker.count(ApiSlot(30), address(5_000), 1);
    assert_eq!((named(&tracker, 1), named(&tracker, 30)), (0, 1));
}

#[test]
fn a_slot_that_has_another_holder_begins_anew() {
    let mut fixture = Fixture::new(20);
    fixture.tracker.finish(&key(1), &flow(WEB, 99, NOW), None);
    fixture.tracker.forget(WEB);
    assert!(fixture.tracker.clients(WEB, 0).is_none());
    fixture.tracker.finish(&key(1), &flow(WEB, 99, NOW), None);
    fixture.tracker.begin(WEB, NOW + 10, 0);
    // Flows of the one before are still in the kernel's table.
    fixture.tracker.see(&key(2), &flow(WEB, 99, NOW + 9));
    fixture.tracker.finish(&key(2), &flow(WEB, 99, NOW + 9), None);
    assert_eq!((fixture.sum(), fixture.clients().distinct), (0, 0));
    fixture.tracker.finish(&key(3), &flow(WEB, 99, NOW + 10), None);
    assert_eq!((fixture.sum(), fixture.clients().distinct), (100, 1));
}

#[test]
fn what_is_of_no_api_has_no_clients() {
    let mut fixture = Fixture::new(20);
    for slot in [ApiSlot::UNMAPPED, ApiSlot(2), ApiSlot(u16::MAX)] {
        fixture.tracker.begin(ApiSlot::UNMAPPED, 0, 0);
        fixture.tracker.finish(&key(1), &flow(slot, 1, NOW), None);
        fixture.tracker.see(&key(1), &flow(slot, 1, NOW));
        fixture.tracker.forget(slot);
        assert!(fixture.tracker.clients(slot, 0).is_none());
    }
    assert_eq!(fixture.sum(), 0);
}

#[test]
fn clients_of_the_last_minutes_are_estimated() {
    for count in [10, 1_000, 100_000_u32] {
        let mut fixture = Fixture::new(20);
        for client in 0..count {
            if client % (count / 5) == 0 {
                fixture.pass(Duration::from_secs(59));
            }
            let tick = fixture.tick;
            // Seen while it goes on, and when it is over.
            fixture.tracker.see(&key(client), &flow(WEB, 1, tick));
            fixture.tracker.finish(&key(client), &flow(WEB, 1, tick), None);
        }
        let estimate = u32::try_from(fixture.clients().distinct).expect("not so many");
        let error = (f64::from(estimate) - f64::from(count)) / f64::from(count);
        // Three standard errors would be 5 %; five of them a million runs exceed once.
        assert!(error.abs() < 0.082, "{estimate} of {count}");
        assert!(count > 500 || estimate == count, "few are counted exactly");

        fixture.pass(5 * MINUTE);
        // A flow that is kept but quiet says nothing of who is there.
        fixture.tracker.see(&key(1), &flow(WEB, 1, NOW));
        assert_eq!(fixture.clients().distinct, 0);
    }
}

#[test]
fn a_sink_that_does_not_read_misses_records_and_slows_nobody() {
    let mut fixture = Fixture::new(20);
    assert!(!fixture.tracker.wants_records());
    let mut slow = fixture.tracker.add_sink("slow", 2);
    let mut quick = fixture.tracker.add_sink("quick", 10);
    drop(fixture.tracker.add_sink("gone", 10));
    assert!(fixture.tracker.wants_records());
    let context = context();
    for client in 0..5 {
        fixture.tracker.finish(&key(client), &flow(WEB, 99, NOW), Some(&context));
    }
    fixture.tracker.finish(&key(6), &Flow::new(WEB, 0, NOW), Some(&context));
    let counts: Vec<_> =
        fixture.tracker.sinks().into_iter().map(|sink| (sink.name, sink.records, sink.dropped)).collect();
    assert_eq!(counts, [("slow", 2, 3), ("quick", 5, 0), ("gone", 0, 5)]);
    let first = slow.try_recv().expect("a record");
    assert_eq!((&*first.api, first.remote.to_string().as_str()), ("web", "0.0.0.0:9"));
    assert_eq!(first.wire.map(|wire| wire.bytes), [99, 1]);
    assert_eq!(std::iter::from_fn(|| quick.try_recv().ok()).count(), 5);
}

/// What happens to a tracker.
#[derive(Clone, Debug)]
enum Event {
    Bytes(u32, u64),
    Flood(u32, u64),
    Minute,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        20 => (0..40_u32, 0..1_000_000_u64).prop_map(|(client, bytes)| Event::Bytes(client, bytes)),
        1 => (any::<u32>(), 1..2_000_u64).prop_map(|(start, bytes)| Event::Flood(start, bytes)),
        3 => proptest::strategy::Just(Event::Minute),
    ]
}

proptest! {
    #[test]
    fn the_sum_is_exact_and_nothing_goes_backwards(budget in 1..30_usize, events in vec(event(), 1..300)) {
        let mut fixture = Fixture::new(budget);
        let mut total = 0;
        let mut before: ClientsSnapshot = fixture.clients();
        for event in events {
            match event {
                Event::Bytes(client, bytes) => {
                    fixture.count(client, bytes);
                    total += bytes;
                }
                Event::Flood(start, bytes) => {
                    (0..300).for_each(|client| fixture.count(start.wrapping_add(client), bytes));
                    total += 300 * bytes;
                }
                Event::Minute => fixture.pass(MINUTE),
            }
            prop_assert_eq!(fixture.sum(), total);
            let now = fixture.clients();
            prop_assert!(now.other >= before.other);
            prop_assert!(now.named.len() <= budget && fixture.watched() <= (8 * budget).max(64));
            let mut changed = 0;
            for client in &before.named {
                match now.named.iter().find(|one| one.address == client.address) {
                    Some(one) => prop_assert!(one.bytes >= client.bytes && one.created == client.created),
                    None => changed += 1,
                }
            }
            prop_assert!(changed <= (budget / 4).max(1));
            before = now;
        }
    }
}

/// `cargo test --release -p tidewaiter fold -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn how_quickly_flows_fold() {
    const FLOWS: u32 = 1_000_000;
    for clients in [10, 10, 1_000, FLOWS] {
        let flows: Vec<_> = (0..FLOWS).map(|number| (key(number % clients), flow(WEB, 1_000, NOW))).collect();
        let mut fixture = Fixture::new(20);
        let start = Instant::now();
        for (key, flow) in &flows {
            fixture.tracker.finish(key, flow, None);
        }
        let elapsed = start.elapsed();
        println!(
            "{FLOWS} flows of {clients} clients: {elapsed:?}, {} ns each; {} seen",
            elapsed.as_nanos() / u128::from(FLOWS),
            fixture.clients().distinct
        );
    }
}
