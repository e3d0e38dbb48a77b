//! Redis: "Redis serialization protocol specification" (RESP2 and RESP3).

use super::Words;

/// Numbers that are longer come in answers of many segments, not in the first of a connection.
const MAX_DIGITS: u32 = 5;

/// Less than any segment that is followed by more (RFC 9293 section 3.7.1: 536 bytes, but for options).
const LEAST_SEGMENT: u32 = 500;

/// Whether it is a command or an answer, in RESP.
#[inline(always)]
pub(super) fn is_redis(words: &Words) -> bool {
    let first = words.byte::<0>();
    match first {
        b'+' => return is_status(words),
        b'-' => return is_error(words),
        _ => {}
    }
    let Some(number) = number(words) else { return false };
    match (first, number.next) {
        (b'$', _) => is_string(words, &number),
        (b':', (0, 0)) => words.payload == number.line,
        (b':', _) => false,
        // A command is an array of strings; so are many answers, others are maps, sets and arrays of anything.
        (_, (b'$' | b':' | b'*', next)) => next.is_ascii_digit() || next == b'-',
        (_, (b'+', next)) => next.is_ascii_graphic(),
        // It is empty, or null.
        (_, (0, 0)) => words.payload == number.line && matches!(words.byte::<1>(), b'0' | b'-'),
        _ => false,
    }
}

/// A first line that is a number.
struct Number {
    /// Without its sign.
    value: u32,
    /// How many bytes the line has, with its end.
    line: u32,
    /// The two bytes that follow; zeros at the payload's end.
    next: (u8, u8),
}

#[inline(always)]
fn number(words: &Words) -> Option<Number> {
    let mut rest = *words;
    rest.skip_byte();
    let mut line = 1;
    if rest.byte::<0>() == b'-' {
        rest.skip_byte();
        line += 1;
    }
    let (mut value, mut digits) = (0, 0);
    while digits < MAX_DIGITS && rest.byte::<0>().is_ascii_digit() {
        value = value * 10 + u32::from(rest.byte::<0>() - b'0');
        rest.skip_byte();
        digits += 1;
    }
    line += digits + 2;
    let is_number = digits > 0 && rest.word::<0>() == u16::from_be_bytes(*b"\r\n");
    if is_number { Some(Number { value, line, next: (rest.byte::<2>(), rest.byte::<3>()) }) } else { None }
}

/// Whether it is a string alone, as long as it says, or as much of one as a segment holds; or null.
#[inline(always)]
fn is_string(words: &Words, number: &Number) -> bool {
    let is_null = words.byte::<1>() == b'-' && words.payload == number.line;
    is_null || words.payload == number.line + number.value + 2 || words.payload >= LEAST_SEGMENT
}

/// "+OK" and "+PONG" without more: POP3 (RFC 1939) greets with "+OK" too, but says who it is.
#[inline(always)]
fn is_status(words: &Words) -> bool {
    let is_ok = words.double::<0>() == u32::from_be_bytes(*b"+OK\r") && words.byte::<4>() == b'\n';
    let is_pong = words.quad::<0>() >> 8 == u64::from_be_bytes(*b"\0+PONG\r\n");
    is_ok && words.payload == 5 || is_pong
}

/// Errors that come first on a connection. "-ERR" is also what POP3 refuses with: it takes what Redis has to say to it.
#[inline(always)]
fn is_error(words: &Words) -> bool {
    let (first, second) = (words.quad::<0>(), words.double::<5>());
    if first >> 24 == u64::from_be_bytes(*b"\0\0\0-ERR ") {
        return second == u32::from_be_bytes(*b"unkn")
            || second == u32::from_be_bytes(*b"wron")
            || second == u32::from_be_bytes(*b"max ")
            || second == u32::from_be_bytes(*b"AUTH")
            || second == u32::from_be_bytes(*b"Clie")
            || second == u32::from_be_bytes(*b"Prot");
    }
    first == u64::from_be_bytes(*b"-NOAUTH ")
        || first == u64::from_be_bytes(*b"-WRONGPA")
        || first == u64::from_be_bytes(*b"-NOPERM ")
        || first == u64::from_be_bytes(*b"-DENIED ")
        || first == u64::from_be_bytes(*b"-LOADING")
        || first == u64::from_be_bytes(*b"-MASTERD")
        || first >> 8 == u64::from_be_bytes(*b"\0-MOVED ")
}

/// Whether it is a command without RESP around it. It may be any of them, but this one is what health checks send.
#[inline(always)]
pub(super) fn is_ping(words: &Words) -> bool {
    let name = words.double::<0>() | 0x2020_2020;
    name == u32::from_be_bytes(*b"ping") && words.word::<4>() == u16::from_be_bytes(*b"\r\n") && words.payload == 6
}
