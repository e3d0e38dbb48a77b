//! Which trace a request is part of: the header `traceparent` (W3C Trace Context, level 1, section 3.2,
//! <https://www.w3.org/TR/trace-context-1/>).
//!
//! A request comes as the first segment of it does, so it may be cut off anywhere, and it may be anything that looks like one.

use std::fmt;

/// Name of the header, whatever its case.
const NAME: &[u8] = b"traceparent";
/// The version whose fields are known to be all that there are.
const VERSION: u8 = 0;
/// The version that is none.
const INVALID_VERSION: u8 = 0xff;
/// The flag that says that the caller records the trace: all that later versions keep of the flags.
const SAMPLED: u8 = 1;

/// What the caller says of the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// The trace; never all zeros.
    pub trace_id: [u8; 16],
    /// The span that the request was made in; never all zeros.
    pub span_id: [u8; 8],
    /// The trace's flags.
    pub flags: u8,
}

impl TraceParent {
    /// What the header says whose value is `value`, without spaces around it; `None` if that is not valid.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let mut rest = value;
        let [version] = first_field(&mut rest)?;
        let trace_id = field(&mut rest)?;
        let span_id = field(&mut rest)?;
        let [flags] = field(&mut rest)?;
        let (is_end, flags) = match version {
            VERSION => (rest.is_empty(), flags),
            INVALID_VERSION => return None,
            // Of a later version, these are as they were, and there may be more.
            _ => (rest.is_empty() || rest.starts_with(b"-"), flags & SAMPLED),
        };
        (is_end && trace_id != [0; 16] && span_id != [0; 8]).then_some(Self { trace_id, span_id, flags })
    }

    /// What the request of HTTP/1 that `payload` begins with says; `None` if that is not valid, if it is not there as far as
    /// `payload` goes, or if it is there more than once.
    #[must_use]
    pub fn of_request(payload: &[u8]) -> Option<Self> {
        let mut lines = payload.split_inclusive(|byte| *byte == b'\n').map(Line::new);
        let request = lines.next()?;
        let is_request = request.text.ends_with(b" HTTP/1.1") || request.text.ends_with(b" HTTP/1.0");
        if !is_request || !request.is_whole {
            return None;
        }
        let mut found: Option<&[u8]> = None;
        let mut goes_on = false;
        for line in lines {
            if line.text.is_empty() && line.is_whole {
                break;
            }
            if line.text.starts_with(b" ") || line.text.starts_with(b"\t") {
                // It goes on with the header before it (RFC 9112 section 5.2), which nobody writes any more.
                if goes_on {
                    return None;
                }
                continue;
            }
            let value = line.value_of(NAME);
            goes_on = value.is_some();
            if let Some(value) = value
                && (!line.is_whole || found.replace(value).is_some())
            {
                return None;
            }
        }
        Self::parse(found?)
    }
}

impl fmt::Display for TraceParent {
    /// As the header has it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace_id, span_id, flags } = *self;
        let (trace_id, span_id) = (u128::from_be_bytes(trace_id), u64::from_be_bytes(span_id));
        write!(formatter, "{VERSION:02x}-{trace_id:032x}-{span_id:016x}-{flags:02x}")
    }
}

/// A line of a request.
struct Line<'a> {
    /// Without its end.
    text: &'a [u8],
    /// Whether its end is there.
    is_whole: bool,
}

impl<'a> Line<'a> {
    /// The line that is `bytes`, with its end if that is there: a line feed does (RFC 9112 section 2.2).
    fn new(bytes: &'a [u8]) -> Self {
        let line = bytes.strip_suffix(b"\n");
        let text = line.unwrap_or(bytes);
        Self { text: text.strip_suffix(b"\r").unwrap_or(text), is_whole: line.is_some() }
    }

    /// The value of the header called `name`, without spaces around it, if it is that header.
    fn value_of(&self, name: &[u8]) -> Option<&'a [u8]> {
        let (called, rest) = self.text.split_at_checked(name.len())?;
        let mut value = rest.strip_prefix(b":").filter(|_| called.eq_ignore_ascii_case(name))?;
        while let [b' ' | b'\t', trimmed @ ..] | [trimmed @ .., b' ' | b'\t'] = value {
            value = trimmed;
        }
        Some(value)
    }
}

/// A field behind the dash that `rest` begins with.
fn field<const BYTES: usize>(rest: &mut &[u8]) -> Option<[u8; BYTES]> {
    *rest = rest.strip_prefix(b"-")?;
    first_field(rest)
}

/// Takes a field out of the front of `rest`: two digits a byte.
fn first_field<const BYTES: usize>(rest: &mut &[u8]) -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    for byte in &mut bytes {
        let [high, low, behind @ ..] = rest else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
        *rest = behind;
    }
    Some(bytes)
}

/// The value of a digit, which is lower-case.
const fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}
