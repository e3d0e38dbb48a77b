//! What is let in whatever rules say, because more would break than traffic.

use tidewaiter_common::{
    api::port_index,
    direction::Direction,
    flow::{Flow, FlowKey, NO_RESET, OPENED_BY_TRANSMIT},
    interface::LOOPBACK_INDEX,
    packet::{protocol, tcp_flag},
};

use super::{
    entry_of, header,
    seen::{GuardScratch, Seen},
};
use crate::{
    context::tracks_flows,
    maps::{FLOWS, NEW_FLOWS, PORTS},
};

/// Whether the packet is let in whatever rules say.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn is_exempt(scratch: *mut GuardScratch, half: u32) -> u32 {
    // SAFETY: this CPU's own entry, written to a moment ago.
    is_let_in(unsafe { &(*scratch).seen }, half).into()
}

#[inline(always)]
fn is_let_in(seen: &Seen, half: u32) -> bool {
    let Seen { protocol, .. } = *seen;
    match protocol {
        protocol::ICMP => return is_needed_icmp(seen.icmp),
        protocol::ICMPV6 => return is_needed_icmpv6(seen.icmp),
        // Answers to what was asked before there was an address (RFC 2131, RFC 8415).
        protocol::UDP if is_dhcp(seen.source_port, seen.destination_port) => return true,
        protocol::TCP | protocol::UDP | protocol::SCTP => {}
        _ => return false,
    }
    let is_tcp = protocol == protocol::TCP;
    // What was refused there comes in as well.
    if is_tcp && seen.interface == LOOPBACK_INDEX && seen.tcp_flags & tcp_flag::RST != 0 {
        return true;
    }
    if is_tcp && seen.is_opening() {
        return false;
    }
    if is_tcp && header(half).protects(seen.destination_port) {
        return !tracks_flows() || goes_on(&seen.flow());
    }
    let Some(entry) = entry_of(half, seen.class) else { return true };
    if entry.is_unmapped == 0 {
        return false;
    }
    if seen.interface == LOOPBACK_INDEX && is_answer_of_api(seen) {
        return true;
    }
    // What this host has asked for. Without flows nobody knows.
    !tracks_flows() || is_asked_for(&seen.flow(), is_tcp)
}

/// Whether the ports are those of an answer to a client of DHCP.
#[inline(always)]
const fn is_dhcp(source: u16, destination: u16) -> bool {
    matches!((source, destination), (67, 68) | (547, 546))
}

/// Errors, which path MTU discovery needs (RFC 1191), and which end what cannot work at once.
#[inline(always)]
const fn is_needed_icmp(kind: u8) -> bool {
    matches!(kind, 3 | 11 | 12)
}

/// Errors, multicast listener and neighbour discovery (RFC 4890 section 4.4.1).
#[inline(always)]
const fn is_needed_icmpv6(kind: u8) -> bool {
    matches!(kind, 1..=4 | 130..=136 | 141..=143 | 148 | 149 | 151..=153)
}

/// What [`Flow::seen`] says of the flow with this key, and whether its opening was seen; `is_there` if there is such a flow.
struct Known {
    is_there: bool,
    seen: u64,
    was_opened: bool,
}

#[inline(always)]
fn known(key: &FlowKey) -> Known {
    let mut known = Known { is_there: false, seen: 0, was_opened: false };
    if let Some(flow) = FLOWS.get_ptr(key).or_else(|| NEW_FLOWS.get_ptr(key)) {
        known.is_there = true;
        // SAFETY: a flow of the map, which is only read.
        unsafe {
            known.seen = (&raw const (*flow).seen).read_volatile();
            known.was_opened = (&raw const (*flow).opened).read_volatile() != 0;
        }
    }
    known
}

/// Whether the connection may be one that goes on: this host has answered it by more than a refusal. One that is not known may have
/// been there before the exporter was; what comes next of it is known by whether this host answers.
#[inline(always)]
fn goes_on(key: &FlowKey) -> bool {
    let Known { is_there, seen, .. } = known(key);
    !is_there || Flow::says(seen, Direction::Transmit, NO_RESET)
}

/// Whether it is part of something that this host has begun, as far as is known.
#[inline(always)]
fn is_asked_for(key: &FlowKey, is_tcp: bool) -> bool {
    let Known { is_there, seen, was_opened } = known(key);
    // What goes on from before the exporter began may have been begun by either, if this host has said more than no.
    let goes_on = is_tcp && !was_opened && Flow::says(seen, Direction::Transmit, NO_RESET);
    is_there && (seen & OPENED_BY_TRANSMIT != 0 || goes_on)
}

/// Whether an API of this host has sent it: on the loopback interface what is sent comes in.
#[inline(always)]
fn is_answer_of_api(seen: &Seen) -> bool {
    let Some(transport) = seen.transport() else { return false };
    PORTS
        .get(port_index(transport, seen.source_port))
        .is_none_or(|entry| entry.server.is_mapped() || entry.by_address != 0)
}
