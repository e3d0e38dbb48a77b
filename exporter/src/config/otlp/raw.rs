//! What a user may write in `[otlp]`.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, de};

use super::{headers::RawHeaders, resource::RawResource};
use crate::config::raw::Interval;

/// Defines the tables that say where to send: `[otlp]` for every signal, and one of each signal over that. serde can refuse
/// unknown keys, or share them between tables, but not both.
macro_rules! tables {
    ($($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty = $default:expr,)* })*) => {$(
        $(#[$about])*
        #[derive(Clone, Debug, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, expecting = "a table")]
        pub struct $name {
            $($(#[$doc])* pub $field: $type,)*
            /// Where to.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub endpoint: Option<String>,
            /// How.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub protocol: Option<OtlpProtocol>,
            /// Whether gRPC goes without TLS to an endpoint without a scheme.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub insecure: Option<bool>,
            /// What is sent along; never written again.
            #[serde(skip_serializing)]
            pub headers: Option<RawHeaders>,
            /// Whether requests are compressed on the wire.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub compression: Option<OtlpCompression>,
            /// How long one attempt may take.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub timeout: Option<Interval>,
            /// The file of certificates that vouch for the collector.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub certificate: Option<PathBuf>,
            /// The file of our own certificate.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub client_certificate: Option<PathBuf>,
            /// The file of its key.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub client_key: Option<PathBuf>,
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $($field: $default,)*
                    endpoint: None,
                    protocol: None,
                    insecure: None,
                    headers: None,
                    compression: None,
                    timeout: None,
                    certificate: None,
                    client_certificate: None,
                    client_key: None,
                }
            }
        }

        impl $name {
            /// What the table says about where to send, and how.
            pub(super) fn target(&self) -> RawTarget<'_> {
                RawTarget {
                    endpoint: self.endpoint.as_deref(),
                    protocol: self.protocol,
                    insecure: self.insecure,
                    headers: self.headers.as_ref(),
                    compression: self.compression,
                    timeout: self.timeout,
                    certificate: self.certificate.as_deref(),
                    client_certificate: self.client_certificate.as_deref(),
                    client_key: self.client_key.as_deref(),
                }
            }
        }
    )*};
}

tables! {
    /// `[otlp]`.
    RawOtlp {
        /// The most bytes of requests that wait, of each signal.
        queue_bytes: i64 = 16 << 20,
        /// How long an end in order waits until all has been sent.
        flush_timeout: Interval = Interval(Duration::from_secs(5)),
        /// Attributes of the resource.
        resource: RawResource = RawResource::default(),
        /// How metrics are sent.
        metrics: RawOtlpMetrics = RawOtlpMetrics::default(),
        /// How spans are sent.
        traces: RawOtlpTraces = RawOtlpTraces::default(),
        /// How log records are sent.
        logs: RawOtlpLogs = RawOtlpLogs::default(),
    }

    /// `[otlp.metrics]`.
    RawOtlpMetrics {
        /// Whether they are sent, if there is an endpoint.
        enabled: bool = true,
        /// Time between two exports.
        interval: Interval = Interval(Duration::from_mins(1)),
        /// As what histograms are sent.
        histograms: OtlpHistograms = OtlpHistograms::Exponential,
    }

    /// `[otlp.traces]`.
    RawOtlpTraces {
        /// Whether they are sent, if there is an endpoint.
        enabled: bool = true,
        /// What share of flows is sent.
        sample_ratio: Ratio = Ratio(1.0),
        /// How long the first of a request waits at most.
        batch_delay: Interval = Interval(Duration::from_secs(5)),
        /// How many there are in a request at most; 2048, or what `queue_size` allows, if absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        batch_size: Option<i64> = None,
        /// How many may wait until they are put into one.
        queue_size: i64 = 16_384,
    }

    /// `[otlp.logs]`.
    RawOtlpLogs {
        /// Whether they are sent, if there is an endpoint.
        enabled: bool = true,
        /// How long the first of a request waits at most.
        batch_delay: Interval = Interval(Duration::from_secs(1)),
        /// How many there are in a request at most; 512, or what `queue_size` allows, if absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        batch_size: Option<i64> = None,
        /// How many may wait until they are put into one.
        queue_size: i64 = 2048,
    }
}

/// What one of the tables says about where to send, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawTarget<'a> {
    pub(super) endpoint: Option<&'a str>,
    pub(super) protocol: Option<OtlpProtocol>,
    pub(super) insecure: Option<bool>,
    pub(super) headers: Option<&'a RawHeaders>,
    pub(super) compression: Option<OtlpCompression>,
    pub(super) timeout: Option<Interval>,
    pub(super) certificate: Option<&'a Path>,
    pub(super) client_certificate: Option<&'a Path>,
    pub(super) client_key: Option<&'a Path>,
}

impl RawOtlp {
    /// Whether anything is to be sent: an endpoint is given for a signal that is enabled.
    pub(in crate::config) fn is_on(&self) -> bool {
        let Self { metrics, traces, logs, .. } = self;
        [(metrics.enabled, &metrics.endpoint), (traces.enabled, &traces.endpoint), (logs.enabled, &logs.endpoint)]
            .into_iter()
            .any(|(enabled, endpoint)| enabled && (endpoint.is_some() || self.endpoint.is_some()))
    }
}

/// The protocol that OTLP is spoken by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", expecting = "\"http/protobuf\" or \"grpc\"")]
pub enum OtlpProtocol {
    /// Protobuf in the bodies of HTTP requests.
    #[serde(rename = "http/protobuf")]
    Http,
    /// gRPC.
    Grpc,
}

/// Whether requests are compressed on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", expecting = "\"gzip\" or \"none\"")]
pub enum OtlpCompression {
    /// With gzip.
    Gzip,
    /// Not at all.
    None,
}

/// As what histograms are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", expecting = "\"exponential\" or \"explicit\"")]
pub enum OtlpHistograms {
    /// As exponential histograms, in which nothing is lost.
    Exponential,
    /// With the bounds of the classic ones on `/metrics`, for those who know no others.
    Explicit,
}

/// A share of a whole.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio(pub f64);

impl<'de> Deserialize<'de> for Ratio {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Ratio;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a number from 0 to 1")
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Ratio, E> {
                Ok(Ratio(number))
            }

            /// Of the environment, figment reads short numbers in single precision: what was written is the shortest text of it.
            fn visit_f32<E: de::Error>(self, number: f32) -> Result<Ratio, E> {
                Ok(Ratio(number.to_string().parse().unwrap_or_else(|_| number.into())))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Ratio, E> {
                self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Ratio, E> {
                let in_range = u8::try_from(number).ok().filter(|number| *number <= 1);
                in_range
                    .map(|number| Ratio(number.into()))
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}
