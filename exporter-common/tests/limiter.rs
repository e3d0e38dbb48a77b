//! Limits: what passes, against the definition in exact arithmetic.

#![allow(clippy::expect_used, reason = "a test panics for a stack trace")]

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use proptest::{collection::vec, prelude::*};
use tidewaiter_common::limiter::{LONGEST_REFILL, Limit, LimitError, MOST_PER_SECOND, TRUSTED_LAG};

const SECOND: u64 = 1_000_000_000;
const TICK: u64 = 4_000_000;
/// What the word goes round in, in nanoseconds.
const ROUND: u64 = 1 << 56;

fn limit(units: u64, nanoseconds: u64, burst: u64) -> Limit {
    Limit::new(units, Duration::from_nanos(nanoseconds), burst).expect("a limit within the bounds")
}

/// A limit and its word, asked by one CPU.
struct Bucket {
    limit: Limit,
    word: u64,
}

impl Bucket {
    const fn new(limit: Limit) -> Self {
        Self { limit, word: 0 }
    }

    /// Whether `units` pass; the clocks show these times.
    fn admit(&mut self, units: u64, coarse: u64, precise: u64) -> bool {
        // SAFETY: the word is this bucket's own.
        unsafe { self.limit.admit(&raw mut self.word, units, coarse, || precise) }
    }

    /// How often a single unit passes of `offered` at the same time.
    fn burst(&mut self, offered: u64, now: u64) -> u64 {
        (0..offered).filter(|_| self.admit(1, now, now)).count() as u64
    }
}

/// A token bucket by its definition. Tokens are counted in fractions of which `period` are one, so nothing is rounded.
struct Model {
    units: u128,
    period: u128,
    burst: u128,
    tokens: u128,
    then: u128,
}

impl Model {
    fn new(units: u64, period: u64, burst: u64) -> Self {
        let [units, period, burst] = [units, period, burst].map(u128::from);
        Self { units, period, burst, tokens: burst * period, then: 0 }
    }

    fn admit(&mut self, units: u64, now: u64) -> bool {
        let since = u128::from(now) - self.then;
        self.then = now.into();
        self.tokens = (self.tokens + since * self.units).min(self.burst * self.period);
        let price = u128::from(units) * self.period;
        let is_paid = price <= self.tokens;
        if is_paid {
            self.tokens -= price;
        }
        is_paid
    }
}

/// Times and rates of every order of magnitude: up to `most`.
fn magnitudes(most: u64) -> impl Strategy<Value = u64> {
    (1..=most, 0..most.ilog2()).prop_map(|(value, shift)| (value >> shift).max(1))
}

/// Units, their period in nanoseconds, and a burst, such that a limit of them can be.
fn limits() -> impl Strategy<Value = (u64, u64, u64)> {
    (magnitudes(MOST_PER_SECOND), magnitudes(SECOND * 3_600), magnitudes(1 << 34))
        .prop_filter("within the bounds", |&(units, period, burst)| {
            Limit::new(units, Duration::from_nanos(period), burst).is_ok()
        })
}

/// How long a unit takes, in nanoseconds, at least 1: steps between arrivals are around it.
fn interval(units: u64, period: u64, of: u64) -> u64 {
    (u128::from(period) * u128::from(of) / u128::from(units)).clamp(1, u128::from(SECOND) << 10) as u64
}

/// One offer: how many units (in 256ths of the burst), after what time (in 64ths of what they cost), and how far the clocks
/// are behind.
type Offer = (u64, u64, u64, u64);

fn offers(skew: u64) -> impl Strategy<Value = Vec<Offer>> {
    vec((0_u64..=260, prop_oneof![8 => 0_u64..128, 1 => 0_u64..20_000], 0..=skew, 0..=TICK), 1..120)
}

