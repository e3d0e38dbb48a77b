//! Collectors that are slow, away, or of another mind: what is kept, what is tried again, what is dropped and counted, and what
//! is said of it.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    collections::{BTreeSet, HashSet},
    fs, mem,
    net::{TcpListener, UdpSocket},
    path::Path,
    process::Command,
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::trace::v1::Span;
use rustix::process::Signal;
use tidewaiter_tests::{
    bpf_file_system::BpfFileSystem,
    client::Client,
    collector::{Answer, Certificates, Collector, Protocol, Received, Refusal, Settings, attribute},
    exporter::{Exporter, binary},
    network::{INTERFACE, Network, Offload},
    traffic::exchange,
    wait::{wait_for, wait_until},
};

const PROTOCOLS: [Protocol; 2] = [Protocol::Grpc, Protocol::Http];
const SECOND: Duration = Duration::from_secs(1);

/// Two hosts that need not ask where the other is: what a test sends is all that there is to be told.
fn network() -> Network {
    let network = Network::new(Offload::Off);
    network.know_each_other();
    network
}

/// A configuration that sends spans alone, and `more` in `[otlp]`.
fn spans_alone(protocol: Protocol, more: &str) -> String {
    let (name, port) = (protocol.name(), protocol.port());
    format!(
        r#"
        interfaces = ["{INTERFACE}"]
        [[api]]
        name = "web"
        ports = [8080]
        [otlp.metrics]
        enabled = false
        [otlp.logs]
        enabled = false
        [otlp.traces]
        batch_delay = "200ms"
        batch_size = 50
        [otlp]
        endpoint = "http://127.0.0.1:{port}"
        protocol = "{name}"
        {more}"#
    )
}

/// Makes so many connections.
fn connect(network: &Network, count: usize) {
    exchange(&network.server, &network.client, (Network::SERVER4, 8080).into(), &vec![10; count]);
}

/// Waits for longer than others do: the next attempt may be half a minute away.
fn wait_patiently(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < 60 * SECOND, "waited in vain for {what}");
        sleep(SECOND / 20);
    }
}

/// Waits until what `look` finds has not changed for a second, and answers with that.
fn settled<T: PartialEq>(what: &str, mut look: impl FnMut() -> T) -> T {
    let mut last = look();
    wait_patiently(what, || {
        sleep(SECOND);
        let now = look();
        let before = mem::replace(&mut last, now);
        before == last
    });
    last
}

/// The API's spans that were accepted.
fn web(collector: &Collector<'_>) -> Vec<Span> {
    let spans = collector.spans().into_iter().map(|(_, span)| span);
    spans.filter(|span| attribute(&span.attributes, "tidewaiter.api").as_deref() == Some("web")).collect()
}

fn count(exporter: &Exporter<'_>, name: &str, label: Option<(&str, &str)>) -> u64 {
    let labels: Vec<_> = [("signal", "traces")].into_iter().chain(label).collect();
    exporter.metrics().get(&format!("tidewaiter_otlp_{name}"), &labels).unwrap_or_default()
}

fn exports(exporter: &Exporter<'_>) -> [u64; 4] {
    ["success", "partial", "retried", "rejected"]
        .map(|outcome| count(exporter, "exports_total", Some(("outcome", outcome))))
}

fn dropped(exporter: &Exporter<'_>, reason: &str) -> u64 {
    count(exporter, "dropped_total", Some(("reason", reason)))
}

/// Identifiers of spans in a request.
fn ids(request: &Received) -> Vec<Vec<u8>> {
    request.export.spans().map(|(_, span)| span.span_id.clone()).collect()
}

fn lines(exporter: &Exporter<'_>, words: &str) -> usize {
    exporter.log().lines().filter(|line| line.contains(words)).count()
}

const TROUBLE: &str = "cannot send to the OpenTelemetry collector";
const WELL: &str = "takes requests again";

