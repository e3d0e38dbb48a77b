//! Blocks that were asked for and are not there: why, and how many.

use std::time::{Duration, Instant};

use super::BlockError;

/// Time between two times that it is told.
const QUIET: Duration = Duration::from_mins(1);

/// Why there is no block, though somebody who may has asked for one: the value of the label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockRefusal {
    /// There are as many as there may be.
    Capacity,
    /// There are as many different lengths as there may be.
    Lengths,
    /// Some of it is always let in.
    Protected,
    /// More are to be responded to at once than can wait.
    Backlog,
    /// It can never be: too much at once, or for too long.
    Invalid,
    /// The kernel refused.
    Kernel,
}

impl BlockRefusal {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Capacity, Self::Lengths, Self::Protected, Self::Backlog, Self::Invalid, Self::Kernel];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Capacity => "capacity",
            Self::Lengths => "lengths",
            Self::Protected => "protected",
            Self::Backlog => "backlog",
            Self::Invalid => "invalid",
            Self::Kernel => "kernel",
        }
    }

    /// Why `error` is; `None` if it is about no block that was asked for.
    #[must_use]
    pub const fn by(error: &BlockError) -> Option<Self> {
        match error {
            BlockError::Full(_) => Some(Self::Capacity),
            BlockError::Lengths { .. } => Some(Self::Lengths),
            BlockError::Protected { .. } => Some(Self::Protected),
            BlockError::TooShort { .. } | BlockError::Period(_) | BlockError::Reason(_) => Some(Self::Invalid),
            BlockError::Kernel(_) => Some(Self::Kernel),
            BlockError::Prefix(_)
            | BlockError::NotAPeriod(_)
            | BlockError::NotBlocked { .. }
            | BlockError::Stopping => None,
        }
    }
}

/// How often there was each reason.
#[derive(Debug, Default)]
pub struct BlockRefusals {
    counts: [u64; BlockRefusal::ALL.len()],
    untold: u64,
    told: Option<Instant>,
}

impl BlockRefusals {
    /// Adds `count` of them. Answers with how many there were since it was told last, if it is time to tell that again.
    pub fn add(&mut self, refusal: BlockRefusal, count: u64, now: Instant) -> Option<u64> {
        if let Some(place) = self.counts.get_mut(refusal as usize) {
            *place += count;
        }
        self.untold += count;
        if self.untold == 0 || self.told.is_some_and(|told| now.saturating_duration_since(told) < QUIET) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }

    /// How many there were of each.
    #[must_use]
    pub fn counts(&self) -> [(&'static str, u64); BlockRefusal::ALL.len()] {
        BlockRefusal::ALL
            .map(|refusal| (refusal.as_str(), self.counts.get(refusal as usize).copied().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{BlockRefusal, BlockRefusals, QUIET};

    #[test]
    fn all_are_counted_and_few_are_told() {
        let (mut refusals, now) = (BlockRefusals::default(), Instant::now());
        assert_eq!(refusals.add(BlockRefusal::Backlog, 0, now), None);
        assert_eq!(refusals.add(BlockRefusal::Capacity, 1, now), Some(1));
        assert_eq!(refusals.add(BlockRefusal::Backlog, 7, now), None);
        assert_eq!(refusals.add(BlockRefusal::Capacity, 1, now + QUIET), Some(8));
        let expected =
            [("capacity", 2), ("lengths", 0), ("protected", 0), ("backlog", 7), ("invalid", 0), ("kernel", 0)];
        assert_eq!(refusals.counts(), expected);
    }
}
