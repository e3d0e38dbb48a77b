//! What becomes of flows that are over: bytes by client, an estimate of how many clients there were, and records for those
//! who want them.
//!
//! The client of a flow is its other end, also where this host is the client itself: then it is the host that is called.
//! Addresses are anybody's to choose, so all that is kept has bounds, and every table is hashed by a random key. In all, at
//! most: [`MAX_NAMES`] names (2.5 MB); 8192 clients that are answered more than they ask (1 MB); what was told of 65,536 flows that go on for long (20 MB, and only where
//! somebody wants records); for each API the clients that are watched, 6 KB with 20 names and 50 KB with 128 or
//! more; and 20 KB for the clients of the last minutes. With 1023 APIs that all have as many clients as anybody can forge:
//! 30 MB with 20 names each, 75 MB with more. Few clients take next to nothing.

mod amplification;
mod candidates;
mod clients;
mod distinct;
mod periods;
mod sketch;

use std::{
    hash::RandomState,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tidewaiter_common::{
    address::Address,
    api::{ApiSlot, MAX_APIS},
    flow::{Flow, FlowKey},
};
use tokio::sync::mpsc::Receiver;

pub use self::amplification::Amplified;
use self::{
    amplification::Amplifications,
    clients::Clients,
    distinct::Distinct,
    periods::{Before, Periods},
};
use crate::{
    anomaly::thresholds,
    flow::{FlowContext, FlowEnd, FlowRecord},
    kernel::Ticks,
    sinks::{NoRoom, Sinks},
    snapshot::{ClientsSnapshot, Counters, Direction, SinkSnapshot},
};

/// The most clients that can have a name at a time, all APIs together: 20 of each API there can be. First come, first
/// served.
pub const MAX_NAMES: usize = 20 * MAX_APIS as usize;

/// How long a flow goes on until it is told in parts, unless somebody says otherwise.
pub const ACTIVE_TIMEOUT: Duration = Duration::from_mins(15);

/// How often a flow that goes on is told of, at least: so late, at most, are bytes of its client.
const PERIOD: Duration = Duration::from_mins(1);

/// Time between two reviews of who has a name, and what is told apart of clients that were seen.
const MINUTE: Duration = Duration::from_mins(1);

/// Follows flows to their end.
#[derive(Debug)]
pub struct FlowTracker {
    /// Names that each API may have.
    budget: usize,
    /// Names that nobody has.
    free: usize,
    /// By slot.
    apis: Vec<Option<Box<ApiTracker>>>,
    hasher: RandomState,
    started: Instant,
    minute: u64,
    /// Flows that were last seen before this tick say nothing about who was there of late.
    recent: u64,
    sinks: Sinks<FlowRecord>,
    periods: Periods,
    amplifications: Amplifications,
}

#[derive(Debug)]
struct ApiTracker {
    clients: Clients,
    distinct: Distinct,
    /// The tick since which the API has its slot.
    since: u64,
    /// Bytes of packets in no flow when it began.
    untracked: u64,
    created: SystemTime,
}

impl FlowTracker {
    /// Counts bytes of at most `budget` clients of each API by themselves.
    #[must_use]
    pub fn new(budget: usize, now: Instant) -> Self {
        let hasher = RandomState::new();
        Self {
            budget,
            free: MAX_NAMES,
            apis: (0..MAX_APIS).map(|_| None).collect(),
            periods: Periods::new(ACTIVE_TIMEOUT, hasher.clone()),
            amplifications: Amplifications::new(now, hasher.clone()),
            hasher,
            started: now,
            minute: 0,
            recent: 0,
            sinks: Sinks::default(),
        }
    }

    /// Tells flows that go on for longer than `active_timeout` in parts, one for each such period.
    #[must_use]
    pub fn with_active_timeout(self, active_timeout: Duration) -> Self {
        Self { periods: Periods::new(active_timeout, self.hasher.clone()), ..self }
    }

    /// How often flows that go on are to be told of.
    #[must_use]
    pub fn period(&self) -> Duration {
        if self.wants_records() { PERIOD.min(self.periods.active_timeout()) } else { PERIOD }
    }

    /// Says from which on answers over UDP are amplification; nothing is looked for without.
    pub fn set_amplification(&mut self, limits: Option<thresholds::Amplification>) {
        self.amplifications.set_limits(limits);
    }

    /// Clients that were answered far more than they have asked, since this was called last.
    pub fn take_amplified(&mut self) -> Vec<Amplified> {
        self.amplifications.take()
    }

    /// Takes note that a new API has `slot`, since the tick `since`, and that `untracked` bytes of it were counted by now in
    /// packets that are part of no flow.
    pub fn begin(&mut self, slot: ApiSlot, since: u64, untracked: u64) {
        self.forget(slot);
        let Some(place) = self.apis.get_mut(usize::from(slot.0)) else { return };
        if slot.is_mapped() {
            *place = Some(Box::new(ApiTracker {
                clients: Clients::new(self.budget, &self.hasher),
                distinct: Distinct::default(),
                since,
                untracked,
                created: SystemTime::now(),
            }));
        }
    }

    /// Forgets the API that has `slot`.
    pub fn forget(&mut self, slot: ApiSlot) {
        let gone = self.apis.get_mut(usize::from(slot.0)).and_then(Option::take);
        self.free += gone.map_or(0, |api| api.clients.names());
    }

    /// Takes in a flow that is over: it was taken out of the kernel's tables, or what was counted in it was. `context` is asked
    /// for only if somebody [wants records](Self::wants_records).
    pub fn finish(&mut self, key: &FlowKey, flow: &Flow, context: Option<&FlowContext>) {
        self.count_untold(key, flow);
        if let Some(context) = context
            && let Some(before) = self.periods.finish(key, flow)
        {
            self.sinks.hand_over(|| before.leave_out_of(FlowRecord::finished(key, flow, context)));
        }
    }

    /// Takes in what is new of a flow that goes on for long; `context` as in [`finish`](Self::finish). Where the active timeout
    /// is over, the part since the last time is told. It is told as the API's that the flow belongs to by then.
    pub fn go_on(&mut self, key: &FlowKey, flow: &Flow, context: Option<&FlowContext>) {
        self.count_untold(key, flow);
        if let Some(context) = context {
            self.tell_period(key, flow, context);
        }
    }

    /// Takes in what there is of a flow that goes on, but will not be told of any more; `context` as in
    /// [`finish`](Self::finish).
    pub fn force_end(&mut self, key: &FlowKey, flow: &Flow, context: Option<&FlowContext>) {
        self.count_untold(key, flow);
        if let Some(context) = context
            && let Some(before) = self.periods.force(key, flow, context.clock)
        {
            self.hand_over_part(before, FlowEnd::ForcedEnd, || FlowRecord::new(key, flow, context));
        }
    }

    /// Takes note of a flow that goes on, as it was read: the kernel may be counting in it. As often as one likes; `context` as
    /// in [`finish`](Self::finish).
    pub fn live(&mut self, key: &FlowKey, flow: &Flow, context: Option<&FlowContext>) {
        self.see(key, flow);
        let Some(context) = context else { return };
        if flow.untold() == [Counters::default(); Direction::COUNT] {
            // Nothing has passed since the kernel told of it, which it does not do again; so what was read is exact.
            self.tell_period(key, flow, context);
        } else {
            self.periods.see(key, flow, context.clock);
        }
    }

    /// Tells what passed of a flow that goes on since it was told last, if that was the active timeout ago.
    fn tell_period(&mut self, key: &FlowKey, flow: &Flow, context: &FlowContext) {
        if let Some(before) = self.periods.go_on(key, flow, context.clock) {
            self.hand_over_part(before, FlowEnd::ActiveTimeout, || FlowRecord::new(key, flow, context));
        }
    }

    /// Counts the client's bytes that are new.
    fn count_untold(&mut self, key: &FlowKey, flow: &Flow) {
        self.see(key, flow);
        if self.holds(flow) {
            self.amplifications.see(key, flow, flow.untold());
            let [receive, transmit] = flow.untold().map(|counters| counters.bytes);
            self.count(flow.api, key.remote, receive.saturating_add(transmit));
        }
    }

    /// Hands over what is left of the record that `build` makes of a flow which goes on, as far as is known.
    fn hand_over_part(&mut self, before: Before, reason: FlowEnd, build: impl Fn() -> FlowRecord) {
        self.sinks.hand_over(|| {
            let record = before.leave_out_of(build());
            FlowRecord { end: record.end.or(Some(reason)), ..record }
        });
    }

    /// Takes note of the client of a flow that goes on, or of one that is over. As often as one likes.
    pub fn see(&mut self, key: &FlowKey, flow: &Flow) {
        if flow.last < self.recent || !self.holds(flow) {
            return;
        }
        if let Some(api) = self.apis.get_mut(usize::from(flow.api.0)).and_then(Option::as_mut) {
            let hash = api.clients.hash(key.remote);
            api.distinct.see(self.minute, hash);
        }
    }

    /// Counts `bytes` of the client at `remote` for the API that has `slot`.
    pub fn count(&mut self, slot: ApiSlot, remote: Address, bytes: u64) {
        if let Some(api) = self.apis.get_mut(usize::from(slot.0)).and_then(Option::as_mut) {
            api.clients.count(remote, bytes, &mut self.free);
        }
    }

    /// Whether the API that has the slot which `flow` was counted for had it then: flows may be quiet for longer than a slot
    /// stays with one.
    fn holds(&self, flow: &Flow) -> bool {
        self.api(flow.api).is_some_and(|api| api.since <= flow.last)
    }

    fn api(&self, slot: ApiSlot) -> Option<&ApiTracker> {
        self.apis.get(usize::from(slot.0))?.as_deref()
    }

    /// Says what time it is. To be called each second or so.
    pub fn tick(&mut self, now: Instant, ticks: Ticks) {
        self.recent = ticks.ago(MINUTE);
        self.amplifications.tick(now);
        let minute = now.saturating_duration_since(self.started).as_secs() / MINUTE.as_secs();
        if minute == self.minute {
            return;
        }
        self.minute = minute;
        self.periods.tick(minute);
        for api in self.apis.iter_mut().flatten() {
            api.clients.review();
            api.distinct.forget_before(minute);
        }
    }

    /// Has records of flows that are over handed to a sink called `name`, which reads them from what this answers with. Where
    /// `capacity` of them wait there, more are dropped.
    pub fn add_sink(&mut self, name: &'static str, capacity: usize) -> Receiver<Arc<FlowRecord>> {
        self.sinks.add(name, capacity)
    }

    /// As [`add_sink`](Self::add_sink), where `no_room` is shown what is dropped.
    pub fn add_watched_sink(
        &mut self,
        name: &'static str,
        capacity: usize,
        no_room: Arc<dyn NoRoom<FlowRecord>>,
    ) -> Receiver<Arc<FlowRecord>> {
        self.sinks.add_with(name, capacity, Some(no_room))
    }

    /// Whether every sink has room for half of the records that it can have waiting.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.sinks.has_room()
    }

    /// Whether there is a sink that wants records.
    #[must_use]
    pub const fn wants_records(&self) -> bool {
        !self.sinks.is_empty()
    }

    /// The clients of the API that has `slot`, of which `untracked` bytes were counted in packets that are part of no flow.
    #[must_use]
    pub fn clients(&self, slot: ApiSlot, untracked: u64) -> Option<ClientsSnapshot> {
        let ApiTracker { clients, distinct, since: _, untracked: before, created } = self.api(slot)?;
        let untracked = untracked.saturating_sub(*before);
        Some(ClientsSnapshot {
            named: clients.named(),
            other: clients.other().map(|other| other + untracked),
            distinct: distinct.estimate(self.minute),
            created: *created,
        })
    }

    /// What was handed to each sink.
    #[must_use]
    pub fn sinks(&self) -> Vec<SinkSnapshot> {
        self.sinks.snapshot()
    }
}

#[cfg(test)]
mod tests;
