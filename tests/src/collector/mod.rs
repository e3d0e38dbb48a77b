//! A receiver of OTLP, as a collector of `OpenTelemetry` is, that shows what it has received and fails as it is told to.
//!
//! It speaks gRPC (by tonic, on the protocol's own schema) and protobuf over HTTP, each on a port of its own, plain or with
//! TLS, compressed or not.

mod answer;
mod certificates;
mod connection;
mod grpc;
mod http;
mod received;
mod state;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener},
    sync::Arc,
    thread::{self, JoinHandle},
};

pub use answer::{Answer, REASON, Refusal};
pub use certificates::{Certificates, SERVER_NAME};
use opentelemetry_proto::tonic::{logs::v1::LogRecord, metrics::v1::Metric, resource::v1::Resource, trace::v1::Span};
pub use received::{Export, Protocol, Received, Signal, attribute};
use socket2::SockRef;
pub use state::Counts;
use state::Shared;
use tokio::{runtime, sync::oneshot};
use tokio_rustls::TlsAcceptor;

use crate::{namespace::Namespace, wait::wait_for};

/// The ports that the protocol has for gRPC and for HTTP.
pub const PORTS: [u16; 2] = [4317, 4318];

/// How a receiver is to be, if not as most are.
#[derive(Debug, Default)]
pub struct Settings<'a> {
    /// Speaks TLS, with the server's certificate of these.
    pub certificates: Option<&'a Certificates>,
    /// Talks to clients with a certificate alone.
    pub asks_clients: bool,
    /// Other ports than [`PORTS`] for gRPC and for HTTP; zero is any that is free.
    pub ports: Option<[u16; 2]>,
}

/// A receiver. It is away when this is dropped.
pub struct Collector<'a> {
    namespace: Option<&'a Namespace>,
    tls: Option<TlsAcceptor>,
    ports: [u16; 2],
    shared: Arc<Shared>,
    server: Option<Server>,
}

