//! `rate_limit` of `web.config.yml`: how many requests are answered, whoever sends them.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::config::web::RateLimit;

/// When the next request would be due if none came early (GCRA: I.371 of the ITU, annex A).
#[derive(Debug, Default)]
pub(super) struct Limit(Mutex<Option<Instant>>);

impl Limit {
    /// Whether a request that comes `now` is answered.
    pub(super) fn allows(&self, limit: RateLimit, now: Instant) -> bool {
        let RateLimit { interval, burst } = limit;
        let mut due = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = due.unwrap_or(now).max(now);
        let tolerance = interval.saturating_mul(burst.saturating_sub(1));
        if earliest.duration_since(now) > tolerance {
            return false;
        }
        // What is further ahead than a clock can tell is as good as a day.
        *due = Some(earliest.checked_add(interval).unwrap_or(now + Duration::from_hours(24)));
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Limit;
    use crate::config::web::RateLimit;

    #[test]
    fn a_burst_is_answered_and_then_one_an_interval() {
        let (limit, start) = (Limit::default(), Instant::now());
        let rate = RateLimit { interval: Duration::from_secs(1), burst: 3 };
        let answered = |after: u64| limit.allows(rate, start + Duration::from_millis(after));
        assert_eq!(
            [0, 0, 0, 0, 999, 1000, 1001, 2000].map(answered),
            [true, true, true, false, false, true, false, true]
        );
        assert_eq!([9000; 4].map(answered), [true, true, true, false], "what is not used is not saved for long");
    }
}
