//! Reading the headers of one packet, as far as its ports.
//!
//! Each function reads one header and hands on to the next. All keep one contract: whatever the bytes are, nothing is
//! read outside the frame, lengths that the packet states are believed only as far as the frame goes, and the answer is
//! either `Ok` or the [`Reason`] why the packet can be counted for no API.
//!
//! What was read goes into a [`Packet`] that was whole before, instead of into the `Ok`: the compiler would carry the
//! fields of an absent packet as undefined values from one branch to another, and the verifier refuses to.

use crate::{frame::Frame, reason::Reason, transport::Transport};

/// Length of an Ethernet header without tags (IEEE 802.3).
pub const ETHERNET_HEADER: usize = 14;
/// Length of an IPv4 header without options (RFC 791).
pub const IPV4_HEADER: usize = 20;
/// Length of an IPv6 header without extension headers (RFC 8200).
pub const IPV6_HEADER: usize = 40;
/// Length of a TCP header without options (RFC 9293).
pub const TCP_HEADER: usize = 20;
/// Length of a UDP header (RFC 768).
pub const UDP_HEADER: usize = 8;

/// The bits of the IPv4 flags and fragment offset field that are the offset (RFC 791).
const IPV4_FRAGMENT_OFFSET: u16 = 0x1fff;

/// Values of the `EtherType` field (IANA, "IEEE 802 Numbers").
mod ethertype {
    pub(super) const IPV4: u16 = 0x0800;
    pub(super) const IPV6: u16 = 0x86dd;
    pub(super) const VLAN: u16 = 0x8100;
    pub(super) const PROVIDER_VLAN: u16 = 0x88a8;
}

/// Values of the IPv4 protocol and IPv6 next header fields (IANA, "Protocol Numbers").
mod protocol {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const TCP: u8 = 6;
    pub(super) const UDP: u8 = 17;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION: u8 = 60;
    pub(super) const MOBILITY: u8 = 135;
    pub(super) const HOST_IDENTITY: u8 = 139;
    pub(super) const SHIM6: u8 = 140;
}

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// IPv4, RFC 791.
    Ipv4,
    /// IPv6, RFC 8200.
    Ipv6,
}

/// An IPv6 address, or an IPv4 address mapped into one (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2).
pub type Address = [u8; 16];

/// What the headers of a packet say, as far as they could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Version of the outermost IP header.
    pub network: Network,
    /// Offset of the outermost IP header in the frame, in bytes.
    pub network_offset: usize,
    /// The protocol that the ports are of; `None` for IP traffic without ports, ICMP for one.
    pub transport: Option<Transport>,
    /// The sender's port, or 0.
    pub source_port: u16,
    /// The receiver's port, or 0.
    pub destination_port: u16,
    /// Bytes from the start of the frame to the transport's payload: what each segment of a super-packet repeats.
    pub headers: usize,
}

impl Packet {
    /// A packet of which nothing was read yet.
    pub const UNREAD: Self = Self {
        network: Network::Ipv4,
        network_offset: 0,
        transport: None,
        source_port: 0,
        destination_port: 0,
        headers: 0,
    };

    /// Reads the headers of `frame`, which begins with an Ethernet header.
    ///
    /// # Errors
    /// The [`Reason`] why the packet can be counted for no API; the fields then hold what was read before.
    #[inline(always)]
    pub fn read<F: Frame + ?Sized>(&mut self, frame: &F) -> Result<(), Reason> {
        self.read_ethernet(frame)
    }

    /// The sender's address.
    ///
    /// `frame` is the one that this packet was read from; `None` if it is another, shorter one.
    #[inline(always)]
    pub fn source_address<F: Frame + ?Sized>(&self, frame: &F) -> Option<Address> {
        match self.network {
            Network::Ipv4 => frame.read(self.network_offset + 12).map(map_ipv4),
            Network::Ipv6 => frame.read(self.network_offset + 8),
        }
    }

    /// The receiver's address; otherwise as [`Packet::source_address`].
    #[inline(always)]
    pub fn destination_address<F: Frame + ?Sized>(&self, frame: &F) -> Option<Address> {
        match self.network {
            Network::Ipv4 => frame.read(self.network_offset + 16).map(map_ipv4),
            Network::Ipv6 => frame.read(self.network_offset + 24),
        }
    }

    #[inline(always)]
    fn read_ethernet<F: Frame + ?Sized>(&mut self, frame: &F) -> Result<(), Reason> {
        let ethertype = frame.read(ETHERNET_HEADER - 2).ok_or(Reason::EthernetTruncated)?;
        self.network_offset = ETHERNET_HEADER;
        match u16::from_be_bytes(ethertype) {
            ethertype::IPV4 => self.read_ipv4(frame),
            ethertype::IPV6 => self.read_ipv6(frame),
            ethertype::VLAN | ethertype::PROVIDER_VLAN => Err(Reason::Vlan),
            _ => Err(Reason::NotIp),
        }
    }

