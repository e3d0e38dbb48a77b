//! HTTP/2 without TLS: RFC 9113.

use super::Words;

/// Frame types (RFC 9113 section 6).
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

/// More settings than all that are registered, and a few that are not.
const MAX_SETTINGS: u8 = 20;

/// Whether it is a client's connection preface (section 3.4): a sequence that no server of HTTP/1 takes for a request.
#[inline(always)]
pub(super) fn is_client_preface(words: &Words) -> bool {
    words.quad::<0>() == u64::from_be_bytes(*b"PRI * HT")
        && words.quad::<8>() == u64::from_be_bytes(*b"TP/2.0\r\n")
        && words.quad::<16>() == u64::from_be_bytes(*b"\r\nSM\r\n\r\n")
}

/// Whether it is a server's (sections 3.4, 4.1 and 6.5): a SETTINGS frame without flags, on stream 0.
#[inline(always)]
pub(super) fn is_server_preface(words: &Words) -> bool {
    let length = words.byte::<2>();
    let is_header = words.word::<0>() == 0
        && words.byte::<3>() == SETTINGS
        && words.double::<4>() == 0
        && words.byte::<8>() == 0
        && words.length >= 9;
    if !is_header || !length.is_multiple_of(6) || length > MAX_SETTINGS * 6 {
        return false;
    }
    if length == 0 {
        // So little could be a message of nearly any protocol that begins with a length: only the whole of it, or a frame
        // that comes next, says more.
        let next = words.byte::<12>();
        return words.payload == 9
            || words.word::<9>() == 0 && matches!(next, HEADERS | SETTINGS | PING | GOAWAY | WINDOW_UPDATE);
    }
    // Registered are 1 to 9 and 16 (IANA, "HTTP/2 Settings"); the C core of gRPC begins with one of its own.
    matches!(words.word::<9>(), 1..=9 | 16 | 0xfe03)
}
