//! The receivers of OTLP that tests have, by clients that are not tidewaiter: tonic and curl.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    net::TcpStream,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use flate2::{Compression, write::GzEncoder};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse, logs_service_client::LogsServiceClient},
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse, metrics_service_client::MetricsServiceClient,
        },
        trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse, trace_service_client::TraceServiceClient},
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    metrics::v1::{Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric::Data, number_data_point},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message as _;
use tidewaiter_tests::{
    collector::{
        Answer, Certificates, Collector, Counts, Export, Protocol, REASON, Received, Refusal, Settings, Signal,
        attribute,
    },
    namespace::Namespace,
    wait::{wait_for, wait_until},
};
use tonic::{
    Code, Status,
    codec::CompressionEncoding,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_types::StatusExt as _;

/// How long clients wait for an answer, unless it is known not to come.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long they wait for one that does not.
const IMPATIENCE: Duration = Duration::from_millis(300);
/// How late that is.
const LATE: Duration = Duration::from_secs(30);

fn attributes(key: &str, value: &str) -> Vec<KeyValue> {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) });
    vec![KeyValue { key: key.to_owned(), value, ..KeyValue::default() }]
}

fn resource() -> Resource {
    Resource { attributes: attributes("service.name", "test"), ..Resource::default() }
}

/// As many `items` of `signal`, in one request.
fn export(signal: Signal, items: usize) -> Export {
    let (resource, numbers) = (Some(resource()), 0..items);
    match signal {
        Signal::Traces => {
            let span = |number: usize| Span {
                name: format!("span {number}"),
                attributes: attributes("number", &number.to_string()),
                ..Span::default()
            };
            let scope_spans = vec![ScopeSpans { spans: numbers.map(span).collect(), ..ScopeSpans::default() }];
            let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
            Export::Traces(ExportTraceServiceRequest { resource_spans })
        }
        Signal::Metrics => {
            let point = |number: usize| NumberDataPoint {
                value: Some(number_data_point::Value::AsInt(i64::try_from(number).unwrap())),
                attributes: attributes("number", &number.to_string()),
                ..NumberDataPoint::default()
            };
            let data = Some(Data::Gauge(Gauge { data_points: numbers.map(point).collect() }));
            let metrics = vec![Metric { name: "metric".to_owned(), data, ..Metric::default() }];
            let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
            let resource_metrics = vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }];
            Export::Metrics(ExportMetricsServiceRequest { resource_metrics })
        }
        Signal::Logs => {
            let record = |number: usize| LogRecord {
                severity_text: "INFO".to_owned(),
                attributes: attributes("number", &number.to_string()),
                ..LogRecord::default()
            };
            let scope_logs = vec![ScopeLogs { log_records: numbers.map(record).collect(), ..ScopeLogs::default() }];
            let resource_logs = vec![ResourceLogs { resource, scope_logs, ..ResourceLogs::default() }];
            Export::Logs(ExportLogsServiceRequest { resource_logs })
        }
    }
}

/// What an answer says of items that were rejected: how many, and why.
type Partial = Option<(i64, String)>;

/// A client of gRPC.
struct Grpc<'a> {
    namespace: &'a Namespace,
    endpoint: Endpoint,
    is_gzip: bool,
}

impl<'a> Grpc<'a> {
    fn new(namespace: &'a Namespace, collector: &Collector<'_>) -> Self {
        let endpoint = Endpoint::from_shared(collector.endpoint(Protocol::Grpc, "127.0.0.1")).unwrap();
        Self { namespace, endpoint: endpoint.timeout(PATIENCE), is_gzip: false }
    }

    /// Sends each of `exports` by one connection, until one of them fails.
    fn send(&self, exports: &[Export]) -> Result<Vec<Partial>, Status> {
        self.namespace.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let channel = self.endpoint.connect().await.map_err(|error| Status::from_error(error.into()))?;
                let mut answers = Vec::new();
                for export in exports {
                    answers.push(self.send_by(&channel, export.clone()).await?);
                }
                Ok(answers)
            })
        })
    }

    async fn send_by(&self, channel: &Channel, export: Export) -> Result<Partial, Status> {
        let (channel, encoding) = (channel.clone(), CompressionEncoding::Gzip);
        Ok(match export {
            Export::Traces(request) => {
                let mut client = TraceServiceClient::new(channel).accept_compressed(encoding);
                client = if self.is_gzip { client.send_compressed(encoding) } else { client };
                let partial = client.export(request).await?.into_inner().partial_success;
                partial.map(|partial| (partial.rejected_spans, partial.error_message))
            }
            Export::Metrics(request) => {
                let mut client = MetricsServiceClient::new(channel).accept_compressed(encoding);
                client = if self.is_gzip { client.send_compressed(encoding) } else { client };
                let partial = client.export(request).await?.into_inner().partial_success;
                partial.map(|partial| (partial.rejected_data_points, partial.error_message))
            }
            Export::Logs(request) => {
                let mut client = LogsServiceClient::new(channel).accept_compressed(encoding);
                client = if self.is_gzip { client.send_compressed(encoding) } else { client };
                let partial = client.export(request).await?.into_inner().partial_success;
                partial.map(|partial| (partial.rejected_log_records, partial.error_message))
            }
        })
    }
}

