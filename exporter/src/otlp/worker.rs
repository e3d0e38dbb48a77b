//! The thread that makes requests and sends them.

use std::{future::pending, io::Write as _, sync::Arc, time::Duration};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use opentelemetry::InstrumentationScope;
use opentelemetry_proto::{
    tonic::{common::v1::InstrumentationScope as ProtoScope, resource::v1::Resource as ProtoResource},
    transform::common::tonic::ResourceAttributesWithSchema,
};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_semantic_conventions::SCHEMA_URL;
use prost::Message as _;
use tokio::{
    runtime::Runtime,
    sync::{mpsc::Receiver, oneshot, watch},
    task::{JoinSet, yield_now},
    time::{Instant, sleep_until, timeout},
};
use tracing::{error, warn};

use super::{
    OtlpError, Sources,
    gathered::Gathered,
    logs::Logs,
    metrics::Writer,
    outbox::{Outbox, Parcel},
    resource::resource,
    sender::Sender,
    statistics::{Dropped, Signal, Statistics},
    traces::Spans,
    transport::Transport,
};
use crate::{
    capabilities,
    config::otlp::{Otlp, OtlpBatch, OtlpTarget},
    metrics::families,
    snapshot::Snapshot,
};

/// What our telemetry is said to come from.
const SCOPE: &str = env!("CARGO_PKG_NAME");

/// Everything that the thread has.
#[derive(Debug)]
pub(super) struct Worker {
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    metrics: Option<(Writer, Arc<Outbox>, Arc<Statistics>)>,
    spans: Option<(OtlpBatch, Spans)>,
    logs: Option<(OtlpBatch, Logs)>,
    lines: Vec<Line>,
    request_bytes: usize,
    flush_timeout: Duration,
}

/// The most bytes of a request, before it is compressed: collectors take 4 MiB over gRPC unless told otherwise.
const REQUEST_BYTES: usize = 2 << 20;
/// What waits has room for so many requests at least: one is sent while others wait.
const LEAST_REQUESTS: usize = 4;

/// The most bytes of a request of which `queue_bytes` may wait, about.
fn request_bytes(queue_bytes: usize) -> usize {
    REQUEST_BYTES.min(queue_bytes / LEAST_REQUESTS)
}

/// The way of one signal.
#[derive(Debug)]
struct Line {
    outbox: Arc<Outbox>,
    transport: Transport,
    statistics: Arc<Statistics>,
}

/// What is gathered for requests.
#[derive(Debug)]
struct Batches<T> {
    source: Receiver<Arc<T>>,
    limits: OtlpBatch,
    /// The most bytes that are gathered for one.
    bytes: usize,
    /// When the next request is due; none while nothing waits for one.
    due: Option<Instant>,
}

impl Worker {
    pub(super) fn new(
        configuration: &Otlp,
        snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
        instance: &str,
    ) -> Result<Self, OtlpError> {
        let Otlp { metrics, traces, logs, resource: configured, queue_bytes, flush_timeout } = configuration;
        let resource = resource(configured, instance);
        let scope = InstrumentationScope::builder(SCOPE)
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_schema_url(SCHEMA_URL)
            .build();
        let mut lines = Vec::new();
        let mut line = |signal, target: &OtlpTarget| {
            let statistics = Arc::new(Statistics::new(signal, *queue_bytes));
            let outbox = Arc::new(Outbox::new(*queue_bytes, Arc::clone(&statistics)));
            let transport = Transport::new(signal, target.clone())?;
            lines.push(Line { outbox: Arc::clone(&outbox), transport, statistics: Arc::clone(&statistics) });
            Ok::<_, OtlpError>((outbox, statistics))
        };
        let metrics = match metrics {
            Some(metrics) => {
                let (outbox, statistics) = line(Signal::Metrics, &metrics.target)?;
                let attributes = ResourceAttributesWithSchema::from(&resource).attributes.0;
                let proto = ProtoResource { attributes, ..ProtoResource::default() };
                let writer = Writer::new(
                    proto,
                    ProtoScope::from((&scope, None)),
                    metrics.histograms,
                    request_bytes(*queue_bytes),
                );
                Some((writer, outbox, statistics))
            }
            None => None,
        };
        let spans = match traces {
            Some(traces) => {
                let (outbox, statistics) = line(Signal::Traces, &traces.target)?;
                let spans = Spans::new(&resource, scope.clone(), traces.sample_ratio, outbox, statistics)?;
                Some((traces.batch, spans))
            }
            None => None,
        };
        let logs = match logs {
            Some(logs) => {
                let (outbox, statistics) = line(Signal::Logs, &logs.target)?;
                let records = Logs::new(&resource, scope, outbox, statistics)?;
                Some((logs.batch, records))
            }
            None => None,
        };
        let request_bytes = request_bytes(*queue_bytes);
        Ok(Self { snapshots, metrics, spans, logs, lines, request_bytes, flush_timeout: *flush_timeout })
    }

