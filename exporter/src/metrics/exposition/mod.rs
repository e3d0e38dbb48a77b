//! The formats that `/metrics` is written in, and which of them a client gets.

mod text;

use std::{fmt, sync::Arc};

use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::MetricFamily;
use prost::Message as _;
use thiserror::Error;

use super::families;
use crate::snapshot::Snapshot;

/// A format of `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4, which everything understands.
    ClassicText,
    /// `OpenMetrics` text 1.0.0.
    OpenMetrics,
    /// Prometheus' protobuf messages, delimited.
    Protobuf,
}

/// Metrics that could not be written.
#[derive(Debug, Error)]
pub enum ExpositionError {
    /// As text.
    #[error("cannot write the metrics")]
    Text(#[from] fmt::Error),
    /// A kind of metric that cannot be written as text.
    #[error("cannot write {name}, a metric of type {kind}, as text")]
    Kind {
        /// The metric.
        name: String,
        /// The number of its type in `io.prometheus.client.MetricType`.
        kind: i32,
    },
}

impl Format {
    /// The value of `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::ClassicText => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }

    /// The format for a client that sent `accept`: what it likes best of what there is, or classic text if that is
    /// nothing (RFC 9110 section 12.5.1 lets a server answer so).
    #[must_use]
    pub fn negotiate(accept: Option<&str>) -> Self {
        let mut best = (Self::ClassicText, 0.0);
        for range in accept.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default();
            let parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
            let parameter = |name: &str| parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|p| p.1);
            let format = match media_type.to_ascii_lowercase().as_str() {
                "application/vnd.google.protobuf"
                    if parameter("proto") == Some("io.prometheus.client.MetricFamily")
                        && parameter("encoding") == Some("delimited") =>
                {
                    Self::Protobuf
                }
                // Version 0.0.1 differs in what we do not write.
                "application/openmetrics-text" => Self::OpenMetrics,
                "text/plain" | "text/*" | "*/*" => Self::ClassicText,
                _ => continue,
            };
            let quality = parameter("q").map_or(1.0, |quality| quality.parse().unwrap_or(0.0));
            if quality > best.1 {
                best = (format, quality);
            }
        }
        best.0
    }

    /// Writes the metrics of `snapshot`.
    pub fn encode(self, snapshot: &Arc<Snapshot>) -> Result<Vec<u8>, ExpositionError> {
        self.write(&families(snapshot)?)
    }

    fn write(self, families: &[MetricFamily]) -> Result<Vec<u8>, ExpositionError> {
        match self {
            Self::Protobuf => {
                let mut bytes = Vec::new();
                for family in families {
                    bytes.extend(family.encode_length_delimited_to_vec());
                }
                Ok(bytes)
            }
            Self::OpenMetrics => text::open_metrics(families),
            Self::ClassicText => text::classic(families),
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{
        metrics::{counter::Counter, family::Family, gauge::Gauge},
        registry::Registry,
    };

    use prometheus_client::encoding::prometheus_protobuf;

    use super::Format;

    #[test]
    fn a_client_gets_what_it_likes_best() {
        // What Prometheus 2.42 and 3 send, and what curl, a browser and a careless client do.
        let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        for (accept, format) in [
            (None, Format::ClassicText),
            (Some("*/*"), Format::ClassicText),
            (Some("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"), Format::ClassicText),
            (Some("application/json"), Format::ClassicText),
            (
                Some(
                    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                     text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ),
                Format::OpenMetrics,
            ),
            (Some("text/plain;version=0.0.4;q=0.3, application/openmetrics-text;q=0.2"), Format::ClassicText),
            (Some("application/openmetrics-text;q=0"), Format::ClassicText),
            (Some("application/openmetrics-text;q=many"), Format::ClassicText),
            (
                Some(&format!("{protobuf};q=0.7,application/openmetrics-text;version=1.0.0;q=0.6,*/*;q=0.2")),
                Format::Protobuf,
            ),
            (Some("application/vnd.google.protobuf;q=1,text/plain;q=0.5"), Format::ClassicText),
        ] {
            assert_eq!(Format::negotiate(accept), format, "{accept:?}");
        }
    }

    #[test]
    fn text_is_as_its_specifications_say() {
        let mut registry = Registry::default();
        let counter = Family::<Vec<(String, String)>, Counter>::default();
        counter.get_or_create(&vec![("path".to_owned(), "C:\\\"a\"\nb".to_owned())]).inc_by(3);
        registry.register("requests", "back\\slash", counter);
        let gauge = Gauge::<i64>::default();
        gauge.set(-7);
        registry.register("temperature", "How cold", gauge);

        let mut families = prometheus_protobuf::encode(&registry).expect("encodes");
        let created = prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5_000_000 };
        families[0].metric[0].counter.as_mut().expect("is one").start_timestamp = Some(created);
        let write = |format: Format| String::from_utf8(format.write(&families).expect("is written")).expect("is UTF-8");
        assert_eq!(
            write(Format::ClassicText),
            "# HELP requests_total back\\\\slash.\n\
             # TYPE requests_total counter\n\
             requests_total{path=\"C:\\\\\\\"a\\\"\\nb\"} 3\n\
             # HELP temperature How cold.\n\
             # TYPE temperature gauge\n\
             temperature -7\n"
        );
        assert_eq!(
            write(Format::OpenMetrics),
            "# HELP requests back\\\\slash.\n\
             # TYPE requests counter\n\
             requests_total{path=\"C:\\\\\\\"a\\\"\\nb\"} 3\n\
             requests_created{path=\"C:\\\\\\\"a\\\"\\nb\"} 1700000000.005\n\
             # HELP temperature How cold.\n\
             # TYPE temperature gauge\n\
             temperature -7\n\
             # EOF\n"
        );
    }
}
