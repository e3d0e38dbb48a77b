//! `PostgreSQL`: "Frontend/Backend Protocol", section "Message Formats".

use super::Words;

/// Versions that clients ask for: 3.0, 3.2 (of `PostgreSQL` 18), and one that only tests a server's manners.
const VERSIONS: [u32; 3] = [0x0003_0000, 0x0003_0002, 0x0003_270f];
const CANCEL_REQUEST: u32 = 0x04d2_162e;
const SSL_REQUEST: u32 = 0x04d2_162f;
const GSS_ENCRYPTION_REQUEST: u32 = 0x04d2_1630;

/// The longest key of a `CancelRequest`, in bytes.
const MAX_KEY: u32 = 256;

/// Whether it is a server's answer to a request for encryption: the one message without a form.
#[inline(always)]
pub(super) fn is_encryption(words: &Words) -> bool {
    words.payload == 1 && words.length == 1
}

/// Whether it is a client's first message: a length that counts itself, and a version, or a number that is none.
#[inline(always)]
pub(super) fn is_request(words: &Words) -> bool {
    let (length, version) = (words.double::<0>(), words.double::<4>());
    if length != words.payload {
        return false;
    }
    match version {
        SSL_REQUEST | GSS_ENCRYPTION_REQUEST => length == 8,
        // A process, and a key of four bytes or, from version 3.2 on, more.
        CANCEL_REQUEST => length > 12 && length <= 12 + MAX_KEY,
        // The name of the first parameter follows, which is "user", "database" or the like: in Kafka, whose messages can
        // begin alike, there would be a number.
        _ => {
            let is_lower = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            let is_name = is_lower(words.byte::<8>()) && is_lower(words.byte::<9>()) && is_lower(words.byte::<10>());
            let [version_0, version_1, version_2] = VERSIONS;
            (version == version_0 || version == version_1 || version == version_2) && is_name
        }
    }
}

/// Whether a server says what it wants to see, or that it has seen enough: a length and a number (`AuthenticationOk` and its kin).
#[inline(always)]
pub(super) fn is_authentication(words: &Words) -> bool {
    let (length, number) = (words.double::<1>(), words.double::<5>());
    let is_length = match number {
        0 | 2 | 3 | 7 | 9 => length == 8,
        // With a salt.
        5 => length == 12,
        // With a list of mechanisms.
        10 => length > 8 && length < 256,
        _ => false,
    };
    words.length >= 9 && is_length
}

/// Whether it is an `ErrorResponse`. Its first field is the severity, which is not always English, and then is not known here.
#[inline(always)]
pub(super) fn is_error(words: &Words) -> bool {
    let severity = words.double::<6>();
    words.word::<1>() == 0
        && words.byte::<5>() == b'S'
        && (severity == u32::from_be_bytes(*b"FATA") || severity == u32::from_be_bytes(*b"ERRO"))
}
