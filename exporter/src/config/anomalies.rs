//! `[anomalies]`: what is looked for, and from which on it is an anomaly.

mod raw;

use std::{ops::RangeInclusive, time::Duration};

use tidewaiter_common::{
    anomaly::{
        AnomalyKind,
        source::{SCANNED_ADDRESSES, SCANNED_PORTS},
    },
    packet::protocol,
};

pub use self::raw::{IpProtocol, RawAnomalies};
use super::{raw::Interval, validate::Check};
use crate::anomaly::thresholds::{Amplification, ConnectionChurn, IcmpFlood, PortScan, SynFlood, Thresholds};

/// How long a window may be: what is remembered of a source is forgotten for others some time.
const WINDOWS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);

/// What makes a connection a short one.
const LIFETIMES: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(1);

/// How many ports, and addresses, make a scan: half of those that are told apart, so that it is found not much later.
const PORTS: RangeInclusive<i64> = 2..=512;
const ADDRESSES: RangeInclusive<i64> = 2..=128;
const _: () = assert!(SCANNED_PORTS == 2 * 512 && SCANNED_ADDRESSES == 2 * 128);

/// How many of anything else make an anomaly.
const COUNTS: RangeInclusive<i64> = 1..=1_000_000_000;

/// Bytes of answers.
const BYTES: RangeInclusive<i64> = 1..=1_000_000_000_000;

/// How many times larger than questions answers may be.
const RATIOS: RangeInclusive<i64> = 2..=10_000;

impl Check<'_> {
    /// What is looked for, and from which on it is an anomaly.
    pub(super) fn anomalies(&mut self, raw: &RawAnomalies) -> Thresholds {
        let RawAnomalies {
            unexpected_payload,
            bad_tcp_flags,
            land,
            malformed,
            tiny_fragment,
            overlapping_fragment,
            unexpected_protocol,
            port_scan,
            syn_flood,
            connection_churn,
            amplification,
            icmp_flood,
        } = raw;
        let is_enabled = |kind: AnomalyKind| match kind {
            AnomalyKind::UnexpectedPayload => unexpected_payload.enabled,
            AnomalyKind::BadTcpFlags => bad_tcp_flags.enabled,
            AnomalyKind::Land => land.enabled,
            AnomalyKind::Malformed => malformed.enabled,
            AnomalyKind::TinyFragment => tiny_fragment.enabled,
            AnomalyKind::OverlappingFragment => overlapping_fragment.enabled,
            AnomalyKind::UnexpectedProtocol => unexpected_protocol.enabled,
            AnomalyKind::PortScan => port_scan.enabled,
            AnomalyKind::SynFlood => syn_flood.enabled,
            AnomalyKind::ConnectionChurn => connection_churn.enabled,
            AnomalyKind::Amplification => amplification.enabled,
            AnomalyKind::IcmpFlood => icmp_flood.enabled,
        };
        let expected_protocols: Vec<_> =
            unexpected_protocol.expected.iter().map(|&IpProtocol(number)| number).collect();
        if !expected_protocols.contains(&protocol::TCP) {
            let expected = "expected \"tcp\" among them: this exporter is asked over it";
            self.problem_at(&["anomalies", "unexpected_protocol", "expected"], expected.to_owned());
        }
        Thresholds {
            enabled: AnomalyKind::ALL.iter().copied().filter(|kind| is_enabled(*kind)).collect(),
            expected_protocols,
            port_scan: PortScan {
                window: self.threshold_span("port_scan", "window", port_scan.window, WINDOWS),
                ports: self.threshold("port_scan", "ports", port_scan.ports, PORTS),
                addresses: self.threshold("port_scan", "addresses", port_scan.addresses, ADDRESSES),
            },
            syn_flood: SynFlood {
                window: self.threshold_span("syn_flood", "window", syn_flood.window, WINDOWS),
                half_open: self.threshold("syn_flood", "half_open", syn_flood.half_open, COUNTS),
                completed_percent: self.threshold(
                    "syn_flood",
                    "completed_percent",
                    syn_flood.completed_percent,
                    0..=100,
                ),
            },
            connection_churn: ConnectionChurn {
                window: self.threshold_span("connection_churn", "window", connection_churn.window, WINDOWS),
                connections: self.threshold("connection_churn", "connections", connection_churn.connections, COUNTS),
                shorter_than: self.threshold_span(
                    "connection_churn",
                    "shorter_than",
                    connection_churn.shorter_than,
                    LIFETIMES,
                ),
            },
            icmp_flood: IcmpFlood {
                window: self.threshold_span("icmp_flood", "window", icmp_flood.window, WINDOWS),
                from_one: self.threshold("icmp_flood", "from_one", icmp_flood.from_one, COUNTS),
                from_all: self.threshold("icmp_flood", "from_all", icmp_flood.from_all, COUNTS),
            },
            amplification: Amplification {
                window: self.threshold_span("amplification", "window", amplification.window, WINDOWS),
                ratio: self.threshold("amplification", "ratio", amplification.ratio, RATIOS),
                bytes: self.threshold("amplification", "bytes", amplification.bytes, BYTES),
            },
        }
    }

    fn threshold(&mut self, kind: &str, key: &str, found: i64, range: RangeInclusive<i64>) -> u64 {
        if !range.contains(&found) {
            let (least, most) = range.into_inner();
            self.problem_at(&["anomalies", kind, key], format!("found {found}, expected {least} to {most}"));
        }
        found.unsigned_abs()
    }

    fn threshold_span(&mut self, kind: &str, key: &str, found: Interval, range: RangeInclusive<Duration>) -> Duration {
        if !range.contains(&found.0) {
            let [found, least, most] = [found.0, *range.start(), *range.end()].map(humantime::format_duration);
            self.problem_at(
                &["anomalies", kind, key],
                format!("found \"{found}\", expected \"{least}\" to \"{most}\""),
            );
        }
        found.0
    }
}
