//! Which lists of prefixes an address is in: one number for each combination of lists, the *who*.
//!
//! A table of many prefixes is a hash table, and each length that is in use is a question to it. Instead of asking for
//! every length, lengths are searched as in a binary search (M. Waldvogel et al., *Scalable High Speed IP Routing Lookups*,
//! SIGCOMM 1997): where a longer prefix can only be found beyond a length, the table holds a *marker* of that length for it, so a
//! miss says that only shorter ones can match. Each entry holds the answer for what has been found so far, so that a marker
//! that led nowhere needs no way back. That is 6 questions for IPv4 and 8 for IPv6 at most, whatever the number of prefixes;
//! a table of 24 lengths takes 5.
//!
//! Most clients are in no list. A filter comes first: a bit for each prefix, cut to one length (longer ones share a bit,
//! shorter ones have one for each of their parts). Where it is not set, nothing else is read.
//!
//! The table is built in userspace. The order of questions, and numbers that make it unpredictable where in the table an
//! address is looked for, are in [`PrefixHeader`]; all else is read through [`PrefixTable`]. However addresses are chosen,
//! a question reads at most [`PREFIX_PROBES`] entries.

use crate::address::Address;

/// How many entries a question reads at most.
pub const PREFIX_PROBES: u32 = 8;

/// The bits of the filter, as a power of two: 256 KiB, which a cache of the second level holds.
const FILTER_BITS: u32 = 21;

/// Words of the filter.
pub const PREFIX_FILTER_WORDS: u32 = 1 << (FILTER_BITS - 6);

/// The most questions for an IPv4 address: a tree of this height has room for all 32 lengths.
pub const LEVELS_V4: u32 = 6;
/// The most questions for an IPv6 address, of 128 lengths.
pub const LEVELS_V6: u32 = 8;

/// Who is in no list.
pub const NOBODY: u16 = 0;

/// A question: whether a prefix of one length is in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PrefixStep {
    /// The bits of an address that are asked for, as [`Address::halves`] has them.
    pub mask: [u64; 2],
    /// What the hash begins with: a random number, another for each length.
    pub seed: u64,
    /// The length, as [`PrefixEntry`] has it; 0 where there is no question.
    pub length: u32,
    /// Where in its tree it stands. That is no news, but read from a map, where the verifier must take it for any number. From one
    /// that is worked out, it knows which step is which, and follows each way through the tree by itself: 147,000
    /// instructions instead of 21,000.
    pub place: u32,
}

/// What a lookup begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PrefixHeader {
    /// What the hash multiplies by: random odd numbers.
    pub multipliers: [u64; 2],
    /// How many bits a hash is shifted to be a place in the table: 64 less the binary logarithm of the places.
    pub shift: u32,
    /// Who the addresses are that no prefix matches, IPv4 and IPv6: those of the prefix of length 0, if there is one.
    pub otherwise: [u16; 2],
    /// The questions to the filter, IPv4 and IPv6.
    pub filters: [PrefixStep; 2],
    /// The questions for IPv4, as a tree: after the one at `n` comes that at `2 n` if there is no such prefix, else that at
    /// `2 n + 1`. The first is at 1.
    pub v4: [PrefixStep; 1 << LEVELS_V4],
    /// Those for IPv6.
    pub v6: [PrefixStep; 1 << LEVELS_V6],
}

/// An entry of the table: a prefix, a marker on the way to longer ones, or both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PrefixEntry {
    /// Its address, as [`Address::halves`] has it.
    pub address: [u64; 2],
    /// Its length: see [`PrefixEntry::length`]; 0 where the place is free.
    pub length: u16,
    /// Who the addresses in it are, as far as no longer prefix matches.
    pub who: u16,
    /// Whether there are longer ones to ask for: 1 if so, else 0.
    pub goes_on: u32,
}

#[cfg(feature = "user")]
// SAFETY: integers without padding between them, every bit pattern is valid.
unsafe impl aya::Pod for PrefixHeader {}
#[cfg(feature = "user")]
// SAFETY: as above.
unsafe impl aya::Pod for PrefixEntry {}

const _: () = assert!(size_of::<PrefixStep>() == 32 && size_of::<PrefixEntry>() == 24);
const _: () = assert!(size_of::<PrefixHeader>() == 24 + 32 * (2 + (1 << LEVELS_V4) + (1 << LEVELS_V6)));

impl PrefixHeader {
    /// That of an empty table: everybody is [`NOBODY`].
    pub const EMPTY: Self = {
        const NONE: PrefixStep = PrefixStep { mask: [0; 2], seed: 0, length: 0, place: 0 };
        Self {
            multipliers: [1; 2],
            shift: 63,
            otherwise: [NOBODY; 2],
            filters: [NONE; 2],
            v4: [NONE; 1 << LEVELS_V4],
            v6: [NONE; 1 << LEVELS_V6],
        }
    };

