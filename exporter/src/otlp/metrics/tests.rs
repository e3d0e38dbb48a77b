use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::{
    common::v1::{InstrumentationScope, KeyValue, any_value::Value},
    metrics::v1::{
        AggregationTemporality, ExponentialHistogramDataPoint, Metric, NumberDataPoint, metric::Data, number_data_point,
    },
    resource::v1::Resource,
};
use proptest::{collection::vec, prelude::*};
use prost::Message as _;
use tidewaiter_common::histogram::BUCKETS;

use super::{Request, SCHEMA_URL, Writer};
use crate::{
    api::{Role, reserved},
    config::otlp::OtlpHistograms,
    flow::Protocol,
    metrics::families,
    snapshot::{
        ApiCounters, ApiDetails, ApiSnapshot, ClientSnapshot, ClientsSnapshot, Histogram, ProcessSnapshot, Range,
        Snapshot, TransmissionSnapshot,
    },
};

const REQUEST_BYTES: usize = 1 << 20;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn api(name: &str, role: Option<Role>, details: &ApiDetails, clients: Option<ClientsSnapshot>) -> ApiSnapshot {
    ApiSnapshot {
        name: name.to_owned(),
        role,
        api: None,
        counters: ApiCounters::default(),
        details: Some(Box::new(*details)),
        anomalies: Vec::new(),
        transmission: TransmissionSnapshot { retransmitted: Some(7), dropped: Some(BTreeMap::new()) },
        clients,
        created: at(1_700_000_001),
    }
}

fn snapshot(apis: Vec<ApiSnapshot>) -> Arc<Snapshot> {
    Arc::new(Snapshot {
        taken: at(1_700_000_600),
        apis,
        interfaces: Vec::new(),
        programs: Vec::new(),
        lost: Some([1, 2, 3, 4]),
        tables: Vec::new(),
        sinks: Vec::new(),
        event_sinks: Vec::new(),
        guard: None,
        otlp: Vec::new(),
        audit: None,
        configuration: None,
        process: Some(ProcessSnapshot {
            cpu: Duration::from_millis(1250),
            resident: 20_000_000,
            open_files: None,
            started: at(1_700_000_500),
        }),
        collectors: Vec::new(),
    })
}

fn write(histograms: OtlpHistograms, snapshot: &Arc<Snapshot>) -> Vec<Request> {
    let writer = Writer::new(Resource::default(), InstrumentationScope::default(), histograms, REQUEST_BYTES);
    writer.write(&families(snapshot).expect("can be written"), snapshot.taken, Some(at(1_700_000_500)))
}

fn metrics(requests: &[Request]) -> impl Iterator<Item = &Metric> {
    let resources = requests.iter().flat_map(|(request, _)| &request.resource_metrics);
    resources.flat_map(|resource| &resource.scope_metrics).flat_map(|scope| &scope.metrics)
}

fn metric<'a>(requests: &'a [Request], name: &str) -> &'a Metric {
    metrics(requests).find(|metric| metric.name == name).unwrap_or_else(|| panic!("{name} is not there"))
}

fn numbers(metric: &Metric) -> &[NumberDataPoint] {
    match metric.data.as_ref().expect("has points") {
        Data::Sum(sum) => &sum.data_points,
        Data::Gauge(gauge) => &gauge.data_points,
        other => panic!("no numbers: {other:?}"),
    }
}

fn exponential(metric: &Metric) -> &ExponentialHistogramDataPoint {
    let Some(Data::ExponentialHistogram(histogram)) = &metric.data else { panic!("none: {metric:?}") };
    assert_eq!(histogram.aggregation_temporality(), AggregationTemporality::Cumulative);
    &histogram.data_points[0]
}

fn shown(attributes: &[KeyValue]) -> Vec<String> {
    let value = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.clone()) {
        Some(Value::StringValue(text)) => format!("{text:?}"),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|attribute| format!("{}={}", attribute.key, value(attribute))).collect()
}

