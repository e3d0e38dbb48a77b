//! The headers of an answer.

use super::{
    Question, Quote,
    checksum::{fold, sum, sum_all},
};
use crate::packet::{IPV4_HEADER, IPV6_HEADER, Network, TCP_HEADER, protocol, tcp_flag};

/// The most bytes that an answer's own headers are: those of IPv6 and TCP.
pub const MAX_ANSWER: usize = IPV6_HEADER + TCP_HEADER;

/// Length of the header of an ICMP error, with the word that "unreachable" leaves unused (RFC 792, RFC 4443).
const ICMP_HEADER: usize = 8;

/// "Destination unreachable", its code "port unreachable", as the first half of ICMP's header (RFC 792).
const PORT_UNREACHABLE: u32 = 0x0303;
/// The same of `ICMPv6` (RFC 4443 section 3.1).
const PORT_UNREACHABLE_V6: u32 = 0x0104;

/// How far an answer gets: what hosts start with (RFC 1122 refers to the assigned numbers, RFC 1700: 64).
const HOP_LIMIT: u32 = 64;
/// The flag of IPv4 that forbids fragments. With it the identification means nothing, and is 0 (RFC 6864 section 4.1).
const DONT_FRAGMENT: u32 = 0x4000;

/// The headers of an answer, from IP on: those of TCP whole, those of an error up to what it quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Answer {
    /// Words in the order of the network.
    words: [u32; MAX_ANSWER / 4],
    /// How many bytes of them there are: one of four numbers, by protocol and version of IP.
    pub length: u32,
}

/// What differs between segments that end a connection.
struct Reset<'a> {
    source: &'a [u32; 4],
    destination: &'a [u32; 4],
    ports: u32,
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
}

impl Answer {
    /// No answer yet.
    pub const NONE: Self = Self { words: [0; MAX_ANSWER / 4], length: 0 };

