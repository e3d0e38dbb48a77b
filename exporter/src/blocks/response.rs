//! Responses: who makes an anomaly is blocked for a while.
//!
//! Senders can be forged wherever nothing has to come back to them: in a SYN, a datagram, a bad flag. Whoever can send such packets
//! can have others blocked, so whoever must not be belongs into `guard.protect`; established connections to its ports are exempt.

use std::time::Duration;

use ipnet::IpNet;

use super::network_of;
use crate::{
    anomaly::{Anomaly, AnomalyKind},
    api::Role,
    config::guard::Response,
};

/// How many wait to be blocked at most. More are left for their next anomaly: the kernel tells only a few in a second anyway.
const MOST_WAITING: usize = 256;

/// Somebody who is to be blocked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Who.
    pub network: IpNet,
    /// For how long.
    pub period: Duration,
    /// The kind of the anomaly.
    pub kind: AnomalyKind,
    /// Why, in words.
    pub reason: String,
}

/// Finds out who is to be blocked.
#[derive(Debug, Default)]
pub struct Responder {
    responses: Vec<Response>,
    waiting: Vec<Wanted>,
    /// How many found no room to wait.
    left_out: u64,
}

impl Responder {
    /// Says what is responded to.
    pub fn configure(&mut self, responses: &[Response]) {
        self.responses = responses.to_vec();
    }

    /// Whether anything is.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        !self.responses.is_empty()
    }

    /// Takes note of an anomaly. Servers that this host has called itself are not blocked.
    pub fn note(&mut self, anomaly: &Anomaly) {
        let Some(remote) = anomaly.remote.filter(|_| anomaly.role != Some(Role::Client)) else { return };
        let is_meant = |response: &&Response| {
            response.on.contains(&anomaly.kind)
                && response.apis.as_ref().is_none_or(|apis| apis.contains(&*anomaly.api))
        };
        // Of several, the first one says how.
        let Some(response) = self.responses.iter().find(is_meant) else { return };
        let network = network_of(remote.ip(), response.ipv4_length, response.ipv6_length);
        let waits = self.waiting.iter().any(|wanted| wanted.network == network);
        if waits {
            return;
        }
        if self.waiting.len() >= MOST_WAITING {
            self.left_out += 1;
            return;
        }
        let reason = super::shown(&format!("{}: {}", anomaly.api, anomaly.detail));
        let reason = reason.chars().take(super::MAX_REASON).collect();
        self.waiting.push(Wanted { network, period: response.block_for, kind: anomaly.kind, reason });
    }

    /// Those who are to be blocked since this was last asked.
    pub fn take(&mut self) -> Vec<Wanted> {
        std::mem::take(&mut self.waiting)
    }

    /// How many anomalies found no room to wait for their response since this was last asked.
    pub const fn take_left_out(&mut self) -> u64 {
        std::mem::replace(&mut self.left_out, 0)
    }
}
