//! What was made of records and events, and is in no request yet.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use opentelemetry::{KeyValue, Value};

use super::worker::Waiting;

/// What a span or a log record takes in a request beside its attributes, about: times, identifiers, a name.
const OVERHEAD: usize = 120;
/// What an attribute takes beside its key and its text: tags and lengths, and a number.
const ATTRIBUTE: usize = 16;
/// What a link takes.
pub(super) const LINK: usize = 40;

/// About how many bytes of a request something with `attributes` takes.
pub(super) fn bytes(attributes: &[KeyValue]) -> usize {
    let text = |value: &Value| if let Value::String(text) = value { text.as_str().len() } else { 0 };
    let attribute = |KeyValue { key, value, .. }: &KeyValue| ATTRIBUTE + key.as_str().len() + text(value);
    OVERHEAD + attributes.iter().map(attribute).sum::<usize>()
}

/// Things that wait to be put into a request. Whoever holds a copy sees the same.
#[derive(Debug)]
pub(super) struct Gathered<T>(Arc<Mutex<Contents<T>>>);

#[derive(Debug)]
struct Contents<T> {
    things: Vec<T>,
    bytes: usize,
}

impl<T> Default for Gathered<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Contents { things: Vec::new(), bytes: 0 })))
    }
}

impl<T> Clone for Gathered<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Gathered<T> {
    /// Adds one that takes about so many bytes of a request.
    pub(super) fn add(&self, thing: T, bytes: usize) {
        let mut contents = self.lock();
        contents.things.push(thing);
        contents.bytes += bytes;
    }

    /// What is there.
    pub(super) fn waiting(&self) -> Waiting {
        let Contents { things, bytes } = &*self.lock();
        Waiting { items: things.len(), bytes: *bytes }
    }

    /// Takes all of it.
    pub(super) fn take(&self) -> Vec<T> {
        let mut contents = self.lock();
        contents.bytes = 0;
        mem::take(&mut contents.things)
    }

    fn lock(&self) -> MutexGuard<'_, Contents<T>> {
        // Nobody leaves it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
