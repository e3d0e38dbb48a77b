//! Since when each counter and histogram counts. Counters outlive the exporter, so its own start says nothing of them.

use std::{
    collections::HashMap,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::{LabelPair, MetricFamily};
use prost_types::Timestamp;

use crate::snapshot::Snapshot;

/// Says of each counter and histogram of `families` that is about an API or an interface since when that is counted.
pub(super) fn stamp(families: &mut [MetricFamily], snapshot: &Snapshot) {
    let apis: HashMap<_, _> = snapshot.apis.iter().map(|api| (api.name.as_str(), timestamp(api.created))).collect();
    let interfaces: HashMap<_, _> =
        snapshot.interfaces.iter().map(|interface| (interface.name.as_str(), timestamp(interface.created))).collect();
    for metric in families.iter_mut().flat_map(|family| &mut family.metric) {
        let created = metric.label.iter().find_map(|LabelPair { name, value }| match name.as_str() {
            "api" => apis.get(value.as_str()).copied(),
            "interface" => interfaces.get(value.as_str()).copied(),
            _ => None,
        });
        if let Some(counter) = &mut metric.counter {
            counter.start_timestamp = created;
        }
        if let Some(histogram) = &mut metric.histogram {
            histogram.start_timestamp = created;
        }
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs().cast_signed(), nanos: since.subsec_nanos().cast_signed() }
}
