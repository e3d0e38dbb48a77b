//! How many different things there are among many, without keeping them all.
//!
//! Few are kept as they are, so they are counted exactly; more than that in a `HyperLogLog` of 4096 registers, whose
//! standard error is 1.6 %. The estimate is that of Otmar Ertl, "New cardinality estimation algorithms for `HyperLogLog`
//! sketches" (2017), algorithms 5 and 6, which is free of bias from nothing to any number, and needs no tables.

/// Bits of a hash that choose the register.
const PRECISION: u32 = 12;
/// Registers.
const REGISTERS: usize = 1 << PRECISION;
/// The highest rank that a register can hold: one more than the bits that are left of a hash.
const HIGHEST: usize = (u64::BITS - PRECISION) as usize + 1;
/// How many are kept as they are: they take as much as the registers.
const FEW: usize = REGISTERS / size_of::<u64>();

/// The different hashes that were added.
#[derive(Clone, Debug)]
pub(super) enum Sketch {
    /// Few: all of them, sorted.
    Few(Vec<u64>),
    /// Many: the highest rank of each register.
    Many(Box<[u8; REGISTERS]>),
}

impl Default for Sketch {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Sketch {
    /// Adds `hash`, whose bits must be as good as random.
    pub(super) fn insert(&mut self, hash: u64) {
        match self {
            Self::Many(registers) => raise(registers, hash),
            Self::Few(hashes) => {
                let Err(place) = hashes.binary_search(&hash) else { return };
                if hashes.len() < FEW {
                    hashes.insert(place, hash);
                    return;
                }
                let mut registers = Box::new([0; REGISTERS]);
                hashes.iter().chain([&hash]).for_each(|hash| raise(&mut registers, *hash));
                *self = Self::Many(registers);
            }
        }
    }

    /// How many different hashes there are in all of `sketches` together.
    pub(super) fn estimate<'a>(sketches: impl Iterator<Item = &'a Self>) -> u64 {
        let mut few = Vec::new();
        let mut many: Option<Box<[u8; REGISTERS]>> = None;
        for sketch in sketches {
            match (sketch, &mut many) {
                (Self::Few(hashes), _) => few.extend(hashes),
                (Self::Many(registers), None) => many = Some(registers.clone()),
                (Self::Many(registers), Some(many)) => {
                    many.iter_mut().zip(registers.iter()).for_each(|(mine, theirs)| *mine = (*mine).max(*theirs));
                }
            }
        }
        let Some(mut many) = many else {
            few.sort_unstable();
            few.dedup();
            return few.len() as u64;
        };
        for hash in few {
            raise(&mut many, hash);
        }
        estimate(&many)
    }
}

fn raise(registers: &mut [u8; REGISTERS], hash: u64) {
    // The bit behind the last one ends the search for the first that is set.
    let rank = ((hash << PRECISION) | 1 << (PRECISION - 1)).leading_zeros() as u8 + 1;
    if let Some(register) = registers.get_mut((hash >> (u64::BITS - PRECISION)) as usize) {
        *register = (*register).max(rank);
    }
}

#[expect(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "an estimate, and not a negative one")]
fn estimate(registers: &[u8; REGISTERS]) -> u64 {
    let mut of_rank = [0.0_f64; HIGHEST + 1];
    for rank in registers {
        if let Some(count) = of_rank.get_mut(usize::from(*rank)) {
            *count += 1.0;
        }
    }
    let all = REGISTERS as f64;
    let mut sum = all * tau(1.0 - of_rank[HIGHEST] / all);
    for count in of_rank[1..HIGHEST].iter().rev() {
        sum = 0.5 * (sum + count);
    }
    sum += all * sigma(of_rank[0] / all);
    (all * all / (2.0 * std::f64::consts::LN_2 * sum)).round() as u64
}

/// x + x^2 + 2 x^4 + 4 x^8 + …
fn sigma(mut x: f64) -> f64 {
    let (mut factor, mut sum) = (1.0, x);
    loop {
        x *= x;
        let before = sum;
        sum += x * factor;
        factor *= 2.0;
        // It converges quickly; where all registers are empty it grows beyond all bounds, and the estimate is 0.
        if sum - before <= f64::EPSILON * sum || sum.is_infinite() {
            return sum;
        }
    }
}

/// (1 - x - (1 - x^(1/2))^2 / 2 - (1 - x^(1/4))^2 / 4 - …) / 3
fn tau(mut x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return 0.0;
    }
    let (mut factor, mut sum) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = sum;
        factor *= 0.5;
        sum -= (1.0 - x) * (1.0 - x) * factor;
        if before - sum <= f64::EPSILON * before {
            return sum / 3.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher as _;

    use super::{FEW, Sketch};

    /// Hashes of the numbers from 0 on; the key differs from run to run.
    fn hashes(count: u32) -> impl Iterator<Item = u64> {
        let hasher = std::hash::RandomState::new();
        (0..count).map(move |number| hasher.hash_one(number))
    }

    fn error_of(estimate: u64, count: u32) -> f64 {
        let count = f64::from(count);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let error = (estimate as f64 - count) / count;
        error
    }

    #[test]
    fn few_are_counted_exactly() {
        for count in [0, 1, 10, FEW as u32] {
            let mut sketch = Sketch::default();
            for hash in hashes(count).collect::<Vec<_>>().repeat(2) {
                sketch.insert(hash);
            }
            assert_eq!(Sketch::estimate([&sketch, &sketch].into_iter()), u64::from(count));
        }
    }

    #[test]
    fn many_are_estimated_within_their_error() {
        // Keys are random: five standard errors are exceeded once in a million runs, and the mean of many has less.
        for (count, runs) in [(513, 20), (1_000, 20), (10_000, 20), (100_000, 20), (1_000_000, 2)] {
            let errors: Vec<f64> = (0..runs)
                .map(|_| {
                    let mut sketch = Sketch::default();
                    hashes(count).for_each(|hash| sketch.insert(hash));
                    error_of(Sketch::estimate(std::iter::once(&sketch)), count)
                })
                .collect();
            let worst = errors.iter().fold(0.0_f64, |worst, error| worst.max(error.abs()));
            let mean = errors.iter().sum::<f64>() / f64::from(runs);
            println!("{count}: worst of {runs} is {:.2} %, mean {:+.2} %", 100.0 * worst, 100.0 * mean);
            assert!(worst < 0.082, "{count}: {errors:?}");
            assert!(mean.abs() < 0.082 / f64::from(runs).sqrt(), "{count}: {errors:?}");
        }
    }

    #[test]
    fn several_are_as_one() {
        let all: Vec<_> = hashes(30_000).collect();
        let (mut whole, mut parts) = (Sketch::default(), vec![Sketch::default(); 5]);
        for (place, hash) in all.iter().enumerate() {
            whole.insert(*hash);
            // Each but the last has many; the last has few.
            let part = if place < 100 { 4 } else { place % 4 };
            parts[part].insert(*hash);
            parts[0].insert(*hash);
        }
        assert!(matches!(parts[4], Sketch::Few(_)) && matches!(parts[3], Sketch::Many(_)));
        assert_eq!(Sketch::estimate(parts.iter()), Sketch::estimate(std::iter::once(&whole)));
    }
}
