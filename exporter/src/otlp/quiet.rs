//! Saying things seldom: a collector that is away, or changes its mind, fills no log.

use std::time::{Duration, Instant};

/// Time between two messages of a kind at least.
const QUIET: Duration = Duration::from_mins(15);

/// When something was said last.
#[derive(Debug, Default)]
pub(super) struct Quiet(Option<Instant>);

impl Quiet {
    /// Whether it may be said again; then it is said now.
    pub(super) fn may_say(&mut self) -> bool {
        let may = self.0.is_none_or(|last| last.elapsed() >= QUIET);
        if may {
            self.0 = Some(Instant::now());
        }
        may
    }
}
