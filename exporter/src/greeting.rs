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

/// Bytes of what is remembered before what was remembered longer ago is forgotten; twice as many, at most. That is some 30,000
/// flows of the usual kind, and fewer of those who make their names long.
const GENERATION_BYTES: usize = 1 << 22;

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
    /// About how many bytes they take.
    bytes: usize,
    earlier: HashMap<FlowKey, Greeting>,
    /// Whether nothing is to be forgotten: of a capture.
    keeps_all: bool,
}

impl Greeting {
    /// About how many bytes it takes: what is allocated for itself, and for each of its names.
    fn bytes(&self) -> usize {
        /// An entry of the table, which is up to half empty.
        const ENTRY: usize = 2 * (size_of::<FlowKey>() + size_of::<Greeting>());
        /// A name in a list, and what the allocator keeps of it.
        const NAME: usize = size_of::<String>() + 16;
        let names = [&self.client, &self.server]
            .into_iter()
            .flatten()
            .flat_map(|hello| hello.server_name.iter().chain(&hello.application_protocols));
        ENTRY + names.map(|name| NAME + name.capacity()).sum::<usize>()
    }
}

impl Greetings {
    /// Greetings of which none is forgotten, however many there are: of a capture.
    #[must_use]
    pub fn of_capture() -> Self {
        Self(Arc::new(Mutex::new(Generations { keeps_all: true, ..Generations::default() })))
    }

    /// Takes note of the first payload of a flow in one direction, which looks like `protocol`.
    pub fn note(&self, key: FlowKey, protocol: Protocol, payload: &[u8]) {
        let mut generations = self.lock();
        let mut greeting = generations.take(&key).or_else(|| generations.earlier.remove(&key)).unwrap_or_default();
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
        let bytes = greeting.bytes();
        if generations.bytes + bytes > GENERATION_BYTES && !generations.keeps_all {
            generations.earlier = mem::take(&mut generations.recent);
            generations.bytes = 0;
        }
        generations.bytes += bytes;
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
        if !generations.is_empty() && generations.take(key).is_none() {
            generations.earlier.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        // Nobody leaves it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    /// Takes out a recent one.
    fn take(&mut self, key: &FlowKey) -> Option<Greeting> {
        let greeting = self.recent.remove(key)?;
        self.bytes = self.bytes.saturating_sub(greeting.bytes());
        Some(greeting)
    }

    fn is_empty(&self) -> bool {
        self.recent.is_empty() && self.earlier.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use tidewaiter_common::flow::FlowKey;

    use super::{GENERATION_BYTES, Greetings};
    use crate::flow::Protocol;

    fn key(number: u32) -> FlowKey {
        let address = std::net::IpAddr::from(std::net::Ipv4Addr::from(number)).into();
        FlowKey { local: address, remote: address, interface: 1, local_port: 443, remote_port: 40_000, protocol: 6 }
    }

    /// A hello of a client, of TLS 1.2, with a server's name and application protocols as long as may be.
    fn long_hello() -> Vec<u8> {
        let vector = |bytes: Vec<u8>| [&u16::try_from(bytes.len()).expect("fits").to_be_bytes()[..], &bytes].concat();
        let name = vector([vec![0], vector(vec![0xff; 255])].concat());
        let protocols = vector((0..16).flat_map(|_| [vec![8], vec![0xfe; 8]].concat()).collect());
        let extensions = [vec![0, 0], vector(name), vec![0, 16], vector(protocols)].concat();
        let hello = [&[3, 3][..], &[0; 32], &[0], &vector(vec![0, 1]), &[1, 0], &vector(extensions)].concat();
        let message = [&[1, 0][..], &vector(hello)].concat();
        [&[22, 3, 1][..], &vector(message)].concat()
    }

    #[test]
    fn who_sends_long_names_takes_no_more_memory_than_others() {
        let greetings = Greetings::default();
        for number in 0..100_000 {
            greetings.note(key(number), Protocol::Tls, &long_hello());
        }
        let (hello, _) = greetings.of(&key(99_999));
        let hello = hello.expect("the last is remembered");
        assert_eq!((hello.server_name.as_ref().map(String::len), hello.application_protocols.len()), (Some(255), 16));
        assert_eq!(greetings.of(&key(0)).0, None);
        let generations = greetings.lock();
        let bytes = [&generations.recent, &generations.earlier]
            .map(|generation| generation.values().map(super::Greeting::bytes).sum::<usize>());
        assert!(bytes.iter().all(|bytes| *bytes <= GENERATION_BYTES), "{bytes:?}");
        assert_eq!(bytes[0], generations.bytes);
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let greetings = Greetings::default();
        greetings.note(key(1), Protocol::Tls, &long_hello());
        assert!(greetings.of(&key(1)).0.is_some());
        greetings.forget(&key(1));
        assert_eq!(greetings.of(&key(1)).0, None);
        assert_eq!(greetings.lock().bytes, 0);
    }
}
