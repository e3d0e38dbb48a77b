//! What is out of the ordinary, told one by one: the counts say how often, these say who.

pub(crate) mod detail;
pub(crate) mod protocols;
pub mod thresholds;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::mpsc::Receiver;
use tracing::warn;

pub use tidewaiter_common::anomaly::AnomalyKind;

use crate::{
    api::Role,
    blocks::response::Responder,
    event::{Event, Happening},
    flow::Protocol,
    sinks::{NoRoom, Sinks},
    snapshot::SinkSnapshot,
};

/// How many anomalies of one kind and API are told in a [`WINDOW`]; the rest is only counted.
const MOST_TOLD: u64 = 5;
/// See [`MOST_TOLD`].
const WINDOW: Duration = Duration::from_mins(1);

/// Something that should not be, with what is known of who did it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anomaly {
    /// Of what kind.
    pub kind: AnomalyKind,
    /// The API that it was meant for; `unmapped` if for none.
    pub api: Arc<str>,
    /// Which end of it this host is.
    pub role: Option<Role>,
    /// This host's end; its port is 0 where it has none, or has many.
    pub local: Option<SocketAddr>,
    /// The other end, likewise.
    pub remote: Option<SocketAddr>,
    /// What the payload looks like, where that was looked at.
    pub application: Option<Protocol>,
    /// The rule that has dropped or refused it, if one has.
    pub rule: Option<Arc<str>>,
    /// What is out of the ordinary, with figures: a few words.
    pub detail: String,
    /// The first bytes of the payload, or of the packet where its headers are what is wrong, as far as they were kept.
    pub first_bytes: Vec<u8>,
}

/// Writes anomalies to the log, a few of each kind and API in each window, and hands them to those who want events.
#[derive(Debug, Default)]
pub struct AnomalyLog {
    window: Option<Window>,
    sinks: Sinks<Event>,
    responder: Responder,
}

/// The window that the first anomaly in it has begun.
#[derive(Debug)]
struct Window {
    begun: Instant,
    /// Anomalies in it by kind and the name of their API, of which there are no more than slots: no traffic makes this grow
    /// further.
    seen: HashMap<(AnomalyKind, Arc<str>), u64>,
}

impl AnomalyLog {
    /// Has what is told handed to a sink called `name`, which reads it from what this answers with. Where `capacity` of them
    /// wait there, more are dropped.
    pub fn add_sink(&mut self, name: &'static str, capacity: usize) -> Receiver<Arc<Event>> {
        self.sinks.add(name, capacity)
    }

    /// As [`add_sink`](Self::add_sink), where `no_room` is shown what is dropped.
    pub fn add_watched_sink(
        &mut self,
        name: &'static str,
        capacity: usize,
        no_room: Arc<dyn NoRoom<Event>>,
    ) -> Receiver<Arc<Event>> {
        self.sinks.add_with(name, capacity, Some(no_room))
    }

    /// What was handed to each sink.
    #[must_use]
    pub fn sinks(&self) -> Vec<SinkSnapshot> {
        self.sinks.snapshot()
    }

    /// Who finds out whom to block.
    pub const fn responder(&mut self) -> &mut Responder {
        &mut self.responder
    }

    /// Hands what has happened to those who want events: whatever is no anomaly.
    pub fn pass_on(&mut self, what: &Happening) {
        let time = SystemTime::now();
        self.sinks.hand_over(|| Event { time, what: what.clone() });
    }

    /// Tells of `anomaly` unless there were many of its kind and API of late.
    pub fn tell(&mut self, anomaly: &Anomaly, now: Instant) {
        self.tick(now);
        self.responder.note(anomaly);
        if !self.admits(anomaly.kind, &anomaly.api, now) {
            return;
        }
        let Anomaly { kind, api, role, local, remote, application, rule, detail, first_bytes } = anomaly;
        let end = |end: &Option<SocketAddr>| end.map(tracing::field::display);
        warn!(
            %api,
            role = role.map_or("none", Role::as_str),
            kind = kind.as_str(),
            local = end(local),
            remote = end(remote),
            looks_like = application.map(Protocol::as_str),
            rule = rule.as_deref(),
            first_bytes = %first_bytes.escape_ascii(),
            "anomaly: {detail}"
        );
        self.pass_on(&Happening::Anomaly(anomaly.clone()));
    }

