//! Why a packet was counted for an interface but for no API.

use crate::numbered::numbered;

numbered! {
    /// Why a packet was counted for an interface but for no API.
    ///
    /// Every packet that a program sees is counted for one API (`unmapped` among them) or under one of these.
    Reason {
        /// The `EtherType` is neither IPv4 nor IPv6: ARP, LLDP, IEEE 802.3 lengths and all the others.
        NotIp = "not_ip",
        /// The frame holds more IEEE 802.1Q or 802.1ad tags than are read.
        Vlan = "vlan",
        /// The frame ends within its Ethernet header.
        EthernetTruncated = "ethernet_truncated",
        /// The frame ends within its IPv4 header.
        Ipv4Truncated = "ipv4_truncated",
        /// The IPv4 version is not 4, the header length is below 20 bytes, or the total length is below the header's.
        Ipv4Malformed = "ipv4_malformed",
        /// The frame ends within its IPv6 header or an extension header.
        Ipv6Truncated = "ipv6_truncated",
        /// The IPv6 version is not 6.
        Ipv6Malformed = "ipv6_malformed",
        /// More IPv6 extension headers stand before the transport header than are read.
        Ipv6Extension = "ipv6_extension",
        /// A fragment after the first: it carries no ports.
        Fragment = "fragment",
        /// The packet ends within its TCP header.
        TcpTruncated = "tcp_truncated",
        /// The TCP data offset is below 20 bytes or beyond the packet's end.
        TcpMalformed = "tcp_malformed",
        /// The packet ends within its UDP header.
        UdpTruncated = "udp_truncated",
        /// The packet ends within the common header of SCTP.
        SctpTruncated = "sctp_truncated",
        /// On the loopback interface each packet is seen leaving and arriving; this is the end that is not the API's own
        /// view, and the other end was counted.
        Mirror = "mirror",
        /// A map lookup that cannot fail did fail.
        Internal = "internal",
    }
}
