//! AMQP: version 0-9-1 section 4.2.2 and 1.0 section 2.2.

use super::Words;

/// Whether it is a protocol header: "AMQP", and the version that the client wants or, where that is refused, the one that the server has.
#[inline(always)]
pub(super) fn is_header(words: &Words) -> bool {
    let version = words.double::<4>();
    // 0-9-1 has a zero, then its version. 0-8, 0-9 and 0-10 had an identifier's class and instance before theirs.
    let is_old = matches!(version, 0x0000_0901 | 0x0101_0800 | 0x0101_0009 | 0x0101_000a);
    // 1.0 has an identifier (itself, TLS, or SASL), then 1, 0 and 0.
    let is_version = is_old || matches!(version, 0x0001_0000 | 0x0201_0000 | 0x0301_0000);
    words.double::<0>() == u32::from_be_bytes(*b"AMQP") && is_version && words.length >= 8
}

/// Whether it is what a server of 0-9-1 begins with: a method frame on channel 0 with `connection.start`: class 10, method 10, and its version 0-9.
#[inline(always)]
pub(super) fn is_connection_start(words: &Words) -> bool {
    words.double::<0>() >> 8 == 0x0001_0000 && words.double::<7>() == 0x000a_000a && words.word::<11>() == 0x0009
}
