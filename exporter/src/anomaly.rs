//! What is out of the ordinary, told one by one: the counts say how often, these say who.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::warn;

use crate::{api::Role, flow::Protocol};

/// How many anomalies of one API are told in a [`WINDOW`]; the rest is only counted.
const MOST_TOLD: u32 = 5;
/// See [`MOST_TOLD`].
const WINDOW: Duration = Duration::from_mins(1);

/// A flow whose payload is not what its API expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnexpectedPayload {
    /// The API.
    pub api: Arc<str>,
    /// Which end of it this host is.
    pub role: Option<Role>,
    /// This host's end of the flow.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// What the payload looks like.
    pub application: Protocol,
    /// Its first bytes, as far as they were kept.
    pub first_bytes: Vec<u8>,
}

/// Writes anomalies to the log, a few of each API in each window.
#[derive(Debug, Default)]
pub struct AnomalyLog {
    begun: Option<Instant>,
    told: HashMap<Arc<str>, u32>,
}

impl AnomalyLog {
    /// Tells of `anomaly` unless there were many of its API of late.
    pub fn tell(&mut self, anomaly: &UnexpectedPayload, now: Instant) {
        if self.begun.is_none_or(|begun| now.saturating_duration_since(begun) >= WINDOW) {
            self.begun = Some(now);
            for (api, told) in self.told.drain().filter(|(_, told)| *told > MOST_TOLD) {
                warn!(%api, untold = told - MOST_TOLD, "more anomalies of the last minute: they are counted all");
            }
        }
        let told = self.told.entry(Arc::clone(&anomaly.api)).or_default();
        *told = told.saturating_add(1);
        if *told > MOST_TOLD {
            return;
        }
        let UnexpectedPayload { api, role, local, remote, application, first_bytes } = anomaly;
        warn!(
            %api,
            role = role.map_or("none", Role::as_str),
            kind = "unexpected_payload",
            %local,
            %remote,
            looks_like = application.as_str(),
            first_bytes = %first_bytes.escape_ascii(),
            "anomaly: a flow's payload is not what its API expects"
        );
    }
}
