//! What rules say, by name and by number.

use crate::numbered::numbered;

numbered! {
    /// What a limit counts.
    Unit {
        /// Nothing: there is no limit.
        None = "none",
        /// Packets, as they are on the wire.
        Packets = "packets_per_second",
        /// Bytes, as they are on the wire.
        Bytes = "bytes_per_second",
        /// Segments that open a connection of TCP.
        Connections = "connections_per_second",
        /// Requests of HTTP/1 without TLS.
        Requests = "requests_per_second",
    }
}

numbered! {
    /// What is done to packets that a rule applies to.
    Action {
        /// They pass, whatever rules come after.
        Allow = "allow",
        /// They are gone.
        Drop = "drop",
        /// They are gone, and their sender is told.
        Reject = "reject",
        /// They are marked (`SO_MARK`, `skb->mark`), and the next rule is asked.
        Mark = "mark",
    }
}

numbered! {
    /// What became of a packet: the value of the label `verdict`.
    Verdict {
        /// It passed: it was allowed, within a limit, or nobody knew better.
        Pass = "pass",
        /// It was dropped.
        Drop = "drop",
        /// It was dropped, and answered.
        Reject = "reject",
        /// It was marked.
        Mark = "mark",
        /// It would have been dropped, were the rule enforced.
        WouldDrop = "would_drop",
        /// It would have been rejected.
        WouldReject = "would_reject",
        /// It would have been marked.
        WouldMark = "would_mark",
    }
}

impl Verdict {
    /// What becomes of a packet by an action that is enforced, or not.
    #[inline(always)]
    pub(super) const fn of(action: u8, is_enforced: bool) -> Self {
        match (is_enforced, action) {
            (true, DROP) => Self::Drop,
            (true, REJECT) => Self::Reject,
            (true, MARK) => Self::Mark,
            (false, DROP) => Self::WouldDrop,
            (false, REJECT) => Self::WouldReject,
            (false, MARK) => Self::WouldMark,
            _ => Self::Pass,
        }
    }
}

pub(super) const ALLOW: u8 = Action::Allow as u8;
const DROP: u8 = Action::Drop as u8;
const REJECT: u8 = Action::Reject as u8;
pub(super) const MARK: u8 = Action::Mark as u8;

/// When a packet is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// As a frame, before there is a socket buffer.
    Frame,
    /// As a socket buffer, that nobody has judged before.
    Buffer,
    /// As a socket buffer, that has been judged as a frame: what could not be done then is left.
    Marks,
    /// It begins a request, as its connection's flow knows.
    Request,
    /// Its payload is not what the API expects.
    Payload,
}

impl Stage {
    /// The stage with this number; the last one for any other.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Frame,
            1 => Self::Buffer,
            2 => Self::Marks,
            3 => Self::Request,
            _ => Self::Payload,
        }
    }
}