#[test]
fn what_is_refused_for_now_is_sent_again_and_not_sooner_than_the_collector_says() {
    let wait = 2 * SECOND;
    for protocol in PROTOCOLS {
        let network = network();
        let collector = Collector::new(&network.server);
        let exporter = Exporter::start(&network.server, &spans_alone(protocol, ""));
        for refusal in [Refusal::UNAVAILABLE.retry_in(wait), Refusal::OVERLOADED.retry_in(wait)] {
            collector.clear();
            collector.answer_next([refusal.into()]);
            connect(&network, 1);
            assert_eq!(collector.wait_for_spans(1).len(), 1);
            let requests = collector.requests();
            let [first, second] = &requests[..] else { panic!("{} requests", requests.len()) };
            assert_eq!(ids(first), ids(second), "the very same is sent");
            assert!(first.is_gzip && first.wire_size == second.wire_size);
            let passed = second.at.duration_since(first.at).unwrap();
            assert!((wait..wait + 3 * SECOND).contains(&passed), "{passed:?}, by {protocol:?}");
        }
        wait_until("all to be counted", || exports(&exporter) == [2, 0, 2, 0]);
        assert_eq!(count(&exporter, "exported_total", None), 2);
        assert_eq!(count(&exporter, "queue_bytes", None), 0);
        assert_eq!(lines(&exporter, TROUBLE), 1, "a second time within a minute is not said");
    }
}

#[test]
fn what_nobody_will_ever_take_is_dropped_and_counted() {
    for protocol in PROTOCOLS {
        let network = network();
        let collector = Collector::new(&network.server);
        let exporter = Exporter::start(&network.server, &spans_alone(protocol, ""));
        let mut rejected = 0;
        // Without a time to come back, gRPC says by this that it has no room at all.
        let overloaded = (protocol == Protocol::Grpc).then_some(Refusal::OVERLOADED);
        for refusal in [Some(Refusal::INVALID), Some(Refusal::UNIMPLEMENTED), overloaded].into_iter().flatten() {
            collector.answer_next([refusal.into()]);
            connect(&network, 1);
            rejected += 1;
            wait_until("it to be dropped", || dropped(&exporter, "rejected") == rejected);
        }
        let requests = collector.requests();
        let all: HashSet<_> = requests.iter().flat_map(|request| ids(request)).collect();
        assert_eq!((requests.len() as u64, all.len() as u64), (rejected, rejected), "nothing is sent twice");
        assert_eq!(exports(&exporter), [0, 0, 0, rejected]);
        wait_until("it to be said", || lines(&exporter, "would not have a request") > 0);
        assert_eq!(lines(&exporter, "would not have a request"), 1, "it is said once");
    }
}

#[test]
fn what_is_taken_in_part_is_counted_in_part() {
    for protocol in PROTOCOLS {
        let network = network();
        let collector = Collector::new(&network.server);
        // Five are one request: none is made of fewer.
        let configuration = spans_alone(protocol, "")
            .replace("batch_delay = \"200ms\"", "batch_delay = \"1h\"")
            .replace("batch_size = 50", "batch_size = 5");
        let exporter = Exporter::start(&network.server, &configuration);
        collector.answer_next([Answer::Reject(2)]);
        connect(&network, 5);
        wait_until("all to be counted", || {
            (count(&exporter, "exported_total", None), dropped(&exporter, "rejected")) == (3, 2)
        });
        assert_eq!(exports(&exporter), [0, 1, 0, 0]);
        assert_eq!((collector.requests().len(), web(&collector).len()), (1, 5), "nothing is sent twice");
        wait_until("it to be said", || lines(&exporter, "would not have a request") == 1);
    }
}

#[test]
fn an_answer_that_is_late_or_never_comes_is_not_waited_for() {
    for protocol in PROTOCOLS {
        let network = network();
        let collector = Collector::new(&network.server);
        let exporter = Exporter::start(&network.server, &spans_alone(protocol, "timeout = \"2s\""));
        for (answer, sent) in [(Answer::HangUp, 1), (Answer::Late(6 * SECOND), 2)] {
            collector.clear();
            collector.answer_next([answer]);
            connect(&network, 1);
            wait_patiently("it to be sent again", || count(&exporter, "exported_total", None) == sent);
            // On a busy machine, what is sent again may be late too.
            assert!(exports(&exporter)[2] >= sent, "{protocol:?}");
        }
        assert_eq!(dropped(&exporter, "rejected") + dropped(&exporter, "queue_full"), 0);
    }
}

