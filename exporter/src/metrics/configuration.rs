//! `config_…`: which configuration is in force, and whether the last one could be taken.

use std::{fmt, sync::Arc, time::UNIX_EPOCH};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{Families, NoLabels, collector};
use crate::snapshot::{ConfigurationSnapshot, Snapshot};

#[derive(Debug)]
pub(super) struct ConfigurationCollector(pub(super) Arc<Snapshot>);

collector!(ConfigurationCollector);

impl ConfigurationCollector {
    fn families(&self, families: &mut Families<'_>) -> fmt::Result {
        let Some(configuration) = self.0.configuration else { return Ok(()) };
        let ConfigurationSnapshot { generation, is_successful, last_success } = configuration;
        let none: NoLabels = [];
        families.gauge(
            "config_generation",
            "Number of the configuration in force: 1 from the start, and one more after each change",
            [(none, generation)],
        )?;
        families.gauge(
            "config_last_reload_successful",
            "Whether the configuration could be taken when it was last read, 1 or 0",
            [(none, u64::from(is_successful))],
        )?;
        let seconds = last_success.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        families.gauge(
            "config_last_reload_success_timestamp_seconds",
            "When the configuration was last read and could be taken, since the epoch",
            [(none, seconds)],
        )
    }
}
