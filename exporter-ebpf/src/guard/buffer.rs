//! Judging socket buffers (TC): where frames cannot be judged, and what is only known of flows.

use aya_ebpf::{bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, __sk_buff}, programs::TcContext};
use tidewaiter_common::{
    ACCOUNT_GUARDED_INDEX,
    address::Address,
    direction::Direction,
    flow::Flow,
    frame::Framing,
    guard::{Facts, GuardHeader, PROTECTED, Stage, decision, judge, judges},
    interface::guarded,
    packet::Packet,
    transport::Transport,
    wire::Wire,
};

use super::{Arrival, NO_ANOMALY, READ, class_of, decide, in_force, judges_packets, list_of, rules_of};
use crate::{
    account::interface,
    context::{buffer, interface_index, ticks},
    frame::{Linear, Paged},
    maps::{FLOWS, GUARD_SCRATCH, GuardScratch, INTERFACE_GUARD, NEW_FLOWS, PROGRAMS, SCRATCH},
    reject::{reject_buffer, reset_both},
};

/// That a request begins with the packet, in [`Scratch::late`](crate::maps::Scratch::late).
pub(crate) const REQUEST: u32 = 1;
/// That its payload is not what the API expects.
pub(crate) const UNEXPECTED: u32 = 2;

/// Judges a received buffer, and ends in the program that accounts it if it is let in: a verdict of TC.
#[inline(always)]
pub(crate) fn guard_buffer(ctx: &TcContext) -> i32 {
    let index = interface_index(ctx);
    let entry = interface(index);
    let tick = ticks(ctx);
    let stage = if entry.guarded & guarded::BUFFERS != 0 { Stage::Buffer } else { Stage::Marks };
    let framing = Framing::from_number(entry.framing.into());
    let decided = match in_force(tick) {
        Some((half, header)) if judges_packets(header) => judge_buffer(ctx, index, tick, (half, header), framing, stage),
        _ => decision::PASS,
    };
    if stage == Stage::Buffer
        && let Some(counters) = INTERFACE_GUARD.get_ptr_mut(entry.slot.into())
    {
        let packets = packets(ctx);
        // SAFETY: this CPU's own entry; no other program that writes to it runs before this one has ended.
        unsafe {
            match decided {
                decision::DROP => (*counters).dropped += packets,
                decision::REJECT => (*counters).rejected += packets,
                _ => (*counters).passed += packets,
            }
        }
    }
    match decided {
        decision::DROP => TC_ACT_SHOT,
        decision::REJECT => reject_buffer(ctx.skb.skb),
        _ => {
            // SAFETY: the program there is of the same type. Where there is none, the packet passes, and is not counted.
            unsafe { PROGRAMS.tail_call(ctx, ACCOUNT_GUARDED_INDEX) };
            TC_ACT_UNSPEC
        }
    }
}

/// Packets that the buffer is on the wire, as far as the kernel says.
#[inline(always)]
fn packets(ctx: &TcContext) -> u64 {
    Wire::of(buffer(ctx, Direction::Receive), 0).packets
}

