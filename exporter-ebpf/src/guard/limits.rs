//! Limits of rates. Functions of their own: the verifier would follow each attempt to the end of all that comes after.

use tidewaiter_common::{
    clients::{Client, EVICTED, Group, NOWHERE, claim, find, group},
    guard::{GuardRule, word},
};

use super::{header, number, seen::GuardScratch};
use crate::{
    context::{nanoseconds, precise_nanoseconds},
    maps::{API_LIMITS, CLIENT_LIMITS, CLIENTS_EVICTED},
};

/// Takes `units` from the limit of `rule` that the API has: 1 if it was within that.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn take_from_api(scratch: *mut GuardScratch, rule: &GuardRule, pair: u16, units: u64) -> u32 {
    match API_LIMITS.get_ptr_mut(pair.into()) {
        Some(word) => take(word, scratch, rule, units),
        None => 1,
    }
}

/// The same, from the limit that the client has, which was left in [`GuardScratch`]. Where there is no room for one more, the packet
/// passes.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn take_from_client(scratch: *mut GuardScratch, rule: &GuardRule, pair: u16, units: u64) -> u32 {
    // SAFETY: this CPU's own entry, written to a moment ago.
    let (key, half) = unsafe { ((*scratch).client.halves(), (*scratch).walk.half) };
    let owner = u64::from(pair);
    let index = group(key, owner, number(word::CLIENT_SEED), header(half.into()).client_groups);
    let Some(group) = CLIENT_LIMITS.get_ptr_mut(index) else { return 1 };
    // SAFETY: an entry of the map, which is written to in this way alone.
    let mut place = unsafe { find(group, key, owner) };
    if place >= NOWHERE {
        place = add_client(scratch, group, owner);
    }
    if place >= NOWHERE {
        return 1;
    }
    // SAFETY: as above; there is such a place.
    let word = unsafe {
        let client = (&raw mut (*group).places).cast::<Client>().add(place as usize);
        &raw mut (*client).word
    };
    take(word, scratch, rule, units)
}

/// Gives the client a place.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn add_client(scratch: *mut GuardScratch, group: *mut Group, owner: u64) -> u32 {
    // SAFETY: this CPU's own entry, and an entry of the map.
    let claimed = unsafe {
        let (key, tick) = ((*scratch).client.halves(), (*scratch).seen.tick);
        claim(group, key, owner, nanoseconds(tick))
    };
    if claimed & EVICTED != 0
        && let Some(evicted) = CLIENTS_EVICTED.get_ptr_mut(0)
    {
        // SAFETY: this CPU's own entry; who interrupts this one may be counted for it, or the other way round.
        unsafe { *evicted += 1 };
    }
    claimed & !EVICTED
}

#[inline(always)]
fn take(word: *mut u64, scratch: *mut GuardScratch, rule: &GuardRule, units: u64) -> u32 {
    // SAFETY: this CPU's own entry, written to a moment ago; and a word of a map, which nothing else writes to.
    unsafe {
        let tick = (*scratch).seen.tick;
        rule.limit.admit(word, units, nanoseconds(tick), || precise_nanoseconds(tick)).into()
    }
}
