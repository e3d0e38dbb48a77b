//! Since when each counter and histogram counts. Counters outlive the exporter, so its own start says nothing of them.

use std::{
    collections::HashMap,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::{LabelPair, MetricFamily};
use prost_types::Timestamp;

use super::{api::labels, clients::CLIENT_BYTES, exporter::EVENTS_LOST, guard::CLIENTS_EVICTED};
use crate::{api::reserved, snapshot::Snapshot};

/// Says of each counter and histogram of `families` since when it counts.
pub(super) fn stamp(families: &mut [MetricFamily], snapshot: &Snapshot) {
    let apis: HashMap<_, _> =
        snapshot.apis.iter().map(|api| (labels(api).map(|(_, value)| value), timestamp(api.created))).collect();
    let interfaces: HashMap<_, _> =
        snapshot.interfaces.iter().map(|interface| (interface.name.as_str(), timestamp(interface.created))).collect();
    let sinks: HashMap<_, _> = snapshot.sinks.iter().map(|sink| (sink.name, timestamp(sink.created))).collect();
    let signals: HashMap<_, _> =
        snapshot.otlp.iter().map(|one| (one.signal.as_str(), timestamp(one.created))).collect();
    let pairs: HashMap<_, _> = snapshot
        .guard
        .iter()
        .flat_map(|guard| &guard.pairs)
        .map(|pair| ([&*pair.api, &*pair.rule], timestamp(pair.created)))
        .collect();
    // Programs are loaded by each exporter anew.
    let started = snapshot.process.map(|process| timestamp(process.started));
    // Traffic of no API is counted for as long as the kernel's tables are there, and so is what is lost of events.
    let tables = snapshot.apis.iter().find(|api| api.name == reserved::UNMAPPED).map(|api| timestamp(api.created));
    let (of_clients, others): (Vec<_>, Vec<_>) =
        families.iter_mut().partition(|family| family.name.contains(CLIENT_BYTES));
    stamp_clients(of_clients, snapshot);
    let are_in_tables = [EVENTS_LOST, CLIENTS_EVICTED];
    let of_family = |name: &str| if are_in_tables.iter().any(|one| name.contains(one)) { tables } else { started };
    let others = others.into_iter().map(|family| (of_family(&family.name), &mut family.metric));
    for (of_family, metric) in others.flat_map(|(start, metrics)| metrics.iter_mut().map(move |metric| (start, metric)))
    {
        let label = |wanted: &str| {
            let label = metric.label.iter().find(|LabelPair { name, .. }| name == wanted);
            label.map(|LabelPair { value, .. }| value.as_str())
        };
        // There may be an API of one name in each role.
        let of_api = || apis.get(&[label("api")?, label("role")?]);
        let of_pair = || pairs.get(&[label("api")?, label("rule")?]);
        let of_interface = || interfaces.get(label("interface")?);
        let of_sink = || sinks.get(label("sink")?);
        let of_signal = || signals.get(label("signal")?);
        let created =
            of_api().or_else(of_pair).or_else(of_interface).or_else(of_sink).or_else(of_signal).copied().or(of_family);
        if let Some(counter) = &mut metric.counter {
            counter.start_timestamp = created;
        }
        if let Some(histogram) = &mut metric.histogram {
            histogram.start_timestamp = created;
        }
    }
}

/// Counters of clients begin with the exporter, or when their client gets a series, whatever that of the API.
fn stamp_clients(families: Vec<&mut MetricFamily>, snapshot: &Snapshot) {
    let mut created = HashMap::new();
    for (api, clients) in snapshot.apis.iter().filter_map(|api| Some((api, api.clients.as_ref()?))) {
        let named = clients.named.iter().map(|client| (client.address.to_string(), client.created));
        for (client, since) in named.chain([(reserved::OTHER.to_owned(), clients.created)]) {
            let [api, role] = labels(api).map(|(_, value)| value.to_owned());
            created.insert([api, role, client], timestamp(since));
        }
    }
    for metric in families.into_iter().flat_map(|family| &mut family.metric) {
        let Some(counter) = &mut metric.counter else { continue };
        // In the order in which they are written: API, role, client.
        let labels: Vec<_> = metric.label.iter().map(|label| label.value.clone()).collect();
        counter.start_timestamp = <[String; 3]>::try_from(labels).ok().and_then(|labels| created.get(&labels).copied());
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs().cast_signed(), nanos: since.subsec_nanos().cast_signed() }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, UNIX_EPOCH},
    };

    use crate::{
        api::Role,
        metrics::exposition::Format,
        snapshot::{ApiCounters, ApiSnapshot, Snapshot, TransmissionSnapshot},
    };

    fn web(role: Role, created: u64) -> ApiSnapshot {
        ApiSnapshot {
            name: "web".to_owned(),
            role: Some(role),
            api: None,
            counters: ApiCounters::default(),
            details: None,
            anomalies: Vec::new(),
            transmission: TransmissionSnapshot::default(),
            clients: None,
            created: UNIX_EPOCH + Duration::from_secs(created),
        }
    }

    #[test]
    fn an_api_in_each_role_counts_since_its_own_beginning() {
        let snapshot = Snapshot {
            taken: UNIX_EPOCH,
            apis: vec![web(Role::Server, 1_700_000_001), web(Role::Client, 1_700_000_002)],
            interfaces: Vec::new(),
            programs: Vec::new(),
            lost: None,
            tables: Vec::new(),
            sinks: Vec::new(),
            event_sinks: Vec::new(),
            guard: None,
            otlp: Vec::new(),
            audit: None,
            configuration: None,
            process: None,
            collectors: Vec::new(),
        };
        let text = Format::OpenMetrics.encode(&Arc::new(snapshot)).expect("encodes");
        let text = String::from_utf8(text).expect("is text");
        for (role, created) in [("server", 1_700_000_001), ("client", 1_700_000_002)] {
            let line = format!("tidewaiter_api_untracked_packets_created{{api=\"web\",role=\"{role}\"}} {created}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
    }
}
