//! Judging frames, as they come from the wire (XDP).

use aya_ebpf::{
    bindings::{
        xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
        xdp_md,
    },
    helpers::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes, generated::bpf_jiffies64},
    programs::XdpContext,
};
use tidewaiter_common::{
    ASK_FRAME_INDEX, REFUSE_FRAME_INDEX,
    frame::{Frame, Framing},
    guard::{Stage, decision},
    packet::Packet,
    wire::Wire,
};

use super::{
    ASK_NEXT, ask_rule, decided, in_force, judge_seen, judges_packets, scratch,
    seen::{Arrives, GuardScratch, READ, leave, left, see},
};
use crate::{
    account::interface,
    maps::{FRAME_PROGRAMS, INTERFACE_GUARD},
    reject::reject_frame,
};

/// The linear part of a frame, read directly.
struct Linear<'a>(&'a XdpContext);

impl Frame for Linear<'_> {
    #[inline(always)]
    fn length(&self) -> usize {
        self.0.data_end() - self.0.data()
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let start = self.0.data() + offset;
        if start + N > self.0.data_end() {
            return None;
        }
        // SAFETY: these bytes lie within the linear part of the frame; the verifier holds us to the comparison above.
        Some(unsafe { (start as *const [u8; N]).read() })
    }
}

/// The whole of a frame, copied from wherever it lies.
pub(crate) struct Paged<'a>(pub(crate) &'a XdpContext);

impl Frame for Paged<'_> {
    #[inline(always)]
    fn length(&self) -> usize {
        length(self.0) as usize
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: the helper writes `N` bytes to `bytes`, which has room for them, or fails.
        let result = unsafe { bpf_xdp_load_bytes(self.0.ctx, offset as u32, bytes.as_mut_ptr().cast(), N as u32) };
        (result == 0).then_some(bytes)
    }
}

/// Length of the whole frame.
#[inline(always)]
fn length(ctx: &XdpContext) -> u64 {
    // SAFETY: the helper only reads the context.
    unsafe { bpf_xdp_get_buff_len(ctx.ctx) }
}

/// Judges a frame, and counts what became of it: a verdict of XDP.
#[inline(always)]
pub(crate) fn guard_frame(ctx: &XdpContext) -> u32 {
    // SAFETY: the helper takes nothing and cannot fail.
    let tick = unsafe { bpf_jiffies64() };
    let decided = match in_force(tick) {
        Some(half) if judges_packets(half) => judge_frame(ctx, tick, half),
        _ => decision::PASS,
    };
    go_on(ctx, decided)
}

/// Asks the next rule about the frame that was seen: a verdict of XDP.
#[inline(always)]
pub(crate) fn ask_rule_frame(ctx: &XdpContext) -> u32 {
    let Some(scratch) = scratch() else { return XDP_PASS };
    ask_rule(scratch);
    go_on(ctx, decided(scratch))
}

/// Has the next rule asked if there is one, or does what was decided: a verdict of XDP.
#[inline(always)]
fn go_on(ctx: &XdpContext, decided: u32) -> u32 {
    if decided == ASK_NEXT {
        // SAFETY: the program there is of the same type. Where there is none, the frame passes.
        unsafe { FRAME_PROGRAMS.tail_call(ctx, ASK_FRAME_INDEX) };
    }
    conclude(ctx, interface(ctx.ingress_ifindex() as u32).slot, decided)
}

/// Counts what became of a frame, and does it: a verdict of XDP.
#[inline(always)]
fn conclude(ctx: &XdpContext, slot: u16, decided: u32) -> u32 {
    let Some(counters) = INTERFACE_GUARD.get_ptr_mut(slot.into()) else { return XDP_PASS };
    // SAFETY: this CPU's own entry; no other program that writes to it runs before this one has ended.
    let counters = unsafe { &mut *counters };
    match decided {
        decision::DROP => {
            counters.dropped += 1;
            XDP_DROP
        }
        decision::REJECT => {
            // SAFETY: the program there is of the same type. Where there is none, the frame passes.
            unsafe { FRAME_PROGRAMS.tail_call(ctx, REFUSE_FRAME_INDEX) };
            counters.passed += 1;
            XDP_PASS
        }
        _ => {
            counters.passed += 1;
            XDP_PASS
        }
    }
}

/// Answers a frame that a rule has refused: a verdict of XDP.
#[inline(always)]
pub(crate) fn refuse_frame(ctx: &XdpContext) -> u32 {
    let slot = interface(ctx.ingress_ifindex() as u32).slot;
    let verdict = reject_frame(ctx.ctx);
    if let Some(counters) = INTERFACE_GUARD.get_ptr_mut(slot.into()) {
        // SAFETY: as in `conclude`.
        unsafe {
            (*counters).rejected += 1;
            (*counters).answered += u64::from(verdict == XDP_TX);
        }
    }
    verdict
}

#[inline(always)]
fn judge_frame(ctx: &XdpContext, tick: u64, half: u32) -> u32 {
    let Some(scratch) = scratch() else { return decision::PASS };
    let linear = Linear(ctx);
    let mut packet = Packet::UNREAD;
    if packet.read_plain(&linear, Framing::Ethernet) {
        let wire = Wire { packets: 1, bytes: linear.length() as u64 };
        let interface = ctx.ingress_ifindex() as u32;
        see(scratch, &packet, &linear, READ, &Arrives { interface, tick, wire, half });
    } else {
        read_any_frame(ctx.ctx);
        see_frame(ctx.ctx, scratch, tick, half);
    }
    judge_seen(scratch, half, Stage::Frame as u32);
    decided(scratch)
}

/// Reads the headers of whatever has not the usual shape.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_any_frame(ctx: *mut xdp_md) {
    let ctx = XdpContext::new(ctx);
    let mut packet = Packet::UNREAD;
    let read = packet.read(&Paged(&ctx), Framing::Ethernet);
    leave(&packet, read);
}

/// Leaves what matters of what was read so.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn see_frame(ctx: *mut xdp_md, scratch: *mut GuardScratch, tick: u64, half: u32) {
    let ctx = XdpContext::new(ctx);
    let (packet, reason) = left(scratch);
    let wire = Wire { packets: 1, bytes: length(&ctx) };
    let interface = ctx.ingress_ifindex() as u32;
    see(scratch, packet, &Paged(&ctx), reason, &Arrives { interface, tick, wire, half });
}
