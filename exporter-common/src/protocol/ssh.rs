//! SSH: RFC 4253 section 4.2.

use super::Words;

/// Whether it is an identification, of either end: "SSH-2.0-" or "SSH-1.99-", and the versions before them.
#[inline(always)]
pub(super) fn is_ssh(words: &Words) -> bool {
    words.double::<0>() == u32::from_be_bytes(*b"SSH-")
        && matches!(words.byte::<4>(), b'1' | b'2')
        && words.byte::<5>() == b'.'
        && words.byte::<6>().is_ascii_digit()
}
