//! Which pair of a rule and an API has which place: what is counted and what is left of limits is kept by it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

use tidewaiter_common::{
    guard::{GuardCounters, MAX_PAIRS},
    record::{PAIR_NAME_BYTES, PairRecord},
};

use crate::{
    guard::compile::Pairs,
    kernel::{Kernel, KernelError, nanoseconds},
};

/// Who has which place among the pairs of a rule and an API.
#[derive(Debug, Default)]
pub(super) struct PairRegistry {
    pub(super) places: HashMap<Names, u16>,
    pub(super) records: BTreeMap<u16, PairRecord>,
    /// Those that rules in force have.
    pub(super) current: HashSet<u16>,
}

/// Names of a rule and of an API.
pub(super) type Names = (Arc<str>, Arc<str>);

/// Gives out places, and keeps in mind who is new.
#[derive(Clone, Debug)]
pub(super) struct Taking {
    /// Those that have been given out before.
    places: HashMap<Names, u16>,
    /// Those that no rule in force has, the best one last.
    free: Vec<u16>,
    /// Those of them that somebody has had.
    held: HashSet<u16>,
    given: HashSet<u16>,
    pub(super) taken: HashMap<Names, u16>,
    pub(super) new: Vec<(Names, u16)>,
}

impl Taking {
    /// Those whose places somebody else has had.
    pub(super) fn reused(&self) -> HashSet<u16> {
        self.new.iter().map(|(_, place)| *place).filter(|place| self.held.contains(place)).collect()
    }

    /// Keeps the places of those of `names` who have one: others may ask before them.
    pub(super) fn reserve<'a>(&mut self, names: impl Iterator<Item = &'a Names>) {
        let reserved: HashSet<_> = names.filter_map(|names| self.places.get(names)).collect();
        self.free.retain(|place| !reserved.contains(place));
    }

    fn next_free(&mut self) -> Option<u16> {
        while let Some(place) = self.free.pop() {
            if !self.given.contains(&place) {
                return Some(place);
            }
        }
        None
    }
}

impl Pairs for Taking {
    fn place(&mut self, rule: &Arc<str>, api: &str) -> Option<u16> {
        let key = (Arc::clone(rule), Arc::from(api));
        if let Some(place) = self.taken.get(&key) {
            return Some(*place);
        }
        // Somebody who came before may have it by now.
        let known = self.places.get(&key).copied().filter(|place| !self.given.contains(place));
        let place = if let Some(place) = known {
            place
        } else {
            let place = self.next_free()?;
            self.new.push((key.clone(), place));
            place
        };
        self.given.insert(place);
        self.taken.insert(key, place);
        Some(place)
    }
}

impl PairRegistry {
    pub(super) fn restore(kernel: &Kernel) -> Result<Self, KernelError> {
        let mut registry = Self::default();
        for place in 1..MAX_PAIRS {
            let record = kernel.pair_record(place)?;
            let Some(names) = names(&record) else { continue };
            registry.places.insert(names, place);
            registry.records.insert(place, record);
        }
        Ok(registry)
    }

    /// Gives the place to somebody, and takes it from whoever has had it.
    pub(super) fn give(&mut self, names: Names, place: u16, record: &PairRecord) {
        self.places.retain(|_, held| *held != place);
        self.places.insert(names, place);
        self.records.insert(place, *record);
    }

    /// Places that nobody has come first; then those that nobody has any more.
    pub(super) fn taking(&self) -> Taking {
        let (held, unheld): (Vec<_>, Vec<_>) = (1..MAX_PAIRS).rev().partition(|place| self.records.contains_key(place));
        let mut free: Vec<_> = held.into_iter().filter(|place| !self.current.contains(place)).collect();
        let held = free.iter().copied().collect();
        free.extend(unheld);
        let places = self.places.clone();
        Taking { places, free, held, given: HashSet::new(), taken: HashMap::new(), new: Vec::new() }
    }
}

