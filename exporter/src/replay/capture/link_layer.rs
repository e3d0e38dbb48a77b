//! What frames begin with, and how that becomes something that the programs read.
//!
//! Link types, and the layout of their headers, are those that the tcpdump group lists
//! (<https://www.tcpdump.org/linktypes.html>).

/// What a frame begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// An Ethernet header.
    Ethernet,
    /// The IP header itself, as on a tun device.
    Ip,
    /// A header that cannot be read.
    Unreadable {
        /// Link type of the capture, as the tcpdump group numbers them.
        link_type: u16,
    },
}

mod link_type {
    pub(super) const NULL: u16 = 0;
    pub(super) const ETHERNET: u16 = 1;
    pub(super) const PPP: u16 = 9;
    /// `DLT_RAW` of most systems, and of OpenBSD; some files have these instead of [`RAW`].
    pub(super) const DLT_RAW: u16 = 12;
    pub(super) const OPENBSD_DLT_RAW: u16 = 14;
    pub(super) const PPP_HDLC: u16 = 50;
    pub(super) const RAW: u16 = 101;
    pub(super) const LOOP: u16 = 108;
    pub(super) const LINUX_SLL: u16 = 113;
    pub(super) const IPV4: u16 = 228;
    pub(super) const IPV6: u16 = 229;
    pub(super) const LINUX_SLL2: u16 = 276;
}

/// Length of an Ethernet header without tags.
const ETHERNET_HEADER: usize = 14;

/// The Ethernet header of a frame that is not IP: an `EtherType` that is reserved for ever (RFC 1701).
const NOT_IP: &[u8; ETHERNET_HEADER] = &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// Address families of IPv4, and of IPv6 on Linux, NetBSD and OpenBSD, FreeBSD, macOS.
const IP_FAMILIES: [u32; 5] = [2, 10, 24, 28, 30];

/// What follows a link-layer header.
enum Payload<'a> {
    Ip(&'a [u8]),
    Other,
    /// The header was not captured whole.
    Unknown,
}

/// Turns a captured frame into one that the programs read; what it began with may be overwritten.
pub(super) fn open(link_type: u16, frame: &mut [u8]) -> (Framing, &[u8]) {
    let payload = match link_type {
        link_type::ETHERNET => return (Framing::Ethernet, frame),
        link_type::LINUX_SLL => return (Framing::Ethernet, cooked::<16>(frame, 14)),
        link_type::LINUX_SLL2 => return (Framing::Ethernet, cooked::<20>(frame, 0)),
        link_type::RAW | link_type::DLT_RAW | link_type::OPENBSD_DLT_RAW | link_type::IPV4 | link_type::IPV6 => {
            Payload::Ip(frame)
        }
        // In the byte order of the machine that captured, whichever that was.
        link_type::NULL => loopback(frame, &[u32::from_be_bytes, u32::from_le_bytes]),
        link_type::LOOP => loopback(frame, &[u32::from_be_bytes]),
        link_type::PPP => ppp(frame),
        link_type::PPP_HDLC => hdlc(frame),
        link_type => return (Framing::Unreadable { link_type }, frame),
    };
    match payload {
        Payload::Ip(packet) => (Framing::Ip, packet),
        Payload::Other => (Framing::Ethernet, NOT_IP),
        Payload::Unknown => (Framing::Ethernet, &[]),
    }
}

/// Replaces a Linux cooked header of `LENGTH` bytes, which has an `EtherType` at `protocol`, by an Ethernet header.
fn cooked<const LENGTH: usize>(frame: &mut [u8], protocol: usize) -> &[u8] {
    let Some(header) = frame.first_chunk_mut::<LENGTH>() else { return &[] };
    header.copy_within(protocol..protocol + 2, LENGTH - 2);
    header[LENGTH - ETHERNET_HEADER..LENGTH - 2].fill(0);
    &frame[LENGTH - ETHERNET_HEADER..]
}

/// The address family of a BSD loopback header, read in each of `orders`.
fn loopback<'a>(frame: &'a [u8], orders: &[fn([u8; 4]) -> u32]) -> Payload<'a> {
    let Some((family, payload)) = frame.split_first_chunk() else { return Payload::Unknown };
    if orders.iter().any(|number| IP_FAMILIES.contains(&number(*family))) {
        Payload::Ip(payload)
    } else {
        Payload::Other
    }
}

/// PPP (RFC 1661 section 2), perhaps with address and control (RFC 1662 section 3.1) and perhaps with the protocol
/// compressed to one byte (RFC 1661 section 6.5): 21 is IPv4, 57 is IPv6.
fn ppp(frame: &[u8]) -> Payload<'_> {
    match frame.strip_prefix(&[0xff, 0x03]).unwrap_or(frame) {
        [0x00, 0x21 | 0x57, payload @ ..] | [0x21 | 0x57, payload @ ..] => Payload::Ip(payload),
        // The last byte of a protocol is odd, all others are even.
        [] => Payload::Unknown,
        [byte] if byte & 1 == 0 => Payload::Unknown,
        _ => Payload::Other,
    }
}

/// PPP, or Cisco's framing: an address, a zero and an `EtherType` (RFC 1547 section 4.3.1).
fn hdlc(frame: &[u8]) -> Payload<'_> {
    match frame {
        [0x0f | 0x8f, _, 0x08, 0x00, payload @ ..] | [0x0f | 0x8f, _, 0x86, 0xdd, payload @ ..] => Payload::Ip(payload),
        [0x0f | 0x8f, _, _, _, ..] => Payload::Other,
        [0x0f | 0x8f, ..] => Payload::Unknown,
        _ => ppp(frame),
    }
}
