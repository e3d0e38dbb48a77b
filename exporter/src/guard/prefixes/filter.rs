//! The filter in front of a table: a bit for each prefix, cut to one length.

use super::prefix::{Family, Prefix};

/// How many bits one version of IP may set: both together a quarter, so that three in four of those who are in no list pass
/// by, however much is in the lists, and nearly all if that is less.
const MOST_BITS: u128 = 1 << 18;

/// What a filter asks for.
#[derive(Debug)]
pub(super) struct Filter {
    /// The length that prefixes are cut to.
    pub(super) length: u8,
}

impl Filter {
    /// The longest that does not set too many bits: the longer it is, the fewer others share a bit with a prefix.
    pub(super) fn new(family: Family, prefixes: &[(Prefix, u16)]) -> Self {
        let fits = |length: &u8| parts(prefixes, *length).map(|(_, count)| count).sum::<u128>() <= MOST_BITS;
        // Each bit more is at least as many to be set.
        let (mut length, mut beyond) = (0, family.longest_filter() + 1);
        while beyond - length > 1 {
            let middle = length.midpoint(beyond);
            if fits(&middle) { length = middle } else { beyond = middle }
        }
        Self { length }
    }

    /// The cut prefixes that make up `prefixes`.
    pub(super) fn cuts(&self, prefixes: &[(Prefix, u16)]) -> impl Iterator<Item = u128> {
        let step = 1_u128.checked_shl(128 - u32::from(self.length)).unwrap_or(0);
        parts(prefixes, self.length).flat_map(move |(first, count)| (0..count).map(move |part| first | (part * step)))
    }
}

/// The prefixes of `length` that `prefixes`, which are in order, are in or are made up of: the first, and how many from
/// there on. None twice.
fn parts(prefixes: &[(Prefix, u16)], length: u8) -> impl Iterator<Item = (u128, u128)> {
    let mut covered: Option<Prefix> = None;
    prefixes.iter().filter_map(move |(prefix, _)| {
        let part = prefix.cut(prefix.length.min(length));
        if covered.is_some_and(|covered| covered.contains(&part)) {
            return None;
        }
        covered = Some(part);
        Some((part.bits, 1 << (length - part.length)))
    })
}
