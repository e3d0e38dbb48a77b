//! What is counted for one API beside packets and bytes: connections, latencies, protocols.

use crate::{
    direction::Direction,
    histogram::Histogram,
    http::{METHODS, STATUS_PLACES},
    numbered::numbered,
    protocol::Protocol,
};

numbered! {
    /// How a connection ended.
    CloseReason {
        /// Both sides have said that they are done.
        Fin = "fin",
        /// One side has reset it.
        Reset = "reset",
        /// It has fallen silent.
        Idle = "idle",
    }
}

/// What is counted for one API beside packets and bytes.
///
/// In the kernel each CPU has its own and is the only one to write it; userspace adds the CPUs up, and makes it all zeros
/// before an API gets the slot, while nobody counts in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ApiDetails {
    /// TCP connections that somebody tried to open: opening segments, those that were sent again not counted again.
    pub attempts: u64,
    /// Attempts that were answered by a reset.
    pub refused: u64,
    /// Connections that were opened: their handshake was seen and is complete.
    pub opened: u64,
    /// Connections that were there before anybody looked, and were taken up since.
    pub adopted: u64,
    /// Connections that ended, by [`CloseReason`].
    pub closed: [u64; CloseReason::COUNT],
    /// Connections that are another API's now, or part of no flow for want of room.
    pub left: u64,
    /// Segments that reset a connection, by [`Direction::index`].
    pub reset_packets: [u64; Direction::COUNT],
    /// Flows by [`Protocol`]: each once, when its first payload was seen.
    pub protocols: [u64; Protocol::COUNT],
    /// Flows whose payload is not what the API expects.
    pub unexpected: u64,
    /// HTTP/1 requests by their index in [`METHODS`].
    pub requests: [u64; METHODS.len()],
    /// HTTP/1 responses by [`status_place`](crate::http::status_place).
    pub responses: [u64; STATUS_PLACES],
    /// Time that handshakes took: [`Range::Latency`](crate::histogram::Range::Latency).
    pub handshake: Histogram,
    /// Time from the last byte of a request to the first of its answer: likewise.
    pub response: Histogram,
    /// Time from the first packet to the last of connections that were closed or reset:
    /// [`Range::Lifetime`](crate::histogram::Range::Lifetime).
    pub lifetime: Histogram,
}

#[cfg(feature = "user")]
// SAFETY: made of `u64` alone, no padding, every bit pattern is valid.
unsafe impl aya::Pod for ApiDetails {}

impl Default for ApiDetails {
    fn default() -> Self {
        Self {
            attempts: 0,
            refused: 0,
            opened: 0,
            adopted: 0,
            closed: [0; CloseReason::COUNT],
            left: 0,
            reset_packets: [0; Direction::COUNT],
            protocols: [0; Protocol::COUNT],
            unexpected: 0,
            requests: [0; METHODS.len()],
            responses: [0; STATUS_PLACES],
            handshake: Histogram::default(),
            response: Histogram::default(),
            lifetime: Histogram::default(),
        }
    }
}

impl ApiDetails {
    /// Connections that there are now. (Those whose API changed while nobody looked may be missing.)
    #[must_use]
    pub fn active(&self) -> u64 {
        let ended: u64 = self.closed.iter().sum();
        (self.opened + self.adopted).saturating_sub(ended + self.left)
    }
}

impl core::ops::AddAssign<&Self> for ApiDetails {
    fn add_assign(&mut self, other: &Self) {
        let Self {
            attempts,
            refused,
            opened,
            adopted,
            closed,
            left,
            reset_packets,
            protocols,
            unexpected,
            requests,
            responses,
            handshake,
            response,
            lifetime,
        } = other;
        self.attempts += attempts;
        self.refused += refused;
        self.opened += opened;
        self.adopted += adopted;
        add(&mut self.closed, closed);
        self.left += left;
        add(&mut self.reset_packets, reset_packets);
        add(&mut self.protocols, protocols);
        self.unexpected += unexpected;
        add(&mut self.requests, requests);
        add(&mut self.responses, responses);
        self.handshake += handshake;
        self.response += response;
        self.lifetime += lifetime;
    }
}

fn add(mine: &mut [u64], theirs: &[u64]) {
    for (mine, theirs) in mine.iter_mut().zip(theirs) {
        *mine += theirs;
    }
}