    /// Length of the headers of a reset, in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn reset_length(network: Network) -> usize {
        ip_header(network) + TCP_HEADER
    }

    /// Length of the headers of an error before what it quotes, in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn unreachable_length(network: Network) -> usize {
        ip_header(network) + ICMP_HEADER
    }

    /// The bytes.
    #[inline(always)]
    #[must_use]
    pub const fn bytes(&self) -> &[u8; MAX_ANSWER] {
        // SAFETY: so many bytes of plain words, and bytes lie anywhere.
        unsafe { &*(&raw const self.words).cast() }
    }

    /// Makes it the reset to `question`, of TCP, as of a port where nobody listens (RFC 9293 section 3.10.7.1). If `is_partial`,
    /// the device is to complete the checksum ([`Question::is_partial`]).
    #[inline(always)]
    pub fn reset(&mut self, question: &Question, is_partial: bool) {
        let (sequence, acknowledgement, flags) = if question.flags & tcp_flag::ACK != 0 {
            (question.acknowledgement, 0, tcp_flag::RST)
        } else {
            // SYN and FIN count as a byte each.
            let opens = u32::from(question.flags & tcp_flag::SYN != 0);
            let ends = u32::from(question.flags & tcp_flag::FIN != 0);
            let next = question.sequence.wrapping_add(question.payload).wrapping_add(opens + ends);
            (0, next, tcp_flag::RST | tcp_flag::ACK)
        };
        let (source, destination) = (&question.destination, &question.source);
        let ports = question.ports.rotate_left(16);
        let reset = Reset { source, destination, ports, sequence, acknowledgement, flags };
        self.put_reset(question.network, &reset, is_partial);
    }

    /// Makes it a reset in the place of `question`, a segment of an established connection: from the same sender, and with the
    /// numbers that the receiver expects.
    #[inline(always)]
    pub fn reset_instead(&mut self, question: &Question, is_partial: bool) {
        let Question { source, destination, ports, sequence, acknowledgement, .. } = question;
        let flags = tcp_flag::RST | tcp_flag::ACK;
        let (ports, sequence, acknowledgement) = (*ports, *sequence, *acknowledgement);
        let reset = Reset { source, destination, ports, sequence, acknowledgement, flags };
        self.put_reset(question.network, &reset, is_partial);
    }

    /// Makes it the beginning of the error "port unreachable" about `question`, of which `quote` follows.
    #[inline(always)]
    pub fn unreachable(&mut self, question: &Question, quote: Quote) {
        let (source, destination) = (&question.destination, &question.source);
        let length = ICMP_HEADER as u32 + quote.length;
        // The last word of the header is 0.
        match question.network {
            Network::Ipv4 => {
                self.put_ipv4(protocol::ICMP, length, source, destination);
                let checksum = !fold(PORT_UNREACHABLE + quote.sum);
                self.words[5] = (PORT_UNREACHABLE << 16 | u32::from(checksum)).to_be();
                self.words[6] = 0;
            }
            Network::Ipv6 => {
                self.put_ipv6(protocol::ICMPV6, length, source, destination);
                let pseudo = sum(u32::from(protocol::ICMPV6)) + sum(length) + question.address_sum();
                let checksum = !fold(PORT_UNREACHABLE_V6 + quote.sum + pseudo);
                self.words[10] = (PORT_UNREACHABLE_V6 << 16 | u32::from(checksum)).to_be();
                self.words[11] = 0;
            }
        }
        self.length = Self::unreachable_length(question.network) as u32;
    }

    #[inline(always)]
    fn put_reset(&mut self, network: Network, reset: &Reset<'_>, is_partial: bool) {
        let Reset { source, destination, ports, sequence, acknowledgement, flags } = *reset;
        // The sum of the pseudo-header.
        let pseudo = u32::from(protocol::TCP) + TCP_HEADER as u32 + sum_all(source) + sum_all(destination);
        let offset_and_flags = (TCP_HEADER as u32 / 4) << 28 | u32::from(flags) << 16;
        let mut tcp = [ports, sequence, acknowledgement, offset_and_flags, 0];
        let checksum = if is_partial { fold(pseudo) } else { !fold(pseudo + sum_all(&tcp)) };
        tcp[4] = u32::from(checksum) << 16;
        match network {
            Network::Ipv4 => {
                self.put_ipv4(protocol::TCP, TCP_HEADER as u32, source, destination);
                self.put::<5, 5>(&tcp);
            }
            Network::Ipv6 => {
                self.put_ipv6(protocol::TCP, TCP_HEADER as u32, source, destination);
                self.put::<10, 5>(&tcp);
            }
        }
        self.length = Self::reset_length(network) as u32;
    }

    /// A header without options, `length` bytes before the end.
    #[inline(always)]
    fn put_ipv4(&mut self, protocol: u8, length: u32, source: &[u32; 4], destination: &[u32; 4]) {
        let first = 0x4500_0000 | (IPV4_HEADER as u32 + length);
        let third = HOP_LIMIT << 24 | u32::from(protocol) << 16;
        let mut header = [first, DONT_FRAGMENT, third, source[0], destination[0]];
        header[2] |= u32::from(!fold(sum_all(&header)));
        self.put::<0, 5>(&header);
    }

    /// The fixed header, `length` bytes before the end.
    #[inline(always)]
    fn put_ipv6(&mut self, protocol: u8, length: u32, source: &[u32; 4], destination: &[u32; 4]) {
        self.put::<0, 2>(&[0x6000_0000, length << 16 | u32::from(protocol) << 8 | HOP_LIMIT]);
        self.put::<2, 4>(source);
        self.put::<6, 4>(destination);
    }

    #[inline(always)]
    fn put<const AT: usize, const N: usize>(&mut self, words: &[u32; N]) {
        for (place, word) in self.words.iter_mut().skip(AT).zip(words) {
            *place = word.to_be();
        }
    }
}

const fn ip_header(network: Network) -> usize {
    match network {
        Network::Ipv4 => IPV4_HEADER,
        Network::Ipv6 => IPV6_HEADER,
    }
}
