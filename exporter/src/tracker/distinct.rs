//! How many different clients there were of late.

use super::sketch::Sketch;

/// How many minutes are told apart: the one that it is, and those before.
const MINUTES: usize = 5;

/// The clients of each of the last minutes. Memory is taken for minutes in which there were any: at most 4 KB each.
#[derive(Debug, Default)]
pub(super) struct Distinct {
    /// By the minute's number, modulo [`MINUTES`].
    minutes: [(u64, Sketch); MINUTES],
}

impl Distinct {
    /// Takes note that the client with `hash` was seen in `minute`.
    pub(super) fn see(&mut self, minute: u64, hash: u64) {
        let Some((its, sketch)) = self.minutes.get_mut(minute as usize % MINUTES) else { return };
        if *its != minute {
            (*its, *sketch) = (minute, Sketch::default());
        }
        sketch.insert(hash);
    }

    /// How many there were in `minute` and those before it.
    pub(super) fn estimate(&self, minute: u64) -> u64 {
        let recent = self.minutes.iter().filter(|(its, _)| minute.saturating_sub(*its) < MINUTES as u64);
        Sketch::estimate(recent.map(|(_, sketch)| sketch))
    }

    /// Gives back the memory of minutes that are too long ago.
    pub(super) fn forget_before(&mut self, minute: u64) {
        for (its, sketch) in &mut self.minutes {
            if minute.saturating_sub(*its) >= MINUTES as u64 {
                *sketch = Sketch::default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Distinct, MINUTES};

    #[test]
    fn who_is_not_seen_again_is_forgotten() {
        let mut distinct = Distinct::default();
        distinct.see(0, 1);
        distinct.see(1, 1);
        distinct.see(1, 2);
        assert_eq!((distinct.estimate(1), distinct.estimate(4), distinct.estimate(5)), (2, 2, 2));
        assert_eq!(distinct.estimate(1 + MINUTES as u64), 0);
        // The place of minute 1 is that of minute 6.
        distinct.see(6, 3);
        assert_eq!(distinct.estimate(6), 1);
        distinct.forget_before(100);
        assert_eq!(distinct.estimate(6), 0);
    }
}
