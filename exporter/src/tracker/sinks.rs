//! Handing records of finished flows to whoever wants them.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::{flow::FlowRecord, snapshot::SinkSnapshot};

/// Those who want records. Nobody waits for them: what a sink has no room for is dropped, and counted.
#[derive(Debug, Default)]
pub(super) struct Sinks(Vec<Sink>);

#[derive(Debug)]
struct Sink {
    channel: Sender<Arc<FlowRecord>>,
    counters: SinkSnapshot,
}

impl Sinks {
    /// A new one, with room for `capacity` records.
    pub(super) fn add(&mut self, name: &'static str, capacity: usize) -> Receiver<Arc<FlowRecord>> {
        let (sender, receiver) = channel(capacity.max(1));
        let counters = SinkSnapshot { name, records: 0, dropped: 0, created: SystemTime::now() };
        self.0.push(Sink { channel: sender, counters });
        receiver
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Hands the record that `build` makes to each sink that has room for it.
    pub(super) fn hand_over(&mut self, build: impl Fn() -> FlowRecord) {
        let mut record = None;
        for Sink { channel, counters } in &mut self.0 {
            match channel.try_reserve() {
                Ok(place) => {
                    place.send(Arc::clone(record.get_or_insert_with(|| Arc::new(build()))));
                    counters.records += 1;
                }
                // Full, or nobody is there any more.
                Err(_) => counters.dropped += 1,
            }
        }
    }

    pub(super) fn snapshot(&self) -> Vec<SinkSnapshot> {
        self.0.iter().map(|sink| sink.counters).collect()
    }
}
