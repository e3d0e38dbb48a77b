//! Where in a table everything stands.

use std::collections::HashMap;

use tidewaiter_common::prefix::{PREFIX_PROBES, PrefixEntry, PrefixHeader, PrefixStep};

use super::{
    combinations::innermost,
    filter::Filter,
    lengths::Lengths,
    prefix::{Family, Prefix},
};

/// Random numbers, by S. Vigna's splitmix64, whose state this is: nobody is told any of them.
#[derive(Debug)]
pub(super) struct Chance(pub(super) u64);

impl Chance {
    pub(super) const fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn step(&mut self, family: Family, length: u8, place: usize) -> PrefixStep {
        let tagged = if length == 0 { 0 } else { PrefixEntry::length(length, family.is_v4()) };
        PrefixStep { mask: family.mask(length), seed: self.number(), length: tagged.into(), place: place as u32 }
    }
}

/// The prefixes of one version of IP.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) family: Family,
    /// In order.
    pub(super) prefixes: Vec<(Prefix, u16)>,
    /// Who the addresses outside of them are.
    pub(super) otherwise: u16,
    /// In which order their lengths are asked for.
    pub(super) lengths: Lengths,
    /// What is asked before.
    pub(super) filter: Filter,
}

impl Part {
    /// The entries for the prefixes: themselves, and the markers on the way to them.
    pub(super) fn entries(&self) -> impl Iterator<Item = PrefixEntry> + use<> {
        let Self { family, prefixes, otherwise, lengths, filter: _ } = self;
        let family = *family;
        let mut entries: HashMap<Prefix, (u16, bool)> = HashMap::with_capacity(prefixes.len() * 2);
        let mut around = vec![];
        for (prefix, who) in prefixes {
            innermost(&mut around, prefix);
            around.push((*prefix, *who));
            entries.entry(*prefix).or_insert((*who, false));
            for length in lengths.markers(prefix.length) {
                // What matches a marker is what matches the prefix and is not longer than the marker.
                let who =
                    || around.iter().rfind(|(outer, _)| outer.length <= length).map_or(*otherwise, |(_, who)| *who);
                entries.entry(prefix.cut(length)).or_insert_with(|| (who(), true)).1 = true;
            }
        }
        entries.into_iter().map(move |(prefix, (who, goes_on))| PrefixEntry {
            address: family.halves(prefix.bits),
            length: PrefixEntry::length(prefix.length, family.is_v4()),
            who,
            goes_on: goes_on.into(),
        })
    }
}

/// A hash of its own for `header`, and for all that is asked for.
pub(super) fn draw(header: &mut PrefixHeader, parts: &[Part], chance: &mut Chance) {
    header.multipliers = [chance.number() | 1, chance.number() | 1];
    for Part { family, prefixes: _, otherwise, lengths, filter } in parts {
        header.otherwise[*family as usize] = *otherwise;
        header.filters[*family as usize] = chance.step(*family, filter.length, 0);
        let steps = match family {
            Family::V4 => header.v4.as_mut_slice(),
            Family::V6 => header.v6.as_mut_slice(),
        };
        for (place, (step, length)) in steps.iter_mut().zip(lengths.iter()).enumerate() {
            *step = chance.step(*family, length, place);
        }
    }
}

/// The filter of `words` words for what is in `parts`.
pub(super) fn filter(header: &PrefixHeader, parts: &[Part], words: u32) -> Vec<u64> {
    let mut set = vec![0; words as usize];
    for Part { family, prefixes, filter, .. } in parts {
        let step = &header.filters[*family as usize];
        for bits in filter.cuts(prefixes) {
            let (word, bit) = header.filter_place(step, step.cut(family.halves(bits), family.is_v4()), family.is_v4());
            if let Some(word) = set.get_mut(word as usize) {
                *word |= bit;
            }
        }
    }
    set
}

/// A table of `places` places with `entries`, and how many entries a question reads at most to find one; `None` if that is more
/// than [`PREFIX_PROBES`].
///
/// Who stands far from his place takes that of one who stands nearer to his own (P. Celis, *Robin Hood Hashing*, 1986), so
/// that all stand about equally far.
pub(super) fn place(header: &PrefixHeader, entries: &[PrefixEntry], places: usize) -> Option<(Vec<PrefixEntry>, u32)> {
    let mut table = vec![PrefixEntry::default(); places + PREFIX_PROBES as usize];
    let (mut distances, mut longest) = (vec![0_u32; table.len()], 0);
    let steps: HashMap<_, _> = header.v4.iter().chain(&header.v6).map(|step| (step.length, step)).collect();
    for entry in entries {
        let is_v4 = entry.length == PrefixEntry::length(entry.length as u8, true);
        let step = steps.get(&entry.length.into())?;
        let mut place = header.place(step, step.cut(entry.address, is_v4), is_v4) as usize;
        let (mut entry, mut distance) = (*entry, 1);
        loop {
            if distance > PREFIX_PROBES {
                return None;
            }
            longest = longest.max(distance);
            let (slot, slot_distance) = (table.get_mut(place)?, distances.get_mut(place)?);
            if slot.length == 0 {
                (*slot, *slot_distance) = (entry, distance);
                break;
            }
            if *slot_distance < distance {
                std::mem::swap(slot, &mut entry);
                std::mem::swap(slot_distance, &mut distance);
            }
            (place, distance) = (place + 1, distance + 1);
        }
    }
    Some((table, longest))
}
