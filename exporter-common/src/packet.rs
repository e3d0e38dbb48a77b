//! Reading the headers of one packet, as far as its ports.
//!
//! Each function reads one header and hands on to the next. All keep one contract: whatever the bytes are, nothing is
//! read outside the frame, lengths that the packet states are believed only as far as the frame goes, and the answer is
//! either `Ok` or the [`Reason`] why the packet can be counted for no API.
//!
//! What was read goes into a [`Packet`] that was whole before, instead of into the `Ok`: the compiler would carry the
//! fields of an absent packet as undefined values from one branch to another, and the verifier refuses to.
//!
//! There are two ways in: [`Packet::read_plain`] reads the shapes that nearly all packets have, and [`Packet::read`] all of
//! them. What the first can read, both read alike.

use crate::{
    address::Address,
    frame::{Frame, Framing},
    reason::Reason,
    transport::Transport,
};

/// Length of an Ethernet header without tags (IEEE 802.3).
pub const ETHERNET_HEADER: usize = 14;
/// Length of an IEEE 802.1Q or 802.1ad tag.
pub const VLAN_TAG: usize = 4;
/// Length of an IPv4 header without options (RFC 791).
pub const IPV4_HEADER: usize = 20;
/// Length of an IPv6 header without extension headers (RFC 8200).
pub const IPV6_HEADER: usize = 40;
/// Length of a TCP header without options (RFC 9293).
pub const TCP_HEADER: usize = 20;
/// Length of a UDP header (RFC 768).
pub const UDP_HEADER: usize = 8;
/// Length of the common header of SCTP (RFC 9260).
pub const SCTP_HEADER: usize = 12;

/// The most tags in a frame that are read: those of `QinQ`, and as many again.
pub const MAX_VLAN_TAGS: usize = 4;
/// The most IPv6 extension headers that are read: RFC 8200 section 4.1 names seven, and one of them may come twice.
pub const MAX_EXTENSION_HEADERS: usize = 8;

/// The bits of the IPv4 flags and fragment offset field that are the offset (RFC 791).
const IPV4_FRAGMENT_OFFSET: u16 = 0x1fff;
/// The bit of it that says that more fragments follow.
const IPV4_MORE_FRAGMENTS: u16 = 0x2000;
/// The same of the IPv6 fragment header (RFC 8200 section 4.5).
const IPV6_FRAGMENT_OFFSET: u16 = 0xfff8;
const IPV6_MORE_FRAGMENTS: u16 = 1;

/// Values of the `EtherType` field (IANA, "IEEE 802 Numbers").
pub(crate) mod ethertype {
    pub(crate) const IPV4: u16 = 0x0800;
    pub(crate) const IPV6: u16 = 0x86dd;
    pub(crate) const VLAN: u16 = 0x8100;
    pub(crate) const PROVIDER_VLAN: u16 = 0x88a8;
    /// `QinQ` as it was before IEEE 802.1ad gave it a number.
    pub(crate) const OLD_QINQ: u16 = 0x9100;
    /// Ethernet within something else (`ETH_P_TEB`, `include/uapi/linux/if_ether.h`).
    pub(crate) const ETHERNET: u16 = 0x6558;
}

/// Values of the IPv4 protocol and IPv6 next header fields (IANA, "Protocol Numbers").
pub mod protocol {
    /// IPv6 hop-by-hop options, RFC 8200.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP, RFC 792.
    pub const ICMP: u8 = 1;
    /// IPv4 within IP, RFC 2003.
    pub const IPV4: u8 = 4;
    /// TCP, RFC 9293.
    pub const TCP: u8 = 6;
    /// UDP, RFC 768.
    pub const UDP: u8 = 17;
    /// IPv6 within IP, RFC 2473.
    pub const IPV6: u8 = 41;
    /// IPv6 routing header, RFC 8200.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header, RFC 8200.
    pub const FRAGMENT: u8 = 44;
    /// GRE, RFC 2784.
    pub const GRE: u8 = 47;
    /// Authentication header, RFC 4302.
    pub const AUTHENTICATION: u8 = 51;
    /// `ICMPv6`, RFC 4443.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options, RFC 8200.
    pub const DESTINATION: u8 = 60;
    /// SCTP, RFC 9260.
    pub const SCTP: u8 = 132;
    /// IPv6 mobility header, RFC 6275.
    pub const MOBILITY: u8 = 135;
    /// Host identity protocol, RFC 7401.
    pub const HOST_IDENTITY: u8 = 139;
    /// Shim6, RFC 5533.
    pub const SHIM6: u8 = 140;
}

