//! `[anomalies]`: what is looked for, and from which on it is an anomaly.

use std::{fmt, ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tidewaiter_common::{
    anomaly::{
        AnomalyKind,
        source::{SCANNED_ADDRESSES, SCANNED_PORTS},
    },
    packet::protocol,
};

use super::{raw::Interval, validate::Check};
use crate::anomaly::{
    protocols,
    thresholds::{Amplification, ConnectionChurn, IcmpFlood, PortScan, SynFlood, Thresholds},
};

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

/// Defines the tables, each with what it is by default and whether its kind is looked for.
macro_rules! tables {
    ($($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$about])*
        #[derive(Clone, Debug, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, expecting = "a table")]
        pub struct $name {
            /// Whether it is looked for.
            pub enabled: bool,
            $($(#[$doc])* pub $field: $type,)*
        }
    )*};
}

tables! {
    /// A kind without thresholds.
    RawKind {}
    /// `[anomalies.unexpected_protocol]`.
    RawUnexpectedProtocol {
        /// Those that are none.
        expected: Vec<IpProtocol>,
    }
    /// `[anomalies.port_scan]`.
    RawPortScan {
        /// See [`PortScan`].
        window: Interval,
        /// Likewise.
        ports: i64,
        /// Likewise.
        addresses: i64,
    }
    /// `[anomalies.syn_flood]`.
    RawSynFlood {
        /// See [`SynFlood`].
        window: Interval,
        /// Likewise.
        half_open: i64,
        /// Likewise.
        completed_percent: i64,
    }
    /// `[anomalies.connection_churn]`.
    RawConnectionChurn {
        /// See [`ConnectionChurn`].
        window: Interval,
        /// Likewise.
        connections: i64,
        /// Likewise.
        shorter_than: Interval,
    }
    /// `[anomalies.icmp_flood]`.
    RawIcmpFlood {
        /// See [`IcmpFlood`].
        window: Interval,
        /// Likewise.
        from_one: i64,
        /// Likewise.
        from_all: i64,
    }
    /// `[anomalies.amplification]`.
    RawAmplification {
        /// See [`Amplification`].
        window: Interval,
        /// Likewise.
        ratio: i64,
        /// Likewise.
        bytes: i64,
    }
}

/// `[anomalies]`: a table for each [`AnomalyKind`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct RawAnomalies {
    /// See [`AnomalyKind::UnexpectedPayload`].
    pub unexpected_payload: RawKind,
    /// See [`AnomalyKind::BadTcpFlags`].
    pub bad_tcp_flags: RawKind,
    /// See [`AnomalyKind::Land`].
    pub land: RawKind,
    /// See [`AnomalyKind::Malformed`].
    pub malformed: RawKind,
    /// See [`AnomalyKind::TinyFragment`].
    pub tiny_fragment: RawKind,
    /// See [`AnomalyKind::OverlappingFragment`].
    pub overlapping_fragment: RawKind,
    /// See [`AnomalyKind::UnexpectedProtocol`].
    pub unexpected_protocol: RawUnexpectedProtocol,
    /// See [`AnomalyKind::PortScan`].
    pub port_scan: RawPortScan,
    /// See [`AnomalyKind::SynFlood`].
    pub syn_flood: RawSynFlood,
    /// See [`AnomalyKind::ConnectionChurn`].
    pub connection_churn: RawConnectionChurn,
    /// See [`AnomalyKind::Amplification`].
    pub amplification: RawAmplification,
    /// See [`AnomalyKind::IcmpFlood`].
    pub icmp_flood: RawIcmpFlood,
}

impl Default for RawAnomalies {
    fn default() -> Self {
        let Thresholds {
            enabled: _,
            expected_protocols,
            port_scan,
            syn_flood,
            connection_churn,
            icmp_flood,
            amplification,
        } = Thresholds::default();
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let (enabled, kind) = (true, RawKind { enabled: true });
        Self {
            unexpected_payload: kind.clone(),
            bad_tcp_flags: kind.clone(),
            land: kind.clone(),
            malformed: kind.clone(),
            tiny_fragment: kind.clone(),
            overlapping_fragment: kind,
            unexpected_protocol: RawUnexpectedProtocol {
                enabled,
                expected: expected_protocols.into_iter().map(IpProtocol).collect(),
            },
            port_scan: RawPortScan {
                enabled,
                window: Interval(port_scan.window),
                ports: number(port_scan.ports),
                addresses: number(port_scan.addresses),
            },
            syn_flood: RawSynFlood {
                enabled,
                window: Interval(syn_flood.window),
                half_open: number(syn_flood.half_open),
                completed_percent: number(syn_flood.completed_percent),
            },
            connection_churn: RawConnectionChurn {
                enabled,
                window: Interval(connection_churn.window),
                connections: number(connection_churn.connections),
                shorter_than: Interval(connection_churn.shorter_than),
            },
            icmp_flood: RawIcmpFlood {
                enabled,
                window: Interval(icmp_flood.window),
                from_one: number(icmp_flood.from_one),
                from_all: number(icmp_flood.from_all),
            },
            amplification: RawAmplification {
                enabled,
                window: Interval(amplification.window),
                ratio: number(amplification.ratio),
                bytes: number(amplification.bytes),
            },
        }
    }
}

/// A protocol above IP, by its number; written as its name or that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpProtocol(pub u8);

impl Serialize for IpProtocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match protocols::name(self.0) {
            Some(name) => serializer.serialize_str(name),
            None => serializer.serialize_u8(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for IpProtocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = IpProtocol;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a number from 0 to 255, or one of ")?;
                for (place, name) in protocols::names().enumerate() {
                    write!(formatter, "{}\"{name}\"", if place == 0 { "" } else { ", " })?;
                }
                Ok(())
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<IpProtocol, E> {
                let number = protocols::number(text);
                number.map(IpProtocol).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<IpProtocol, E> {
                let small = u8::try_from(number).map(IpProtocol);
                small.map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<IpProtocol, E> {
                let small = u8::try_from(number).map(IpProtocol);
                small.map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

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