/// The offers as `(units, time)`, the time in nanoseconds from the beginning.
fn arrivals(offers: &[Offer], (units, period, burst): (u64, u64, u64)) -> Vec<(u64, u64)> {
    let mut now = 0;
    let offer = |&(part, wait, ..): &Offer| {
        let offered = (u128::from(burst) * u128::from(part) / 256).max(1) as u64;
        now += (u128::from(interval(units, period, offered)) * u128::from(wait) / 64) as u64;
        (offered, now)
    };
    offers.iter().map(offer).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn it_is_the_definition_to_the_unit_where_nothing_is_rounded(
        shift in 0_u32..=8,
        period in magnitudes(SECOND * 60),
        burst in magnitudes(100_000),
        offers in offers(0),
        start in any::<u64>(),
    ) {
        // A unit costs a whole number of steps, which are 256ths of a nanosecond.
        let rate = (1 << shift, period, burst);
        let (mut bucket, mut model) = (Bucket::new(limit(rate.0, rate.1, rate.2)), Model::new(rate.0, rate.1, rate.2));
        for (units, now) in arrivals(&offers, rate) {
            let (time, before) = (start.wrapping_add(now), bucket.word);
            let passes = bucket.admit(units, time, time);
            prop_assert_eq!(passes, model.admit(units, now), "{} units at {}", units, now);
            prop_assert!(passes || bucket.word == before, "what is refused changes nothing");
        }
    }

    #[test]
    fn no_more_passes_in_any_window_than_is_said(
        rate in limits(),
        offers in offers(1_000_000),
        start in any::<u64>(),
    ) {
        let (units, period, burst) = rate;
        let (mut bucket, mut passed) = (Bucket::new(limit(units, period, burst)), vec![]);
        for ((offered, now), (.., skew, lag)) in arrivals(&offers, rate).into_iter().zip(&offers) {
            let precise = start.wrapping_add(now).wrapping_sub(*skew);
            if bucket.admit(offered, precise.wrapping_sub(*lag), precise) {
                passed.push((offered, now));
            }
        }
        let [units, period, burst] = [units, period, burst].map(u128::from);
        for (first, (_, begin)) in passed.iter().enumerate() {
            let (mut total, mut decisions) = (0_u128, 0_u128);
            for (offered, end) in &passed[first..] {
                (total, decisions) = (total + u128::from(*offered), decisions + 1);
                let window = u128::from(end - begin + TICK + 1_000_000);
                // Both sides times 256 and the period; what is rounded is at most a step a decision, and 2^-31 of it all.
                let most = (burst * period + units * window) * 256 + units * decisions + ((total * period) >> 23) + 1;
                prop_assert!(total * period * 256 <= most, "{total} units from {begin} to {end}");
            }
        }
    }

    #[test]
    fn of_equal_packets_as_many_pass_as_by_the_definition_or_more(
        (units, period, burst) in limits(),
        part in 1_u64..=256,
        offers in offers(0),
    ) {
        let (mut bucket, mut model) = (Bucket::new(limit(units, period, burst)), Model::new(units, period, burst));
        let packet = (u128::from(burst) * u128::from(part) / 256).clamp(1, u32::MAX.into()) as u64;
        let (mut now, mut passed, mut due) = (TICK, 0, 0);
        for (_, wait, _, lag) in offers {
            now += (u128::from(interval(units, period, packet)) * u128::from(wait) / 64) as u64;
            passed += u64::from(bucket.admit(packet, now - lag, now));
            due += u64::from(model.admit(packet, now));
            prop_assert!(passed >= due, "{passed} of {packet} units passed until {now}, {due} by the definition");
        }
    }

    #[test]
    fn after_any_pause_there_is_one_burst(
        units in 1_u64..1_000_000,
        // At shorter ones, what is rounded for each makes one more of a thousand.
        each in magnitudes(SECOND).prop_map(|each| each + 10),
        rest in any::<u64>(),
        burst in 1_u64..1_000,
        start in any::<u64>(),
        pause in 0..ROUND,
    ) {
        let period = units * each + rest % units;
        let refill = interval(units, period, burst) + 1;
        prop_assume!((refill..ROUND - refill).contains(&pause));
        let mut bucket = Bucket::new(limit(units, period, burst));
        prop_assert_eq!(bucket.burst(burst + 5, start), burst);
        prop_assert_eq!(bucket.burst(burst + 5, start.wrapping_add(pause)), burst);
    }
}

