//! The exporter about itself.

use std::{fmt, sync::Arc};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{Families, collector};
use crate::snapshot::{CollectorSnapshot, Lost, Snapshot, TableSnapshot};

/// What the kernel could not tell, as the exposition calls it.
pub(super) const EVENTS_LOST: &str = "events_lost";

#[derive(Debug)]
pub(super) struct ExporterCollector(pub(super) Arc<Snapshot>);

collector!(ExporterCollector);

impl ExporterCollector {
    fn families(&self, families: &mut Families<'_>) -> fmt::Result {
        let Snapshot { programs, lost, tables, collectors, .. } = self.0.as_ref();

        let build = [("version", env!("CARGO_PKG_VERSION")), ("arch", std::env::consts::ARCH)];
        families.gauge("build_info", "The exporter's version; always 1", [(build, 1_u64)])?;

        let table = |table: &TableSnapshot| [("map", table.name)];
        let entries = tables.iter().map(|one| (table(one), one.entries as u64));
        families.gauge("map_entries", "Entries in use, by table", entries)?;
        let capacities = tables.iter().map(|one| (table(one), one.capacity as u64));
        families.gauge("map_capacity", "Entries that there can be, by table", capacities)?;

        let lost = lost
            .iter()
            .flat_map(|counts| Lost::ALL.iter().map(|lost| ([("event", lost.as_str())], counts[*lost as usize])));
        families.counter(EVENTS_LOST, "What the kernel had no room to tell, by what it was about", lost)?;

        let collector = |collector: &CollectorSnapshot| [("collector", collector.name)];
        let success = collectors.iter().map(|one| (collector(one), u64::from(one.success)));
        families.gauge("collector_success", "Whether all of a part of the metrics could be read, 1 or 0", success)?;
        let duration = collectors.iter().map(|one| (collector(one), one.duration.as_secs_f64()));
        families.gauge("collector_duration_seconds", "How long it took to read a part of the metrics", duration)?;

        if programs.is_empty() {
            return Ok(());
        }
        let runs = programs.iter().map(|program| ([("program", program.name)], program.runs));
        families.counter("program_runs", "How often a program ran while BPF statistics were on", runs)?;
        let seconds = programs.iter().map(|program| ([("program", program.name)], program.run_time.as_secs_f64()));
        families.counter("program_run_seconds", "How long a program ran while BPF statistics were on", seconds)
    }
}