#[test]
fn while_a_collector_is_away_as_much_is_kept_as_there_is_room_and_the_rest_is_counted() {
    const CONNECTIONS: usize = 2000;
    const ROOM: u64 = 65_536;
    for protocol in PROTOCOLS {
        let network = network();
        let mut collector = Collector::new(&network.server);
        collector.stop();
        let daemon = Exporter::start(&network.server, &spans_alone(protocol, &format!("queue_bytes = {ROOM}")));
        connect(&network, CONNECTIONS);
        let records = [("sink", "otlp")];
        wait_patiently("all flows to be over", || {
            assert!(count(&daemon, "queue_bytes", None) <= ROOM);
            daemon.metrics().get("tidewaiter_flow_records_total", &records) == Some(CONNECTIONS as u64)
        });
        // The last request is made when its time has come.
        let counts = || (dropped(&daemon, "queue_full"), count(&daemon, "queue_bytes", None));
        let (gone, queued) = settled("all requests to be made", counts);
        assert!(gone > 0 && gone < CONNECTIONS as u64, "{gone} by {protocol:?}");
        assert!(queued <= ROOM);
        assert_eq!((lines(&daemon, TROUBLE), lines(&daemon, WELL)), (1, 0), "it is said once");

        collector.start();
        let exported = || count(&daemon, "exported_total", None);
        wait_patiently("the next attempt", || exported() > 0 && count(&daemon, "queue_bytes", None) == 0);
        let (exported, gone) = settled("all that was kept to be sent", || (exported(), dropped(&daemon, "queue_full")));
        assert_eq!(exported + gone, CONNECTIONS as u64, "each is counted once");
        assert!(gone > 0);
        let spans: HashSet<_> = web(&collector).into_iter().map(|span| span.span_id).collect();
        assert_eq!(spans.len() as u64, exported, "and has arrived if it was sent");
        let metrics = daemon.metrics();
        let opened = metrics.get("tidewaiter_api_connections_opened_total", &[("api", "web"), ("role", "server")]);
        assert_eq!(opened, Some(CONNECTIONS as u64), "counters are exact");
        wait_until("it to be said", || lines(&daemon, WELL) > 0);
        assert_eq!((lines(&daemon, TROUBLE), lines(&daemon, WELL)), (1, 1), "it is said once");
        let is_told = |line: &str| line.contains(WELL) && line.contains("dropped=");
        assert!(daemon.log().lines().any(is_told), "and how much was lost");
    }
}

#[test]
fn an_end_in_order_sends_what_waits() {
    const CONNECTIONS: usize = 30;
    for protocol in PROTOCOLS {
        let network = network();
        let collector = Collector::new(&network.server);
        let configuration = spans_alone(protocol, "")
            .replace("batch_delay = \"200ms\"", "batch_delay = \"1h\"")
            .replace("[otlp.metrics]\n        enabled = false", "[otlp.metrics]\n        interval = \"1h\"");
        let mut exporter = Exporter::start(&network.server, &configuration);
        connect(&network, CONNECTIONS);
        let listener = network.server.run(|| TcpListener::bind((Network::SERVER4, 8080))).unwrap();
        let open = network.client.run(|| Client::connect((Network::SERVER4, 8080).into()));
        let accepted = listener.accept().unwrap();
        network.wait_until_quiet();
        assert_eq!(web(&collector), []);
        let before = collector.wait_for_metrics(1).len();
        assert!(exporter.end(Signal::TERM).success());
        let spans = web(&collector);
        let ends: Vec<_> =
            spans.iter().map(|span| attribute(&span.attributes, "tidewaiter.flow.end_reason").unwrap()).collect();
        let of = |reason: &str| ends.iter().filter(|end| *end == reason).count();
        assert_eq!((of("fin"), of("forced_end"), ends.len()), (CONNECTIONS, 1, CONNECTIONS + 1));
        assert!(collector.metrics().len() > before, "the last counts are sent");
        assert_eq!(lines(&exporter, "all that waited was sent"), 1);
        drop((open, accepted));
    }
}

