//! Clients that are not tidewaiter.

use std::{fs, io::Write as _, time::Duration};

use flate2::{Compression, write::GzEncoder};
use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsServiceResponse, logs_service_client::LogsServiceClient},
    metrics::v1::{ExportMetricsServiceResponse, metrics_service_client::MetricsServiceClient},
    trace::v1::{ExportTraceServiceResponse, trace_service_client::TraceServiceClient},
};
use prost::Message as _;
use tidewaiter_tests::{
    collector::{Collector, Export, Protocol, Signal},
    namespace::Namespace,
};
use tonic::{
    Status,
    codec::CompressionEncoding,
    transport::{Channel, Endpoint},
};

/// How long clients wait for an answer, unless it is known not to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// What an answer says of items that were rejected: how many, and why.
pub(crate) type Partial = Option<(i64, String)>;

/// A client of gRPC.
pub(crate) struct Grpc<'a> {
    pub(crate) namespace: &'a Namespace,
    pub(crate) endpoint: Endpoint,
    pub(crate) is_gzip: bool,
}

impl<'a> Grpc<'a> {
    pub(crate) fn new(namespace: &'a Namespace, collector: &Collector<'_>) -> Self {
        Self::to(namespace, collector.endpoint(Protocol::Grpc, "127.0.0.1"))
    }

    pub(crate) fn to(namespace: &'a Namespace, endpoint: String) -> Self {
        Self { namespace, endpoint: Endpoint::from_shared(endpoint).unwrap().timeout(PATIENCE), is_gzip: false }
    }

    /// Sends each of `exports` by one connection, until one of them fails.
    pub(crate) fn send(&self, exports: &[Export]) -> Result<Vec<Partial>, Status> {
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
pub(crate) struct Http<'a> {
    pub(crate) namespace: &'a Namespace,
    pub(crate) endpoint: String,
    pub(crate) is_gzip: bool,
    pub(crate) arguments: Vec<String>,
}

/// What curl ends with: nothing was answered, and it took too long.
pub(crate) const NOTHING: i32 = 52;
pub(crate) const TOO_LONG: i32 = 28;
pub(crate) const NO_CONNECTION: i32 = 7;

/// An answer of HTTP.
#[derive(Debug, PartialEq)]
pub(crate) struct HttpAnswer {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<u64>,
    pub(crate) partial: Partial,
}

impl<'a> Http<'a> {
    pub(crate) fn new(namespace: &'a Namespace, collector: &Collector<'_>) -> Self {
        Self::to(namespace, collector.endpoint(Protocol::Http, "127.0.0.1"))
    }

    pub(crate) fn to(namespace: &'a Namespace, endpoint: String) -> Self {
        Self { namespace, endpoint, is_gzip: false, arguments: Vec::new() }
    }

    pub(crate) fn send(&self, export: &Export) -> Result<HttpAnswer, i32> {
        let message = match export {
            Export::Traces(request) => request.encode_to_vec(),
            Export::Metrics(request) => request.encode_to_vec(),
            Export::Logs(request) => request.encode_to_vec(),
        };
        self.post(export.signal(), &message, "application/x-protobuf")
    }

    /// Sends `message`, and answers with what is answered, or with what curl ends with.
    pub(crate) fn post(&self, signal: Signal, message: &[u8], kind: &str) -> Result<HttpAnswer, i32> {
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
pub(crate) const ACCEPTED: HttpAnswer = HttpAnswer { status: 200, retry_after: None, partial: None };
