//! The tables of flows.

use std::io;

use aya::maps::HashMap;
use tidewaiter_common::flow::{Flow, FlowKey};

use super::{
    Kernel, KernelError,
    attach::has_kind,
    system::Cursor,
    tables::{name, read, write},
};

/// The least flows that are read at once: some milliseconds' worth.
const LEAST_BATCH: usize = 16_384;
/// How many batches a walk over a large table takes.
const BATCHES: usize = 16;

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
        self.next_flows(table, walk, self.batch())
    }

    /// As [`Kernel::some_flows`], but never more than a fixed number, however large the table is.
    pub fn few_flows(&self, table: FlowTable, walk: &mut Walk) -> Result<(Vec<(FlowKey, Flow)>, bool), KernelError> {
        self.next_flows(table, walk, LEAST_BATCH)
    }

    fn next_flows(
        &self,
        table: FlowTable,
        walk: &mut Walk,
        count: usize,
    ) -> Result<(Vec<(FlowKey, Flow)>, bool), KernelError> {
        let batch = self.some_entries(table.map(), walk.0.take().unwrap_or_default(), count)?;
        walk.0 = batch.next;
        Ok((batch.entries, walk.0.is_none()))
    }

    fn batch(&self) -> usize {
        LEAST_BATCH.max(self.flow_capacity().established as usize / BATCHES)
    }

    /// All flows in `table`.
    pub fn all_flows(&self, table: FlowTable) -> Result<Vec<(FlowKey, Flow)>, KernelError> {
        self.all_entries(table.map(), self.batch())
    }

    /// Takes a flow out of `table`; it may be gone.
    pub fn remove_flow(&mut self, table: FlowTable, key: &FlowKey) -> Result<(), KernelError> {
        let mut flows: HashMap<_, FlowKey, Flow> = self.map_mut(table.map())?;
        match flows.remove(key) {
            Err(error) if has_kind(&error, io::ErrorKind::NotFound) => Ok(()),
            removed => removed.map_err(write(table.map())),
        }
    }

    /// One flow of `table`.
    pub fn flow(&self, table: FlowTable, key: &FlowKey) -> Result<Option<Flow>, KernelError> {
        let flows: HashMap<_, FlowKey, Flow> = self.map(table.map())?;
        match flows.get(key, 0) {
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            found => found.map(Some).map_err(read(table.map())),
        }
    }
}
