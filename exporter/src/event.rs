//! What happens, for those who want to hear of each: one thing at a time, with the time.

use std::{sync::Arc, time::SystemTime};

use crate::anomaly::UnexpectedPayload;

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it was seen.
    pub time: SystemTime,
    /// What.
    pub what: Happening,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// A flow whose payload is not what its API expects.
    UnexpectedPayload(UnexpectedPayload),
    /// More anomalies of an API than are told one by one.
    MoreAnomalies {
        /// The API.
        api: Arc<str>,
        /// How many, in a minute.
        untold: u32,
    },
}
