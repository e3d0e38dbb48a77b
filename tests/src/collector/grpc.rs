//! gRPC, by tonic.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderMap, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use opentelemetry_proto::tonic::collector::{
    logs::v1::{
        ExportLogsServiceRequest, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use tonic::{Status, async_trait, codec::CompressionEncoding::Gzip, service::Routes};

use super::{
    answer::{Answer, Refusal},
    connection::Connection,
    received::{Export, Protocol, Received, logs_response, metrics_response, traces_response},
    state::Shared,
};

/// What is before each message: whether it is compressed, and its length in four bytes.
const PREFIX: usize = 5;
/// The length of what is compressed, at the end of what gzip makes of it (RFC 1952, ISIZE).
const LENGTH: usize = 4;

/// Takes all signals. As by others, messages of more than 4 MiB are not taken: that is tonic's own limit, and the Collector's.
pub(super) fn router(shared: &Arc<Shared>) -> Router {
    let service = || Service(Arc::clone(shared));
    let traces = TraceServiceServer::new(service()).accept_compressed(Gzip).send_compressed(Gzip);
    let metrics = MetricsServiceServer::new(service()).accept_compressed(Gzip).send_compressed(Gzip);
    let logs = LogsServiceServer::new(service()).accept_compressed(Gzip).send_compressed(Gzip);
    let routes = Routes::new(traces).add_service(metrics).add_service(logs);
    routes.into_axum_router().layer(middleware::from_fn_with_state(Arc::clone(shared), weigh))
}

/// What tonic does not say of a request.
#[derive(Clone, Debug)]
struct Arrival {
    at: SystemTime,
    connection: Connection,
    headers: HeaderMap,
    is_gzip: bool,
    wire_size: usize,
    size: usize,
    /// Whether tonic could read it.
    is_read: Arc<AtomicBool>,
}

/// Sees how large a request is on its way to tonic.
async fn weigh(state: axum::extract::State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let (mut head, body) = request.into_parts();
    let body = match to_bytes(body, usize::MAX).await {
        Ok(body) => body,
        Err(error) => {
            state.count_unreadable(&error);
            return StatusCode::BAD_REQUEST.into_response();
        }
    };
    let is_gzip = body.first() == Some(&1);
    let length = body.last_chunk::<LENGTH>().map_or(0, |length| u32::from_le_bytes(*length) as usize);
    let is_read = Arc::new(AtomicBool::new(false));
    let arrival = Arrival {
        at: SystemTime::now(),
        connection: head.extensions.get::<Connection>().expect("is put there for each").clone(),
        headers: head.headers.clone(),
        is_gzip,
        wire_size: body.len(),
        size: if is_gzip { length } else { body.len().saturating_sub(PREFIX) },
        is_read: Arc::clone(&is_read),
    };
    head.extensions.insert(arrival);
    let path = head.uri.path().to_owned();
    let response = next.run(Request::from_parts(head, Body::from(body))).await;
    if !is_read.load(Ordering::Relaxed) {
        state.count_unreadable(&format!("gRPC, {path}, answered with {response:?}"));
    }
    response
}

/// All services.
struct Service(Arc<Shared>);

impl Service {
    /// Takes a request, and answers with how many of its items are rejected.
    async fn take<T>(&self, request: tonic::Request<T>, wrap: fn(T) -> Export) -> Result<i64, Status> {
        let (_, mut extensions, message) = request.into_parts();
        let Arrival { at, connection, headers, is_gzip, wire_size, size, is_read } =
            extensions.remove().expect("is put there for each");
        is_read.store(true, Ordering::Relaxed);
        let (protocol, export, answer) = (Protocol::Grpc, wrap(message), Answer::Accept);
        let number = connection.number;
        let received = Received { protocol, at, connection: number, headers, is_gzip, wire_size, size, export, answer };
        self.0.take(received, &connection).await.map_err(Refusal::status)
    }
}

#[async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, Status> {
        Ok(traces_response(self.take(request, Export::Traces).await?).into())
    }
}

#[async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, Status> {
        Ok(metrics_response(self.take(request, Export::Metrics).await?).into())
    }
}

#[async_trait]
impl LogsService for Service {
    async fn export(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
    ) -> Result<tonic::Response<ExportLogsServiceResponse>, Status> {
        Ok(logs_response(self.take(request, Export::Logs).await?).into())
    }
}
