//! What the guard does: its rules, its blocks, where it is attached, and what it has decided.

mod draft;
mod hits;
mod pairs;
mod places;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

use tidewaiter_common::guard::word;
use tracing::warn;

use self::pairs::{PairRegistry, names, record};
pub use self::{
    draft::{Compiled, Draft, GuardError},
    places::GuardPlace,
};
use crate::{
    api::Api,
    chain::chain,
    config::guard::Guard,
    guard::{compile::Tables, reserved::BLOCK},
    kernel::{Kernel, KernelError, Ticks, from_nanoseconds},
    snapshot::{GuardSnapshot, PairSnapshot},
};

/// The rules in force, and what is kept of each.
#[derive(Debug, Default)]
pub(super) struct GuardRegistry {
    guard: Option<Arc<Guard>>,
    pairs: PairRegistry,
    /// What there is to judge by the rules in force.
    judges: u32,
    /// Whether anything is blocked, or may be at any time.
    blocks: bool,
    /// Whether that was ever so: series that are there once stay there.
    had_blocks: bool,
    /// Interfaces that are one end of a pair (veth), by index.
    paired: HashSet<u32>,
    /// Interfaces whose devices count each frame that reaches a program of XDP, by index.
    counting: HashSet<u32>,
    places: BTreeMap<u32, GuardPlace>,
    /// Whether it is known which interfaces are accounted.
    knows_interfaces: bool,
    /// Interfaces whose packets were ever judged as socket buffers, by index.
    were_buffers: HashSet<u32>,
    generation: u64,
    interval: u32,
    interval_began: Option<SystemTime>,
}

impl GuardRegistry {
    /// What the exporter before this one has left in the kernel; nothing, if there was none.
    pub(super) fn restore(kernel: &mut Kernel) -> Result<Self, KernelError> {
        let generation = kernel.guard_word(word::GENERATION)?;
        let interval = kernel.guard_word(word::INTERVAL)? as u32;
        Ok(Self { pairs: PairRegistry::restore(kernel)?, generation, interval, ..Self::default() })
    }

    /// Takes note of what the rules are; they are not in force before [`GuardRegistry::apply`].
    pub(super) fn set(&mut self, guard: Arc<Guard>) {
        self.guard = Some(guard);
    }

    /// What the rules are.
    pub(super) fn settings(&self) -> Option<Arc<Guard>> {
        self.guard.clone()
    }

    /// Puts the rules in force for these APIs, all at once.
    pub(super) fn apply(&mut self, kernel: &mut Kernel, apis: &[Api]) -> Result<(), GuardError> {
        let Some(guard) = self.guard.clone() else { return Ok(()) };
        let compiled = self.draft(kernel)?.compile(guard, apis)?;
        self.commit(kernel, compiled)
    }

    /// What it takes to work rules out apart from this, so that nobody waits for it.
    pub(super) fn draft(&self, kernel: &Kernel) -> Result<Draft, KernelError> {
        let capacity = kernel.guard_capacity().prefixes as usize;
        let limits = kernel.client_limits()?;
        Ok(Draft { taking: self.pairs.taking(), limits, capacity, generation: self.generation })
    }

    /// The rules in force, if there were ever any.
    pub(super) fn in_force(&self) -> Option<Arc<Guard>> {
        self.guard.clone()
    }

    /// Puts rules in force that were worked out, all at once.
    ///
    /// # Errors
    /// [`GuardError::Outdated`] if others were put in force since; or [`GuardError::Kernel`], and then what was in force still is.
    pub(super) fn commit(&mut self, kernel: &mut Kernel, compiled: Compiled) -> Result<(), GuardError> {
        let Compiled { guard, tables, taken, new, generation } = compiled;
        if generation != self.generation {
            return Err(GuardError::Outdated);
        }
        for ((rule, api), place) in new {
            let base = kernel.guard_counters(place)?;
            let record = record(&rule, &api, base);
            kernel.set_pair_record(place, &record)?;
            self.pairs.give((rule, api), place, &record);
        }
        let Tables { header, .. } = &tables;
        let judges = header.judges;
        self.generation = kernel.set_guard_tables(tables)?;
        self.judges = judges;
        self.guard = Some(guard);
        self.pairs.current = taken.into_values().collect();
        Ok(())
    }

    /// Says that anything may be blocked at any time, or that nothing is. Answers with whether that is new.
    pub(super) const fn set_blocks(&mut self, blocks: bool) -> bool {
        self.had_blocks |= blocks;
        std::mem::replace(&mut self.blocks, blocks) != blocks
    }

    /// Lets the kernel know that the exporter is there: until what tick it is to go on by itself. Not before the guard is attached:
    /// what one before us has attached may not fit the rules.
    pub(super) fn beat(&self, kernel: &mut Kernel, ticks: Ticks) -> Result<(), KernelError> {
        let Some(guard) = self.guard.as_ref().filter(|_| self.knows_interfaces) else { return Ok(()) };
        kernel.set_guard_word(word::DEADLINE, ticks.after(guard.hold))
    }

    /// What the guard has decided, and how it is; `None` if nobody has asked for one.
    pub(super) fn snapshot(&mut self, kernel: &Kernel) -> Result<Option<GuardSnapshot>, KernelError> {
        let Some(guard) = &self.guard else { return Ok(None) };
        let mut pairs = Vec::new();
        for (place, record) in self.pairs.records.iter().filter(|(place, _)| self.pairs.current.contains(place)) {
            let Some((rule, api)) = names(record) else { continue };
            if &*rule == BLOCK && !self.had_blocks {
                continue;
            }
            let mut packets = kernel.guard_counters(*place)?.packets;
            packets.iter_mut().zip(record.base.packets).for_each(|(count, base)| *count = count.saturating_sub(base));
            let verdicts = guard.verdicts(&rule);
            pairs.push(PairSnapshot { rule, api, packets, verdicts, created: from_nanoseconds(record.created) });
        }
        pairs.sort_by(|one, other| (&one.api, &one.rule).cmp(&(&other.api, &other.rule)));
        let clients = if guard.limits_clients() { kernel.count_clients()? } else { 0 };
        Ok(Some(GuardSnapshot {
            pairs,
            is_on: guard.is_on() || self.had_blocks,
            enforces: guard.enforces,
            is_switched_off: !kernel.is_guard_on()?,
            generation: self.generation,
            clients,
            client_capacity: kernel.guard_capacity().clients.into(),
            clients_evicted: kernel.evicted_clients()?,
            blocks_refused: Vec::new(),
        }))
    }
}

/// Warns of each failure.
pub(super) fn warn_all(failures: &[KernelError]) {
    for error in failures {
        warn!(error = chain(error), "cannot attach the guard");
    }
}
