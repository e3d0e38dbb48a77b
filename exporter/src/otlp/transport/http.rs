//! OTLP over HTTP: a message is the body of a request (OTLP specification, "OTLP/HTTP").

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header, request::Builder};
use http_body_util::{Collected, Full};
use hyper::body::Incoming;
use prost::Message as _;
use tonic_types::Status;

use super::{Answer, SendError, accepted, read, shown};
use crate::otlp::statistics::Signal;

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
const GZIP: HeaderValue = HeaderValue::from_static("gzip");

pub(super) fn request(
    request: Builder,
    message: Bytes,
    is_compressed: bool,
) -> Result<Request<Full<Bytes>>, SendError> {
    let request = request.header(header::CONTENT_TYPE, PROTOBUF);
    let request = if is_compressed { request.header(header::CONTENT_ENCODING, GZIP) } else { request };
    Ok(request.body(Full::new(message))?)
}

pub(super) async fn answer(signal: Signal, response: Response<Incoming>) -> Result<Answer, SendError> {
    let status = response.status();
    let after = response.headers().get(header::RETRY_AFTER).and_then(|after| retry_after(after, SystemTime::now()));
    let kind = response.headers().get(header::CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
    let is_protobuf = kind.starts_with(PROTOBUF.as_bytes());
    let body = read(response).await;
    if status.is_success() {
        // It was accepted, also if it is not understood what is said beside.
        let body = body.map(Collected::to_bytes).unwrap_or_default();
        return Ok(accepted(signal, if is_protobuf { &body } else { &[] }));
    }
    let body = body?.to_bytes();
    // Those that are OTLP say why in a message of Google's.
    let told = if is_protobuf { Status::decode(&*body).ok().map(|status| status.message) } else { None };
    let message = shown(&told.unwrap_or_else(|| String::from_utf8_lossy(&body).into_owned()));
    let why = if message.is_empty() { status.to_string() } else { format!("{status}: {message}") };
    Ok(if is_retryable(status) { Answer::Retry { after, why } } else { Answer::Rejected(why) })
}

/// Whether the specification says to try again ("Retryable Response Codes").
pub(super) fn is_retryable(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// Seconds, or a date (RFC 9110 section 10.2.3).
fn retry_after(value: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let value = value.to_str().ok()?.trim();
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use http::HeaderValue;

    use super::retry_after;

    #[test]
    fn a_collector_says_in_seconds_or_by_a_date_when_to_try_again() {
        // The date that RFC 9110 writes in all its ways.
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let now = date - Duration::from_secs(7);
        for (value, after) in [
            ("2", Some(2)),
            (" 120 ", Some(120)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
            ("Sun, 06 Nov 1994 08:49:29 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            let value = HeaderValue::from_str(value).expect("a value");
            assert_eq!(retry_after(&value, now), after.map(Duration::from_secs), "{value:?}");
        }
    }
}