pub(super) fn record(rule: &str, api: &str, base: GuardCounters) -> PairRecord {
    let mut record = PairRecord { created: nanoseconds(SystemTime::now()), base, ..PairRecord::default() };
    // Names are checked to be no longer.
    let bytes = rule.bytes().chain(api.bytes()).take(PAIR_NAME_BYTES);
    record.names.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
    record.rule_length = rule.len() as u16;
    record.api_length = api.len() as u16;
    record
}

/// Names of the rule and of the API that have a place.
pub(super) fn names(record: &PairRecord) -> Option<(Arc<str>, Arc<str>)> {
    let (rule, api) = (usize::from(record.rule_length), usize::from(record.api_length));
    if rule == 0 {
        return None;
    }
    let text = |bytes: &[u8]| str::from_utf8(bytes).ok().map(Arc::from);
    Some((text(record.names.get(..rule)?)?, text(record.names.get(rule..rule + api)?)?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidewaiter_common::{guard::MAX_PAIRS, record::PairRecord};

    use super::{Names, PairRegistry, Pairs as _, Taking};

    fn names(number: u16) -> Names {
        (Arc::from(format!("rule {number}")), Arc::from("orders"))
    }

    fn take(taking: &mut Taking, number: u16) -> Option<u16> {
        let (rule, api) = names(number);
        taking.place(&rule, &api)
    }

    /// Nothing is free that nobody has had: all places were given out, and those up to `in_force` are.
    fn full(in_force: u16) -> PairRegistry {
        let mut registry = PairRegistry::default();
        (1..MAX_PAIRS).for_each(|place| registry.give(names(place), place, &PairRecord::default()));
        registry.current = (1..=in_force).collect();
        registry
    }

    #[test]
    fn who_comes_back_has_the_same_place() {
        let mut registry = PairRegistry::default();
        let mut taking = registry.taking();
        assert_eq!((take(&mut taking, 7), take(&mut taking, 8), take(&mut taking, 7)), (Some(1), Some(2), Some(1)));
        assert!(taking.reused().is_empty());
        taking.new.into_iter().for_each(|(names, place)| registry.give(names, place, &PairRecord::default()));
        let mut taking = registry.taking();
        assert_eq!((take(&mut taking, 9), take(&mut taking, 8)), (Some(3), Some(2)));
        assert_eq!(taking.new, [(names(9), 3)]);
    }

    #[test]
    fn no_two_have_one_place() {
        let mut taking = full(MAX_PAIRS - 3).taking();
        let mut places: Vec<_> = (0..2).filter_map(|number| take(&mut taking, 10_000 + number)).collect();
        // Both free places are taken, so who has had one of them cannot come back; who is in force stays.
        assert_eq!((take(&mut taking, MAX_PAIRS - 1), take(&mut taking, 5)), (None, Some(5)));
        places.sort_unstable();
        assert_eq!(places, [MAX_PAIRS - 2, MAX_PAIRS - 1]);
        assert_eq!(taking.reused(), places.into_iter().collect());
    }

    #[test]
    fn who_is_known_comes_first() {
        let registry = full(0);
        let asked = || (20_000..20_000 + MAX_PAIRS - 2).chain([1]);
        let mut taking = registry.taking();
        asked().for_each(|number| assert!(take(&mut taking, number).is_some()));
        assert_ne!(taking.taken.get(&names(1)), None);
        let mut again = registry.taking();
        again.reserve(taking.taken.keys());
        asked().for_each(|number| assert!(take(&mut again, number).is_some()));
        assert_eq!(again.taken.get(&names(1)), Some(&1));
        assert!(again.new.iter().all(|(names, place)| *place != 1 && *names != super::tests::names(1)));
    }

    #[test]
    fn whose_place_was_given_away_is_known_no_more() {
        let mut registry = full(0);
        registry.give(names(30_000), 1, &PairRecord::default());
        assert_eq!(registry.taking().places.get(&names(1)), None);
    }
}