#[test]
fn the_precise_clock_is_read_only_if_the_coarse_one_refuses() {
    let limit = limit(1_000, SECOND, 2);
    let mut word = 0;
    let reads = Cell::new(0);
    let mut admit = |coarse, precise| {
        // SAFETY: the word is this test's own.
        let passes = unsafe {
            limit.admit(&raw mut word, 1, coarse, || {
                reads.set(reads.get() + 1);
                precise
            })
        };
        (passes, reads.take())
    };
    let now = 10 * SECOND;
    assert_eq!([(); 3].map(|()| admit(now, now)), [(true, 0), (true, 0), (false, 1)]);
    // A unit is there again after a millisecond, which the coarse clock does not show.
    assert_eq!(admit(now, now + 999_999), (false, 1));
    assert_eq!(admit(now, now + 1_000_000), (true, 1));
    assert_eq!(admit(now, now + 1_000_000), (false, 1));
    assert_eq!(admit(now + TICK, now + TICK), (true, 0));
}

#[test]
fn what_is_more_than_the_burst_never_passes() {
    let mut bucket = Bucket::new(limit(1_000, SECOND, 1_500));
    assert!(!bucket.admit(1_501, SECOND, SECOND) && !bucket.admit(u64::MAX, SECOND, SECOND));
    assert_eq!(bucket.word, 0);
    assert!(bucket.admit(1_500, SECOND, SECOND) && !bucket.admit(1, SECOND, SECOND));
    // A burst may be more than a decision can be about.
    let mut bucket = Bucket::new(limit(MOST_PER_SECOND, SECOND, 1 << 40));
    assert!(!bucket.admit(1 << 32, SECOND, SECOND));
    assert!((0..256).all(|_| bucket.admit((1 << 32) - 1, SECOND, SECOND)));
    assert!(bucket.admit(256, SECOND, SECOND) && !bucket.admit(1, SECOND, SECOND));
}

#[test]
fn a_slower_clock_is_believed_and_a_former_limit_forgiven() {
    let slow = limit(1, 3_600 * SECOND, 5);
    let mut bucket = Bucket::new(slow);
    let now = 20_000 * SECOND;
    assert_eq!(bucket.burst(10, now), 5);
    assert_eq!(bucket.burst(10, now - TRUSTED_LAG), 0);
    // The same bucket with a limit that could not have left it so.
    bucket.limit = limit(100, SECOND, 50);
    assert_eq!(bucket.burst(100, now), 50);
    // And one that could: what it allows has been used.
    bucket.limit = limit(100, SECOND, 100);
    assert_eq!(bucket.burst(100, now), 50);
}

#[test]
fn rates_are_exact_where_they_are_highest_and_lowest() {
    // 400 Gbit/s of the smallest packets and of the largest, and others.
    for (rate, size) in [(50_000_000_000, 60), (50_000_000_000, 65_536), (12_500_000, 1_500), (1_000, 1)] {
        let (mut bucket, interval) = (Bucket::new(limit(rate, SECOND, 10 * size)), 1 + size * SECOND / rate / 10);
        let (mut total, mut now) = (0, SECOND);
        while total < 20_000 * size {
            total += if bucket.admit(size, now, now) { size } else { 0 };
            now += interval;
        }
        let due = u128::from(rate) * u128::from(now - SECOND) / u128::from(SECOND) + u128::from(10 * size);
        let error = u128::from(total).abs_diff(due) * 10_000 / due;
        assert!(error <= 20, "{rate} a second, packets of {size}: {total} passed instead of {due}");
    }
    let hour = 3_600 * SECOND;
    let mut bucket = Bucket::new(limit(1, hour, 1));
    assert!(bucket.admit(1, SECOND, SECOND));
    assert!(!bucket.admit(1, SECOND, SECOND + hour - 1));
    assert!(bucket.admit(1, SECOND, SECOND + hour));
    // 30 a minute, and the same otherwise.
    assert_eq!(limit(30, 60 * SECOND, 7), limit(1, 2 * SECOND, 7));
}

