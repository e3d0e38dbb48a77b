//! Metrics for Prometheus: a function of a [`Snapshot`].

mod anomaly;
mod api;
mod audit;
mod clients;
mod configuration;
mod connection;
mod created;
mod exporter;
pub mod exposition;
mod guard;
mod histogram;
mod http;
mod interface;
mod latency;
mod otlp;
mod process;
mod protocol;
mod transmission;

use std::{fmt, sync::Arc};

use prometheus_client::{
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet,
        prometheus_protobuf::{self, prometheus_data_model::MetricFamily},
    },
    metrics::MetricType,
    registry::Registry,
};

use crate::snapshot::{Histogram, Range, Snapshot};

/// Every metric with what it stands at in `snapshot`, and since when it counts.
pub(crate) fn families(snapshot: &Arc<Snapshot>) -> Result<Vec<MetricFamily>, fmt::Error> {
    let mut families = prometheus_protobuf::encode(&registry(snapshot))?;
    created::stamp(&mut families, snapshot);
    Ok(families)
}

fn registry(snapshot: &Arc<Snapshot>) -> Registry {
    let mut registry = Registry::default();
    let ours = registry.sub_registry_with_prefix("tidewaiter");
    ours.register_collector(Box::new(api::ApiCollector(Arc::clone(snapshot))));
    ours.register_collector(Box::new(connection::ConnectionCollector(Arc::clone(snapshot))));
    ours.register_collector(Box::new(latency::LatencyCollector(Arc::clone(snapshot))));
    ours.register_collector(Box::new(protocol::ProtocolCollector(Arc::clone(snapshot))));
    ours.register_collector(Box::new(http::HttpCollector(Arc::clone(snapshot))));
    ours.register_collector(Box::new(anomaly::AnomalyCollector(Arc::clone(snapshot))));
    ours.register_collector(Box::new(clients::ClientCollector(Arc::clone(snapshot))));
    ours.register_collector(Box::new(transmission::TransmissionCollector(Arc::clone(snapshot))));
    ours.register_collector(Box::new(interface::InterfaceCollector(Arc::clone(snapshot))));
    ours.register_collector(Box::new(guard::GuardCollector(Arc::clone(snapshot))));
    ours.register_collector(Box::new(otlp::OtlpCollector(Arc::clone(snapshot))));
    ours.register_collector(Box::new(audit::AuditCollector(Arc::clone(snapshot))));
    ours.register_collector(Box::new(configuration::ConfigurationCollector(Arc::clone(snapshot))));
    ours.register_collector(Box::new(exporter::ExporterCollector(Arc::clone(snapshot))));
    registry.register_collector(Box::new(process::ProcessCollector(Arc::clone(snapshot))));
    registry
}

/// Labels of a metric that has none.
type NoLabels = [(&'static str, &'static str); 0];

/// Writes families of metrics; nothing of one that has no samples.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    /// A counter, called `{name}_total`, with a sample for each of `samples`.
    fn counter<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_counter::<NoLabels, V, f64>(&value, None)?;
        }
        Ok(())
    }

    /// A gauge with a sample for each of `samples`.
    fn gauge<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// A histogram of seconds with a sample for each of `samples`, whose durations are of `range`.
    fn histogram<'s, L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        range: Range,
        samples: impl IntoIterator<Item = (L, &'s Histogram)>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, histogram) in samples {
            histogram::encode(&mut family.encode_family(&labels)?, range, histogram)?;
        }
        Ok(())
    }
}

/// Implements [`Collector`] for a sink that writes `Families`.
macro_rules! collector {
    ($name:ident) => {
        impl Collector for $name {
            fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
                self.families(&mut Families(encoder))
            }
        }
    };
}
use collector;
