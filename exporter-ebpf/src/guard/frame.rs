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
    ASK_FRAME_INDEX,
    frame::{Frame, Framing},
    guard::{Stage, decision},
    packet::Packet,
    wire::Wire,
};

use super::{ASK, ASK_NEXT, Arrives, READ, ask_one, decide, in_force, judges_packets, leave, left, see};
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
struct Paged<'a>(&'a XdpContext);

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
    let index = ctx.ingress_ifindex() as u32;
    let slot = interface(index).slot;
    // SAFETY: the helper takes nothing and cannot fail.
    let tick = unsafe { bpf_jiffies64() };
    let decided = match in_force(tick) {
        Some((half, header)) if judges_packets(header) => judge_frame(ctx, index, tick, half, header.judges),
        _ => decision::PASS,
    };
    if decided == ASK {
        // SAFETY: the program there is of the same type. Where there is none, the frame passes.
        unsafe { FRAME_PROGRAMS.tail_call(ctx, ASK_FRAME_INDEX) };
    }
    conclude(ctx, slot, decided)
}

/// Asks the next rule about the frame that was seen: a verdict of XDP.
#[inline(always)]
pub(crate) fn ask_rule_frame(ctx: &XdpContext) -> u32 {
    let decided = ask_one();
    if decided == ASK_NEXT {
        // SAFETY: it is this program itself. Where it is not there, the frame passes.
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
            counters.rejected += 1;
            let verdict = reject_frame(ctx.ctx);
            if verdict == XDP_TX {
                counters.answered += 1;
            }
            verdict
        }
        _ => {
            counters.passed += 1;
            XDP_PASS
        }
    }
}

#[inline(always)]
fn judge_frame(ctx: &XdpContext, interface: u32, tick: u64, half: u32, judges: u32) -> u32 {
    let linear = Linear(ctx);
    let mut packet = Packet::UNREAD;
    if packet.read_plain(&linear, Framing::Ethernet) {
        let wire = Wire { packets: 1, bytes: linear.length() as u64 };
        see(&packet, &linear, READ, &Arrives { interface, tick, wire, judges });
    } else {
        read_any_frame(ctx.ctx);
        see_frame(ctx.ctx, interface, tick, judges);
    }
    judge_seen(half)
}

/// Judges the frame that was seen. A function of its own: the verifier would follow each way of reading one to the end.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge_seen(half: u32) -> u32 {
    decide(half, Stage::Frame as u32)
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
extern "C" fn see_frame(ctx: *mut xdp_md, interface: u32, tick: u64, judges: u32) {
    let ctx = XdpContext::new(ctx);
    let Some((packet, reason)) = left() else { return };
    let wire = Wire { packets: 1, bytes: length(&ctx) };
    see(packet, &Paged(&ctx), reason, &Arrives { interface, tick, wire, judges });
}
