//! How long others wait while one client floods a server, with a limit for each client and without: see
//! [`tidewaiter_tests::flood`]. The rule is there either way; unguarded, it is in observe mode.

use std::time::Duration;

use tidewaiter_tests::{
    flood::{self, Busy, FLOOD, LIMIT, Outcome},
    guarded::{Guarded, PLACES},
    measure::{goal, median},
    servers::are_installed,
};

/// How long each flood goes on, and how often.
const LONG: Duration = Duration::from_secs(10);
const ROUNDS: usize = 3;
/// How much of the time without a guard the others may wait with one.
const GOAL: f64 = 0.5;

pub(crate) fn print() {
    if !are_installed(&["nginx", "taskset"]) {
        return;
    }
    println!(
        "one client opens {FLOOD} connections a second, of which {LIMIT} are allowed; four others ask some ten times a second each; \
         all of nginx on one CPU, those who ask on another"
    );
    for place in PLACES {
        let mut guarded = Guarded::new(place);
        flood::set_up(&guarded.network);
        let _server = Busy::start(&guarded.network.server);
        println!(
            "\n{:<34}{:>10}{:>10}{:>10}{:>10}{:>26}",
            format!("judged in {place}, ms"),
            "p50",
            "p99",
            "answered",
            "failed",
            "flood: let in, refused"
        );
        let mut ratios: [Vec<f64>; 2] = Default::default();
        for _ in 0..ROUNDS {
            row("without a flood", &run(&mut guarded, "observe", 0));
            let [unguarded, guarded] = ["observe", "enforce"].map(|mode| run(&mut guarded, mode, FLOOD));
            row("unguarded", &unguarded);
            row("guarded", &guarded);
            for (ratios, of_100) in ratios.iter_mut().zip([50, 99]) {
                ratios.push(milliseconds(&guarded, of_100) / milliseconds(&unguarded, of_100));
            }
        }
        let [p50, p99] = ratios.each_ref().map(|ratios| median(ratios));
        println!("guarded / unguarded: p50 {p50:.3}, p99 {p99:.3} (the median of {ROUNDS} rounds)");
        goal(format_args!("p99 of others, of what it is unguarded, in {place}"), p99 * 100.0, GOAL * 100.0, "%");
    }
}

fn run(guarded: &mut Guarded, mode: &str, rate: u32) -> Outcome {
    guarded.apply("", &flood::configuration(mode));
    flood::flood(&guarded.network, rate, LONG)
}

fn row(what: &str, outcome: &Outcome) {
    let [answered, refused, failed] = outcome.flood;
    println!(
        "{what:<34}{:>10.1}{:>10.1}{:>10}{:>10}{:>26}",
        milliseconds(outcome, 50),
        milliseconds(outcome, 99),
        outcome.others.len(),
        outcome.others_failed,
        format!("{}, {refused}", answered + failed)
    );
}

fn milliseconds(outcome: &Outcome, of_100: usize) -> f64 {
    outcome.percentile(of_100).as_secs_f64() * 1e3
}
