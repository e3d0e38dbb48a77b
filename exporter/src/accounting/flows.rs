//! Flows that are over: having the kernel finish them.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use tidewaiter_common::{
    direction::Direction,
    event::FinishedFlow,
    flow::{ENDED, Flow, FlowKey, ONE_WAY_PACKETS},
    packet::protocol,
};

use crate::{
    flow::is_empty,
    kernel::{FlowCapacity, FlowTable, Kernel, KernelError, QuietSince, Ticks, Walk},
    snapshot::Counters,
};

/// How long a connection that has ended is let rest, so that the last of its packets are counted with it: what is sent again,
/// and what the other side has sent before it heard of the end.
const REST: Duration = Duration::from_secs(1);

/// For how much of that it must have been quiet.
const QUIET: Duration = Duration::from_millis(500);

/// How long a short flow without a connection is kept at most: anybody can have a question answered in another's name, and such
/// flows shall not take the room of others for long.
const SHORT_IDLE: Duration = Duration::from_secs(10);

/// How many flows that have ended can wait here. (44 bytes each; the rest waits in the kernel's ring, and what finds no room
/// there is found by the next walk.)
const MOST_RESTING: usize = 1 << 17;

/// How many times the table is looked at before all of it was.
const LOOKS: usize = 16;
/// The least flows that are looked at.
const LEAST_LOOK: usize = 16_384;

/// Has flows finished that are over: those that the kernel says have ended, and those that have been quiet for long.
///
/// The kernel forgets no established flow by itself, so that none vanishes that nobody has seen. The others it forgets only
/// for want of room; one that stayed for ever would lend its beginning to another with the same ends.
#[derive(Debug)]
pub(super) struct FlowSweeper {
    idle_timeout: Duration,
    established: Walk,
    new: Walk,
    /// Established flows that the walk under way has found and left.
    found: usize,
    /// The same of the last walk that was ended.
    entries: usize,
    /// Flows that are not established, likewise.
    new_found: usize,
    /// See `entries`.
    new_entries: usize,
    /// How many flows of each table are left of a look that was broken off.
    unfinished: Option<(usize, usize)>,
    /// Flows that have ended, and since which tick that is known.
    resting: VecDeque<(u64, Vec<FlowKey>)>,
    /// How far all flows are finished, if that has begun.
    ending: Option<Ending>,
}

/// How far all flows are finished.
#[derive(Debug)]
struct Ending {
    /// The table that is walked over.
    table: FlowTable,
    walk: Walk,
    /// Flows that were dealt with.
    done: usize,
    /// Flows that the kernel had no room to tell of.
    missed: usize,
}

/// What is shown of a flow.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shown<'a> {
    /// One that goes on.
    Live(&'a FlowKey, &'a Flow),
    /// One that goes on for long: what of it was untold is to be counted now.
    GoingOn(&'a FlowKey, &'a Flow),
    /// One that is over: it is in no table any more.
    Finished(&'a FlowKey, &'a Flow),
    /// One that goes on, but is told for the last time: what of it was untold is to be counted now.
    Forced(&'a FlowKey, &'a Flow),
}

impl FlowSweeper {
    pub(super) fn new(idle_timeout: Duration) -> Self {
        Self {
            idle_timeout,
            established: Walk::default(),
            new: Walk::default(),
            found: 0,
            entries: 0,
            new_found: 0,
            new_entries: 0,
            unfinished: None,
            resting: VecDeque::new(),
            ending: None,
        }
    }

    /// How many established flows there were when the last walk was ended.
    pub(super) const fn entries(&self) -> usize {
        self.entries
    }

    /// How many others there were. That table is often full, and forgets what it has not seen for longest.
    pub(super) const fn new_entries(&self) -> usize {
        self.new_entries
    }

