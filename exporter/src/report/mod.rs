//! Shapes in which counts and flows are reported: what `replay` prints and what the JSON API answers.

pub mod api;
pub mod flow;

use std::fmt;

use serde::Serialize;

use crate::snapshot::Counters;

/// Packets and bytes on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl From<Counters> for Count {
    fn from(Counters { packets, bytes }: Counters) -> Self {
        Self { packets, bytes }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:>12} {:>14}", self.packets, self.bytes)
    }
}
