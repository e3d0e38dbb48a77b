//! `api_…_duration_seconds`: how long handshakes, answers and connections take.

use std::{fmt, sync::Arc};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{
    Families,
    api::{detailed, labels, may_connect},
    collector,
};
use crate::snapshot::{ApiDetails, Histogram, Range, Snapshot};

#[derive(Debug)]
pub(super) struct LatencyCollector(pub(super) Arc<Snapshot>);

collector!(LatencyCollector);

impl LatencyCollector {
    fn families(&self, families: &mut Families<'_>) -> fmt::Result {
        families.histogram(
            "api_handshake_duration_seconds",
            "Time that TCP handshakes took: of a server from SYN to ACK, of a client from SYN to SYN-ACK",
            Range::Latency,
            self.samples(|details| &details.handshake),
        )?;
        families.histogram(
            "api_response_duration_seconds",
            "Time from the last byte of a request to the first byte of its answer",
            Range::Latency,
            self.samples(|details| &details.response),
        )?;
        families.histogram(
            "api_connection_duration_seconds",
            "Time from the first packet to the last of TCP connections that were closed or reset",
            Range::Lifetime,
            self.samples(|details| &details.lifetime),
        )
    }

    // A histogram is some thirty series, so there are none of what may never be measured: of traffic of no API nobody knows which
    // end asks and which answers, and some APIs have no connections. What is measured of them all the same is shown.
    fn samples<'a>(
        &'a self,
        histogram: impl Fn(&'a ApiDetails) -> &'a Histogram,
    ) -> impl Iterator<Item = ([(&'static str, &'a str); 2], &'a Histogram)> {
        detailed(&self.0).filter_map(move |(api, details)| {
            let histogram = histogram(details);
            let measured = api.role.is_some() && may_connect(api) || histogram.count() > 0;
            measured.then(|| (labels(api), histogram))
        })
    }
}
