//! `api_connection…`: TCP connections of each API.

use std::{fmt, sync::Arc};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{
    Families,
    api::{detailed, labels, labels_and, may_connect},
    collector,
};
use crate::snapshot::{ApiDetails, ApiSnapshot, CloseReason, Direction, Snapshot};

#[derive(Debug)]
pub(super) struct ConnectionCollector(pub(super) Arc<Snapshot>);

collector!(ConnectionCollector);

impl ConnectionCollector {
    fn families(&self, families: &mut Families<'_>) -> fmt::Result {
        families.counter(
            "api_connection_attempts",
            "TCP connections that somebody tried to open",
            self.samples(|details| details.attempts),
        )?;
        families.counter(
            "api_connections_refused",
            "Attempts that were answered by a reset",
            self.samples(|details| details.refused),
        )?;
        families.counter(
            "api_connections_opened",
            "TCP connections whose handshake was complete",
            self.samples(|details| details.opened),
        )?;
        families.counter(
            "api_connections_adopted",
            "TCP connections that were there before, and were counted when both sides were first seen",
            self.samples(|details| details.adopted),
        )?;
        families.counter(
            "api_connections_closed",
            "TCP connections that ended: by a FIN of both sides, by a reset, or because nothing more was seen of them",
            self.closed(),
        )?;
        families.gauge(
            "api_connections_active",
            "TCP connections that there are: opened or adopted, and neither closed nor left to another API",
            self.samples(ApiDetails::active),
        )?;
        families.counter("api_reset_packets", "TCP segments that reset a connection", self.resets())
    }

    // Every API that may have connections has all of these from the start: a counter that begins at its first value loses
    // it to `rate()`, and one refused connection may be what matters. Others have them once there is something in them,
    // which is what an API keeps that had TCP until a reload; of no flow nothing at all is known.
    fn connecting(&self) -> impl Iterator<Item = (&ApiSnapshot, &ApiDetails)> {
        detailed(&self.0).filter(|(api, details)| {
            let ApiDetails { attempts, opened, adopted, reset_packets, .. } = details;
            may_connect(api) || attempts + opened + adopted + reset_packets.iter().sum::<u64>() > 0
        })
    }

    fn samples(&self, value: impl Fn(&ApiDetails) -> u64) -> impl Iterator<Item = ([(&'static str, &str); 2], u64)> {
        self.connecting().map(move |(api, details)| (labels(api), value(details)))
    }

    fn closed(&self) -> impl Iterator<Item = ([(&'static str, &str); 3], u64)> {
        self.connecting().flat_map(|(api, details)| {
            let reasons = CloseReason::ALL.into_iter().zip(details.closed);
            reasons.map(|(reason, count)| (labels_and(api, "reason", reason.as_str()), count))
        })
    }

    fn resets(&self) -> impl Iterator<Item = ([(&'static str, &str); 3], u64)> {
        self.connecting().flat_map(|(api, details)| {
            Direction::ALL.map(|direction| {
                (labels_and(api, "direction", direction.as_str()), details.reset_packets[direction.index()])
            })
        })
    }
}
