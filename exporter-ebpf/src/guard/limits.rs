//! Limits of rates. Functions of their own: the verifier would follow each attempt to the end of all that comes after.

use aya_ebpf::bindings::BPF_NOEXIST;
use tidewaiter_common::guard::GuardRule;

use super::seen::GuardScratch;
use crate::{
    context::{nanoseconds, precise_nanoseconds},
    maps::{API_LIMITS, CLIENT_LIMITS, CLIENT_LIMITS_MADE},
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
    // SAFETY: this CPU's own entry.
    let key = unsafe {
        (&raw mut (*scratch).client.pair).write_volatile(pair.into());
        &(*scratch).client
    };
    let mut word = CLIENT_LIMITS.get_ptr_mut(key);
    if word.is_none() {
        // Another CPU may be faster: then its entry is as good.
        if CLIENT_LIMITS.insert(key, &0, BPF_NOEXIST.into()).is_ok()
            && let Some(made) = CLIENT_LIMITS_MADE.get_ptr_mut(0)
        {
            // SAFETY: this CPU's own entry; who interrupts this one may be counted for it, or the other way round.
            unsafe { *made += 1 };
        }
        word = CLIENT_LIMITS.get_ptr_mut(key);
    }
    match word {
        Some(word) => take(word, scratch, rule, units),
        None => 1,
    }
}

#[inline(always)]
fn take(word: *mut u64, scratch: *mut GuardScratch, rule: &GuardRule, units: u64) -> u32 {
    // SAFETY: this CPU's own entry, written to a moment ago; and a word of a map, which nothing else writes to.
    unsafe {
        let tick = (*scratch).seen.tick;
        rule.limit.admit(word, units, nanoseconds(tick), || precise_nanoseconds(tick)).into()
    }
}
