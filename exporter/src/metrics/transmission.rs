//! `api_…`: how transmission goes for each API, where the kernel tells.

use std::{fmt, sync::Arc};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{Families, api::labels_and, collector};
use crate::snapshot::{Direction, Snapshot};

#[derive(Debug)]
pub(super) struct TransmissionCollector(pub(super) Arc<Snapshot>);

collector!(TransmissionCollector);

impl TransmissionCollector {
    fn families(&self, families: &mut Families<'_>) -> fmt::Result {
        let apis = &self.0.apis;
        let retransmitted = apis.iter().filter_map(|api| {
            Some((labels_and(api, "direction", Direction::Transmit.as_str()), api.transmission.retransmitted?))
        });
        if apis.iter().any(|api| api.transmission.retransmitted.is_some()) {
            families.counter(
                "api_retransmitted_packets",
                "TCP segments that this host sent again, by API; unmapped is those of no API",
                retransmitted,
            )?;
        }
        if apis.iter().all(|api| api.transmission.dropped.is_none()) {
            return Ok(());
        }
        // Each API has as many reasons as the kernel has, at most, whatever the traffic.
        let dropped = apis.iter().flat_map(|api| {
            let dropped = api.transmission.dropped.iter().flatten();
            dropped.map(move |(reason, packets)| (labels_and(api, "reason", reason), *packets))
        });
        families.counter(
            "api_dropped_packets",
            "Packets of the API that the kernel dropped, by the kernel's own name of the reason",
            dropped,
        )
    }
}
