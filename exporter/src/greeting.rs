//! What the first payloads and requests of flows say beyond what the kernel reads of them.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tidewaiter_common::{event::SAMPLED_REQUESTS, flow::FlowKey};

use crate::{
    flow::{Protocol, TlsHello},
    grpc::is_grpc,
    tls,
    trace_context::TraceParent,
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
    /// Distinct ones, in the order in which they came.
    trace_parents: Vec<TraceParent>,
}

/// What is known of a flow from that.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// What TLS said in the clear.
    pub tls: Option<Arc<TlsHello>>,
    /// What the payload looks like, if that is known better than by its first bytes.
    pub application: Option<Protocol>,
    /// The traces that its first requests were part of, each once.
    pub trace_parents: Vec<TraceParent>,
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
    /// About how many bytes it takes: what is allocated for itself, for each of its names, and for its traces.
    fn bytes(&self) -> usize {
        /// An entry of the table, which is up to half empty.
        const ENTRY: usize = 2 * (size_of::<FlowKey>() + size_of::<Greeting>());
        /// What the allocator keeps of something.
        const ALLOCATED: usize = 16;
        /// A name in a list.
        const NAME: usize = size_of::<String>() + ALLOCATED;
        let names = [&self.client, &self.server]
            .into_iter()
            .flatten()
            .flat_map(|hello| hello.server_name.iter().chain(&hello.application_protocols));
        let traces = match self.trace_parents.capacity() {
            0 => 0,
            room => ALLOCATED + room * size_of::<TraceParent>(),
        };
        ENTRY + names.map(|name| NAME + name.capacity()).sum::<usize>() + traces
    }

    /// Takes note of the trace that a request is part of, if there are not enough of them.
    fn add_trace_parent(&mut self, trace_parent: TraceParent) {
        let has_room = self.trace_parents.len() < SAMPLED_REQUESTS as usize;
        if has_room && !self.trace_parents.contains(&trace_parent) {
            self.trace_parents.push(trace_parent);
        }
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
        self.change(key, |greeting| match protocol {
            Protocol::Http2 => greeting.is_grpc |= is_grpc(payload),
            Protocol::Tls => match tls::read_hello(payload) {
                Some(hello) if tls::is_client_hello(payload) => greeting.client = Some(hello),
                Some(hello) => greeting.server = Some(hello),
                None => {}
            },
            _ => {}
        });
    }

    /// Takes note of a request of a flow, which `payload` begins with.
    pub fn note_request(&self, key: FlowKey, payload: &[u8]) {
        if let Some(trace_parent) = TraceParent::of_request(payload) {
            self.change(key, |greeting| greeting.add_trace_parent(trace_parent));
        }
    }

    /// Changes what is known of a flow.
    fn change(&self, key: FlowKey, change: impl FnOnce(&mut Greeting)) {
        let mut generations = self.lock();
        let mut greeting = generations.take(&key).or_else(|| generations.earlier.remove(&key)).unwrap_or_default();
        change(&mut greeting);
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

    /// What is known of a flow.
    #[must_use]
    pub fn of(&self, key: &FlowKey) -> Known {
        let generations = self.lock();
        let greeting = generations.recent.get(key).or_else(|| generations.earlier.get(key));
        let Some(Greeting { client, server, is_grpc, trace_parents }) = greeting else { return Known::default() };
        Known {
            tls: tls::join(client.clone(), server.clone()).map(Arc::new),
            application: is_grpc.then_some(Protocol::Grpc),
            trace_parents: trace_parents.clone(),
        }
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
    use tidewaiter_common::{event::SAMPLED_REQUESTS, flow::FlowKey};

    use super::{GENERATION_BYTES, Greetings};
    use crate::{flow::Protocol, trace_context::TraceParent};

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
        let hello = greetings.of(&key(99_999)).tls.expect("the last is remembered");
        assert_eq!((hello.server_name.as_ref().map(String::len), hello.application_protocols.len()), (Some(255), 16));
        assert_eq!(greetings.of(&key(0)).tls, None);
        assert_bytes_are_counted(&greetings);
    }

    fn assert_bytes_are_counted(greetings: &Greetings) {
        let generations = greetings.lock();
        let bytes = [&generations.recent, &generations.earlier]
            .map(|generation| generation.values().map(super::Greeting::bytes).sum::<usize>());
        assert!(bytes.iter().all(|bytes| *bytes <= GENERATION_BYTES), "{bytes:?}");
        assert_eq!(bytes[0], generations.bytes);
    }

    /// A request that is part of the trace with `number`.
    fn request(number: u64) -> String {
        format!("GET / HTTP/1.1\r\ntraceparent: {}\r\n\r\n", trace_parent(number))
    }

    fn trace_parent(number: u64) -> TraceParent {
        TraceParent { trace_id: [1; 16], span_id: (number + 1).to_be_bytes(), flags: 1 }
    }

    #[test]
    fn of_requests_the_first_traces_are_remembered_each_once() {
        let greetings = Greetings::default();
        greetings.note_request(key(1), b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(greetings.lock().bytes, 0, "there is nothing to remember");
        for number in [0, 1, 0, 1, 2].into_iter().chain(3..100) {
            greetings.note_request(key(1), request(number).as_bytes());
        }
        let expected: Vec<_> = (0..u64::from(SAMPLED_REQUESTS)).map(trace_parent).collect();
        assert_eq!(greetings.of(&key(1)).trace_parents, expected);
        greetings.forget(&key(1));
        assert_eq!(greetings.of(&key(1)).trace_parents, []);
        assert_eq!(greetings.lock().bytes, 0);
    }

    #[test]
    fn who_names_many_traces_takes_no_more_memory_than_others() {
        let greetings = Greetings::default();
        for number in 0..50_000 {
            (0..10).for_each(|trace| greetings.note_request(key(number), request(trace).as_bytes()));
        }
        assert_eq!(greetings.of(&key(49_999)).trace_parents.len(), SAMPLED_REQUESTS as usize);
        assert_eq!(greetings.of(&key(0)).trace_parents, []);
        assert_bytes_are_counted(&greetings);
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let greetings = Greetings::default();
        greetings.note(key(1), Protocol::Tls, &long_hello());
        assert!(greetings.of(&key(1)).tls.is_some());
        greetings.forget(&key(1));
        assert_eq!(greetings.of(&key(1)).tls, None);
        assert_eq!(greetings.lock().bytes, 0);
    }
}
