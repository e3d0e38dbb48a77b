//! Packets and bytes, counted together.

use crate::wire::Wire;

/// Packets and bytes on the wire, counted together.
///
/// In the kernel each CPU has its own and is the only one to write it, so plain additions lose nothing; userspace adds
/// the CPUs up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// Wire packets: a super-packet counts as its segments.
    pub packets: u64,
    /// Wire bytes: whole frames, without the frame check sequence.
    pub bytes: u64,
}

#[cfg(feature = "user")]
// SAFETY: two `u64`, no padding, every bit pattern is valid.
unsafe impl aya::Pod for Counters {}

const _: () = assert!(size_of::<Counters>() == 16 && align_of::<Counters>() == 8);

impl Counters {
    /// Adds what one socket buffer was on the wire.
    #[inline(always)]
    pub fn count(&mut self, wire: Wire) {
        self.packets += wire.packets;
        self.bytes += wire.bytes;
    }
}

impl From<Wire> for Counters {
    #[inline(always)]
    fn from(Wire { packets, bytes }: Wire) -> Self {
        Self { packets, bytes }
    }
}

impl core::ops::AddAssign for Counters {
    #[inline(always)]
    fn add_assign(&mut self, other: Self) {
        let Self { packets, bytes } = other;
        self.packets += packets;
        self.bytes += bytes;
    }
}

impl core::ops::Sub for Counters {
    type Output = Self;

    /// What was counted since `before`.
    fn sub(self, before: Self) -> Self {
        Self { packets: self.packets.saturating_sub(before.packets), bytes: self.bytes.saturating_sub(before.bytes) }
    }
}

impl core::iter::Sum for Counters {
    fn sum<I: Iterator<Item = Self>>(counters: I) -> Self {
        counters.fold(Self::default(), |mut total, one| {
            total += one;
            total
        })
    }
}
