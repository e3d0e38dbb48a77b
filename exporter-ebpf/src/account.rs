//! Accounting: every packet once, for its API or under the reason why for none.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use tidewaiter_common::{
    api::{AddressKey, ApiSlot, ApiTables, PortEntry, attribute, port_index},
    direction::Direction,
    frame::Frame,
    interface::{InterfaceSlot, LOOPBACK_INDEX, interface_places},
    packet::Packet,
    reason::Reason,
    transport::Transport,
    wire::Wire,
};

use crate::{
    frame::{Linear, Paged, buffer, interface_index},
    maps::{ADDRESSES, API_COUNTERS, INTERFACE_COUNTERS, INTERFACE_SLOTS, PORTS},
};

/// Counts one socket buffer for its interface, and for its API or under a reason.
#[inline(always)]
pub(crate) fn account(ctx: &TcContext, direction: Direction) {
    let linear = Linear(ctx);
    let mut packet = Packet::UNREAD;
    let read = packet.read(&linear);
    match read {
        Err(reason) if reason.is_truncation() => account_paged(ctx.skb.skb, direction),
        read => account_read(ctx, direction, &linear, &packet, read),
    }
}

/// As [`account`], for buffers whose headers cannot be read directly. A function of its own, so that what is rare takes
/// no registers from what is not. Its name is kept as it is, because a mangled one would differ between toolchains.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn account_paged(skb: *mut __sk_buff, direction: Direction) {
    let ctx = TcContext::new(skb);
    let paged = Paged(&ctx);
    let mut packet = Packet::UNREAD;
    let read = packet.read(&paged);
    account_read(&ctx, direction, &paged, &packet, read);
}

/// Counts the socket buffer that `packet` was read from.
#[inline(always)]
fn account_read<F: Frame>(ctx: &TcContext, direction: Direction, frame: &F, packet: &Packet, read: Result<(), Reason>) {
    let wire = Wire::of(buffer(ctx), packet.headers as u32);
    let index = interface_index(ctx);
    let Some(interface) = INTERFACE_COUNTERS.get_ptr_mut(interface_slot(index).0.into()) else { return };
    // SAFETY: the entry is this CPU's own, and no other program runs on it before this one has ended (both hooks run
    // with bottom halves disabled), so there is no second reference to it.
    let interface = unsafe { &mut *interface };
    interface.see(direction, wire);

    let counted = read
        .and_then(|()| attribute(&Tables, frame, packet, direction, index == LOOPBACK_INDEX))
        .and_then(|api| count(api, direction, wire));
    if let Err(reason) = counted {
        interface.leave_uncounted(direction, reason, wire);
    }
}

/// The slot of the interface with `index`.
#[inline(always)]
fn interface_slot(index: u32) -> InterfaceSlot {
    for place in interface_places(index) {
        match INTERFACE_SLOTS.get(place) {
            Some(entry) if entry.index == index => return InterfaceSlot(entry.slot),
            _ => {}
        }
    }
    InterfaceSlot::GONE
}

/// Adds to the counters of `api`.
#[inline(always)]
fn count(api: ApiSlot, direction: Direction, wire: Wire) -> Result<(), Reason> {
    let counters = API_COUNTERS.get_ptr_mut(api.counters_index(direction)).ok_or(Reason::Internal)?;
    // SAFETY: as for the interface's entry.
    unsafe { (*counters).count(wire) };
    Ok(())
}

/// The API tables, as the maps that userspace fills.
struct Tables;

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