/// Bits of a TCP header's flags (RFC 9293 section 3.1).
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Hand the data on at once.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
    /// Congestion was met, RFC 3168.
    pub const ECE: u8 = 0x40;
    /// The sender has slowed down, RFC 3168.
    pub const CWR: u8 = 0x80;
}

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// IPv4, RFC 791.
    Ipv4,
    /// IPv6, RFC 8200.
    Ipv6,
}

/// Which part of a datagram a packet is.
///
/// One that came whole is no part, and neither is one of IPv6 that has a fragment header all the same (RFC 6946).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Where it begins in the datagram, in bytes; a multiple of 8.
    pub offset: u16,
    /// Whether more of the datagram follows.
    pub more: bool,
    /// What the parts of a datagram have in common, and no other datagram of the same ends has at the same time.
    pub identification: u32,
    /// Bytes of the datagram that it carries.
    pub length: u32,
}

impl Fragment {
    /// All of a datagram.
    pub const WHOLE: Self = Self { offset: 0, more: false, identification: 0, length: 0 };

    /// Whether there are other parts.
    #[inline(always)]
    #[must_use]
    pub const fn is_part(&self) -> bool {
        self.offset != 0 || self.more
    }
}

/// What the headers of a packet say, as far as they could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Version of the outermost IP header.
    pub network: Network,
    /// Offset of the outermost IP header in the frame, in bytes.
    pub network_offset: usize,
    /// The protocol above IP and its extension headers; see [`protocol`].
    pub protocol: u8,
    /// The same if it has ports; `None` for IP traffic without, ICMP for one.
    pub transport: Option<Transport>,
    /// The sender's port, or 0.
    pub source_port: u16,
    /// The receiver's port, or 0.
    pub destination_port: u16,
    /// The flags of a TCP header, see [`tcp_flag`]; 0 for any other packet.
    pub tcp_flags: u8,
    /// The sequence number of a TCP header: of its flag SYN, or of the first byte of its payload; 0 for any other packet.
    pub sequence: u32,
    /// The acknowledgement number of a TCP header: the sequence number that its sender expects next; 0 for any other packet.
    pub acknowledgement: u32,
    /// Bytes of the transport's payload that the headers promise, of TCP and UDP alone.
    pub payload: u32,
    /// Bytes from the start of the frame to the transport's payload: what each segment of a super-packet repeats.
    pub headers: usize,
    /// Which part of a datagram it is.
    pub fragment: Fragment,
}

impl Packet {
    /// A packet of which nothing was read yet.
    pub const UNREAD: Self = Self {
        network: Network::Ipv4,
        network_offset: 0,
        protocol: 0,
        transport: None,
        source_port: 0,
        destination_port: 0,
        tcp_flags: 0,
        sequence: 0,
        acknowledgement: 0,
        payload: 0,
        headers: 0,
        fragment: Fragment::WHOLE,
    };

