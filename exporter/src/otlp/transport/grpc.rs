//! OTLP over gRPC: a message with a prefix is the body of a request over HTTP/2, and the answer's status follows its body
//! ("gRPC over HTTP2", <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use std::time::Duration;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header, request::Builder};
use http_body_util::Full;
use hyper::body::Incoming;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{Answer, SendError, accepted, http::is_retryable, read, shown};
use crate::otlp::statistics::Signal;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GZIP: HeaderValue = HeaderValue::from_static("gzip");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// With or without padding, as the protocol has it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Before each message: whether it is compressed, and its length in four bytes.
const PREFIX_BYTES: usize = 5;

/// The path of the method that takes in `signal`.
pub(super) const fn path(signal: Signal) -> &'static str {
    match signal {
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    }
}

pub(super) fn request(
    request: Builder,
    message: &[u8],
    is_compressed: bool,
    timeout: Duration,
) -> Result<Request<Full<Bytes>>, SendError> {
    let mut body = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    body.put_u8(is_compressed.into());
    // Requests are far below 4 GiB: the queue is.
    body.put_u32(message.len() as u32);
    body.put_slice(message);
    // No more than eight digits.
    let milliseconds = timeout.as_millis().min(99_999_999);
    let request = request
        .header(header::CONTENT_TYPE, GRPC)
        .header(header::TE, TRAILERS)
        .header(TIMEOUT, format!("{milliseconds}m"));
    let request = if is_compressed { request.header(ENCODING, GZIP) } else { request };
    Ok(request.body(Full::new(body.freeze()))?)
}

pub(super) async fn answer(signal: Signal, response: Response<Incoming>) -> Result<Answer, SendError> {
    let http_status = response.status();
    // Where there is no message, the status is at the beginning.
    if let Some(status) = status(response.headers()) {
        return Ok(read_status(&status, signal, &[]));
    }
    let is_grpc = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if http_status != StatusCode::OK || !is_grpc {
        let why = format!("{http_status}, which is no answer of gRPC");
        return Ok(if is_retryable(http_status) { Answer::Retry { after: None, why } } else { Answer::Rejected(why) });
    }
    let collected = read(response).await?;
    let status = collected.trailers().and_then(status);
    let body = collected.to_bytes();
    let status = status.unwrap_or_else(|| Status::unavailable("the collector's answer has no status"));
    Ok(read_status(&status, signal, body.get(PREFIX_BYTES..).unwrap_or_default()))
}

/// The status in `headers`, if there is one. Its details are decoded here, because tonic panics where they are not in base64.
fn status(headers: &HeaderMap) -> Option<Status> {
    let mut others = headers.clone();
    let details = others.remove(DETAILS);
    let status = Status::from_header_map(&others)?;
    let details = details.and_then(|details| BASE64.decode(details.as_bytes()).ok()).unwrap_or_default();
    Some(Status::with_details(status.code(), status.message(), details.into()))
}

fn read_status(status: &Status, signal: Signal, message: &[u8]) -> Answer {
    if status.code() == Code::Ok {
        return accepted(signal, message);
    }
    let after = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let why = match status.message() {
        "" => status.code().to_string(),
        message => format!("{}: {}", status.code(), shown(message)),
    };
    // OTLP specification, "Failures": out of resources is for ever unless the collector says for how long.
    let is_retryable = match status.code() {
        Code::ResourceExhausted => after.is_some(),
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        _ => false,
    };
    if is_retryable { Answer::Retry { after, why } } else { Answer::Rejected(why) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, HeaderValue};
    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::{Answer, DETAILS, read_status, status};
    use crate::otlp::Signal;

    #[test]
    fn a_status_is_read_whatever_its_details_are() {
        let delay = Duration::from_secs(3);
        let details = ErrorDetails::with_retry_info(Some(delay));
        let sent = Status::with_error_details(Code::ResourceExhausted, "too much", details);
        let mut headers = HeaderMap::new();
        sent.add_header(&mut headers).expect("is written");
        let answer = |headers: &HeaderMap| read_status(&status(headers).expect("is there"), Signal::Traces, &[]);
        let why = || format!("{}: too much", Code::ResourceExhausted);
        assert_eq!(answer(&headers), Answer::Retry { after: Some(delay), why: why() });
        for broken in ["%%%", "CAgSA-_x", "Zm9v,YmFy", "A", ""] {
            headers.insert(DETAILS, HeaderValue::from_static(broken));
            assert_eq!(answer(&headers), Answer::Rejected(why()), "{broken}");
        }
        assert!(status(&HeaderMap::new()).is_none());
    }
}
