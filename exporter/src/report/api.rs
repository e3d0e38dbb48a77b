//! APIs, as they are reported.

use std::{borrow::Cow, cmp::Reverse, collections::BTreeMap, net::IpAddr};

use serde::Serialize;
use tidewaiter_common::{
    histogram::{BUCKETS, Histogram, Range, SCALE},
    protocol::Protocol,
};

use super::Count;
use crate::{
    api::Role,
    snapshot::{ApiDetails, ApiSnapshot, ClientsSnapshot, CloseReason},
};

/// What was counted for one API.
#[derive(Debug, Serialize)]
pub struct ApiRow {
    /// The name.
    pub api: String,
    /// `server`, `client` or `none`.
    pub role: &'static str,
    /// What was received.
    pub receive: Count,
    /// What was transmitted.
    pub transmit: Count,
    /// Packets that are in no flow.
    pub untracked: u64,
}

impl From<&ApiSnapshot> for ApiRow {
    fn from(api: &ApiSnapshot) -> Self {
        let [receive, transmit] = api.counters.wire.map(Count::from);
        Self {
            api: api.name.clone(),
            role: api.role.map_or("none", Role::as_str),
            receive,
            transmit,
            untracked: api.counters.untracked.packets,
        }
    }
}

/// The same, with all that is known of it beside. What is not known is left out.
#[derive(Debug, Serialize)]
pub struct DetailedApiRow {
    #[serde(flatten)]
    counts: ApiRow,
    transports: Vec<&'static str>,
    ports: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<Connections>,
    #[serde(skip_serializing_if = "Option::is_none")]
    handshake: Option<Durations>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<Durations>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    protocols: BTreeMap<&'static str, u64>,
    /// HTTP/1 requests without TLS by method.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    requests: BTreeMap<&'static str, u64>,
    /// Their responses by status code.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    responses: BTreeMap<Cow<'static, str>, u64>,
    /// What should not be, by kind.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    anomalies: BTreeMap<&'static str, u64>,
    /// Segments that this host sent again; left out where the kernel does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    retransmitted: Option<u64>,
    /// Packets that the kernel dropped, by the reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    dropped: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clients: Option<Clients>,
}

#[derive(Debug, Serialize)]
struct Connections {
    attempts: u64,
    refused: u64,
    opened: u64,
    /// Those that were there before anybody looked.
    adopted: u64,
    closed: BTreeMap<&'static str, u64>,
    active: u64,
    /// From the first packet to the last of those that were closed or reset.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<Durations>,
}

/// Durations in seconds.
#[derive(Debug, PartialEq, Serialize)]
struct Durations {
    count: u64,
    mean: f64,
    p50: f64,
    p95: f64,
    p99: f64,
}

#[derive(Debug, Serialize)]
struct Clients {
    /// About how many there were in the last five minutes.
    distinct_5m: u64,
    /// Those whose bytes are counted by themselves, the largest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top: Vec<Client>,
    /// Bytes of all others.
    #[serde(skip_serializing_if = "Option::is_none")]
    other_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Client {
    address: IpAddr,
    bytes: u64,
}

impl From<&ApiSnapshot> for DetailedApiRow {
    fn from(api: &ApiSnapshot) -> Self {
        let found_by = api.api.as_deref();
        let details = api.details.as_deref();
        let transports = found_by.map(|api| api.transports.iter().map(|transport| transport.as_str()).collect());
        let ports = found_by.map(|api| api.ports.iter().map(ToString::to_string).collect());
        Self {
            counts: api.into(),
            transports: transports.unwrap_or_default(),
            ports: ports.unwrap_or_default(),
            addresses: found_by.map(|api| api.addresses.clone()).unwrap_or_default(),
            connections: details.map(Connections::from),
            handshake: details.and_then(|details| Durations::of(&details.handshake, Range::Latency)),
            response: details.and_then(|details| Durations::of(&details.response, Range::Latency)),
            protocols: details.map(protocols).unwrap_or_default(),
            requests: api.requests().collect(),
            responses: api.responses().collect(),
            anomalies: anomalies(api),
            retransmitted: api.transmission.retransmitted,
            dropped: api.transmission.dropped.clone().unwrap_or_default(),
            clients: api.clients.as_ref().map(Clients::from),
        }
    }
}

impl From<&ApiDetails> for Connections {
    fn from(details: &ApiDetails) -> Self {
        let closed = CloseReason::ALL.into_iter().map(CloseReason::as_str).zip(details.closed);
        Self {
            attempts: details.attempts,
            refused: details.refused,
            opened: details.opened,
            adopted: details.adopted,
            closed: closed.collect(),
            active: details.active(),
            duration: Durations::of(&details.lifetime, Range::Lifetime),
        }
    }
}

fn protocols(details: &ApiDetails) -> BTreeMap<&'static str, u64> {
    let all = Protocol::ALL.iter().map(|protocol| protocol.as_str()).zip(details.protocols);
    all.filter(|(_, flows)| *flows > 0).collect()
}

