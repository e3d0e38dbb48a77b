//! DNS: RFC 1035 section 4.1, with the opcodes of RFC 1996 and RFC 2136; over TCP, section 4.2.2.
//!
//! Multicast DNS (RFC 6762) and LLMNR (RFC 4795) have the same messages, and count as DNS. `NetBIOS` (RFC 1002) has nearly
//! the same, and does not.

use super::Words;

const HEADER: u32 = 12;
/// The shortest question: the root's name, a type, and a class.
const QUESTION: u32 = 5;
/// The shortest record: a question, a time to live, and the length of data that are empty.
const RECORD: u32 = 11;

/// Less than any segment that is followed by more (RFC 9293 section 3.7.1: 536 bytes, but for options).
const LEAST_SEGMENT: u32 = 500;

/// Flags (RFC 1035 section 4.1.1).
const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
/// Truncated: fewer records are there than the header says.
const TRUNCATED: u16 = 0x0200;
/// Must be zero.
const RESERVED: u16 = 0x0040;
const RESPONSE_CODE: u16 = 0x000f;

const NOTIFY: u16 = 4 << 11;
const UPDATE: u16 = 5 << 11;

/// Whether a datagram is a message.
#[inline(always)]
pub(super) fn is_datagram(words: &Words) -> bool {
    is_header::<2, 4, 8, 12>(words, words.payload) && is_name::<12, 13, 21>(words)
}

/// Whether a segment begins with a length and a message, or as much of one as a segment holds.
#[inline(always)]
pub(super) fn is_stream(words: &Words) -> bool {
    if words.payload < u32::from(words.word::<0>()) + 2 && words.payload < LEAST_SEGMENT {
        return false;
    }
    is_header::<4, 6, 10, 14>(words, words.word::<0>().into()) && is_name::<14, 15, 23>(words)
}

/// Whether there is the header of a message of `length` bytes, which has its flags, its counts of questions and answers,
/// its counts of authority and additional records, and its end at these offsets.
#[inline(always)]
fn is_header<const FLAGS: usize, const COUNTS: usize, const MORE_COUNTS: usize, const END: usize>(
    words: &Words,
    length: u32,
) -> bool {
    let flags = words.word::<FLAGS>();
    if flags & RESERVED != 0 || !matches!(flags & OPCODE, 0 | NOTIFY | UPDATE) {
        return false;
    }
    let counts = words.double::<COUNTS>();
    let (questions, answers) = (counts >> 16, counts & 0xffff);
    let counts = words.double::<MORE_COUNTS>();
    let records = answers + (counts >> 16) + (counts & 0xffff);

    if flags & RESPONSE == 0 {
        // Several questions, and answers that are known, are of multicast DNS and of updates.
        if flags & RESPONSE_CODE != 0 || questions == 0 || questions > 32 {
            return false;
        }
    } else if flags & RESPONSE_CODE > 10 || questions > 1 {
        return false;
    } else if questions + records == 0 {
        // A refusal of what the server could not even read.
        return flags & RESPONSE_CODE != 0 && length == HEADER && words.length as usize == END;
    }
    if flags & TRUNCATED != 0 {
        return records < 256 && length > HEADER && words.length as usize > END;
    }
    let least = HEADER + questions * QUESTION + records * RECORD;
    length >= least && words.length as usize > END
}

/// Whether there is the root's name, or a label (section 3.1) of characters that can be written, as far as two quads at
/// `AT + 1` and `AT + 9` go.
#[inline(always)]
fn is_name<const AT: usize, const START: usize, const REST: usize>(words: &Words) -> bool {
    const { assert!(START == AT + 1 && REST == AT + 9) };
    let length = u32::from(words.byte::<AT>());
    let (start, rest) = (words.quad::<START>(), words.quad::<REST>());
    // RFC 1001 section 14.1: a name is one label of 32 letters from A to P.
    let is_netbios = length == 32 && are_a_to_p(start) && are_a_to_p(rest);
    // A label may hold any byte; those that are in use have none below a space: not even service names (RFC 6763).
    length <= 63 && controls(start, length) == 0 && controls(rest, length.saturating_sub(8)) == 0 && !is_netbios
}

/// The first bit of each of the first `count` bytes that is below a space; a byte behind such a one may be said to be, too.
#[inline(always)]
fn controls(bytes: u64, count: u32) -> u64 {
    let below = bytes.wrapping_sub(0x2020_2020_2020_2020) & !bytes & 0x8080_8080_8080_8080;
    match count {
        0 => 0,
        1..8 => below >> (64 - count * 8),
        _ => below,
    }
}

/// Whether all bytes are: they are then 1 to 16 above 0x40.
#[inline(always)]
const fn are_a_to_p(bytes: u64) -> bool {
    (bytes ^ 0x4040_4040_4040_4040).wrapping_sub(0x0101_0101_0101_0101) & 0xf0f0_f0f0_f0f0_f0f0 == 0
}
