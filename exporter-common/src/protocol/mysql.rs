//! `MySQL` and `MariaDB`: "`MySQL` Internals: Client/Server Protocol", pages "Protocol Basics" and "Connection Phase".
//!
//! A packet is its length, in three bytes of which the least significant is the first, its number in the exchange, and the
//! contents.

use super::Words;

/// `CLIENT_PROTOCOL_41`, which clients have set since `MySQL` 4.1.
const PROTOCOL_41: u32 = 0x0200;

/// Whether it is the first packet of a server, or the client's answer to it.
#[inline(always)]
pub(super) fn is_mysql(words: &Words) -> bool {
    let header = words.double::<0>().swap_bytes();
    let (length, number) = (header & 0x00ff_ffff, header >> 24);
    let is_whole = length + 4 == words.payload;
    is_whole && (number == 0 && (is_greeting(words) || is_refusal(words)) || number == 1 && is_login(words))
}

/// Protocol version 10, and the server's version: "8.4.3", or "11.4.2-MariaDB".
#[inline(always)]
fn is_greeting(words: &Words) -> bool {
    let is_version = words.byte::<5>().is_ascii_digit()
        && if words.byte::<6>() == b'.' {
            words.byte::<7>().is_ascii_digit()
        } else {
            words.byte::<6>().is_ascii_digit() && words.byte::<7>() == b'.'
        };
    words.byte::<4>() == 10 && is_version
}

/// Too many connections, a host that is blocked, a host that is not allowed: all that a server says before its greeting.
#[inline(always)]
fn is_refusal(words: &Words) -> bool {
    let code = words.word::<5>().swap_bytes();
    words.byte::<4>() == 0xff && matches!(code, 1040 | 1129 | 1130) && words.byte::<7>().is_ascii_graphic()
}

/// Capabilities, the greatest packet, a character set, and 23 zeros, of which `MariaDB` uses the last four.
#[inline(always)]
fn is_login(words: &Words) -> bool {
    words.length == 32
        && words.double::<4>().swap_bytes() & PROTOCOL_41 != 0
        && words.quad::<13>() | words.quad::<21>() == 0
        && words.word::<29>() == 0
}
