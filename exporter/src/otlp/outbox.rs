//! Requests that wait to be sent: bounded by the memory they take.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::Notify;
use tracing::warn;

use super::{
    quiet::Quiet,
    statistics::{Dropped, Statistics},
};

/// What a request takes beside its body: the queue's entry, and what the allocator keeps.
const OVERHEAD: usize = 128;

/// A request that waits.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    /// The request's message, compressed with gzip. So it is kept even where it is sent as it was: an outage that is ten times
    /// as long finds room.
    pub(super) body: Bytes,
    /// How many data points, spans or log records are in it.
    pub(super) items: u64,
    /// How often it was tried in vain to send it.
    pub(super) tries: u32,
}

/// After so many tries others go first: it may be this request that the collector dies of.
const TRIES: u32 = 5;

impl Parcel {
    pub(super) const fn new(body: Bytes, items: u64) -> Self {
        Self { body, items, tries: 0 }
    }

    const fn bytes(&self) -> usize {
        self.body.len() + OVERHEAD
    }
}

/// Requests of one signal that wait. Those that come when there is no room take the place of those that have waited longest:
/// after an outage, what happened last matters most, and of metrics the last says all that those before it did.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    changed: Notify,
    statistics: Arc<Statistics>,
}

#[derive(Debug)]
struct Queue {
    waiting: VecDeque<Parcel>,
    /// Of all that wait, and of the one that is being sent.
    bytes: usize,
    /// How many items are in the one that is being sent.
    sending: u64,
    capacity: usize,
    is_closed: bool,
    full: Quiet,
}

impl Outbox {
    pub(super) fn new(capacity: usize, statistics: Arc<Statistics>) -> Self {
        let queue = Queue {
            waiting: VecDeque::new(),
            bytes: 0,
            sending: 0,
            capacity,
            is_closed: false,
            full: Quiet::default(),
        };
        Self { queue: Mutex::new(queue), changed: Notify::new(), statistics }
    }

    /// Has `parcel` wait, in the place of others if there is no room. Nothing is dropped that is being sent.
    pub(super) fn put(&self, parcel: Parcel) {
        let mut queue = self.lock();
        if queue.is_closed {
            return self.statistics.dropped(Dropped::Shutdown, parcel.items);
        }
        if queue.bytes + parcel.bytes() > queue.capacity && queue.full.may_say() {
            let (signal, queue_bytes) = (self.statistics.signal().as_str(), queue.capacity);
            warn!(
                signal,
                queue_bytes, "more waits for the OpenTelemetry collector than there is room for: dropping the oldest"
            );
        }
        if parcel.bytes() > queue.capacity {
            return self.statistics.dropped(Dropped::QueueFull, parcel.items);
        }
        while queue.bytes + parcel.bytes() > queue.capacity {
            let Some(oldest) = queue.waiting.pop_front() else {
                return self.statistics.dropped(Dropped::QueueFull, parcel.items);
            };
            queue.bytes -= oldest.bytes();
            self.statistics.dropped(Dropped::QueueFull, oldest.items);
        }
        queue.bytes += parcel.bytes();
        queue.waiting.push_back(parcel);
        self.statistics.queued(queue.bytes);
        self.changed.notify_one();
    }

    /// Waits for what is to be sent next; nothing once this is closed and nothing waits any more. It is counted as waiting until
    /// it is [done with](Self::done).
    pub(super) async fn take(&self) -> Option<Parcel> {
        loop {
            {
                let mut queue = self.lock();
                if let Some(parcel) = queue.waiting.pop_front() {
                    queue.sending = parcel.items;
                    return Some(parcel);
                }
                if queue.is_closed {
                    return None;
                }
            }
            // What changes between the look and this is not missed: it leaves a permit. There is one who waits.
            self.changed.notified().await;
        }
    }

    /// Has `parcel`, which could not be sent, wait again: before all others, or behind them if it was tried often.
    pub(super) fn put_back(&self, mut parcel: Parcel) {
        let mut queue = self.lock();
        queue.sending = 0;
        parcel.tries += 1;
        if parcel.tries.is_multiple_of(TRIES) {
            queue.waiting.push_back(parcel);
        } else {
            queue.waiting.push_front(parcel);
        }
    }

    /// Forgets `parcel`, which was sent or given up.
    pub(super) fn done(&self, parcel: &Parcel) {
        let mut queue = self.lock();
        queue.bytes -= parcel.bytes();
        queue.sending = 0;
        self.statistics.queued(queue.bytes);
    }

