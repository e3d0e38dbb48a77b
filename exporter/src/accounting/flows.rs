//! Forgetting flows that are over.

use std::time::{Duration, Instant};

use tidewaiter_common::flow::{Flow, FlowKey};

use crate::{
    flow::FlowContext,
    kernel::{FlowTable, Kernel, KernelError, Ticks, Walk},
    tracker::FlowTracker,
};

/// Goes over the tables of flows, some flows at a time, and forgets those that have been quiet.
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
}

impl FlowSweeper {
    pub(super) fn new(idle_timeout: Duration) -> Self {
        Self { idle_timeout, established: Walk::default(), new: Walk::default(), found: 0, entries: 0 }
    }

    /// How many established flows there were when the last walk was ended.
    pub(super) const fn entries(&self) -> usize {
        self.entries
    }

    /// Looks at some more flows, and shows them to `tracker`; `context` is for records of those that are over.
    pub(super) fn sweep(
        &mut self,
        kernel: &mut Kernel,
        mut tracker: Option<&mut FlowTracker>,
        context: impl FnOnce(Ticks) -> FlowContext,
    ) -> Result<(), KernelError> {
        let ticks = kernel.ticks()?;
        let quiet_since = ticks.ago(self.idle_timeout);
        let mut wanted = None;
        if let Some(tracker) = tracker.as_deref_mut() {
            tracker.tick(Instant::now(), ticks);
            wanted = tracker.wants_records().then(|| context(ticks));
        }
        let mut show = |key: &FlowKey, flow: &Flow, is_over: bool| match tracker.as_deref_mut() {
            Some(tracker) if is_over => tracker.finish(key, flow, wanted.as_ref()),
            Some(tracker) => tracker.see(key, flow),
            None => {}
        };
        let (left, is_over) = sweep(kernel, FlowTable::Established, &mut self.established, quiet_since, &mut show)
            .inspect_err(|_| self.found = 0)?;
        self.found += left;
        if is_over {
            self.entries = std::mem::take(&mut self.found);
        }
        sweep(kernel, FlowTable::New, &mut self.new, quiet_since, &mut show).map(|_| ())
    }
}

/// Forgets those of some more flows of `table` that were last seen before the tick `quiet_since`, and shows each, with
/// whether it was forgotten. Answers with how many others there were, and whether that were the last.
fn sweep(
    kernel: &mut Kernel,
    table: FlowTable,
    walk: &mut Walk,
    quiet_since: u64,
    show: &mut impl FnMut(&FlowKey, &Flow, bool),
) -> Result<(usize, bool), KernelError> {
    let (flows, is_over) = kernel.some_flows(table, walk)?;
    let mut left = flows.len();
    for (key, flow) in flows {
        if flow.last >= quiet_since {
            show(&key, &flow, false);
            continue;
        }
        // It was read with many others: by now it may be quiet no more.
        if let Some(flow) = kernel.flow(table, &key)?
            && flow.last < quiet_since
        {
            kernel.remove_flow(table, &key)?;
            show(&key, &flow, true);
            left -= 1;
        }
    }
    Ok((left, is_over))
}
