//! `/metrics` in all its formats.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::{Bucket, Histogram, MetricFamily};
use prost::Message as _;
use tidewaiter::{
    metrics::exposition::Format,
    snapshot::{GuardSnapshot, Snapshot},
};
use tidewaiter_tests::{
    command::output,
    exporter::{ADDRESS, Exporter},
    metrics::Metrics,
    namespace::Namespace,
    snapshot::snapshot,
};

const CONFIGURATION: &str = "
    interfaces = [\"lo\"]
    [[api]]
    name = \"orders\"
    ports = [8080, \"9000-9010\"]
    [[api]]
    name = \"exporter\"
    ports = [9473]
";

/// Set to rewrite the golden files instead of comparing with them.
const UPDATE: &str = "UPDATE_GOLDEN";

#[test]
fn every_metric_is_as_the_golden_files_have_it() {
    let snapshot = Arc::new(snapshot());
    for (format, name) in [(Format::ClassicText, "metrics.txt"), (Format::OpenMetrics, "metrics.openmetrics.txt")] {
        let text = String::from_utf8(format.encode(&snapshot).expect("encodes")).expect("is text");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
        if std::env::var_os(UPDATE).is_some() {
            fs::write(&path, &text).expect("can be written");
        }
        let golden = fs::read_to_string(&path).expect("is there");
        assert!(text == golden, "{name} differs; if that is meant: {UPDATE}=1 cargo test --test metrics\n{text}");
    }
}

#[test]
fn a_part_that_cannot_be_read_leaves_the_rest() {
    let broken = Snapshot { interfaces: Vec::new(), process: None, ..snapshot() };
    let text = Format::ClassicText.encode(&Arc::new(broken)).expect("encodes");
    let text = String::from_utf8(text).expect("is text");
    assert!(text.contains("tidewaiter_api_packets_total{api=\"orders\""));
    assert!(text.contains("tidewaiter_collector_success{collector=\"interfaces\"} 0"));
    assert!(!text.contains("process_cpu_seconds_total"));
}

#[test]
fn nothing_is_said_of_a_guard_that_judges_nothing() {
    let full = snapshot();
    let mut idle = Snapshot { guard: full.guard.map(|guard| GuardSnapshot { is_on: false, ..guard }), ..snapshot() };
    idle.interfaces.iter_mut().for_each(|interface| interface.guard = None);
    let text = |snapshot| {
        let text = Format::ClassicText.encode(&Arc::new(snapshot)).expect("encodes");
        String::from_utf8(text).expect("is text")
    };
    assert!(!text(idle).contains("guard_"));
    assert!(text(snapshot()).contains("guard_"));
}

#[test]
fn native_buckets_say_what_the_classic_ones_do() {
    let protobuf = Format::Protobuf.encode(&Arc::new(snapshot())).expect("encodes");
    let mut seen = 0;
    for (name, histogram) in histograms(&protobuf) {
        let Histogram { sample_count, bucket, schema, zero_threshold, zero_count, start_timestamp, .. } = &histogram;
        assert_eq!((*schema, start_timestamp.map(|at| at.seconds)), (2, Some(1_700_000_001)), "{name}");
        // It must be known for a native one by this alone while it is empty.
        assert!(*zero_threshold > 0.0, "{name}");
        assert!((bucket[0].upper_bound - zero_threshold).abs() < f64::EPSILON, "{name}");
        assert_eq!(bucket[0].cumulative_count, *zero_count, "{name}");

        let native = native_buckets(&histogram);
        for Bucket { upper_bound, cumulative_count, .. } in bucket {
            let below = native.iter().filter(|(bound, _)| bound <= upper_bound).map(|(_, count)| count).sum::<u64>();
            assert_eq!(zero_count + below, *cumulative_count, "{name} up to {upper_bound}");
        }
        let all: u64 = native.iter().map(|(_, count)| count).sum();
        assert_eq!(zero_count + all, *sample_count, "{name}");
        seen += sample_count;
    }
    assert_eq!(seen, 302);
}

fn histograms(mut bytes: &[u8]) -> Vec<(String, Histogram)> {
    let mut histograms = Vec::new();
    while !bytes.is_empty() {
        let MetricFamily { name, metric, .. } = MetricFamily::decode_length_delimited(&mut bytes).expect("is a family");
        histograms.extend(
            metric.into_iter().filter_map(|metric| metric.histogram).map(|histogram| (name.clone(), histogram)),
        );
    }
    histograms
}

/// Upper bounds and counts of the positive native buckets, as Prometheus reads spans and deltas.
fn native_buckets(histogram: &Histogram) -> Vec<(f64, u64)> {
    let (mut buckets, mut number, mut count) = (Vec::new(), 0, 0);
    let mut deltas = histogram.positive_delta.iter();
    for span in &histogram.positive_span {
        number += span.offset;
        for _ in 0..span.length {
            count += deltas.next().expect("as many as the spans say");
            buckets.push(((f64::from(number) / 4.0).exp2(), u64::try_from(count).expect("not negative")));
            number += 1;
        }
    }
    assert_eq!(deltas.next(), None);
    buckets
}

/// What `promtool check metrics` says of `text`: its verdict and its words.
fn promtool(text: &str) -> (bool, String) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed");
    promtool.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("is read");
    let output = promtool.wait_with_output().expect("ends");
    let words = [output.stdout, output.stderr].map(|words| String::from_utf8_lossy(&words).into_owned()).concat();
    (output.status.success(), words)
}

#[test]
fn promtool_has_nothing_to_say_against_the_classic_text() {
    let namespace = Namespace::new();
    let exporter = Exporter::start(&namespace, CONFIGURATION);
    assert_eq!(promtool(&exporter.text("/metrics", &[])), (true, String::new()));
    let full = String::from_utf8(Format::ClassicText.encode(&Arc::new(snapshot())).expect("encodes")).expect("is text");
    assert_eq!(promtool(&full), (true, String::new()));
    // It would have, of others.
    assert!(!promtool("# TYPE things counter\nthings 1\n").0);
}

#[test]
fn the_format_is_what_the_client_likes_best_and_all_say_the_same() {
    let namespace = Namespace::new();
    let exporter = Exporter::start(&namespace, CONFIGURATION);
    let get = |accept: &str| {
        let mut response = exporter.get("/metrics", &[("Accept", accept)]).expect("an answer");
        let content_type = response.headers()["content-type"].to_str().expect("is text").to_owned();
        let body = namespace.run(|| response.body_mut().read_to_vec().expect("a body"));
        (content_type, body)
    };

    let (content_type, classic) = get("text/plain;version=0.0.4");
    assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
    let classic = Metrics::parse(&String::from_utf8(classic).expect("is text"));

    let (content_type, open) = get("application/openmetrics-text;version=1.0.0");
    assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let open = String::from_utf8(open).expect("is text");
    assert!(open.ends_with("# EOF\n") && open.contains("# TYPE tidewaiter_api_packets counter\n"));
    let open = Metrics::parse(&open);

    let (content_type, protobuf) =
        get("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited");
    let expected = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
    assert_eq!(content_type, expected);
    let protobuf = parse_protobuf(&protobuf);

    // Between two scrapes only the exporter's own traffic and the exporter's use of the machine have changed.
    let steady = |metrics: &Metrics| -> Vec<String> {
        let keep = |series: &&String| {
            ["orders", "build_info", "map_", "uncounted", "collector_success"].iter().any(|one| series.contains(one))
                && !series.contains("mirror")
                // Only OpenMetrics text says it in series of their own.
                && !series.contains("_created")
        };
        let mut lines: Vec<_> =
            metrics.0.keys().filter(keep).map(|series| format!("{series} {}", metrics.0[series])).collect();
        lines.sort_unstable();
        lines
    };
    assert!(steady(&classic).len() > 60);
    assert!(steady(&classic) == steady(&open), "{classic}{open}");
    assert!(steady(&classic) == steady(&protobuf), "{classic}{protobuf}");
    assert_eq!(classic.0.keys().collect::<Vec<_>>(), protobuf.0.keys().collect::<Vec<_>>());
}

#[expect(clippy::cast_precision_loss, reason = "few of anything")]
fn parse_protobuf(mut bytes: &[u8]) -> Metrics {
    let mut samples = BTreeMap::new();
    while !bytes.is_empty() {
        let family = MetricFamily::decode_length_delimited(&mut bytes).expect("is a family");
        for metric in family.metric {
            let labels: Vec<_> =
                metric.label.iter().map(|label| format!("{}=\"{}\"", label.name, label.value)).collect();
            let mut sample = |suffix: &str, bound: Option<f64>, value| {
                let mut labels = labels.clone();
                labels.extend(bound.map(|bound| format!("le=\"{bound}\"")));
                labels.sort_unstable();
                let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
                samples.insert(format!("{}{suffix}{labels}", family.name), value);
            };
            if let Some(Histogram { bucket, sample_count, sample_sum, .. }) = metric.histogram {
                let total = Bucket { upper_bound: f64::INFINITY, cumulative_count: sample_count, ..Bucket::default() };
                for Bucket { upper_bound, cumulative_count, .. } in bucket.into_iter().chain([total]) {
                    sample("_bucket", Some(upper_bound), cumulative_count as f64);
                }
                sample("_sum", None, sample_sum);
                sample("_count", None, sample_count as f64);
                continue;
            }
            let value = metric.counter.map(|counter| counter.value).or(metric.gauge.map(|gauge| gauge.value));
            sample("", None, value.expect("has one"));
        }
    }
    Metrics(samples)
}

#[test]
fn the_answer_is_compressed_for_those_who_ask() {
    let namespace = Namespace::new();
    let exporter = Exporter::start(&namespace, CONFIGURATION);
    let plain = exporter.get("/metrics", &[]).expect("an answer");
    assert!(!plain.headers().contains_key("content-encoding"));
    let url = format!("http://{ADDRESS}/metrics");
    let curl = |arguments: &[&str]| {
        let mut command = namespace.command("curl");
        output(command.args(["-s", "-w", "\n%{size_download} %{content_type}"]).args(arguments).arg(&url))
    };
    let (plain, compressed) = (curl(&[]), curl(&["--compressed"]));
    let size = |text: &str| -> usize { text.lines().last().unwrap().split(' ').next().unwrap().parse().unwrap() };
    assert!(compressed.contains("tidewaiter_api_packets_total{api=\"orders\""), "curl could not read it");
    assert!(size(&compressed) * 4 < size(&plain), "{} of {} bytes", size(&compressed), size(&plain));
}

#[test]
fn the_other_pages_are_there() {
    let namespace = Namespace::new();
    let exporter = Exporter::start(&namespace, CONFIGURATION);
    let page = exporter.text("/", &[]);
    assert!(page.contains("<a href=\"/metrics\">") && page.contains("Interfaces: lo. APIs: 2."), "{page}");
    assert_eq!(exporter.text("/healthz", &[]), "ok\n");
    assert_eq!(exporter.text("/readyz", &[]), "attached to 1 interface\n");
    assert_eq!(exporter.status("/nothing/here"), Some(404));
}