#[test]
fn labels_are_said_in_the_words_of_the_semantic_conventions() {
    let mut details = ApiDetails::default();
    (details.requests[0], details.requests[9]) = (5, 1);
    // 100 is the first of the codes that are told apart; what is none of them comes last.
    (details.responses[0], *details.responses.last_mut().expect("a place")) = (4, 2);
    details.protocols[Protocol::Http1.index()] = 3;
    details.protocols[Protocol::Http2.index()] = 2;
    details.protocols[Protocol::Dns.index()] = 1;
    details.protocols[Protocol::Unknown.index()] = 1;
    let client = ClientSnapshot { address: "10.0.0.9".parse().expect("one"), bytes: 9, created: at(1_700_000_300) };
    let clients = ClientsSnapshot { named: vec![client], other: Some(1), distinct: 2, created: at(1_700_000_200) };
    let snapshot = snapshot(vec![api("web", Some(Role::Server), &details, Some(clients))]);
    let requests = write(OtlpHistograms::Exponential, &snapshot);
    let told = |name| {
        let points = numbers(metric(&requests, name)).iter();
        points.map(|point| shown(&point.attributes)[2..].join(" ")).collect::<Vec<_>>()
    };
    assert_eq!(told("tidewaiter.api.requests"), ["http.request.method=\"GET\"", "http.request.method=\"_OTHER\""]);
    assert_eq!(told("tidewaiter.api.responses"), ["http.response.status_code=100", ""]);
    assert_eq!(
        told("tidewaiter.api.protocol.flows"),
        [
            "",
            "network.protocol.name=\"http\" network.protocol.version=\"1\"",
            "network.protocol.name=\"http\" network.protocol.version=\"2\"",
            "network.protocol.name=\"dns\"",
        ]
    );
    assert_eq!(
        told("tidewaiter.client.bytes"),
        ["network.peer.address=\"10.0.0.9\"", "network.peer.address=\"other\""]
    );
    assert_eq!(
        shown(&numbers(metric(&requests, "tidewaiter.api.packets"))[1].attributes),
        ["tidewaiter.api=\"web\"", "tidewaiter.role=\"server\"", "network.io.direction=\"transmit\""]
    );
}

#[test]
fn everything_says_since_when_it_counts_and_how_its_values_are_to_be_read() {
    let snapshot = snapshot(vec![api(reserved::UNMAPPED, None, &ApiDetails::default(), None)]);
    let requests = write(OtlpHistograms::Exponential, &snapshot);
    let nanoseconds = |seconds: u64| seconds * 1_000_000_000;
    for (name, unit, start, value, is_monotonic) in [
        ("tidewaiter.api.packets", "{packet}", 1_700_000_001, number_data_point::Value::AsInt(0), Some(true)),
        (
            "tidewaiter.api.connections.active",
            "{connection}",
            1_700_000_500,
            number_data_point::Value::AsInt(0),
            Some(false),
        ),
        ("process.cpu.time", "s", 1_700_000_500, number_data_point::Value::AsDouble(1.25), Some(true)),
        ("process.memory.usage", "By", 1_700_000_500, number_data_point::Value::AsInt(20_000_000), Some(false)),
        // It is lost for as long as the kernel's tables are there, which is as long as traffic of no API is counted.
        ("tidewaiter.events.lost", "{event}", 1_700_000_001, number_data_point::Value::AsInt(1), Some(true)),
        ("tidewaiter.build.info", "{build}", 0, number_data_point::Value::AsInt(1), None),
    ] {
        let metric = metric(&requests, name);
        let point = &numbers(metric)[0];
        assert_eq!(metric.unit, unit, "{name}");
        assert_eq!(point.start_time_unix_nano, nanoseconds(start), "{name}");
        assert_eq!((point.time_unix_nano, point.value), (nanoseconds(1_700_000_600), Some(value)), "{name}");
        let Some(is_monotonic) = is_monotonic else {
            assert!(matches!(metric.data, Some(Data::Gauge(_))), "{name}");
            continue;
        };
        let Some(Data::Sum(sum)) = &metric.data else { panic!("{name}: {metric:?}") };
        assert_eq!(
            (sum.is_monotonic, sum.aggregation_temporality()),
            (is_monotonic, AggregationTemporality::Cumulative)
        );
    }
    assert!(metrics(&requests).all(|metric| !metric.name.contains("start")), "what is said otherwise is not sent");
    assert!(metrics(&requests).all(|metric| !metric.unit.is_empty()), "each has a name of its own");
}

