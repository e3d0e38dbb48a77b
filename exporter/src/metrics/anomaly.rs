//! `anomalies_…`: what should not be.

use std::{fmt, sync::Arc};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{Families, api::labels_and, collector};
use crate::snapshot::Snapshot;

#[derive(Debug)]
pub(super) struct AnomalyCollector(pub(super) Arc<Snapshot>);

collector!(AnomalyCollector);

impl AnomalyCollector {
    fn families(&self, families: &mut Families<'_>) -> fmt::Result {
        families.counter("anomalies", "What should not be, by kind; what is counted depends on that", self.samples())
    }

    fn samples(&self) -> impl Iterator<Item = ([(&'static str, &str); 3], u64)> {
        self.0.apis.iter().flat_map(|api| {
            api.anomalies.iter().map(move |(kind, count)| (labels_and(api, "kind", kind.as_str()), *count))
        })
    }
}
