//! `/metrics` in all its formats.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::MetricFamily;
use prost::Message as _;
use tidewaiter::{
    api::{Api, PortRange, Role, reserved},
    kernel::ProgramStatistics,
    metrics::exposition::Format,
    snapshot::{
        ApiCounters, ApiSnapshot, CollectorSnapshot, Counters, Direction, GONE, InterfaceCounters, InterfaceSnapshot,
        ProcessSnapshot, Reason, Snapshot, TableSnapshot, TransmissionSnapshot,
    },
};
use tidewaiter_common::transport::Transport;
use tidewaiter_tests::{
    command::output,
    exporter::{ADDRESS, Exporter},
    metrics::Metrics,
    namespace::Namespace,
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

/// A snapshot with something of everything.
fn snapshot() -> Snapshot {
    let created = UNIX_EPOCH + Duration::from_secs(1_700_000_001);
    let counters = |packets: u64| {
        let wire = [1, 2].map(|direction| Counters { packets: packets * direction, bytes: packets * direction * 100 });
        ApiCounters { wire, untracked: packets / 10 }
    };
    let transmission = |packets: u64| TransmissionSnapshot {
        retransmitted: Some(packets / 5),
        dropped: Some(
            [("no_socket", packets / 4), ("other", 1)].map(|(reason, count)| (reason.to_owned(), count)).into(),
        ),
    };
    let api = |name: &str, role, transports, ports, packets| ApiSnapshot {
        name: name.to_owned(),
        role: Some(role),
        api: Some(Arc::new(Api { name: name.to_owned(), role, transports, ports, addresses: Vec::new() })),
        counters: counters(packets),
        details: None,
        transmission: transmission(packets),
        created,
    };
    let mut interface = InterfaceCounters::default();
    for direction in Direction::ALL {
        interface.totals[direction.index()].wire = Counters { packets: 1000, bytes: 100_000 };
        interface.totals[direction.index()].buffers = 900;
        for (place, _) in Reason::ALL.iter().enumerate() {
            interface.uncounted[direction.index()][place] =
                Counters { packets: place as u64, bytes: 60 * place as u64 };
        }
    }
    let ports = vec![8080.into(), PortRange::new(9000, 9010).unwrap()];
    Snapshot {
        apis: vec![
            ApiSnapshot {
                name: reserved::UNMAPPED.to_owned(),
                role: None,
                api: None,
                counters: counters(10),
                details: None,
                transmission: TransmissionSnapshot { retransmitted: Some(1), dropped: None },
                created,
            },
            api("orders", Role::Server, vec![Transport::Tcp, Transport::Udp], ports, 20),
            // What a label must survive.
            api("\"dätabase\"\\\n", Role::Client, vec![Transport::Tcp], vec![5432.into()], 9_007_199_254_740_991 / 200),
            ApiSnapshot {
                name: reserved::REMOVED.to_owned(),
                role: Some(Role::Server),
                api: None,
                counters: counters(30),
                details: None,
                transmission: TransmissionSnapshot::default(),
                created,
            },
        ],
        interfaces: vec![
            InterfaceSnapshot {
                name: "eth0".to_owned(),
                counters: interface,
                created,
                kernel: Some([900, 1250]),
                // As of a device that counts buffers on receipt, and of which it is not known what it transmits.
                coverage: [Some(1.0), None],
            },
            InterfaceSnapshot {
                name: GONE.to_owned(),
                counters: interface,
                created,
                kernel: None,
                coverage: [None; 2],
            },
        ],
        programs: vec![ProgramStatistics { name: "account_receive", runs: 1000, run_time: Duration::from_micros(15) }],
        tables: vec![TableSnapshot { name: "apis", entries: 2, capacity: 1023 }],
        process: Some(ProcessSnapshot {
            cpu: Duration::from_millis(1250),
            resident: 20_000_000,
            open_files: Some(20),
            started: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        }),
        collectors: vec![
            CollectorSnapshot { name: "apis", success: true, duration: Duration::from_micros(120) },
            CollectorSnapshot { name: "interfaces", success: false, duration: Duration::from_micros(80) },
        ],
    }
}

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

fn parse_protobuf(mut bytes: &[u8]) -> Metrics {
    let mut samples = BTreeMap::new();
    while !bytes.is_empty() {
        let family = MetricFamily::decode_length_delimited(&mut bytes).expect("is a family");
        for metric in family.metric {
            let mut labels: Vec<_> =
                metric.label.iter().map(|label| format!("{}=\"{}\"", label.name, label.value)).collect();
            labels.sort_unstable();
            let value = metric.counter.map(|counter| counter.value).or(metric.gauge.map(|gauge| gauge.value));
            let series = if labels.is_empty() {
                family.name.clone()
            } else {
                format!("{}{{{}}}", family.name, labels.join(","))
            };
            samples.insert(series, value.expect("has one"));
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
