//! Thresholds, as the kernel side has them.

use super::AnomalyKind;

/// A set of protocols above IP, by their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct ProtocolSet([u64; 4]);

impl ProtocolSet {
    /// None.
    pub const EMPTY: Self = Self([0; 4]);

    /// Whether it has the protocol with this number.
    #[inline(always)]
    #[must_use]
    pub const fn contains(&self, number: u8) -> bool {
        self.bit(number) != 0
    }

    /// 1 if it has the protocol with this number, else 0.
    #[inline(always)]
    pub(super) const fn bit(&self, number: u8) -> u64 {
        self.0[(number >> 6) as usize & 3] >> (number & 63) & 1
    }

    /// Adds the protocol with this number.
    pub const fn insert(&mut self, number: u8) {
        self.0[(number >> 6) as usize] |= 1 << (number & 63);
    }
}

impl FromIterator<u8> for ProtocolSet {
    fn from_iter<I: IntoIterator<Item = u8>>(numbers: I) -> Self {
        let mut set = Self::default();
        numbers.into_iter().for_each(|number| set.insert(number));
        set
    }
}

/// What is an anomaly, for all of the kernel side. Userspace writes it, whenever it changes. All zeros find none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// Protocols above IP that are expected.
    pub expected: ProtocolSet,
    /// A bit for each [`AnomalyKind`] that is looked for, by its index.
    pub enabled: u64,
    /// `port_scan`: the window, in nanoseconds.
    pub scan_window: u64,
    /// So many ports that one source has tried are a scan.
    pub scan_ports: u64,
    /// So many local addresses at which one source has tried one port are a scan.
    pub scan_addresses: u64,
    /// `syn_flood`: the window, in nanoseconds.
    pub flood_window: u64,
    /// So many connections that were begun and are neither complete nor refused are a flood …
    pub flood_half_open: u64,
    /// … if no more of a hundred that were begun are complete than this.
    pub flood_completed: u64,
    /// `connection_churn`: the window, in nanoseconds.
    pub churn_window: u64,
    /// So many short connections of one source are churn.
    pub churn_connections: u64,
    /// What a short one lasts less than, in nanoseconds.
    pub churn_lifetime: u64,
    /// `icmp_flood`: the window, in nanoseconds.
    pub icmp_window: u64,
    /// So many messages of one source are a flood.
    pub icmp_from_one: u64,
    /// And so many of all sources together.
    pub icmp_from_all: u64,
}

#[cfg(feature = "user")]
// SAFETY: made of `u64` alone, no padding, every bit pattern is valid.
unsafe impl aya::Pod for Settings {}

const _: () = assert!(size_of::<Settings>() == 17 * 8 && AnomalyKind::COUNT <= 64);

impl Settings {
    /// Whether the kind with this number is looked for.
    #[inline(always)]
    #[must_use]
    pub const fn is_enabled(&self, kind: u8) -> bool {
        self.enabled >> (kind & 63) & 1 != 0
    }
}