/// A client of HTTP: curl, with more `arguments`.
struct Http<'a> {
    namespace: &'a Namespace,
    endpoint: String,
    is_gzip: bool,
    arguments: Vec<String>,
}

/// What curl ends with: nothing was answered, and it took too long.
const NOTHING: i32 = 52;
const TOO_LONG: i32 = 28;
const NO_CONNECTION: i32 = 7;

/// An answer of HTTP.
#[derive(Debug, PartialEq)]
struct HttpAnswer {
    status: u16,
    retry_after: Option<u64>,
    partial: Partial,
}

impl<'a> Http<'a> {
    fn new(namespace: &'a Namespace, collector: &Collector<'_>) -> Self {
        let endpoint = collector.endpoint(Protocol::Http, "127.0.0.1");
        Self { namespace, endpoint, is_gzip: false, arguments: Vec::new() }
    }

    fn send(&self, export: &Export) -> Result<HttpAnswer, i32> {
        let message = match export {
            Export::Traces(request) => request.encode_to_vec(),
            Export::Metrics(request) => request.encode_to_vec(),
            Export::Logs(request) => request.encode_to_vec(),
        };
        self.post(export.signal(), &message, "application/x-protobuf")
    }

    /// Sends `message`, and answers with what is answered, or with what curl ends with.
    fn post(&self, signal: Signal, message: &[u8], kind: &str) -> Result<HttpAnswer, i32> {
        let directory = tempfile::tempdir().unwrap();
        let [body, head, answer] = ["body", "head", "answer"].map(|name| directory.path().join(name));
        let mut command = self.namespace.command("curl");
        command.args(["-s", "-X", "POST", "--max-time", &PATIENCE.as_secs_f64().to_string(), "-D"]).arg(&head);
        command.arg("-o").arg(&answer).arg("-H").arg(format!("Content-Type: {kind}"));
        if self.is_gzip {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(message).unwrap();
            fs::write(&body, encoder.finish().unwrap()).unwrap();
            command.args(["-H", "Content-Encoding: gzip"]);
        } else {
            fs::write(&body, message).unwrap();
        }
        command.arg("--data-binary").arg(format!("@{}", body.display())).args(&self.arguments);
        let status = command.arg(format!("{}{}", self.endpoint, signal.path())).status().unwrap();
        if !status.success() {
            return Err(status.code().unwrap());
        }
        let head = fs::read_to_string(head).unwrap().to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let header = |name: &str| head.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
        assert_eq!(header("content-type:").as_deref(), Some("application/x-protobuf"), "{head}");
        let answer = fs::read(answer).unwrap_or_default();
        let partial = match signal {
            // An error says so otherwise.
            _ if status != 200 => None,
            Signal::Traces => {
                let partial = ExportTraceServiceResponse::decode(&*answer).unwrap().partial_success;
                partial.map(|partial| (partial.rejected_spans, partial.error_message))
            }
            Signal::Metrics => {
                let partial = ExportMetricsServiceResponse::decode(&*answer).unwrap().partial_success;
                partial.map(|partial| (partial.rejected_data_points, partial.error_message))
            }
            Signal::Logs => {
                let partial = ExportLogsServiceResponse::decode(&*answer).unwrap().partial_success;
                partial.map(|partial| (partial.rejected_log_records, partial.error_message))
            }
        };
        Ok(HttpAnswer { status, retry_after: header("retry-after:").map(|delay| delay.parse().unwrap()), partial })
    }
}

/// What is answered when all is well.
const ACCEPTED: HttpAnswer = HttpAnswer { status: 200, retry_after: None, partial: None };

