//! Which sets the addresses of each prefix are in.

use std::collections::{BTreeSet, HashMap, VecDeque};

use tidewaiter_common::prefix::NOBODY;

use super::{MOST_COMBINATIONS, PrefixesError, prefix::Prefix};

/// The combinations of sets that were met, by number: see [`NOBODY`].
#[derive(Debug)]
pub(super) struct Combinations {
    pub(super) all: Vec<BTreeSet<u16>>,
    numbers: HashMap<BTreeSet<u16>, u16>,
    /// What some sets make of a combination: most prefixes are like one before.
    joined: HashMap<(u16, Vec<u16>), u16>,
}

impl Default for Combinations {
    fn default() -> Self {
        let nothing = BTreeSet::new();
        Self { all: vec![nothing.clone()], numbers: HashMap::from([(nothing, NOBODY)]), joined: HashMap::new() }
    }
}

impl Combinations {
    /// The combination with number `who`, and `sets`.
    fn join(&mut self, who: u16, sets: Vec<u16>) -> Result<u16, PrefixesError> {
        let key = (who, sets);
        if let Some(joined) = self.joined.get(&key) {
            return Ok(*joined);
        }
        let mut combination = self.all.get(usize::from(who)).cloned().unwrap_or_default();
        combination.extend(&key.1);
        let joined = match self.numbers.get(&combination) {
            Some(number) => *number,
            None if self.all.len() > MOST_COMBINATIONS => return Err(PrefixesError::TooManyCombinations),
            None => {
                let number = self.all.len() as u16;
                self.all.push(combination.clone());
                self.numbers.insert(combination, number);
                number
            }
        };
        self.joined.insert(key, joined);
        Ok(joined)
    }
}

/// The innermost of `around` that contains `prefix`, after those that do not are gone: `around` are prefixes within each other.
pub(super) fn innermost<'a, T>(around: &'a mut Vec<(Prefix, T)>, prefix: &Prefix) -> Option<&'a (Prefix, T)> {
    while around.pop_if(|(outer, _)| !outer.contains(prefix)).is_some() {}
    around.last()
}

/// Who the addresses of each prefix are, as far as no longer one matches. Those that change nothing are left out.
pub(super) fn classify(
    members: &[(Prefix, u16)],
    combinations: &mut Combinations,
) -> Result<VecDeque<(Prefix, u16)>, PrefixesError> {
    let (mut prefixes, mut around) = (VecDeque::new(), vec![]);
    for same in members.chunk_by(|(one, _), (other, _)| one == other) {
        let Some((prefix, _)) = same.first() else { continue };
        let outer = innermost(&mut around, prefix).map_or(NOBODY, |(_, who)| *who);
        let who = combinations.join(outer, same.iter().map(|(_, set)| *set).collect())?;
        if who != outer {
            prefixes.push_back((*prefix, who));
            around.push((*prefix, who));
        }
    }
    Ok(prefixes)
}
