//! Waiting for something to become so, instead of sleeping and hoping.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::atomic::{AtomicBool, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

/// How long anything may take. Long, because machines are busy; what works is quick.
const PATIENCE: Duration = Duration::from_mins(1);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks until there is something, and answers with that.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        sleep(PAUSE);
    }
}

/// What `during` does, after which it `is_over` for other threads: with a panic too, or else whoever waits for them waits for ever.
pub fn while_others<T>(is_over: &AtomicBool, during: impl FnOnce() -> T) -> T {
    let result = catch_unwind(AssertUnwindSafe(during));
    is_over.store(true, Ordering::SeqCst);
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Looks until it is so.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    wait_for(what, || is_so().then_some(()));
}
