//! Judging socket buffers (TC): where frames cannot be judged, and what is only known of flows.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use tidewaiter_common::{
    ACCOUNT_RECEIVE_INDEX, ASK_BUFFER_INDEX, REFUSE_BUFFER_INDEX,
    direction::Direction,
    flow::Flow,
    frame::Framing,
    guard::{Stage, decision, judges},
    interface::{InterfaceEntry, guarded},
    packet::{Packet, protocol},
    wire::Wire,
};

use super::{
    ASK_NEXT, ask_rule, decided, header, in_force, judge_seen, judges_packets, scratch,
    seen::{Arrives, GuardScratch, READ, see, see_flow},
};
use crate::{
    account::{interface, read_paged},
    context::{buffer, interface_index, is_replay, note_judged, ticks},
    frame::{Linear, Paged},
    maps::{FLOWS, INTERFACE_GUARD, NEW_FLOWS, PROGRAMS, SCRATCH, Scratch},
    reject::{reject_buffer, reset_both},
};

/// That a request begins with the packet, in [`Scratch::late`](crate::maps::Scratch::late).
pub(crate) const REQUEST: u32 = 1;
/// That its payload is not what the API expects.
pub(crate) const UNEXPECTED: u32 = 2;

/// Judges a received buffer, and ends in the program that accounts it if it is let in: a verdict of TC.
#[inline(always)]
pub(crate) fn guard_buffer(ctx: &TcContext) -> i32 {
    let entry = interface(interface_index(ctx));
    let tick = ticks(ctx);
    let stage = if entry.guarded & guarded::BUFFERS != 0 { Stage::Buffer } else { Stage::Marks };
    let framing = Framing::from_number(entry.framing);
    let decided = match in_force(tick) {
        Some(half) if judges_packets(half) => judge_buffer(ctx, tick, half, framing, stage),
        _ => decision::PASS,
    };
    if decided == ASK_NEXT {
        ask(ctx);
    }
    conclude(ctx, entry, stage == Stage::Buffer, decided)
}

/// Has the rules asked about the buffer that was seen, by another program.
#[inline(always)]
fn ask(ctx: &TcContext) {
    // SAFETY: the program there is of the same type. Where there is none, the buffer passes.
    unsafe { PROGRAMS.tail_call(ctx, ASK_BUFFER_INDEX) };
}

/// Asks the next rule about the buffer that was seen: a verdict of TC.
#[inline(always)]
pub(crate) fn ask_rule_buffer(ctx: &TcContext) -> i32 {
    let Some(scratch) = scratch() else { return TC_ACT_UNSPEC };
    ask_rule(scratch);
    let decided = decided(scratch);
    if decided == ASK_NEXT {
        ask(ctx);
    }
    mark(ctx, scratch);
    // SAFETY: this CPU's own entry.
    let stage = unsafe { (*scratch).walk.stage() };
    match stage {
        Stage::Request | Stage::Payload => conclude_payload(ctx, decided),
        _ => conclude(ctx, interface(interface_index(ctx)), stage == Stage::Buffer, decided),
    }
}

/// Marks the buffer as rules say, if they do.
#[inline(always)]
fn mark(ctx: &TcContext, scratch: *mut GuardScratch) {
    // SAFETY: this CPU's own entry; and `skb` is the context that the kernel gave this program, of which it may write this field.
    unsafe {
        let mark = (&raw const (*scratch).mark).read_volatile();
        // In a replay it is the number of the interface.
        if mark != 0 && !is_replay() {
            (&raw mut (*ctx.skb.skb).mark).write_volatile(mark);
        }
    }
}

/// Counts what became of a received buffer, if it was not judged before, and does it; goes on to account what is let in.
#[inline(always)]
fn conclude(ctx: &TcContext, entry: InterfaceEntry, counts: bool, decided: u32) -> i32 {
    if decided == decision::REJECT && !is_replay() {
        // SAFETY: the program there is of the same type, and counts it. Where there is none, the buffer passes.
        unsafe { PROGRAMS.tail_call(ctx, REFUSE_BUFFER_INDEX) };
    }
    if counts && let Some(counters) = INTERFACE_GUARD.get_ptr_mut(entry.slot.into()) {
        let packets = packets(ctx);
        // SAFETY: this CPU's own entry; no other program that writes to it runs before this one has ended.
        unsafe {
            match decided {
                decision::DROP => (*counters).dropped += packets,
                decision::REJECT if is_replay() => (*counters).rejected += packets,
                _ => (*counters).passed += packets,
            }
        }
    }
    match decided {
        decision::DROP => TC_ACT_SHOT,
        // Nobody is there to be answered.
        decision::REJECT if is_replay() => TC_ACT_SHOT,
        _ => {
            note_judged(ctx, true);
            // SAFETY: the program there is of the same type. Where there is none, the packet passes, and is not counted.
            unsafe { PROGRAMS.tail_call(ctx, ACCOUNT_RECEIVE_INDEX) };
            note_judged(ctx, false);
            TC_ACT_UNSPEC
        }
    }
}

/// Has the buffer answered, by another program.
#[inline(always)]
fn refuse(ctx: &TcContext) -> i32 {
    // SAFETY: the program there is of the same type. Where there is none, the buffer passes.
    unsafe { PROGRAMS.tail_call(ctx, REFUSE_BUFFER_INDEX) };
    TC_ACT_UNSPEC
}

