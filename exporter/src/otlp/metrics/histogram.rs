//! Histograms: from Prometheus' native buckets to OpenTelemetry's exponential ones, which are the same by another number; or
//! from its classic ones to explicit ones.

use opentelemetry_proto::tonic::{
    common::v1::KeyValue,
    metrics::v1::{ExponentialHistogramDataPoint, HistogramDataPoint, exponential_histogram_data_point::Buckets},
};
use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::Histogram;

/// The most buckets that are written. Ours are 113 at most; this is for what would not be ours.
const MAX_BUCKETS: usize = 1024;

/// With native buckets, of which nothing is lost.
pub(super) fn exponential(
    histogram: &Histogram,
    attributes: Vec<KeyValue>,
    start_time_unix_nano: u64,
    time_unix_nano: u64,
) -> ExponentialHistogramDataPoint {
    ExponentialHistogramDataPoint {
        attributes,
        start_time_unix_nano,
        time_unix_nano,
        count: histogram.sample_count,
        sum: Some(histogram.sample_sum),
        scale: histogram.schema,
        zero_count: histogram.zero_count,
        zero_threshold: histogram.zero_threshold,
        positive: Some(buckets(histogram)),
        ..ExponentialHistogramDataPoint::default()
    }
}

/// Runs of buckets, each with its difference to the one before, as one run with the counts themselves.
///
/// Prometheus' bucket `n` of schema `s` reaches up to 2^(n/2^s), that bound included, and OpenTelemetry's bucket `i` of scale
/// `s` begins above 2^(i/2^s): the same bucket has a number less ("Prometheus and
/// `OpenMetrics` Compatibility").
fn buckets(histogram: &Histogram) -> Buckets {
    let (mut counts, mut count) = (Vec::new(), 0_i64);
    let mut deltas = histogram.positive_delta.iter();
    for (place, span) in histogram.positive_span.iter().enumerate() {
        let gap = if place == 0 { 0 } else { usize::try_from(span.offset).unwrap_or(0) };
        let length = span.length as usize;
        if counts.len() + gap + length > MAX_BUCKETS {
            break;
        }
        counts.resize(counts.len() + gap, 0);
        for delta in deltas.by_ref().take(length) {
            count += delta;
            counts.push(count.unsigned_abs());
        }
    }
    let offset = histogram.positive_span.first().map_or(0, |span| span.offset - 1);
    Buckets { offset, bucket_counts: counts }
}

/// With classic buckets: the bounds of `/metrics`.
pub(super) fn explicit(
    histogram: &Histogram,
    attributes: Vec<KeyValue>,
    start_time_unix_nano: u64,
    time_unix_nano: u64,
) -> HistogramDataPoint {
    let (mut bucket_counts, mut below) = (Vec::with_capacity(histogram.bucket.len() + 1), 0);
    for bucket in &histogram.bucket {
        bucket_counts.push(bucket.cumulative_count.saturating_sub(below));
        below = bucket.cumulative_count;
    }
    bucket_counts.push(histogram.sample_count.saturating_sub(below));
    HistogramDataPoint {
        attributes,
        start_time_unix_nano,
        time_unix_nano,
        count: histogram.sample_count,
        sum: Some(histogram.sample_sum),
        bucket_counts,
        explicit_bounds: histogram.bucket.iter().map(|bucket| bucket.upper_bound).collect(),
        ..HistogramDataPoint::default()
    }
}
