//! The flow table: which ends talk to each other, and how much.
//!
//! Whatever happens in here, the packet was counted for its API before.

#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "what is handed over by value is copied, and the stack has 512 bytes"
)]

use aya_ebpf::{bindings::BPF_NOEXIST, programs::TcContext};
use tidewaiter_common::{
    api::ApiSlot,
    direction::Direction,
    flow::{Flow, FlowKey},
    frame::Frame,
    packet::Packet,
    wire::Wire,
};

use crate::{
    context::{is_replay, nanoseconds, ticks, tracks_flows},
    maps::{API_COUNTERS, FLOWS, NEW_FLOWS},
};

/// What the kernel answers to an insertion of a key that is there (`EEXIST`, `include/uapi/asm-generic/errno-base.h`).
const ALREADY_THERE: i32 = -17;

/// One socket buffer, as far as flows are concerned.
#[repr(C)]
struct Sight<'a> {
    key: &'a FlowKey,
    api: ApiSlot,
    /// As its number: the verifier does not know which values an enumeration has.
    direction: u32,
    bits: u64,
    wire: Wire,
    tick: u64,
}

/// Counts the socket buffer that `packet` was read from for its flow.
#[inline(always)]
pub(crate) fn track<F: Frame>(
    ctx: &TcContext,
    frame: &F,
    packet: &Packet,
    direction: Direction,
    interface: u32,
    api: ApiSlot,
    wire: Wire,
) {
    if !tracks_flows() {
        return;
    }
    let Some(key) = FlowKey::of(packet, frame, direction, interface) else { return };
    let (bits, tick) = (Flow::bits(packet, direction), ticks(ctx));
    match FLOWS.get_ptr_mut(&key) {
        // SAFETY: a flow of the map, which is written to by `Flow`'s methods alone.
        Some(flow) => unsafe {
            Flow::count(flow, api, direction, wire, bits, tick);
            if is_replay() {
                Flow::begin_no_later(flow, tick);
            }
        },
        None => track_new(&Sight { key: &key, api, direction: direction as u32, bits, wire, tick }),
    }
}

/// As [`track`], for a flow that is not in the table of established ones.
///
/// What is counted here and what moves from here cannot miss each other. A CPU first counts, then asks whether the flow
/// has moved; the one that moves it first says so, then takes what was counted. All four are atomic and ordered, so
/// either the taker finds the count, or the counter hears of the move and takes it along itself.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn track_new(sight: &Sight<'_>) {
    let &Sight { key, api, direction, bits, wire, tick } = sight;
    let direction = Direction::from_number(direction);
    // Where even that table has no room, for an entry of another CPU was the one to go, it is part of no flow.
    let Some(flow) = new_flow(key, api, tick) else { return leave_untracked(api, wire.packets) };
    // SAFETY: a flow of the map, which is written to by `Flow`'s methods alone.
    unsafe { Flow::count(flow, api, direction, wire, bits, tick) };
    if is_replay() {
        // SAFETY: as above.
        unsafe { Flow::begin_no_later(flow, tick) };
    }
    // SAFETY: as above.
    if !unsafe { Flow::has_moved(flow) } {
        // SAFETY: as above; a copy, which may be of two moments.
        let copy = unsafe { flow.read_volatile() };
        if !copy.is_established(key.protocol) {
            return;
        }
        let established = Flow::new(api, copy.first, copy.last);
        match FLOWS.insert(key, &established, BPF_NOEXIST.into()) {
            Ok(()) | Err(ALREADY_THERE) => {}
            // They are part of no flow then, nor of this one should there be room for it later.
            // SAFETY: as above.
            Err(_) => return leave_untracked(api, unsafe { Flow::take_packets(flow) }),
        }
        // SAFETY: as above.
        unsafe { Flow::set_moved(flow) };
    }
    if let Some(established) = FLOWS.get_ptr_mut(key) {
        // SAFETY: as above, for both.
        return unsafe { Flow::move_counters(flow, established) };
    }
    // It had ended, and userspace has taken it away: this is the first packet of another with the same ends.
    // SAFETY: as above.
    unsafe { Flow::begin_anew(flow, bits, nanoseconds(tick)) };
    // Unless another CPU has put it back meanwhile, and has said that it has moved before this one said that it has not.
    if let Some(established) = FLOWS.get_ptr_mut(key) {
        // SAFETY: as above, for both.
        unsafe {
            Flow::set_moved(flow);
            Flow::move_counters(flow, established);
        }
    }
}

/// The entry for `key` in the table of flows that are not established.
#[inline(always)]
fn new_flow(key: &FlowKey, api: ApiSlot, tick: u64) -> Option<*mut Flow> {
    if let Some(flow) = NEW_FLOWS.get_ptr_mut(key) {
        return Some(flow);
    }
    // Another CPU may be faster: then its entry is as good.
    let _: Result<(), i32> = NEW_FLOWS.insert(key, &Flow::new(api, nanoseconds(tick), tick), BPF_NOEXIST.into());
    NEW_FLOWS.get_ptr_mut(key)
}

/// Counts packets of a flow that found the flow table full.
#[inline(always)]
fn leave_untracked(api: ApiSlot, packets: u64) {
    if let Some(counters) = API_COUNTERS.get_ptr_mut(api.0.into()) {
        // SAFETY: this CPU's own entry, as in `account`.
        unsafe { (*counters).untracked += packets };
    }
}