#[test]
fn each_signal_is_received_in_each_protocol() {
    let namespace = Namespace::new();
    let collector = Collector::new(&namespace);
    let exports = Signal::ALL.map(|signal| export(signal, 100));
    let start = SystemTime::now();
    for is_gzip in [false, true] {
        let grpc = Grpc { is_gzip, ..Grpc::new(&namespace, &collector) };
        assert_eq!(grpc.send(&exports).unwrap(), vec![None; 3]);
        let http = Http { is_gzip, ..Http::new(&namespace, &collector) };
        for export in &exports {
            assert_eq!(http.send(export).unwrap(), ACCEPTED);
        }
    }

    let requests = collector.wait_for_requests(12);
    assert_eq!(requests.len(), 12);
    let mut expected_connections = vec![1, 1, 1, 2, 3, 4, 5, 5, 5, 6, 7, 8].into_iter();
    for (group, requests) in requests.chunks(3).enumerate() {
        let (protocol, is_gzip) = ([Protocol::Grpc, Protocol::Http][group % 2], group >= 2);
        for (request, export) in requests.iter().zip(&exports) {
            let Received { at, connection, wire_size, size, .. } = **request;
            assert_eq!((request.protocol, request.is_gzip, &request.answer), (protocol, is_gzip, &Answer::Accept));
            assert_eq!((&request.export, request.signal()), (export, export.signal()));
            assert_eq!(connection, expected_connections.next().unwrap());
            assert!(start <= at && at <= SystemTime::now());
            let message = match export {
                Export::Traces(request) => request.encoded_len(),
                Export::Metrics(request) => request.encoded_len(),
                Export::Logs(request) => request.encoded_len(),
            };
            let prefix = if protocol == Protocol::Grpc { 5 } else { 0 };
            assert_eq!(size, message);
            assert_eq!(wire_size == size + prefix, !is_gzip, "{wire_size} bytes of {size}");
            assert!(wire_size <= size + prefix);
            let (encoding, kind) = match protocol {
                Protocol::Grpc => ("grpc-encoding", "application/grpc"),
                Protocol::Http => ("content-encoding", "application/x-protobuf"),
            };
            assert_eq!(request.header(encoding), is_gzip.then_some("gzip"), "{:?}", request.headers);
            assert_eq!(request.header("content-type"), Some(kind));
        }
    }

    let spans = collector.wait_for_spans(400);
    assert_eq!((spans.len(), &spans[0].0, &*spans[399].1.name), (400, &resource(), "span 99"));
    assert_eq!(attribute(&spans[1].1.attributes, "number").as_deref(), Some("1"));
    assert_eq!(attribute(&spans[1].1.attributes, "other"), None);
    assert_eq!((collector.wait_for_metrics(4).len(), collector.wait_for_logs(400).len()), (4, 400));
    let expected = Counts { connections: 8, requests: 12, spans: 400, points: 400, logs: 400, ..Counts::default() };
    assert_eq!(collector.counts(), expected);

    collector.clear();
    assert_eq!(collector.counts(), Counts { connections: 8, ..Counts::default() });
    assert_eq!((collector.requests().len(), collector.spans().len()), (0, 0));
}

