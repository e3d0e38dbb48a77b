//! Answers that refuse a packet, so that who sent it fails at once instead of trying until it gives up.
//!
//! A segment of TCP is answered with a reset (RFC 9293 section 3.10.7.1), everything else with the error "port unreachable" of
//! ICMP (RFC 792) or `ICMPv6` (RFC 4443). "Administratively prohibited" would say more (code 13, RFC 1812 section 5.2.7.1), but
//! it says it to nobody: Linux hands a connected socket `ECONNREFUSED` for the one, which clients know, and `EHOSTUNREACH` for
//! the other, which many take for a fault of the network and try again. "Port unreachable" is also what firewalls answer with
//! by default (`reject` of nftables, `REJECT` of iptables).
//!
//! This decides whether there is an answer ([`Question::read`]), and puts its headers together ([`Answer`]). Who calls it
//! replaces all that stands between the link-layer header and the transport's header by those headers, and cuts off what
//! follows: the answer to a segment is as long as [`Answer::length`] says, an error carries [`Quote::length`] bytes of the
//! question, from its IP header on. So no answer to TCP is longer than its question, and no other by more than
//! [`MAX_ANSWER`] bytes: nobody gets much more from us than was sent in his name.

mod allowance;
mod answer;
mod checksum;

use self::checksum::{fold, sum, sum_all};
pub use self::{
    allowance::Allowance,
    answer::{Answer, MAX_ANSWER},
};
use crate::{
    frame::Frame,
    packet::{IPV4_HEADER, IPV6_HEADER, Network, Packet, protocol, tcp_flag},
};

/// Bytes of the question's transport that an error quotes at least (RFC 792): ports, by which the socket is found.
/// RFC 4443 asks for as much as fits; that is of use to nobody here, and to whoever sends in the name of others.
const QUOTED_TRANSPORT: u32 = 8;
/// The most that an error quotes, in bytes: the longest header of IPv4 and what has to follow it, and about as much of
/// IPv6's extension headers. What has more is not answered.
pub const MAX_QUOTE: u32 = 96;

/// `ICMP` and `ICMPv6` echo request (RFC 792, RFC 4443): of ICMP, nothing else is answered. What is not an error there is
/// told to everybody or to a neighbour, and is no question.
const ECHO: u8 = 8;
const ECHO_V6: u8 = 128;

/// Where in the headers of TCP and UDP the checksum stands.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// The kind of answer that a packet gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A reset of TCP.
    Reset,
    /// An error of ICMP.
    Unreachable,
}

/// What there is to know of a packet for an answer to it. Numbers are those of the headers, addresses words in the order of
/// the network, the first as a number; one of IPv4 is the first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Question {
    /// Version of IP.
    pub network: Network,
    /// The protocol above it.
    pub protocol: u8,
    /// Flags of TCP.
    pub flags: u8,
    /// Offset of the IP header, in bytes.
    pub network_offset: u32,
    /// Offset of the transport's header, in bytes.
    pub transport_offset: u32,
    /// Bytes of the transport's header and payload, as IP states them; of TCP and UDP alone.
    pub transport_length: u32,
    /// Bytes of TCP's payload.
    pub payload: u32,
    /// The sender.
    pub source: [u32; 4],
    /// The receiver.
    pub destination: [u32; 4],
    /// The sender's port, and the receiver's in the lower half.
    pub ports: u32,
    /// Sequence number of TCP.
    pub sequence: u32,
    /// Acknowledgement number of TCP.
    pub acknowledgement: u32,
    /// The checksum of TCP or UDP, as it stands there.
    pub checksum: u32,
}

/// The part of a question that an error carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// In bytes, from the IP header on.
    pub length: u32,
    /// The sum of its words (RFC 1071), which the checksum of the error includes.
    pub sum: u32,
}

impl Question {
    /// A question of which nothing was read yet.
    pub const UNREAD: Self = Self {
        network: Network::Ipv4,
        protocol: 0,
        flags: 0,
        network_offset: 0,
        transport_offset: 0,
        transport_length: 0,
        payload: 0,
        source: [0; 4],
        destination: [0; 4],
        ports: 0,
        sequence: 0,
        acknowledgement: 0,
        checksum: 0,
    };

