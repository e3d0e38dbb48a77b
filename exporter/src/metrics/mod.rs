//! Metrics for Prometheus: a function of a [`Snapshot`].

mod api;
mod created;
mod exporter;
pub mod exposition;
mod interface;
mod process;
mod transmission;

use std::{fmt, sync::Arc};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet},
    metrics::MetricType,
    registry::Registry,
};

use crate::snapshot::Snapshot;

fn registry(snapshot: &Arc<Snapshot>) -> Registry {
    let mut registry = Registry::default();
    let ours = registry.sub_registry_with_prefix("tidewaiter");
    ours.register_collector(Box::new(api::ApiCollector(Arc::clone(snapshot))));
    ours.register_collector(Box::new(transmission::TransmissionCollector(Arc::clone(snapshot))));
    ours.register_collector(Box::new(interface::InterfaceCollector(Arc::clone(snapshot))));
    ours.register_collector(Box::new(exporter::ExporterCollector(Arc::clone(snapshot))));
    registry.register_collector(Box::new(process::ProcessCollector(Arc::clone(snapshot))));
    registry
}

/// Labels of a metric that has none.
type NoLabels = [(&'static str, &'static str); 0];

/// Writes families of metrics.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    /// A counter, called `{name}_total`, with a sample for each of `samples`.
    fn counter<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
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
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_gauge(&value)?;
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