#[test]
fn an_end_does_not_wait_for_a_collector_that_is_away() {
    let network = network();
    let mut exporter = Exporter::start(&network.server, &spans_alone(Protocol::Grpc, "flush_timeout = \"2s\""));
    connect(&network, 10);
    let start = Instant::now();
    assert!(exporter.end(Signal::TERM).success());
    assert!((2 * SECOND..15 * SECOND).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert!(exporter.log().contains("not all could be sent"), "{}", exporter.log());
    assert!(exporter.log().contains("dropped=10"), "{}", exporter.log());
}

#[test]
fn a_wrong_endpoint_is_said_once_and_hurts_nobody() {
    let network = network();
    let configuration = spans_alone(Protocol::Http, "").replace("enabled = false", "");
    let configuration = configuration.replace("[otlp.metrics]", "[otlp.metrics]\ninterval = \"1s\"");
    let exporter = Exporter::start(&network.server, &configuration);
    sleep(5 * SECOND);
    connect(&network, 1);
    let refused = [("signal", "metrics"), ("outcome", "retried")];
    wait_until("it to be tried again and again", || {
        exporter.metrics().get("tidewaiter_otlp_exports_total", &refused).is_some_and(|retried| retried > 2)
    });
    let said: Vec<_> = exporter.log().lines().filter(|line| line.contains(TROUBLE)).map(str::to_owned).collect();
    let of_metrics: Vec<_> = said.iter().filter(|line| line.contains("signal=\"metrics\"")).collect();
    assert_eq!(of_metrics.len(), 1, "{said:?}");
    assert!(
        of_metrics[0].contains("http://127.0.0.1:4318/v1/metrics") && of_metrics[0].contains("refused"),
        "{said:?}"
    );
    assert_eq!(exporter.status("/readyz"), Some(200));
}

#[test]
fn a_key_in_the_query_of_an_endpoint_is_not_said() {
    let network = network();
    let endpoint = "http://127.0.0.1:4318/v1/traces";
    let own = format!("[otlp.traces]\n        endpoint = \"{endpoint}?key=hush\"");
    let exporter = Exporter::start(&network.server, &spans_alone(Protocol::Http, "").replace("[otlp.traces]", &own));
    connect(&network, 1);
    wait_until("it to be said", || lines(&exporter, TROUBLE) == 1);
    let log = exporter.log();
    assert!(log.contains(endpoint) && !log.contains("hush"), "{log}");
}

/// What no question to a name server begins with.
const NONSENSE: &[u8] = b"SSH-2.0-nonsense\r\n";

/// An API whose clients are expected to say something else.
const NAMES: &str = r#"
        [[api]]
        name = "names"
        ports = [53]
        transport = "udp"
        expect = ["dns"]
"#;

/// Sends all three signals as the standard variables say, and answers with what has arrived.
fn send_with(network: &Network, collector: &Collector<'_>, variables: &[(&str, String)]) -> Vec<Arc<Received>> {
    let configuration = spans_alone(Protocol::Http, "");
    let (apis, _) = configuration.split_once("[otlp.metrics]").expect("is there");
    let configuration = format!("{apis}{NAMES}");
    let exporter = Exporter::start_as(&Arc::new(BpfFileSystem::mount()), &network.server, &configuration, |command| {
        command.envs(variables.iter().map(|(name, value)| (name, value.as_str())));
    });
    connect(network, 3);
    network.client.run(|| {
        let socket = UdpSocket::bind((Network::CLIENT4, 0)).unwrap();
        socket.send_to(NONSENSE, (Network::SERVER4, 53)).unwrap();
    });
    let requests = wait_for("all three signals", || {
        let requests = collector.requests();
        let signals: BTreeSet<_> = requests.iter().map(|request| request.signal()).collect();
        (signals.len() == 3).then_some(requests)
    });
    drop(exporter);
    requests
}

fn variables(
    collector: &Collector<'_>,
    protocol: Protocol,
    certificates: &Certificates,
) -> Vec<(&'static str, String)> {
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint(protocol, "127.0.0.1")),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.name().to_owned()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20secret,x-tenant=edge".to_owned()),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none".to_owned()),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", text(&certificates.authority())),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", text(&certificates.client())),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", text(&certificates.client_key())),
        ("OTEL_SERVICE_NAME", "edge".to_owned()),
        ("OTEL_BSP_SCHEDULE_DELAY", "200".to_owned()),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1000".to_owned()),
    ]
}

