//! Handing things over to whoever wants them: records of finished flows, events.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::snapshot::SinkSnapshot;

/// Those who want to have each `T`. Nobody waits for them: what a sink has no room for is dropped, and counted.
#[derive(Debug)]
pub(crate) struct Sinks<T>(Vec<Sink<T>>);

#[derive(Debug)]
struct Sink<T> {
    channel: Sender<Arc<T>>,
    counters: SinkSnapshot,
}

impl<T> Default for Sinks<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Sinks<T> {
    /// A new one, with room for `capacity` of them.
    pub(crate) fn add(&mut self, name: &'static str, capacity: usize) -> Receiver<Arc<T>> {
        let (sender, receiver) = channel(capacity.max(1));
        let counters = SinkSnapshot { name, records: 0, dropped: 0, created: SystemTime::now() };
        self.0.push(Sink { channel: sender, counters });
        receiver
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether each has room for half of what it can have waiting. One that nobody reads any more has.
    pub(crate) fn has_room(&self) -> bool {
        let has_room = |channel: &Sender<_>| channel.is_closed() || channel.capacity() >= channel.max_capacity() / 2;
        self.0.iter().all(|sink| has_room(&sink.channel))
    }

    /// Hands over what `build` makes to each sink that has room for it.
    pub(crate) fn hand_over(&mut self, build: impl Fn() -> T) {
        let mut made = None;
        for Sink { channel, counters } in &mut self.0 {
            match channel.try_reserve() {
                Ok(place) => {
                    place.send(Arc::clone(made.get_or_insert_with(|| Arc::new(build()))));
                    counters.records += 1;
                }
                // Full, or nobody is there any more.
                Err(_) => counters.dropped += 1,
            }
        }
    }

    pub(crate) fn snapshot(&self) -> Vec<SinkSnapshot> {
        self.0.iter().map(|sink| sink.counters).collect()
    }
}
