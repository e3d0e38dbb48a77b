//! Sending requests: over HTTP, or over gRPC, which is HTTP too.
//!
//! Requests wait compressed ([`Parcel`]), and go out as they are. That is why the few bytes that gRPC puts around a message are
//! written here: tonic compresses anew at each attempt.

mod grpc;
mod http;
mod tls;

use std::{error::Error, io::Read as _, time::Duration};

use ::http::{HeaderName, HeaderValue, Method, Request, Response, Uri, header, uri};
use bytes::Bytes;
use flate2::read::GzDecoder;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceResponse, metrics::v1::ExportMetricsServiceResponse,
    trace::v1::ExportTraceServiceResponse,
};
use prost::Message as _;
use thiserror::Error;
use tokio::time::timeout;

pub(super) use self::tls::TlsError;
use super::{outbox::Parcel, statistics::Signal};
use crate::{
    chain::chain,
    config::otlp::{OtlpCompression, OtlpProtocol, OtlpTarget},
};

/// The most of a response that is read: it says little.
const RESPONSE_BYTES: usize = 1 << 20;

/// The most of the collector's words that is shown.
const SHOWN: usize = 200;

/// What we call ourselves (the OpenTelemetry specification, "Protocol Exporter", User Agent).
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("tidewaiter/", env!("CARGO_PKG_VERSION")));

/// How long a connection is kept that is not used: less than collectors, and those in front of them, keep them.
const IDLE: Duration = Duration::from_secs(20);

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The collector has accepted it, but for so many items; and what it had to say.
    Accepted {
        /// Items that it would not have.
        rejected: u64,
        /// Why; or a warning.
        message: String,
    },
    /// The collector would not have it, and trying again is of no use.
    Rejected(String),
    /// It could not be sent, and trying again is of no use.
    Failed(String),
    /// It is to be tried again.
    Retry {
        /// Not sooner than after this, if the collector said so.
        after: Option<Duration>,
        /// What went wrong.
        why: String,
    },
}

/// How requests of one signal reach their collector.
#[derive(Debug)]
pub(super) struct Transport {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    signal: Signal,
    uri: Uri,
    /// The same without what may be a secret.
    shown: String,
    protocol: OtlpProtocol,
    headers: Vec<(HeaderName, HeaderValue)>,
    compression: OtlpCompression,
    timeout: Duration,
}

/// An attempt that has failed before there was an answer.
#[derive(Debug, Error)]
enum SendError {
    #[error("cannot make the request")]
    Request(#[from] ::http::Error),
    #[error("cannot decompress the request")]
    Decompress(#[from] std::io::Error),
    #[error("{0}")]
    Connection(#[from] hyper_util::client::legacy::Error),
    #[error("cannot read the answer")]
    Answer(#[source] Box<dyn Error + Send + Sync>),
}

impl Transport {
    /// To `target`. Nothing is connected yet.
    ///
    /// # Errors
    /// Certificates that cannot be read, or that are none.
    pub(super) fn new(signal: Signal, target: OtlpTarget) -> Result<Self, TlsError> {
        let shown = target.shown();
        let OtlpTarget { endpoint, protocol, headers, compression, timeout, certificate, client } = target;
        let connector = tls::connector(&endpoint, protocol, certificate.as_deref(), client.as_ref(), timeout)?;
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE);
        let uri = match protocol {
            OtlpProtocol::Http => endpoint,
            OtlpProtocol::Grpc => {
                builder.http2_only(true);
                let mut parts = endpoint.into_parts();
                parts.path_and_query = Some(uri::PathAndQuery::from_static(grpc::path(signal)));
                Uri::from_parts(parts).unwrap_or_default()
            }
        };
        Ok(Self { client: builder.build(connector), signal, uri, shown, protocol, headers, compression, timeout })
    }

    /// Where requests go, to be shown: without a query, because a key may be in it.
    pub(super) fn endpoint(&self) -> &str {
        &self.shown
    }

    /// Tries once to send `parcel`.
    pub(super) async fn send(&self, parcel: &Parcel) -> Answer {
        match timeout(self.timeout, self.attempt(parcel)).await {
            Ok(Ok(answer)) => answer,
            // Neither will be better the next time.
            Ok(Err(error @ (SendError::Request(_) | SendError::Decompress(_)))) => Answer::Failed(chain(&error)),
            Ok(Err(error)) => Answer::Retry { after: None, why: chain(&error) },
            Err(_) => {
                let timeout = humantime::format_duration(self.timeout);
                Answer::Retry { after: None, why: format!("no answer within {timeout}") }
            }
        }
    }

    async fn attempt(&self, parcel: &Parcel) -> Result<Answer, SendError> {
        let is_compressed = self.compression == OtlpCompression::Gzip;
        let message = if is_compressed { parcel.body.clone() } else { decompress(&parcel.body)? };
        let mut request = Request::builder().method(Method::POST).uri(&self.uri);
        if let Some(headers) = request.headers_mut() {
            headers.insert(header::USER_AGENT, USER_AGENT);
            // One that is configured takes the place of ours.
            headers.extend(self.headers.iter().cloned());
        }
        let request = match self.protocol {
            OtlpProtocol::Http => http::request(request, message, is_compressed),
            OtlpProtocol::Grpc => grpc::request(request, &message, is_compressed, self.timeout),
        }?;
        let response = self.client.request(request).await?;
        match self.protocol {
            OtlpProtocol::Http => http::answer(self.signal, response).await,
            OtlpProtocol::Grpc => grpc::answer(self.signal, response).await,
        }
    }
}

fn decompress(body: &[u8]) -> Result<Bytes, std::io::Error> {
    let mut message = Vec::new();
    GzDecoder::new(body).read_to_end(&mut message)?;
    Ok(message.into())
}

/// The beginning of what a collector says, as far as it can be shown.
fn shown(words: &str) -> String {
    words.chars().filter(|one| !one.is_control()).take(SHOWN).collect()
}

/// Reads the body of `response`, with what follows it.
async fn read(response: Response<Incoming>) -> Result<http_body_util::Collected<Bytes>, SendError> {
    Limited::new(response.into_body(), RESPONSE_BYTES).collect().await.map_err(SendError::Answer)
}

/// What a collector that has accepted a request says in its response.
fn accepted(signal: Signal, message: &[u8]) -> Answer {
    // Each signal has its own message, and all look the same: a field with the number that was rejected, and why.
    let partial = match signal {
        Signal::Metrics => ExportMetricsServiceResponse::decode(message).map(|response| {
            response.partial_success.map(|partial| (partial.rejected_data_points, partial.error_message))
        }),
        Signal::Traces => ExportTraceServiceResponse::decode(message)
            .map(|response| response.partial_success.map(|partial| (partial.rejected_spans, partial.error_message))),
        Signal::Logs => ExportLogsServiceResponse::decode(message).map(|response| {
            response.partial_success.map(|partial| (partial.rejected_log_records, partial.error_message))
        }),
    };
    // By its status it was accepted, whatever it says beside.
    let (rejected, message) = partial.ok().flatten().unwrap_or_default();
    Answer::Accepted { rejected: u64::try_from(rejected).unwrap_or(0), message: shown(&message) }
}
