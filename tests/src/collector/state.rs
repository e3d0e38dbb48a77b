//! What the receiver knows, and what it was told to do.

use std::{
    collections::VecDeque,
    fmt,
    future::pending,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use super::{
    answer::{Answer, Refusal},
    connection::Connection,
    received::{Received, Signal},
};

/// What was counted since the start, or since it was last cleared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections, of both protocols.
    pub connections: usize,
    /// Connections whose handshake of TLS failed.
    pub strangers: usize,
    /// Requests that nobody could read, which were answered with an error.
    pub unreadable: usize,
    /// Requests that were read.
    pub requests: usize,
    /// Those of them that were not answered with success.
    pub refused: usize,
    /// Spans that were accepted, with those rejected of requests that were accepted in part.
    pub spans: usize,
    /// The same, of points of metrics.
    pub points: usize,
    /// The same, of log records.
    pub logs: usize,
}

/// Decides how a request is answered.
pub(super) type Decide = Box<dyn FnMut(&Received) -> Answer + Send>;
/// Looks at a request that is not kept.
pub(super) type Look = Box<dyn FnMut(&Received) + Send>;

/// What is under the lock.
pub(super) struct State {
    pub(super) received: Vec<Arc<Received>>,
    pub(super) counts: Counts,
    /// The next answers, before anybody is asked.
    pub(super) next: VecDeque<Answer>,
    pub(super) decide: Decide,
    /// Who looks at requests that are then forgotten.
    pub(super) look: Option<Look>,
}

/// What the servers of both protocols share with the test.
pub(super) struct Shared(Mutex<State>);

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics in what it is asked")
    }

    pub(super) fn count_connection(&self) -> usize {
        let counts = &mut self.lock().counts;
        counts.connections += 1;
        counts.connections
    }

    pub(super) fn count_stranger(&self, error: &io::Error) {
        eprintln!("the receiver: no handshake of TLS: {error}");
        self.lock().counts.strangers += 1;
    }

    pub(super) fn count_unreadable(&self, why: &dyn fmt::Display) {
        eprintln!("the receiver: cannot read a request: {why}");
        self.lock().counts.unreadable += 1;
    }

    /// Takes a request, and answers when it is time with how many of its items are rejected, or with an error.
    pub(super) async fn take(&self, received: Received, connection: &Connection) -> Result<i64, Refusal> {
        match self.keep(received) {
            Answer::Accept => Ok(0),
            Answer::Reject(items) => Ok(items),
            Answer::Late(delay) => {
                tokio::time::sleep(delay).await;
                Ok(0)
            }
            Answer::Refuse(refusal) => Err(refusal),
            Answer::HangUp => {
                connection.hang_up();
                pending().await
            }
        }
    }

    fn keep(&self, mut received: Received) -> Answer {
        let mut state = self.lock();
        let State { received: kept, counts, next, decide, look } = &mut *state;
        let answer = next.pop_front().unwrap_or_else(|| decide(&received));
        counts.requests += 1;
        if answer.is_success() {
            let items = match received.signal() {
                Signal::Traces => &mut counts.spans,
                Signal::Metrics => &mut counts.points,
                Signal::Logs => &mut counts.logs,
            };
            *items += received.export.items();
        } else {
            counts.refused += 1;
        }
        received.answer = answer.clone();
        match look {
            Some(look) => look(&received),
            None => kept.push(Arc::new(received)),
        }
        answer
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self(Mutex::new(State {
            received: Vec::new(),
            counts: Counts::default(),
            next: VecDeque::new(),
            decide: Box::new(|_| Answer::Accept),
            look: None,
        }))
    }
}
