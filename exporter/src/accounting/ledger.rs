//! Who has which slot of a table, as the kernel keeps it for the exporter after this one.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tidewaiter_common::record::state;

use crate::{
    kernel::{Kernel, KernelError},
    slots::Slots,
};

/// What the kernel keeps of a slot: see [`tidewaiter_common::record`].
pub(super) trait Record: Copy + Default + PartialEq {
    /// Slots of the table, the first of which nobody gets.
    const CAPACITY: u16;

    /// Reads the record of `slot`.
    fn read(kernel: &Kernel, slot: u16) -> Result<Self, KernelError>;

    /// Writes the record of `slot`.
    fn write(&self, kernel: &mut Kernel, slot: u16) -> Result<(), KernelError>;

    /// Whether the slot has a holder: see [`state`].
    fn state(&self) -> u8;

    /// Says whether the slot has a holder.
    fn set_state(&mut self, state: u8);

    /// Makes `slot` ready for a new holder, before the record says that there is one.
    fn prepare(_kernel: &mut Kernel, _slot: u16) -> Result<(), KernelError> {
        Ok(())
    }

    /// Adds what the holder has counted in `slot` to what former holders had, in one change.
    fn keep_counters(&mut self, kernel: &Kernel, slot: u16) -> Result<(), KernelError>;
}

/// The slots of a table, and their records.
#[derive(Debug)]
pub(super) struct Ledger<R> {
    slots: Slots,
    /// The kernel's records of slots that were ever held.
    records: BTreeMap<u16, R>,
}

impl<R: Record> Ledger<R> {
    /// What the exporter before this one has left in the kernel; nothing, if there was none. Slots are given out again `grace`
    /// after their holder has left the tables.
    pub(super) fn restore(kernel: &Kernel, grace: Duration, now: Instant) -> Result<Self, KernelError> {
        let mut ledger = Self { slots: Slots::new(R::CAPACITY, grace), records: BTreeMap::new() };
        for slot in 1..R::CAPACITY {
            let record = R::read(kernel, slot)?;
            if record == R::default() {
                continue;
            }
            ledger.records.insert(slot, record);
            match record.state() {
                state::CURRENT => ledger.slots.restore(slot),
                state::FREE => ledger.slots.restore_free(slot),
                // Whoever retired it did not live to see its last packet counted.
                _ => {
                    ledger.slots.restore(slot);
                    ledger.slots.retire(slot, now);
                }
            }
        }
        Ok(ledger)
    }

    /// How many slots are taken, those that were just retired included.
    pub(super) fn in_use(&self) -> usize {
        self.slots.in_use()
    }

    /// The record of `slot`.
    pub(super) fn record(&self, slot: u16) -> R {
        self.records.get(&slot).copied().unwrap_or_default()
    }

    /// The records of all slots that were ever held.
    pub(super) fn records(&self) -> impl Iterator<Item = (u16, &R)> {
        self.records.iter().map(|(slot, record)| (*slot, record))
    }

    /// Gives a slot to a new holder, who is written down by `fill`; `None` if all are taken.
    pub(super) fn take(&mut self, kernel: &mut Kernel, fill: impl FnOnce(&mut R)) -> Result<Option<u16>, KernelError> {
        let Some(slot) = self.slots.take() else { return Ok(None) };
        R::prepare(kernel, slot)?;
        self.change(kernel, slot, |record| {
            fill(record);
            record.set_state(state::CURRENT);
        })?;
        Ok(Some(slot))
    }

    /// Changes the record of `slot`, in the kernel first.
    pub(super) fn change(
        &mut self,
        kernel: &mut Kernel,
        slot: u16,
        change: impl FnOnce(&mut R),
    ) -> Result<(), KernelError> {
        let mut record = self.record(slot);
        change(&mut record);
        record.write(kernel, slot)?;
        self.records.insert(slot, record);
        Ok(())
    }

    /// Takes note that the holder of `slot` has left the tables.
    pub(super) fn retire(&mut self, kernel: &mut Kernel, slot: u16, now: Instant) -> Result<(), KernelError> {
        self.slots.retire(slot, now);
        self.change(kernel, slot, |record| record.set_state(state::RETIRED))
    }

    /// Keeps what retired slots have counted, and frees them.
    pub(super) fn recycle(&mut self, kernel: &mut Kernel, now: Instant) -> Result<(), KernelError> {
        while let Some(slot) = self.slots.recyclable(now) {
            let mut record = self.record(slot);
            record.keep_counters(kernel, slot)?;
            record.set_state(state::FREE);
            self.change(kernel, slot, |kept| *kept = record)?;
            self.slots.recycle();
        }
        Ok(())
    }
}
