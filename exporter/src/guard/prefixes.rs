//! Tables that tell the kernel which lists of prefixes an address is in: see [`tidewaiter_common::prefix`].
//!
//! Lists are *sets*, by number. An address is in a set if any prefix of it contains the address, whatever more exact prefixes
//! other sets have. So each prefix of all sets together stands for a combination of sets: its own, and those of all prefixes
//! around it. These combinations are numbered, and the number is what the kernel finds.

mod combinations;
mod filter;
mod lengths;
mod place;
mod prefix;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
};

use ipnet::IpNet;
use thiserror::Error;
use tidewaiter_common::prefix::{
    NOBODY, PREFIX_FILTER_WORDS, PREFIX_PROBES, PrefixEntry, PrefixHeader, PrefixTable, lookup,
};

use self::{
    combinations::{Combinations, classify},
    filter::Filter,
    lengths::Lengths,
    place::{Chance, Part, draw, place},
    prefix::{Family, Prefix},
};

/// The most sets.
pub const MOST_SETS: u16 = 1024;

/// The most combinations of sets that addresses may be in, that of none not counted.
pub const MOST_COMBINATIONS: usize = 255;

/// How often other random numbers are tried before the table is made larger.
const TRIES: u32 = 4;

/// Sets of which there is no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PrefixesError {
    /// A set with a number that is not below [`MOST_SETS`].
    #[error("there are more than {MOST_SETS} lists of prefixes")]
    TooManySets,
    /// More than [`MOST_COMBINATIONS`].
    #[error(
        "addresses are in more than {MOST_COMBINATIONS} different combinations of lists: use fewer lists, or such that overlap less"
    )]
    TooManyCombinations,
    /// More than there is room for.
    #[error(
        "{prefixes} prefixes need a table of more than {capacity} entries: use fewer, or shorter ones that contain them"
    )]
    TooLarge {
        /// How many there are.
        prefixes: usize,
        /// How many entries there is room for.
        capacity: usize,
    },
}

/// Sets of prefixes, of which a table is to be made.
#[derive(Debug, Default)]
pub struct Prefixes {
    /// By version of IP.
    members: [Vec<(Prefix, u16)>; 2],
}

impl Prefixes {
    /// Puts `network` into the set of that number. It may be in there more than once, and in others; bits of it beyond its
    /// length do not matter.
    pub fn insert(&mut self, set: u16, network: IpNet) -> Result<(), PrefixesError> {
        if set >= MOST_SETS {
            return Err(PrefixesError::TooManySets);
        }
        let (family, prefix) = Prefix::new(network);
        self.members[family as usize].push((prefix, set));
        Ok(())
    }

    /// The table of all sets. It will have at most `capacity` entries, those behind its last place included.
    pub fn build(self, capacity: usize) -> Result<PrefixTables, PrefixesError> {
        self.build_by_chance(capacity, Chance(RandomState::new().hash_one(0)))
    }

    fn build_by_chance(mut self, capacity: usize, mut chance: Chance) -> Result<PrefixTables, PrefixesError> {
        let mut combinations = Combinations::default();
        let mut parts = vec![];
        for (family, members) in Family::ALL.into_iter().zip(&mut self.members) {
            members.sort_unstable();
            members.dedup();
            let mut prefixes = classify(members, &mut combinations)?;
            // What is around all others is no question.
            let whole = prefixes.pop_front_if(|(prefix, _)| prefix.length == 0);
            let otherwise = whole.map_or(NOBODY, |(_, who)| who);
            let prefixes = Vec::from(prefixes);
            let lengths = Lengths::new(&prefixes, family.levels());
            let filter = Filter::new(family, &prefixes);
            parts.push(Part { family, prefixes, otherwise, lengths, filter });
        }
        let entries: Vec<_> = parts.iter().flat_map(Part::entries).collect();
        let prefixes = parts.iter().map(|part| part.prefixes.len()).sum();
        let mut header = PrefixHeader::EMPTY;
        // At most half of the places are taken.
        for bits in (entries.len() * 2).max(2).next_power_of_two().ilog2()..u32::BITS {
            let places = 1 << bits;
            if places + PREFIX_PROBES as usize > capacity {
                break;
            }
            header.shift = u64::BITS - bits;
            for _ in 0..TRIES {
                draw(&mut header, &parts, &mut chance);
                let Some((table, longest)) = place(&header, &entries, places) else { continue };
                return Ok(PrefixTables {
                    filter: place::filter(&header, &parts, PREFIX_FILTER_WORDS),
                    header: Box::new(header),
                    entries: table,
                    combinations: combinations.all,
                    statistics: Statistics { prefixes, entries: entries.len(), longest },
                });
            }
        }
        Err(PrefixesError::TooLarge { prefixes, capacity })
    }
}

/// What tells the kernel, and whoever else asks, which sets an address is in.
#[derive(Debug)]
pub struct PrefixTables {
    /// What a lookup begins with.
    pub header: Box<PrefixHeader>,
    /// The table: a power of two of places, and [`PREFIX_PROBES`] more behind them.
    pub entries: Vec<PrefixEntry>,
    /// The filter, of [`PREFIX_FILTER_WORDS`] words.
    pub filter: Vec<u64>,
    /// The sets of those whom the table calls by this number; the first is [`NOBODY`], in no set.
    pub combinations: Vec<BTreeSet<u16>>,
    /// How the table came out.
    pub statistics: Statistics,
}

/// How a table came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Prefixes in it: those that differ from what is around them, and are not all there is.
    pub prefixes: usize,
    /// Entries in use: prefixes, and markers on the way to them.
    pub entries: usize,
    /// How many entries a question reads at most to find one.
    pub longest: u32,
}

impl PrefixTables {
    /// Who `address` is, as the kernel sees it: a place in `combinations`.
    #[must_use]
    pub fn who(&self, address: IpAddr) -> u16 {
        lookup(&self.header, self, address.into())
    }
}

impl PrefixTable for PrefixTables {
    #[inline]
    fn entry(&self, index: u32) -> Option<&PrefixEntry> {
        self.entries.get(index as usize)
    }

    #[inline]
    fn filter(&self, index: u32) -> Option<u64> {
        self.filter.get(index as usize).copied()
    }
}
