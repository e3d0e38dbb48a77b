//! Kafka: "Kafka protocol guide", sections "Protocol Primitive Types", "Headers" and "Messages".
//!
//! A request is a size, a key that says which it is, that one's version, a correlation number, and the client's name. An
//! answer is a size, the correlation number, and what was asked for: only an answer to `ApiVersions`, which is the first
//! thing that clients ask for, says itself what it is.

use super::Words;

/// Above all keys (0 to 92, and 10 of raft).
const MAX_KEY: u16 = 127;
/// Above the versions of any of them (Fetch has the most, 18).
const MAX_VERSION: u16 = 31;

const METADATA: u16 = 3;
const API_VERSIONS: u16 = 18;

/// Whether it is a request, or an answer to `ApiVersions`, and all of it in one segment.
#[inline(always)]
pub(super) fn is_kafka(words: &Words) -> bool {
    let size = words.double::<0>();
    words.length >= 14 && size.wrapping_add(4) == words.payload && (is_request(words, size) || is_answer(words))
}

#[inline(always)]
fn is_request(words: &Words, size: u32) -> bool {
    let (key, version) = (words.word::<4>(), words.word::<6>());
    let correlation = words.double::<8>();
    if key > MAX_KEY || version > MAX_VERSION || correlation >= 1 << 31 {
        return false;
    }
    match words.word::<12>() {
        // No name; or an empty one, which ZooKeeper's first message would be taken for without the keys.
        0xffff => true,
        0 => matches!(key, METADATA | API_VERSIONS),
        length => u32::from(length) + 10 <= size && length < 256 && words.byte::<14>().is_ascii_graphic(),
    }
}

/// A list of keys with the least and the greatest version of each, in order: it begins with 0 and 1.
#[inline(always)]
fn is_answer(words: &Words) -> bool {
    let is_success = words.word::<8>() == 0;
    // Versions 0 to 2 have a count of four bytes.
    let is_plain = words.double::<10>() <= MAX_KEY.into()
        && words.word::<14>() == 0
        && words.word::<16>() <= MAX_VERSION
        && words.word::<18>() <= MAX_VERSION
        && words.word::<20>() == 1;
    // Those after them have a count of one byte, and an empty list of tags behind each key.
    let is_compact = words.byte::<10>() > 1
        && words.word::<11>() == 0
        && words.word::<13>() <= MAX_VERSION
        && words.word::<15>() <= MAX_VERSION
        && words.byte::<17>() == 0
        && words.word::<18>() == 1;
    is_success && words.length >= 22 && (is_plain || is_compact)
}
