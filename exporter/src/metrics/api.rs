//! `api_…`: what was counted for each API.

use std::{fmt, sync::Arc};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{Families, collector};
use crate::{
    api::Role,
    snapshot::{ApiSnapshot, Counters, Direction, Snapshot},
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
        let untracked =
            self.0.apis.iter().map(|api| ([("api", api.name.as_str()), ("role", role(api))], api.counters.untracked));
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
                let labels = [("api", api.name.as_str()), ("role", role(api)), ("direction", direction.as_str())];
                (labels, value(api.counters.wire[direction.index()]))
            })
        })
    }

    fn info(&self) -> impl Iterator<Item = ([(&'static str, String); 4], u64)> {
        self.0.apis.iter().filter_map(|api| api.api.as_deref()).map(|api| {
            let labels = [
                ("api", api.name.clone()),
                ("role", api.role.as_str().to_owned()),
                ("transport", api.transports_label()),
                ("ports", api.ports_label()),
            ];
            (labels, 1)
        })
    }
}

pub(super) fn role(api: &ApiSnapshot) -> &'static str {
    api.role.map_or("none", Role::as_str)
}
