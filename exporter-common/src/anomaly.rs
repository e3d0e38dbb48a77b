//! What should not be: the kinds of anomalies that the kernel side and the daemon tell apart.
//!
//! * [`stateless`] finds what a single packet says of itself: both programs that see packets call it;
//! * [`fragments`] and [`source`] lay out what is remembered of datagrams in parts and of who sends, [`openings`] of the
//!   connections that an API is asked for, and judge that;
//! * [`settings`] lays out the thresholds, [`told`] what the kernel tells of an anomaly.

pub mod fragments;
pub mod openings;
pub mod settings;
pub mod source;
pub mod stateless;
pub mod told;

use crate::numbered::numbered;

numbered! {
    /// A kind of anomaly.
    AnomalyKind {
        /// A flow's payload is not what its API expects.
        UnexpectedPayload = "unexpected_payload",
        /// Flags of TCP that no stack sends together.
        BadTcpFlags = "bad_tcp_flags",
        /// A packet whose two ends are the same.
        Land = "land",
        /// Headers that contradict themselves or the packet's length.
        Malformed = "malformed",
        /// A first fragment that ends before its transport's header does, or one that would overwrite that.
        TinyFragment = "tiny_fragment",
        /// A fragment of which a part was there already.
        OverlappingFragment = "overlapping_fragment",
        /// A protocol above IP that nobody here speaks.
        UnexpectedProtocol = "unexpected_protocol",
        /// One source that tries many ports, or one port at many addresses.
        PortScan = "port_scan",
        /// Connections that are begun and not completed, in great number.
        SynFlood = "syn_flood",
        /// Connections of one client that come and go, in great number.
        ConnectionChurn = "connection_churn",
        /// Datagrams that are answered with far more than was asked.
        Amplification = "amplification",
        /// Messages of ICMP, in great number.
        IcmpFlood = "icmp_flood",
    }
}

/// Anomalies of one API, by [`AnomalyKind::index`].
///
/// In the kernel each CPU has its own and is the only one to write it; userspace adds the CPUs up, and makes it all zeros
/// before an API gets the slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ApiAnomalies {
    /// How many of each kind.
    pub counts: [u64; ANOMALY_PLACES],
}

/// Places for kinds: a power of two, so that a mask shows the verifier that an index is one.
pub const ANOMALY_PLACES: usize = 16;

const _: () = assert!(AnomalyKind::COUNT <= ANOMALY_PLACES && ANOMALY_PLACES.is_power_of_two());

#[cfg(feature = "user")]
// SAFETY: made of `u64` alone, no padding, every bit pattern is valid.
unsafe impl aya::Pod for ApiAnomalies {}

impl core::ops::AddAssign<&Self> for ApiAnomalies {
    fn add_assign(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
    }
}