#[test]
fn it_is_on_the_loopback_interface_of_tests_too() {
    let collector = Collector::with(None, &Settings::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Export::Logs(request) = export(Signal::Logs, 1) else { unreachable!() };
    runtime.block_on(async {
        let endpoint = collector.endpoint(Protocol::Grpc, "127.0.0.1");
        LogsServiceClient::connect(endpoint).await.unwrap().export(request).await.unwrap();
    });
    assert_eq!(collector.logs().len(), 1);
}

#[test]
fn it_refuses_what_it_is_told_to() {
    let namespace = Namespace::new();
    let collector = Collector::new(&namespace);
    let (grpc, http) = (Grpc::new(&namespace, &collector), Http::new(&namespace, &collector));
    let delay = Duration::from_secs(2);
    let refusals = [
        (Refusal::UNAVAILABLE.retry_in(delay), 503, Code::Unavailable),
        (Refusal::UNAVAILABLE, 503, Code::Unavailable),
        (Refusal::OVERLOADED, 429, Code::ResourceExhausted),
        (Refusal::OVERLOADED.retry_in(delay), 429, Code::ResourceExhausted),
        (Refusal::INVALID, 400, Code::InvalidArgument),
        (Refusal::UNIMPLEMENTED, 404, Code::Unimplemented),
        (Refusal::new(502, Code::DataLoss), 502, Code::DataLoss),
    ];
    let exports = Signal::ALL.map(|signal| export(signal, 1));
    for (refusal, status, code) in refusals {
        collector.answer(refusal);
        for export in &exports {
            let refused = grpc.send(std::slice::from_ref(export)).unwrap_err();
            assert_eq!((refused.code(), refused.message()), (code, REASON));
            assert_eq!(refused.get_details_retry_info().and_then(|info| info.retry_delay), refusal.retry);
            let expected =
                HttpAnswer { status, retry_after: refusal.retry.map(|delay| delay.as_secs()), partial: None };
            assert_eq!(http.send(export).unwrap(), expected);
        }
    }
    let refused = refusals.len() * exports.len() * 2;
    assert_eq!(collector.counts().refused, refused);
    assert_eq!(collector.requests().len(), refused);
    assert_eq!((collector.spans().len(), collector.metrics().len(), collector.logs().len()), (0, 0, 0));

    // Of the next two, the first as told; then as decided, by signal.
    collector.answer_by(|request| match request.signal() {
        Signal::Logs => Refusal::UNIMPLEMENTED.into(),
        _ => Answer::Accept,
    });
    collector.answer_next([Refusal::UNAVAILABLE.into(), Answer::Accept]);
    let [traces, _, logs] = &exports;
    let status = |export| http.send(export).unwrap().status;
    assert_eq!([traces, logs, traces, logs].map(status), [503, 200, 200, 404]);
}

#[test]
fn it_rejects_a_part() {
    let namespace = Namespace::new();
    let collector = Collector::new(&namespace);
    collector.answer(Answer::Reject(3));
    let partial = Some((3, REASON.to_owned()));
    let exports = Signal::ALL.map(|signal| export(signal, 10));
    assert_eq!(Grpc::new(&namespace, &collector).send(&exports).unwrap(), vec![partial.clone(); 3]);
    for export in &exports {
        let answer = Http::new(&namespace, &collector).send(export).unwrap();
        assert_eq!(answer, HttpAnswer { partial: partial.clone(), ..ACCEPTED });
    }
    assert_eq!((collector.counts().spans, collector.counts().refused), (20, 0));
}

#[test]
fn it_answers_late_and_hangs_up() {
    let namespace = Namespace::new();
    let collector = Collector::new(&namespace);
    let (grpc, http) = (Grpc::new(&namespace, &collector), Http::new(&namespace, &collector));
    let exports = [export(Signal::Traces, 1)];

    collector.answer(Answer::Late(LATE));
    let endpoint = grpc.endpoint.clone().timeout(IMPATIENCE);
    let late = Grpc { endpoint, ..grpc }.send(&exports).unwrap_err();
    assert!(matches!(late.code(), Code::Cancelled | Code::DeadlineExceeded), "{late:?}");
    let max_time = ["--max-time".to_owned(), IMPATIENCE.as_secs_f64().to_string()].into();
    let impatient = Http { arguments: max_time, ..Http::new(&namespace, &collector) };
    assert_eq!(impatient.send(&exports[0]).unwrap_err(), TOO_LONG);
    assert_eq!(collector.spans().len(), 2, "it has them all the same");

    collector.clear();
    collector.answer(Answer::HangUp);
    let grpc = Grpc::new(&namespace, &collector);
    let start = Instant::now();
    let hung_up = grpc.send(&exports).unwrap_err();
    assert!(!matches!(hung_up.code(), Code::Cancelled | Code::DeadlineExceeded), "{hung_up:?}");
    assert_eq!(http.send(&exports[0]).unwrap_err(), NOTHING);
    assert!(start.elapsed() < LATE);
    assert_eq!((collector.spans().len(), collector.counts().refused), (0, 2));

    collector.answer(Answer::Accept);
    grpc.send(&exports).unwrap();
    assert_eq!(http.send(&exports[0]).unwrap(), ACCEPTED);
}

#[test]
fn it_goes_away_and_comes_back() {
    let namespace = Namespace::new();
    let mut collector = Collector::new(&namespace);
    let exports = [export(Signal::Metrics, 1)];
    Grpc::new(&namespace, &collector).send(&exports).unwrap();
    // A connection that is open when it goes.
    let mut open = namespace.run(|| TcpStream::connect(("127.0.0.1", collector.port(Protocol::Http)))).unwrap();
    wait_until("the connection to be accepted", || collector.counts().connections == 2);

    collector.stop();
    wait_for("the connection to end", || std::io::Read::read(&mut open, &mut [0]).ok().filter(|length| *length == 0));
    assert!(Grpc::new(&namespace, &collector).send(&exports).is_err());
    assert_eq!(Http::new(&namespace, &collector).send(&exports[0]).unwrap_err(), NO_CONNECTION);

    collector.start();
    Grpc::new(&namespace, &collector).send(&exports).unwrap();
    assert_eq!(Http::new(&namespace, &collector).send(&exports[0]).unwrap(), ACCEPTED);
    assert_eq!(collector.metrics().len(), 3);
}

#[test]
fn it_speaks_tls_and_asks_who_is_there() {
    let namespace = Namespace::new();
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let exports = [export(Signal::Traces, 1)];
    for asks_clients in [false, true] {
        let settings = Settings { certificates: Some(&certificates), asks_clients, ports: None };
        let collector = Collector::with(Some(&namespace), &settings);
        let send = |trusted: &Certificates, shown: Option<&Certificates>| {
            let mut grpc = Grpc::new(&namespace, &collector);
            let authority = Certificate::from_pem(fs::read(trusted.authority()).unwrap());
            let mut tls = ClientTlsConfig::new().ca_certificate(authority);
            let mut http = Http::new(&namespace, &collector);
            http.arguments = vec!["--cacert".to_owned(), trusted.authority().display().to_string()];
            if let Some(shown) = shown {
                let [certificate, key] = [shown.client(), shown.client_key()];
                tls = tls.identity(Identity::from_pem(fs::read(&certificate).unwrap(), fs::read(&key).unwrap()));
                let [certificate, key] = [certificate, key].map(|file| file.display().to_string());
                http.arguments.extend(["--cert".to_owned(), certificate, "--key".to_owned(), key]);
            }
            grpc.endpoint = grpc.endpoint.tls_config(tls).unwrap();
            let [by_grpc, by_http] = [grpc.send(&exports).is_ok(), http.send(&exports[0]) == Ok(ACCEPTED)];
            assert_eq!(by_grpc, by_http);
            by_grpc
        };
        assert!(!send(&others, Some(&certificates)), "nobody knows the server");
        assert_eq!(send(&certificates, None), !asks_clients);
        assert_eq!(send(&certificates, Some(&others)), !asks_clients);
        assert!(send(&certificates, Some(&certificates)));
        let counts = collector.counts();
        // tonic tries again what has failed.
        let (strangers, spans) = if asks_clients { (6, 2) } else { (2, 6) };
        assert!(counts.strangers >= strangers && counts.spans == spans, "{counts:?}");
        let plain = Http { endpoint: "http://127.0.0.1:4318".to_owned(), ..Http::new(&namespace, &collector) };
        assert!(plain.send(&exports[0]).is_err());
    }
}

#[test]
fn it_forgets_what_was_looked_at() {
    let namespace = Namespace::new();
    let collector = Collector::new(&namespace);
    let numbers = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&numbers);
    collector.only_look(move |request| {
        let numbers = request.export.spans().filter_map(|(_, span)| attribute(&span.attributes, "number"));
        seen.lock().unwrap().extend(numbers);
    });
    let exports = [1, 20, 10].map(|items| export(Signal::Traces, items));
    Grpc::new(&namespace, &collector).send(&exports).unwrap();
    assert_eq!(numbers.lock().unwrap().len(), 20);
    assert_eq!((collector.counts().spans, collector.requests().len()), (31, 0));
}

#[test]
fn it_counts_what_it_cannot_read() {
    let namespace = Namespace::new();
    let collector = Collector::new(&namespace);
    let http = Http::new(&namespace, &collector);
    let invalid = HttpAnswer { status: 400, retry_after: None, partial: None };
    assert_eq!(http.post(Signal::Traces, b"\xff", "application/x-protobuf").unwrap(), invalid);
    assert_eq!(http.post(Signal::Traces, b"{}", "application/json").unwrap(), invalid);
    let brotli = Http { arguments: vec!["-H".to_owned(), "Content-Encoding: br".to_owned()], ..http };
    assert_eq!(brotli.post(Signal::Logs, b"", "application/x-protobuf").unwrap(), invalid);

    // More than 4 MiB.
    let refused = Grpc::new(&namespace, &collector).send(&[export(Signal::Logs, 200_000)]).unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    assert_eq!(collector.counts(), Counts { connections: 4, unreadable: 4, ..Counts::default() });
}
