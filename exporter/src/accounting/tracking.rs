//! Flows, as they are shown to the tracker and to those who ask.

use std::collections::{BTreeSet, HashMap};

use tidewaiter_common::{
    api::ApiSlot,
    flow::{Flow, FlowKey},
};

use super::{
    Accounting,
    apis::{ApiRegistry, untracked_bytes},
    interfaces::InterfaceRegistry,
};
use crate::{
    flow::{FlowClock, FlowContext},
    kernel::{FlowTable, KernelError, Ticks, Walk},
    tracker::FlowTracker,
};

impl Accounting {
    /// Shows flows to `tracker` from now on. Those of APIs that are counted already, for an exporter before us, are theirs
    /// whatever their age.
    pub fn follow_flows(&mut self, mut tracker: FlowTracker) -> Result<(), KernelError> {
        for slot in self.apis.slots() {
            tracker.begin(slot, 0, untracked_bytes(&self.apis.counters(&self.kernel, slot)?));
        }
        self.tracker = Some(tracker);
        Ok(())
    }

    /// What follows flows, if anything does.
    pub const fn tracker(&mut self) -> Option<&mut FlowTracker> {
        self.tracker.as_mut()
    }

    /// A few of the flows in `table`; all of them if it is called with the same `walk` until that is over. Says whether it is.
    pub fn few_flows(&self, table: FlowTable, walk: &mut Walk) -> Result<(Vec<(FlowKey, Flow)>, bool), KernelError> {
        self.kernel.few_flows(table, walk)
    }

    /// What it takes to make records of flows.
    pub fn flow_context(&mut self) -> Result<FlowContext, KernelError> {
        let ticks = self.kernel.ticks()?;
        Ok(context(&self.apis, &self.interfaces, ticks))
    }

    /// The slots that are taken, and what tick it is: for [`Accounting::apis_changed`].
    pub(super) fn before_apis_change(&mut self) -> Result<Holders, KernelError> {
        let since = if self.tracker.is_some() { self.kernel.ticks()?.now } else { 0 };
        Ok(Holders { slots: slots(&self.apis), since })
    }

    /// Tells the tracker which APIs have come and gone.
    pub(super) fn apis_changed(&mut self, before: &Holders) {
        let Some(tracker) = &mut self.tracker else { return };
        let now = slots(&self.apis);
        before.slots.difference(&now).for_each(|slot| tracker.forget(*slot));
        // Nothing was counted yet of those that are new, nor was any packet of theirs seen before.
        now.difference(&before.slots).for_each(|slot| tracker.begin(*slot, before.since, 0));
    }
}

/// Who had a slot at some tick.
pub(super) struct Holders {
    slots: BTreeSet<ApiSlot>,
    since: u64,
}

fn slots(apis: &ApiRegistry) -> BTreeSet<ApiSlot> {
    apis.slots().collect()
}

/// What it takes to make records of flows when it is so late by `ticks`.
pub(super) fn context(apis: &ApiRegistry, interfaces: &InterfaceRegistry, ticks: Ticks) -> FlowContext {
    FlowContext {
        apis: apis.names(),
        interfaces: interfaces.current().map(|one| (one.index, one.name.as_str().into())).collect::<HashMap<_, _>>(),
        clock: FlowClock::at(ticks),
    }
}
