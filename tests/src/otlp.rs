//! What an exporter sends over OTLP, as a test wants to look at it: by the names and labels of `/metrics`.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::{
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::{
        ExponentialHistogramDataPoint, HistogramDataPoint, Metric, NumberDataPoint, metric::Data,
        number_data_point::Value as Number,
    },
};
use tidewaiter::otlp::names::{LABELS, METRICS};

use crate::{metrics::Metrics, rotel::Point};

/// Bounds of classic buckets that a histogram may have, as exponents of two: more than there are.
const BOUNDS: std::ops::RangeInclusive<i32> = -20..=16;

/// `metrics` as `/metrics` writes them, histograms with those classic buckets that something is known of.
#[must_use]
pub fn as_prometheus<'a>(metrics: impl IntoIterator<Item = &'a Metric>) -> Metrics {
    let mut series = BTreeMap::new();
    for metric in metrics {
        let name = prometheus(&metric.name);
        match metric.data.as_ref().expect("has points") {
            Data::Sum(sum) => numbers(&mut series, name, &sum.data_points),
            Data::Gauge(gauge) => numbers(&mut series, name, &gauge.data_points),
            Data::ExponentialHistogram(histogram) => {
                histogram.data_points.iter().for_each(|point| exponential(&mut series, name, point));
            }
            Data::Histogram(histogram) => {
                histogram.data_points.iter().for_each(|point| explicit(&mut series, name, point));
            }
            Data::Summary(summary) => panic!("a summary: {summary:?}"),
        }
    }
    parse(&series)
}

/// The same, of what rotel has printed.
///
/// # Panics
/// If something of it has no name for Prometheus.
#[must_use]
pub fn printed_as_prometheus<'a>(points: impl IntoIterator<Item = &'a Point>) -> Metrics {
    let mut series = BTreeMap::new();
    for point in points {
        let attributes = point.attributes.iter().map(|(key, value)| {
            let value = value.strip_prefix("Str(").or_else(|| value.strip_prefix("Int(")).expect("one of them");
            (key.clone(), value.strip_suffix(')').expect("ends").to_owned())
        });
        let (name, attributes) = (prometheus(&point.name), attributes.collect());
        if let Some(number) = &point.number {
            series.insert(named(name, "", &attributes, None), number.parse().expect("a number"));
            continue;
        }
        let buckets = Buckets {
            // Without buckets it is not printed, and of no consequence.
            scale: point.scale.unwrap_or_default(),
            zero_count: point.zero_count,
            offset: point.offset,
            counts: &point.buckets,
        };
        buckets.write(&mut series, name, &attributes, f64::MIN_POSITIVE);
        whole(&mut series, name, &attributes, point.count, point.sum);
    }
    parse(&series)
}

fn parse(series: &Series) -> Metrics {
    let lines: Vec<_> = series.iter().map(|(series, value)| format!("{series} {value}\n")).collect();
    Metrics::parse(&lines.concat())
}

/// What `/metrics` calls the metric called `name`.
fn prometheus(name: &str) -> &'static str {
    let known = METRICS.iter().find(|known| known.name == name);
    known.unwrap_or_else(|| panic!("{name} has no name for Prometheus")).prometheus
}

/// Attributes by their keys, as text.
type Attributes = BTreeMap<String, String>;

fn text(attributes: &[KeyValue]) -> Attributes {
    let text = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.clone()) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{}: {other:?}", attribute.key),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}

/// Buckets of an exponential histogram.
struct Buckets<'a> {
    scale: i32,
    zero_count: u64,
    offset: i32,
    counts: &'a [u64],
}

