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
    programs::{OF_FRAMES, set_programs},
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
    pub fn set_guard_tables(&mut self, tables: Tables) -> Result<u64, KernelError> {
        let generation = self.guard_word(word::GENERATION)? + 1;
        let half = (generation & 1) as u32;
        let first_prefix = half * self.guard.prefixes;
        let header = GuardHeader { first_prefix, client_groups: groups(self.guard.clients), ..*tables.header };
        let mut headers: [GuardHeader; HALVES as usize] = self.get(name::GUARD_HEADERS, 0)?;
        headers[half as usize] = header;
        self.set(name::GUARD_HEADERS, 0, &headers)?;
        // Should anything fail, nobody knows what is there.
        let before = self.halves[half as usize].take();
        let before = before.as_deref();
        macro_rules! write {
            ($map:expr, $entries:expr, $part:ident) => {
                self.write_part($map, half, $entries, before.map_or(&[], |before| &before.$part), &tables.$part)?;
            };
        }
        write!(name::GUARD_RULES, MAX_RULES.into(), rules);
        write!(name::GUARD_LISTS, MAX_LISTS.into(), lists);
        write!(name::GUARD_CLASSES, MAX_CLASSES.into(), classes);
        write!(name::GUARD_PORTS, GUARD_PORT_ENTRIES, ports);
        write!(name::GUARD_MATCHES, MATCH_ENTRIES, matches);
        write!(name::GUARD_PREFIXES, self.guard.prefixes, prefixes);
        write!(name::GUARD_PREFIX_FILTERS, PREFIX_FILTER_WORDS, filter);
        self.write_guard_addresses(half, &tables)?;
        self.set_guard_word(word::GENERATION, generation)?;
        self.halves[half as usize] = Some(Box::new(tables));
        // The other half is written next time: nobody may read it by then.
        wait_for_programs();
        Ok(generation)
    }

    /// Writes what of `values` is not what was written `before`.
    fn write_part<T: Pod + PartialEq>(
        &self,
        map: &'static str,
        half: u32,
        entries: u32,
        before: &[T],
        values: &[T],
    ) -> Result<(), KernelError> {
        if values.len() > entries as usize {
            return Err(KernelError::Full {
                what: format!("what is to be in the BPF map {map}"),
                limit: entries as usize,
            });
        }
        let descriptor = self.map_descriptor(map)?;
        for (first, values) in changed(before, values) {
            update_array(descriptor, half * entries + first, values)
                .map_err(|source| KernelError::Batch { map, source })?;
        }
        Ok(())
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

/// What of `values` differs from `before`, in pieces, each with the place where it begins. Pieces that are near each other are one.
fn changed<'a, T: PartialEq>(before: &[T], values: &'a [T]) -> Vec<(u32, &'a [T])> {
    /// To write so many more costs less than to ask the kernel once more.
    const NEAR: usize = 16;
    let mut pieces: Vec<std::ops::Range<usize>> = Vec::new();
    for place in (0..values.len()).filter(|place| before.get(*place) != values.get(*place)) {
        match pieces.last_mut() {
            Some(last) if place <= last.end + NEAR => last.end = place + 1,
            _ => pieces.push(place..place + 1),
        }
    }
    pieces.into_iter().map(|piece| (piece.start as u32, &values[piece])).collect()
}

#[cfg(test)]
mod tests {
    use super::changed;

    #[test]
    fn what_has_changed_is_all_that_is_written() {
        let before: Vec<u32> = (0..100).collect();
        assert_eq!(changed(&before, &before), []);
        assert_eq!(changed(&[], &before), [(0, &*before)]);
        let mut after = before.clone();
        (after[3], after[10], after[60]) = (1, 1, 1);
        after.push(7);
        assert_eq!(changed(&before, &after), [(3, &after[3..11]), (60, &after[60..61]), (100, &after[100..])]);
        assert_eq!(changed(&before, &before[..50]), []);
    }
}
