//! What was decided, and about whom.

use super::Verdict;
use crate::address::Address;

/// Packets that were judged, by [`Verdict`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GuardCounters {
    /// Packets on the wire.
    pub packets: [u64; Verdict::COUNT],
}

impl core::ops::AddAssign<&Self> for GuardCounters {
    fn add_assign(&mut self, other: &Self) {
        for (mine, theirs) in self.packets.iter_mut().zip(other.packets) {
            *mine += theirs;
        }
    }
}

/// What the guard has done to what passes an interface, before it was accounted; answers that it has sent in its stead too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct InterfaceGuardCounters {
    /// Packets that were received and let in.
    pub passed: u64,
    /// Packets that were received and dropped.
    pub dropped: u64,
    /// Packets that were received, dropped and answered.
    pub rejected: u64,
    /// Answers that were transmitted and passed no other program.
    pub answered: u64,
}

impl core::ops::AddAssign<&Self> for InterfaceGuardCounters {
    fn add_assign(&mut self, other: &Self) {
        let Self { passed, dropped, rejected, answered } = other;
        self.passed += passed;
        self.dropped += dropped;
        self.rejected += rejected;
        self.answered += answered;
    }
}

impl core::ops::Sub for InterfaceGuardCounters {
    type Output = Self;

    /// What was counted since `before`.
    fn sub(self, before: Self) -> Self {
        Self {
            passed: self.passed.saturating_sub(before.passed),
            dropped: self.dropped.saturating_sub(before.dropped),
            rejected: self.rejected.saturating_sub(before.rejected),
            answered: self.answered.saturating_sub(before.answered),
        }
    }
}

/// What was decided about one client's packets by one rule, in an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Hit {
    /// Who has sent them.
    pub client: Address,
    /// The place of rule and API among the pairs; 0 if there was no hit yet.
    pub pair: u16,
    /// A [`Verdict`], as its number.
    pub verdict: u8,
    /// Pads to 4 bytes.
    pub reserved: u8,
    /// The interval.
    pub interval: u32,
    /// Packets on the wire.
    pub packets: u64,
    /// Packets of others, who would have had the same place in the interval.
    pub others: u64,
}
