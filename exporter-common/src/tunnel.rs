//! Headers of packets within packets, as far as super-packets need them.
//!
//! A super-packet of a tunnel repeats the tunnelled headers in each segment too. For counting packets the outermost
//! headers are all that matters; only here is a look inside.

use crate::{
    frame::{Frame, Framing},
    packet::{Packet, ethertype, protocol, read_u16},
    transport::Transport,
};

/// UDP ports of VXLAN: RFC 7348, and Linux's own before there was one.
const VXLAN_PORTS: [u16; 2] = [4789, 8472];
/// The bit of a VXLAN header's first byte that says that there is a network identifier (RFC 7348 section 5).
const VXLAN_IDENTIFIER: u8 = 0x08;
/// UDP port of Geneve (RFC 8926).
const GENEVE_PORT: u16 = 6081;
/// GRE flags for a checksum, a key and a sequence number, 4 bytes each (RFC 2784, RFC 2890).
const GRE_FLAGS: [u16; 3] = [0x8000, 0x2000, 0x1000];
/// GRE with routing, which RFC 2784 has done away with, and of another version than 0 (that of PPTP, RFC 2637).
const GRE_UNKNOWN: u16 = 0x4007;

/// What a tunnel's header says of what it carries.
struct Carried {
    /// Bytes of the tunnel's own header.
    header: usize,
    framing: Framing,
}

/// Bytes from the start of `frame`, which `packet` was read from, to the payload of the transport inside its tunnel: VXLAN,
/// Geneve, GRE, IPv4 or IPv6 in IP. `None` if it is no tunnel, or what it carries has not the usual shape.
#[inline(always)]
pub fn inner_headers<F: Frame + ?Sized>(packet: &Packet, frame: &F) -> Option<usize> {
    let Carried { header, framing } = carried(packet, frame)?;
    let outer = packet.headers + header;
    let mut inner = Packet::UNREAD;
    inner.read_plain(&Inner { frame, offset: outer }, framing).then_some(outer + inner.headers)
}

#[inline(always)]
fn carried<F: Frame + ?Sized>(packet: &Packet, frame: &F) -> Option<Carried> {
    match (packet.transport, packet.protocol) {
        (Some(Transport::Udp), _) if VXLAN_PORTS.contains(&packet.destination_port) => {
            let [flags] = frame.read(packet.headers)?;
            (flags & VXLAN_IDENTIFIER != 0).then_some(Carried { header: 8, framing: Framing::Ethernet })
        }
        (Some(Transport::Udp), _) if packet.destination_port == GENEVE_PORT => {
            let [first] = frame.read(packet.headers)?;
            let framing = framing(read_u16(frame, packet.headers + 2)?)?;
            // The length of the options is in units of 4 bytes, in 6 bits.
            Some(Carried { header: 8 + usize::from(first & 0x3f) * 4, framing })
        }
        (None, protocol::GRE) => {
            let flags = read_u16(frame, packet.headers)?;
            if flags & GRE_UNKNOWN != 0 {
                return None;
            }
            let framing = framing(read_u16(frame, packet.headers + 2)?)?;
            let mut header = 4;
            for flag in GRE_FLAGS {
                header += if flags & flag == 0 { 0 } else { 4 };
            }
            Some(Carried { header, framing })
        }
        (None, protocol::IPV4 | protocol::IPV6) => Some(Carried { header: 0, framing: Framing::Ip }),
        _ => None,
    }
}

const fn framing(ethertype: u16) -> Option<Framing> {
    match ethertype {
        ethertype::ETHERNET => Some(Framing::Ethernet),
        ethertype::IPV4 | ethertype::IPV6 => Some(Framing::Ip),
        _ => None,
    }
}

/// A frame within another.
struct Inner<'a, F: ?Sized> {
    frame: &'a F,
    offset: usize,
}

impl<F: Frame + ?Sized> Frame for Inner<'_, F> {
    #[inline(always)]
    fn length(&self) -> usize {
        self.frame.length().saturating_sub(self.offset)
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.frame.read(self.offset + offset)
    }
}
