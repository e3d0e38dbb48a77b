//! `client_…` and `api_clients`: who the clients of each API are, and how many; and records of flows for sinks.

use std::{fmt, sync::Arc};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{
    Families,
    api::{labels, labels_and},
    collector,
};
use crate::{
    api::reserved,
    snapshot::{ApiSnapshot, ClientsSnapshot, SinkSnapshot, Snapshot},
};

/// What is counted by client, as the exposition calls it.
pub(super) const CLIENT_BYTES: &str = "client_bytes";

/// The window of `api_clients`.
const WINDOW: &str = "5m";

#[derive(Debug)]
pub(super) struct ClientCollector(pub(super) Arc<Snapshot>);

collector!(ClientCollector);

impl ClientCollector {
    fn families(&self, families: &mut Families<'_>) -> fmt::Result {
        if self.apis().next().is_some() {
            families.counter(
                CLIENT_BYTES,
                "Bytes on the wire of flows, both ways, by API and the address of its client, when they are over or once a \
                 minute; other is all \
                 clients without a series of their own, and packets of no flow",
                self.bytes(),
            )?;
            let clients = self.apis().map(|(api, clients)| (labels_and(api, "window", WINDOW), clients.distinct));
            families.gauge("api_clients", "About how many clients of the API there were in the window", clients)?;
        }
        let sinks = &self.0.sinks;
        if !sinks.is_empty() {
            let sink = |sink: &SinkSnapshot| [("sink", sink.name)];
            let records = sinks.iter().map(|one| (sink(one), one.records));
            families.counter("flow_records", "Records of flows that were handed over, by who wants them", records)?;
            let dropped = sinks.iter().map(|one| (sink(one), one.dropped));
            families.counter(
                "flow_records_dropped",
                "Records of flows that were dropped, because too many had not been taken yet, by who wants them",
                dropped,
            )?;
        }
        Ok(())
    }

    fn apis(&self) -> impl Iterator<Item = (&ApiSnapshot, &ClientsSnapshot)> {
        self.0.apis.iter().filter_map(|api| Some((api, api.clients.as_ref()?)))
    }

    fn bytes(&self) -> impl Iterator<Item = ([(&'static str, String); 3], u64)> {
        self.apis().flat_map(|(api, clients)| {
            let named = clients.named.iter().map(|client| (client.address.to_string(), client.bytes));
            let other = clients.other.map(|bytes| (reserved::OTHER.to_owned(), bytes));
            named.chain(other).map(|(client, bytes)| {
                let [api, role] = labels(api).map(|(name, value)| (name, value.to_owned()));
                ([api, role, ("client", client)], bytes)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, SystemTime, UNIX_EPOCH},
    };

    use crate::{
        api::Role,
        metrics::exposition::Format,
        snapshot::{
            ApiCounters, ApiSnapshot, ClientSnapshot, ClientsSnapshot, SinkSnapshot, Snapshot, TransmissionSnapshot,
        },
    };

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn api(name: &str, role: Role, other: Option<u64>) -> ApiSnapshot {
        let client = |address: &str, bytes, seconds| ClientSnapshot {
            address: address.parse().expect("an address"),
            bytes,
            created: at(seconds),
        };
        let named = match other {
            Some(_) => vec![client("10.0.0.1", 300, 1_700_000_007), client("2001:db8::1", 200, 1_700_000_008)],
            None => Vec::new(),
        };
        ApiSnapshot {
            transmission: TransmissionSnapshot::default(),
            name: name.to_owned(),
            role: Some(role),
            api: None,
            counters: ApiCounters::default(),
            details: None,
            anomalies: Vec::new(),
            clients: Some(ClientsSnapshot { named, other, distinct: 12_345, created: at(1_700_000_005) }),
            created: at(1_600_000_000),
        }
    }

    #[test]
    fn each_series_says_since_when_it_counts() {
        let snapshot = Snapshot {
            taken: UNIX_EPOCH,
            event_sinks: Vec::new(),
            guard: None,
            otlp: Vec::new(),
            audit: None,
            configuration: None,
            lost: None,
            apis: vec![api("web", Role::Server, Some(50)), api("silent", Role::Client, None)],
            interfaces: Vec::new(),
            programs: Vec::new(),
            tables: Vec::new(),
            sinks: vec![SinkSnapshot { name: "audit", records: 7, dropped: 2, created: at(1_700_000_009) }],
            process: None,
            collectors: Vec::new(),
        };
        let text = Format::OpenMetrics.encode(&Arc::new(snapshot)).expect("encodes");
        let text = String::from_utf8(text).expect("is text");
        let lines: Vec<_> = text
            .lines()
            .filter(|line| {
                ["tidewaiter_client", "tidewaiter_api_clients", "tidewaiter_flow"]
                    .iter()
                    .any(|name| line.starts_with(name))
            })
            .collect();
        assert_eq!(
            lines,
            [
                "tidewaiter_client_bytes_total{api=\"web\",role=\"server\",client=\"10.0.0.1\"} 300",
                "tidewaiter_client_bytes_created{api=\"web\",role=\"server\",client=\"10.0.0.1\"} 1700000007",
                "tidewaiter_client_bytes_total{api=\"web\",role=\"server\",client=\"2001:db8::1\"} 200",
                "tidewaiter_client_bytes_created{api=\"web\",role=\"server\",client=\"2001:db8::1\"} 1700000008",
                "tidewaiter_client_bytes_total{api=\"web\",role=\"server\",client=\"other\"} 50",
                "tidewaiter_client_bytes_created{api=\"web\",role=\"server\",client=\"other\"} 1700000005",
                "tidewaiter_api_clients{api=\"web\",role=\"server\",window=\"5m\"} 12345",
                "tidewaiter_api_clients{api=\"silent\",role=\"client\",window=\"5m\"} 12345",
                "tidewaiter_flow_records_total{sink=\"audit\"} 7",
                "tidewaiter_flow_records_created{sink=\"audit\"} 1700000009",
                "tidewaiter_flow_records_dropped_total{sink=\"audit\"} 2",
                "tidewaiter_flow_records_dropped_created{sink=\"audit\"} 1700000009",
            ]
        );
    }
}
