//! Anomalies: their thresholds, their counts, and telling of them.

use std::{net::SocketAddr, time::Instant};

use tidewaiter_common::{
    anomaly::{
        AnomalyKind,
        told::{ToldAnomaly, told_flag},
    },
    api::ApiSlot,
    flow::FlowKey,
};

use super::{Accounting, apis::ApiRegistry};
use crate::{
    anomaly::{
        Anomaly,
        detail::{amplified, detail},
        thresholds::Thresholds,
    },
    api::{Api, Role, Transport, reserved},
    kernel::{Kernel, KernelError},
    snapshot::ApiDetails,
    tracker::{Amplified, FlowTracker},
};

/// Anomalies that are looked at before others may go on: the ring has room for not many more.
const MOST: usize = 1024;

impl Accounting {
    /// Says what is an anomaly, from now on.
    ///
    /// # Errors
    /// [`KernelError::Map`] if the kernel's table could not be written; then all is as before.
    pub fn set_anomaly_thresholds(&mut self, thresholds: &Thresholds) -> Result<(), KernelError> {
        self.kernel.set_anomaly_settings(&thresholds.settings())?;
        if let Some(tracker) = &mut self.tracker {
            let is_enabled = thresholds.is_enabled(AnomalyKind::Amplification);
            tracker.set_amplification(is_enabled.then_some(thresholds.amplification));
        }
        self.thresholds = thresholds.clone();
        Ok(())
    }

    /// What is an anomaly.
    #[must_use]
    pub const fn anomaly_thresholds(&self) -> &Thresholds {
        &self.thresholds
    }

    /// Tells of the anomalies that were found since this was called last: in the kernel, and in flows.
    pub fn read_anomalies(&mut self) {
        let Self { kernel, apis, tracker, anomalies, thresholds, .. } = self;
        let now = Instant::now();
        kernel.read_anomalies(MOST, |told, bytes| {
            if let Some(anomaly) = anomaly(told, bytes, apis, thresholds) {
                anomalies.tell(&anomaly, now);
            }
        });
        for found in tracker.as_mut().map(FlowTracker::take_amplified).unwrap_or_default() {
            let Amplified { key, api, asked, answered } = found;
            // A host that asks knows how much it wants to be answered.
            let Some((name, role @ Role::Server)) = apis.holder(api) else { continue };
            if let Err(error) = kernel.count_amplification(api) {
                tracing::warn!(%error, "cannot count an anomaly");
            }
            let [local, remote] = ends(&key);
            let anomaly = Anomaly {
                kind: AnomalyKind::Amplification,
                api: name,
                role: Some(role),
                local: Some(local),
                remote: Some(remote),
                application: None,
                rule: None,
                detail: amplified(asked, answered, thresholds),
                first_bytes: Vec::new(),
            };
            anomalies.tell(&anomaly, now);
        }
    }
}

/// What the kernel has told, as others are told it.
fn anomaly(told: &ToldAnomaly, bytes: &[u8], apis: &ApiRegistry, thresholds: &Thresholds) -> Option<Anomaly> {
    let ToldAnomaly { key, api, kind, flags, numbers, length: _, reserved: _ } = told;
    let kind = AnomalyKind::from_index(*kind)?;
    let (api, role) = match apis.holder(*api) {
        Some((name, role)) => (name, Some(role)),
        None => (reserved::UNMAPPED.into(), None),
    };
    let [local, remote] = ends(key);
    let has_ends = flags & told_flag::ENDS != 0;
    Some(Anomaly {
        kind,
        api,
        role,
        local: has_ends.then_some(local),
        remote: (has_ends && flags & told_flag::MANY == 0).then_some(remote),
        application: None,
        rule: None,
        detail: detail(kind, *numbers, thresholds),
        first_bytes: bytes.to_vec(),
    })
}

fn ends(key: &FlowKey) -> [SocketAddr; 2] {
    let FlowKey { local, remote, local_port, remote_port, .. } = *key;
    [SocketAddr::new(local.into(), local_port), SocketAddr::new(remote.into(), remote_port)]
}

/// The anomalies of who has `slot`, by kind: those that there can be from zero, so that an alert sees the first one, and others that
/// there are from before a reload.
pub(super) fn counts(
    kernel: &Kernel,
    slot: ApiSlot,
    role: Option<Role>,
    api: Option<&Api>,
    details: Option<&ApiDetails>,
    thresholds: &Thresholds,
) -> Result<Vec<(AnomalyKind, u64)>, KernelError> {
    let counted = kernel.api_anomalies(slot)?.counts;
    let amplified = kernel.amplifications(slot)?;
    let counts = AnomalyKind::ALL.iter().filter_map(|&kind| {
        let count = match kind {
            AnomalyKind::UnexpectedPayload => details.map_or(0, |details| details.unexpected),
            AnomalyKind::Amplification => amplified,
            _ => counted.get(kind.index()).copied().unwrap_or_default(),
        };
        let is_possible = may_occur(kind, role, api, details.is_some()) && thresholds.is_enabled(kind);
        (is_possible || count > 0).then_some((kind, count))
    });
    Ok(counts.collect())
}

/// Whether there can be anomalies of `kind` of an API, or of what is none if it has no role; some are found in flows alone.
fn may_occur(kind: AnomalyKind, role: Option<Role>, api: Option<&Api>, has_flows: bool) -> bool {
    // It is not known of one that the exporter before this one counted, until it is asked for again.
    let has = |transport| api.is_none_or(|api| api.transports.contains(&transport));
    let is_mapped = role.is_some();
    let is_client = role == Some(Role::Client);
    match kind {
        AnomalyKind::UnexpectedPayload => has_flows && api.is_some_and(|api| !api.expect.is_empty()),
        AnomalyKind::BadTcpFlags => has(Transport::Tcp),
        AnomalyKind::Land => true,
        // What cannot be read, or has no ports, is no API's.
        AnomalyKind::Malformed
        | AnomalyKind::TinyFragment
        | AnomalyKind::OverlappingFragment
        | AnomalyKind::UnexpectedProtocol
        | AnomalyKind::IcmpFlood => !is_mapped,
        AnomalyKind::PortScan => has_flows && !is_client,
        AnomalyKind::SynFlood | AnomalyKind::ConnectionChurn => has_flows && !is_client && has(Transport::Tcp),
        AnomalyKind::Amplification => has_flows && role == Some(Role::Server) && has(Transport::Udp),
    }
}
