//! `api_…`: what was counted for each API.

use std::{fmt, sync::Arc};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{Families, collector};
use crate::{
    api::{Role, Transport},
    snapshot::{ApiDetails, ApiSnapshot, Counters, Direction, Snapshot},
};

#[derive(Debug)]
pub(super) struct ApiCollector(pub(super) Arc<Snapshot>);

collector!(ApiCollector);

impl ApiCollector {
    fn families(&self, families: &mut Families<'_>) -> fmt::Result {
        families.counter(
            "api_packets",
            "Packets on the wire, by API; unmapped is traffic of no API",
            self.samples(|counters| counters.packets),
        )?;
        families.counter(
            "api_bytes",
            "Bytes on the wire (whole frames without their check sequence), by API; unmapped is traffic of no API",
            self.samples(|counters| counters.bytes),
        )?;
        let untracked = self.0.apis.iter().map(|api| (labels(api), api.counters.untracked.packets));
        families.counter(
            "api_untracked_packets",
            "Packets of the API that are part of no flow, because the flow table was full",
            untracked,
        )?;
        families.gauge("api_info", "What each API is found by; always 1", self.info())
    }

    fn samples(&self, value: impl Fn(Counters) -> u64) -> impl Iterator<Item = ([(&'static str, &str); 3], u64)> {
        self.0.apis.iter().flat_map(move |api| {
            Direction::ALL.map(|direction| {
                (labels_and(api, "direction", direction.as_str()), value(api.counters.wire[direction.index()]))
            })
        })
    }

    fn info(&self) -> impl Iterator<Item = ([(&'static str, String); 5], u64)> {
        self.0.apis.iter().filter_map(|api| api.api.as_deref()).map(|api| {
            let labels = [
                ("api", api.name.clone()),
                ("role", api.role.as_str().to_owned()),
                ("transport", api.transports_label()),
                ("ports", api.ports_label()),
                ("expect", api.expect_label()),
            ];
            (labels, 1)
        })
    }
}

/// The labels of everything that is counted for an API. Two that are `removed` differ in the role alone.
pub(super) fn labels(api: &ApiSnapshot) -> [(&'static str, &str); 2] {
    [("api", api.name.as_str()), ("role", api.role.map_or("none", Role::as_str))]
}

/// [`labels`], and one more.
pub(super) fn labels_and<'a>(api: &'a ApiSnapshot, name: &'static str, value: &'a str) -> [(&'static str, &'a str); 3] {
    let [api, role] = labels(api);
    [api, role, (name, value)]
}

/// Every API with what is counted for it beside packets and bytes.
pub(super) fn detailed(snapshot: &Snapshot) -> impl Iterator<Item = (&ApiSnapshot, &ApiDetails)> {
    snapshot.apis.iter().filter_map(|api| Some((api, api.details.as_deref()?)))
}

/// Whether an API may have connections at all, which are counted of TCP. It is not known of one that the exporter before
/// this one counted, until it is asked for again.
pub(super) fn may_connect(api: &ApiSnapshot) -> bool {
    api.api.as_ref().is_none_or(|api| api.transports.contains(&Transport::Tcp))
}
