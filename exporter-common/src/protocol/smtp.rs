//! SMTP: RFC 5321.

use super::{PREFIX_BYTES, Words};

/// Whether it is a server's greeting (section 4.2): a code, or several lines of it. FTP (RFC 959) greets with the same one, a host's name, and no word of
/// its own that it must say. So must SMTP's greeting say "SMTP" or "ESMTP" within these few bytes: all known servers say
/// it behind their host's name; where that is long, only the client tells.
#[inline(always)]
pub(super) fn is_greeting(words: &Words) -> bool {
    const NAME: u32 = u32::from_be_bytes(*b"SMTP");
    let code = words.double::<0>();
    let is_code = code == u32::from_be_bytes(*b"220 ")
        || code == u32::from_be_bytes(*b"220-")
        // No service, or none for this client (section 3.1).
        || code == u32::from_be_bytes(*b"554 ")
        || code == u32::from_be_bytes(*b"554-");
    if !is_code {
        return false;
    }
    // In the case in which it is written: host names have the other, or are less than the whole word.
    let mut rest = *words;
    for _ in 4..PREFIX_BYTES - 4 {
        rest.skip_byte();
        if rest.double::<4>() == NAME {
            return matches!(rest.byte::<3>(), b' ' | b'E');
        }
    }
    false
}

/// Whether it is a client's first command (section 4.1.1), in any case: the first command has the client's name.
#[inline(always)]
pub(super) fn is_command(words: &Words) -> bool {
    let name = words.double::<0>() | 0x2020_2020;
    let is_hello = name == u32::from_be_bytes(*b"ehlo") || name == u32::from_be_bytes(*b"helo");
    let is_mail = (words.quad::<0>() | 0x2020_2020_2020_2020) == u64::from_be_bytes(*b"mail fro");
    // A name, or an address in brackets.
    let argument = words.byte::<5>();
    let is_name = argument.is_ascii_alphanumeric() || argument == b'[';
    is_hello && words.byte::<4>() == b' ' && is_name || is_mail && words.byte::<9>() == b':'
}