/// Answers the buffer that a rule has refused: a verdict of TC.
#[inline(always)]
pub(crate) fn refuse_buffer(ctx: &TcContext) -> i32 {
    let Some(scratch) = scratch() else { return TC_ACT_UNSPEC };
    // SAFETY: this CPU's own entry.
    let (stage, protocol) = unsafe { ((*scratch).walk.stage(), (*scratch).seen.protocol) };
    let slot = interface(interface_index(ctx)).slot;
    if stage == Stage::Buffer
        && let Some(counters) = INTERFACE_GUARD.get_ptr_mut(slot.into())
    {
        // SAFETY: as in `conclude`.
        unsafe { (*counters).rejected += packets(ctx) };
    }
    match stage {
        // There is a connection, of which both ends know.
        Stage::Request | Stage::Payload if protocol == protocol::TCP => reset_both(ctx.skb.skb),
        _ => reject_buffer(ctx.skb.skb),
    }
}

/// Packets that the buffer is on the wire, as far as the kernel says.
#[inline(always)]
fn packets(ctx: &TcContext) -> u64 {
    Wire::of(buffer(ctx, Direction::Receive), 0).packets
}

/// Reads a buffer, and judges it.
#[inline(always)]
fn judge_buffer(ctx: &TcContext, tick: u64, half: u32, framing: Framing, stage: Stage) -> u32 {
    let Some(scratch) = scratch() else { return decision::PASS };
    let linear = Linear(ctx);
    let mut packet = Packet::UNREAD;
    if packet.read_plain(&linear, framing) {
        let mut buffer = buffer(ctx, Direction::Receive);
        buffer.wire_length = 0;
        let wire = Wire::of(buffer, packet.headers as u32);
        let interface = interface_index(ctx);
        see(scratch, &packet, &linear, READ, &Arrives { interface, tick, wire, half });
    } else {
        read_paged(ctx.skb.skb);
        see_buffer(ctx.skb.skb, scratch, tick, half);
    }
    judge(ctx, scratch, half, stage)
}

/// Judges the buffer that was seen, and marks it.
#[inline(always)]
fn judge(ctx: &TcContext, scratch: *mut GuardScratch, half: u32, stage: Stage) -> u32 {
    // SAFETY: this CPU's own entry.
    unsafe { (&raw mut (*scratch).mark).write_volatile(0) };
    judge_seen(scratch, half, stage as u32);
    mark(ctx, scratch);
    decided(scratch)
}

/// Leaves what matters of what was read so.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn see_buffer(skb: *mut __sk_buff, guard: *mut GuardScratch, tick: u64, half: u32) {
    let ctx = TcContext::new(skb);
    let Some(scratch) = SCRATCH.get_ptr(0) else { return };
    // SAFETY: this CPU's own entry, written to a moment ago.
    let Scratch { packet, reason, .. } = unsafe { &*scratch };
    let wire = Wire::of(buffer(&ctx, Direction::Receive), packet.headers as u32);
    let interface = interface_index(&ctx);
    see(guard, packet, &Paged(&ctx), *reason, &Arrives { interface, tick, wire, half });
}

/// Judges a buffer that was accounted, for what its flow says of it in [`SCRATCH`]: a verdict of TC.
#[inline(always)]
pub(crate) fn guard_payload(ctx: &TcContext) -> i32 {
    let Some(scratch) = SCRATCH.get_ptr(0) else { return TC_ACT_UNSPEC };
    // SAFETY: this CPU's own entry, written to a moment ago.
    let (sight, late) = unsafe { (&(*scratch).sight, (*scratch).late) };
    let Some(half) = in_force(sight.tick) else { return TC_ACT_UNSPEC };
    let Some(scratch) = super::scratch() else { return TC_ACT_UNSPEC };
    if header(half).judges & (judges::REQUESTS | judges::PAYLOAD) == 0 {
        return TC_ACT_UNSPEC;
    }
    let key = &sight.key;
    see_flow(scratch, key, sight.tick, sight.wire());
    // A request that is not expected is none.
    let stage = if late & UNEXPECTED != 0 { Stage::Payload } else { Stage::Request };
    let decided = judge(ctx, scratch, half, stage);
    if decided == ASK_NEXT {
        ask(ctx);
    }
    conclude_payload(ctx, decided)
}

/// Does what was decided about what a buffer says.
#[inline(always)]
fn conclude_payload(ctx: &TcContext, decided: u32) -> i32 {
    let Some(scratch) = SCRATCH.get_ptr(0) else { return TC_ACT_UNSPEC };
    // SAFETY: this CPU's own entry, as in `guard_payload`.
    let sight = unsafe { &(*scratch).sight };
    let key = &sight.key;
    match decided {
        decision::PASS => TC_ACT_UNSPEC,
        decided => {
            // What is sent instead, or again, is to be looked at anew.
            let flow = FLOWS.get_ptr_mut(key).or_else(|| NEW_FLOWS.get_ptr_mut(key));
            if let Some(flow) = flow {
                // SAFETY: a flow of the map, which is written to by `Flow`'s methods alone.
                unsafe { Flow::forget_payload(flow, Direction::Receive) };
            }
            match decided {
                decision::REJECT if is_replay() => TC_ACT_SHOT,
                decision::REJECT => refuse(ctx),
                _ => TC_ACT_SHOT,
            }
        }
    }
}
