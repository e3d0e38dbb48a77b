//! MQTT: OASIS MQTT 3.1.1 and 5.0, sections 2.1 (fixed header), 3.1 (CONNECT) and 3.2 (CONNACK); and MQTT 3.1.

use super::Words;

/// Whether it is a client's first packet, as far as it does not say so in its first byte: the length, of one to four bytes of which all but the last have their first bit set, and the protocol's name.
#[inline(always)]
pub(super) fn is_connect(words: &Words) -> bool {
    let name = if words.byte::<1>() < 0x80 {
        words.quad::<2>()
    } else if words.byte::<2>() < 0x80 {
        words.quad::<3>()
    } else if words.byte::<3>() < 0x80 {
        words.quad::<4>()
    } else if words.byte::<4>() < 0x80 {
        words.quad::<5>()
    } else {
        0
    };
    // The level follows: 4 is MQTT 3.1.1, 5 is 5.0. 3.1 had another name. The first bit is set by bridges.
    let is_mqtt = name >> 16 == u64::from_be_bytes(*b"\0\0\0\x04MQTT") && matches!(name >> 8 & 0x7f, 4 | 5);
    is_mqtt || name == u64::from_be_bytes(*b"\0\x06MQIsdp")
}

/// Whether it is a server's first packet; otherwise as [`is_connect`].
#[inline(always)]
pub(super) fn is_connack(words: &Words) -> bool {
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
