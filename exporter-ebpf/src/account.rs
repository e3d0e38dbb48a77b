//! Accounting: every packet once, for its API or under the reason why for none.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use tidewaiter_common::{
    FOLLOW_INDEX, GUARD_BUFFER_INDEX, GUARD_PAYLOAD_INDEX, INSPECT_INDEX,
    api::{AddressKey, ApiSlot, ApiTables, Owner, PortEntry, attribute, port_index},
    direction::Direction,
    frame::{Frame, Framing},
    interface::{InterfaceEntry, LOOPBACK_INDEX, guarded, interface_places},
    packet::Packet,
    reason::Reason,
    transport::Transport,
    tunnel::inner_headers,
    wire::Wire,
};

use crate::{
    anomaly,
    context::{buffer, interface_index, was_judged},
    flow,
    frame::{Linear, Paged},
    maps::{ADDRESSES, API_COUNTERS, INTERFACE_COUNTERS, INTERFACE_SLOTS, PORTS, PROGRAMS, SCRATCH, Scratch},
};

/// Counts one socket buffer for its interface, and for its API or under a reason. If it has to be judged, that comes first, and the
/// program that does that ends in this one again.
#[inline(always)]
pub(crate) fn account(ctx: &TcContext, direction: Direction) {
    let interface = interface(interface_index(ctx));
    if direction == Direction::Receive
        && interface.guarded & (guarded::BUFFERS | guarded::MARKS) != 0
        && !was_judged(ctx)
    {
        // SAFETY: the program there is of the same type. Where there is none, this one goes on: nothing is judged.
        unsafe { PROGRAMS.tail_call(ctx, GUARD_BUFFER_INDEX) };
    }
    let linear = Linear(ctx);
    let mut packet = Packet::UNREAD;
    let next = if packet.read_plain(&linear, Framing::from_number(interface.framing)) {
        account_read::<_, false>(ctx, direction, interface, &linear, &packet, Ok(()))
    } else {
        account_paged(ctx.skb.skb, direction)
    };
    go_on(ctx, next);
}

/// What is left to be done for a packet: nothing.
pub(crate) const NOTHING: u32 = 0;
/// See [`flow::follow`].
pub(crate) const FOLLOW: u32 = 1;
/// See [`anomaly::inspect`]; that goes on with the rest.
const INSPECT: u32 = 2;
/// What it says is to be judged: see [`guard_payload`](crate::guard::buffer::guard_payload).
pub(crate) const JUDGE: u32 = 4;

/// Goes on in the program that does what is `next`.
#[inline(always)]
pub(crate) fn go_on(ctx: &TcContext, next: u32) {
    // SAFETY: the programs there are of the same type. Where there is none, this one goes on, and there is nothing left to do.
    unsafe {
        if next & INSPECT != 0 {
            PROGRAMS.tail_call(ctx, INSPECT_INDEX);
        }
        if next & FOLLOW != 0 {
            PROGRAMS.tail_call(ctx, FOLLOW_INDEX);
        }
        if next & JUDGE != 0 {
            PROGRAMS.tail_call(ctx, GUARD_PAYLOAD_INDEX);
        }
    }
}

/// As [`account`], for whatever has not the usual shape. A function of its own, so that what is rare takes no registers
/// from what is not. Answers with what is to be done next. Its name is kept as it is, because a mangled one would differ between toolchains.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn account_paged(skb: *mut __sk_buff, direction: Direction) -> u32 {
    read_paged(skb);
    let Some(scratch) = SCRATCH.get_ptr(0) else { return NOTHING };
    // SAFETY: this CPU's own entry, as in `account_read`; it was written by `read_paged` a moment ago.
    let Scratch { packet, reason, .. } = unsafe { &*scratch };
    let read = Reason::from_index(*reason).map_or(Ok(()), Err);
    let ctx = TcContext::new(skb);
    account_read::<_, true>(&ctx, direction, interface(interface_index(&ctx)), &Paged(&ctx), packet, read)
}

/// Reads the headers into [`SCRATCH`]. To the verifier what comes out of a map is always the same unknown; what comes out of
/// a function is as many things as there are ways through it, and it would follow each of them to the end.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn read_paged(skb: *mut __sk_buff) {
    let ctx = TcContext::new(skb);
    let framing = Framing::from_number(interface(interface_index(&ctx)).framing);
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: as in `account_paged`. (It is read where it is to be: the stack has 512 bytes.)
    unsafe {
        (&raw mut (*scratch).packet).write(Packet::UNREAD);
        let packet = &mut (*scratch).packet;
        let reason = packet.read(&Paged(&ctx), framing).err().map_or(u8::MAX, |reason| reason as u8);
        (&raw mut (*scratch).reason).write(reason);
    }
}