    pub(super) fn statistics(&self) -> Vec<Arc<Statistics>> {
        self.lines.iter().map(|line| Arc::clone(&line.statistics)).collect()
    }

    /// Whether metrics are sent.
    pub(super) const fn sends_metrics(&self) -> bool {
        self.metrics.is_some()
    }

    /// Sends until it is asked to end.
    pub(super) fn run(self, runtime: Runtime, sources: Sources, asked: oneshot::Receiver<()>) {
        // It needs none. Those that it was started with it may keep, if need be: they are few.
        if let Err(error) = capabilities::keep_only(&[]) {
            warn!(%error, "the thread that sends OTLP keeps its capabilities");
        }
        runtime.block_on(self.work(sources, asked));
        // A look-up of a name may hang: nobody waits for it.
        runtime.shutdown_background();
    }

    async fn work(self, Sources { records, events }: Sources, mut asked: oneshot::Receiver<()>) {
        let Self { mut snapshots, metrics, spans, logs, lines, request_bytes, flush_timeout } = self;
        let mut spans =
            spans.zip(records).map(|((limits, spans), source)| (Batches::new(source, limits, request_bytes), spans));
        let mut logs =
            logs.zip(events).map(|((limits, logs), source)| (Batches::new(source, limits, request_bytes), logs));
        let (tell, ending) = watch::channel(false);
        let (mut senders, mut outboxes) = (JoinSet::new(), Vec::new());
        for Line { outbox, transport, statistics } in lines {
            outboxes.push(Arc::clone(&outbox));
            senders.spawn(Sender { outbox, transport, statistics, ending: ending.clone() }.run());
        }
        loop {
            tokio::select! {
                // Whoever has gone without a word wants an end too.
                _ = &mut asked => break,
                Ok(()) = snapshots.changed() => send_metrics(metrics.as_ref(), &mut snapshots),
                () = next(spans.as_mut()) => flush(spans.as_mut()).await,
                () = next(logs.as_mut()) => flush(logs.as_mut()).await,
                Some(ended) = senders.join_next() => {
                    let why = ended.err().map(|error| error.to_string()).unwrap_or_default();
                    error!(error = why, "what sends a signal over OTLP has ended: it is not sent any more");
                }
            }
        }
        // Those that wait to try again do so at once.
        tell.send_replace(true);
        let rest = async {
            if snapshots.has_changed().unwrap_or(false) {
                send_metrics(metrics.as_ref(), &mut snapshots);
            }
            take_the_rest(spans.as_mut()).await;
            take_the_rest(logs.as_mut()).await;
            for outbox in &outboxes {
                outbox.close();
            }
            while senders.join_next().await.is_some() {}
        };
        // What is left then is given up, and counted.
        let _ = timeout(flush_timeout, rest).await;
        spans.as_mut().map(give_up);
        logs.as_mut().map(give_up);
        for outbox in &outboxes {
            outbox.give_up();
        }
    }
}

/// Makes requests of the metrics.
fn send_metrics(
    metrics: Option<&(Writer, Arc<Outbox>, Arc<Statistics>)>,
    snapshots: &mut watch::Receiver<Option<Arc<Snapshot>>>,
) {
    let snapshot = snapshots.borrow_and_update().clone();
    let Some((snapshot, (writer, outbox, statistics))) = snapshot.zip(metrics) else { return };
    let families = match families(&snapshot) {
        Ok(families) => families,
        Err(error) => return error!(%error, "cannot write the metrics"),
    };
    let started = snapshot.process.map(|process| process.started);
    for (request, items) in writer.write(&families, snapshot.taken, started) {
        match compress(&request.encode_to_vec()) {
            Ok(body) => outbox.put(Parcel::new(body, items)),
            Err(_) => statistics.dropped(Dropped::Failed, items),
        }
    }
}

