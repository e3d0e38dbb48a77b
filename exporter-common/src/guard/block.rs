//! Who is blocked.

use crate::address::Address;

/// A key of the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C, align(8))]
pub struct BlockKey {
    /// What is blocked: an address of which all bits behind the length are 0.
    pub address: Address,
    /// The length: of an IPv4 address as such, though it is mapped.
    pub length: u32,
    /// Pads to 8 bytes.
    pub reserved: u32,
}

impl BlockKey {
    /// Whoever begins as `address` does, for so long.
    #[inline(always)]
    #[must_use]
    pub const fn of(address: Address, length: &BlockedLength) -> Self {
        Self { address: address.and(&length.mask), length: length.length, reserved: 0 }
    }
}

/// A length of prefixes that are blocked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct BlockedLength {
    /// The bits of an address that count.
    pub mask: Address,
    /// The length: see [`BlockKey::length`].
    pub length: u32,
    /// Pads to 8 bytes.
    pub reserved: u32,
}

impl BlockedLength {
    /// The first `length` bits of an IPv4 address, or of an IPv6 address.
    #[must_use]
    pub const fn new(length: u8, is_v4: bool) -> Self {
        let mask = Address::mask(if is_v4 { 96 + length as u32 } else { length as u32 });
        Self { mask, length: length as u32, reserved: 0 }
    }
}
