//! The audit log: what has happened as JSON lines in a file, each chained to the one before by its hash, so that a line that was
//! changed, removed, moved or put in shows ([`verify`]).
//!
//! ```text
//! Event, FlowRecord ──► Entry ──► line (record) ──► Journal ──► file, and those before it
//! ```
//!
//! All of it is done by a thread of its own, without any capability: however slow a disk is, neither traffic nor metrics wait.
//! Whoever hands something over does not wait either. What waits is bounded, and what is lost is counted by name and reason
//! ([`Statistics`]), and recorded as soon as the file can be written again.

mod error;
mod folder;
mod journal;
mod record;
mod resume;
mod statistics;
pub mod verify;
mod writer;

use std::{sync::Arc, thread, time::Duration};

use tokio::{
    runtime::Builder,
    sync::oneshot,
    time::{Instant, timeout},
};
use tracing::{info, warn};

pub use self::{
    error::AuditError,
    record::{FLOW, Hash, Head, MAX_LINE},
    statistics::{Dropped, Statistics},
    writer::Sources,
};
use self::{
    folder::Folder,
    journal::{Journal, Limits},
    writer::Writer,
};
use crate::{
    accounting::Accounting,
    capabilities,
    config::{Audit as Settings, AuditSync},
    event::Happening,
};

/// What the sinks are called that hand records and events over.
pub const SINK: &str = "audit";

/// How many events, and how many records of flows, may wait: each takes less than a kilobyte, but for changes of the configuration.
const QUEUE: usize = 8192;

/// Time between two times that the others are told how far the log has come.
pub const ANNOUNCEMENTS: Duration = Duration::from_mins(1);

/// How long the end is waited for.
const GRACE: Duration = Duration::from_secs(5);

/// All that is needed to write, but nothing runs yet: the file has been opened.
#[derive(Debug)]
pub struct Prepared {
    journal: Journal,
    has_flows: bool,
    is_synced: bool,
    statistics: Arc<Statistics>,
}

/// Writes what it is handed, in a thread of its own.
#[derive(Debug)]
pub struct Audit {
    statistics: Arc<Statistics>,
    announced: Option<Head>,
    /// Taken when it is asked to end.
    end: Option<oneshot::Sender<()>>,
    ended: oneshot::Receiver<()>,
}

impl Prepared {
    /// Opens the file that `settings` name, by the capabilities alone that are kept: as it will be when the next one is due.
    pub fn new(settings: &Settings) -> Result<Self, AuditError> {
        let Settings { file, max_size, keep, sync, flows } = settings;
        let statistics = Arc::new(Statistics::default());
        let limits = Limits { size: *max_size, keep: *keep };
        let open = || Journal::open(Folder::open(file)?, limits, Arc::clone(&statistics));
        let journal = capabilities::with_only(&capabilities::KEPT, open)??;
        Ok(Self { journal, has_flows: *flows, is_synced: *sync == AuditSync::Interval, statistics })
    }

    /// Counts of what is written.
    #[must_use]
    pub fn statistics(&self) -> Arc<Statistics> {
        Arc::clone(&self.statistics)
    }

    /// Has `accounting` hand over what is to be written.
    pub fn sources(&self, accounting: &mut Accounting) -> Sources {
        let events = accounting.add_watched_event_sink(SINK, QUEUE, self.statistics());
        let tracker = accounting.tracker().filter(|_| self.has_flows);
        let records = tracker.map(|tracker| tracker.add_watched_sink(SINK, QUEUE, self.statistics()));
        Sources { events, records }
    }

    /// Starts the thread, which writes what comes from `sources`. It has the capabilities of the one that calls this, and gives
    /// them up.
    pub fn start(self, sources: Sources) -> Result<Audit, AuditError> {
        let Self { journal, has_flows: _, is_synced, statistics } = self;
        let runtime = Builder::new_current_thread().enable_time().build().map_err(AuditError::Thread)?;
        let writer = Writer {
            journal,
            is_synced,
            statistics: Arc::clone(&statistics),
            held: None,
            is_blocked: false,
            stopped: None,
            told: Instant::now(),
        };
        let (end, asked) = oneshot::channel();
        let (tell, ended) = oneshot::channel();
        let run = move || {
            writer.run(&runtime, sources, asked);
            // Nobody may be there to hear it.
            let _ = tell.send(());
        };
        thread::Builder::new().name(SINK.to_owned()).spawn(run).map_err(AuditError::Thread)?;
        Ok(Audit { statistics, announced: None, end: Some(end), ended })
    }
}

impl Audit {
    /// How far the log has come, if it has come further since this was asked last: to be kept where whoever can write the log
    /// cannot write.
    pub fn announcement(&mut self) -> Option<Happening> {
        let head = self.statistics.head().filter(|head| self.announced != Some(*head))?;
        self.announced = Some(head);
        Some(Happening::AuditHead { sequence: head.sequence, hash: head.hash.to_string() })
    }

    /// Waits until the thread has ended, which it does not unless it is asked to, or has failed.
    pub async fn ended(&mut self) {
        // Whether it said so is of no consequence.
        let _ = (&mut self.ended).await;
        self.statistics.is_over();
    }

    /// Has everything written that was handed over, and ends. Answers with how far the log has come since that was
    /// [told last](Self::announcement).
    pub async fn end(mut self) -> Option<Happening> {
        let before = self.statistics.all_dropped();
        // If it has ended before, nobody hears this.
        let _ = self.end.take().map(|end| end.send(()));
        match timeout(GRACE, &mut self.ended).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => warn!("the thread that writes the audit log has failed: what it had is lost"),
            Err(_) => warn!("the thread that writes the audit log did not end in time: what it had may be lost"),
        }
        let dropped = self.statistics.all_dropped() - before;
        if dropped > 0 {
            warn!(dropped, "not all could be written to the audit log before the end");
        }
        if let Some(Head { sequence, hash }) = self.statistics.head() {
            info!(sequence, %hash, "the audit log ends with this line");
        }
        self.announcement()
    }
}
