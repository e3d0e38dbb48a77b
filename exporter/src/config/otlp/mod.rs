//! What is sent to OpenTelemetry collectors, validated: `[otlp]` and the standard `OTEL_…` variables.
//!
//! [`raw`] is what a user may write, `variables` reads those that OpenTelemetry defines, as one more layer of the same, and
//! `validate` turns both into this model.

mod endpoint;
mod headers;
pub mod raw;
mod resource;
mod validate;
mod variables;

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use http::{HeaderName, HeaderValue, Uri, uri::Authority};

pub use self::raw::{OtlpCompression, OtlpHistograms, OtlpProtocol};
pub(super) use self::{resource::Flattened, variables::Variables};

/// What is sent, and how; there is none of it unless an endpoint is configured.
#[derive(Clone, Debug, Default)]
pub struct Otlp {
    /// Metrics, if they are sent.
    pub metrics: Option<OtlpMetrics>,
    /// Spans of flows, if they are sent.
    pub traces: Option<OtlpTraces>,
    /// Log records, if they are sent.
    pub logs: Option<OtlpLogs>,
    /// Attributes of the resource that the user names, over those that are found out.
    pub resource: BTreeMap<String, String>,
    /// The most bytes of requests that wait, of each signal, compressed as they are kept.
    pub queue_bytes: usize,
    /// How long an end in order waits until all has been sent.
    pub flush_timeout: Duration,
}

impl Otlp {
    /// Whether anything is sent.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.metrics.is_some() || self.traces.is_some() || self.logs.is_some()
    }
}

/// Where a signal is sent.
#[derive(Clone)]
pub struct OtlpTarget {
    /// The whole URL for HTTP, the path of the signal included; scheme and authority for gRPC. The scheme is `http` or `https`.
    pub endpoint: Uri,
    /// How.
    pub protocol: OtlpProtocol,
    /// What is sent along; shown by nobody.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether requests are compressed on the wire.
    pub compression: OtlpCompression,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// With `https`, the file of certificates (PEM) that vouch for the collector; the system's if `None`.
    pub certificate: Option<PathBuf>,
    /// With `https`, the files of our own certificate and its key (PEM), if we are to show one.
    pub client: Option<OtlpClient>,
}

impl fmt::Debug for OtlpTarget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint: _, protocol, headers, compression, timeout, certificate, client } = self;
        formatter
            .debug_struct("OtlpTarget")
            .field("endpoint", &self.shown())
            .field("protocol", protocol)
            .field("headers", headers)
            .field("compression", compression)
            .field("timeout", timeout)
            .field("certificate", certificate)
            .field("client", client)
            .finish()
    }
}

impl OtlpTarget {
    /// Where it is, to be shown: without a query, because a password or a key may be in it.
    #[must_use]
    pub fn shown(&self) -> String {
        let scheme = self.endpoint.scheme_str().unwrap_or_default();
        let authority = self.endpoint.authority().map_or("", Authority::as_str);
        let path = match self.protocol {
            OtlpProtocol::Http => self.endpoint.path(),
            OtlpProtocol::Grpc => "",
        };
        let query = if self.endpoint.query().is_some() { "?…" } else { "" };
        format!("{scheme}://{authority}{path}{query}")
    }
}

/// Our own certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpClient {
    /// The file of the certificate, and of those between it and the authority.
    pub certificate: PathBuf,
    /// The file of its private key.
    pub key: PathBuf,
}

/// How metrics are sent.
#[derive(Clone, Debug)]
pub struct OtlpMetrics {
    /// Where.
    pub target: OtlpTarget,
    /// Time between two exports.
    pub interval: Duration,
    /// As what histograms are sent.
    pub histograms: OtlpHistograms,
}

/// How spans are sent.
#[derive(Clone, Debug)]
pub struct OtlpTraces {
    /// Where.
    pub target: OtlpTarget,
    /// What share of flows is sent, from 0 to 1; of those that ended in error, all are.
    pub sample_ratio: f64,
    /// How they are gathered.
    pub batch: OtlpBatch,
}

/// How log records are sent.
#[derive(Clone, Debug)]
pub struct OtlpLogs {
    /// Where.
    pub target: OtlpTarget,
    /// How they are gathered.
    pub batch: OtlpBatch,
}

/// How records are gathered until they make a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtlpBatch {
    /// How long the first of them waits at most.
    pub delay: Duration,
    /// How many there are in a request at most.
    pub size: usize,
    /// How many may wait until they are put into one.
    pub queue: usize,
}
