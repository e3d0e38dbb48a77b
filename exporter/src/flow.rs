//! A flow as userspace has it: what the kernel kept of it, with names and times that people read.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

pub use tidewaiter_common::{details::CloseReason, protocol::Protocol};

use crate::{
    api::Role,
    snapshot::{Counters, Direction},
};

/// One flow: the two ends of a conversation on one interface, and what passed between them.
#[derive(Clone, Debug)]
pub struct FlowRecord {
    /// The API that it belongs to; `unmapped` if none.
    pub api: Arc<str>,
    /// Which end of the API this host is; `None` for unmapped traffic.
    pub role: Option<Role>,
    /// The interface, by name; its index where the name is not known.
    pub interface: Arc<str>,
    /// This host's end. Port 0 where the protocol has none.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The protocol above IP, as IANA numbers it.
    pub protocol: u8,
    /// Packets and bytes on the wire, by [`Direction::index`].
    pub wire: [Counters; Direction::COUNT],
    /// The TCP flags of all segments, by [`Direction::index`]; 0 for other protocols.
    pub tcp_flags: [u8; Direction::COUNT],
    /// When its first packet passed.
    pub first: SystemTime,
    /// When its last packet passed.
    pub last: SystemTime,
    /// How it ended; `None` while it goes on.
    pub end: Option<FlowEnd>,
    /// How long the handshake took, if it was seen.
    pub handshake: Option<Duration>,
    /// How many answers were timed.
    pub responses: u64,
    /// Time from the last byte of a request to the first of its answer, all of them added up.
    pub response_time: Duration,
    /// Segments that this host's TCP sent again, where the kernel told.
    pub retransmitted: u64,
    /// What the payload looks like.
    pub application: Protocol,
    /// What TLS says in the clear, for TLS.
    pub tls: Option<Arc<TlsHello>>,
}

/// How a flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowEnd {
    /// It was a connection, which was closed so.
    Closed(CloseReason),
    /// It was an attempt to connect, which was refused.
    Refused,
}

/// What the two hellos of TLS say in the clear (RFC 8446).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsHello {
    /// The version: what the server chose, or the highest that the client offered.
    pub version: Option<&'static str>,
    /// The server's name that the client asked for (RFC 6066).
    pub server_name: Option<String>,
    /// The application protocols that the client offered, or the one that the server chose (RFC 7301).
    pub application_protocols: Vec<String>,
}
