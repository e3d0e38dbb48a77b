//! The kernel's own counters.

use std::collections::HashMap;

use procfs::{FromRead as _, ProcError, net::InterfaceDeviceStatus};
use thiserror::Error;
use tidewaiter_common::direction::Direction;

/// Counters of the interfaces in the network namespace of the thread that reads it, whatever is mounted at `/sys`.
const PATH: &str = "/proc/thread-self/net/dev";

/// The kernel's counters cannot be read.
#[derive(Debug, Error)]
#[error("cannot read {PATH}: {0}")]
pub struct StatisticsError(#[from] ProcError);

/// What the kernel has counted for one interface since that exists, by [`Direction::index`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets, in the unit that the driver counts.
    pub packets: [u64; Direction::COUNT],
    /// Bytes.
    pub bytes: [u64; Direction::COUNT],
    /// Packets that were dropped, those that were missed for want of room included.
    pub dropped: [u64; Direction::COUNT],
}

/// The counters of every interface, by name.
pub fn statistics() -> Result<HashMap<String, Statistics>, StatisticsError> {
    let InterfaceDeviceStatus(devices) = InterfaceDeviceStatus::from_file(PATH)?;
    let statistics = devices.into_iter().map(|(name, device)| {
        let statistics = Statistics {
            packets: [device.recv_packets, device.sent_packets],
            bytes: [device.recv_bytes, device.sent_bytes],
            dropped: [device.recv_drop, device.sent_drop],
        };
        (name, statistics)
    });
    Ok(statistics.collect())
}
