//! HTTP/1 without TLS: the first words of requests and responses.

use core::ops::RangeInclusive;

use crate::protocol::{Prefix, Words, opaque};

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

/// How many codes there can be, from the least on.
const STATUS_RANGE: u16 = 500;
const LEAST_STATUS: u16 = 100;

/// As many as any index below a power of two needs.
const TABLE: usize = (STATUS_RANGE as usize).next_power_of_two();

/// The place of every code, see [`status_place`].
static STATUS_PLACE_OF: [u8; TABLE] = status_places();

const fn status_places() -> [u8; TABLE] {
    let mut places = [STATUS_PLACES as u8 - 1; TABLE];
    let mut place = 0;
    while place < STATUS_CODES.len() {
        places[(STATUS_CODES[place] - LEAST_STATUS) as usize] = place as u8;
        place += 1;
    }
    places
}

/// The shortest and the longest name that is registered (IANA, "Hypertext Transfer Protocol (HTTP) Method Registry"):
/// ACL and UPDATEREDIRECTREF.
const METHOD_BYTES: RangeInclusive<usize> = 3..=17;

/// The index in [`METHODS`] of the method, if the payload with `prefix` begins with a request line (RFC 9112 section 3):
/// a method, a space, and the first byte of what can be a target.
///
/// A method that is not known is letters, digits, "-" and "_" only, and none of the protocols that have borrowed the form
/// of the request line (RTSP, SIP and ICAP) is taken for HTTP, nor are commands that happen to be called as methods are.
#[inline(always)]
#[must_use]
pub fn method(prefix: &Prefix) -> Option<usize> {
    method_of(&Words::of(prefix))
}

/// The same as [`method`].
#[inline(always)]
pub(crate) fn method_of(words: &Words) -> Option<usize> {
    if !words.byte::<0>().is_ascii_uppercase() {
        return None;
    }
    let word = words.quad::<0>();
    let (index, target) = if word >> 32 == u64::from_be_bytes(*b"\0\0\0\0GET ") {
        (0, words.quad::<4>())
    } else if word >> 24 == u64::from_be_bytes(*b"\0\0\0HEAD ") {
        (1, words.quad::<5>())
    } else if word >> 24 == u64::from_be_bytes(*b"\0\0\0POST ") {
        (2, words.quad::<5>())
    } else if word >> 32 == u64::from_be_bytes(*b"\0\0\0\0PUT ") {
        (3, words.quad::<4>())
    } else if word >> 8 == u64::from_be_bytes(*b"\0DELETE ") {
        (4, words.quad::<7>())
    } else if word == u64::from_be_bytes(*b"CONNECT ") {
        // A host and a port (RFC 9112 section 3.2.3): NATS has the same command, with JSON behind it.
        let first = words.byte::<8>();
        return (first.is_ascii_alphanumeric() || first == b'[').then_some(5);
    } else if word == u64::from_be_bytes(*b"OPTIONS ") {
        (6, words.quad::<8>())
    } else if word >> 16 == u64::from_be_bytes(*b"\0\0TRACE ") {
        (7, words.quad::<6>())
    } else if word >> 16 == u64::from_be_bytes(*b"\0\0PATCH ") {
        (8, words.quad::<6>())
    } else {
        (METHODS.len() - 1, other_method(words))
    };
    is_target(target).then_some(index)
}

/// Whether a target begins with these bytes: a path, a URL, or "*" (RFC 9112 section 3.2).
#[inline(always)]
fn is_target(bytes: u64) -> bool {
    const HTTP: u64 = u64::from_be_bytes(*b"\0\0\0http:");
    const HTTPS: u64 = u64::from_be_bytes(*b"\0\0\0https");
    match (bytes >> 56) as u8 {
        b'/' => true,
        b'h' | b'H' => matches!((bytes | 0x2020_2020_2020_2020) >> 24, HTTP | HTTPS),
        // RTSP has the asterisk as well, and HTTP/2's preface is like this but for its version.
        b'*' => bytes == u64::from_be_bytes(*b"* HTTP/1"),
        _ => false,
    }
}

/// What follows a method that is not among those that are told apart; zeros if there is nothing that looks like one.
#[inline(always)]
fn other_method(words: &Words) -> u64 {
    let mut rest = *words;
    let mut length = 0;
    while length <= *METHOD_BYTES.end() && is_method_byte(rest.byte::<0>()) {
        rest.skip_byte();
        length += 1;
    }
    // It is nobody's method: HTTP/2 begins with it (RFC 9113 section 3.4).
    let is_preface = words.double::<0>() == u32::from_be_bytes(*b"PRI ");
    let is_method = METHOD_BYTES.contains(&length) && rest.byte::<0>() == b' ' && !is_preface;
    let target = rest.quad::<1>();
    if is_method && is_printable(target) { target } else { 0 }
}

/// Whether no byte is a control character, or above ASCII: so little is known of such a method that its target, which
/// with the version is no shorter, must make up for it.
#[inline(always)]
const fn is_printable(bytes: u64) -> bool {
    (bytes.wrapping_sub(0x2020_2020_2020_2020) | bytes) & 0x8080_8080_8080_8080 == 0
}

#[inline(always)]
const fn is_method_byte(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
}

/// The status code, if the payload with `prefix` begins with a status line (RFC 9112 section 4): 100 to 599.
#[inline(always)]
#[must_use]
pub fn status_code(prefix: &Prefix) -> Option<u16> {
    status_code_of(&Words::of(prefix))
}

/// The same as [`status_code`].
#[inline(always)]
pub(crate) fn status_code_of(words: &Words) -> Option<u16> {
    let version = words.quad::<0>();
    if version != u64::from_be_bytes(*b"HTTP/1.1") && version != u64::from_be_bytes(*b"HTTP/1.0") {
        return None;
    }
    let digits = [words.byte::<9>(), words.byte::<10>(), words.byte::<11>()].map(|digit| digit.wrapping_sub(b'0'));
    let [hundreds, tens, ones] = digits;
    // Some servers leave out the reason, and even the space before it.
    let is_end = words.length == 12 || matches!(words.byte::<12>(), b' ' | b'\r' | b'\n');
    if words.byte::<8>() != b' ' || !matches!(hundreds, 1..=5) || tens > 9 || ones > 9 || !is_end {
        return None;
    }
    Some(u16::from(hundreds) * 100 + u16::from(tens) * 10 + u16::from(ones))
}

/// The place that `code` is counted in, see [`STATUS_PLACES`].
#[inline(always)]
#[must_use]
pub fn status_place(code: u16) -> usize {
    let index = u64::from(code.wrapping_sub(LEAST_STATUS).min(STATUS_RANGE));
    // Hidden from the compiler: it knows by other ways that the index is in range, and would leave out the only one that
    // the verifier understands.
    let index = opaque(index) as usize & (TABLE - 1);
    STATUS_PLACE_OF[index].into()
}