    #[inline(always)]
    fn read_ipv4<F: Frame + ?Sized>(&mut self, frame: &F) -> Result<(), Reason> {
        let header: [u8; IPV4_HEADER] = frame.read(self.network_offset).ok_or(Reason::Ipv4Truncated)?;
        let [first, _, total_0, total_1, _, _, fragment_0, fragment_1, _, protocol, ..] = header;

        let header = usize::from(first & 0x0f) * 4;
        if first >> 4 != 4 || header < IPV4_HEADER {
            return Err(Reason::Ipv4Malformed);
        }
        let in_frame = frame.length().saturating_sub(self.network_offset);
        if header > in_frame {
            return Err(Reason::Ipv4Truncated);
        }
        // A super-packet above 64 KiB states 0 (BIG TCP, `iph_totlen` in `include/linux/ip.h`).
        let length = match usize::from(u16::from_be_bytes([total_0, total_1])) {
            0 => in_frame,
            stated if stated < header => return Err(Reason::Ipv4Malformed),
            stated => stated.min(in_frame),
        };
        self.network = Network::Ipv4;
        self.headers = self.network_offset + header;
        if u16::from_be_bytes([fragment_0, fragment_1]) & IPV4_FRAGMENT_OFFSET != 0 {
            return Err(Reason::Fragment);
        }
        self.read_transport(frame, protocol, length - header)
    }

    #[inline(always)]
    fn read_ipv6<F: Frame + ?Sized>(&mut self, frame: &F) -> Result<(), Reason> {
        let header: [u8; IPV6_HEADER] = frame.read(self.network_offset).ok_or(Reason::Ipv6Truncated)?;
        let [first, _, _, _, payload_0, payload_1, next_header, ..] = header;

        if first >> 4 != 6 {
            return Err(Reason::Ipv6Malformed);
        }
        self.network = Network::Ipv6;
        self.headers = self.network_offset + IPV6_HEADER;
        let in_frame = frame.length().saturating_sub(self.headers);
        // A jumbogram and a super-packet above 64 KiB state 0 (RFC 2675; BIG TCP).
        let length = match usize::from(u16::from_be_bytes([payload_0, payload_1])) {
            0 => in_frame,
            stated => stated.min(in_frame),
        };
        match next_header {
            protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::AUTHENTICATION
            | protocol::DESTINATION
            | protocol::MOBILITY
            | protocol::HOST_IDENTITY
            | protocol::SHIM6 => Err(Reason::Ipv6Extension),
            _ => self.read_transport(frame, next_header, length),
        }
    }

    /// Reads the transport header at `self.headers`; the IP header promises `length` bytes of it and its payload.
    #[inline(always)]
    fn read_transport<F: Frame + ?Sized>(&mut self, frame: &F, protocol: u8, length: usize) -> Result<(), Reason> {
        match protocol {
            protocol::TCP => self.read_tcp(frame, length),
            protocol::UDP => self.read_udp(frame, length),
            _ => Ok(()),
        }
    }

    #[inline(always)]
    fn read_tcp<F: Frame + ?Sized>(&mut self, frame: &F, length: usize) -> Result<(), Reason> {
        if length < TCP_HEADER {
            return Err(Reason::TcpTruncated);
        }
        let header: [u8; TCP_HEADER] = frame.read(self.headers).ok_or(Reason::TcpTruncated)?;
        let [source_0, source_1, destination_0, destination_1, _, _, _, _, _, _, _, _, data_offset, ..] = header;
        let header = usize::from(data_offset >> 4) * 4;
        if header < TCP_HEADER || header > length {
            return Err(Reason::TcpMalformed);
        }
        self.transport = Some(Transport::Tcp);
        self.source_port = u16::from_be_bytes([source_0, source_1]);
        self.destination_port = u16::from_be_bytes([destination_0, destination_1]);
        self.headers += header;
        Ok(())
    }

    #[inline(always)]
    fn read_udp<F: Frame + ?Sized>(&mut self, frame: &F, length: usize) -> Result<(), Reason> {
        if length < UDP_HEADER {
            return Err(Reason::UdpTruncated);
        }
        let header: [u8; UDP_HEADER] = frame.read(self.headers).ok_or(Reason::UdpTruncated)?;
        let [source_0, source_1, destination_0, destination_1, ..] = header;
        self.transport = Some(Transport::Udp);
        self.source_port = u16::from_be_bytes([source_0, source_1]);
        self.destination_port = u16::from_be_bytes([destination_0, destination_1]);
        self.headers += UDP_HEADER;
        Ok(())
    }
}

/// Maps an IPv4 address into IPv6 (RFC 4291 section 2.5.5.2).
#[inline(always)]
#[must_use]
pub const fn map_ipv4([a, b, c, d]: [u8; 4]) -> Address {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}
