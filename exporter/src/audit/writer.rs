//! The thread that writes the audit log.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::{
    runtime::Runtime,
    sync::{mpsc::Receiver, oneshot},
    time::{Instant, MissedTickBehavior, interval},
};
use tracing::{error, info, warn};

use super::{
    error::AuditError,
    journal::Journal,
    record::{Entry, is_own},
    statistics::{Dropped, Statistics},
};
use crate::{
    capabilities,
    chain::chain,
    event::{Event, Happening, STOPPED},
    flow::FlowRecord,
};

/// Time between two looks at the file: so often it is kept on the disk, so late at most it is tried again, and so late it is seen
/// that somebody has taken it away.
const TICK: Duration = Duration::from_secs(1);

/// How many bytes of lines are written at once.
const BATCH: usize = 64 << 10;

/// How long what was lost may wait until that is recorded, while more comes than is written.
const GAP_DELAY: Duration = Duration::from_secs(10);

/// Where what is written comes from.
#[derive(Debug)]
pub struct Sources {
    /// Events.
    pub events: Receiver<Arc<Event>>,
    /// Records of flows, if each is to be a line.
    pub records: Option<Receiver<Arc<FlowRecord>>>,
}

/// Everything that the thread has.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) journal: Journal,
    pub(super) is_synced: bool,
    pub(super) statistics: Arc<Statistics>,
    /// What could not be added, because the file could not be written: it goes first.
    pub(super) held: Option<Entry>,
    /// Whether the file could not be written the last time. Then nothing more is taken in: what has no room to wait is counted.
    pub(super) is_blocked: bool,
    /// What says that the exporter stops. Flows that were handed over before may still wait, and it is to be the last line.
    pub(super) stopped: Option<Entry>,
    /// When a gap was recorded last.
    pub(super) told: Instant,
}

impl Writer {
    /// Writes until it is asked to end.
    pub(super) fn run(mut self, runtime: &Runtime, mut sources: Sources, asked: oneshot::Receiver<()>) {
        // It needs none: its files are its user's.
        if let Err(error) = capabilities::keep_only(&[]) {
            warn!(%error, "the thread that writes the audit log keeps its capabilities");
        }
        runtime.block_on(self.work(&mut sources, asked));
        self.end(&mut sources);
    }

    async fn work(&mut self, sources: &mut Sources, mut asked: oneshot::Receiver<()>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let takes = !self.is_blocked;
            tokio::select! {
                biased;
                // Whoever has gone without a word wants an end too.
                _ = &mut asked => return,
                _ = tick.tick() => self.look(),
                entry = next(sources), if takes => self.write(entry, sources),
            }
        }
    }

    /// Writes `entry`, and what else there is by then.
    fn write(&mut self, entry: Option<Entry>, sources: &mut Sources) {
        let mut entry = entry;
        let mut is_drained = false;
        while let Some(one) = entry.take() {
            if one.name == STOPPED {
                self.stopped = Some(one);
            } else {
                self.add(one);
            }
            if self.is_blocked || self.journal.waiting() >= BATCH {
                break;
            }
            entry = try_next(sources);
            is_drained = entry.is_none();
        }
        // What was lost was lost after all that has waited.
        if !self.is_blocked && (is_drained || self.told.elapsed() >= GAP_DELAY) {
            self.tell_gap();
        }
        let result = self.journal.flush();
        self.note(result);
    }

    /// Adds `entry`, or holds it until the file can be written.
    fn add(&mut self, entry: Entry) {
        match self.journal.add(&entry) {
            Ok(()) => {}
            Err(AuditError::Line(error)) => {
                error!(%error, event = entry.name, "cannot write a record of the audit log: it is counted");
                self.statistics.lose(entry.name, Dropped::Failed);
            }
            Err(error) => {
                self.held = Some(entry);
                self.note(Err(error));
            }
        }
    }

    /// Records what was lost since the last time, if anything was.
    fn tell_gap(&mut self) {
        let Some(gap) = self.statistics.untold() else { return };
        match self.journal.add(&Entry::gap(gap.clone())) {
            Ok(()) => {
                self.statistics.told(&gap);
                self.told = Instant::now();
            }
            // It stays untold.
            Err(error) => self.note(Err(error)),
        }
    }

    /// Tries again what has failed, sees that the file is there, and that it is kept.
    fn look(&mut self) {
        let result = self.journal.flush().and_then(|()| self.journal.look());
        let is_writable = result.is_ok();
        self.note(result);
        if is_writable {
            if let Some(held) = self.held.take() {
                self.add(held);
            } else if self.told.elapsed() >= GAP_DELAY {
                self.tell_gap();
            }
            let mut result = self.journal.flush();
            if self.is_synced {
                result = result.and_then(|()| self.journal.sync());
            }
            self.note(result);
        }
    }

    /// Takes note of how writing went; logs what is new of that.
    fn note(&mut self, result: Result<(), AuditError>) {
        self.is_blocked = result.is_err() || self.held.is_some();
        match result {
            Ok(()) if self.held.is_some() => {}
            Ok(()) => {
                if self.statistics.succeeded() {
                    info!("the audit log can be written again");
                }
            }
            Err(error) => {
                if self.statistics.failed() {
                    let error = chain(&error);
                    error!(
                        error,
                        "cannot write the audit log: trying again, what is lost is counted and will be recorded"
                    );
                }
            }
        }
    }

    /// Writes all that was handed over before the end. What cannot be written is given up, and counted.
    fn end(&mut self, sources: &mut Sources) {
        self.look();
        sources.events.close();
        sources.records.iter_mut().for_each(Receiver::close);
        while !self.is_blocked
            && let Some(entry) = try_next(sources)
        {
            self.write(Some(entry), sources);
        }
        if !self.is_blocked {
            self.tell_gap();
        }
        if !self.is_blocked
            && let Some(stopped) = self.stopped.take()
        {
            self.add(stopped);
        }
        let result = self.journal.flush().and_then(|()| self.journal.sync());
        self.note(result);
        let held = self.held.take().into_iter().chain(self.stopped.take()).map(|entry| entry.name);
        let rest = std::iter::from_fn(|| try_next(sources)).map(|entry| entry.name);
        let given_up = self.journal.give_up().chain(held).chain(rest);
        // What the log says of itself is no event: what a gap tells was counted, and the rest shows at the next start.
        for name in given_up.filter(|name| !is_own(name)) {
            self.statistics.lose(name, Dropped::Shutdown);
        }
    }
}

/// The next that is to be written; waits for it. Nothing where there is nothing to be said.
async fn next(Sources { events, records }: &mut Sources) -> Option<Entry> {
    let record = async {
        match records {
            Some(records) => records.recv().await,
            None => pending().await,
        }
    };
    let entry = tokio::select! {
        Some(event) = events.recv() => of_event(&event),
        Some(record) = record => Some(Entry::flow(&record)),
        else => return pending().await,
    };
    entry
}

/// The next that is there already.
fn try_next(Sources { events, records }: &mut Sources) -> Option<Entry> {
    while let Ok(event) = events.try_recv() {
        if let Some(entry) = of_event(&event) {
            return Some(entry);
        }
    }
    let record = records.as_mut()?.try_recv().ok()?;
    Some(Entry::flow(&record))
}

/// What is written of `event`; nothing of how far the audit log has come, because that would be further by then.
fn of_event(event: &Event) -> Option<Entry> {
    (!matches!(event.what, Happening::AuditHead { .. })).then(|| Entry::event(event))
}
