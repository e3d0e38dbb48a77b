//! What the receiver keeps of each request.

use std::time::SystemTime;

use axum::http::HeaderMap;
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse},
        metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse},
        trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse},
    },
    common::v1::{KeyValue, any_value::Value},
    logs::v1::LogRecord,
    metrics::v1::{Metric, metric::Data},
    resource::v1::Resource,
    trace::v1::Span,
};
use prost::{DecodeError, Message as _};

use super::{
    PORTS,
    answer::{Answer, REASON},
};

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Metrics.
    Metrics,
    /// Records of logs.
    Logs,
}

impl Signal {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    /// Where it is sent to over HTTP.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Traces => "/v1/traces",
            Self::Metrics => "/v1/metrics",
            Self::Logs => "/v1/logs",
        }
    }
}

/// The two ways to send, each on a port of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// gRPC.
    Grpc,
    /// Protobuf over HTTP/1.1 or HTTP/2.
    Http,
}

impl Protocol {
    /// What configurations and OpenTelemetry's variables call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http/protobuf",
        }
    }

    /// The port that it has if none is said.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Grpc => PORTS[0],
            Self::Http => PORTS[1],
        }
    }
}

/// What a request says.
#[derive(Clone, Debug, PartialEq)]
pub enum Export {
    /// Of spans.
    Traces(ExportTraceServiceRequest),
    /// Of metrics.
    Metrics(ExportMetricsServiceRequest),
    /// Of logs.
    Logs(ExportLogsServiceRequest),
}

impl Export {
    /// Reads one of `signal`.
    pub(super) fn decode(signal: Signal, bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(match signal {
            Signal::Traces => Self::Traces(ExportTraceServiceRequest::decode(bytes)?),
            Signal::Metrics => Self::Metrics(ExportMetricsServiceRequest::decode(bytes)?),
            Signal::Logs => Self::Logs(ExportLogsServiceRequest::decode(bytes)?),
        })
    }

    /// What it is about.
    #[must_use]
    pub const fn signal(&self) -> Signal {
        match self {
            Self::Traces(_) => Signal::Traces,
            Self::Metrics(_) => Signal::Metrics,
            Self::Logs(_) => Signal::Logs,
        }
    }

    /// Its spans, each with what it is a span of.
    pub fn spans(&self) -> impl Iterator<Item = (Resource, &Span)> {
        let resources = if let Self::Traces(request) = self { &*request.resource_spans } else { &[] };
        resources.iter().flat_map(|of_resource| {
            let spans = of_resource.scope_spans.iter().flat_map(|of_scope| &of_scope.spans);
            spans.map(|span| (of_resource.resource.clone().unwrap_or_default(), span))
        })
    }

    /// Its metrics, each with what it is a metric of.
    pub fn metrics(&self) -> impl Iterator<Item = (Resource, &Metric)> {
        let resources = if let Self::Metrics(request) = self { &*request.resource_metrics } else { &[] };
        resources.iter().flat_map(|of_resource| {
            let metrics = of_resource.scope_metrics.iter().flat_map(|of_scope| &of_scope.metrics);
            metrics.map(|metric| (of_resource.resource.clone().unwrap_or_default(), metric))
        })
    }

    /// Its log records, each with what has logged it.
    pub fn logs(&self) -> impl Iterator<Item = (Resource, &LogRecord)> {
        let resources = if let Self::Logs(request) = self { &*request.resource_logs } else { &[] };
        resources.iter().flat_map(|of_resource| {
            let records = of_resource.scope_logs.iter().flat_map(|of_scope| &of_scope.log_records);
            records.map(|record| (of_resource.resource.clone().unwrap_or_default(), record))
        })
    }

    /// How many spans, points of metrics or log records there are in it.
    #[must_use]
    pub fn items(&self) -> usize {
        match self {
            Self::Traces(request) => {
                let scopes = request.resource_spans.iter().flat_map(|of_resource| &of_resource.scope_spans);
                scopes.map(|of_scope| of_scope.spans.len()).sum()
            }
            Self::Metrics(request) => {
                let scopes = request.resource_metrics.iter().flat_map(|of_resource| &of_resource.scope_metrics);
                scopes.flat_map(|of_scope| &of_scope.metrics).map(points).sum()
            }
            Self::Logs(request) => {
                let scopes = request.resource_logs.iter().flat_map(|of_resource| &of_resource.scope_logs);
                scopes.map(|of_scope| of_scope.log_records.len()).sum()
            }
        }
    }
}

/// How many points `metric` has.
fn points(metric: &Metric) -> usize {
    match &metric.data {
        None => 0,
        Some(Data::Gauge(gauge)) => gauge.data_points.len(),
        Some(Data::Sum(sum)) => sum.data_points.len(),
        Some(Data::Histogram(histogram)) => histogram.data_points.len(),
        Some(Data::ExponentialHistogram(histogram)) => histogram.data_points.len(),
        Some(Data::Summary(summary)) => summary.data_points.len(),
    }
}

/// The answers to requests that succeed, in which `rejected` of the items are rejected: nothing is said if none are.
pub(super) fn traces_response(rejected: i64) -> ExportTraceServiceResponse {
    let partial = ExportTracePartialSuccess { rejected_spans: rejected, error_message: REASON.to_owned() };
    ExportTraceServiceResponse { partial_success: (rejected > 0).then_some(partial) }
}

/// As [`traces_response`], of points of metrics.
pub(super) fn metrics_response(rejected: i64) -> ExportMetricsServiceResponse {
    let partial = ExportMetricsPartialSuccess { rejected_data_points: rejected, error_message: REASON.to_owned() };
    ExportMetricsServiceResponse { partial_success: (rejected > 0).then_some(partial) }
}

/// As [`traces_response`], of log records.
pub(super) fn logs_response(rejected: i64) -> ExportLogsServiceResponse {
    let partial = ExportLogsPartialSuccess { rejected_log_records: rejected, error_message: REASON.to_owned() };
    ExportLogsServiceResponse { partial_success: (rejected > 0).then_some(partial) }
}

/// A request that was received, and could be read.
#[derive(Clone, Debug)]
pub struct Received {
    /// How it came.
    pub protocol: Protocol,
    /// When all of it was there.
    pub at: SystemTime,
    /// The number of the connection that it came by, counted from one, of both protocols.
    pub connection: usize,
    /// Its headers, which gRPC calls metadata.
    pub headers: HeaderMap,
    /// Whether it was compressed.
    pub is_gzip: bool,
    /// Bytes of its body, as they came: compressed, and for gRPC with the five that are before a message.
    pub wire_size: usize,
    /// Bytes of its message, when no longer compressed.
    pub size: usize,
    /// What it says.
    pub export: Export,
    /// How it was answered.
    pub answer: Answer,
}

impl Received {
    /// What it is about.
    #[must_use]
    pub const fn signal(&self) -> Signal {
        self.export.signal()
    }

    /// The header called `name`, if it is there once and is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?.to_str().ok()?;
        values.next().is_none().then_some(value)
    }
}

/// The value that `attributes` have for `key`, as text; none also if it is a list or bytes.
#[must_use]
pub fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.key == key)?;
    match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(value) => Some(value.clone()),
        Value::BoolValue(value) => Some(value.to_string()),
        Value::IntValue(value) => Some(value.to_string()),
        Value::DoubleValue(value) => Some(value.to_string()),
        _ => None,
    }
}
