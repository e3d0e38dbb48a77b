//! Anomalies: what a packet says of itself, what its datagram's other parts say, and telling userspace of all kinds.
//!
//! What programs that see every packet need is in [`leave`]; the rest is in a program of its own, [`inspect`], which few packets
//! come to. Counts are exact, and nobody loses one; of what is told there is a bounded number a second.

#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "what is handed over by value is copied, and the stack has 512 bytes"
)]

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, BPF_NOEXIST},
    helpers::bpf_skb_load_bytes,
    programs::TcContext,
};
use tidewaiter_common::{
    anomaly::{
        ANOMALY_PLACES, AnomalyKind,
        fragments::{Datagram, DatagramKey, verdict},
        settings::Settings,
        stateless::{NONE, is_icmp, is_suspect, stateless_kind},
        told::{EVIDENCE_BYTES, ToldAnomaly, told_flag},
    },
    api::ApiSlot,
    direction::Direction,
    event::Lost,
    flow::FlowKey,
    interface::LOOPBACK_INDEX,
    packet::{Network, Packet},
    protocol::opaque,
    reason::Reason,
};

use crate::{
    account::{FOLLOW, JUDGE, go_on, read_paged},
    connection::{NO_WAKEUP, lose},
    context::{captured_length, interface_index, nanoseconds, ticks},
    frame::Paged,
    maps::{
        ALLOWANCES, ANOMALIES, ANOMALY_SCRATCH, ANOMALY_SETTINGS, API_ANOMALIES, AnomalyScratch, DATAGRAMS, SCRATCH,
        Scratch,
    },
    source,
};

/// What userspace says is an anomaly: until it has, nothing is.
#[inline(always)]
pub(crate) fn settings() -> &'static Settings {
    // SAFETY: a map, which is always there; userspace replaces words of it as a whole.
    unsafe { &*ANOMALY_SETTINGS.get() }
}

/// Whether the kind with this number is looked for.
#[inline(always)]
pub(crate) fn is_looked_for(kind: u8) -> bool {
    settings().is_enabled(kind)
}

/// Leaves in [`SCRATCH`] what [`inspect`] needs to know of a received packet, if it is to look at it, and says whether it is: the
/// API's slot in the lowest two bytes, then what is `next` for it.
#[inline(always)]
pub(crate) fn leave(packet: &Packet, read: Result<(), Reason>, api: ApiSlot, next: u32) -> bool {
    if !is_suspect(packet, read, &settings().expected) {
        return false;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return false };
    let suspect = u64::from(api.0) | u64::from(next) << 16;
    // SAFETY: this CPU's own entry, as in `account`.
    unsafe { (&raw mut (*scratch).suspect).write_volatile(suspect) };
    true
}

/// Looks at the packet of which [`leave`] has left something, and goes on with what is left to do for it.
#[inline(always)]
pub(crate) fn inspect(ctx: &TcContext) {
    let Some(scratch) = SCRATCH.get_ptr(0) else { return };
    // SAFETY: this CPU's own entry, as in `account`.
    let suspect = unsafe { (&raw const (*scratch).suspect).read_volatile() };
    read_paged(ctx.skb.skb);
    let network_offset = look(ctx.skb.skb, suspect);
    tell(ctx.skb.skb, network_offset);
    go_on(ctx, (suspect >> 16) as u32 & (FOLLOW | JUDGE));
}

/// Finds out which anomaly the packet is, and counts it. Answers with where its IP header is.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn look(skb: *mut __sk_buff, suspect: u64) -> u32 {
    let ctx = TcContext::new(skb);
    let (Some(scratch), Some(mine)) = (SCRATCH.get_ptr(0), ANOMALY_SCRATCH.get_ptr_mut(0)) else { return 0 };
    // SAFETY: this CPU's own entries, as in `account`; the packet was written by `read_paged` a moment ago.
    let (Scratch { packet, reason, .. }, key) = unsafe { (&*scratch, &raw mut (*mine).told.key) };
    let (index, api) = (interface_index(&ctx), ApiSlot(suspect as u16));
    let read = Reason::from_index(*reason).map_or(Ok(()), Err);
    let expects = |number| settings().expected.contains(number);
    let kind = opaque(stateless_kind(packet, &Paged(&ctx), read, expects, index == LOOPBACK_INDEX).into()) as u8;
    let has_ends = match FlowKey::of(packet, &Paged(&ctx), Direction::Receive, index) {
        // SAFETY: as above.
        Some(found) => unsafe {
            key.write(found);
            true
        },
        None => false,
    };
    let flags = if has_ends { told_flag::ENDS } else { 0 };
    let part = [u32::from(packet.fragment.offset), packet.fragment.length];
    if kind != NONE {
        let [first, second] = match AnomalyKind::from_index(kind) {
            Some(AnomalyKind::BadTcpFlags) => [packet.tcp_flags.into(), 0],
            Some(AnomalyKind::Malformed) => [(*reason).into(), 0],
            Some(AnomalyKind::TinyFragment) => part,
            Some(AnomalyKind::UnexpectedProtocol) => [packet.protocol.into(), 0],
            _ => [0, 0],
        };
        find(api, kind, flags, first, second);
    } else if packet.fragment.is_part() && has_ends && overlaps(mine, packet, nanoseconds(ticks(&ctx))) != 0 {
        let [first, second] = part;
        find(api, AnomalyKind::OverlappingFragment as u8, flags, first, second);
    }
    if is_icmp(packet.protocol) && read.is_ok() && has_ends {
        source::message(mine, nanoseconds(ticks(&ctx)));
    }
    packet.network_offset as u32
}

