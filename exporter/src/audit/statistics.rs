//! Counts of what is written to the audit log, and of what is not: what has happened is one or the other.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use super::record::{FLOW, Gap, Head};
use crate::{
    event::{Event, Happening},
    flow::FlowRecord,
    sinks::NoRoom,
    snapshot::AuditSnapshot,
};

/// Why something was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dropped {
    /// Too much waited, because the file could not be written, or not so fast.
    Backlog,
    /// The exporter ended before it could be written.
    Shutdown,
    /// No line could be made of it.
    Failed,
}

impl Dropped {
    /// The value of the label `reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Backlog => "backlog",
            Self::Shutdown => "shutdown",
            Self::Failed => "failed",
        }
    }
}

/// What was counted. Whoever cannot hand something over and the one who writes share it.
#[derive(Debug, Default)]
pub struct Statistics(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// By the name of the event.
    written: BTreeMap<&'static str, u64>,
    dropped: BTreeMap<(&'static str, Dropped), u64>,
    /// What of that no gap record has told yet.
    untold: Option<Gap>,
    bytes: u64,
    failures: u64,
    rotations: u64,
    is_failing: bool,
    head: Option<Head>,
}

impl Statistics {
    /// What was counted by now.
    #[must_use]
    pub fn snapshot(&self) -> AuditSnapshot {
        let Counts { written, dropped, untold: _, bytes, failures, rotations, is_failing, head } = &*self.lock();
        AuditSnapshot {
            written: written.iter().map(|(name, count)| (*name, *count)).collect(),
            dropped: dropped.iter().map(|((name, why), count)| (*name, why.as_str(), *count)).collect(),
            bytes: *bytes,
            failures: *failures,
            rotations: *rotations,
            is_writable: !is_failing,
            sequence: head.map_or(0, |head| head.sequence),
        }
    }

    /// The last line that was written.
    #[must_use]
    pub fn head(&self) -> Option<Head> {
        self.lock().head
    }

    /// How many events were not written by now.
    #[must_use]
    pub fn all_dropped(&self) -> u64 {
        self.lock().dropped.values().sum()
    }

    /// Takes note that nobody writes any more.
    pub(super) fn is_over(&self) {
        self.lock().is_failing = true;
    }

    /// Takes note of an event that will not be written.
    pub(super) fn lose(&self, name: &'static str, why: Dropped) {
        let now = SystemTime::now();
        let mut counts = self.lock();
        *counts.dropped.entry((name, why)).or_default() += 1;
        let gap = counts.untold.get_or_insert_with(|| Gap {
            total: 0,
            lost: BTreeMap::new(),
            reasons: BTreeMap::new(),
            since: now,
            until: now,
        });
        gap.total += 1;
        *gap.lost.entry(name).or_default() += 1;
        *gap.reasons.entry(why.as_str()).or_default() += 1;
        gap.until = now;
    }

    /// What was dropped, and no record has told yet.
    pub(super) fn untold(&self) -> Option<Gap> {
        self.lock().untold.clone()
    }

    /// Takes note that `gap` is told.
    pub(super) fn told(&self, gap: &Gap) {
        let mut counts = self.lock();
        let Some(untold) = &mut counts.untold else { return };
        // More may have been dropped meanwhile.
        untold.total = untold.total.saturating_sub(gap.total);
        untold.since = gap.until;
        for (left, told) in [(&mut untold.lost, &gap.lost), (&mut untold.reasons, &gap.reasons)] {
            left.retain(|key, count| {
                *count = count.saturating_sub(told.get(key).copied().unwrap_or_default());
                *count > 0
            });
        }
        if untold.total == 0 {
            counts.untold = None;
        }
    }

    /// Takes note of a line of `bytes` that was written, by which the log has come to `head`.
    pub(super) fn written(&self, name: &'static str, bytes: u64, head: Head) {
        let mut counts = self.lock();
        *counts.written.entry(name).or_default() += 1;
        counts.bytes += bytes;
        counts.head = Some(head);
    }

    pub(super) fn rotated(&self) {
        self.lock().rotations += 1;
    }

    /// Takes note that the file could not be written. Says whether it could before.
    pub(super) fn failed(&self) -> bool {
        let mut counts = self.lock();
        counts.failures += 1;
        !std::mem::replace(&mut counts.is_failing, true)
    }

    /// Takes note that the file could be written. Says whether it could not before.
    pub(super) fn succeeded(&self) -> bool {
        std::mem::take(&mut self.lock().is_failing)
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Nobody leaves it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NoRoom<Event> for Statistics {
    fn no_room(&self, event: &Event) {
        // That one is not meant for the audit log.
        if !matches!(event.what, Happening::AuditHead { .. }) {
            self.lose(event.what.name(), Dropped::Backlog);
        }
    }
}

impl NoRoom<FlowRecord> for Statistics {
    fn no_room(&self, _: &FlowRecord) {
        self.lose(FLOW, Dropped::Backlog);
    }
}

#[cfg(test)]
mod tests {
    use super::{Dropped, Statistics};

    #[test]
    fn what_is_dropped_while_a_gap_is_told_is_told_by_the_next() {
        let statistics = Statistics::default();
        assert_eq!(statistics.untold(), None);
        statistics.lose("a", Dropped::Backlog);
        statistics.lose("b", Dropped::Failed);
        let first = statistics.untold().expect("there is one");
        assert_eq!((first.total, &first.lost), (2, &[("a", 1), ("b", 1)].into()));
        statistics.lose("a", Dropped::Backlog);
        statistics.told(&first);
        let second = statistics.untold().expect("there is one");
        assert_eq!((second.total, &second.lost, &second.reasons), (1, &[("a", 1)].into(), &[("backlog", 1)].into()));
        assert!(second.since >= first.since && second.until >= second.since);
        statistics.told(&second);
        assert_eq!(statistics.untold(), None);
        assert_eq!(statistics.all_dropped(), 3);
    }

    #[test]
    fn a_failure_is_new_once() {
        let statistics = Statistics::default();
        assert!(!statistics.succeeded());
        assert!(statistics.failed() && !statistics.failed());
        assert!(statistics.succeeded() && !statistics.succeeded());
        assert_eq!(statistics.snapshot().failures, 2);
    }
}