/// What makes requests of things one by one.
pub(super) trait Maker {
    /// What they are made of.
    type Thing;
    /// What is made of each.
    type Made;

    /// Takes in one.
    fn add(&self, thing: &Self::Thing);

    /// What was made and is in no request yet.
    fn gathered(&self) -> &Gathered<Self::Made>;

    /// Counts of the signal.
    fn statistics(&self) -> &Statistics;

    /// Makes a request of `batch`.
    async fn export(&self, batch: Vec<Self::Made>) -> OTelSdkResult;

    /// What waits to be put into a request.
    fn waiting(&self) -> Waiting {
        self.gathered().waiting()
    }

    /// Makes a request of all that wait.
    async fn flush(&self) {
        let batch = self.gathered().take();
        let items = batch.len();
        if items > 0
            && let Err(error) = self.export(batch).await
        {
            self.statistics().failed(&error, items);
        }
    }

    /// Takes note that so many are given up beside those that wait, which are too.
    fn give_up(&self, more: usize) {
        self.statistics().dropped(Dropped::Shutdown, (self.gathered().take().len() + more) as u64);
    }
}

/// What waits to be put into a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    /// How many.
    pub(super) items: usize,
    /// About how many bytes of a request they take, before it is compressed.
    pub(super) bytes: usize,
}

impl<T> Batches<T> {
    const fn new(source: Receiver<Arc<T>>, limits: OtlpBatch, bytes: usize) -> Self {
        Self { source, limits, bytes, due: None }
    }

    /// Whether what waits is enough for a request.
    const fn is_enough(&self, waiting: Waiting) -> bool {
        waiting.items >= self.limits.size || waiting.bytes >= self.bytes
    }
}

/// How many things are taken in before those who send get a turn.
const SLICE: usize = 128;

/// Takes things in until a request is due. Waits for ever where there is nothing to be sent. This may be cancelled while it
/// waits: what was taken in is kept.
async fn next<M: Maker>(gathered: Option<&mut (Batches<M::Thing>, M)>) {
    let Some((batches, maker)) = gathered else { return pending().await };
    let mut taken = 0_usize;
    loop {
        let due = batches.due;
        let thing = tokio::select! {
            thing = batches.source.recv() => thing,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => return,
        };
        // Whoever hands things over has gone.
        let Some(thing) = thing else { return pending().await };
        maker.add(&thing);
        let waiting = maker.waiting();
        if batches.is_enough(waiting) {
            return;
        }
        // What the sampler leaves out waits for nothing.
        if waiting.items > 0 && batches.due.is_none() {
            batches.due = Some(Instant::now() + batches.limits.delay);
        }
        taken += 1;
        if taken.is_multiple_of(SLICE) {
            yield_now().await;
        }
    }
}

/// Makes a request of what was taken in.
async fn flush<M: Maker>(gathered: Option<&mut (Batches<M::Thing>, M)>) {
    if let Some((batches, maker)) = gathered {
        batches.due = None;
        maker.flush().await;
    }
}

/// Makes requests of all that was handed over before the end.
async fn take_the_rest<M: Maker>(gathered: Option<&mut (Batches<M::Thing>, M)>) {
    let Some((batches, maker)) = gathered else { return };
    let mut taken = 0_usize;
    while let Ok(thing) = batches.source.try_recv() {
        maker.add(&thing);
        if batches.is_enough(maker.waiting()) {
            maker.flush().await;
        }
        taken += 1;
        if taken.is_multiple_of(SLICE) {
            yield_now().await;
        }
    }
    maker.flush().await;
}

/// Takes note of all that was handed over and is in no request.
fn give_up<M: Maker>((batches, maker): &mut (Batches<M::Thing>, M)) {
    batches.source.close();
    maker.give_up(std::iter::from_fn(|| batches.source.try_recv().ok()).count());
}

fn compress(message: &[u8]) -> std::io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(message)?;
    Ok(encoder.finish()?.into())
}
