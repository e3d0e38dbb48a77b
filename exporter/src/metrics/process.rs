//! `process_…`, as every Prometheus client library has them.

use std::{fmt, sync::Arc, time::UNIX_EPOCH};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{Families, NoLabels, collector};
use crate::snapshot::{ProcessSnapshot, Snapshot};

const NONE: NoLabels = [];

#[derive(Debug)]
pub(super) struct ProcessCollector(pub(super) Arc<Snapshot>);

collector!(ProcessCollector);

impl ProcessCollector {
    fn families(&self, families: &mut Families<'_>) -> fmt::Result {
        let Some(ProcessSnapshot { cpu, resident, open_files, started }) = self.0.process else { return Ok(()) };
        let started = started.duration_since(UNIX_EPOCH).unwrap_or_default();
        families.counter("process_cpu_seconds", "User and system CPU time", [(NONE, cpu.as_secs_f64())])?;
        families.gauge("process_resident_memory_bytes", "Resident memory", [(NONE, resident)])?;
        families.gauge("process_open_fds", "Open file descriptors", open_files.map(|count| (NONE, count)))?;
        families.gauge("process_start_time_seconds", "Start time since the epoch", [(NONE, started.as_secs_f64())])
    }
}
