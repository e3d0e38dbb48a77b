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
#[derive(Debug)]
pub(super) struct Taking {
    /// Those that have been given out before.
    places: HashMap<(Arc<str>, Arc<str>), u16>,
    free: Vec<u16>,
    pub(super) taken: HashMap<Names, u16>,
    pub(super) new: Vec<(Names, u16)>,
}

impl Pairs for Taking {
    fn place(&mut self, rule: &Arc<str>, api: &str) -> Option<u16> {
        let key = (Arc::clone(rule), Arc::from(api));
        if let Some(place) = self.taken.get(&key) {
            return Some(*place);
        }
        let place = if let Some(place) = self.places.get(&key) {
            *place
        } else {
            let place = self.free.pop()?;
            self.new.push((key.clone(), place));
            place
        };
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

    /// Places that nobody has come first; then those that nobody has any more.
    pub(super) fn taking(&self) -> Taking {
        let (held, unheld): (Vec<_>, Vec<_>) = (1..MAX_PAIRS).rev().partition(|place| self.records.contains_key(place));
        let mut free: Vec<_> = held.into_iter().filter(|place| !self.current.contains(place)).collect();
        free.extend(unheld);
        Taking { places: self.places.clone(), free, taken: HashMap::new(), new: Vec::new() }
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