/// Counts the socket buffer that `packet` was read from. Answers with what is to be done next; if `LATER`, that is all that is
/// about flows.
#[inline(always)]
fn account_read<F: Frame, const LATER: bool>(
    ctx: &TcContext,
    direction: Direction,
    interface: InterfaceEntry,
    frame: &F,
    packet: &Packet,
    read: Result<(), Reason>,
) -> u32 {
    let mut buffer = buffer(ctx, direction);
    let mut headers = packet.headers as u32;
    if packet.transport == Some(Transport::Tcp) {
        // There is nothing within that repeats, and what the kernel made of it may be wrong.
        buffer.wire_length = 0;
    } else if buffer.is_super_packet() && read.is_ok() {
        headers = segment_headers(ctx.skb.skb, packet, headers);
    }
    let wire = Wire::of(buffer, headers);

    let Some(counters) = INTERFACE_COUNTERS.get_ptr_mut(interface.slot.into()) else { return NOTHING };
    // SAFETY: the entry is this CPU's own, and no other program runs on it before this one has ended (both hooks run
    // with bottom halves disabled), so there is no second reference to it.
    let counters = unsafe { &mut *counters };
    counters.see(direction, wire);

    let index = interface_index(ctx);
    let is_loopback = index == LOOPBACK_INDEX;
    let counted = match read {
        Ok(()) => count(frame, packet, direction, is_loopback, wire),
        Err(reason) => Err(reason),
    };
    let (api, next) = match counted {
        Ok(owner) => (owner.slot, flow::track::<_, LATER>(ctx, frame, packet, direction, index, owner, wire)),
        Err(reason) => {
            counters.leave_uncounted(direction, reason, wire);
            if let Reason::Mirror = reason {
                return NOTHING;
            }
            (ApiSlot::UNMAPPED, NOTHING)
        }
    };
    // What nobody judges is not to be judged.
    let next = if next & JUDGE != 0 && interface.guarded & guarded::PAYLOAD == 0 { NOTHING } else { next };
    if direction as u32 == Direction::Receive as u32 && anomaly::leave(packet, read, api, next) {
        INSPECT
    } else {
        next
    }
}

/// Bytes that each segment of a super-packet repeats if it may be one of a tunnel: those of the tunnelled packet too.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segment_headers(skb: *mut __sk_buff, packet: &Packet, headers: u32) -> u32 {
    let ctx = TcContext::new(skb);
    inner_headers(packet, &Paged(&ctx)).map_or(headers, |inner| inner as u32)
}

/// What is known of the interface with `index`; if nothing is, it has the slot of those that are gone.
#[inline(always)]
pub(crate) fn interface(index: u32) -> InterfaceEntry {
    for place in interface_places(index) {
        match INTERFACE_SLOTS.get(place) {
            Some(entry) if entry.index == index => return *entry,
            _ => {}
        }
    }
    InterfaceEntry::GONE
}

/// Counts the packet for its API, and answers with that.
#[inline(always)]
fn count<F: Frame>(
    frame: &F,
    packet: &Packet,
    direction: Direction,
    is_loopback: bool,
    wire: Wire,
) -> Result<Owner, Reason> {
    let owner = attribute(&Tables, frame, packet, direction, is_loopback)?;
    let counters = API_COUNTERS.get_ptr_mut(owner.slot.0.into()).ok_or(Reason::Internal)?;
    // SAFETY: as for the interface's entry.
    unsafe { (*counters).wire[direction.index()].count(wire) };
    Ok(owner)
}

/// The API tables, as the maps that userspace fills.
pub(crate) struct Tables;

impl ApiTables for Tables {
    #[inline(always)]
    fn port(&self, transport: Transport, port: u16) -> Option<PortEntry> {
        PORTS.get(port_index(transport, port)).copied()
    }

    #[inline(always)]
    fn address(&self, key: &AddressKey) -> Option<ApiSlot> {
        // SAFETY: userspace replaces the value of a key only by one of the same two bytes, which is not torn.
        unsafe { ADDRESSES.get(key) }.copied()
    }
}
