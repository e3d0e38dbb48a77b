//! TLS: RFC 8446 sections 4 to 6 and 5.1; RFC 5246 and those before it have the same records.

use super::Words;

const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;

/// The longest that a record can be: 2¹⁴ bytes and what encryption may add to them (RFC 5246 section 6.2.3).
const MAX_RECORD: u16 = (1 << 14) + 2048;

/// SSL 3.0 to TLS 1.2: later ones say 1.2 here.
#[inline(always)]
const fn is_version(version: u16) -> bool {
    version >> 8 == 3 && version & 0xff <= 3
}

/// Whether it is a record with a hello (content type 22): the message's kind, its length in three bytes, and its version.
#[inline(always)]
pub(super) fn is_hello(words: &Words) -> bool {
    let length = words.word::<3>();
    is_version(words.word::<1>())
        && length > 4
        && length <= MAX_RECORD
        && matches!(words.byte::<5>(), CLIENT_HELLO | SERVER_HELLO)
        && words.byte::<6>() == 0
        && is_version(words.word::<9>())
}

/// Whether it is a record with an alert (content type 21): a level, which is a warning or fatal, and a description.
#[inline(always)]
pub(super) fn is_alert(words: &Words) -> bool {
    is_version(words.word::<1>()) && words.word::<3>() == 2 && matches!(words.byte::<5>(), 1 | 2) && words.length >= 7
}