    /// Reads what an answer takes to the packet that `packet` was read from `frame` of. Says which it gets; `None` if there must
    /// be none: to a reset, to an error of ICMP, to what was sent to many, or by nobody that can be answered (RFC 1122 section
    /// 3.2.2, RFC 4443 section 2.4). `is_loopback` says that the frame passed the loopback interface, where alone its addresses
    /// are to be seen.
    ///
    /// Whether the frame itself was sent to many (by its link-layer header) is for the caller to see, and that it is no
    /// later fragment: those cannot be [`Packet::read`].
    #[inline(always)]
    pub fn read<F: Frame + ?Sized>(&mut self, frame: &F, packet: &Packet, is_loopback: bool) -> Option<Refusal> {
        let transport = transport_offset(frame, packet)?;
        self.network = packet.network;
        self.protocol = packet.protocol;
        self.flags = packet.tcp_flags;
        self.network_offset = packet.network_offset as u32;
        self.transport_offset = transport as u32;
        self.transport_length = (packet.headers.wrapping_sub(transport) as u32).wrapping_add(packet.payload);
        self.payload = packet.payload;
        self.ports = u32::from(packet.source_port) << 16 | u32::from(packet.destination_port);
        self.sequence = packet.sequence;
        self.acknowledgement = packet.acknowledgement;
        self.checksum = 0;
        if !self.read_addresses(frame) || !self.has_ends(is_loopback) {
            return None;
        }
        match packet.protocol {
            protocol::TCP if packet.tcp_flags & tcp_flag::RST != 0 => None,
            protocol::TCP => {
                self.checksum = frame.read(transport + TCP_CHECKSUM).map(u16::from_be_bytes)?.into();
                Some(Refusal::Reset)
            }
            protocol::UDP => {
                self.checksum = frame.read(transport + UDP_CHECKSUM).map(u16::from_be_bytes)?.into();
                Some(Refusal::Unreachable)
            }
            protocol::ICMP | protocol::ICMPV6 => {
                // (Two bytes, as in `packet`: the verifier does not follow comparisons of addresses.)
                let [kind, _] = frame.read(transport)?;
                let echo = if packet.network == Network::Ipv4 { ECHO } else { ECHO_V6 };
                let own = if packet.network == Network::Ipv4 { protocol::ICMP } else { protocol::ICMPV6 };
                (packet.protocol == own && kind == echo).then_some(Refusal::Unreachable)
            }
            _ => Some(Refusal::Unreachable),
        }
    }

    /// Whether the transport's checksum is but that of the pseudo-header, and the rest is left to the device (`CHECKSUM_PARTIAL`,
    /// `include/linux/skbuff.h`): so it is with packets that never were on a wire, of veth, virtio and `lo`, and with
    /// those that were merged on receive.
    ///
    /// The kernel tells no program whether it is so. But then the field holds exactly the sum of the pseudo-header, not
    /// inverted, which one whole checksum in 65,536 does by chance. (An answer to that one has a wrong checksum, and is lost.)
    #[inline(always)]
    #[must_use]
    pub fn is_partial(&self) -> bool {
        let pseudo = u32::from(self.protocol) + sum(self.transport_length) + self.address_sum();
        matches!(self.protocol, protocol::TCP | protocol::UDP) && u32::from(fold(pseudo)) == self.checksum
    }

