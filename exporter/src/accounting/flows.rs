//! Forgetting flows that are over.

use std::time::Duration;

use crate::kernel::{FlowTable, Kernel, KernelError, Walk};

/// Goes over the flow table, some flows at a time, and forgets those that have been quiet.
///
/// The kernel forgets none of them by itself, so that nothing vanishes that nobody has seen.
#[derive(Debug)]
pub(super) struct FlowSweeper {
    idle_timeout: Duration,
    walk: Walk,
    /// Flows that the walk under way has found and left.
    found: usize,
    /// The same of the last walk that was ended.
    entries: usize,
}

impl FlowSweeper {
    pub(super) fn new(idle_timeout: Duration) -> Self {
        Self { idle_timeout, walk: Walk::default(), found: 0, entries: 0 }
    }

    /// How many flows there were when the last walk was ended.
    pub(super) const fn entries(&self) -> usize {
        self.entries
    }

    /// Looks at some more flows.
    pub(super) fn sweep(&mut self, kernel: &mut Kernel) -> Result<(), KernelError> {
        let (flows, is_over) = kernel.some_flows(FlowTable::Established, &mut self.walk)?;
        let quiet_since = kernel.ticks()?.ago(self.idle_timeout);
        for (key, flow) in flows {
            if flow.last < quiet_since {
                kernel.remove_flow(FlowTable::Established, &key)?;
            } else {
                self.found += 1;
            }
        }
        if is_over {
            self.entries = std::mem::take(&mut self.found);
        }
        Ok(())
    }
}
