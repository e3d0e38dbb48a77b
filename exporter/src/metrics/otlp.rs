//! `otlp_…`: what is sent to OpenTelemetry collectors.

use std::{fmt, sync::Arc};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{Families, collector};
use crate::{
    otlp::{SINK, Signal},
    snapshot::{OtlpSnapshot, Snapshot},
};

/// The reason of what was dropped because too much was waiting to be put into requests.
const BACKLOG: &str = "backlog";

#[derive(Debug)]
pub(super) struct OtlpCollector(pub(super) Arc<Snapshot>);

collector!(OtlpCollector);

impl OtlpCollector {
    fn families(&self, families: &mut Families<'_>) -> fmt::Result {
        let signals = &self.0.otlp;
        let exports = signals.iter().flat_map(|one| {
            one.exports
                .iter()
                .map(|(outcome, count)| ([("signal", one.signal.as_str()), ("outcome", *outcome)], *count))
        });
        families.counter("otlp_exports", "Requests to the OpenTelemetry collector, by what became of them", exports)?;
        let signal = |one: &OtlpSnapshot| [("signal", one.signal.as_str())];
        let exported = signals.iter().map(|one| (signal(one), one.exported));
        families.counter(
            "otlp_exported",
            "Data points, spans and log records that the OpenTelemetry collector has accepted",
            exported,
        )?;
        families.counter(
            "otlp_dropped",
            "Data points, spans and log records that were not delivered, by the reason why",
            self.dropped(),
        )?;
        let unsampled = signals.iter().filter_map(|one| Some((signal(one), one.unsampled?)));
        families.counter("otlp_unsampled", "Spans that the sampler has left out", unsampled)?;
        let queued = signals.iter().map(|one| (signal(one), one.queued_bytes));
        families.gauge(
            "otlp_queue_bytes",
            "Bytes of requests that wait to be sent, compressed as they are kept",
            queued,
        )?;
        let capacity = signals.iter().map(|one| (signal(one), one.queue_bytes));
        families.gauge("otlp_queue_capacity_bytes", "Bytes of requests that may wait to be sent", capacity)
    }

    fn dropped(&self) -> impl Iterator<Item = ([(&'static str, &str); 2], u64)> {
        self.0.otlp.iter().flat_map(|one| {
            let sinks: &[_] = match one.signal {
                Signal::Metrics => &[],
                Signal::Traces => &self.0.sinks,
                Signal::Logs => &self.0.event_sinks,
            };
            let backlog = sinks.iter().find(|sink| sink.name == SINK).map(|sink| (BACKLOG, sink.dropped));
            let dropped = one.dropped.iter().copied().chain(backlog);
            dropped.map(|(reason, count)| ([("signal", one.signal.as_str()), ("reason", reason)], count))
        })
    }
}
