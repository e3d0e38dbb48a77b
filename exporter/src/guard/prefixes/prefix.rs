//! Prefixes, of both versions of IP in one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use tidewaiter_common::{
    address::Address,
    prefix::{LEVELS_V4, LEVELS_V6},
};

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(super) const fn is_v4(self) -> bool {
        matches!(self, Self::V4)
    }

    /// Longer than this no filter needs to be: those who share so many bits are one site.
    pub(super) const fn longest_filter(self) -> u8 {
        if self.is_v4() { 24 } else { 64 }
    }

    /// The height of the tree of its lengths.
    pub(super) const fn levels(self) -> u32 {
        if self.is_v4() { LEVELS_V4 } else { LEVELS_V6 }
    }

    /// The address with these bits, the first of which are its own, as the kernel has it.
    pub(super) fn halves(self, bits: u128) -> [u64; 2] {
        let address = match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::from_bits((bits >> 96) as u32)),
            Self::V6 => IpAddr::V6(Ipv6Addr::from_bits(bits)),
        };
        Address::from(address).halves()
    }

    pub(super) fn mask(self, length: u8) -> [u64; 2] {
        // Of an IPv4 address, what comes before it is not looked at.
        self.halves(mask(length))
    }
}

/// The bits that all addresses of a prefix of `length` have in common.
const fn mask(length: u8) -> u128 {
    match 128_u32.checked_sub(length as u32) {
        Some(rest) if rest < 128 => u128::MAX << rest,
        _ => 0,
    }
}

/// A prefix of either version of IP. In order, each comes before those that it contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Prefix {
    /// Its bits, the first one highest.
    pub(super) bits: u128,
    /// How many of them count.
    pub(super) length: u8,
}

impl Prefix {
    /// An IPv6 prefix of IPv4 addresses (RFC 4291 section 2.5.5.2) is one of IPv4.
    pub(super) fn new(network: IpNet) -> (Family, Self) {
        let (family, bits, length) = match network {
            IpNet::V4(network) => (Family::V4, u128::from(network.addr().to_bits()) << 96, network.prefix_len()),
            IpNet::V6(network) => match (network.addr().to_ipv4_mapped(), network.prefix_len().checked_sub(96)) {
                (Some(address), Some(length)) => (Family::V4, u128::from(address.to_bits()) << 96, length),
                _ => (Family::V6, network.addr().to_bits(), network.prefix_len()),
            },
        };
        (family, Self { bits, length }.cut(length))
    }

    pub(super) const fn cut(self, length: u8) -> Self {
        Self { bits: self.bits & mask(length), length }
    }

    pub(super) const fn contains(&self, other: &Self) -> bool {
        self.length <= other.length && other.bits & mask(self.length) == self.bits
    }
}