    /// Reads the headers of `frame` if they have the shape that nearly all have: no tags in the frame, no IPv6 extension
    /// headers, no fragment, nothing cut off or malformed. Says whether that is so; if not, [`Packet::read`] has to
    /// begin anew.
    #[inline(always)]
    pub fn read_plain<F: Frame + ?Sized>(&mut self, frame: &F, framing: Framing) -> bool {
        let Ok(ethertype) = self.read_link(frame, framing) else { return false };
        match ethertype {
            ethertype::IPV4 => self.read_ipv4::<_, true>(frame).is_ok(),
            ethertype::IPV6 => match self.read_ipv6(frame) {
                Ok((next_header, length)) if !is_extension(next_header) => {
                    self.read_transport(frame, next_header, length).is_ok()
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// Reads the headers of `frame`.
    ///
    /// # Errors
    /// The [`Reason`] why the packet can be counted for no API; the fields then hold what was read before.
    #[inline(always)]
    pub fn read<F: Frame + ?Sized>(&mut self, frame: &F, framing: Framing) -> Result<(), Reason> {
        let mut ethertype = self.read_link(frame, framing)?;
        for _ in 0..MAX_VLAN_TAGS {
            if !is_tag(ethertype) {
                break;
            }
            // A tag is its EtherType, two bytes of its own, and the EtherType of what follows.
            ethertype = read_u16(frame, self.network_offset + 2).ok_or(Reason::EthernetTruncated)?;
            self.network_offset += VLAN_TAG;
        }
        match ethertype {
            ethertype::IPV4 => self.read_ipv4::<_, false>(frame),
            ethertype::IPV6 => {
                let (next_header, length) = self.read_ipv6(frame)?;
                let (protocol, length) = self.read_extensions(frame, next_header, length)?;
                self.read_transport(frame, protocol, length)
            }
            tag if is_tag(tag) => Err(Reason::Vlan),
            _ => Err(Reason::NotIp),
        }
    }

    /// The sender's address.
    ///
    /// `frame` is the one that this packet was read from; `None` if it is another, shorter one.
    #[inline(always)]
    pub fn source_address<F: Frame + ?Sized>(&self, frame: &F) -> Option<Address> {
        match self.network {
            Network::Ipv4 => frame.read(self.network_offset + 12).map(Address::v4),
            Network::Ipv6 => frame.read(self.network_offset + 8).map(Address::v6),
        }
    }

    /// The receiver's address; otherwise as [`Packet::source_address`].
    #[inline(always)]
    pub fn destination_address<F: Frame + ?Sized>(&self, frame: &F) -> Option<Address> {
        match self.network {
            Network::Ipv4 => frame.read(self.network_offset + 16).map(Address::v4),
            Network::Ipv6 => frame.read(self.network_offset + 24).map(Address::v6),
        }
    }

    /// Reads what stands before the network layer: leaves `network_offset` behind the first `EtherType`, and answers
    /// with that.
    #[inline(always)]
    fn read_link<F: Frame + ?Sized>(&mut self, frame: &F, framing: Framing) -> Result<u16, Reason> {
        match framing {
            Framing::Ethernet => {
                self.network_offset = ETHERNET_HEADER;
                read_u16(frame, ETHERNET_HEADER - 2).ok_or(Reason::EthernetTruncated)
            }
            // Nothing but the packet's first bits says what it is.
            Framing::Ip => {
                self.network_offset = 0;
                // (Two bytes: of one, the compiler makes a comparison of addresses that the verifier does not follow.)
                let [first, _] = frame.read(0).ok_or(Reason::NotIp)?;
                Ok(match first >> 4 {
                    4 => ethertype::IPV4,
                    6 => ethertype::IPV6,
                    _ => 0,
                })
            }
        }
    }

    /// Reads an IPv4 header, and what it carries; nothing of a fragment if only `PLAIN` packets are asked for.
    #[inline(always)]
    fn read_ipv4<F: Frame + ?Sized, const PLAIN: bool>(&mut self, frame: &F) -> Result<(), Reason> {
        self.network = Network::Ipv4;
        let header: [u8; IPV4_HEADER] = frame.read(self.network_offset).ok_or(Reason::Ipv4Truncated)?;
        let [first, _, total_0, total_1, id_0, id_1, fragment_0, fragment_1, _, protocol, ..] = header;

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
        self.headers = self.network_offset + header;
        let fragment = u16::from_be_bytes([fragment_0, fragment_1]);
        if fragment & (IPV4_FRAGMENT_OFFSET | IPV4_MORE_FRAGMENTS) != 0 {
            if PLAIN {
                return Err(Reason::Fragment);
            }
            self.fragment = Fragment {
                offset: (fragment & IPV4_FRAGMENT_OFFSET) << 3,
                more: fragment & IPV4_MORE_FRAGMENTS != 0,
                identification: u16::from_be_bytes([id_0, id_1]).into(),
                length: (length - header) as u32,
            };
            if fragment & IPV4_FRAGMENT_OFFSET != 0 {
                self.protocol = protocol;
                return Err(Reason::Fragment);
            }
        }
        self.read_transport(frame, protocol, length - header)
    }

    /// Reads the fixed IPv6 header; answers with what comes next, and how many bytes of it there are.
    #[inline(always)]
    pub(crate) fn read_ipv6<F: Frame + ?Sized>(&mut self, frame: &F) -> Result<(u8, usize), Reason> {
        self.network = Network::Ipv6;
        let header: [u8; IPV6_HEADER] = frame.read(self.network_offset).ok_or(Reason::Ipv6Truncated)?;
        let [first, _, _, _, payload_0, payload_1, next_header, ..] = header;

        if first >> 4 != 6 {
            return Err(Reason::Ipv6Malformed);
        }
        self.headers = self.network_offset + IPV6_HEADER;
        let in_frame = frame.length().saturating_sub(self.headers);
        // A jumbogram and a super-packet above 64 KiB state 0 (RFC 2675; BIG TCP).
        let length = match usize::from(u16::from_be_bytes([payload_0, payload_1])) {
            0 => in_frame,
            stated => stated.min(in_frame),
        };
        Ok((next_header, length))
    }

    /// Reads the IPv6 extension headers of which `next_header` is the first; answers with what follows the last of them,
    /// and how many bytes of it there are.
    #[inline(always)]
    pub(crate) fn read_extensions<F: Frame + ?Sized>(
        &mut self,
        frame: &F,
        mut next_header: u8,
        mut length: usize,
    ) -> Result<(u8, usize), Reason> {
        for _ in 0..MAX_EXTENSION_HEADERS {
            if !is_extension(next_header) {
                return Ok((next_header, length));
            }
            let [next, stated, offset_0, offset_1] = frame.read(self.headers).ok_or(Reason::Ipv6Truncated)?;
            let header = match next_header {
                protocol::FRAGMENT => 8,
                // In units of 4 bytes less 2 (RFC 4302), all others in units of 8 less 1 (RFC 8200).
                protocol::AUTHENTICATION => (usize::from(stated) + 2) * 4,
                _ => (usize::from(stated) + 1) * 8,
            };
            if header > length {
                return Err(Reason::Ipv6Truncated);
            }
            let field = u16::from_be_bytes([offset_0, offset_1]);
            let is_part = field & (IPV6_FRAGMENT_OFFSET | IPV6_MORE_FRAGMENTS) != 0;
            if next_header == protocol::FRAGMENT && is_part {
                let identification = frame.read(self.headers + 4).ok_or(Reason::Ipv6Truncated)?;
                self.fragment = Fragment {
                    offset: field & IPV6_FRAGMENT_OFFSET,
                    more: field & IPV6_MORE_FRAGMENTS != 0,
                    identification: u32::from_be_bytes(identification),
                    length: (length - header) as u32,
                };
                if field & IPV6_FRAGMENT_OFFSET != 0 {
                    self.protocol = next;
                    return Err(Reason::Fragment);
                }
            }
            self.headers += header;
            length -= header;
            next_header = next;
        }
        if is_extension(next_header) { Err(Reason::Ipv6Extension) } else { Ok((next_header, length)) }
    }

    /// Reads the transport header at `self.headers`; the IP header promises `length` bytes of it and its payload.
    #[inline(always)]
    fn read_transport<F: Frame + ?Sized>(&mut self, frame: &F, protocol: u8, length: usize) -> Result<(), Reason> {
        self.protocol = protocol;
        match protocol {
            protocol::TCP => self.read_tcp(frame, length),
            protocol::UDP => self.read_ports(frame, length, Transport::Udp, UDP_HEADER, Reason::UdpTruncated),
            protocol::SCTP => self.read_ports(frame, length, Transport::Sctp, SCTP_HEADER, Reason::SctpTruncated),
            _ => Ok(()),
        }
    }

    #[inline(always)]
    fn read_tcp<F: Frame + ?Sized>(&mut self, frame: &F, length: usize) -> Result<(), Reason> {
        if length < TCP_HEADER {
            return Err(Reason::TcpTruncated);
        }
        let header: [u8; TCP_HEADER] = frame.read(self.headers).ok_or(Reason::TcpTruncated)?;
        let [source_0, source_1, destination_0, destination_1, s0, s1, s2, s3, a0, a1, a2, a3, data_offset, flags, ..] =
            header;
        let header = usize::from(data_offset >> 4) * 4;
        if header < TCP_HEADER || header > length {
            // The rest of a header may be in the next fragment.
            let is_cut = header >= TCP_HEADER && self.fragment.more;
            return Err(if is_cut { Reason::TcpTruncated } else { Reason::TcpMalformed });
        }
        self.transport = Some(Transport::Tcp);
        self.source_port = u16::from_be_bytes([source_0, source_1]);
        self.destination_port = u16::from_be_bytes([destination_0, destination_1]);
        self.tcp_flags = flags;
        self.sequence = u32::from_be_bytes([s0, s1, s2, s3]);
        self.acknowledgement = u32::from_be_bytes([a0, a1, a2, a3]);
        self.payload = (length - header) as u32;
        self.headers += header;
        Ok(())
    }

    /// Reads a header of fixed length that begins with the ports.
    #[inline(always)]
    fn read_ports<F: Frame + ?Sized>(
        &mut self,
        frame: &F,
        length: usize,
        transport: Transport,
        header: usize,
        truncated: Reason,
    ) -> Result<(), Reason> {
        if length < header {
            return Err(truncated);
        }
        let [source_0, source_1, destination_0, destination_1] = frame.read(self.headers).ok_or(truncated)?;
        self.transport = Some(transport);
        self.source_port = u16::from_be_bytes([source_0, source_1]);
        self.destination_port = u16::from_be_bytes([destination_0, destination_1]);
        if transport == Transport::Udp {
            self.payload = (length - header) as u32;
        }
        self.headers += header;
        Ok(())
    }
}

/// Whether `ethertype` announces a tag.
const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, ethertype::VLAN | ethertype::PROVIDER_VLAN | ethertype::OLD_QINQ)
}

/// Whether `next_header` is an IPv6 extension header that something may follow.
#[inline(always)]
const fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::AUTHENTICATION
            | protocol::DESTINATION
            | protocol::MOBILITY
            | protocol::HOST_IDENTITY
            | protocol::SHIM6
    )
}

/// The number at `offset`, in network byte order.
#[inline(always)]
pub(crate) fn read_u16<F: Frame + ?Sized>(frame: &F, offset: usize) -> Option<u16> {
    frame.read(offset).map(u16::from_be_bytes)
}
