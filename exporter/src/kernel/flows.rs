//! The tables of flows.

use std::io;

use aya::maps::HashMap;
use tidewaiter_common::flow::{Flow, FlowKey};

use super::{
    Kernel, KernelError,
    attach::has_kind,
    system::Cursor,
    tables::{name, write},
};

/// How many flows are read at once: a millisecond's and a megabyte's worth.
const BATCH: usize = 4096;

/// A table of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowTable {
    /// Of established ones.
    Established,
    /// Of the others.
    New,
}

impl FlowTable {
    const fn map(self) -> &'static str {
        match self {
            Self::Established => name::FLOWS,
            Self::New => name::NEW_FLOWS,
        }
    }
}

/// A walk over a table of flows, some at a time.
#[derive(Debug, Default)]
pub struct Walk(Option<Cursor>);

impl Kernel {
    /// Some of the flows in `table`; all of them if it is called with the same `walk` until that is over. Says whether it
    /// is.
    pub fn some_flows(&self, table: FlowTable, walk: &mut Walk) -> Result<(Vec<(FlowKey, Flow)>, bool), KernelError> {
        let batch = self.some_entries(table.map(), walk.0.take().unwrap_or_default(), BATCH)?;
        walk.0 = batch.next;
        Ok((batch.entries, walk.0.is_none()))
    }

    /// All flows in `table`.
    pub fn all_flows(&self, table: FlowTable) -> Result<Vec<(FlowKey, Flow)>, KernelError> {
        self.all_entries(table.map(), BATCH)
    }

    /// Takes a flow out of `table`; it may be gone.
    pub fn remove_flow(&mut self, table: FlowTable, key: &FlowKey) -> Result<(), KernelError> {
        let mut flows: HashMap<_, FlowKey, Flow> = self.map_mut(table.map())?;
        match flows.remove(key) {
            Err(error) if has_kind(&error, io::ErrorKind::NotFound) => Ok(()),
            removed => removed.map_err(write(table.map())),
        }
    }
}
