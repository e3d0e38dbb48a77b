//! What rotel prints of spans, points and log records, and the same of what was sent to it: for comparing the two.

use std::{collections::BTreeMap, fmt::Write as _};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::{LogRecord, SeverityNumber},
    metrics::v1::{AggregationTemporality, Metric, NumberDataPoint, metric::Data, number_data_point},
    resource::v1::Resource,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};

/// Values of attributes with their types, as in `Str(text)`, by their keys.
pub type Attributes = BTreeMap<String, String>;

/// A point of a metric; what its kind does not have is zero or empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Point {
    /// What it is of.
    pub resource: Attributes,
    /// The metric's name.
    pub name: String,
    /// The metric's description.
    pub description: String,
    /// The metric's unit.
    pub unit: String,
    /// The metric's kind: `Gauge`, `Sum`, `Histogram` or `ExponentialHistogram`.
    pub kind: String,
    /// Whether a sum never falls.
    pub is_monotonic: Option<bool>,
    /// What time it is about.
    pub temporality: Option<AggregationTemporality>,
    /// Its attributes.
    pub attributes: Attributes,
    /// Since when, in nanoseconds since 1970.
    pub start: u64,
    /// When, in nanoseconds since 1970.
    pub time: u64,
    /// The value of a gauge or a sum, in digits: none is rounded, and whole numbers are the same as integers.
    pub number: Option<String>,
    /// How many values a histogram has.
    pub count: u64,
    /// Their sum.
    pub sum: Option<f64>,
    /// The least of them.
    pub min: Option<f64>,
    /// The greatest of them.
    pub max: Option<f64>,
    /// How many of them are zero, in an exponential histogram.
    pub zero_count: u64,
    /// The scale of an exponential histogram's buckets, if there are any: without, it is not known.
    pub scale: Option<i32>,
    /// The index of the first of them.
    pub offset: i32,
    /// The bounds between a classic histogram's buckets.
    pub bounds: Vec<f64>,
    /// How many values are in each bucket of either kind of histogram.
    pub buckets: Vec<u64>,
}

/// A span.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpanRecord {
    /// What it is of.
    pub resource: Attributes,
    /// Its trace, in hexadecimal digits.
    pub trace: String,
    /// Its own identity, in hexadecimal digits.
    pub id: String,
    /// Its parent's, empty if it has none.
    pub parent: String,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: SpanKind,
    /// Its start, in nanoseconds since 1970.
    pub start: u64,
    /// Its end, in nanoseconds since 1970.
    pub end: u64,
    /// Its status, and what is said of it.
    pub status: (StatusCode, String),
    /// Its attributes.
    pub attributes: Attributes,
    /// Its events: names, times and attributes.
    pub events: Vec<(String, u64, Attributes)>,
    /// Its links: traces and spans.
    pub links: Vec<(String, String)>,
}

/// A log record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogEntry {
    /// What has logged it.
    pub resource: Attributes,
    /// When it happened, in nanoseconds since 1970.
    pub time: u64,
    /// When it was seen, in nanoseconds since 1970.
    pub observed: u64,
    /// How bad it is.
    pub severity: SeverityNumber,
    /// The same, in the words of who says it.
    pub severity_text: String,
    /// The name of its event, empty if it is none.
    pub event: String,
    /// What it says, as values of attributes are written.
    pub body: String,
    /// Its attributes.
    pub attributes: Attributes,
    /// Its trace, in hexadecimal digits.
    pub trace: String,
    /// Its span, in hexadecimal digits.
    pub span: String,
}