    /// The part of `frame` that an error carries; `None` if that would be too much. `is_partial` as
    /// [`Question::is_partial`] says, if the device will complete the quoted checksum.
    #[inline(always)]
    pub fn quote<F: Frame + ?Sized>(&self, frame: &F, is_partial: bool) -> Option<Quote> {
        let there = (frame.length() as u32).saturating_sub(self.network_offset);
        let headers = self.transport_offset.wrapping_sub(self.network_offset);
        // In whole words: less than that is cut off.
        let length = headers.wrapping_add(QUOTED_TRANSPORT).min(there) & !3;
        if length > MAX_QUOTE {
            return None;
        }
        // Completing the checksum makes all that it covers, itself included, add up to the inverse of what it was before: the
        // rest of the field's words and it are x + v, and the field becomes !(x + v).
        let (words, mut added) = if is_partial { (headers, !self.checksum & 0xffff) } else { (length, 0) };
        for place in 0..MAX_QUOTE / 4 {
            if place * 4 >= words {
                break;
            }
            let word = frame.read((self.network_offset + place * 4) as usize)?;
            added += sum(u32::from_be_bytes(word));
        }
        Some(Quote { length, sum: added })
    }

    #[inline(always)]
    fn read_addresses<F: Frame + ?Sized>(&mut self, frame: &F) -> bool {
        let offset = self.network_offset as usize;
        match self.network {
            Network::Ipv4 => {
                let Some([source, destination]) = words(frame.read::<8>(offset + 12)) else { return false };
                self.source = [source, 0, 0, 0];
                self.destination = [destination, 0, 0, 0];
            }
            Network::Ipv6 => {
                let Some(source) = words(frame.read::<16>(offset + 8)) else { return false };
                self.source = source;
                let Some(destination) = words(frame.read::<16>(offset + 24)) else { return false };
                self.destination = destination;
            }
        }
        true
    }

    /// Whether both ends are hosts that can talk to each other.
    #[inline(always)]
    fn has_ends(&self, is_loopback: bool) -> bool {
        // Packets to their own sender are attacks, but for loopback.
        (is_loopback || self.source != self.destination)
            && self.is_host(&self.source, is_loopback)
            && self.is_host(&self.destination, is_loopback)
    }

    /// Whether `address` is one of a single host.
    #[inline(always)]
    const fn is_host(&self, address: &[u32; 4], is_loopback: bool) -> bool {
        match (self.network, *address) {
            (Network::Ipv4, [address, ..]) => match address >> 24 {
                // "This network", RFC 1122 section 3.2.1.3; multicast.
                0 | 224..=239 => false,
                127 => is_loopback,
                // Broadcast. (What else is above, "class E", is in use in places.)
                _ => address != u32::MAX,
            },
            // Unspecified, and loopback.
            (Network::Ipv6, [0, 0, 0, 0]) => false,
            (Network::Ipv6, [0, 0, 0, 1]) => is_loopback,
            (Network::Ipv6, [first, ..]) => first >> 24 != 0xff,
        }
    }

    /// The sum of both addresses.
    #[inline(always)]
    fn address_sum(&self) -> u32 {
        sum_all(&self.source) + sum_all(&self.destination)
    }
}

/// Where the transport's header begins.
#[inline(always)]
fn transport_offset<F: Frame + ?Sized>(frame: &F, packet: &Packet) -> Option<usize> {
    match packet.network {
        Network::Ipv4 => {
            let [first, _] = frame.read(packet.network_offset)?;
            Some(packet.network_offset + (usize::from(first & 0x0f) * 4).max(IPV4_HEADER))
        }
        // What was read tells only where the header of TCP ends, and that is of any length.
        Network::Ipv6 => {
            let mut headers = Packet { network_offset: packet.network_offset, ..Packet::UNREAD };
            let (next_header, length) = headers.read_ipv6(frame).ok()?;
            headers.read_extensions(frame, next_header, length).ok()?;
            Some(headers.headers.max(packet.network_offset + IPV6_HEADER))
        }
    }
}

/// Bytes as words.
#[inline(always)]
fn words<const N: usize, const WORDS: usize>(bytes: Option<[u8; N]>) -> Option<[u32; WORDS]> {
    let bytes = bytes?;
    let mut words = [0; WORDS];
    let (chunks, _) = bytes.as_chunks::<4>();
    for (word, chunk) in words.iter_mut().zip(chunks) {
        *word = u32::from_be_bytes(*chunk);
    }
    Some(words)
}