impl Buckets<'_> {
    /// Writes as many classic buckets as there are from `threshold` on.
    #[expect(clippy::cast_precision_loss, reason = "so /metrics writes them")]
    fn write(&self, series: &mut Series, name: &str, attributes: &Attributes, threshold: f64) {
        let Self { scale, zero_count, offset, counts } = *self;
        let bound = |index: i32| (f64::from(index) / f64::from(1 << scale)).exp2();
        for limit in BOUNDS.map(|exponent| f64::from(exponent).exp2()).filter(|limit| *limit >= threshold) {
            // A bucket reaches up to the next one's lower bound.
            let is_below =
                |place: usize| bound(offset + i32::try_from(place).expect("few") + 1) <= limit * (1.0 + f64::EPSILON);
            let below: u64 =
                counts.iter().enumerate().filter(|(place, _)| is_below(*place)).map(|(_, count)| count).sum();
            series.insert(named(name, "_bucket", attributes, Some(limit)), (zero_count + below) as f64);
        }
    }
}

type Series = BTreeMap<String, f64>;

#[expect(clippy::cast_precision_loss, reason = "so /metrics writes them")]
fn numbers(series: &mut Series, name: &str, points: &[NumberDataPoint]) {
    for point in points {
        let value = match point.value.expect("has a value") {
            Number::AsInt(value) => value as f64,
            Number::AsDouble(value) => value,
        };
        let before = series.insert(named(name, "", &text(&point.attributes), None), value);
        assert_eq!(before, None, "twice: {name} {:?}", point.attributes);
    }
}

fn exponential(series: &mut Series, name: &str, point: &ExponentialHistogramDataPoint) {
    let (positive, attributes) = (point.positive.clone().unwrap_or_default(), text(&point.attributes));
    let buckets = Buckets {
        scale: point.scale,
        zero_count: point.zero_count,
        offset: positive.offset,
        counts: &positive.bucket_counts,
    };
    buckets.write(series, name, &attributes, point.zero_threshold);
    whole(series, name, &attributes, point.count, point.sum);
}

#[expect(clippy::cast_precision_loss, reason = "so /metrics writes them")]
fn explicit(series: &mut Series, name: &str, point: &HistogramDataPoint) {
    let (mut count, attributes) = (0, text(&point.attributes));
    for (bound, more) in point.explicit_bounds.iter().zip(&point.bucket_counts) {
        count += more;
        series.insert(named(name, "_bucket", &attributes, Some(*bound)), count as f64);
    }
    whole(series, name, &attributes, point.count, point.sum);
}

#[expect(clippy::cast_precision_loss, reason = "so /metrics writes them")]
fn whole(series: &mut Series, name: &str, attributes: &Attributes, count: u64, sum: Option<f64>) {
    series.insert(named(name, "_bucket", attributes, Some(f64::INFINITY)), count as f64);
    series.insert(named(name, "_count", attributes, None), count as f64);
    series.insert(named(name, "_sum", attributes, None), sum.expect("has a sum"));
}

/// A series with the labels that `attributes` stand for.
fn named(name: &str, suffix: &str, attributes: &Attributes, bound: Option<f64>) -> String {
    let mut labels = BTreeMap::new();
    let mut protocol = [String::new(), String::new()];
    for (key, value) in attributes {
        let value = value.clone();
        match key.as_str() {
            "network.protocol.name" => protocol[0] = value,
            "network.protocol.version" => protocol[1] = value,
            key => {
                let (label, _) = LABELS.iter().find(|(_, known)| *known == key).expect("a known attribute");
                labels.insert(*label, if value == "_OTHER" { "other".to_owned() } else { value });
            }
        }
    }
    // What is said by saying nothing.
    match name {
        "tidewaiter_api_protocol_flows_total" => {
            let [name, version] = protocol;
            labels.insert("protocol", if name.is_empty() { "unknown".to_owned() } else { name + &version });
        }
        "tidewaiter_api_responses_total" => {
            labels.entry("code").or_insert_with(|| "other".to_owned());
        }
        "tidewaiter_api_info" => {
            labels.entry("expect").or_default();
        }
        _ => {}
    }
    let mut labels: Vec<_> = labels.into_iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    labels.extend(bound.map(|bound| {
        let bound = if bound.is_infinite() { "+Inf".to_owned() } else { bound.to_string() };
        format!("le=\"{bound}\"")
    }));
    if labels.is_empty() { format!("{name}{suffix}") } else { format!("{name}{suffix}{{{}}}", labels.join(",")) }
}
