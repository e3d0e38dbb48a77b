//! Flows that are over: having the kernel finish them.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use tidewaiter_common::{
    direction::Direction,
    event::FinishedFlow,
    flow::{ENDED, Flow, FlowKey},
};

use crate::{
    kernel::{FlowTable, Kernel, KernelError, QuietSince, Ticks, Walk},
    snapshot::Counters,
};

/// How long a connection that has ended is let rest, so that the last of its packets are counted with it: what is sent again,
/// and what the other side has sent before it heard of the end.
const REST: Duration = Duration::from_secs(1);

/// For how much of that it must have been quiet.
const QUIET: Duration = Duration::from_millis(500);

/// How often a flow that goes on is told of: so late, at most, are bytes of its client.
const PERIOD: Duration = Duration::from_mins(1);

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
    /// Flows that have ended, and since which tick that is known.
    resting: VecDeque<(u64, Vec<FlowKey>)>,
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
            resting: VecDeque::new(),
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

    /// Looks at some more flows, shows those that go on, and has the others finished.
    pub(super) fn sweep(
        &mut self,
        kernel: &mut Kernel,
        ticks: Ticks,
        show: &mut dyn FnMut(Shown<'_>),
    ) -> Result<(), KernelError> {
        let look = LEAST_LOOK.max(kernel.flow_capacity().established as usize / LOOKS);
        let mut seen = 0;
        while seen < look {
            let (flows, is_over) =
                kernel.some_flows(FlowTable::Established, &mut self.established).inspect_err(|_| self.found = 0)?;
            seen += flows.len();
            self.found += self.look(kernel, ticks, &flows, show)?;
            if is_over {
                self.entries = std::mem::take(&mut self.found);
                break;
            }
        }
        let (flows, is_over) = kernel.some_flows(FlowTable::New, &mut self.new).inspect_err(|_| self.new_found = 0)?;
        self.new_found += self.look(kernel, ticks, &flows, show)?;
        if is_over {
            self.new_entries = std::mem::take(&mut self.new_found);
        }
        Ok(())
    }

    /// Shows those of `flows` that go on, and has the others finished. Answers with how many go on.
    fn look(
        &self,
        kernel: &mut Kernel,
        ticks: Ticks,
        flows: &[(FlowKey, Flow)],
        show: &mut dyn FnMut(Shown<'_>),
    ) -> Result<usize, KernelError> {
        let (rested, idle, told) = (ticks.ago(REST), ticks.ago(self.idle_timeout), ticks.ago(PERIOD));
        let (mut over, mut ended, mut long) = (Vec::new(), Vec::new(), Vec::new());
        for (key, flow) in flows {
            if flow.last < idle {
                over.push(*key);
            } else if flow.seen & ENDED != 0 && flow.last < rested {
                ended.push(*key);
            } else {
                if flow.told_at < told && flow.untold() != [Counters::default(); Direction::COUNT] {
                    long.push(*key);
                }
                show(Shown::Live(key, flow));
            }
        }
        // They were read with many others: by now they may be quiet no more, which the kernel asks itself.
        finish(kernel, &over, QuietSince { ended: idle, others: idle, told: 0 }, show)?;
        finish(kernel, &ended, QuietSince { ended: rested, others: idle, told: 0 }, show)?;
        finish(kernel, &long, QuietSince { ended: 0, others: 0, told }, show)?;
        Ok(flows.len() - over.len() - ended.len())
    }
}

/// Has those flows finished that have been quiet long enough, and shows what they were.
fn finish(
    kernel: &mut Kernel,
    mut keys: &[FlowKey],
    quiet: QuietSince,
    show: &mut dyn FnMut(Shown<'_>),
) -> Result<(), KernelError> {
    while !keys.is_empty() {
        let done = kernel.finish_flows(keys, quiet)?;
        read_finished(kernel, show);
        if done == 0 {
            // The kernel filled the ring again at once: let it be until the next time.
            return Ok(());
        }
        keys = keys.get(done..).unwrap_or_default();
    }
    Ok(())
}

fn read_finished(kernel: &mut Kernel, show: &mut dyn FnMut(Shown<'_>)) {
    kernel.read_finished(|FinishedFlow { key, goes_on, flow }| {
        show(if *goes_on == 0 { Shown::Finished(key, flow) } else { Shown::GoingOn(key, flow) });
    });
}
