//! How many errors of ICMP are sent.

/// Nanoseconds between two errors in the long run: a thousand a second. (Linux sends ten thousand on all CPUs together, and a
/// thousand until version 6.15: `icmp_msgs_per_sec`.)
const INTERVAL: u64 = 1_000_000;
/// How many may be sent at once (`icmp_msgs_burst`).
const BURST: u64 = 50;

/// What one CPU still may send of errors of ICMP: they must be limited (RFC 4443 section 2.4 (f), RFC 1812 section 4.3.2.8),
/// because anybody can have them sent to somebody else. (Resets need not be: they are no longer than their question.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Allowance {
    /// When the next would be due if all kept to [`INTERVAL`].
    due: u64,
}

impl Allowance {
    /// None was sent yet.
    pub const FULL: Self = Self { due: 0 };

    /// Whether one more may be sent `now`, in nanoseconds of a clock that never goes back; then it counts as sent.
    #[inline(always)]
    pub const fn take(&mut self, now: u64) -> bool {
        let due = if self.due > now { self.due } else { now };
        if due - now > (BURST - 1) * INTERVAL {
            return false;
        }
        self.due = due + INTERVAL;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{Allowance, BURST, INTERVAL};

    const NOW: u64 = 1_000_000_000_000;

    fn sent(allowance: &mut Allowance, now: u64) -> u64 {
        (0..1_000).filter(|_| allowance.take(now)).count() as u64
    }

    #[test]
    fn a_burst_and_then_one_in_each_interval() {
        let mut allowance = Allowance::FULL;
        assert_eq!(sent(&mut allowance, NOW), BURST);
        assert_eq!(sent(&mut allowance, NOW + INTERVAL - 1), 0);
        assert_eq!(sent(&mut allowance, NOW + INTERVAL), 1);
        assert_eq!(sent(&mut allowance, NOW + 11 * INTERVAL), 10);
        assert_eq!(sent(&mut allowance, NOW + 1_000_000 * INTERVAL), BURST, "no more is saved");
    }
}
