//! Telling gRPC from other HTTP/2: "gRPC over HTTP2", section "Requests"; RFC 9113 section 4.1, RFC 7541 section 5.2.

/// What a client of HTTP/2 sends first (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types (RFC 9113 section 6).
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;

/// How many frames are looked at: those before the first request are few.
const MAX_FRAMES: usize = 32;

/// The media type that gRPC's begin with.
const PLAIN: &[u8] = b"application/grpc";
/// The same in HPACK's Huffman code (RFC 7541 appendix B): 88 bits, so it ends where a byte does.
const CODED: &[u8] = &[0x1d, 0x75, 0xd0, 0x62, 0x0d, 0x26, 0x3d, 0x4c, 0x4d, 0x65, 0x64];

/// The bit that says that a string is in Huffman's code, with its length in the others (RFC 7541 section 5.2).
const IS_CODED: u8 = 0x80;
/// A longer one needs more than one byte for its length; no media type of gRPC is.
const MAX_LENGTH: usize = 126;

/// Whether `payload`, with which an end of a connection of HTTP/2 begins, has a request or an answer of gRPC in it. It may
/// be cut off. Clients that wait for the server's settings before they ask send no request in their first segment: then this
/// needs what follows, too.
#[must_use]
pub fn is_grpc(payload: &[u8]) -> bool {
    let mut rest = payload.strip_prefix(PREFACE).unwrap_or(payload);
    for index in 0..MAX_FRAMES {
        let Some(([length_0, length_1, length_2, kind, ..], behind)) = rest.split_first_chunk::<9>() else { break };
        if index == 0 && *kind != SETTINGS {
            // It is not HTTP/2: either end begins with its settings.
            break;
        }
        let length = u32::from_be_bytes([0, *length_0, *length_1, *length_2]) as usize;
        let (frame, next) = behind.split_at_checked(length).unwrap_or((behind, &[]));
        if matches!(*kind, HEADERS | CONTINUATION) && has_media_type(frame) {
            return true;
        }
        rest = next;
    }
    false
}

/// Whether a frame of headers has the media type. It is looked for, not decoded: that takes no table, and nothing else
/// has those bytes with their length before them.
fn has_media_type(frame: &[u8]) -> bool {
    (0..frame.len()).any(|at| {
        let Some((&length, string)) = frame.get(at..).and_then(<[u8]>::split_first) else { return false };
        let (media_type, suffix): (_, [u8; 2]) = if length & IS_CODED == 0 {
            (PLAIN, *b"+;")
        } else {
            // The first eight bits of "+", and ";" (of which the code has eight).
            (CODED, [0xff, 0xfb])
        };
        let length = usize::from(length & !IS_CODED);
        if length > MAX_LENGTH || !string.starts_with(media_type) {
            return false;
        }
        // What follows is a subtype's suffix or a parameter: "application/grpc-web" is something else.
        length == media_type.len()
            || length > media_type.len() && string.get(media_type.len()).is_some_and(|next| suffix.contains(next))
    })
}
