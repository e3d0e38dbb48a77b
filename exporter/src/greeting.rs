//! What the first payloads of flows say beyond what the kernel reads of them.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tidewaiter_common::flow::FlowKey;

use crate::{
    flow::{Protocol, TlsHello},
    grpc::is_grpc,
    tls,
};

/// How many flows are remembered before those of longer ago are forgotten; twice as many, at most, at some 300 bytes.
const GENERATION: usize = 16_384;

/// What the two ends of a flow have said first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    client: Option<TlsHello>,
    server: Option<TlsHello>,
    is_grpc: bool,
}

/// Greetings of flows that go on, as far as there is room. Whoever holds a copy sees the same.
#[derive(Clone, Debug, Default)]
pub struct Greetings(Arc<Mutex<Generations>>);

/// Flows that end are taken out, but some end unseen; so those that came long ago are forgotten together.
#[derive(Debug, Default)]
struct Generations {
    recent: HashMap<FlowKey, Greeting>,
    earlier: HashMap<FlowKey, Greeting>,
}

impl Greetings {
    /// Takes note of the first payload of a flow in one direction, which looks like `protocol`.
    pub fn note(&self, key: FlowKey, protocol: Protocol, payload: &[u8]) {
        let mut generations = self.lock();
        let mut greeting =
            generations.recent.remove(&key).or_else(|| generations.earlier.remove(&key)).unwrap_or_default();
        match protocol {
            Protocol::Http2 => greeting.is_grpc |= is_grpc(payload),
            Protocol::Tls => match tls::read_hello(payload) {
                Some(hello) if tls::is_client_hello(payload) => greeting.client = Some(hello),
                Some(hello) => greeting.server = Some(hello),
                None => {}
            },
            _ => {}
        }
        if greeting == Greeting::default() {
            return;
        }
        if generations.recent.len() >= GENERATION {
            generations.earlier = mem::take(&mut generations.recent);
        }
        generations.recent.insert(key, greeting);
    }

    /// What TLS said in the clear, and what the payload looks like if that is known better than by its first bytes.
    #[must_use]
    pub fn of(&self, key: &FlowKey) -> (Option<Arc<TlsHello>>, Option<Protocol>) {
        let generations = self.lock();
        let greeting = generations.recent.get(key).or_else(|| generations.earlier.get(key));
        let Some(Greeting { client, server, is_grpc }) = greeting else { return (None, None) };
        let hello = tls::join(client.clone(), server.clone());
        (hello.map(Arc::new), is_grpc.then_some(Protocol::Grpc))
    }

    /// Forgets a flow that is over.
    pub fn forget(&self, key: &FlowKey) {
        let mut generations = self.lock();
        if !generations.is_empty() && generations.recent.remove(key).is_none() {
            generations.earlier.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        // Nobody leaves it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn is_empty(&self) -> bool {
        self.recent.is_empty() && self.earlier.is_empty()
    }
}