impl Point {
    /// All of `metric`, in their order.
    ///
    /// # Panics
    /// If it is a summary, or has values below zero in an exponential histogram: nobody here sends such.
    #[must_use]
    pub fn all(resource: &Resource, metric: &Metric) -> Vec<Self> {
        let metric_point = Self {
            resource: attributes(&resource.attributes),
            name: metric.name.clone(),
            description: metric.description.clone(),
            unit: metric.unit.clone(),
            ..Self::default()
        };
        let temporality = |number| Some(AggregationTemporality::try_from(number).expect("is known"));
        match metric.data.as_ref().expect("is of some kind") {
            Data::Gauge(gauge) => {
                let metric = Self { kind: "Gauge".to_owned(), ..metric_point };
                gauge.data_points.iter().map(|point| metric.with_number(point)).collect()
            }
            Data::Sum(sum) => {
                let temporality = temporality(sum.aggregation_temporality);
                let is_monotonic = Some(sum.is_monotonic);
                let metric = Self { kind: "Sum".to_owned(), is_monotonic, temporality, ..metric_point };
                sum.data_points.iter().map(|point| metric.with_number(point)).collect()
            }
            Data::Histogram(histogram) => {
                let temporality = temporality(histogram.aggregation_temporality);
                let metric = Self { kind: "Histogram".to_owned(), temporality, ..metric_point };
                let points = histogram.data_points.iter().map(|point| Self {
                    attributes: attributes(&point.attributes),
                    start: point.start_time_unix_nano,
                    time: point.time_unix_nano,
                    count: point.count,
                    sum: point.sum,
                    min: point.min,
                    max: point.max,
                    bounds: point.explicit_bounds.clone(),
                    buckets: point.bucket_counts.clone(),
                    ..metric.clone()
                });
                points.collect()
            }
            Data::ExponentialHistogram(histogram) => {
                let temporality = temporality(histogram.aggregation_temporality);
                let metric = Self { kind: "ExponentialHistogram".to_owned(), temporality, ..metric_point };
                let points = histogram.data_points.iter().map(|point| {
                    assert!(point.negative.as_ref().is_none_or(|buckets| buckets.bucket_counts.is_empty()));
                    let buckets = point.positive.clone().unwrap_or_default();
                    let is_empty = buckets.bucket_counts.is_empty();
                    Self {
                        attributes: attributes(&point.attributes),
                        start: point.start_time_unix_nano,
                        time: point.time_unix_nano,
                        count: point.count,
                        sum: point.sum,
                        min: point.min,
                        max: point.max,
                        zero_count: point.zero_count,
                        scale: (!is_empty).then_some(point.scale),
                        offset: if is_empty { 0 } else { buckets.offset },
                        buckets: buckets.bucket_counts,
                        ..metric.clone()
                    }
                });
                points.collect()
            }
            Data::Summary(_) => panic!("a summary"),
        }
    }

    fn with_number(&self, point: &NumberDataPoint) -> Self {
        Self {
            attributes: attributes(&point.attributes),
            start: point.start_time_unix_nano,
            time: point.time_unix_nano,
            number: point.value.map(|value| match value {
                number_data_point::Value::AsInt(value) => value.to_string(),
                number_data_point::Value::AsDouble(value) => value.to_string(),
            }),
            ..self.clone()
        }
    }
}

impl SpanRecord {
    /// That of `span`.
    #[must_use]
    pub fn new(resource: &Resource, span: &Span) -> Self {
        let status = span.status.clone().unwrap_or_default();
        let events = span.events.iter();
        let links = span.links.iter();
        Self {
            resource: attributes(&resource.attributes),
            trace: hexadecimal(&span.trace_id),
            id: hexadecimal(&span.span_id),
            parent: hexadecimal(&span.parent_span_id),
            name: span.name.clone(),
            kind: span.kind(),
            start: span.start_time_unix_nano,
            end: span.end_time_unix_nano,
            status: (status.code(), status.message),
            attributes: attributes(&span.attributes),
            events: events.map(|one| (one.name.clone(), one.time_unix_nano, attributes(&one.attributes))).collect(),
            links: links.map(|link| (hexadecimal(&link.trace_id), hexadecimal(&link.span_id))).collect(),
        }
    }
}

impl LogEntry {
    /// That of `record`.
    #[must_use]
    pub fn new(resource: &Resource, record: &LogRecord) -> Self {
        Self {
            resource: attributes(&resource.attributes),
            time: record.time_unix_nano,
            observed: record.observed_time_unix_nano,
            severity: record.severity_number(),
            severity_text: record.severity_text.clone(),
            event: record.event_name.clone(),
            body: written(record.body.as_ref()),
            attributes: attributes(&record.attributes),
            trace: hexadecimal(&record.trace_id),
            span: hexadecimal(&record.span_id),
        }
    }
}

/// `attributes` as rotel writes them.
#[must_use]
pub fn attributes(attributes: &[KeyValue]) -> Attributes {
    attributes.iter().map(|attribute| (attribute.key.clone(), written(attribute.value.as_ref()))).collect()
}

fn written(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        None => "Empty".to_owned(),
        Some(Value::StringValue(value)) => format!("Str({value})"),
        Some(Value::BoolValue(value)) => format!("Bool({value})"),
        Some(Value::IntValue(value)) => format!("Int({value})"),
        Some(Value::DoubleValue(value)) => format!("Double({value})"),
        Some(Value::ArrayValue(array)) => {
            let values: Vec<_> = array.values.iter().map(|value| written(Some(value))).collect();
            format!("Slice({})", values.join(", "))
        }
        Some(other) => panic!("nobody here sends {other:?}"),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        write!(digits, "{byte:02x}").expect("strings take all");
        digits
    })
}
