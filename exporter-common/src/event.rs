//! What the kernel tells of itself, through its rings: never one record a packet.

use crate::{
    api::ApiSlot,
    flow::{Flow, FlowKey},
    numbered::numbered,
};

/// A flow as it was in the end; or as it is, if it goes on for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FinishedFlow {
    /// Which one.
    pub key: FlowKey,
    /// 1 if it goes on, 0 if it is over.
    pub goes_on: u32,
    /// What it was.
    pub flow: Flow,
}

#[cfg(feature = "user")]
// SAFETY: integers without padding between them, every bit pattern is valid.
unsafe impl aya::Pod for FinishedFlow {}

const _: () = assert!(size_of::<FinishedFlow>() == 48 + size_of::<Flow>());

/// The most bytes of a payload in a [`Sample`]: those of a segment over Ethernet, and less than what a capture is replayed with.
pub const SAMPLE_BYTES: usize = 1_400;

/// Why userspace is to look at a payload.
pub mod sample_kind {
    /// It is a hello of TLS, or the beginning of HTTP/2.
    pub const GREETING: u8 = 0;
    /// It is not what the API expects.
    pub const UNEXPECTED: u8 = 1;
    /// A request of HTTP/1 begins with it.
    pub const REQUEST: u8 = 2;
}

/// How many requests of a flow are sampled, at most: its first ones. Connections that are kept alive are to be known by more than
/// one, but none is to cost without bound.
pub const SAMPLED_REQUESTS: u32 = 8;

/// The first bytes of a payload that userspace is to look at. As many of them as there are follow in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Sample {
    /// The flow.
    pub key: FlowKey,
    /// The API that it belongs to.
    pub api: ApiSlot,
    /// See [`sample_kind`].
    pub kind: u8,
    /// The [`Protocol`](crate::protocol::Protocol) that it looks like, as its number.
    pub protocol: u8,
    /// A [`Direction`](crate::direction::Direction), as its number.
    pub direction: u32,
    /// How many bytes follow.
    pub length: u32,
}

#[cfg(feature = "user")]
// SAFETY: integers without padding between them, every bit pattern is valid.
unsafe impl aya::Pod for Sample {}

const _: () = assert!(size_of::<Sample>() == 56);

numbered! {
    /// What the kernel could not tell for want of room in a ring.
    Lost {
        /// That a flow has ended. The next walk over the flow table finds it, so nothing is missing, but it comes later.
        Ended = "flow_ended",
        /// What a flow was that could not stay where it was: an attempt that was refused, or a connection whose ends have opened
        /// another. The packets of the latter are counted for the other one.
        Finished = "flow_finished",
        /// A sample of a payload.
        Sample = "sample",
        /// An anomaly, of which there were too many of late.
        Anomaly = "anomaly",
    }
}

/// The most flows that [`FINISH`](crate::FINISH) is asked to finish at once.
pub const FINISH_BATCH: usize = 64;

/// Where in its packet [`FINISH`](crate::FINISH) finds what it is asked: behind what might be an Ethernet header, first the
/// tick since which a flow that has ended must have been quiet, that for one that has not, and that before which one that goes on
/// must have been told of last to be told of again; then the keys.
pub const FINISH_TICKS_OFFSET: usize = 16;
/// See [`FINISH_TICKS_OFFSET`].
pub const FINISH_KEYS_OFFSET: usize = FINISH_TICKS_OFFSET + 3 * 8;