#[test]
fn explicit_histograms_have_the_bounds_of_the_classic_ones() {
    let mut details = ApiDetails::default();
    let response = &mut details.response;
    (response.counts[0], response.counts[1], response.counts[5], response.counts[BUCKETS + 1]) = (2, 3, 4, 5);
    let snapshot = snapshot(vec![api("web", Some(Role::Server), &details, None)]);
    let requests = write(OtlpHistograms::Explicit, &snapshot);
    let Some(Data::Histogram(histogram)) = &metric(&requests, "tidewaiter.api.response.duration").data else {
        panic!("none")
    };
    let point = &histogram.data_points[0];
    assert_eq!((point.count, point.explicit_bounds.len(), point.bucket_counts.len()), (14, 29, 30));
    assert_eq!((&point.bucket_counts[..4], point.bucket_counts[29]), (&[2, 3, 4, 0][..], 5));
    assert!((point.explicit_bounds[0] - 1.0 / 1_048_576.0).abs() < f64::EPSILON);
    assert_eq!(histogram.aggregation_temporality(), AggregationTemporality::Cumulative);
}

#[test]
fn what_is_too_much_for_one_request_goes_in_several_and_nothing_is_missing() {
    let clients = |api: u8| {
        let client = |number: u16| ClientSnapshot {
            address: std::net::IpAddr::from([10, api, (number >> 8) as u8, number as u8]),
            bytes: number.into(),
            created: at(1_700_000_300),
        };
        let named = (0..1000).map(client).collect();
        ClientsSnapshot { named, other: Some(1), distinct: 1000, created: at(1_700_000_200) }
    };
    let api =
        |number: u8| api(&format!("api-{number}"), Some(Role::Server), &ApiDetails::default(), Some(clients(number)));
    let snapshot = snapshot((0..50).map(api).collect());
    let requests = write(OtlpHistograms::Exponential, &snapshot);
    assert!(requests.len() > 2, "{}", requests.len());
    let mut seen = 0;
    for (request, items) in &requests {
        // And one data point, with what is around all of them.
        assert!(request.encoded_len() < REQUEST_BYTES + REQUEST_BYTES / 4, "{}", request.encoded_len());
        assert_eq!(request.resource_metrics[0].schema_url, SCHEMA_URL);
        let counted: usize = metrics(std::slice::from_ref(&(request.clone(), *items)))
            .map(|metric| match metric.data.as_ref().expect("has points") {
                Data::ExponentialHistogram(histogram) => histogram.data_points.len(),
                _ => numbers(metric).len(),
            })
            .sum();
        assert_eq!(counted as u64, *items);
        seen += metrics(&[(request.clone(), *items)])
            .filter(|metric| metric.name == "tidewaiter.client.bytes")
            .map(|metric| numbers(metric).len())
            .sum::<usize>();
    }
    assert_eq!(seen, 50 * 1001);
}

fn histograms() -> impl Strategy<Value = Histogram> {
    let counts = vec(prop_oneof![3 => Just(0_u64), 1 => 1..1_000_000_u64], BUCKETS + 2);
    (counts, any::<u32>()).prop_map(|(counts, sum)| {
        let mut histogram = Histogram { sum: sum.into(), ..Histogram::default() };
        histogram.counts.copy_from_slice(&counts);
        histogram
    })
}

proptest! {
    #[test]
    fn exponential_histograms_have_every_bucket_of_the_kernel(response in histograms(), lifetime in histograms()) {
        let details = ApiDetails { response, lifetime, ..ApiDetails::default() };
        let snapshot = snapshot(vec![api("web", Some(Role::Server), &details, None)]);
        let requests = write(OtlpHistograms::Exponential, &snapshot);
        for (name, range, histogram) in [
            ("tidewaiter.api.response.duration", Range::Latency, response),
            ("tidewaiter.api.connection.duration", Range::Lifetime, lifetime),
        ] {
            let point = exponential(metric(&requests, name));
            prop_assert_eq!((point.scale, point.zero_count, point.count), (2, histogram.counts[0], histogram.count()));
            let buckets = point.positive.clone().expect("is there");
            let sum: u64 = buckets.bucket_counts.iter().sum();
            prop_assert_eq!(sum + point.zero_count, point.count);
            for (place, count) in histogram.counts.iter().enumerate().skip(1) {
                // The kernel's place 1 is above 2^(lowest/4), as OpenTelemetry's bucket of that number is.
                let index = range.lowest() + i32::try_from(place).expect("fits") - 1 - buckets.offset;
                let there = usize::try_from(index).ok().and_then(|index| buckets.bucket_counts.get(index));
                prop_assert_eq!(there.copied().unwrap_or(0), *count, "place {}", place);
            }
        }
    }
}