#[test]
fn what_cannot_be_held_is_refused() {
    let new = |units, nanoseconds, burst| Limit::new(units, Duration::from_nanos(nanoseconds), burst);
    let (second, longest) = (Duration::from_secs(1), u64::try_from(LONGEST_REFILL.as_nanos()).expect("208 days"));
    assert_eq!(new(0, SECOND, 1), Err(LimitError::NoRate));
    assert_eq!(new(1, 0, 1), Err(LimitError::NoPeriod { units: 1 }));
    assert_eq!(new(1, SECOND, 0), Err(LimitError::NoBurst));

    assert!(new(MOST_PER_SECOND, SECOND, 1).is_ok() && new(256, 1, 1).is_ok());
    let units = MOST_PER_SECOND + 1;
    assert_eq!(new(units, SECOND, 1), Err(LimitError::TooFast { units, period: second }));
    assert_eq!(new(u64::MAX, 1, 1), Err(LimitError::TooFast { units: u64::MAX, period: Duration::from_nanos(1) }));

    assert!(new(1, longest, 1).is_ok() && new(1_000, longest, 1_000).is_ok() && new(1, longest / 4, 4).is_ok());
    for (units, period, burst) in [
        (1, LONGEST_REFILL + Duration::from_nanos(1), 1),
        (1_000, LONGEST_REFILL, 1_001),
        (1, second, u64::MAX),
        (1, Duration::MAX, u64::MAX),
        (u64::MAX, Duration::MAX, u64::MAX),
    ] {
        assert_eq!(Limit::new(units, period, burst), Err(LimitError::TooSlow { units, period, burst }));
    }
    // The longest, at the end of what holds in a word.
    let mut bucket = Bucket::new(limit(1, longest, 1));
    assert!(bucket.admit(1, u64::MAX, u64::MAX));
    assert!(!bucket.admit(1, longest - 2, longest - 2) && bucket.admit(1, longest - 1, longest - 1));
}

#[test]
fn cpus_share_a_bucket() {
    const THREADS: u64 = 4;
    const OFFERS: u64 = 200_000;
    // A second in all, less what a clock may be behind another: who is interrupted here is behind by that.
    const STEP: u64 = 9 * SECOND / 10 / (THREADS * OFFERS);
    for (rate, burst) in [(1_000, 10), (100_000, 100), (10_000_000, 1)] {
        let limit = limit(rate, SECOND, burst);
        let (word, clock, start) = (AtomicU64::new(0), AtomicU64::new(0), 5 * SECOND);
        let offer = || {
            let passes = |_: &u64| {
                let now = start + clock.fetch_add(STEP, Ordering::SeqCst);
                // SAFETY: all write to it so.
                unsafe { limit.admit(word.as_ptr(), 1, now / TICK * TICK, || now) }
            };
            (0..OFFERS).filter(passes).count() as u64
        };
        let passed: u64 = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(offer)).collect();
            threads.into_iter().map(|thread| thread.join().expect("it does not panic")).sum()
        });
        let window = clock.into_inner();
        let most = burst + rate * (window + TICK) / SECOND + 1;
        assert!(passed <= most, "{passed} passed, at most {most} may");
        // Who was interrupted asks too late; all others ask as often as the rate allows, or too often.
        let least = (rate * window / SECOND).min(THREADS * OFFERS) * 9 / 10;
        assert!(passed >= least, "{passed} passed, {least} are due");
    }
}
