//! HTTP/1 without TLS: the first words of requests and responses.

use crate::protocol::Prefix;

/// Methods that are told apart (RFC 9110 section 9, RFC 5789), by their index; any other is the last one.
pub const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "other"];

/// Status codes that are told apart (IANA, "Hypertext Transfer Protocol (HTTP) Status Code Registry"), in their order.
pub const STATUS_CODES: [u16; 64] = [
    100, 101, 102, 103, 104, 200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 306, 307,
    308, 400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423,
    424, 425, 426, 428, 429, 431, 451, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511,
];

/// Places that status codes are counted in: those of [`STATUS_CODES`], and one behind them for any other.
pub const STATUS_PLACES: usize = STATUS_CODES.len() + 1;

/// The index in [`METHODS`] of the method, if the payload with `prefix` begins with a request line.
#[inline(always)]
#[must_use]
pub fn method(_prefix: &Prefix) -> Option<usize> {
    None
}

/// The status code, if the payload with `prefix` begins with a status line: 100 to 599.
#[inline(always)]
#[must_use]
pub fn status_code(_prefix: &Prefix) -> Option<u16> {
    None
}

/// The place that `code` is counted in, see [`STATUS_PLACES`].
#[inline(always)]
#[must_use]
pub fn status_place(_code: u16) -> usize {
    STATUS_PLACES - 1
}
