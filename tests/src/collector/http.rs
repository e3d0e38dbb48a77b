//! Protobuf over HTTP.

use std::{
    io::{self, Read as _},
    sync::Arc,
    time::SystemTime,
};

use axum::{
    Router,
    body::to_bytes,
    extract::Request,
    http::{
        HeaderMap, StatusCode,
        header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER},
    },
    response::{IntoResponse as _, Response},
    routing::post,
};
use flate2::read::MultiGzDecoder;
use prost::Message as _;
use tonic_types::pb;

use super::{
    answer::{Answer, REASON, Refusal},
    connection::Connection,
    received::{Export, Protocol, Received, Signal, logs_response, metrics_response, traces_response},
    state::Shared,
};

/// What both requests and answers are.
const PROTOBUF: &str = "application/x-protobuf";

/// Takes each signal at its path.
pub(super) fn router(shared: &Arc<Shared>) -> Router {
    Signal::ALL.into_iter().fold(Router::new(), |router, signal| {
        let shared = Arc::clone(shared);
        router.route(signal.path(), post(move |request| export(shared, signal, request)))
    })
}

async fn export(shared: Arc<Shared>, signal: Signal, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let connection = head.extensions.get::<Connection>().expect("is put there for each");
    let received = match to_bytes(body, usize::MAX).await {
        Ok(body) => read(signal, head.headers, &body, connection.number),
        Err(error) => Err(io::Error::other(error)),
    };
    let answer = match received {
        Ok(received) => shared.take(received, connection).await,
        Err(error) => {
            shared.count_unreadable(&error);
            Err(Refusal::INVALID)
        }
    };
    match answer {
        Ok(rejected) => {
            let body = match signal {
                Signal::Traces => traces_response(rejected).encode_to_vec(),
                Signal::Metrics => metrics_response(rejected).encode_to_vec(),
                Signal::Logs => logs_response(rejected).encode_to_vec(),
            };
            ([(CONTENT_TYPE, PROTOBUF)], body).into_response()
        }
        Err(refusal) => refuse(refusal),
    }
}

fn read(signal: Signal, headers: HeaderMap, body: &[u8], connection: usize) -> io::Result<Received> {
    let at = SystemTime::now();
    let header = |name| headers.get(name).map(|value| value.to_str().unwrap_or("not text"));
    if header(CONTENT_TYPE) != Some(PROTOBUF) {
        return Err(io::Error::other(format!("its type is {:?}", header(CONTENT_TYPE))));
    }
    let is_gzip = match header(CONTENT_ENCODING) {
        None | Some("identity") => false,
        Some("gzip") => true,
        Some(other) => return Err(io::Error::other(format!("its encoding is {other:?}"))),
    };
    let mut message = Vec::new();
    if is_gzip {
        MultiGzDecoder::new(body).read_to_end(&mut message)?;
    } else {
        message.extend(body);
    }
    let export = Export::decode(signal, &message)?;
    let (wire_size, size) = (body.len(), message.len());
    let answer = Answer::Accept;
    Ok(Received { protocol: Protocol::Http, at, connection, headers, is_gzip, wire_size, size, export, answer })
}

fn refuse(refusal: Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status).expect("is one");
    let body = pb::Status { code: refusal.code.into(), message: REASON.to_owned(), details: Vec::new() };
    let mut response = (status, [(CONTENT_TYPE, PROTOBUF)], body.encode_to_vec()).into_response();
    if let Some(delay) = refusal.retry {
        response.headers_mut().insert(RETRY_AFTER, delay.as_secs().into());
    }
    response
}
