//! What was told of flows that go on for longer than the active timeout.

use std::{
    collections::HashMap,
    hash::RandomState,
    time::{Duration, SystemTime},
};

use tidewaiter_common::flow::{ENDED, Flow, FlowKey};

use crate::{
    flow::{FlowClock, FlowRecord},
    snapshot::{Counters, Direction},
};

/// The most flows that are told in parts: some 150 bytes each, 20 MB in all. Others are told whole when they are over.
pub(super) const MOST: usize = 1 << 16;

/// For how many minutes a flow must not have been seen to be forgotten. What goes on is seen with each walk over the table, which
/// takes a quarter of a minute; what is over says so. So this is for those whose end was lost.
const FORGOTTEN_AFTER: u64 = 60;

/// A part of the active timeout that a period may lack: it is measured by another clock than the kernel tells flows by.
const SLACK: u32 = 64;

/// What was told of flows that go on, by period.
#[derive(Debug)]
pub(super) struct Periods {
    active_timeout: Duration,
    /// Only flows that are older than the active timeout, each as it was when its last period ended.
    told: HashMap<FlowKey, Told, RandomState>,
    minute: u64,
}

/// A flow, as far as it was told.
#[derive(Clone, Copy, Debug)]
struct Told {
    /// When the flow began, as the kernel says it: another connection of the same ends has begun at another time.
    first: u64,
    sums: Sums,
    /// When the last packet passed that was told.
    until: SystemTime,
    /// When that was told, by the clock of `first`.
    at: u64,
    /// The minute in which the flow was seen last.
    seen: u64,
}

/// What is added up in a flow.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    wire: [Counters; Direction::COUNT],
    responses: u64,
    response_time: u64,
    retransmitted: u64,
}

/// What was told of a flow before; nothing, of most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    sums: Sums,
    /// Until when it was told; `None` if it never was.
    until: Option<SystemTime>,
    /// The moment since when it is untold, by the clock of [`Flow::first`].
    since: u64,
}

impl Periods {
    pub(super) const fn new(active_timeout: Duration, hasher: RandomState) -> Self {
        Self { active_timeout, told: HashMap::with_hasher(hasher), minute: 0 }
    }

    pub(super) const fn active_timeout(&self) -> Duration {
        self.active_timeout
    }

    /// Takes note of a flow that goes on, of which `flow` is no less than what was told before. If it is time to tell another
    /// part, answers with what to leave out of that, and takes it for told.
    pub(super) fn go_on(&mut self, key: &FlowKey, flow: &Flow, clock: FlowClock) -> Option<Before> {
        self.see(key, flow, clock);
        let now = clock.moment(flow);
        // One that has ended is told so in a moment.
        if !self.is_over(flow.first, now) || flow.seen & ENDED != 0 {
            return None;
        }
        let before = self.before(key, flow);
        if !self.is_over(before.since, now) || before.is_all(flow) {
            return None;
        }
        self.tell(key, flow, clock).then_some(before)
    }

    /// Takes note that a flow goes on, so that it is not forgotten.
    pub(super) fn see(&mut self, key: &FlowKey, flow: &Flow, clock: FlowClock) {
        if !self.told.is_empty()
            && self.is_over(flow.first, clock.moment(flow))
            && let Some(told) = self.told.get_mut(key)
        {
            told.seen = self.minute;
        }
    }

    /// Takes what there is of a flow for told, whatever its age. Answers with what to leave out; `None` if nothing is left.
    pub(super) fn force(&mut self, key: &FlowKey, flow: &Flow, clock: FlowClock) -> Option<Before> {
        let before = self.before(key, flow);
        if before.is_all(flow) {
            return None;
        }
        // Without room it is told all the same: nothing is told after that.
        self.tell(key, flow, clock);
        Some(before)
    }

    /// Forgets a flow that is over. Answers with what to leave out when it is told; `None` if nothing is left.
    pub(super) fn finish(&mut self, key: &FlowKey, flow: &Flow) -> Option<Before> {
        let before = self.before(key, flow);
        self.told.remove(key);
        (!before.is_all(flow)).then_some(before)
    }

    /// Says which minute it is, whenever that changes.
    pub(super) fn tick(&mut self, minute: u64) {
        self.minute = minute;
        self.told.retain(|_, told| minute.saturating_sub(told.seen) <= FORGOTTEN_AFTER);
    }

    /// Whether a period that began at `since` is over.
    fn is_over(&self, since: u64, now: u64) -> bool {
        let least = self.active_timeout.saturating_sub(self.active_timeout / SLACK);
        Duration::from_nanos(now.saturating_sub(since)) >= least
    }

    /// Takes what there is of a flow for told. Says whether there was room.
    fn tell(&mut self, key: &FlowKey, flow: &Flow, clock: FlowClock) -> bool {
        if self.told.len() >= MOST && !self.told.contains_key(key) {
            return false;
        }
        let (_, until) = clock.times(flow);
        let told = Told { first: flow.first, sums: Sums::of(flow), until, at: clock.moment(flow), seen: self.minute };
        self.told.insert(*key, told);
        true
    }

    fn before(&self, key: &FlowKey, flow: &Flow) -> Before {
        let nothing = Before { sums: Sums::default(), until: None, since: flow.first };
        match self.told.get(key) {
            Some(&Told { first, sums, until, at, .. }) if first == flow.first => {
                Before { sums, until: Some(until), since: at }
            }
            // Another connection, but the end of the one before found no room in the ring: then what was counted of that is
            // counted in this one, and so is what the kernel knows to have told.
            Some(Told { sums, .. }) if sums.is_told_in(flow) => Before { sums: *sums, ..nothing },
            _ => nothing,
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.told.len()
    }
}

impl Sums {
    fn of(flow: &Flow) -> Self {
        let Flow { responses, response_time, retransmitted, .. } = *flow;
        Self { wire: flow.wire(), responses, response_time, retransmitted }
    }

    /// Whether the kernel has told no less of `flow`.
    fn is_told_in(&self, flow: &Flow) -> bool {
        let told = flow.wire().into_iter().zip(flow.untold()).map(|(all, untold)| all - untold);
        self.wire.iter().zip(told).all(|(mine, told)| mine.packets <= told.packets && mine.bytes <= told.bytes)
    }
}

impl Before {
    /// Whether no packet of `flow` has passed since.
    fn is_all(&self, flow: &Flow) -> bool {
        let left = flow.wire().into_iter().zip(self.sums.wire).map(|(all, told)| all - told);
        left.into_iter().all(|left| left.packets == 0)
    }

    /// Leaves out of `record`, which is of the whole flow, what was told before.
    pub(super) fn leave_out_of(&self, record: FlowRecord) -> FlowRecord {
        let Sums { wire, responses, response_time, retransmitted } = self.sums;
        let first = self.until.unwrap_or(record.first);
        FlowRecord {
            wire: Direction::ALL.map(|direction| record.wire[direction.index()] - wire[direction.index()]),
            first,
            // The two were worked out at different times, by clocks that may have been set meanwhile.
            last: record.last.max(first),
            handshake: record.handshake.filter(|_| self.until.is_none()),
            responses: record.responses.saturating_sub(responses),
            response_time: record.response_time.saturating_sub(Duration::from_nanos(response_time)),
            retransmitted: record.retransmitted.saturating_sub(retransmitted),
            ..record
        }
    }
}
