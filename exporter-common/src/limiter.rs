//! Limits of rates: GCRA, the generic cell rate algorithm (ITU-T I.371 annex A, as virtual scheduling), on one word.
//!
//! The word is the *theoretical arrival time*: when the bucket will be full again. Whatever passes moves it on by what it
//! costs, from now if it lies in the past, and may pass if it then lies no further ahead than the whole burst costs. That is
//! a token bucket that holds the burst and is refilled all the time; a full bucket is a word that is in the past, so nothing
//! has to be done for it, and what is refused changes nothing.
//!
//! # What is guaranteed
//! The coarse clock of the kernel costs 6 ns and is behind by up to a tick (1 to 10 ms, 4 by default), the precise one costs
//! 40. So first the coarse one is asked: earlier than it is, the bucket is less full, so what conforms then does so now. Only if
//! it does not is the precise one read, and that decides: for those who use up the burst within a tick. A bucket that is full is
//! taken from as of the coarse time, so it is refilled for up to a tick more. Hence, with *tick* how far the coarse clock was
//! behind, and *skew* how far the clocks of CPUs were apart:
//!
//! * Never more than `burst + rate × (W + tick + skew)` passes in any window of length W. The first that passes in it leaves the
//!   word at what it costs from the coarse time on, or later; each that follows moves it on by what it costs; and the last leaves
//!   it at most the burst ahead of its own time.
//! * Nothing is refused that conforms, given what had passed before. Of units that cost the same, as many pass up to
//!   any moment as the definition lets pass, or more: what was let through early can only be missing later.
//!
//! Both in terms of what units cost here: at most what the rate says, less by not more than one part in 2^31 and, for each
//! decision, one step of the word, 1/256 of a nanosecond (0.07 % of 60 bytes at 400 Gbit/s).
//!
//! What is more than the burst by itself never conforms, as in the definition. A super-packet is such a whole: see
//! [`LEAST_BYTE_BURST`] and [`LEAST_PACKET_BURST`].
//!
//! # Where the word ends
//! It goes round in 2.3 years and is compared as such, so there is no time at which it ends. What is further ahead than any
//! decision leaves it (by more than the burst and [`TRUSTED_LAG`]) is not ahead but long past, or was left by a former limit
//! of lower rate: the bucket is full. So is one whose word is 0, which is how a table begins. The one thing that is taken for
//! something else is a word that nobody has touched for 2.3 years to within what a burst takes: that may have to wait for it.

#[cfg(not(target_arch = "bpf"))]
use core::time::Duration;

use crate::atomic;

/// A step of the word is 2^-8 nanoseconds.
pub(crate) const STEP_SHIFT: u32 = 8;

/// The highest rate, in units per second (of bytes, 2 Tbit/s): one unit costs at least one step of the word.
pub const MOST_PER_SECOND: u64 = 1_000_000_000 << STEP_SHIFT;

/// The longest that an empty bucket may take to be full, which is burst divided by rate: 208 days, a quarter of what the
/// word goes round in.
#[cfg(not(target_arch = "bpf"))]
pub const LONGEST_REFILL: Duration = Duration::from_nanos(1 << (62 - STEP_SHIFT));

/// How far behind another a clock may be, in nanoseconds: far more than a tick, or than CPUs' clocks are apart.
pub const TRUSTED_LAG: u64 = 1_000_000_000;

/// The least burst that makes sense for a limit in bytes. What the stack sees may be a super-packet (GSO, GRO), which passes
/// or not as a whole, and never passes if it is more than the burst: of 64 KiB of payload (`GSO_LEGACY_MAX_SIZE`,
/// `include/linux/netdevice.h`) and each segment's headers, up to as much again. Who has allowed larger ones on an interface
/// (`gso_max_size`, `gro_max_size`, up to 512 KiB) needs a larger burst.
pub const LEAST_BYTE_BURST: u64 = 128 << 10;

/// The least burst that makes sense for a limit in packets, for the same reason: 64 KiB in segments of an Ethernet's 1,448
/// bytes are 46, and in those of 1,024, which are less than any path of today makes, 64.
pub const LEAST_PACKET_BURST: u64 = 64;

/// How often the word is tried to be moved on at the coarse clock's time, before the precise one is asked.
const COARSE_ATTEMPTS: u32 = 2;

/// How often it is tried at the precise clock's time, before what conforms passes uncounted.
///
/// An attempt fails only if another CPU's has succeeded meanwhile. So for this to happen, that many others must have taken from
/// the same bucket within less than a microsecond, which still had enough for one more: traffic is not hurt for that. More
/// attempts cost whoever loads the programs: the verifier follows each.
const PRECISE_ATTEMPTS: u32 = 8;

/// A rate and a burst, in the terms of the word: worked out in userspace, so that the kernel has nothing to divide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Limit {
    /// What one unit costs, in steps shifted left by `shift`. A product with `most_units` holds in a word.
    multiplier: u64,
    /// See `multiplier`.
    shift: u32,
    /// The most units that a decision may be about: the burst, or all ones if that is more.
    most_units: u32,
    /// What the whole burst costs, in steps.
    capacity: u64,
    /// How far ahead the word may be, in steps; further, it is past.
    horizon: u64,
}

#[cfg(feature = "user")]
// SAFETY: integers without padding between them, every bit pattern is valid.
unsafe impl aya::Pod for Limit {}

