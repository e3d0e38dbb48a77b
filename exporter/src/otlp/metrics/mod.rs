//! Metrics: the families of `/metrics`, in OpenTelemetry's words ([`names`](super::names)).

mod histogram;

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{self as common, AnyValue, InstrumentationScope, any_value},
    metrics::v1::{
        AggregationTemporality, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram,
        HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric::Data,
        number_data_point,
    },
    resource::v1::Resource,
};
use opentelemetry_semantic_conventions::SCHEMA_URL;
use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::{
    self as prometheus, LabelPair, MetricFamily, MetricType,
};
use prost::Message as _;
use prost_types::Timestamp;

use super::{
    attributes::application,
    names::{LABELS, METRICS, NUMBERS, PROTOCOL, UNSENT, VALUES},
};
use crate::{config::otlp::OtlpHistograms, flow::Protocol};

/// What the name of a counter ends with on `/metrics`.
const TOTAL: &str = "_total";

/// Writes metrics.
#[derive(Debug)]
pub(super) struct Writer {
    resource: Resource,
    scope: InstrumentationScope,
    histograms: OtlpHistograms,
    /// The most bytes of a request, before it is compressed. One data point more fits in any case.
    request_bytes: usize,
}

/// A request, and how many data points are in it.
pub(super) type Request = (ExportMetricsServiceRequest, u64);

/// Requests in the making.
#[derive(Debug, Default)]
struct Requests {
    limit: usize,
    ended: Vec<(Vec<Metric>, u64)>,
    metrics: Vec<Metric>,
    items: u64,
    bytes: usize,
}

/// Nanoseconds since the epoch.
#[derive(Clone, Copy)]
struct Times {
    /// When the metrics stood so.
    now: u64,
    /// When the exporter was started; 0 if it is not known.
    started: u64,
}

/// A data point of any kind.
enum Point {
    Number(NumberDataPoint),
    Explicit(HistogramDataPoint),
    Exponential(ExponentialHistogramDataPoint),
}

impl Writer {
    pub(super) fn new(
        resource: Resource,
        scope: InstrumentationScope,
        histograms: OtlpHistograms,
        request_bytes: usize,
    ) -> Self {
        Self { resource, scope, histograms, request_bytes }
    }

    /// Requests with all of `families`, which stood so at `taken`, of an exporter that was `started` then.
    pub(super) fn write(
        &self,
        families: &[MetricFamily],
        taken: SystemTime,
        started: Option<SystemTime>,
    ) -> Vec<Request> {
        let mut requests = Requests { limit: self.request_bytes, ..Requests::default() };
        let times = Times { now: nanoseconds(taken), started: started.map_or(0, nanoseconds) };
        for family in families {
            self.write_family(&mut requests, family, times);
        }
        requests.end();
        let requests = requests.ended.into_iter().map(|(metrics, items)| {
            let scope_metrics =
                ScopeMetrics { scope: Some(self.scope.clone()), metrics, schema_url: SCHEMA_URL.to_owned() };
            let resource_metrics = ResourceMetrics {
                resource: Some(self.resource.clone()),
                scope_metrics: vec![scope_metrics],
                schema_url: SCHEMA_URL.to_owned(),
            };
            (ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] }, items)
        });
        requests.collect()
    }

    fn write_family(&self, requests: &mut Requests, family: &MetricFamily, times: Times) {
        if UNSENT.contains(&family.name.as_str()) {
            return;
        }
        let known = METRICS.iter().find(|known| known.prometheus == family.name);
        let header = Metric {
            name: known.map_or_else(|| by_itself(&family.name), |known| known.name.to_owned()),
            description: family.help.clone(),
            unit: known.map_or("", |known| known.unit).to_owned(),
            ..Metric::default()
        };
        let is_whole = !matches!(header.unit.as_str(), "s" | "1" | "");
        let adds_up = known.is_some_and(|known| known.adds_up);
        let points = family.metric.iter().filter_map(|metric| self.point(metric, times, is_whole, adds_up));
        let is_counter = family.r#type() == MetricType::Counter;
        requests.add(&header, points, |point| empty(point, is_counter, adds_up));
    }

    fn point(&self, metric: &prometheus::Metric, times: Times, is_whole: bool, adds_up: bool) -> Option<Point> {
        let Times { now: time, started } = times;
        // A clock that was set back meanwhile does not make it count since the future.
        let start = |timestamp| start(timestamp).min(time);
        let attributes: Vec<_> = metric.label.iter().flat_map(attributes).collect();
        if let Some(histogram) = &metric.histogram {
            let start = start(histogram.start_timestamp.as_ref());
            return Some(match self.histograms {
                OtlpHistograms::Exponential => {
                    Point::Exponential(histogram::exponential(histogram, attributes, start, time))
                }
                OtlpHistograms::Explicit => Point::Explicit(histogram::explicit(histogram, attributes, start, time)),
            });
        }
        let (value, start) = match (&metric.counter, &metric.gauge) {
            (Some(counter), _) => (counter.value, start(counter.start_timestamp.as_ref())),
            // What adds up is what has come since the exporter's start, with what was there; a gauge is what it is at its time.
            (None, Some(gauge)) => (gauge.value, if adds_up { started.min(time) } else { 0 }),
            (None, None) => return None,
        };
        #[expect(clippy::cast_possible_truncation, reason = "these are whole numbers, and far below 2^63")]
        let value = if is_whole {
            number_data_point::Value::AsInt(value as i64)
        } else {
            number_data_point::Value::AsDouble(value)
        };
        Some(Point::Number(NumberDataPoint {
            attributes,
            start_time_unix_nano: start,
            time_unix_nano: time,
            value: Some(value),
            ..NumberDataPoint::default()
        }))
    }
}

