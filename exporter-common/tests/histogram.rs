//! Histograms: which bucket a duration belongs to, against exact arithmetic.

use proptest::prelude::*;
use tidewaiter_common::histogram::{BUCKETS, Histogram, Range, SCALE};

const RANGES: [Range; 2] = [Range::Latency, Range::Lifetime];

/// The product of `factors`, which has less than 384 bits, its highest limb first: such arrays compare as numbers do.
fn product(factors: &[u64]) -> [u64; 6] {
    let mut limbs = [0, 0, 0, 0, 0, 1];
    for factor in factors {
        let mut carry = 0;
        for limb in limbs.iter_mut().rev() {
            let wide = u128::from(*limb) * u128::from(*factor) + u128::from(carry);
            *limb = wide as u64;
            carry = (wide >> 64) as u64;
        }
        assert_eq!(carry, 0, "{factors:?}");
    }
    limbs
}

/// Whether `nanoseconds` are more than 2^(n/4) seconds: the fourth powers of both are whole numbers, or become so.
fn exceeds(nanoseconds: u64, n: i32) -> bool {
    let power = |exponent: u32| [1 << (exponent / 2), 1 << exponent.div_ceil(2)];
    let (left, right) = if n < 0 { (n.unsigned_abs(), 0) } else { (0, n.unsigned_abs()) };
    product(&[[nanoseconds; 4].as_slice(), &power(left)].concat())
        > product(&[[1_000_000_000; 4].as_slice(), &power(right)].concat())
}

/// The bounds of `range` by their numbers.
fn bounds(range: Range) -> impl Iterator<Item = i32> {
    (range.lowest()..).take(BUCKETS + 1)
}

/// The most nanoseconds that are not more than 2^(n/4) seconds.
fn last_within(n: i32) -> u64 {
    let (mut within, mut beyond) = (0_u64, 1 << 60);
    while beyond - within > 1 {
        let middle = within.midpoint(beyond);
        if exceeds(middle, n) { beyond = middle } else { within = middle }
    }
    within
}

#[test]
fn the_ranges_are_what_they_are_said_to_be() {
    assert_eq!(SCALE, 2);
    for (range, lowest, highest) in [(Range::Latency, -20, 8), (Range::Lifetime, -12, 16)] {
        assert_eq!(bounds(range).min(), Some(lowest * 4));
        assert_eq!(bounds(range).max(), Some(highest * 4));
    }
}

#[test]
fn each_bound_is_the_last_nanosecond_of_its_bucket() {
    for range in RANGES {
        for (bucket, n) in bounds(range).enumerate() {
            let last = last_within(n);
            assert_eq!(
                [last - 1, last, last + 1].map(|nanoseconds| range.bucket(nanoseconds)),
                [bucket, bucket, bucket + 1],
                "{range:?}: {last} ns, 2^({n}/4) s"
            );
        }
        // A second, a power of two, is one to the nanosecond.
        let second = range.lowest().unsigned_abs() as usize;
        assert_eq!([1_000_000_000, 1_000_000_001].map(|one| range.bucket(one)), [second, second + 1]);
        assert_eq!([0, 1, u64::MAX].map(|extreme| range.bucket(extreme)), [0, 0, BUCKETS + 1]);
    }
}

#[test]
fn what_is_observed_is_in_one_bucket_and_in_the_sum() {
    let mut histogram = Histogram::default();
    for nanoseconds in [0, 500, 1_000_000_000, 3_600_000_000_000] {
        histogram.observe(Range::Latency, nanoseconds);
    }
    assert_eq!((histogram.count(), histogram.sum), (4, 3_601_000_000_500));
    assert_eq!([0, 80, BUCKETS + 1].map(|bucket| histogram.counts[bucket]), [2, 1, 1]);

    let mut twice = histogram;
    twice += &histogram;
    assert_eq!((twice.count(), twice.sum), (8, 7_202_000_001_000));
}

/// Durations of every order of magnitude, not nearly all of them of years.
fn durations() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0_u32..64).prop_map(|(bits, shift)| bits >> shift)
}

proptest! {
    #[test]
    fn a_bucket_is_above_its_lower_bound_and_up_to_its_upper(nanoseconds in durations()) {
        for range in RANGES {
            let exceeded = bounds(range).filter(|&n| exceeds(nanoseconds, n)).count();
            prop_assert_eq!(range.bucket(nanoseconds), exceeded);
        }
    }

    #[test]
    fn longer_is_never_in_a_lower_bucket(one in durations(), other in durations()) {
        for range in RANGES {
            prop_assert!(range.bucket(one.min(other)) <= range.bucket(one.max(other)));
        }
    }
}
