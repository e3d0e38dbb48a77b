//! The guard's maps, and what attaches it.

mod attach;
mod blocks;
mod pinned;
mod programs;

use std::io;

use aya::{
    Pod,
    maps::{HashMap, PerCpuArray},
};
use tidewaiter_common::{
    clients::groups,
    guard::{
        GUARD_PORT_ENTRIES, GuardAddressKey, GuardCounters, GuardHeader, HALVES, HIT_ENTRIES, Hit,
        InterfaceGuardCounters, MATCH_ENTRIES, MAX_CLASSES, MAX_LISTS, MAX_RULES, word,
    },
    interface::InterfaceSlot,
    prefix::PREFIX_FILTER_WORDS,
    record::PairRecord,
};

pub use self::pinned::{is_pinned_guard_on, switch_pinned_guard};
pub(super) use self::{
    pinned::let_all_pass,
    programs::{load, set_programs},
};
use super::{
    Kernel, KernelError,
    attach::has_kind,
    system::{update_array, wait_for_programs},
    tables::{name, read, write},
};
use crate::guard::compile::Tables;

/// How large the guard's maps are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardCapacity {
    /// Entries of prefixes, of each half.
    pub prefixes: u32,
    /// Clients that limits are kept for.
    pub clients: u32,
}

impl Default for GuardCapacity {
    fn default() -> Self {
        Self { prefixes: 4096, clients: 1024 }
    }
}

impl GuardCapacity {
    /// The maps and their sizes.
    pub(super) fn sizes(self) -> [(&'static str, u32); 2] {
        [(name::GUARD_PREFIXES, self.prefixes.saturating_mul(HALVES)), (name::CLIENT_LIMITS, groups(self.clients))]
    }
}

impl Kernel {
    /// Puts `tables` in force, all at once; answers with how often that was done.
    ///
    /// # Errors
    /// If a map could not be written: what was in force still is.
    pub fn set_guard_tables(&mut self, tables: &Tables) -> Result<u64, KernelError> {
        let generation = self.guard_word(word::GENERATION)? + 1;
        let half = (generation & 1) as u32;
        let first_prefix = half * self.guard.prefixes;
        let header = GuardHeader { first_prefix, client_groups: groups(self.guard.clients), ..*tables.header };
        let mut headers: [GuardHeader; HALVES as usize] = self.get(name::GUARD_HEADERS, 0)?;
        headers[half as usize] = header;
        self.set(name::GUARD_HEADERS, 0, &headers)?;
        self.write_part(name::GUARD_RULES, half, MAX_RULES.into(), &tables.rules)?;
        self.write_part(name::GUARD_LISTS, half, MAX_LISTS.into(), &tables.lists)?;
        self.write_part(name::GUARD_CLASSES, half, MAX_CLASSES.into(), &tables.classes)?;
        self.write_part(name::GUARD_PORTS, half, GUARD_PORT_ENTRIES, &tables.ports)?;
        self.write_part(name::GUARD_MATCHES, half, MATCH_ENTRIES, &tables.matches)?;
        self.write_part(name::GUARD_PREFIXES, half, self.guard.prefixes, &tables.prefixes)?;
        self.write_part(name::GUARD_PREFIX_FILTERS, half, PREFIX_FILTER_WORDS, &tables.filter)?;
        self.write_guard_addresses(half, tables)?;
        self.set_guard_word(word::GENERATION, generation)?;
        // The other half is written next time: nobody may read it by then.
        wait_for_programs();
        Ok(generation)
    }

    fn write_part<T: Pod>(&self, map: &'static str, half: u32, entries: u32, values: &[T]) -> Result<(), KernelError> {
        if values.len() > entries as usize {
            return Err(KernelError::Full {
                what: format!("what is to be in the BPF map {map}"),
                limit: entries as usize,
            });
        }
        update_array(self.map_descriptor(map)?, half * entries, values)
            .map_err(|source| KernelError::Batch { map, source })
    }