fn anomalies(api: &ApiSnapshot) -> BTreeMap<&'static str, u64> {
    let found = api.anomalies.iter().filter(|(_, count)| *count > 0);
    found.map(|(kind, count)| (kind.as_str(), *count)).collect()
}

impl From<&ClientsSnapshot> for Clients {
    fn from(clients: &ClientsSnapshot) -> Self {
        let mut top: Vec<_> =
            clients.named.iter().map(|client| Client { address: client.address, bytes: client.bytes }).collect();
        top.sort_by_key(|client| Reverse(client.bytes));
        Self { distinct_5m: clients.distinct, top, other_bytes: clients.other }
    }
}

impl Durations {
    /// What a histogram of durations of `range` says; `None` if it is empty.
    #[expect(clippy::cast_precision_loss, reason = "a mean, to be shown")]
    fn of(histogram: &Histogram, range: Range) -> Option<Self> {
        let count = histogram.count();
        (count > 0).then(|| Self {
            count,
            mean: histogram.sum as f64 / count as f64 / 1e9,
            p50: quantile(histogram, range, count, 50),
            p95: quantile(histogram, range, count, 95),
            p99: quantile(histogram, range, count, 99),
        })
    }
}

/// The duration that `percent` of all `count` do not exceed: the geometric middle of its bucket, which it differs from by 9 %
/// at the most; of one that is shorter or longer than all buckets, the bound.
fn quantile(histogram: &Histogram, range: Range, count: u64, percent: u64) -> f64 {
    // From 1: the number of it when they are sorted. In 128 bits nothing overflows.
    let place = (u128::from(count) * u128::from(percent)).div_ceil(100).max(1);
    let mut below = 0;
    let bucket = histogram.counts.iter().position(|in_it| {
        below += u128::from(*in_it);
        below >= place
    });
    let lowest = f64::from(range.lowest());
    let steps = match bucket {
        Some(0) => 0.0,
        Some(bucket @ ..=BUCKETS) => f64::from(bucket as u32) - 0.5,
        _ => f64::from(BUCKETS as u32),
    };
    ((lowest + steps) / f64::from(1 << SCALE)).exp2()
}

#[cfg(test)]
mod tests {
    use tidewaiter_common::histogram::{Histogram, Range};

    use super::Durations;

    #[test]
    fn quantiles_are_within_a_bucket_of_the_truth() {
        let mut histogram = Histogram::default();
        assert_eq!(Durations::of(&histogram, Range::Latency), None);
        // 1 to 1000 milliseconds.
        (1..=1000_u64).for_each(|number| histogram.observe(Range::Latency, number * 1_000_000));
        let latency = Durations::of(&histogram, Range::Latency).expect("there are some");
        assert_eq!(latency.count, 1000);
        assert!((latency.mean - 0.5005).abs() < 1e-9, "{latency:?}");
        for (found, truth) in [(latency.p50, 0.5), (latency.p95, 0.95), (latency.p99, 0.99)] {
            let ratio: f64 = found / truth;
            assert!((1.0 / 1.0906..=1.0906).contains(&ratio), "{found} for {truth}");
        }
    }

    #[test]
    fn what_is_beyond_the_buckets_is_at_their_bound() {
        for (range, nanoseconds, seconds) in [
            (Range::Latency, 1, 2.0_f64.powi(-20)),
            (Range::Latency, u64::MAX / 2, 256.0),
            (Range::Lifetime, 1, 2.0_f64.powi(-12)),
            (Range::Lifetime, u64::MAX / 2, 65_536.0),
        ] {
            let mut histogram = Histogram::default();
            histogram.observe(range, nanoseconds);
            let durations = Durations::of(&histogram, range).expect("there is one");
            assert!((durations.p50 - seconds).abs() < f64::EPSILON, "{durations:?}");
        }
    }
}
