//! Metrics: the same as `/metrics` says.

use std::{collections::BTreeMap, time::SystemTime};

use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data};
use tidewaiter::otlp::names::{LABELS, METRICS, Name, UNSENT};
use tidewaiter_tests::{
    collector::{Collector, attribute},
    exporter::Exporter,
    network::{Network, Offload},
    otlp::as_prometheus,
    servers::{Nginx, are_installed},
    wait::wait_for,
};

use super::{PROTOCOLS, assert_same, configuration, make_traffic, nanoseconds, without_itself};

/// The time of the points of `metric`, and the least time since which they count, if they say.
fn times(metric: &Metric) -> Vec<(u64, u64)> {
    match metric.data.as_ref().expect("has points") {
        Data::Sum(sum) => sum.data_points.iter().map(|at| (at.time_unix_nano, at.start_time_unix_nano)).collect(),
        Data::Gauge(gauge) => gauge.data_points.iter().map(|at| (at.time_unix_nano, at.start_time_unix_nano)).collect(),
        Data::ExponentialHistogram(histogram) => {
            histogram.data_points.iter().map(|at| (at.time_unix_nano, at.start_time_unix_nano)).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// What was exported at one moment after `since`.
fn export_after(collector: &Collector<'_>, since: SystemTime) -> Vec<Metric> {
    let since = nanoseconds(since);
    wait_for("an export of metrics", || {
        let mut by_time = BTreeMap::<u64, Vec<Metric>>::new();
        for (_, metric) in collector.metrics() {
            let time = times(&metric)[0].0;
            by_time.entry(time).or_default().push(metric);
        }
        // There may be more of the last one to come.
        let complete = by_time.into_iter().rev().nth(1);
        complete.filter(|(time, _)| *time > since).map(|(_, metrics)| metrics)
    })
}

#[test]
fn a_collector_receives_what_metrics_says() {
    if !are_installed(&["nginx"]) {
        return;
    }
    for protocol in PROTOCOLS {
        let network = Network::new(Offload::Off);
        let _nginx = Nginx::start(&network.server);
        let collector = Collector::new(&network.server);
        let exporter = Exporter::start(&network.server, &configuration(protocol, ""));
        make_traffic(&network);
        network.wait_until_quiet();
        // When nothing changes any more, what was exported in between is what is scraped.
        let (scraped, received) = wait_for("all flows to be over", || {
            let before = without_itself(exporter.metrics());
            let received = export_after(&collector, SystemTime::now());
            (without_itself(exporter.metrics()) == before).then_some((before, received))
        });
        let received_again = without_itself(as_prometheus(&received));
        assert_same(&scraped, &received_again, protocol);
        let count = |series: &str| scraped.0.keys().filter(|known| known.starts_with(series)).count();
        assert!(count("tidewaiter_api_responses_total") >= 2 && count("tidewaiter_api_requests_total") == 3);
        assert!(
            scraped.0.iter().any(|(series, value)| series.contains("response_duration_seconds_count") && *value >= 9.0)
        );

        // What is cumulative says since when, which is before it says what.
        let now = nanoseconds(SystemTime::now());
        for metric in &received {
            let is_cumulative = match &metric.data {
                Some(Data::Sum(sum)) => sum.is_monotonic,
                Some(Data::ExponentialHistogram(_)) => true,
                _ => false,
            };
            for (time, start) in times(metric) {
                assert!(time <= now, "{}", metric.name);
                assert!(!is_cumulative || (1..=time).contains(&start), "{} since {start}", metric.name);
            }
        }
        let (resource, _) = &collector.metrics()[0];
        for key in ["service.name", "service.version", "service.instance.id", "host.name", "os.type"] {
            assert!(attribute(&resource.attributes, key).is_some_and(|value| !value.is_empty()), "{key}");
        }
        assert_eq!(attribute(&resource.attributes, "deployment.environment.name").as_deref(), Some("test"));
        let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
        if machine.trim().len() == 32 {
            assert_eq!(attribute(&resource.attributes, "host.id").as_deref(), Some(machine.trim()));
        }
    }
}

#[test]
fn the_readme_has_every_name() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).expect("is there");
    let golden = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/metrics.txt")).expect("is there");
    for Name { prometheus, name, unit, .. } in METRICS {
        assert!(readme.contains(&format!("| `{prometheus}` | `{name}` | `{unit}` |\n")), "{prometheus}");
    }
    for (label, attribute) in LABELS {
        assert!(readme.contains(&format!("| `{label}` | `{attribute}` |\n")), "{label}");
    }
    // Every metric that there is in a snapshot with something of everything has a name.
    for family in golden.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
        let is_known = METRICS.iter().any(|known| known.prometheus == family) || UNSENT.contains(&family);
        assert!(is_known, "{family} has no name in OpenTelemetry");
    }
}