    /// Says what time it is, and tells how many anomalies were not told once their window is over. To be called each second or
    /// so.
    pub fn tick(&mut self, now: Instant) {
        let over = self.window.take_if(|window| now.saturating_duration_since(window.begun) >= WINDOW);
        self.tell_more(over);
    }

    /// Tells how many were not told, though their window is not over.
    pub fn end(&mut self) {
        let window = self.window.take();
        self.tell_more(window);
    }

    fn tell_more(&mut self, window: Option<Window>) {
        for (kind, api, untold) in untold(window) {
            warn!(%api, kind = kind.as_str(), untold, "more anomalies of the last minute: they are counted all");
            self.pass_on(&Happening::MoreAnomalies { api, kind, untold });
        }
    }

    /// Counts an anomaly, and says whether it is to be told.
    fn admits(&mut self, kind: AnomalyKind, api: &Arc<str>, now: Instant) -> bool {
        let window = self.window.get_or_insert_with(|| Window { begun: now, seen: HashMap::new() });
        let seen = window.seen.entry((kind, Arc::clone(api))).or_default();
        *seen = seen.saturating_add(1);
        *seen <= MOST_TOLD
    }
}

/// How many anomalies of each kind and API were not told in `window`, where there were any.
fn untold(window: Option<Window>) -> Vec<(AnomalyKind, Arc<str>, u64)> {
    let seen = window.into_iter().flat_map(|window| window.seen);
    seen.filter(|(_, seen)| *seen > MOST_TOLD).map(|((kind, api), seen)| (kind, api, seen - MOST_TOLD)).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    use super::{AnomalyKind, AnomalyLog, Event, Happening, MOST_TOLD, WINDOW};

    const SECOND: Duration = Duration::from_secs(1);
    /// So long after its beginning a window is not over yet.
    const LATE: Duration = WINDOW.saturating_sub(SECOND);

    /// How many of `count` anomalies of `api` are told.
    fn told(log: &mut AnomalyLog, api: &Arc<str>, count: u64, now: Instant) -> u64 {
        (0..count).map(|_| u64::from(log.admits(AnomalyKind::UnexpectedPayload, api, now))).sum()
    }

    /// What a tick at `now` says was not told.
    fn untold(log: &mut AnomalyLog, now: Instant) -> Vec<(Arc<str>, u64)> {
        let mut events = log.add_sink("test", 10);
        log.tick(now);
        let untold = std::iter::from_fn(|| events.try_recv().ok()).map(|event| match &*event {
            Event { what: Happening::MoreAnomalies { api, untold, .. }, .. } => (Arc::clone(api), *untold),
            other => panic!("{other:?}"),
        });
        untold.collect()
    }

    #[test]
    fn a_few_of_each_api_are_told_and_the_rest_is_summed_up_without_another() {
        let (mut log, start) = (AnomalyLog::default(), Instant::now());
        let [orders, names] = ["orders", "names"].map(Arc::<str>::from);
        assert_eq!(told(&mut log, &orders, MOST_TOLD - 1, start), MOST_TOLD - 1);
        assert_eq!(told(&mut log, &orders, 7, start + SECOND), 1);
        assert_eq!(told(&mut log, &names, MOST_TOLD, start + SECOND), MOST_TOLD, "another's are not its own");
        assert!(log.admits(AnomalyKind::Land, &orders, start + SECOND), "nor are those of another kind");
        assert_eq!(untold(&mut log, start + LATE), []);
        assert_eq!(told(&mut log, &orders, 2, start + LATE), 0);
        assert_eq!(untold(&mut log, start + WINDOW), [(orders, 8)]);
        assert_eq!(untold(&mut log, start + WINDOW), [], "once");
    }

    #[test]
    fn a_window_begins_with_its_first_anomaly() {
        let (mut log, start) = (AnomalyLog::default(), Instant::now());
        let orders = Arc::<str>::from("orders");
        assert_eq!(untold(&mut log, start), []);
        for begun in [start + WINDOW / 2, start + WINDOW * 3] {
            assert_eq!(told(&mut log, &orders, MOST_TOLD + 1, begun), MOST_TOLD);
            assert_eq!(untold(&mut log, begun + LATE), []);
            assert_eq!(told(&mut log, &orders, 1, begun + LATE), 0);
            assert_eq!(untold(&mut log, begun + WINDOW), [(Arc::clone(&orders), 2)]);
        }
    }
}
