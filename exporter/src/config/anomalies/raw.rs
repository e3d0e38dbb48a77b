//! `[anomalies]` as it is written, and what it is by default.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    anomaly::{protocols, thresholds::Thresholds},
    config::raw::Interval,
};

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
        /// See [`PortScan`](crate::anomaly::thresholds::PortScan).
        window: Interval,
        /// Likewise.
        ports: i64,
        /// Likewise.
        addresses: i64,
    }
    /// `[anomalies.syn_flood]`.
    RawSynFlood {
        /// See [`SynFlood`](crate::anomaly::thresholds::SynFlood).
        window: Interval,
        /// Likewise.
        half_open: i64,
        /// Likewise.
        completed_percent: i64,
    }
    /// `[anomalies.connection_churn]`.
    RawConnectionChurn {
        /// See [`ConnectionChurn`](crate::anomaly::thresholds::ConnectionChurn).
        window: Interval,
        /// Likewise.
        connections: i64,
        /// Likewise.
        shorter_than: Interval,
    }
    /// `[anomalies.icmp_flood]`.
    RawIcmpFlood {
        /// See [`IcmpFlood`](crate::anomaly::thresholds::IcmpFlood).
        window: Interval,
        /// Likewise.
        from_one: i64,
        /// Likewise.
        from_all: i64,
    }
    /// `[anomalies.amplification]`.
    RawAmplification {
        /// See [`Amplification`](crate::anomaly::thresholds::Amplification).
        window: Interval,
        /// Likewise.
        ratio: i64,
        /// Likewise.
        bytes: i64,
    }
}

/// `[anomalies]`: a table for each [`AnomalyKind`](tidewaiter_common::anomaly::AnomalyKind).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct RawAnomalies {
    /// See [`AnomalyKind::UnexpectedPayload`](tidewaiter_common::anomaly::AnomalyKind::UnexpectedPayload).
    pub unexpected_payload: RawKind,
    /// See [`AnomalyKind::BadTcpFlags`](tidewaiter_common::anomaly::AnomalyKind::BadTcpFlags).
    pub bad_tcp_flags: RawKind,
    /// See [`AnomalyKind::Land`](tidewaiter_common::anomaly::AnomalyKind::Land).
    pub land: RawKind,
    /// See [`AnomalyKind::Malformed`](tidewaiter_common::anomaly::AnomalyKind::Malformed).
    pub malformed: RawKind,
    /// See [`AnomalyKind::TinyFragment`](tidewaiter_common::anomaly::AnomalyKind::TinyFragment).
    pub tiny_fragment: RawKind,
    /// See [`AnomalyKind::OverlappingFragment`](tidewaiter_common::anomaly::AnomalyKind::OverlappingFragment).
    pub overlapping_fragment: RawKind,
    /// See [`AnomalyKind::UnexpectedProtocol`](tidewaiter_common::anomaly::AnomalyKind::UnexpectedProtocol).
    pub unexpected_protocol: RawUnexpectedProtocol,
    /// See [`AnomalyKind::PortScan`](tidewaiter_common::anomaly::AnomalyKind::PortScan).
    pub port_scan: RawPortScan,
    /// See [`AnomalyKind::SynFlood`](tidewaiter_common::anomaly::AnomalyKind::SynFlood).
    pub syn_flood: RawSynFlood,
    /// See [`AnomalyKind::ConnectionChurn`](tidewaiter_common::anomaly::AnomalyKind::ConnectionChurn).
    pub connection_churn: RawConnectionChurn,
    /// See [`AnomalyKind::Amplification`](tidewaiter_common::anomaly::AnomalyKind::Amplification).
    pub amplification: RawAmplification,
    /// See [`AnomalyKind::IcmpFlood`](tidewaiter_common::anomaly::AnomalyKind::IcmpFlood).
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
