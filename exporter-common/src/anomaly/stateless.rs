//! What a single packet says of itself.

use super::{AnomalyKind, settings::ProtocolSet};
use crate::{
    frame::Frame,
    packet::{Network, Packet, protocol, tcp_flag},
    protocol::opaque,
    reason::Reason,
    transport::Transport,
};

/// No kind: what [`stateless_kind`] says of nearly every packet.
pub const NONE: u8 = u8::MAX;

/// Length of the fixed part of an ICMP header (RFC 792, RFC 4443).
const ICMP_HEADER: u32 = 8;

/// Sets of TCP's flags, by all eight of them as a number, that no stack sends: a bit each.
///
/// What says so is RFC 9293: a segment has ACK unless it opens or resets a connection (section 3.10.7.4: "If the ACK bit is
/// off, drop the segment"), and it does at most one of opening, ending and resetting. An urgent pointer in a reset, or
/// in the answer to an opening, points at nothing. What is left is what Linux's connection tracking takes for valid
/// (`tcp_valid_flags`, `net/netfilter/nf_conntrack_proto_tcp.c`); what scanners send is not among it: no flag at all, FIN alone,
/// and FIN, PSH and URG ("xmas"). PSH, ECE and CWR go with any.
const BAD_TCP_FLAGS: [u64; 4] = {
    let mut bad = [0; 4];
    let mut flags: u16 = 0;
    while flags <= u8::MAX as u16 {
        if is_bad(flags as u8) {
            bad[(flags >> 6) as usize] |= 1 << (flags & 63);
        }
        flags += 1;
    }
    bad
};

const fn is_bad(flags: u8) -> bool {
    let does = flags & (tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST);
    let acknowledges = flags & tcp_flag::ACK != 0;
    does.count_ones() > 1
        || (!acknowledges && does & (tcp_flag::SYN | tcp_flag::RST) == 0)
        || (flags & tcp_flag::URG != 0 && (does == tcp_flag::RST || (does == tcp_flag::SYN && acknowledges)))
}

/// Whether no stack sends these flags of TCP together, see [`tcp_flag`].
#[inline(always)]
#[must_use]
pub const fn are_bad_tcp_flags(flags: u8) -> bool {
    BAD_TCP_FLAGS[(flags >> 6) as usize] & 1 << (flags & 63) != 0
}

/// Whether a packet that was not read for `reason` contradicts itself or its length, rather than being of a kind that is not
/// read.
#[inline(always)]
#[must_use]
pub const fn is_malformed(reason: Reason) -> bool {
    match reason {
        Reason::Ipv4Truncated
        | Reason::Ipv4Malformed
        | Reason::Ipv6Truncated
        | Reason::Ipv6Malformed
        | Reason::TcpTruncated
        | Reason::TcpMalformed
        | Reason::UdpTruncated
        | Reason::SctpTruncated => true,
        // Of Ethernet there is nothing that anybody would drop; the others are right, but not read.
        Reason::NotIp
        | Reason::Vlan
        | Reason::EthernetTruncated
        | Reason::Ipv6Extension
        | Reason::Fragment
        | Reason::Mirror
        | Reason::Internal => false,
    }
}

/// Whether a fragment hides the transport's header from who looks at one packet at a time: a first one that ends before that
/// does (RFC 1858 section 3, RFC 3128, RFC 7112), or one of TCP that begins within its first 20 bytes (RFC 1858 section 4).
/// `read` is how reading the packet went.
#[inline(always)]
#[must_use]
pub const fn is_tiny_fragment(packet: &Packet, read: Result<(), Reason>) -> bool {
    let fragment = packet.fragment;
    if fragment.offset != 0 {
        return packet.protocol == protocol::TCP && fragment.offset < crate::packet::TCP_HEADER as u16;
    }
    if !fragment.more {
        return false;
    }
    match read {
        Err(Reason::TcpTruncated | Reason::UdpTruncated | Reason::SctpTruncated | Reason::Ipv6Truncated) => true,
        Err(_) => false,
        Ok(()) => is_icmp(packet.protocol) && fragment.length < ICMP_HEADER,
    }
}

/// Whether `number` is that of ICMP or of its like for IPv6.
#[inline(always)]
#[must_use]
pub const fn is_icmp(number: u8) -> bool {
    matches!(number, protocol::ICMP | protocol::ICMPV6)
}

/// Reasons of [`is_malformed`]: a bit for each, by its number.
const MALFORMED: u64 = {
    let mut bits = 0;
    let mut place = 0;
    while place < Reason::COUNT {
        if is_malformed(Reason::ALL[place]) {
            bits |= 1 << place;
        }
        place += 1;
    }
    bits
};

/// ICMP and its like for IPv6, as a set.
const ICMP: ProtocolSet = {
    let mut set = ProtocolSet::EMPTY;
    set.insert(protocol::ICMP);
    set.insert(protocol::ICMPV6);
    set
};