    fn write_guard_addresses(&mut self, half: u32, tables: &Tables) -> Result<(), KernelError> {
        let map = name::GUARD_ADDRESSES;
        let mut addresses: HashMap<_, GuardAddressKey, u16> = self.map_mut(map)?;
        let wanted: std::collections::HashMap<_, _> = tables.addresses.iter().copied().collect();
        let old: Vec<_> = addresses.keys().filter_map(Result::ok).filter(|key| key.half == half).collect();
        for key in old.iter().filter(|key| !wanted.contains_key(&key.key)) {
            match addresses.remove(key) {
                Err(error) if !has_kind(&error, io::ErrorKind::NotFound) => return Err(write(map)(error)),
                _ => {}
            }
        }
        for (key, class) in wanted {
            addresses.insert(GuardAddressKey { half, key }, class, 0).map_err(write(map))?;
        }
        Ok(())
    }

    /// A number of the guard: see [`word`].
    pub fn guard_word(&self, word: usize) -> Result<u64, KernelError> {
        let words: [u64; word::COUNT] = self.get(name::GUARD_WORDS, 0)?;
        Ok(words[word])
    }

    /// Writes a number of the guard.
    pub fn set_guard_word(&mut self, word: usize, number: u64) -> Result<(), KernelError> {
        let mut words: [u64; word::COUNT] = self.get(name::GUARD_WORDS, 0)?;
        words[word] = number;
        self.set(name::GUARD_WORDS, 0, &words)
    }

    /// Whether the guard is on: nobody has switched it off.
    pub fn is_guard_on(&self) -> Result<bool, KernelError> {
        self.get::<u64>(name::GUARD_SWITCH, 0).map(|is_off| is_off == 0)
    }

    /// Switches the guard on or off: then everything passes.
    pub fn switch_guard(&mut self, on: bool) -> Result<(), KernelError> {
        self.set(name::GUARD_SWITCH, 0, &u64::from(!on))
    }

    /// How large the guard's maps are.
    #[must_use]
    pub const fn guard_capacity(&self) -> GuardCapacity {
        self.guard
    }

    /// What was ever decided at a place of the pairs, all CPUs together.
    pub fn guard_counters(&self, pair: u16) -> Result<GuardCounters, KernelError> {
        self.add_up(name::GUARD_COUNTERS, pair)
    }

    /// What was ever decided in `slot`, all CPUs together.
    pub fn interface_guard_counters(&self, slot: InterfaceSlot) -> Result<InterfaceGuardCounters, KernelError> {
        self.add_up(name::INTERFACE_GUARD, slot.0)
    }

    /// Who has a place of the pairs.
    pub fn pair_record(&self, pair: u16) -> Result<PairRecord, KernelError> {
        self.get(name::PAIR_RECORDS, pair)
    }

    /// Says who has a place of the pairs. What its limit was left at is forgotten, if somebody else had it.
    pub fn set_pair_record(&mut self, pair: u16, record: &PairRecord) -> Result<(), KernelError> {
        self.set(name::API_LIMITS, pair, &0_u64)?;
        self.set(name::PAIR_RECORDS, pair, record)
    }

    /// Whose packets were decided about in an interval.
    pub fn hits(&self, interval: u32) -> Result<Vec<Hit>, KernelError> {
        let map: PerCpuArray<_, Hit> = self.map(name::HITS)?;
        let mut hits = Vec::new();
        for place in 0..HIT_ENTRIES {
            let of_cpus = map.get(&place, 0).map_err(read(name::HITS))?;
            hits.extend(of_cpus.iter().filter(|hit| hit.pair != 0 && hit.interval == interval));
        }
        Ok(hits)
    }

    /// Says what of the guard there is to be done for buffers that the interface with `index` receives: see
    /// [`guarded`](tidewaiter_common::interface::guarded).
    pub fn set_guarded_buffers(&mut self, index: u32, guarded: u8) -> Result<(), KernelError> {
        self.set_guarded(index, guarded)
    }
}
