//! What the kernel tells of an anomaly, through its ring.

use crate::{api::ApiSlot, flow::FlowKey};

/// The most bytes of a packet that go with an anomaly: its headers, whatever they are, and what follows.
pub const EVIDENCE_BYTES: usize = 128;

/// How many anomalies of a kind each CPU tells of in [`TOLD_WINDOW`], at most: the rest is counted alone, so that a flood costs
/// nobody's time but the sender's.
pub const MOST_TOLD: u64 = 8;
/// See [`MOST_TOLD`]; in nanoseconds.
pub const TOLD_WINDOW: u64 = 1_000_000_000;

/// What is known of an anomaly beside its numbers.
pub mod told_flag {
    /// The addresses in its key are those of a packet; else nothing of it is known.
    pub const ENDS: u8 = 1;
    /// The remote end is one of many: nobody in particular.
    pub const MANY: u8 = 2;
}

/// An anomaly. As many bytes of the packet, from its IP header on, as there are follow in the ring.
///
/// What the numbers are depends on the kind:
///
/// | kind | numbers |
/// |---|---|
/// | `bad_tcp_flags` | the flags |
/// | `malformed` | the [`Reason`](crate::reason::Reason), as its number |
/// | `tiny_fragment`, `overlapping_fragment` | offset and length in bytes |
/// | `unexpected_protocol` | the protocol's number |
/// | `port_scan` | ports, or addresses; milliseconds; [`scan`](super::source::scan) |
/// | `syn_flood` | connections that were begun, were completed, were refused |
/// | `connection_churn` | connections |
/// | `icmp_flood` | messages; 1 if they are of all sources |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ToldAnomaly {
    /// The ends of the packet that was the last straw.
    pub key: FlowKey,
    /// The API that it was meant for.
    pub api: ApiSlot,
    /// The [`AnomalyKind`](super::AnomalyKind), as its number.
    pub kind: u8,
    /// See [`told_flag`].
    pub flags: u8,
    /// See above.
    pub numbers: [u32; 4],
    /// How many bytes follow.
    pub length: u32,
    /// Pads to 8 bytes.
    pub reserved: u32,
}

#[cfg(feature = "user")]
// SAFETY: integers without padding between them, every bit pattern is valid.
unsafe impl aya::Pod for ToldAnomaly {}

const _: () = assert!(size_of::<ToldAnomaly>() == 72);

/// How much was told of a kind of late, by one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Allowance {
    since: u64,
    told: u64,
}

impl Allowance {
    /// Whether one more may be told at `now`.
    #[inline(always)]
    pub const fn take(&mut self, now: u64) -> bool {
        if now.saturating_sub(self.since) >= TOLD_WINDOW {
            self.since = now;
            self.told = 0;
        }
        if self.told >= MOST_TOLD {
            return false;
        }
        self.told += 1;
        true
    }
}
