//! Who is blocked.

use tidewaiter_common::guard::{BLOCKED_LENGTHS, BlockKey, word};

use super::{number, seen::Seen};
use crate::maps::{BLOCKED, BLOCKS};

/// Whether anything is blocked.
#[inline(always)]
pub(super) fn blocks_anything() -> bool {
    number(word::BLOCKED_IPV4) | number(word::BLOCKED_IPV6) != 0
}

/// Whether all that comes from who has sent the packet is blocked.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn is_blocked(seen: &Seen) -> u32 {
    let is_v4 = seen.source.is_v4();
    let (first, count) = if is_v4 { (0, word::BLOCKED_IPV4) } else { (BLOCKED_LENGTHS as u32, word::BLOCKED_IPV6) };
    let count = number(count);
    for place in 0..BLOCKED_LENGTHS as u32 {
        if u64::from(place) >= count {
            break;
        }
        let Some(length) = BLOCKED.get(first + place) else { break };
        // SAFETY: a word that userspace replaces as a whole.
        let until = unsafe { BLOCKS.get(&BlockKey::of(seen.source, length)) };
        if until.is_some_and(|until| seen.tick < *until) {
            return 1;
        }
    }
    0
}