/// Whether a received packet has to be looked at as an anomaly: if [`stateless_kind`] says that it is one, and some others: messages of
/// ICMP, parts of datagrams, and what has the same port at both ends, or none. Those of `expected` are the protocols above IP that are.
///
/// Every packet is asked, so there are no branches: the verifier would follow each way through them to the end of all that comes
/// after.
#[inline(always)]
#[must_use]
pub fn is_suspect(packet: &Packet, read: Result<(), Reason>, expected: &ProtocolSet) -> bool {
    let (is_read, is_malformed) = match read {
        Ok(()) => (1, 0),
        Err(reason) => (0, MALFORMED >> reason as u64 & 1),
    };
    let is_part = u64::from(packet.fragment.offset) | u64::from(packet.fragment.more);
    let is_not_tcp = not_zero(packet.protocol ^ protocol::TCP);
    let is_strange = (expected.bit(packet.protocol) ^ 1) | ICMP.bit(packet.protocol);
    let is_bad = BAD_TCP_FLAGS[(packet.tcp_flags >> 6) as usize & 3] >> (packet.tcp_flags & 63) & 1;
    let has_one_port = not_zero(packet.source_port ^ packet.destination_port) ^ 1;
    let of_read = opaque(is_not_tcp & is_strange) | opaque((is_not_tcp ^ 1) & is_bad) | has_one_port;
    opaque(of_read & is_read | is_part | is_malformed) != 0
}

/// 0 if `number` is, else 1.
#[inline(always)]
fn not_zero(number: impl Into<u64>) -> u64 {
    // It borrows from the highest bit if it is.
    opaque(number.into().wrapping_sub(1)) >> 63 ^ 1
}

/// The [`AnomalyKind`] of a received `packet`, as its number, or [`NONE`]: the first of `malformed`, `tiny_fragment`,
/// `bad_tcp_flags`, `land` and `unexpected_protocol` that it is.
///
/// `packet` was read from `frame`, which has gone as `read` says. `expects` says whether a protocol above IP is expected, by its
/// number; it is not asked for TCP, which always is. `is_loopback` says whether the packet passed the loopback interface, where a
/// host talks to itself.
///
/// A number, because the verifier does not know which values an enumeration has.
#[inline(always)]
#[must_use]
pub fn stateless_kind<F: Frame + ?Sized>(
    packet: &Packet,
    frame: &F,
    read: Result<(), Reason>,
    expects: impl FnOnce(u8) -> bool,
    is_loopback: bool,
) -> u8 {
    if let Err(reason) = read {
        if is_tiny_fragment(packet, read) {
            return AnomalyKind::TinyFragment as u8;
        }
        if is_malformed(reason) {
            return AnomalyKind::Malformed as u8;
        }
        let is_strange =
            matches!(reason, Reason::Fragment) && packet.protocol != protocol::TCP && !expects(packet.protocol);
        return if is_strange { AnomalyKind::UnexpectedProtocol as u8 } else { NONE };
    }
    if packet.fragment.more && is_tiny_fragment(packet, read) {
        return AnomalyKind::TinyFragment as u8;
    }
    let is_tcp = matches!(packet.transport, Some(Transport::Tcp));
    // Nearly all segments have ACK, and neither SYN nor RST: then the others make no difference.
    let is_usual = packet.tcp_flags & (tcp_flag::ACK | tcp_flag::SYN | tcp_flag::RST) == tcp_flag::ACK;
    if is_tcp && !is_usual && are_bad_tcp_flags(packet.tcp_flags) {
        return AnomalyKind::BadTcpFlags as u8;
    }
    // Who sends has chosen a port of its own, unless the protocol has none: so this is rarely asked.
    if packet.source_port == packet.destination_port && !is_loopback && is_to_its_sender(packet, frame) {
        return AnomalyKind::Land as u8;
    }
    if !is_tcp && !expects(packet.protocol) {
        return AnomalyKind::UnexpectedProtocol as u8;
    }
    NONE
}

/// Whether 8 bytes of both IPv6 addresses are the same, those at `offset`. (Not all 16: the stack has 512.)
#[inline(always)]
fn has_same_word<F: Frame + ?Sized>(packet: &Packet, frame: &F, offset: usize) -> bool {
    let source = packet.network_offset + 8 + offset;
    match (frame.read::<8>(source), frame.read::<8>(source + 16)) {
        (Some(source), Some(destination)) => u64::from_ne_bytes(source) == u64::from_ne_bytes(destination),
        _ => false,
    }
}

/// Whether the sender of a packet over IPv6 has the address `::1` (RFC 4291 section 2.5.3).
#[inline(always)]
fn is_loopback6<F: Frame + ?Sized>(packet: &Packet, frame: &F) -> bool {
    match (frame.read::<8>(packet.network_offset + 8), frame.read::<8>(packet.network_offset + 16)) {
        (Some(high), Some(low)) => u64::from_be_bytes(high) == 0 && u64::from_be_bytes(low) == 1,
        _ => false,
    }
}

/// The first byte of IPv4 addresses that a host has for itself (RFC 1122 section 3.2.1.3).
const LOOPBACK: u8 = 127;

/// Whether both ends have the same address, and not one that every host has for itself: captures do not say of which interface
/// they are.
#[inline(always)]
fn is_to_its_sender<F: Frame + ?Sized>(packet: &Packet, frame: &F) -> bool {
    // The two stand side by side, and are compared where they are read: of an absent address the compiler makes an undefined one,
    // which the verifier refuses.
    match packet.network {
        Network::Ipv4 => match frame.read::<8>(packet.network_offset + 12) {
            Some([a, b, c, d, rest @ ..]) => {
                a != LOOPBACK && u32::from_ne_bytes([a, b, c, d]) == u32::from_ne_bytes(rest)
            }
            None => false,
        },
        Network::Ipv6 => {
            has_same_word(packet, frame, 0) && has_same_word(packet, frame, 8) && !is_loopback6(packet, frame)
        }
    }
}
