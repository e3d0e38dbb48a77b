//! Sending what waits, one request after the other, for as long as it takes.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::{
    outbox::{Outbox, Parcel},
    statistics::{Dropped, Outcome, Statistics},
    transport::{Answer, Transport},
};

/// Time between the first attempt and the second; each further one is twice as far, up to [`MAX_DELAY`]. To each of them up
/// to as much again is added at random, so that not all exporters come back at once.
const MIN_DELAY: Duration = Duration::from_secs(1);
/// See [`MIN_DELAY`].
const MAX_DELAY: Duration = Duration::from_secs(15);
/// For so long at most a collector may ask to be left alone.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(5);
/// Time between two attempts at the end, when there is no time.
const LAST_DELAY: Duration = Duration::from_millis(200);

/// Sends what waits in an outbox.
pub(super) struct Sender {
    pub(super) outbox: Arc<Outbox>,
    pub(super) transport: Transport,
    pub(super) statistics: Arc<Statistics>,
    /// Whether the exporter is about to end.
    pub(super) ending: watch::Receiver<bool>,
}

/// Time between two messages of a kind at least: a collector that changes its mind, or its words, fills no log.
const QUIET: Duration = Duration::from_mins(1);

/// What was said of the collector last, so that it is not said over and over.
#[derive(Debug, Default)]
struct Said {
    /// Whether it was said that the collector cannot be reached, and how much had been dropped by then; nothing since it can.
    trouble: Option<u64>,
    /// When that was.
    trouble_at: Option<Instant>,
    /// When it was said that the collector would not have something.
    rejected_at: Option<Instant>,
}

/// Whether something may be said that was said at `last`; then it is said now.
fn may_say(last: &mut Option<Instant>) -> bool {
    let may = last.is_none_or(|last| last.elapsed() >= QUIET);
    if may {
        *last = Some(Instant::now());
    }
    may
}

impl Sender {
    /// Sends everything, until the outbox is closed and empty.
    pub(super) async fn run(mut self) {
        let mut said = Said::default();
        while let Some(parcel) = self.outbox.take().await {
            self.deliver(&parcel, &mut said).await;
            self.outbox.done(&parcel);
        }
    }

    /// Sends `parcel`, as often as it takes.
    async fn deliver(&mut self, parcel: &Parcel, said: &mut Said) {
        let delays = ExponentialBuilder::new().with_min_delay(MIN_DELAY).with_max_delay(MAX_DELAY);
        let mut delays = delays.without_max_times().with_jitter().build();
        loop {
            match self.transport.send(parcel).await {
                Answer::Accepted { rejected, message } => return self.accepted(parcel, rejected, &message, said),
                Answer::Rejected(why) => {
                    self.statistics.export(Outcome::Rejected);
                    self.statistics.dropped(Dropped::Rejected, parcel.items);
                    return self.say_rejected(parcel.items, &why, said);
                }
                Answer::Retry { after, why } => {
                    self.statistics.export(Outcome::Retried);
                    self.say_trouble(&why, said);
                    let delay = delays.next().unwrap_or(MAX_DELAY);
                    // What was asked for is the least: all that were asked would come back at the same time.
                    let after = after.map(|after| after.min(MAX_RETRY_AFTER) + delay.min(MIN_DELAY) / 4);
                    self.wait(after.map_or(delay, |after| after.max(delay))).await;
                }
            }
        }
    }

    /// Waits for `delay`, or for less if the exporter is about to end.
    async fn wait(&mut self, delay: Duration) {
        let is_ending = *self.ending.borrow();
        if !is_ending {
            tokio::select! {
                () = sleep(delay) => return,
                _ = self.ending.wait_for(|is_ending| *is_ending) => {}
            }
        }
        sleep(delay.min(LAST_DELAY)).await;
    }

    fn accepted(&self, parcel: &Parcel, rejected: u64, message: &str, said: &mut Said) {
        let rejected = rejected.min(parcel.items);
        self.statistics.export(if rejected > 0 { Outcome::Partial } else { Outcome::Success });
        self.statistics.exported(parcel.items - rejected);
        self.statistics.dropped(Dropped::Rejected, rejected);
        let (signal, endpoint) = (self.statistics.signal().as_str(), self.transport.uri());
        if let Some(before) = said.trouble.take() {
            let dropped = self.statistics.all_dropped() - before;
            info!(signal, %endpoint, dropped, "the OpenTelemetry collector takes requests again");
        }
        if rejected > 0 {
            self.say_rejected(rejected, message, said);
        } else if !message.is_empty() && may_say(&mut said.rejected_at) {
            warn!(signal, %endpoint, message, "the OpenTelemetry collector has accepted a request with a warning");
        }
    }

    fn say_trouble(&self, why: &str, said: &mut Said) {
        if said.trouble.is_none() && may_say(&mut said.trouble_at) {
            let (signal, endpoint) = (self.statistics.signal().as_str(), self.transport.uri());
            let message = "cannot send to the OpenTelemetry collector: trying again, and keeping as much as \
                           otlp.queue_bytes allows";
            warn!(signal, %endpoint, error = why, "{message}");
            said.trouble = Some(self.statistics.all_dropped());
        }
    }

    fn say_rejected(&self, items: u64, why: &str, said: &mut Said) {
        if may_say(&mut said.rejected_at) {
            let (signal, endpoint) = (self.statistics.signal().as_str(), self.transport.uri());
            let message = "the OpenTelemetry collector would not have a request: what it would not have is counted";
            warn!(signal, %endpoint, items, error = why, "{message}");
        }
    }
}
