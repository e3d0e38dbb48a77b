//! One histogram for all formats: classic buckets, which every format can have, and native ones, which protobuf has beside.

use std::fmt;

use prometheus_client::encoding::{MetricEncoder, NativeHistogram, NativeHistogramBuckets};
use tidewaiter_common::histogram::{BUCKETS, SCALE};

use super::NoLabels;
use crate::snapshot::{Histogram, Range};

/// How many buckets each doubling has: the classic buckets, a doubling each, are made of so many.
const PER_DOUBLING: usize = 1 << SCALE;

/// Gaps between native buckets that are bridged by empty ones rather than told, as Prometheus' own clients do: it takes
/// fewer bytes, and Prometheus has fewer layouts to convert.
const BRIDGED: usize = 2;

/// Writes `histogram`, of durations of `range`, in seconds.
pub(super) fn encode(encoder: &mut MetricEncoder<'_>, range: Range, histogram: &Histogram) -> fmt::Result {
    #[expect(clippy::cast_precision_loss, reason = "a sum of more than 104 days may be off by nanoseconds")]
    let sum = histogram.sum as f64 / 1e9;
    let native = Native::new(range, histogram);
    encoder.encode_histogram_with_native::<NoLabels>(
        sum,
        histogram.count(),
        &classic(range, histogram),
        None,
        NativeHistogram {
            schema: SCALE,
            zero_threshold: power_of_two(range.lowest() >> SCALE),
            zero_count: histogram.counts[0],
            negative: NativeHistogramBuckets { spans: &[], deltas: &[] },
            positive: NativeHistogramBuckets { spans: &native.spans, deltas: &native.deltas },
            created: None,
        },
    )
}

/// Upper bounds with how many durations are below each and above the one before. All of them, always: a bound that came
/// and went would break every rate over it. What is above the highest is in the total alone, `le="+Inf"`.
fn classic(range: Range, histogram: &Histogram) -> Vec<(f64, u64)> {
    let lowest = range.lowest() >> SCALE;
    let (zero, others) = histogram.counts[..=BUCKETS].split_at(1);
    let counts = [zero].into_iter().chain(others.chunks(PER_DOUBLING)).map(|counts| counts.iter().sum());
    (lowest..).map(power_of_two).zip(counts).collect()
}

/// Native buckets: runs of them with the gaps before, and each one's difference to the one before.
#[derive(Debug, PartialEq)]
struct Native {
    spans: Vec<(i32, u32)>,
    deltas: Vec<i64>,
}

impl Native {
    fn new(range: Range, histogram: &Histogram) -> Self {
        let mut native = Self { spans: Vec::new(), deltas: Vec::new() };
        let mut previous = 0_i64;
        // Native bucket `n` reaches up to 2^(n/4), so ours at place 1 has the number after that of the lowest bound. What is
        // above our highest bound has no upper one, which a native bucket needs: it goes into the next bucket, so that
        // the buckets add up to the total, and a quantile up there is at least not below the highest bound.
        let mut gap = range.lowest() + 1;
        for &count in &histogram.counts[1..] {
            if count == 0 {
                gap += 1;
                continue;
            }
            let bridge = usize::try_from(gap).unwrap_or(usize::MAX);
            let count = count.cast_signed();
            match native.spans.last_mut() {
                Some((_, length)) if bridge <= BRIDGED => {
                    *length += gap.unsigned_abs() + 1;
                    for _ in 0..bridge {
                        native.deltas.push(-previous);
                        previous = 0;
                    }
                }
                _ => native.spans.push((gap, 1)),
            }
            native.deltas.push(count - previous);
            previous = count;
            gap = 0;
        }
        native
    }
}

/// 2^`exponent`, exactly.
fn power_of_two(exponent: i32) -> f64 {
    2_f64.powi(exponent)
}

#[cfg(test)]
mod tests {
    use super::{BUCKETS, Histogram, Native, Range, classic};

    fn histogram(counts: &[(usize, u64)]) -> Histogram {
        let mut histogram = Histogram::default();
        for (place, count) in counts {
            histogram.counts[*place] = *count;
        }
        histogram
    }

    #[test]
    fn classic_buckets_are_doublings_and_always_all_there() {
        for (range, lowest, highest) in
            [(Range::Latency, 1.0 / 1_048_576.0, 256.0), (Range::Lifetime, 1.0 / 4096.0, 65_536.0)]
        {
            let all = histogram(&[(0, 5), (1, 1), (4, 2), (5, 10), (BUCKETS, 20), (BUCKETS + 1, 100)]);
            let buckets = classic(range, &all);
            assert_eq!(buckets.len(), 29);
            assert_eq!(buckets[..3], [(lowest, 5), (lowest * 2.0, 3), (lowest * 4.0, 10)]);
            assert_eq!(buckets[28], (highest, 20));
            let bounds = |buckets: Vec<(f64, u64)>| buckets.into_iter().map(|(bound, _)| bound).collect::<Vec<_>>();
            assert_eq!(bounds(buckets), bounds(classic(range, &Histogram::default())));
        }
    }

    #[test]
    fn native_buckets_are_runs_with_short_gaps_bridged() {
        let native = |counts: &[(usize, u64)]| {
            let Native { spans, deltas } = Native::new(Range::Latency, &histogram(counts));
            (spans, deltas)
        };
        assert_eq!(native(&[]), (vec![], vec![]));
        // The zero bucket is none of them.
        assert_eq!(native(&[(0, 7)]), (vec![], vec![]));
        // The first is above 2^(-80/4) and up to 2^(-79/4); the one behind the highest has the number of that and one.
        assert_eq!(native(&[(1, 7), (BUCKETS + 1, 3)]), (vec![(-79, 1), (111, 1)], vec![7, -4]));
        assert_eq!(native(&[(81, 1), (82, 5), (85, 2)]), (vec![(1, 5)], vec![1, 4, -5, 0, 2]));
        assert_eq!(native(&[(81, 1), (82, 5), (86, 2)]), (vec![(1, 2), (3, 1)], vec![1, 4, -3]));
    }
}
