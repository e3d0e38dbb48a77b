//! The limits of clients: a table of the words that [`limiter`](crate::limiter) keeps, of fixed size.
//!
//! A bucket that is full is as good as one that is not there, and its word says when it will be: so a place whose time has come is
//! free, nobody has to be remembered for longer than its burst takes to be there again, and addresses that are forged take places for
//! no longer than one packet costs. A client's places are those of one [`Group`], of which there are twice as many as there are to be
//! clients. Only if all of them are taken by clients who are short of something, the one that is short for the least time is
//! forgotten: it has its whole burst again.
//!
//! Which group is a client's is worked out with a random number, so nobody can choose addresses that meet in one. Programs on
//! several CPUs use the table at once and without locks. What may go wrong then is a packet or two: a client's first one passes uncounted
//! while another of the same group comes for the first time too, and one is charged to who takes the place of a client that goes.

use crate::{
    address::Address,
    atomic,
    limiter::{STEP_SHIFT, TRUSTED_LAG},
    protocol::opaque,
};

/// Places of a group: of 32 bytes each, so a group is four lines of a cache.
pub const PLACES: usize = 8;

/// A client who has a limit, and the limit's word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Client {
    /// Its address, as [`Address::halves`] has it.
    pub address: [u64; 2],
    /// The place of rule and API among the pairs; 0 where nobody is, [`BUSY`] while somebody is put there.
    pub owner: u64,
    /// See [`limiter`](crate::limiter).
    pub word: u64,
}

/// That somebody is being put somewhere.
pub const BUSY: u64 = u64::MAX;

/// The places that a client can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Group {
    /// The places.
    pub places: [Client; PLACES],
}

#[cfg(feature = "user")]
// SAFETY: integers without padding between them, every bit pattern is valid.
unsafe impl aya::Pod for Group {}

const _: () = assert!(size_of::<Group>() == PLACES * 32);

/// Groups for so many clients.
#[inline(always)]
#[must_use]
pub const fn groups(clients: u32) -> u32 {
    // Twice as many places: of the groups that are then half full, one in fifty is asked for more than it has.
    let groups = clients.div_ceil(PLACES as u32 / 2);
    if groups == 0 { 1 } else { groups }
}

/// The group, of so many, of a client of `owner`. `seed` is a random odd number, the same as long as there is the table.
#[inline(always)]
#[must_use]
pub const fn group([high, low]: [u64; 2], owner: u64, seed: u64, groups: u32) -> u32 {
    // Each half is mixed before they are put together: what differs in the highest bits alone would meet for every seed.
    let hash = mix(mix(high ^ owner, seed) ^ low ^ seed, seed);
    (((hash >> 32) * groups as u64) >> 32) as u32
}

/// Spreads what differs in some bits over all of them (the finalizer of `MurmurHash3` by A. Appleby, with `factor` for its second number).
const fn mix(number: u64, factor: u64) -> u64 {
    let mut number = number;
    number = (number ^ number >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    number = (number ^ number >> 33).wrapping_mul(factor);
    number ^ number >> 33
}

/// What [`find`] and [`claim`] say if there is no place.
pub const NOWHERE: u32 = PLACES as u32;

/// That a place was taken from a client who was short of something, in what [`claim`] says.
pub const EVICTED: u32 = 1 << 8;

/// Where a client is in its group, or [`NOWHERE`].
///
/// # Safety
/// `group` may be read; others may write to it.
#[inline(always)]
#[must_use]
pub unsafe fn find(group: *const Group, [high, low]: [u64; 2], owner: u64) -> u32 {
    let mut found = u64::from(NOWHERE);
    for place in 0..PLACES {
        // SAFETY: the caller's; volatile, because of the others.
        let is_it = unsafe {
            let client = (&raw const (*group).places).cast::<Client>().add(place);
            (&raw const (*client).owner).read_volatile() == owner
                && (&raw const (*client).address[1]).read_volatile() == low
                && (&raw const (*client).address[0]).read_volatile() == high
        };
        if is_it {
            found = place as u64;
            break;
        }
    }
    // To the verifier any number: it would follow each to the end of all that comes after.
    opaque(found) as u32
}

/// Puts a client into its group at the time `now`, in nanoseconds: answers with its place, and whether it is [`EVICTED`] that somebody
/// else is from it, or with [`NOWHERE`] if others were faster.
///
/// # Safety
/// `group` may be written to, and is aligned to 8 bytes; others write to it in this way alone.
#[inline(always)]
#[must_use]
pub unsafe fn claim(group: *mut Group, [high, low]: [u64; 2], owner: u64, now: u64) -> u32 {
    let now = now << STEP_SHIFT;
    let (mut best, mut least, mut before) = (u64::from(NOWHERE), u64::MAX, 0);
    for place in 0..PLACES {
        // SAFETY: the caller's.
        let (found, word) = unsafe {
            let client = (&raw mut (*group).places).cast::<Client>().add(place);
            ((&raw const (*client).owner).read_volatile(), (&raw const (*client).word).read_volatile())
        };
        let short = short(word, now);
        // Who was just put there has taken nothing yet.
        let short = if found == 0 { 0 } else { short + u64::from(word == now) };
        if found != BUSY && short < least {
            (best, least, before) = (place as u64, short, found);
        }
        if least == 0 {
            break;
        }
    }
    let best = opaque(best);
    if best >= PLACES as u64 {
        return NOWHERE;
    }
    // SAFETY: as above; there is such a place.
    unsafe {
        let client = (&raw mut (*group).places).cast::<Client>().add(best as usize);
        if atomic::compare_exchange(&raw mut (*client).owner, opaque(before), BUSY) != before {
            return NOWHERE;
        }
        (&raw mut (*client).address[0]).write_volatile(high);
        (&raw mut (*client).address[1]).write_volatile(low);
        // Full, and not free for whoever comes at the same time.
        atomic::swap(&raw mut (*client).word, now);
        // Whoever finds its owner finds the rest; who found the one before may still charge this client for one packet.
        atomic::swap(&raw mut (*client).owner, owner);
    }
    best as u32 | if least == 0 { 0 } else { EVICTED }
}

/// How far ahead any limit leaves a word, in steps: see [`limiter`](crate::limiter).
const MOST_AHEAD: u64 = (1 << 62) + (TRUSTED_LAG << STEP_SHIFT);

/// For how long a bucket with this word is not full, in steps: both in steps, of which the word's may be long past.
#[inline(always)]
const fn short(word: u64, now: u64) -> u64 {
    let ahead = word.wrapping_sub(now);
    if ahead > MOST_AHEAD { 0 } else { ahead }
}

impl Client {
    /// Whether somebody is there who is short of something at the time `now`, in nanoseconds.
    #[must_use]
    pub const fn is_short(&self, now: u64) -> bool {
        self.owner != 0 && short(self.word, now << STEP_SHIFT) > 0
    }
}

/// The halves of a client's address, as the table has them.
#[inline(always)]
#[must_use]
pub const fn key(client: Address) -> [u64; 2] {
    client.halves()
}
