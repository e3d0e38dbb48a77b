//! `api_protocol_…`: what the payload of each API's flows looks like.

use std::{fmt, sync::Arc};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};
use tidewaiter_common::protocol::Protocol;

use super::{
    Families,
    api::{detailed, labels_and},
    collector,
};
use crate::snapshot::Snapshot;

#[derive(Debug)]
pub(super) struct ProtocolCollector(pub(super) Arc<Snapshot>);

collector!(ProtocolCollector);

impl ProtocolCollector {
    fn families(&self, families: &mut Families<'_>) -> fmt::Result {
        families.counter("api_protocol_flows", "Flows by what their first payload looks like", self.samples())
    }

    // An API speaks one protocol of all, or two: each is there once it was seen. That costs `rate()` the first flow, which
    // matters where it is not the expected one; anomalies are counted from zero for that.
    fn samples(&self) -> impl Iterator<Item = ([(&'static str, &str); 3], u64)> {
        detailed(&self.0).flat_map(|(api, details)| {
            let flows = Protocol::ALL.iter().zip(details.protocols).filter(|(_, count)| *count > 0);
            flows.map(|(protocol, count)| (labels_and(api, "protocol", protocol.as_str()), count))
        })
    }
}
