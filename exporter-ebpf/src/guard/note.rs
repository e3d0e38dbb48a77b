//! Counting what was decided, and about whom.

use tidewaiter_common::{
    api::{ApiSlot, port_index},
    guard::{HIT_ENTRIES, Verdict, word},
};

use super::{number, seen::Seen};
use crate::{
    anomaly::find_by_guard,
    maps::{GUARD_COUNTERS, HITS, PORTS},
};

#[inline(always)]
pub(super) fn count(pair: u16, verdict: Verdict, packets: u64) {
    if let Some(counters) = GUARD_COUNTERS.get_ptr_mut(pair.into()) {
        // SAFETY: this CPU's own entry.
        unsafe { (*counters).packets[verdict as usize] += packets };
    }
}

/// Takes note of whose packet it was decided about.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn note_hit(seen: &Seen, pair: u16, verdict: u8) {
    let (client, packets) = (&seen.source, seen.packets);
    let interval = number(word::INTERVAL) as u32;
    // Who has the same place as another in one interval has not in the next.
    let place = (client.fold() ^ u32::from(pair) ^ interval.wrapping_mul(0x85eb_ca6b)).wrapping_mul(0x9e37_79b1) >> 20;
    let Some(hit) = HITS.get_ptr_mut(place % HIT_ENTRIES) else { return };
    // SAFETY: this CPU's own entry; userspace reads it when the interval is over.
    unsafe {
        if (*hit).interval != interval || (*hit).pair == 0 {
            (*hit).client = *client;
            (*hit).pair = pair;
            (*hit).verdict = verdict;
            (*hit).interval = interval;
            (*hit).packets = packets;
            (*hit).others = 0;
        } else if (*hit).client == *client && (*hit).pair == pair && (*hit).verdict == verdict {
            (*hit).packets += packets;
        } else {
            (*hit).others += packets;
        }
    }
}

/// Counts the packet as the anomaly that it is: nobody else will see it.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn count_anomaly(seen: &Seen) {
    let entry = seen.transport().and_then(|transport| PORTS.get(port_index(transport, seen.destination_port)));
    // Of ports that have several APIs it is not asked which one it was.
    find_by_guard(entry.map_or(ApiSlot::UNMAPPED, |entry| entry.server), seen.anomaly);
}
