//! One client floods a server, and others ask it as ever: with a limit for each client these do not notice.
//!
//! How long they wait is printed, and measured by the benchmark (`cargo bench --bench cost -- flood`): a machine that has other
//! things to do would make anything of a time.

#![allow(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "connections of some seconds")]

use std::time::Duration;

use tidewaiter_tests::{
    flood::{self, BURST, Busy, LIMIT, Outcome},
    guarded::{Guarded, PLACES},
    servers::are_installed,
};

/// How long each flood goes on.
const LONG: Duration = Duration::from_secs(3);

#[test]
fn a_flood_of_one_client_is_not_felt_by_others() {
    if !are_installed(&["nginx", "taskset"]) {
        return;
    }
    for place in PLACES {
        let mut guarded = Guarded::new(place);
        flood::set_up(&guarded.network);
        let _server = Busy::start(&guarded.network.server);
        let mut decided = |mode: &str| {
            guarded.apply("", &flood::configuration(mode));
            let before = guarded.decided("flood", "web");
            let outcome = flood::flood(&guarded.network, flood::FLOOD, LONG);
            let after = guarded.decided("flood", "web");
            let count =
                |verdict: &str| after.get(verdict).copied().unwrap_or(0) - before.get(verdict).copied().unwrap_or(0);
            let counts = ["pass", "reject", "would_reject"].map(count);
            println!(
                "{place}, {mode}: {}, of segments that open one passed, were and would be rejected: {counts:?}",
                say(&outcome)
            );
            (outcome, counts)
        };
        let (outcome, [_, rejected, would_reject]) = decided("observe");
        assert!(would_reject > 0 && rejected == 0, "it is seen, and nothing is done");
        assert_eq!(outcome.flood[1], 0, "nobody is refused");

        let (outcome, [_, rejected, _]) = decided("enforce");
        let [answered, refused, failed] = outcome.flood;
        assert_eq!(outcome.others_failed, 0, "{place}: all requests of others succeed");
        assert!(!outcome.others.is_empty());
        // Whoever is refused was rejected, and of the flood no more was let in than is allowed.
        assert!(refused > answered && rejected >= refused, "{place}: {rejected} rejected, {refused} refused");
        let allowed = f64::from(BURST) + f64::from(LIMIT) * outcome.time.as_secs_f64();
        assert!((answered + failed) as f64 <= allowed * 1.01, "{place}: {answered} answered, {allowed:.0} allowed");
    }
}

fn say(outcome: &Outcome) -> String {
    let [answered, refused, failed] = outcome.flood;
    format!(
        "others: {} answered, {} failed, p50 {:?}, p99 {:?}; the flood: {answered} answered, {refused} refused, {failed} failed",
        outcome.others.len(),
        outcome.others_failed,
        outcome.percentile(50),
        outcome.percentile(99)
    )
}
