//! MQTT: OASIS MQTT 3.1.1 and 5.0, sections 2.1 (fixed header), 3.1 (CONNECT) and 3.2 (CONNACK); and MQTT 3.1.

use super::Words;

/// Whether it is a client's or a server's first packet.
#[inline(always)]
pub(super) fn is_mqtt(words: &Words) -> bool {
    match words.byte::<0>() {
        0x10 => is_connect(words),
        0x20 => is_connack(words),
        _ => false,
    }
}

/// The length, of one to four bytes of which all but the last have their first bit set, and the protocol's name.
#[inline(always)]
fn is_connect(words: &Words) -> bool {
    if words.byte::<1>() < 0x80 {
        is_name::<2, 6>(words)
    } else if words.byte::<2>() < 0x80 {
        is_name::<3, 7>(words)
    } else if words.byte::<3>() < 0x80 {
        is_name::<4, 8>(words)
    } else {
        words.byte::<4>() < 0x80 && is_name::<5, 9>(words)
    }
}

/// The name is at `AT`, its third letter at `AT + 4`, which is `REST`.
#[inline(always)]
fn is_name<const AT: usize, const REST: usize>(words: &Words) -> bool {
    const { assert!(REST == AT + 4) };
    let (start, rest) = (words.double::<AT>(), words.double::<REST>());
    // The level follows: 4 is MQTT 3.1.1, 5 is 5.0. 3.1 had another name. The first bit is set by bridges.
    let is_mqtt = start == u32::from_be_bytes(*b"\0\x04MQ")
        && rest >> 16 == u16::from_be_bytes(*b"TT").into()
        && matches!(rest >> 8 & 0x7f, 4 | 5);
    let is_mqisdp = start == u32::from_be_bytes(*b"\0\x06MQ") && rest == u32::from_be_bytes(*b"Isdp");
    is_mqtt || is_mqisdp
}

#[inline(always)]
fn is_connack(words: &Words) -> bool {
    let (remaining, flags, code, properties) =
        (words.byte::<1>(), words.byte::<2>(), words.byte::<3>(), words.byte::<4>());
    if flags > 1 || words.payload < 4 {
        return false;
    }
    if remaining == 2 {
        return code <= 5 && words.payload == 4;
    }
    // Version 5 has reasons instead of codes, and a list of properties to the packet's end, each with a number before it.
    let is_reason = code == 0 || (0x80..=0x9f).contains(&code);
    let is_list = match remaining {
        3 => properties == 0,
        4..0x80 => properties == remaining - 3 && matches!(words.byte::<5>(), 0x11..=0x2a),
        _ => false,
    };
    is_reason && is_list && words.payload == u32::from(remaining) + 2
}