#[inline(always)]
fn judge_buffer(
    ctx: &TcContext,
    interface: u32,
    tick: u64,
    (half, header): (u32, &'static GuardHeader),
    framing: Framing,
    stage: Stage,
) -> u32 {
    let linear = Linear(ctx);
    let mut packet = Packet::UNREAD;
    if !packet.read_plain(&linear, framing) {
        return judge_paged_buffer(ctx.skb.skb, interface, tick, framing as u32, stage as u32);
    }
    let mut buffer = buffer(ctx, Direction::Receive);
    buffer.wire_length = 0;
    let wire = Wire::of(buffer, packet.headers as u32);
    let mut arrival = Arrival {
        packet: &packet,
        frame: &linear,
        context: ctx,
        header,
        half,
        interface,
        tick,
        packets: wire.packets,
        bytes: wire.bytes,
        source: Address::default(),
        is_unmapped: false,
    };
    decide(&mut arrival, READ, stage)
}

/// As [`judge_buffer`], for whatever has not the usual shape.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge_paged_buffer(skb: *mut __sk_buff, interface: u32, tick: u64, framing: u32, stage: u32) -> u32 {
    read_buffer(skb, framing);
    let Some(scratch) = GUARD_SCRATCH.get_ptr(0) else { return decision::PASS };
    // SAFETY: this CPU's own entry, written to a moment ago.
    let GuardScratch { packet, reason } = unsafe { &*scratch };
    let Some((half, header)) = in_force(tick) else { return decision::PASS };
    let ctx = TcContext::new(skb);
    let wire = Wire::of(buffer(&ctx, Direction::Receive), packet.headers as u32);
    let mut arrival = Arrival {
        packet,
        frame: &Paged(&ctx),
        context: &ctx,
        header,
        half,
        interface,
        tick,
        packets: wire.packets,
        bytes: wire.bytes,
        source: Address::default(),
        is_unmapped: false,
    };
    let stage = if stage == Stage::Buffer as u32 { Stage::Buffer } else { Stage::Marks };
    decide(&mut arrival, *reason, stage)
}

/// Reads the headers into [`GUARD_SCRATCH`].
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_buffer(skb: *mut __sk_buff, framing: u32) {
    let ctx = TcContext::new(skb);
    let Some(scratch) = GUARD_SCRATCH.get_ptr_mut(0) else { return };
    let mut packet = Packet::UNREAD;
    let read = packet.read(&Paged(&ctx), Framing::from_number(framing as u16));
    let reason = read.err().map_or(READ, |reason| reason as u8);
    // SAFETY: this CPU's own entry.
    unsafe {
        (&raw mut (*scratch).packet).write(packet);
        (&raw mut (*scratch).reason).write(reason);
    }
}

/// Judges a buffer that was accounted, for what its flow says of it in [`SCRATCH`]: a verdict of TC.
#[inline(always)]
pub(crate) fn guard_payload(ctx: &TcContext) -> i32 {
    let Some(scratch) = SCRATCH.get_ptr(0) else { return TC_ACT_UNSPEC };
    // SAFETY: this CPU's own entry, written to a moment ago.
    let (sight, late) = unsafe { (&(*scratch).sight, (*scratch).late) };
    let Some((half, header)) = in_force(sight.tick) else { return TC_ACT_UNSPEC };
    if header.judges & (judges::REQUESTS | judges::PAYLOAD) == 0 {
        return TC_ACT_UNSPEC;
    }
    let transport = if sight.is_tcp() { Transport::Tcp } else { Transport::Udp };
    let key = &sight.key;
    let class = class_of(half, transport, key.local_port, || Some(key.local));
    let Some(list) = class.and_then(|class| list_of(half, header, class, &key.remote)) else { return TC_ACT_UNSPEC };
    if list == 0 || list == PROTECTED {
        return TC_ACT_UNSPEC;
    }
    let Some(list) = rules_of(half, list) else { return TC_ACT_UNSPEC };
    let packet = Packet::UNREAD;
    let linear = Linear(ctx);
    let arrival = Arrival {
        packet: &packet,
        frame: &linear,
        context: ctx,
        header,
        half,
        interface: key.interface,
        tick: sight.tick,
        packets: sight.wire().packets,
        bytes: 0,
        source: key.remote,
        is_unmapped: false,
    };
    let facts = Facts { source: key.remote, packets: arrival.packets, is_opening: false, anomaly: NO_ANOMALY };
    let mut decided = decision::PASS;
    if late & REQUEST != 0 {
        decided = judge(&arrival, list, &facts, Stage::Request);
    }
    if late & UNEXPECTED != 0 && decided == decision::PASS {
        decided = judge(&arrival, list, &facts, Stage::Payload);
    }
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
                decision::REJECT if sight.is_tcp() => reset_both(ctx.skb.skb),
                decision::REJECT => reject_buffer(ctx.skb.skb),
                _ => TC_ACT_SHOT,
            }
        }
    }
}