    /// Has those flows finished that the kernel says have ended, and shows what they were, until `deadline`. Says whether there
    /// are more.
    pub(super) fn drain(
        &mut self,
        kernel: &mut Kernel,
        ticks: Ticks,
        deadline: Instant,
        show: &mut dyn FnMut(Shown<'_>),
    ) -> Result<bool, KernelError> {
        let waiting: usize = self.resting.iter().map(|(_, keys)| keys.len()).sum();
        let mut ended = Vec::new();
        kernel.read_ended(MOST_RESTING.saturating_sub(waiting), &mut ended);
        if !ended.is_empty() {
            self.resting.push_back((ticks.now, ended));
        }
        read_finished(kernel, show);
        while let Some((since, mut keys)) = self.resting.pop_front() {
            if since > ticks.ago(REST) {
                self.resting.push_front((since, keys));
                return Ok(false);
            }
            while !keys.is_empty() {
                let batch = keys.split_off(keys.len().saturating_sub(Kernel::FINISH_BATCH));
                // Where another connection has taken the place of one that has ended, that goes on.
                let quiet = QuietSince { ended: ticks.ago(QUIET), others: ticks.ago(self.idle_timeout), told: 0 };
                finish(kernel, &batch, quiet, show)?;
                if Instant::now() > deadline && !keys.is_empty() {
                    self.resting.push_front((since, keys));
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Looks at some more flows, shows those that go on, and has the others finished, until `deadline`. What goes on is told of
    /// each `period`, if anybody wants that. Says whether the deadline was too soon: then the next call goes on with the same look.
    pub(super) fn sweep(
        &mut self,
        kernel: &mut Kernel,
        ticks: Ticks,
        period: Option<Duration>,
        deadline: Instant,
        show: &mut dyn FnMut(Shown<'_>),
    ) -> Result<bool, KernelError> {
        let FlowCapacity { established, new } = kernel.flow_capacity();
        let [established, new] = [established, new].map(|capacity| LEAST_LOOK.max(capacity as usize / LOOKS));
        let (mut left, mut new_left) = self.unfinished.take().unwrap_or((established, new));
        while left > 0 || new_left > 0 {
            if Instant::now() > deadline {
                self.unfinished = Some((left, new_left));
                return Ok(true);
            }
            let is_established = left > 0;
            let (table, walk) = if is_established {
                (FlowTable::Established, &mut self.established)
            } else {
                (FlowTable::New, &mut self.new)
            };
            let read = kernel.some_flows(table, walk);
            let (flows, is_over) = read.inspect_err(|_| (self.found, self.new_found) = (0, 0))?;
            let going_on = self.look(kernel, ticks, period, &flows, show)?;
            let (left, found, entries) = if is_established {
                (&mut left, &mut self.found, &mut self.entries)
            } else {
                (&mut new_left, &mut self.new_found, &mut self.new_entries)
            };
            *found += going_on;
            *left = left.saturating_sub(flows.len());
            if is_over {
                *entries = std::mem::take(found);
                *left = 0;
            }
        }
        Ok(false)
    }

    /// Shows those of `flows` that go on, and has the others finished. Answers with how many go on.
    fn look(
        &self,
        kernel: &mut Kernel,
        ticks: Ticks,
        period: Option<Duration>,
        flows: &[(FlowKey, Flow)],
        show: &mut dyn FnMut(Shown<'_>),
    ) -> Result<usize, KernelError> {
        let (rested, idle) = (ticks.ago(REST), ticks.ago(self.idle_timeout));
        let told = period.map_or(0, |period| ticks.ago(period));
        let short_idle = ticks.ago(self.idle_timeout.min(SHORT_IDLE));
        let (mut over, mut short, mut ended, mut long) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut going_on = 0;
        // What has moved to the other table has left an empty entry, which goes when there is need for room.
        for (key, flow) in flows.iter().filter(|(_, flow)| !is_empty(flow)) {
            if flow.last < idle {
                over.push(*key);
            } else if flow.last < short_idle && is_short(key, flow) {
                short.push(*key);
            } else if flow.seen & ENDED != 0 && flow.last < rested {
                ended.push(*key);
            } else {
                if flow.told_at < told && flow.untold() != [Counters::default(); Direction::COUNT] {
                    long.push(*key);
                }
                going_on += 1;
                show(Shown::Live(key, flow));
            }
        }
        // They were read with many others: by now they may be quiet no more, which the kernel asks itself.
        finish(kernel, &over, QuietSince { ended: idle, others: idle, told: 0 }, show)?;
        finish(kernel, &short, QuietSince { ended: idle, others: short_idle, told: 0 }, show)?;
        finish(kernel, &ended, QuietSince { ended: rested, others: idle, told: 0 }, show)?;
        finish(kernel, &long, QuietSince { ended: 0, others: 0, told }, show)?;
        Ok(going_on)
    }

    /// Has all flows finished that have ended or been quiet for long, and tells of the others, until `deadline`. Answers with about
    /// how many are left: the next call goes on with them.
    pub(super) fn finish_all(
        &mut self,
        kernel: &mut Kernel,
        ticks: Ticks,
        deadline: Instant,
        show: &mut dyn FnMut(Shown<'_>),
    ) -> Result<usize, KernelError> {
        read_finished(kernel, show);
        let idle = ticks.ago(self.idle_timeout);
        let mut show_last = |shown: Shown<'_>| match shown {
            Shown::Finished(key, flow) if flow.seen & ENDED == 0 && flow.last >= idle => show(Shown::Forced(key, flow)),
            Shown::GoingOn(key, flow) => show(Shown::Forced(key, flow)),
            shown => show(shown),
        };
        // What becomes established meanwhile is found in the other table.
        let begin = || Ending { table: FlowTable::New, walk: Walk::default(), done: 0, missed: 0 };
        let mut ending = self.ending.take().unwrap_or_else(begin);
        while Instant::now() <= deadline {
            let (flows, is_over) = kernel.some_flows(ending.table, &mut ending.walk)?;
            let keys: Vec<_> = flows.iter().filter(|(_, flow)| !is_empty(flow)).map(|(key, _)| *key).collect();
            let quiet = match ending.table {
                // The kernel tells of no others here, but to take them out is not to count their end.
                FlowTable::New => QuietSince { ended: u64::MAX, others: u64::MAX, told: 0 },
                FlowTable::Established => QuietSince { ended: u64::MAX, others: idle, told: u64::MAX },
            };
            ending.missed += finish(kernel, &keys, quiet, &mut show_last)?;
            ending.done += keys.len();
            match ending.table {
                FlowTable::New if is_over => (ending.table, ending.walk) = (FlowTable::Established, Walk::default()),
                FlowTable::Established if is_over => return Ok(ending.missed),
                _ => {}
            }
        }
        let left = (self.entries + self.new_entries).saturating_sub(ending.done).max(1) + ending.missed;
        self.ending = Some(ending);
        Ok(left)
    }
}

/// Whether a flow is a question and its answer, or hardly more, of a protocol without connections.
fn is_short(key: &FlowKey, flow: &Flow) -> bool {
    let packets: u64 = flow.wire().iter().map(|counters| counters.packets).sum();
    key.protocol != u32::from(protocol::TCP) && packets <= 2 * ONE_WAY_PACKETS
}

/// Has those flows finished that have been quiet long enough, and shows what they were. Answers with how many the kernel had no
/// room to tell of.
fn finish(
    kernel: &mut Kernel,
    mut keys: &[FlowKey],
    quiet: QuietSince,
    show: &mut dyn FnMut(Shown<'_>),
) -> Result<usize, KernelError> {
    while !keys.is_empty() {
        let done = kernel.finish_flows(keys, quiet)?;
        read_finished(kernel, show);
        if done == 0 {
            // The kernel filled the ring again at once: let it be until the next time.
            return Ok(keys.len());
        }
        keys = keys.get(done..).unwrap_or_default();
    }
    Ok(0)
}

fn read_finished(kernel: &mut Kernel, show: &mut dyn FnMut(Shown<'_>)) {
    kernel.read_finished(|FinishedFlow { key, goes_on, flow }| {
        show(if *goes_on == 0 { Shown::Finished(key, flow) } else { Shown::GoingOn(key, flow) });
    });
}