/// The thread of one that is there, which ends when it is told to.
struct Server {
    listeners: [TcpListener; 2],
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl<'a> Collector<'a> {
    /// Starts one on all addresses of `namespace`, at [`PORTS`].
    #[must_use]
    pub fn new(namespace: &'a Namespace) -> Self {
        Self::with(Some(namespace), &Settings::default())
    }

    /// Starts one on all addresses of `namespace`, or else at any free ports of the loopback interface that tests are on.
    #[must_use]
    pub fn with(namespace: Option<&'a Namespace>, settings: &Settings<'_>) -> Self {
        let Settings { certificates, asks_clients, ports } = settings;
        let tls = certificates.map(|certificates| TlsAcceptor::from(certificates.server_config(*asks_clients)));
        let ports = ports.unwrap_or(if namespace.is_some() { PORTS } else { [0, 0] });
        let mut collector = Self { namespace, tls, ports, shared: Arc::default(), server: None };
        collector.start();
        collector
    }

    /// Is there again after [`Collector::stop`], at the same ports, with all that it has received before.
    ///
    /// # Panics
    /// If it was there.
    pub fn start(&mut self) {
        assert!(self.server.is_none(), "it is there");
        let address: IpAddr = match self.namespace {
            // For both versions of IP.
            Some(_) => Ipv6Addr::UNSPECIFIED.into(),
            None => Ipv4Addr::LOCALHOST.into(),
        };
        let listen = |port| {
            let listener = TcpListener::bind(SocketAddr::new(address, port)).expect("nobody listens there");
            listener.set_nonblocking(true).expect("is ours");
            listener
        };
        let ports = self.ports;
        // Sockets stay where they are made, whoever uses them.
        let listeners = match self.namespace {
            Some(namespace) => namespace.run(|| ports.map(listen)),
            None => ports.map(listen),
        };
        self.ports = listeners.each_ref().map(|listener| listener.local_addr().expect("has one").port());

        let served = listeners.each_ref().map(|listener| listener.try_clone().expect("there are descriptors left"));
        let (end, ended) = oneshot::channel();
        let (tls, shared) = (self.tls.clone(), Arc::clone(&self.shared));
        let thread = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                for (listener, router) in served.into_iter().zip([grpc::router(&shared), http::router(&shared)]) {
                    tokio::spawn(connection::serve(listener, router, tls.clone(), Arc::clone(&shared)));
                }
                ended.await.ok();
            });
            // All connections end with the runtime.
        });
        self.server = Some(Server { listeners, end, thread });
    }

    /// Is away, as a collector is that was stopped: connections end at once, and new ones are refused.
    ///
    /// # Panics
    /// If it has panicked.
    pub fn stop(&mut self) {
        if let Some(Server { listeners, end, thread }) = self.server.take() {
            end.send(()).ok();
            let ended = thread.join();
            for listener in &listeners {
                // What another test starts just now may have a copy of it for a moment, by which it would still listen.
                SockRef::from(listener).shutdown(Shutdown::Both).ok();
            }
            // A second panic would hide the first.
            assert!(ended.is_ok() || thread::panicking(), "the receiver has panicked");
        }
    }

    /// The port of `protocol`.
    #[must_use]
    pub const fn port(&self, protocol: Protocol) -> u16 {
        match protocol {
            Protocol::Grpc => self.ports[0],
            Protocol::Http => self.ports[1],
        }
    }

    /// What a client who knows it as `host` writes as the address of `protocol`; signals' paths go behind it.
    #[must_use]
    pub fn endpoint(&self, protocol: Protocol, host: &str) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{host}:{}", self.port(protocol))
    }

    /// Answers all requests from now on with `answer`.
    pub fn answer(&self, answer: impl Into<Answer>) {
        let answer = answer.into();
        self.answer_by(move |_| answer.clone());
    }

    /// Answers each request from now on with what `decide` says.
    pub fn answer_by(&self, decide: impl FnMut(&Received) -> Answer + Send + 'static) {
        self.shared.lock().decide = Box::new(decide);
    }

    /// Answers the next requests with `answers`, one after the other, and those after them as before.
    pub fn answer_next(&self, answers: impl IntoIterator<Item = Answer>) {
        self.shared.lock().next.extend(answers);
    }

    /// Keeps no requests from now on, but lets `look` see each, however it is answered; they are still counted. For more
    /// than there is memory for.
    pub fn only_look(&self, look: impl FnMut(&Received) + Send + 'static) {
        self.shared.lock().look = Some(Box::new(look));
    }

    /// Forgets what was received and what was counted; connections go on.
    pub fn clear(&self) {
        let mut state = self.shared.lock();
        state.received.clear();
        // Numbers of connections stay unique.
        state.counts = Counts { connections: state.counts.connections, ..Counts::default() };
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.lock().counts
    }

    /// All requests that could be read, however they were answered, in the order in which they came.
    #[must_use]
    pub fn requests(&self) -> Vec<Arc<Received>> {
        self.shared.lock().received.clone()
    }

    /// Spans of requests that were accepted, in the order in which they came.
    #[must_use]
    pub fn spans(&self) -> Vec<(Resource, Span)> {
        self.accepted(|export| export.spans().map(|(resource, span)| (resource, span.clone())).collect())
    }

    /// Metrics of requests that were accepted, in the order in which they came.
    #[must_use]
    pub fn metrics(&self) -> Vec<(Resource, Metric)> {
        self.accepted(|export| export.metrics().map(|(resource, metric)| (resource, metric.clone())).collect())
    }

    /// Log records of requests that were accepted, in the order in which they came.
    #[must_use]
    pub fn logs(&self) -> Vec<(Resource, LogRecord)> {
        self.accepted(|export| export.logs().map(|(resource, record)| (resource, record.clone())).collect())
    }

    fn accepted<T>(&self, items: impl Fn(&Export) -> Vec<T>) -> Vec<T> {
        let requests = self.requests();
        requests
            .iter()
            .filter(|request| request.answer.is_success())
            .flat_map(|request| items(&request.export))
            .collect()
    }

    /// Waits until there are `count` requests or more, and answers with all.
    #[must_use]
    pub fn wait_for_requests(&self, count: usize) -> Vec<Arc<Received>> {
        self.wait_for("requests", count, Self::requests)
    }

    /// Waits until there are `count` spans or more, and answers with all.
    #[must_use]
    pub fn wait_for_spans(&self, count: usize) -> Vec<(Resource, Span)> {
        self.wait_for("spans", count, Self::spans)
    }

    /// Waits until there are `count` metrics or more, and answers with all.
    #[must_use]
    pub fn wait_for_metrics(&self, count: usize) -> Vec<(Resource, Metric)> {
        self.wait_for("metrics", count, Self::metrics)
    }

    /// Waits until there are `count` log records or more, and answers with all.
    #[must_use]
    pub fn wait_for_logs(&self, count: usize) -> Vec<(Resource, LogRecord)> {
        self.wait_for("log records", count, Self::logs)
    }

    fn wait_for<T>(&self, what: &str, count: usize, look: impl Fn(&Self) -> Vec<T>) -> Vec<T> {
        wait_for(&format!("{count} {what} to be received"), || Some(look(self)).filter(|found| found.len() >= count))
    }
}

impl Drop for Collector<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}
