//! Counts of what is sent: the sums of what came in, what was delivered, what was dropped and what still waits agree.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::SystemTime,
};

use opentelemetry_sdk::error::OTelSdkError;
use tracing::warn;

use crate::snapshot::OtlpSnapshot;

/// Declares an enumeration with its label values, in one list, so that neither can be forgotten.
macro_rules! labels {
    ($(#[$doc:meta])+ $name:ident { $($(#[$variant_doc:meta])+ $variant:ident = $label:literal,)+ }) => {
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])+ $variant,)+ }

        impl $name {
            /// All of them, in the order of their indexes.
            pub const ALL: [Self; [$($label),+].len()] = [$(Self::$variant),+];

            /// The value of its label.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}

labels! {
    /// A kind of telemetry.
    Signal {
        /// Data points.
        Metrics = "metrics",
        /// Spans, one for each flow.
        Traces = "traces",
        /// Log records, one for each event.
        Logs = "logs",
    }
}

labels! {
    /// What became of a request.
    Outcome {
        /// All of it was accepted.
        Success = "success",
        /// Some of it was accepted.
        Partial = "partial",
        /// None of it was accepted now: it is tried again.
        Retried = "retried",
        /// None of it was accepted, and it would not be if it were tried again.
        Rejected = "rejected",
    }
}

labels! {
    /// Why something was dropped.
    Dropped {
        /// The requests that wait would have taken more memory than they may: those that had waited longest went.
        QueueFull = "queue_full",
        /// The collector would not have it.
        Rejected = "rejected",
        /// The exporter ended before it was delivered.
        Shutdown = "shutdown",
        /// No request could be made of it.
        Failed = "failed",
    }
}

/// Counts of one signal.
#[derive(Debug)]
pub struct Statistics {
    signal: Signal,
    exports: [AtomicU64; Outcome::ALL.len()],
    exported: AtomicU64,
    dropped: [AtomicU64; Dropped::ALL.len()],
    unsampled: AtomicU64,
    has_failed: AtomicBool,
    queued_bytes: AtomicU64,
    queue_bytes: u64,
    created: SystemTime,
}

impl Statistics {
    /// Of `signal`, of which requests of `queue_bytes` may wait.
    #[must_use]
    pub fn new(signal: Signal, queue_bytes: usize) -> Self {
        Self {
            signal,
            exports: Default::default(),
            exported: AtomicU64::default(),
            dropped: Default::default(),
            unsampled: AtomicU64::default(),
            has_failed: AtomicBool::default(),
            queued_bytes: AtomicU64::default(),
            queue_bytes: queue_bytes as u64,
            created: SystemTime::now(),
        }
    }

    /// The signal.
    #[must_use]
    pub const fn signal(&self) -> Signal {
        self.signal
    }

    pub(super) fn export(&self, outcome: Outcome) {
        self.exports[outcome as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn exported(&self, items: u64) {
        self.exported.fetch_add(items, Relaxed);
    }

    pub(super) fn dropped(&self, why: Dropped, items: u64) {
        self.dropped[why as usize].fetch_add(items, Relaxed);
    }

    /// Takes note that no request could be made of so many, and says so the first time.
    pub(super) fn failed(&self, error: &OTelSdkError, items: usize) {
        self.dropped(Dropped::Failed, items as u64);
        if !self.has_failed.swap(true, Relaxed) {
            let signal = self.signal.as_str();
            warn!(signal, items, %error, "cannot make a request for the OpenTelemetry collector: others are counted");
        }
    }

    pub(super) fn leave_out(&self) {
        self.unsampled.fetch_add(1, Relaxed);
    }

    pub(super) fn queued(&self, bytes: usize) {
        self.queued_bytes.store(bytes as u64, Relaxed);
    }

    /// All that was dropped by now.
    pub(super) fn all_dropped(&self) -> u64 {
        self.dropped.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// What was counted by now.
    #[must_use]
    pub fn snapshot(&self) -> OtlpSnapshot {
        let read = |count: &AtomicU64| count.load(Relaxed);
        let Self { signal, exports, exported, dropped, unsampled, has_failed: _, queued_bytes, queue_bytes, created } =
            self;
        OtlpSnapshot {
            signal: *signal,
            exports: Outcome::ALL.iter().zip(exports).map(|(outcome, count)| (outcome.as_str(), read(count))).collect(),
            exported: read(exported),
            dropped: Dropped::ALL.iter().zip(dropped).map(|(why, count)| (why.as_str(), read(count))).collect(),
            unsampled: (*signal == Signal::Traces).then(|| read(unsampled)),
            queued_bytes: read(queued_bytes),
            queue_bytes: *queue_bytes,
            created: *created,
        }
    }
}