#[test]
fn with_tls_both_sides_show_who_they_are() {
    for protocol in PROTOCOLS {
        let network = network();
        let certificates = Certificates::new();
        let settings = Settings { certificates: Some(&certificates), asks_clients: true, ports: None };
        let collector = Collector::with(Some(&network.server), &settings);
        for request in send_with(&network, &collector, &variables(&collector, protocol, &certificates)) {
            assert_eq!(request.protocol, protocol);
            assert_eq!(
                (request.header("authorization"), request.header("x-tenant")),
                (Some("Bearer secret"), Some("edge"))
            );
            assert!(request.header("user-agent").is_some_and(|agent| agent.starts_with("tidewaiter/")));
            assert!(!request.is_gzip, "it is not to be compressed");
            let export = &request.export;
            let of_spans = export.spans().map(|(resource, _)| resource);
            let of_metrics = export.metrics().map(|(resource, _)| resource);
            let of_logs = export.logs().map(|(resource, _)| resource);
            let resources: Vec<_> = of_spans.chain(of_metrics).chain(of_logs).collect();
            let is_edge = |name: Option<String>| name.as_deref() == Some("edge");
            assert!(
                !resources.is_empty()
                    && resources.iter().all(|resource| is_edge(attribute(&resource.attributes, "service.name"))),
                "{resources:?}"
            );
        }
        assert_eq!(collector.counts().strangers, 0);
    }
}

#[test]
fn a_collector_that_is_not_who_it_should_be_gets_nothing() {
    let network = network();
    let [certificates, others] = [Certificates::new(), Certificates::new()];
    let settings = Settings { certificates: Some(&certificates), asks_clients: true, ports: None };
    let collector = Collector::with(Some(&network.server), &settings);
    let configuration = |authority: &Path| {
        spans_alone(Protocol::Grpc, &format!("certificate = {authority:?}")).replace("http://", "https://")
    };
    for (authority, why) in [
        (others.authority(), Some("UnknownIssuer")),
        // We are asked who we are, and do not say. What we hear of that depends on what comes first.
        (certificates.authority(), None),
    ] {
        let before = collector.counts().strangers;
        let exporter = Exporter::start(&network.server, &configuration(&authority));
        connect(&network, 1);
        wait_until("it to be said", || lines(&exporter, TROUBLE) == 1);
        let log = exporter.log();
        let said = log.lines().find(|line| line.contains(TROUBLE)).unwrap();
        assert!(said.contains("error=") && !said.contains("error=\"\""), "{said}");
        assert!(why.is_none_or(|why| said.contains(why)), "{said}");
        wait_until("a stranger to be counted", || collector.counts().strangers > before);
    }
    assert!(collector.requests().is_empty());
}

#[test]
fn certificates_that_are_none_are_refused_before_anything_starts() {
    let network = network();
    let directory = tempfile::tempdir().unwrap();
    let [missing, empty] = ["missing", "empty"].map(|name| directory.path().join(name));
    fs::write(&empty, "no certificate").unwrap();
    for path in [missing, empty] {
        let file = directory.path().join("tidewaiter.toml");
        let configuration = spans_alone(Protocol::Grpc, &format!("certificate = {path:?}"));
        fs::write(&file, configuration.replace("http://", "https://")).unwrap();
        let mut command: Command = network.server.command(binary());
        let output = command.arg("--config").arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains(path.to_str().unwrap()), "{said}");
    }
}
