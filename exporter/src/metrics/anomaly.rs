//! `anomalies_…`: what should not be.

use std::{fmt, sync::Arc};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{
    Families,
    api::{detailed, labels_and},
    collector,
};
use crate::{anomaly::AnomalyKind, snapshot::Snapshot};

#[derive(Debug)]
pub(super) struct AnomalyCollector(pub(super) Arc<Snapshot>);

collector!(AnomalyCollector);

impl AnomalyCollector {
    fn families(&self, families: &mut Families<'_>) -> fmt::Result {
        families.counter(
            "anomalies",
            "What should not be: flows whose payload is not what the API expects",
            self.samples(),
        )
    }

    // From zero for each API that expects something, so that an alert sees the first one. Others have none, unless from
    // before a reload.
    fn samples(&self) -> impl Iterator<Item = ([(&'static str, &str); 3], u64)> {
        detailed(&self.0).filter_map(|(api, details)| {
            let expects = api.api.as_ref().is_some_and(|api| !api.expect.is_empty());
            let counts = expects || details.unexpected > 0;
            counts.then(|| (labels_and(api, "kind", AnomalyKind::UnexpectedPayload.as_str()), details.unexpected))
        })
    }
}
