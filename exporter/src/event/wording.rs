//! What each event is called, how much it matters, and what is said of it: the same in the audit log and over OTLP.

use super::{Happening, texts::rfc3339};
use crate::anomaly::AnomalyKind;

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It is as it should be.
    Info,
    /// Somebody may want to look at it.
    Warn,
}

impl Severity {
    /// The word for it, as OpenTelemetry has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Warn => "WARN",
        }
    }
}

/// The value of the label `verdict` of packets that are let through.
const PASS: &str = "pass";

impl Happening {
    /// The name of the event. It does not change from one version to the next.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Anomaly(anomaly) => anomaly_name(anomaly.kind),
            Self::MoreAnomalies { .. } => "tidewaiter.anomaly.more",
            Self::RuleHits(_) => "tidewaiter.rule.hits",
            Self::MoreHits { .. } => "tidewaiter.rule.more",
            Self::Blocked(_) => "tidewaiter.block.added",
            Self::Unblocked { .. } => "tidewaiter.block.removed",
            Self::Started { .. } => STARTED,
            Self::Stopped { .. } => STOPPED,
            Self::ConfigurationChanged(_) => "tidewaiter.configuration.changed",
            Self::ConfigurationRefused { .. } => "tidewaiter.configuration.refused",
            Self::AccessChanged(_) => "tidewaiter.access.changed",
            Self::AccessRefused { .. } => "tidewaiter.access.refused",
            Self::GuardSwitched { .. } => "tidewaiter.guard.switched",
            Self::AuditHead { .. } => "tidewaiter.audit.head",
        }
    }

    /// How much it matters.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::Anomaly(_)
            | Self::MoreAnomalies { .. }
            | Self::Blocked(_)
            | Self::ConfigurationRefused { .. }
            | Self::AccessRefused { .. }
            | Self::GuardSwitched { on: false }
            | Self::MoreHits { .. } => Severity::Warn,
            Self::RuleHits(hits) if hits.verdict != PASS => Severity::Warn,
            Self::RuleHits(_)
            | Self::Unblocked { .. }
            | Self::Started { .. }
            | Self::Stopped { .. }
            | Self::ConfigurationChanged(_)
            | Self::AccessChanged(_)
            | Self::GuardSwitched { on: true }
            | Self::AuditHead { .. } => Severity::Info,
        }
    }

    /// What is said of it: one line for people. All that is in it is among its [facts](Self::facts) too.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::Anomaly(anomaly) => anomaly.detail.clone(),
            Self::MoreAnomalies { .. } => "more anomalies of the last minute: they are counted all".to_owned(),
            Self::RuleHits(hits) => format!("rule {}: {} for {} packets", hits.rule, hits.verdict, hits.packets),
            Self::MoreHits { packets, .. } => {
                format!("rules have decided about {packets} more packets than are told by rule and client")
            }
            Self::Blocked(block) => format!("{} is blocked until {}", block.network, rfc3339(block.until)),
            Self::Unblocked { network, .. } => format!("{network} is blocked no more"),
            Self::Started { version, .. } => format!("tidewaiter {version} has started"),
            Self::Stopped { persists: true } => "stopping: the programs go on".to_owned(),
            Self::Stopped { persists: false } => "stopping".to_owned(),
            Self::ConfigurationChanged(_) => "another configuration is in force".to_owned(),
            Self::ConfigurationRefused { .. } => {
                "a configuration was not taken: the one before stays in force".to_owned()
            }
            Self::AccessChanged(change) => format!("{} changed: what its files say now is in force", change.key),
            Self::AccessRefused { change, .. } => {
                format!("{} changed, but cannot be used: what was in force stays", change.key)
            }
            Self::GuardSwitched { on: true } => "the guard is on".to_owned(),
            Self::GuardSwitched { on: false } => "the guard is off".to_owned(),
            Self::AuditHead { .. } => "what the last line of the audit log is".to_owned(),
        }
    }
}

/// See [`Happening::Started`].
pub(crate) const STARTED: &str = "tidewaiter.started";
/// See [`Happening::Stopped`].
pub(crate) const STOPPED: &str = "tidewaiter.stopped";

/// The name of the event, which has to be a static one.
const fn anomaly_name(kind: AnomalyKind) -> &'static str {
    macro_rules! names {
        ($($kind:ident = $name:literal,)+) => {
            match kind { $(AnomalyKind::$kind => concat!("tidewaiter.anomaly.", $name),)+ }
        };
    }
    names! {
        UnexpectedPayload = "unexpected_payload",
        BadTcpFlags = "bad_tcp_flags",
        Land = "land",
        Malformed = "malformed",
        TinyFragment = "tiny_fragment",
        OverlappingFragment = "overlapping_fragment",
        UnexpectedProtocol = "unexpected_protocol",
        PortScan = "port_scan",
        SynFlood = "syn_flood",
        ConnectionChurn = "connection_churn",
        Amplification = "amplification",
        IcmpFlood = "icmp_flood",
    }
}

#[cfg(test)]
mod tests {
    use super::{AnomalyKind, anomaly_name};

    #[test]
    fn an_anomaly_is_called_after_its_kind() {
        for kind in AnomalyKind::ALL {
            assert_eq!(anomaly_name(kind), format!("tidewaiter.anomaly.{}", kind.as_str()));
        }
    }
}