impl Requests {
    /// Adds a metric with `points`, in as many requests as it takes.
    fn add(&mut self, header: &Metric, points: impl Iterator<Item = Point>, empty: impl Fn(&Point) -> Data) {
        let mut is_begun = false;
        for point in points {
            if self.bytes >= self.limit {
                self.end();
                is_begun = false;
            }
            if !is_begun {
                self.bytes += header.encoded_len();
                self.metrics.push(Metric { data: Some(empty(&point)), ..header.clone() });
                is_begun = true;
            }
            self.items += 1;
            self.bytes += match &point {
                Point::Number(point) => point.encoded_len(),
                Point::Explicit(point) => point.encoded_len(),
                Point::Exponential(point) => point.encoded_len(),
            };
            match (self.metrics.last_mut().and_then(|metric| metric.data.as_mut()), point) {
                (
                    Some(Data::Sum(Sum { data_points, .. }) | Data::Gauge(Gauge { data_points })),
                    Point::Number(point),
                ) => {
                    data_points.push(point);
                }
                (Some(Data::Histogram(Histogram { data_points, .. })), Point::Explicit(point)) => {
                    data_points.push(point);
                }
                (
                    Some(Data::ExponentialHistogram(ExponentialHistogram { data_points, .. })),
                    Point::Exponential(point),
                ) => {
                    data_points.push(point);
                }
                // A metric has points of one kind: this does not happen.
                _ => {}
            }
        }
    }

    fn end(&mut self) {
        if self.items > 0 {
            self.ended.push((std::mem::take(&mut self.metrics), std::mem::take(&mut self.items)));
        }
        self.bytes = 0;
    }
}

/// A metric without points, of a kind that `point` can be of.
fn empty(point: &Point, is_counter: bool, adds_up: bool) -> Data {
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    match point {
        Point::Number(_) if is_counter || adds_up => {
            Data::Sum(Sum { data_points: Vec::new(), aggregation_temporality, is_monotonic: is_counter })
        }
        Point::Number(_) => Data::Gauge(Gauge::default()),
        Point::Explicit(_) => Data::Histogram(Histogram { data_points: Vec::new(), aggregation_temporality }),
        Point::Exponential(_) => {
            Data::ExponentialHistogram(ExponentialHistogram { data_points: Vec::new(), aggregation_temporality })
        }
    }
}

/// A name for a metric that [`METRICS`] forgot, so that it is not missing.
fn by_itself(name: &str) -> String {
    name.strip_suffix(TOTAL).unwrap_or(name).replace('_', ".")
}

/// The attributes that say what a label does. A label without a value, as an API has that expects nothing, is none.
fn attributes(label: &LabelPair) -> Vec<common::KeyValue> {
    let LabelPair { name, value } = label;
    if value.is_empty() {
        return Vec::new();
    }
    if name == PROTOCOL {
        let protocol = Protocol::ALL.iter().find(|protocol| protocol.as_str() == value);
        return protocol.map(|protocol| application(*protocol).into_iter().map(proto).collect()).unwrap_or_default();
    }
    let key = LABELS
        .iter()
        .find(|(label, _)| label == name)
        .map_or_else(|| format!("tidewaiter.{name}"), |(_, key)| (*key).to_owned());
    let value = VALUES.iter().find(|(of, from, _)| *of == key && from == value).map_or(value.as_str(), |(_, _, to)| to);
    let value = if NUMBERS.contains(&key.as_str()) {
        // What is no number is any other, of which there is nothing to say.
        value.parse().ok().map(any_value::Value::IntValue)
    } else {
        Some(any_value::Value::StringValue(value.to_owned()))
    };
    value.map(|value| key_value(key, value)).into_iter().collect()
}

fn key_value(key: String, value: any_value::Value) -> common::KeyValue {
    common::KeyValue { key, value: Some(AnyValue { value: Some(value) }), ..common::KeyValue::default() }
}

/// The same attribute, as requests have them.
fn proto(KeyValue { key, value, .. }: KeyValue) -> common::KeyValue {
    common::KeyValue { key: key.into(), value: Some(value.into()), ..common::KeyValue::default() }
}

/// Since when something counts; 0, which is that it is not known, if it does not say.
fn start(timestamp: Option<&Timestamp>) -> u64 {
    timestamp.map_or(0, |Timestamp { seconds, nanos }| {
        let nanoseconds = seconds.saturating_mul(1_000_000_000).saturating_add((*nanos).into());
        u64::try_from(nanoseconds).unwrap_or(0)
    })
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