/// Whether a part of the datagram that `packet` is a part of was there already; 0 if not. Its ends are in what is about to be
/// told.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn overlaps(scratch: *mut AnomalyScratch, packet: &Packet, now: u64) -> u32 {
    if !is_looked_for(AnomalyKind::OverlappingFragment as u8) {
        return 0;
    }
    // SAFETY: this CPU's own entry, as in `account`; a datagram of the map, which is written to by its methods alone.
    unsafe {
        let FlowKey { local, remote, interface, .. } = (*scratch).told.key;
        let key = &raw mut (*scratch).key;
        key.write(DatagramKey {
            source: remote,
            destination: local,
            identification: packet.fragment.identification,
            protocol: if packet.network == Network::Ipv4 { packet.protocol.into() } else { 0 },
            interface,
        });
        let datagram = if let Some(datagram) = DATAGRAMS.get_ptr_mut(&*key) {
            datagram
        } else {
            Datagram::begin(&raw mut (*scratch).datagram, now);
            let _: Result<(), i32> = DATAGRAMS.insert(&*key, &(*scratch).datagram, BPF_NOEXIST.into());
            let Some(datagram) = DATAGRAMS.get_ptr_mut(&*key) else { return 0 };
            datagram
        };
        let found = Datagram::add(datagram, packet.fragment, now);
        if found == verdict::COMPLETES {
            let _: Result<(), i32> = DATAGRAMS.remove(&*key);
        }
        u32::from(found == verdict::OVERLAPS)
    }
}

/// Counts an anomaly of `api`, and leaves in [`ANOMALY_SCRATCH`] that it is to be told; its ends are there already if `flags` says
/// so. Nothing of a kind that is not looked for.
#[inline(always)]
pub(crate) fn find(api: ApiSlot, kind: u8, flags: u8, first: u32, second: u32) {
    if !is_looked_for(kind) {
        return;
    }
    if let Some(anomalies) = API_ANOMALIES.get_ptr_mut(api.0.into()) {
        // SAFETY: this CPU's own entry, as in `account`.
        unsafe { (*anomalies).counts[usize::from(kind) & (ANOMALY_PLACES - 1)] += 1 };
    }
    let Some(scratch) = ANOMALY_SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: as above.
    unsafe {
        let told = &raw mut (*scratch).told;
        (*told).api = api;
        (*told).kind = kind;
        (*told).flags = flags;
        (*told).numbers = [first, second, 0, 0];
        (*scratch).is_found = 1;
    }
}

/// Counts an anomaly of `api` that the guard has dropped; it is told of by its rule.
#[inline(always)]
pub(crate) fn find_by_guard(api: ApiSlot, kind: u8) {
    if is_looked_for(kind)
        && let Some(anomalies) = API_ANOMALIES.get_ptr_mut(api.0.into())
    {
        // SAFETY: this CPU's own entry; who interrupts this one may be counted for it, or the other way round.
        unsafe { (*anomalies).counts[usize::from(kind) & (ANOMALY_PLACES - 1)] += 1 };
    }
}

/// One more than `number`, which the compiler does not know.
#[inline(always)]
fn one_more(number: u32) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let mut number = u64::from(number);
        // SAFETY: it changes that register alone.
        unsafe {
            core::arch::asm!(
                "{number} += 1",
                number = inout(reg) number,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        number as u32
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        number + 1
    }
}

/// Tells userspace of the anomaly that [`find`] has left, if it has, with the packet's first bytes from `network_offset` on.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn tell(skb: *mut __sk_buff, network_offset: u32) {
    let ctx = TcContext::new(skb);
    let Some(scratch) = ANOMALY_SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own entries, as in `account`; the helpers write and read no more than there is.
    unsafe {
        if (*scratch).is_found == 0 {
            return;
        }
        (*scratch).is_found = 0;
        let Some(allowance) = ALLOWANCES.get_ptr_mut((*scratch).told.kind.into()) else { return };
        if !(*allowance).take(nanoseconds(ticks(&ctx))) {
            return lose(Lost::Anomaly);
        }
        // One less, and one more where the compiler does not see it: else it leaves to the verifier to find out that it is not 0.
        // Where there is nothing to load, the helper says so.
        let there = captured_length(&ctx).saturating_sub(network_offset);
        let mut length = there.saturating_sub(1).min(EVIDENCE_BYTES as u32 - 1);
        length = one_more(length);
        let bytes = &raw mut (*scratch).bytes;
        if bpf_skb_load_bytes(ctx.as_ptr(), network_offset, bytes.cast(), length) != 0 {
            length = 0;
        }
        (*scratch).told.length = length;
        let written = core::slice::from_raw_parts(scratch.cast::<u8>(), size_of::<ToldAnomaly>() + length as usize);
        if ANOMALIES.output::<[u8]>(written, NO_WAKEUP).is_err() {
            lose(Lost::Anomaly);
        }
    }
}