const _: () = assert!(size_of::<Limit>() == 32 && align_of::<Limit>() == 8);

/// What cannot be a limit.
#[cfg(not(target_arch = "bpf"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// Nothing would ever pass.
    #[error("a rate of 0 lets nothing pass, expected at least 1 per period: to let nothing pass, drop it")]
    NoRate,
    /// A rate without a time.
    #[error("a rate of {units} per 0 s, expected a period such as 1s")]
    NoPeriod {
        /// The units of it.
        units: u64,
    },
    /// No unit would ever conform.
    #[error("a burst of 0 lets nothing pass, expected at least 1")]
    NoBurst,
    /// More than the arithmetic holds.
    #[error("a rate of {units} per {period:?} is above {MOST_PER_SECOND} per second, the most that can be limited")]
    TooFast {
        /// The units of it.
        units: u64,
        /// Its period.
        period: Duration,
    },
    /// More than the arithmetic holds.
    #[error(
        "a burst of {burst} at {units} per {period:?} takes more than {} days to be there again, expected a smaller burst or a \
         higher rate",
        LONGEST_REFILL.as_secs() / 86_400
    )]
    TooSlow {
        /// The units of the rate.
        units: u64,
        /// The period of the rate.
        period: Duration,
        /// The burst.
        burst: u64,
    },
}

impl Limit {
    /// What nobody asks: it lets nothing pass.
    pub const NONE: Self = Self { multiplier: 0, shift: 0, most_units: 0, capacity: 0, horizon: 0 };

    /// `units` in each `period`, and at most `burst` at once. Units are whatever is counted: packets, bytes, connections,
    /// requests.
    #[cfg(not(target_arch = "bpf"))]
    pub fn new(units: u64, period: Duration, burst: u64) -> Result<Self, LimitError> {
        match (units, burst) {
            (0, _) => return Err(LimitError::NoRate),
            (_, 0) => return Err(LimitError::NoBurst),
            _ if period.is_zero() => return Err(LimitError::NoPeriod { units }),
            _ => {}
        }
        let too_slow = LimitError::TooSlow { units, period, burst };
        // A duration has less than 2^94 nanoseconds.
        let steps = period.as_nanos() << STEP_SHIFT;
        let rate = u128::from(units);
        if steps < rate {
            return Err(LimitError::TooFast { units, period });
        }
        let capacity = steps.checked_mul(u128::from(burst)).ok_or(too_slow)? / rate;
        if capacity > LONGEST_REFILL.as_nanos() << STEP_SHIFT {
            return Err(too_slow);
        }
        // One unit costs no more than the burst, so all of this holds in a word.
        let cost = steps / rate;
        let shift = 32_u32.saturating_sub(u128::BITS - cost.leading_zeros());
        let fraction = ((steps % rate) << shift) / rate;
        Ok(Self {
            multiplier: ((cost << shift) + fraction) as u64,
            shift,
            most_units: u32::try_from(burst).unwrap_or(u32::MAX),
            capacity: capacity as u64,
            horizon: capacity as u64 + (TRUSTED_LAG << STEP_SHIFT),
        })
    }

    /// Where the word is to be moved on to by what costs `cost` at the time `now`; `None` if that does not conform.
    #[inline(always)]
    const fn next(&self, word: u64, now: u64, cost: u64) -> Option<u64> {
        let ahead = word.wrapping_sub(now);
        let ahead = if word == 0 || ahead > self.horizon { 0 } else { ahead };
        if ahead + cost > self.capacity {
            return None;
        }
        let next = now.wrapping_add(ahead + cost);
        // 0 is for what was never used.
        Some(if next == 0 { 1 } else { next })
    }

    /// Takes what costs `cost` from the bucket, if it conforms at the time `now`, and says whether it did; `None` if others were
    /// faster in each of so many attempts.
    ///
    /// # Safety
    /// As for [`atomic::add`].
    #[inline(always)]
    unsafe fn take(&self, word: *mut u64, cost: u64, now: u64, attempts: u32) -> Option<bool> {
        // SAFETY: the caller's.
        let mut seen = unsafe { word.read_volatile() };
        for _ in 0..attempts {
            let Some(next) = self.next(seen, now, cost) else { return Some(false) };
            // SAFETY: the caller's.
            let found = unsafe { atomic::compare_exchange(word, seen, next) };
            if found == seen {
                return Some(true);
            }
            seen = found;
        }
        None
    }

    /// Whether `units` at once are within this limit; then they are taken from the bucket whose word it is. Times are in
    /// nanoseconds since any moment, the same for all decisions on a word; the coarse one is never ahead of the precise one.
    ///
    /// See the [module](self) for what that guarantees.
    ///
    /// # Safety
    /// `word` is aligned, may be written to, and whoever else writes to it does so atomically.
    #[inline(always)]
    pub unsafe fn admit(&self, word: *mut u64, units: u64, coarse: u64, precise: impl FnOnce() -> u64) -> bool {
        if units > u64::from(self.most_units) {
            return false;
        }
        let cost = (units * self.multiplier) >> self.shift;
        // SAFETY: the caller's.
        let is_taken = unsafe { self.take(word, cost, coarse << STEP_SHIFT, COARSE_ATTEMPTS) };
        // SAFETY: the caller's.
        is_taken == Some(true)
            || unsafe { self.take(word, cost, precise() << STEP_SHIFT, PRECISE_ATTEMPTS) }.unwrap_or(true)
    }
}