    /// The hash of an address that was cut as `step` says; its upper bits are the good ones.
    ///
    /// To multiply by a random odd number and take the upper bits makes two keys meet by chance alone, whoever chose them (M.
    /// Dietzfelbinger et al., *A Reliable Randomized Algorithm for the Closest-Pair Problem*, 1997, section 2).
    #[inline(always)]
    const fn hash(&self, step: &PrefixStep, [high, low]: [u64; 2], is_v4: bool) -> u64 {
        let key = if is_v4 {
            step.seed.wrapping_add(low >> 32)
        } else {
            let hash = (high ^ step.seed).wrapping_mul(self.multipliers[1]);
            low.rotate_left(32).wrapping_add(hash ^ (hash >> 32))
        };
        key.wrapping_mul(self.multipliers[0])
    }

    /// The place in the table from which on an address is looked for that was cut as `step` says.
    #[inline(always)]
    #[must_use]
    pub const fn place(&self, step: &PrefixStep, cut: [u64; 2], is_v4: bool) -> u32 {
        (self.hash(step, cut, is_v4) >> (self.shift % u64::BITS)) as u32
    }

    /// The word of the filter, and the bit in it, of an address that was cut as `step` says.
    #[inline(always)]
    #[must_use]
    pub const fn filter_place(&self, step: &PrefixStep, cut: [u64; 2], is_v4: bool) -> (u32, u64) {
        let bit = (self.hash(step, cut, is_v4) >> (u64::BITS - FILTER_BITS)) as u32;
        (bit / u64::BITS, 1 << (bit % u64::BITS))
    }
}

impl PrefixStep {
    /// What of an address is asked for. Of an IPv4 address, the first half is left out.
    #[inline(always)]
    #[must_use]
    pub const fn cut(&self, [high, low]: [u64; 2], is_v4: bool) -> [u64; 2] {
        [if is_v4 { 0 } else { high & self.mask[0] }, low & self.mask[1]]
    }
}

impl PrefixEntry {
    /// How `length` is written for one or the other version of IP, so that none is taken for one of the other.
    #[inline(always)]
    #[must_use]
    pub const fn length(length: u8, is_v4: bool) -> u16 {
        length as u16 | (is_v4 as u16) << 8
    }
}

/// The parts of a table that are read at an index. Where a map holds more than one, this is one of them.
pub trait PrefixTable {
    /// The entry at `index`; `None` beyond the end.
    fn entry(&self, index: u32) -> Option<&PrefixEntry>;

    /// The word of the filter at `index`, below [`PREFIX_FILTER_WORDS`]; `None` if it could not be read.
    fn filter(&self, index: u32) -> Option<u64>;
}

/// Who `address` is, by the table that `header` belongs to. What cannot be read matches nothing.
#[inline(always)]
pub fn lookup<T: PrefixTable + ?Sized>(header: &PrefixHeader, table: &T, address: Address) -> u16 {
    let halves = address.halves();
    if address.is_v4() {
        search::<T, { 1 << LEVELS_V4 }, LEVELS_V4, true>(header, table, &header.v4, halves)
    } else {
        search::<T, { 1 << LEVELS_V6 }, LEVELS_V6, false>(header, table, &header.v6, halves)
    }
}

#[inline(always)]
fn search<T: PrefixTable + ?Sized, const STEPS: usize, const LEVELS: u32, const IS_V4: bool>(
    header: &PrefixHeader,
    table: &T,
    steps: &[PrefixStep; STEPS],
    halves: [u64; 2],
) -> u16 {
    let family = usize::from(!IS_V4);
    let mut who = header.otherwise[family];
    let filter = &header.filters[family];
    let (index, bit) = header.filter_place(filter, filter.cut(halves, IS_V4), IS_V4);
    if table.filter(index).is_none_or(|word| word & bit == 0) {
        return who;
    }
    let mut place = 1;
    for _ in 0..LEVELS {
        let step = &steps[place % STEPS];
        if step.length == 0 {
            break;
        }
        match find(header, table, step, step.cut(halves, IS_V4), IS_V4) {
            Some(entry) => {
                who = entry.who;
                if entry.goes_on == 0 {
                    break;
                }
                place = step.place as usize * 2 + 1;
            }
            None => place = step.place as usize * 2,
        }
    }
    who
}

/// The entry of what was cut as `step` says.
#[inline(always)]
fn find<'a, T: PrefixTable + ?Sized>(
    header: &PrefixHeader,
    table: &'a T,
    step: &PrefixStep,
    cut: [u64; 2],
    is_v4: bool,
) -> Option<&'a PrefixEntry> {
    let place = header.place(step, cut, is_v4);
    for probe in 0..PREFIX_PROBES {
        let entry = table.entry(place.wrapping_add(probe))?;
        if u32::from(entry.length) == step.length && entry.address[1] == cut[1] && (is_v4 || entry.address[0] == cut[0])
        {
            return Some(entry);
        }
        if entry.length == 0 {
            return None;
        }
    }
    None
}
