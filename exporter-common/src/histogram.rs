//! Histograms of durations: base-2 exponential buckets of scale 2, four to each doubling.
//!
//! These are `OpenTelemetry`'s exponential histogram of scale 2 and Prometheus' native histogram of schema 2, without any
//! loss: a bucket reaches from its lower bound, which it does not include, to its upper bound, which it does. Bounds are
//! 2^(n/4) seconds, so every fourth is a power of two of a second, as the classic text format shows them.

/// How many buckets each doubling has, as the logarithm to base 2: `OpenTelemetry`'s scale, Prometheus' schema.
pub const SCALE: i32 = 2;

/// Buckets of a histogram, without the two at its ends.
pub const BUCKETS: usize = 28 << SCALE;

/// The bounds that there are.
const BOUND_COUNT: usize = (36 << SCALE) + 1;

/// Places in [`BOUNDS`]: as many as 8 bits number, so that no index into it needs a check.
const PLACES: usize = 256;

/// Number of the first bound: 2^-20 seconds, about a microsecond.
const FIRST_BOUND: i32 = -20 << SCALE;

/// All bounds in nanoseconds, rounded down, which makes no difference to a whole number of them; behind them what nothing
/// exceeds.
static BOUNDS: [u64; PLACES] = bounds();

/// What is as long as this or longer is of the same length to a histogram: 292 years.
const LONGEST: u64 = i64::MAX as u64;

const fn bounds() -> [u64; PLACES] {
    /// 2^0, 2^(1/4), 2^(2/4) and 2^(3/4), times 2^62.
    const ROOTS: [u128; 4] =
        [0x4000_0000_0000_0000, 0x4c1b_f828_c6dc_54b7, 0x5a82_7999_fcef_3242, 0x6ba2_7e65_6b4e_b57a];
    let mut bounds = [LONGEST; PLACES];
    let mut at = 0;
    while at < BOUND_COUNT {
        // In units of 2^-62 nanoseconds, of the lowest octave; at most 2^(62 + 30 - 20 + 36).
        let nanoseconds = (1_000_000_000 * ROOTS[at % 4]) << (at / 4) >> 20;
        bounds[at] = (nanoseconds >> 62) as u64;
        at += 1;
    }
    bounds
}

/// Which durations a histogram tells apart; shorter and longer ones are in the two buckets at its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// Latencies: from 2^-20 seconds (a microsecond) to 2^8 (four minutes).
    Latency,
    /// How long something lasted: from 2^-12 seconds (a quarter of a millisecond) to 2^16 (18 hours).
    Lifetime,
}

impl Range {
    /// Number `n` of the lowest bound, which is 2^(n/4) seconds.
    #[must_use]
    pub const fn lowest(self) -> i32 {
        match self {
            Self::Latency => FIRST_BOUND,
            Self::Lifetime => -12 << SCALE,
        }
    }

    /// The bucket that `nanoseconds` belong to: 0 for those up to the lowest bound, `n` for those above the `n`th lowest
    /// bound and up to the next, [`BUCKETS`] + 1 for those above the highest.
    #[inline(always)]
    #[must_use]
    pub fn bucket(self, nanoseconds: u64) -> usize {
        let nanoseconds = nanoseconds.min(LONGEST);
        // How many bounds are exceeded, by halves. Without a branch, because the verifier would follow each way to the end.
        let (mut below, mut step) = (0, PLACES / 2);
        while step > 0 {
            let bound = BOUNDS[(below + step - 1) % PLACES];
            let is_exceeded = bound.wrapping_sub(nanoseconds) >> 63;
            below += step * is_exceeded as usize;
            step /= 2;
        }
        let skipped = self.lowest().abs_diff(FIRST_BOUND) as usize;
        let bucket = below.saturating_sub(skipped);
        if bucket > BUCKETS { BUCKETS + 1 } else { bucket }
    }
}

/// A histogram of durations, of a [`Range`].
///
/// In the kernel each CPU has its own and is the only one to write it; userspace adds the CPUs up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Histogram {
    /// How many there were in each bucket, see [`Range::bucket`].
    pub counts: [u64; BUCKETS + 2],
    /// All of them added up, in nanoseconds.
    pub sum: u64,
}

#[cfg(feature = "user")]
// SAFETY: made of `u64` alone, no padding, every bit pattern is valid.
unsafe impl aya::Pod for Histogram {}

const _: () = assert!(size_of::<Histogram>() == 920);

impl Histogram {
    /// Counts a duration.
    #[inline(always)]
    pub fn observe(&mut self, range: Range, nanoseconds: u64) {
        if let Some(count) = self.counts.get_mut(range.bucket(nanoseconds)) {
            *count += 1;
        }
        self.sum += nanoseconds;
    }

    /// How many durations there are in it.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS + 2], sum: 0 }
    }
}

impl core::ops::AddAssign<&Self> for Histogram {
    fn add_assign(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.sum += other.sum;
    }
}
