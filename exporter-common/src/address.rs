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

    /// Whether it is an IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(self) -> bool {
        let Self([a, b, c, _]) = self;
        a | b == 0 && c == u32::from_ne_bytes([0, 0, 0xff, 0xff])
    }

    /// Its first and its last eight bytes, each in one word: the earlier four of them in the lower half. (As above, that is
    /// an order, but not that of the numbers.) Of an IPv4 address only the upper half of the second tells anything.
    #[inline(always)]
    #[must_use]
    pub const fn halves(self) -> [u64; 2] {
        let Self([a, b, c, d]) = self;
        [a as u64 | (b as u64) << 32, c as u64 | (d as u64) << 32]
    }

    /// Writes it to `place`, in two pieces: what is written as four words and read as two makes a CPU wait.
    ///
    /// # Safety
    /// `place` may be written to, and is aligned to 8 bytes.
    #[inline(always)]
    #[expect(clippy::cast_ptr_alignment, reason = "the caller's")]
    pub unsafe fn write_to(self, place: *mut Self) {
        let [first, last] = self.halves();
        // SAFETY: the caller's; an address has 16 bytes.
        unsafe {
            place.cast::<u64>().write_volatile(first.to_le());
            place.cast::<u64>().add(1).write_volatile(last.to_le());
        }
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
        let [a, _, _, d] = self.0;
        // The first byte: of IPv4 those from 224 on are groups, or of nobody.
        if self.is_v4() { u32::from_be(d) >> 24 < 224 } else { u32::from_be(a) >> 24 != 0xff }
    }

    /// The bits that both have.
    #[inline(always)]
    #[must_use]
    pub const fn and(&self, other: &Self) -> Self {
        let (mine, theirs) = (&self.0, &other.0);
        Self([mine[0] & theirs[0], mine[1] & theirs[1], mine[2] & theirs[2], mine[3] & theirs[3]])
    }

    /// The first `length` bits, for [`Address::and`]; an IPv4 address has 96 before its own.
    #[must_use]
    pub const fn mask(length: u32) -> Self {
        Self([word_mask(length, 0), word_mask(length, 32), word_mask(length, 64), word_mask(length, 96)])
    }
}

/// The bits of a word of an address, `before` which others stand, that are among the first `length`.
const fn word_mask(length: u32, before: u32) -> u32 {
    let bits = length.saturating_sub(before);
    if bits >= 32 { u32::MAX } else { (!(u32::MAX >> bits)).to_be() }
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
