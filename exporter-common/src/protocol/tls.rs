//! TLS: RFC 8446 sections 4 to 6 and 5.1; RFC 5246 and those before it have the same records.

use super::Words;

/// Content types (section 5.1).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;

/// The longest that a record can be: 2¹⁴ bytes and what encryption may add to them (RFC 5246 section 6.2.3).
const MAX_RECORD: u16 = (1 << 14) + 2048;

/// SSL 3.0 to TLS 1.2: later ones say 1.2 here.
#[inline(always)]
const fn is_version(version: u16) -> bool {
    version >> 8 == 3 && version & 0xff <= 3
}

/// Whether it is a record with a hello, or with an alert.
#[inline(always)]
pub(super) fn is_tls(words: &Words) -> bool {
    let (kind, version, length) = (words.byte::<0>(), words.word::<1>(), words.word::<3>());
    if !is_version(version) {
        return false;
    }
    match kind {
        // The message's kind, its length in three bytes, and its version.
        HANDSHAKE => {
            length > 4
                && length <= MAX_RECORD
                && matches!(words.byte::<5>(), CLIENT_HELLO | SERVER_HELLO)
                && words.byte::<6>() == 0
                && is_version(words.word::<9>())
        }
        // A level and a description.
        ALERT => length == 2 && matches!(words.byte::<5>(), 1 | 2) && words.length >= 7,
        _ => false,
    }
}
