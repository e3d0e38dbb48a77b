//! Handing things over to whoever wants them: records of finished flows, events.

use std::{fmt::Debug, sync::Arc, time::SystemTime};

use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::snapshot::SinkSnapshot;

/// Those who want to have each `T`. Nobody waits for them: what a sink has no room for is dropped, and counted.
#[derive(Debug)]
pub(crate) struct Sinks<T>(Vec<Sink<T>>);

#[derive(Debug)]
struct Sink<T> {
    channel: Sender<Arc<T>>,
    counters: SinkSnapshot,
    /// Who is shown what finds no room, if anybody.
    no_room: Option<Arc<dyn NoRoom<T>>>,
}

/// One who wants to know what a sink had no room for.
pub trait NoRoom<T>: Debug + Send + Sync {
    /// Takes note of it. Nobody is to be kept waiting.
    fn no_room(&self, thing: &T);
}

impl<T> Default for Sinks<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Sinks<T> {
    /// A new one, with room for `capacity` of them.
    pub(crate) fn add(&mut self, name: &'static str, capacity: usize) -> Receiver<Arc<T>> {
        self.add_with(name, capacity, None)
    }

    /// The same, of which somebody is shown what there is no room for.
    pub(crate) fn add_with(
        &mut self,
        name: &'static str,
        capacity: usize,
        no_room: Option<Arc<dyn NoRoom<T>>>,
    ) -> Receiver<Arc<T>> {
        let (sender, receiver) = channel(capacity.max(1));
        let counters = SinkSnapshot { name, records: 0, dropped: 0, created: SystemTime::now() };
        self.0.push(Sink { channel: sender, counters, no_room });
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
        for Sink { channel, counters, no_room } in &mut self.0 {
            let mut thing = || Arc::clone(made.get_or_insert_with(|| Arc::new(build())));
            if let Ok(place) = channel.try_reserve() {
                place.send(thing());
                counters.records += 1;
                continue;
            }
            // Full, or nobody is there any more.
            counters.dropped += 1;
            if let Some(no_room) = no_room {
                no_room.no_room(&thing());
            }
        }
    }

    pub(crate) fn snapshot(&self) -> Vec<SinkSnapshot> {
        self.0.iter().map(|sink| sink.counters).collect()
    }
}
