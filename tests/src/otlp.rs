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

use crate::metrics::Metrics;

/// Bounds of classic buckets that a histogram may have, as exponents of two: more than there are.
const BOUNDS: std::ops::RangeInclusive<i32> = -20..=16;

/// `metrics` as `/metrics` writes them, histograms with those classic buckets that something is known of.
#[must_use]
pub fn as_prometheus<'a>(metrics: impl IntoIterator<Item = &'a Metric>) -> Metrics {
    let mut series = BTreeMap::new();
    for metric in metrics {
        let known = METRICS.iter().find(|known| known.name == metric.name);
        let name = known.unwrap_or_else(|| panic!("{} has no name for Prometheus", metric.name)).prometheus;
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
    Metrics::parse(&series.iter().map(|(series, value)| format!("{series} {value}\n")).collect::<String>())
}

type Series = BTreeMap<String, f64>;

#[expect(clippy::cast_precision_loss, reason = "so /metrics writes them")]
fn numbers(series: &mut Series, name: &str, points: &[NumberDataPoint]) {
    for point in points {
        let value = match point.value.expect("has a value") {
            Number::AsInt(value) => value as f64,
            Number::AsDouble(value) => value,
        };
        let before = series.insert(named(name, "", &point.attributes, None), value);
        assert_eq!(before, None, "twice: {name} {:?}", point.attributes);
    }
}

#[expect(clippy::cast_precision_loss, reason = "so /metrics writes them")]
fn exponential(series: &mut Series, name: &str, point: &ExponentialHistogramDataPoint) {
    let buckets = point.positive.clone().unwrap_or_default();
    let bound = |index: i32| (f64::from(index) / f64::from(1 << point.scale)).exp2();
    for exponent in BOUNDS.filter(|exponent| f64::from(*exponent).exp2() >= point.zero_threshold) {
        let limit = f64::from(exponent).exp2();
        let below = buckets.bucket_counts.iter().enumerate().filter(|(place, _)| {
            // A bucket reaches up to the next one's lower bound.
            bound(buckets.offset + i32::try_from(*place).expect("few") + 1) <= limit * (1.0 + f64::EPSILON)
        });
        let count = point.zero_count + below.map(|(_, count)| count).sum::<u64>();
        series.insert(named(name, "_bucket", &point.attributes, Some(limit)), count as f64);
    }
    whole(series, name, &point.attributes, point.count, point.sum);
}

#[expect(clippy::cast_precision_loss, reason = "so /metrics writes them")]
fn explicit(series: &mut Series, name: &str, point: &HistogramDataPoint) {
    let mut count = 0;
    for (bound, more) in point.explicit_bounds.iter().zip(&point.bucket_counts) {
        count += more;
        series.insert(named(name, "_bucket", &point.attributes, Some(*bound)), count as f64);
    }
    whole(series, name, &point.attributes, point.count, point.sum);
}

#[expect(clippy::cast_precision_loss, reason = "so /metrics writes them")]
fn whole(series: &mut Series, name: &str, attributes: &[KeyValue], count: u64, sum: Option<f64>) {
    series.insert(named(name, "_bucket", attributes, Some(f64::INFINITY)), count as f64);
    series.insert(named(name, "_count", attributes, None), count as f64);
    series.insert(named(name, "_sum", attributes, None), sum.expect("has a sum"));
}

/// A series with the labels that `attributes` stand for.
fn named(name: &str, suffix: &str, attributes: &[KeyValue], bound: Option<f64>) -> String {
    let text = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.clone()) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{}: {other:?}", attribute.key),
    };
    let mut labels = BTreeMap::new();
    let mut protocol = [String::new(), String::new()];
    for attribute in attributes {
        let value = text(attribute);
        match attribute.key.as_str() {
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
