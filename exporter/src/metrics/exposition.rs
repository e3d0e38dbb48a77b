//! The formats that `/metrics` is written in, and which of them a client gets.

use std::fmt::{self, Write as _};

use prometheus_client::{
    encoding::{
        prometheus_protobuf::{
            self, EncodeError,
            prometheus_data_model::{LabelPair, Metric, MetricFamily, MetricType},
        },
        text,
    },
    registry::Registry,
};
use thiserror::Error;

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
    #[error("cannot write the metrics as text")]
    Text(#[from] fmt::Error),
    /// As protobuf.
    #[error("cannot write the metrics as protobuf: {0}")]
    Protobuf(#[from] EncodeError),
    /// A kind of metric that the classic text writer does not know.
    #[error("cannot write {name}, a metric of type {kind}, as classic text")]
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

    /// Writes the metrics of `registry`.
    pub fn encode(self, registry: &Registry) -> Result<Vec<u8>, ExpositionError> {
        match self {
            Self::Protobuf => Ok(prometheus_protobuf::encode_to_vec(registry)?),
            Self::OpenMetrics => {
                let mut text = String::new();
                text::encode(&mut text, registry)?;
                Ok(text.into_bytes())
            }
            Self::ClassicText => {
                let mut text = String::new();
                for family in prometheus_protobuf::encode(registry)? {
                    write_classic(&mut text, &family)?;
                }
                Ok(text.into_bytes())
            }
        }
    }
}

/// Writes `family` in the text format 0.0.4 of Prometheus' "Exposition formats".
///
/// `prometheus-client` writes `OpenMetrics` text alone, in which a counter's name has no `_total`.
fn write_classic(text: &mut String, family: &MetricFamily) -> Result<(), ExpositionError> {
    let MetricFamily { name, help, metric, .. } = family;
    let kind = match family.r#type() {
        MetricType::Counter => "counter",
        MetricType::Gauge => "gauge",
        _ => return Err(ExpositionError::Kind { name: name.clone(), kind: family.r#type }),
    };
    writeln!(text, "# HELP {name} {}", escape(help, false))?;
    writeln!(text, "# TYPE {name} {kind}")?;
    for Metric { label, counter, gauge, .. } in metric {
        text.push_str(name);
        write_labels(text, label)?;
        let value = counter.as_ref().map(|counter| counter.value).or(gauge.as_ref().map(|gauge| gauge.value));
        writeln!(text, " {}", value.unwrap_or(f64::NAN))?;
    }
    Ok(())
}

fn write_labels(text: &mut String, labels: &[LabelPair]) -> fmt::Result {
    let mut separator = '{';
    for LabelPair { name, value } in labels {
        write!(text, "{separator}{name}=\"{}\"", escape(value, true))?;
        separator = ',';
    }
    if separator == ',' { text.write_char('}') } else { Ok(()) }
}

fn escape(text: &str, quotes: bool) -> String {
    let escaped = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { escaped.replace('"', "\\\"") } else { escaped }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{
        metrics::{counter::Counter, family::Family, gauge::Gauge},
        registry::Registry,
    };

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
    fn classic_text_is_as_its_specification_says() {
        let mut registry = Registry::default();
        let counter = Family::<Vec<(String, String)>, Counter>::default();
        counter.get_or_create(&vec![("path".to_owned(), "C:\\\"a\"\nb".to_owned())]).inc_by(3);
        registry.register("requests", "back\\slash", counter);
        let gauge = Gauge::<i64>::default();
        gauge.set(-7);
        registry.register("temperature", "How cold", gauge);

        let text = String::from_utf8(Format::ClassicText.encode(&registry).expect("encodes")).expect("is UTF-8");
        assert_eq!(
            text,
            "# HELP requests_total back\\\\slash.\n\
             # TYPE requests_total counter\n\
             requests_total{path=\"C:\\\\\\\"a\\\"\\nb\"} 3\n\
             # HELP temperature How cold.\n\
             # TYPE temperature gauge\n\
             temperature -7\n"
        );
    }
}