    /// Takes nothing in any more.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_one();
    }

    /// Gives up all that waits, and what is being sent, at the end.
    pub(super) fn give_up(&self) {
        let mut queue = self.lock();
        let waiting: u64 = queue.waiting.drain(..).map(|parcel| parcel.items).sum();
        self.statistics.dropped(Dropped::Shutdown, waiting + queue.sending);
        (queue.is_closed, queue.bytes, queue.sending) = (true, 0, 0);
        self.statistics.queued(0);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nobody leaves it half changed.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use proptest::{collection::vec, prelude::*};
    use tokio::time::timeout;

    use super::{OVERHEAD, Outbox, Parcel};
    use crate::otlp::{Signal, Statistics};

    const CAPACITY: usize = 10 * (OVERHEAD + 100);

    fn outbox() -> (Outbox, Arc<Statistics>) {
        let statistics = Arc::new(Statistics::new(Signal::Traces, CAPACITY));
        (Outbox::new(CAPACITY, Arc::clone(&statistics)), statistics)
    }

    fn parcel(items: u64, bytes: usize) -> Parcel {
        Parcel::new(Bytes::from(vec![0; bytes]), items)
    }

    fn dropped(statistics: &Statistics, why: &str) -> u64 {
        let snapshot = statistics.snapshot();
        snapshot.dropped.iter().find(|(reason, _)| *reason == why).expect("a reason").1
    }

    /// What is taken next, if anything waits.
    async fn next(outbox: &Outbox) -> Option<u64> {
        let taken = timeout(std::time::Duration::ZERO, outbox.take()).await.ok().flatten()?;
        outbox.done(&taken);
        Some(taken.items)
    }

    #[tokio::test]
    async fn when_there_is_no_room_what_has_waited_longest_goes_but_not_what_is_being_sent() {
        let (outbox, statistics) = outbox();
        for items in 1..=10 {
            outbox.put(parcel(items, 100));
        }
        assert_eq!(statistics.snapshot().queued_bytes, CAPACITY as u64);
        let sending = outbox.take().await.expect("waits");
        assert_eq!(sending.items, 1);
        // Twice as large, it takes the place of two.
        outbox.put(parcel(11, 200 + OVERHEAD));
        assert_eq!(dropped(&statistics, "queue_full"), 2 + 3);
        outbox.done(&sending);
        // Now there is room for one more.
        outbox.put(parcel(12, 100));
        assert_eq!(dropped(&statistics, "queue_full"), 5);
        for items in 4..=12 {
            assert_eq!(next(&outbox).await, Some(items));
        }
        assert_eq!(next(&outbox).await, None);
        assert_eq!(statistics.snapshot().queued_bytes, 0);
    }

    #[tokio::test]
    async fn what_is_tried_in_vain_goes_first_again_but_not_for_ever() {
        let (outbox, statistics) = outbox();
        outbox.put(parcel(1, 100));
        outbox.put(parcel(2, 100));
        let queued = statistics.snapshot().queued_bytes;
        for _ in 0..5 {
            let first = outbox.take().await.expect("waits");
            assert_eq!(first.items, 1);
            outbox.put_back(first);
        }
        assert_eq!(statistics.snapshot().queued_bytes, queued);
        assert_eq!((next(&outbox).await, next(&outbox).await, next(&outbox).await), (Some(2), Some(1), None));
        assert_eq!(statistics.snapshot().queued_bytes, 0);
    }

    #[tokio::test]
    async fn what_fits_in_no_queue_is_dropped_alone() {
        let (outbox, statistics) = outbox();
        outbox.put(parcel(1, 100));
        outbox.put(parcel(2, CAPACITY));
        assert_eq!(dropped(&statistics, "queue_full"), 2);
        assert_eq!(next(&outbox).await, Some(1));
    }

    #[tokio::test]
    async fn at_the_end_what_waits_is_sent_or_counted() {
        let (outbox, statistics) = outbox();
        for items in [1, 2, 3] {
            outbox.put(parcel(items, 100));
        }
        outbox.close();
        outbox.put(parcel(4, 100));
        assert_eq!(dropped(&statistics, "shutdown"), 4, "too late");
        assert_eq!(next(&outbox).await, Some(1));
        let sending = outbox.take().await.expect("waits");
        outbox.give_up();
        assert_eq!(dropped(&statistics, "shutdown"), 4 + 2 + 3);
        assert_eq!(sending.items, 2);
        assert!(outbox.take().await.is_none());
    }

    proptest! {
        #[test]
        fn all_that_came_in_was_taken_or_dropped_or_waits(steps in vec((0..2000_usize, any::<bool>()), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let (outbox, statistics) = outbox();
                let (mut put, mut taken) = (0, 0);
                for (bytes, takes) in steps {
                    if takes {
                        taken += next(&outbox).await.unwrap_or(0);
                    } else {
                        put += bytes as u64;
                        outbox.put(parcel(bytes as u64, bytes));
                    }
                    assert!(statistics.snapshot().queued_bytes <= CAPACITY as u64);
                }
                outbox.give_up();
                assert_eq!(put, taken + dropped(&statistics, "queue_full") + dropped(&statistics, "shutdown"));
            });
        }
    }
}
