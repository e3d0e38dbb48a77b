//! Sending what waits, one request after the other, for as long as it takes.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use super::{
    outbox::{Outbox, Parcel},
    quiet::Quiet,
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

/// What was said of the collector, so that it is not said over and over.
#[derive(Debug, Default)]
struct Said {
    /// How much had been dropped when it was said that the collector cannot be reached; nothing since it can.
    trouble: Option<u64>,
    trouble_quiet: Quiet,
    rejected_quiet: Quiet,
    failed_quiet: Quiet,
}

impl Sender {
    /// Sends everything, until the outbox is closed and empty.
    pub(super) async fn run(mut self) {
        let (mut said, mut delays) = (Said::default(), delays());
        while let Some(parcel) = self.outbox.take().await {
            match self.transport.send(&parcel).await {
                Answer::Accepted { rejected, message } => self.accepted(&parcel, rejected, &message, &mut said),
                Answer::Rejected(why) => self.rejected(&parcel, &why, &mut said),
                Answer::Failed(why) => self.failed(&parcel, &why, &mut said),
                Answer::Retry { after, why } => {
                    self.statistics.export(Outcome::Retried);
                    self.say_trouble(&why, &mut said);
                    self.outbox.put_back(parcel);
                    let delay = delays.next().unwrap_or(MAX_DELAY);
                    self.wait(delay.max(after.map_or(Duration::ZERO, |after| not_before(after, delay)))).await;
                    continue;
                }
            }
            delays = self::delays();
            self.outbox.done(&parcel);
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
        self.say_well(said);
        if rejected > 0 {
            self.say_rejected(rejected, message, said);
        } else if !message.is_empty() && said.rejected_quiet.may_say() {
            let (signal, endpoint) = (self.statistics.signal().as_str(), self.transport.endpoint());
            warn!(signal, endpoint, message, "the OpenTelemetry collector has accepted a request with a warning");
        }
    }

    fn rejected(&self, parcel: &Parcel, why: &str, said: &mut Said) {
        self.statistics.export(Outcome::Rejected);
        self.statistics.dropped(Dropped::Rejected, parcel.items);
        self.say_well(said);
        self.say_rejected(parcel.items, why, said);
    }

    fn failed(&self, parcel: &Parcel, why: &str, said: &mut Said) {
        self.statistics.dropped(Dropped::Failed, parcel.items);
        if said.failed_quiet.may_say() {
            let (signal, items) = (self.statistics.signal().as_str(), parcel.items);
            warn!(signal, items, error = why, "a request for the OpenTelemetry collector could not be sent");
        }
    }

    /// Says that the collector answers again, if it was said that it does not.
    fn say_well(&self, said: &mut Said) {
        if let Some(before) = said.trouble.take() {
            let dropped = self.statistics.all_dropped() - before;
            let (signal, endpoint) = (self.statistics.signal().as_str(), self.transport.endpoint());
            info!(signal, endpoint, dropped, "the OpenTelemetry collector takes requests again");
        }
    }

    fn say_trouble(&self, why: &str, said: &mut Said) {
        if said.trouble.is_none() && said.trouble_quiet.may_say() {
            let (signal, endpoint) = (self.statistics.signal().as_str(), self.transport.endpoint());
            let message = "cannot send to the OpenTelemetry collector: trying again, and keeping as much as \
                           otlp.queue_bytes allows";
            warn!(signal, endpoint, error = why, "{message}");
            said.trouble = Some(self.statistics.all_dropped());
        }
    }

    fn say_rejected(&self, items: u64, why: &str, said: &mut Said) {
        if said.rejected_quiet.may_say() {
            let (signal, endpoint) = (self.statistics.signal().as_str(), self.transport.endpoint());
            let message = "the OpenTelemetry collector would not have a request: what it would not have is counted";
            warn!(signal, endpoint, items, error = why, "{message}");
        }
    }
}

/// Times between attempts.
fn delays() -> impl Iterator<Item = Duration> {
    let delays = ExponentialBuilder::new().with_min_delay(MIN_DELAY).with_max_delay(MAX_DELAY);
    delays.without_max_times().with_jitter().build()
}

/// When to try again if the collector has asked for `after`: that is the least. All that were asked would come back at the same
/// time, so up to a second is added, by what is at random in `delay`.
fn not_before(after: Duration, delay: Duration) -> Duration {
    after.min(MAX_RETRY_AFTER) + Duration::from_nanos(delay.subsec_nanos().into())
}
