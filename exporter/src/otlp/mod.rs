//! OpenTelemetry: metrics, spans and log records for any collector.
//!
//! ```text
//! Snapshot ──► families of /metrics ──► opentelemetry-proto ────────────┐
//! FlowRecord ──► spans (SDK) ──► opentelemetry-otlp ──► Courier ──► Outbox ──► Sender ──► Transport
//! Event ──► log records (SDK) ──► opentelemetry-otlp ──► Courier ───────┘
//! ```
//!
//! All of it is done by a thread of its own, without any capability: however slow a collector is, the accounting and `/metrics`
//! do not wait. Whoever hands something over does not wait either. What waits for the collector is bounded by the memory it
//! takes, of each signal by itself, and what is dropped is counted by the reason why ([`Statistics`]).

mod attributes;
mod courier;
mod gathered;
mod logs;
mod metrics;
pub mod names;
mod outbox;
mod quiet;
mod resource;
mod sender;
mod statistics;
mod traces;
mod transport;
mod worker;

use std::{io, sync::Arc, thread, time::Duration};

use opentelemetry_otlp::ExporterBuildError;
use thiserror::Error;
use tokio::{
    runtime::Builder,
    sync::{mpsc::Receiver, oneshot, watch},
    time::timeout,
};
use tracing::{info, warn};

pub use self::statistics::{Dropped, Outcome, Signal, Statistics};
use self::{transport::TlsError, worker::Worker};
use crate::{config::otlp::Otlp, event::Event, flow::FlowRecord, snapshot::Snapshot};

/// What the sinks are called that hand records and events over.
pub const SINK: &str = "otlp";

/// How much longer than its own deadline the end is waited for: the thread may be in the midst of a request.
const GRACE: Duration = Duration::from_secs(1);

/// Why nothing can be sent.
#[derive(Debug, Error)]
pub enum OtlpError {
    /// Certificates or keys are of no use.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// What makes requests would not start.
    #[error("cannot prepare requests for OTLP")]
    Prepare(#[from] ExporterBuildError),
    /// There is no thread to be had, or nothing that it needs.
    #[error("cannot start the thread that sends OTLP")]
    Thread(#[source] io::Error),
}

/// Where what is sent comes from, beside snapshots. A signal that is not sent has no source.
#[derive(Debug, Default)]
pub struct Sources {
    /// Records of flows.
    pub records: Option<Receiver<Arc<FlowRecord>>>,
    /// Events.
    pub events: Option<Receiver<Arc<Event>>>,
}

/// All that is needed to send, but nothing runs yet: certificates have been read while that was permitted.
#[derive(Debug)]
pub struct Prepared {
    worker: Worker,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    statistics: Vec<Arc<Statistics>>,
    flush_timeout: Duration,
}

/// Sends what it is handed, in a thread of its own.
#[derive(Debug)]
pub struct Exporter {
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    sends_metrics: bool,
    statistics: Vec<Arc<Statistics>>,
    end: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
    flush_timeout: Duration,
}

impl Prepared {
    /// Prepares what `configuration` asks for. `instance` tells this exporter from others on the same host.
    pub fn new(configuration: &Otlp, instance: &str) -> Result<Self, OtlpError> {
        let (snapshots, receiver) = watch::channel(None);
        let worker = Worker::new(configuration, receiver, instance)?;
        let statistics = worker.statistics();
        Ok(Self { worker, snapshots, statistics, flush_timeout: configuration.flush_timeout })
    }

    /// Counts of each signal that is sent.
    #[must_use]
    pub fn statistics(&self) -> Vec<Arc<Statistics>> {
        self.statistics.clone()
    }

    /// Starts the thread, which sends what comes from `sources`. It has the capabilities of the one that calls this, and gives
    /// them up.
    pub fn start(self, sources: Sources) -> Result<Exporter, OtlpError> {
        let Self { worker, snapshots, statistics, flush_timeout } = self;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(OtlpError::Thread)?;
        let sends_metrics = worker.sends_metrics();
        let (end, asked) = oneshot::channel();
        let (tell, ended) = oneshot::channel();
        let run = move || {
            worker.run(runtime, sources, asked);
            // Nobody may be there to hear it.
            let _ = tell.send(());
        };
        thread::Builder::new().name(SINK.to_owned()).spawn(run).map_err(OtlpError::Thread)?;
        Ok(Exporter { snapshots, sends_metrics, statistics, end, ended, flush_timeout })
    }
}

impl Exporter {
    /// Whether it sends metrics, which it makes of snapshots.
    #[must_use]
    pub const fn sends_metrics(&self) -> bool {
        self.sends_metrics
    }

    /// Waits until the thread has ended, which it does not unless it is asked to, or has failed.
    pub async fn ended(&mut self) {
        // Whether it said so is of no consequence.
        let _ = (&mut self.ended).await;
    }

    /// Has `snapshot` sent. One that was handed over before and was not looked at yet is not: this says more.
    pub fn send(&self, snapshot: Arc<Snapshot>) {
        self.snapshots.send_replace(Some(snapshot));
    }

    /// Has everything sent that was handed over, and ends; what cannot be sent in time is dropped.
    pub async fn end(self) {
        let Self { snapshots: _snapshots, sends_metrics: _, statistics, end, ended, flush_timeout } = self;
        let before: u64 = statistics.iter().map(|one| one.all_dropped()).sum();
        // If it has ended before, nobody hears this.
        let _ = end.send(());
        match timeout(flush_timeout + GRACE, ended).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return warn!("the thread that sends OTLP has failed: what it had is lost"),
            Err(_) => return warn!("the thread that sends OTLP did not end in time: what it had is lost"),
        }
        let dropped = statistics.iter().map(|one| one.all_dropped()).sum::<u64>() - before;
        if dropped > 0 {
            let flush_timeout = humantime::format_duration(flush_timeout);
            warn!(dropped, %flush_timeout, "not all could be sent to the OpenTelemetry collector before the end");
        } else {
            info!("all that waited was sent to the OpenTelemetry collector");
        }
    }
}
