//! Where `opentelemetry-otlp` believes to send its requests: they go to wait with all the others.
//!
//! What it sends by itself it bounds by number, tries three times, and drops without a count. Its requests are as good as any.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    Compression, ExporterBuildError, LogExporter, Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig,
};

use super::outbox::{Outbox, Parcel};

/// Named, so that it is not looked for in the environment; nobody is asked for anything there.
const NOWHERE: &str = "http://localhost";

/// Puts requests where they wait.
#[derive(Clone, Debug)]
pub(super) struct Courier {
    outbox: Arc<Outbox>,
    /// How many items the next request has.
    items: Arc<AtomicU64>,
}

impl Courier {
    pub(super) fn new(outbox: Arc<Outbox>) -> Self {
        Self { outbox, items: Arc::default() }
    }

    /// Takes note that the next request has so many items.
    pub(super) fn announce(&self, items: usize) {
        self.items.store(items as u64, Relaxed);
    }

    /// What makes requests of spans.
    pub(super) fn span_exporter(&self) -> Result<SpanExporter, ExporterBuildError> {
        self.comes_from(SpanExporter::builder().with_http()).build()
    }

    /// What makes requests of log records.
    pub(super) fn log_exporter(&self) -> Result<LogExporter, ExporterBuildError> {
        self.comes_from(LogExporter::builder().with_http()).build()
    }

    /// Everything that would be looked for in the environment is said.
    fn comes_from<B: WithHttpConfig + WithExportConfig>(&self, builder: B) -> B {
        let builder = builder.with_http_client(self.clone()).with_headers(HashMap::new());
        let builder = builder.with_retry_policy(RetryPolicy::disabled()).with_compression(Compression::Gzip);
        builder.with_protocol(Protocol::HttpBinary).with_endpoint(NOWHERE)
    }
}

#[async_trait]
impl HttpClient for Courier {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        self.outbox.put(Parcel::new(request.into_body(), self.items.load(Relaxed)));
        Ok(Response::new(Bytes::new()))
    }
}
