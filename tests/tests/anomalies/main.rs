//! Anomalies: each kind made to happen by real packets, and what comes close to it and is none.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

mod corpus;
mod daemon;
mod flows;
mod packets;
mod sources;

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use tidewaiter::{
    accounting::Accounting,
    anomaly::{Anomaly, AnomalyKind, thresholds::Thresholds},
    event::{Event, Happening},
    snapshot::Direction,
};
use tidewaiter_tests::{
    accounting::{account, counted},
    layers::{Ipv4, Layer, ethernet},
    network::{INTERFACE, Network, Offload, send_frames},
    wait::wait_until,
};
use tokio::sync::mpsc::Receiver;

/// The port of the API "orders".
pub(crate) const PORT: u16 = 8080;

/// A host that looks for anomalies, and one that makes them.
pub(crate) struct Host {
    pub(crate) network: Network,
    pub(crate) accounting: Accounting,
    events: Receiver<Arc<Event>>,
}

impl Host {
    /// With `thresholds`, and nothing on the wire but what a test sends.
    pub(crate) fn new(thresholds: &Thresholds) -> Self {
        let network = Network::new(Offload::Off);
        network.know_each_other();
        let mut accounting = account(&network.server, INTERFACE, 4096, Duration::from_secs(1));
        accounting.set_anomaly_thresholds(thresholds).unwrap();
        let events = accounting.add_event_sink("test", 1000);
        Self { network, accounting, events }
    }

    /// Sends `frames` to it, and waits until all are there.
    pub(crate) fn receive(&mut self, frames: &[Vec<u8>]) {
        let seen = |accounting: &mut Accounting| counted(accounting).2.totals[Direction::Receive.index()].buffers;
        let before = seen(&mut self.accounting);
        // A veth device drops what its ring has no room for.
        for some in frames.chunks(100) {
            let expected = seen(&mut self.accounting) + some.len() as u64;
            self.network.client.run(|| send_frames(INTERFACE, some, 1)).unwrap();
            wait_until("the frames to arrive", || seen(&mut self.accounting) >= expected);
        }
        assert!(seen(&mut self.accounting) >= before + frames.len() as u64);
    }

    /// What was counted: by kind, of any API, where it is not zero.
    pub(crate) fn found(&mut self) -> BTreeMap<(String, AnomalyKind), u64> {
        let apis = self.accounting.snapshot().apis;
        let all = apis.into_iter().flat_map(|api| {
            let name = api.name.clone();
            api.anomalies.into_iter().map(move |(kind, count)| ((name.clone(), kind), count))
        });
        all.filter(|(_, count)| *count > 0).collect()
    }

    /// What was told since this was asked last.
    pub(crate) fn told(&mut self) -> Vec<Anomaly> {
        self.accounting.read_anomalies();
        let events = std::iter::from_fn(|| self.events.try_recv().ok());
        let anomalies = events.filter_map(|event| match &event.what {
            Happening::Anomaly(anomaly) => Some(anomaly.clone()),
            _ => None,
        });
        anomalies.collect()
    }
}

/// `count` anomalies of `kind`, of `api`.
pub(crate) fn only(api: &str, kind: AnomalyKind, count: u64) -> BTreeMap<(String, AnomalyKind), u64> {
    BTreeMap::from([((api.to_owned(), kind), count)])
}

/// A frame from one IPv4 address to another.
pub(crate) fn between(source: Ipv4Addr, destination: Ipv4Addr, payload: &Layer) -> Vec<u8> {
    ethernet(&Ipv4 { source, destination, options: &[], fragment: 0 }.around(payload))
}

/// A frame from the client to the server.
pub(crate) fn to_server(payload: &Layer) -> Vec<u8> {
    between(Network::CLIENT4, Network::SERVER4, payload)
}

/// Waits until `window` is over that began before now.
pub(crate) fn wait_for_end(window: Duration) {
    let end = Instant::now() + window + Duration::from_millis(50);
    wait_until("a window to be over", || Instant::now() > end);
}
