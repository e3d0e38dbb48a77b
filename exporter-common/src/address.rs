//! Addresses, of both versions of IP in one.

use core::net::{IpAddr, Ipv6Addr};

/// An IPv6 address, or an IPv4 address mapped into one (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2).
///
/// In words, each as it lies in a packet: BPF handles those four at a time, and bytes one by one. (So their order is one,
/// but not that of the numbers.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Address([u32; 4]);

impl Address {
    /// The address with these bytes, in the order of the network.
    #[inline(always)]
    #[must_use]
    pub const fn v6(octets: [u8; 16]) -> Self {
        let ([a, b, c, d], _) = octets.as_chunks() else { return Self([0; 4]) };
        Self([u32::from_ne_bytes(*a), u32::from_ne_bytes(*b), u32::from_ne_bytes(*c), u32::from_ne_bytes(*d)])
    }

    /// The address with these bytes, in the order of the network, mapped into IPv6.
    #[inline(always)]
    #[must_use]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self([0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), u32::from_ne_bytes(octets)])
    }

    /// All of it in one number, of which the lowest bits differ between neighbours.
    #[inline(always)]
    #[must_use]
    pub const fn fold(self) -> u32 {
        let [a, b, c, d] = self.0;
        u32::from_be(a ^ b ^ c ^ d)
    }

    /// Whether one host in particular has it: it is neither that of a group (RFC 5771, RFC 4291 section 2.7) nor that of all
    /// hosts of a link.
    #[inline(always)]
    #[must_use]
    pub const fn is_unicast(self) -> bool {
        let [a, b, c, d] = self.0;
        let is_v4 = a == 0 && b == 0 && c == u32::from_ne_bytes([0, 0, 0xff, 0xff]);
        // The first byte: of IPv4 those from 224 on are groups, or of nobody.
        if is_v4 { u32::from_be(d) >> 24 < 224 } else { u32::from_be(a) >> 24 != 0xff }
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::v4(address.octets()),
            IpAddr::V6(address) => Self::v6(address.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    /// An IPv4 address if it is one that was mapped.
    fn from(Address([a, b, c, d]): Address) -> Self {
        let mut octets = [0; 16];
        for (place, word) in octets.chunks_exact_mut(4).zip([a, b, c, d]) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        Ipv6Addr::from(octets).to_canonical()
    }
}
