//! The kernel side of tidewaiter: thin entry points.
//!
//! Whatever happens in here, the packet goes on to the next program and to the stack, unless a rule of the guard says
//! otherwise.

#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(clippy::needless_pass_by_value, reason = "the classifier macro hands the context over by value")]

mod account;
mod anomaly;
mod connection;
mod context;
mod conversation;
mod flow;
mod frame;
mod guard;
mod maps;
mod reject;
mod source;
mod transmission;

use aya_ebpf::{
    bindings::{
        TC_ACT_SHOT, TC_ACT_UNSPEC,
        xdp_action::{XDP_DROP, XDP_PASS},
    },
    macros::{btf_tracepoint, classifier, xdp},
    programs::{BtfTracePointContext, TcContext, XdpContext},
};
use tidewaiter_common::direction::Direction;

/// "No verdict, ask the next program": `TCX_NEXT` to TCX and, the same number, `TC_ACT_UNSPEC` to a TC filter
/// (`include/uapi/linux/bpf.h`, `include/uapi/linux/pkt_cls.h`).
const NEXT: i32 = TC_ACT_UNSPEC;

/// What drops a packet, as a verdict of TC.
const DROPPED: i32 = TC_ACT_SHOT;

/// Accounts packets that an interface receives.
#[classifier]
fn account_receive(ctx: TcContext) -> i32 {
    account::account(&ctx, Direction::Receive);
    NEXT
}

/// Accounts packets that an interface transmits; otherwise as [`account_receive`].
#[classifier]
fn account_transmit(ctx: TcContext) -> i32 {
    account::account(&ctx, Direction::Transmit);
    NEXT
}

/// Judges frames as they come from the wire.
#[xdp(frags)]
fn guard_frame(ctx: XdpContext) -> u32 {
    guard::frame::guard_frame(&ctx)
}

/// Asks a rule about a frame. [`guard_frame`] ends in it, and so does it itself for the next rule.
#[xdp(frags)]
fn ask_rule_frame(ctx: XdpContext) -> u32 {
    guard::frame::ask_rule_frame(&ctx)
}

/// Answers a frame that is refused. Both end in it.
#[xdp(frags)]
fn refuse_frame(ctx: XdpContext) -> u32 {
    guard::frame::refuse_frame(&ctx)
}

/// Asks a rule about a socket buffer, likewise.
#[classifier]
fn ask_rule_buffer(ctx: TcContext) -> i32 {
    guard::buffer::ask_rule_buffer(&ctx)
}

/// Judges received socket buffers where frames cannot be judged, and marks them. [`account_receive`] ends in it.
#[classifier]
fn guard_buffer(ctx: TcContext) -> i32 {
    guard::buffer::guard_buffer(&ctx)
}

/// Answers a socket buffer that is refused. Those that judge end in it.
#[classifier]
fn refuse_buffer(ctx: TcContext) -> i32 {
    guard::buffer::refuse_buffer(&ctx)
}

/// Judges requests, and payload that is not expected. The programs that find them end in it.
#[classifier]
fn guard_payload(ctx: TcContext) -> i32 {
    guard::buffer::guard_payload(&ctx)
}

/// Counts segments that TCP sends again.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
fn count_retransmission(ctx: BtfTracePointContext) {
    if transmission::was_sent(&ctx) {
        transmission::count_retransmission(ctx.arg(0), Some(ctx.arg(1)));
    }
}

/// Counts answers to opening segments that TCP sends again: they are of no socket yet, but of a request for one, which
/// begins as a socket does.
#[btf_tracepoint(function = "tcp_retransmit_synack")]
fn count_synack_retransmission(ctx: BtfTracePointContext) {
    transmission::count_retransmission(ctx.arg(1), None);
}

/// Counts packets that the kernel drops.
#[btf_tracepoint(function = "kfree_skb")]
fn count_drop(ctx: BtfTracePointContext) {
    transmission::count_drop(&ctx);
}

/// Tells userspace what tick it is, in which flows say when they were last seen: in the context, which it gets back. Never
/// attached.
#[classifier]
fn clock(ctx: TcContext) -> i32 {
    context::tell_ticks(&ctx);
    NEXT
}

/// Does for a flow what a packet calls for that may change what the flow is. The two above end in it.
#[classifier]
fn follow(ctx: TcContext) -> i32 {
    flow::follow(&ctx);
    NEXT
}

/// Looks at a received packet that may be an anomaly. Those that account packets go on in it, and it goes on in [`follow`].
#[classifier]
fn inspect(ctx: TcContext) -> i32 {
    anomaly::inspect(&ctx);
    NEXT
}

/// Takes flows out of the flow table that are over, and tells of them. Never attached.
#[classifier]
fn finish(ctx: TcContext) -> i32 {
    connection::finish(&ctx);
    NEXT
}

/// Does nothing: what benchmarks compare the others with. The daemon never loads it.
#[classifier]
fn baseline(_ctx: TcContext) -> i32 {
    NEXT
}

/// Lets every frame pass: what benchmarks compare the guard with, and what is attached before the guard takes its place.
#[xdp(frags)]
fn baseline_frame(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// Refuses each frame that can be answered, and lets the others pass. For tests: the daemon never loads it.
#[xdp]
fn always_reject(ctx: XdpContext) -> u32 {
    match reject::reject_frame(ctx.ctx) {
        XDP_DROP => XDP_PASS,
        verdict => verdict,
    }
}

/// The same of what an interface receives. For tests: the daemon never loads it.
#[classifier]
fn always_reject_buffer(ctx: TcContext) -> i32 {
    match reject::reject_buffer(ctx.skb.skb) {
        DROPPED => NEXT,
        verdict => verdict,
    }
}

/// Ends each connection with the first payload that is received. For tests: the daemon never loads it.
#[classifier]
fn always_reset_both(ctx: TcContext) -> i32 {
    reject::reset_both(ctx.skb.skb)
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: no panic is left in the object: a call to this function would not pass the verifier.
    unsafe { core::hint::unreachable_unchecked() }
}

/// What the kernel asks before it lends helpers that are for GPL-compatible programs alone. The sources of this object
/// are licensed "Apache-2.0 OR GPL-2.0-only".
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
