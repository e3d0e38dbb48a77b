//! What the kernel says of a socket buffer beside its bytes.
//!
//! While a capture is replayed, the truth of some of this stands in other fields: those of the context that
//! `BPF_PROG_TEST_RUN` lets userspace set.

use aya_ebpf::{
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    programs::TcContext,
};
use tidewaiter_common::{direction::Direction, wire::Buffer};

/// A switch that userspace sets before the programs are loaded, so that the verifier removes what is for the other case.
macro_rules! switch {
    ($(#[$doc:meta])+ $name:ident, $is_on:ident) => {
        $(#[$doc])+
        // SAFETY: nothing else in the object has this name.
        #[unsafe(no_mangle)]
        static $name: u8 = 0;

        $(#[$doc])+
        #[inline(always)]
        pub(crate) fn $is_on() -> bool {
            // SAFETY: a static that is always there; volatile, because userspace gives it another value than the compiler
            // sees.
            unsafe { (&raw const $name).read_volatile() != 0 }
        }
    };
}

switch! {
    /// Whether captures are replayed.
    REPLAY, is_replay
}
switch! {
    /// Whether there is a table of flows.
    TRACK_FLOWS, tracks_flows
}
switch! {
    /// Whether requests are sampled.
    SAMPLE_REQUESTS, samples_requests
}

/// Reads a field of the context, which is of `$size`.
///
/// By an instruction of its own: the compiler would make one read at a computed place of two in different branches, or join
/// neighbours, and the verifier allows neither.
macro_rules! field {
    ($ctx:expr, $field:ident) => {
        field!($ctx, $field, "u32") as u32
    };
    ($ctx:expr, $field:ident, $size:literal) => {{
        let skb = $ctx.skb.skb;
        let value: u64;
        #[cfg(target_arch = "bpf")]
        // SAFETY: `skb` is the context that the kernel gave this program; the verifier allows reading this field.
        unsafe {
            core::arch::asm!(
                concat!("{value} = *(", $size, " *)({skb} + {offset})"),
                value = out(reg) value,
                skb = in(reg) skb,
                offset = const core::mem::offset_of!(aya_ebpf::bindings::__sk_buff, $field),
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        // Only for checks of the source on other machines.
        #[cfg(not(target_arch = "bpf"))]
        {
            // SAFETY: as above.
            value = u64::from(unsafe { (&raw const (*skb).$field).cast::<u32>().read_volatile() });
        }
        value
    }};
}

/// The length of a packet that is replayed: in the control buffer, because the kernel takes no `wire_len` above 65,536, which
/// frames of the loopback interface are above.
#[inline(always)]
fn replayed_length(ctx: &TcContext) -> u32 {
    field!(ctx, cb)
}

/// The lengths that the kernel knows of the buffer.
#[inline(always)]
pub(crate) fn buffer(ctx: &TcContext, direction: Direction) -> Buffer {
    if is_replay() {
        return Buffer { length: replayed_length(ctx), ..Buffer::default() };
    }
    let segment_size = field!(ctx, gso_size);
    let wire_length = if segment_size != 0 && direction == Direction::Transmit { field!(ctx, wire_len) } else { 0 };
    Buffer {
        length: field!(ctx, len),
        segments: field!(ctx, gso_segs),
        segment_size,
        is_tagged: field!(ctx, vlan_present) != 0,
        wire_length,
    }
}

/// Length of the frame, however much of it there is to read.
#[inline(always)]
pub(crate) fn length(ctx: &TcContext) -> usize {
    (if is_replay() { replayed_length(ctx) } else { field!(ctx, len) }) as usize
}

/// Index of the interface that the buffer passes.
#[inline(always)]
pub(crate) fn interface_index(ctx: &TcContext) -> u32 {
    if is_replay() { field!(ctx, mark) } else { field!(ctx, ifindex) }
}

/// Whom the packet was sent to by its link-layer header (`PACKET_HOST` and others, `include/uapi/linux/if_packet.h`).
#[inline(always)]
pub(crate) fn packet_type(ctx: &TcContext) -> u32 {
    field!(ctx, pkt_type)
}

/// The time in ticks of the kernel (`jiffies`): to read it is one load, where every clock is a call. While a capture is
/// replayed it is that of the capture, in nanoseconds.
#[inline(always)]
pub(crate) fn ticks(ctx: &TcContext) -> u64 {
    if is_replay() {
        return field!(ctx, tstamp, "u64");
    }
    // SAFETY: the helper takes nothing and cannot fail.
    unsafe { bpf_jiffies64() }
}

/// The time in nanoseconds, of the kernel's monotonic clock as of its last tick: that of `ticks`, if it is now. While a
/// capture is replayed they are the same.
#[inline(always)]
pub(crate) fn nanoseconds(ticks: u64) -> u64 {
    if is_replay() {
        return ticks;
    }
    // SAFETY: as above.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// The time in nanoseconds, of the kernel's monotonic clock, precisely: that takes longer than all else about a packet. While a
/// capture is replayed it is that of `tick`.
#[inline(always)]
pub(crate) fn precise_nanoseconds(tick: u64) -> u64 {
    if is_replay() {
        return tick;
    }
    // SAFETY: the helper takes nothing and cannot fail.
    unsafe { bpf_ktime_get_ns() }
}

/// What the last word of the control buffer is of a buffer that was judged and is about to be accounted: whatever else programs
/// before this one leave there.
const JUDGED: u32 = 0x7469_6465;
const JUDGED_PLACE: usize = 4;

/// Notes on the buffer whether it was judged, for [`was_judged`].
#[inline(always)]
pub(crate) fn note_judged(ctx: &TcContext, is_judged: bool) {
    // SAFETY: `skb` is the context that the kernel gave this program; the verifier allows writing to this field.
    unsafe { (&raw mut (*ctx.skb.skb).cb[JUDGED_PLACE]).write_volatile(if is_judged { JUDGED } else { 0 }) };
}

/// Whether the buffer that is accounted was judged: then the program that did has ended in this one. To be asked once.
#[inline(always)]
pub(crate) fn was_judged(ctx: &TcContext) -> bool {
    // SAFETY: as above, for reading.
    let found = unsafe { (&raw const (*ctx.skb.skb).cb[JUDGED_PLACE]).read_volatile() };
    if found != JUDGED {
        return false;
    }
    note_judged(ctx, false);
    true
}

/// Length of what there is to read of the frame.
#[inline(always)]
pub(crate) fn captured_length(ctx: &TcContext) -> u32 {
    field!(ctx, len)
}

/// Leaves the tick in the context's control buffer.
#[inline(always)]
pub(crate) fn tell_ticks(ctx: &TcContext) {
    // SAFETY: the helper takes nothing and cannot fail.
    tell(ctx, unsafe { bpf_jiffies64() });
}

/// Leaves a number in the context's control buffer, lower half first.
#[inline(always)]
pub(crate) fn tell(ctx: &TcContext, number: u64) {
    // SAFETY: `skb` is the context that the kernel gave this program; the verifier allows writing to this field.
    unsafe {
        (&raw mut (*ctx.skb.skb).cb[0]).write_volatile(number as u32);
        (&raw mut (*ctx.skb.skb).cb[1]).write_volatile((number >> 32) as u32);
    }
}
