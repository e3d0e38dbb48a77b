//! Flows, as they are reported.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use tidewaiter_common::packet::{protocol, tcp_flag};

use super::Count;
use crate::{
    api::Role,
    flow::{FlowEnd, FlowRecord, Protocol, TlsHello},
    snapshot::Direction,
    trace_context::TraceParent,
};

/// One flow. What is not known of it is left out.
#[derive(Debug, Serialize)]
pub struct FlowRow {
    /// Name of the API.
    pub api: String,
    /// `server`, `client` or `none`.
    pub role: &'static str,
    /// Name of the interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The protocol above IP.
    pub protocol: String,
    /// This host's end.
    pub local: End,
    /// The other.
    pub remote: End,
    /// What was received.
    pub receive: Sent,
    /// What was transmitted.
    pub transmit: Sent,
    /// When its first packet passed, in seconds since the epoch.
    pub first: f64,
    /// And its last one.
    pub last: f64,
    /// How it ended: `fin`, `reset`, `idle` or `refused`; others are told of flows that go on, see [`FlowEnd::as_str`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<&'static str>,
    /// How long the handshake took, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshake: Option<f64>,
    /// Answers that were timed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub responses: Option<Responses>,
    /// Segments that this host's TCP sent again.
    #[serde(skip_serializing_if = "is_zero")]
    pub retransmitted: u64,
    /// What the payload looks like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application: Option<&'static str>,
    /// What TLS says in the clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// The traces that its first requests were part of, as the header `traceparent` has them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trace_parents: Vec<String>,
    /// The flow's name by Community ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub community_id: Option<String>,
}

/// One end of a flow.
#[derive(Debug, Serialize)]
pub struct End {
    /// Its address.
    pub address: IpAddr,
    /// Its port; 0 where the protocol has none.
    pub port: u16,
}

/// What was sent one way.
#[derive(Debug, Serialize)]
pub struct Sent {
    /// How much.
    #[serde(flatten)]
    pub count: Count,
    /// The flags of all segments, as tcpdump writes them; for TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_flags: Option<String>,
}

/// Answers that were timed.
#[derive(Debug, Serialize)]
pub struct Responses {
    /// How many.
    pub count: u64,
    /// The seconds that they took, on average.
    pub mean: f64,
}

/// What the two hellos of TLS say in the clear.
#[derive(Debug, Serialize)]
pub struct Tls {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_name: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    application_protocols: Vec<String>,
}

impl FlowRow {
    /// What the payload looks like, with the server's name that TLS asks for.
    #[must_use]
    pub fn looks_like(&self) -> String {
        let name = self.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
        let application = self.application.unwrap_or_default();
        name.map_or_else(|| application.to_owned(), |name| format!("{application} {name}"))
    }
}

impl From<&FlowRecord> for FlowRow {
    fn from(record: &FlowRecord) -> Self {
        let FlowRecord {
            api,
            role,
            interface,
            local,
            remote,
            protocol: number,
            wire,
            tcp_flags: flags,
            began: _,
            first,
            last,
            end,
            handshake,
            responses,
            response_time,
            retransmitted,
            application,
            tls,
            trace_parents,
        } = record;
        let sent = |direction: Direction| Sent {
            count: wire[direction.index()].into(),
            tcp_flags: (*number == protocol::TCP).then(|| tcp_flags(flags[direction.index()])),
        };
        #[expect(clippy::cast_precision_loss, reason = "a mean, to be shown")]
        let responses = (*responses > 0)
            .then(|| Responses { count: *responses, mean: response_time.as_secs_f64() / *responses as f64 });
        Self {
            api: api.to_string(),
            role: role.map_or("none", Role::as_str),
            interface: Some(interface.to_string()),
            protocol: protocol_name(*number),
            local: (*local).into(),
            remote: (*remote).into(),
            receive: sent(Direction::Receive),
            transmit: sent(Direction::Transmit),
            first: seconds(*first),
            last: seconds(*last),
            end: end.map(FlowEnd::as_str),
            handshake: handshake.map(|duration| duration.as_secs_f64()),
            responses,
            retransmitted: *retransmitted,
            application: (*application != Protocol::Unknown).then(|| application.as_str()),
            tls: tls.as_deref().map(Tls::from),
            trace_parents: trace_parents.iter().map(TraceParent::to_string).collect(),
            community_id: record.community_id(),
        }
    }
}

impl From<&TlsHello> for Tls {
    fn from(TlsHello { version, server_name, application_protocols, .. }: &TlsHello) -> Self {
        let (server_name, application_protocols) = (server_name.clone(), application_protocols.clone());
        Self { version: *version, server_name, application_protocols }
    }
}

impl From<SocketAddr> for End {
    fn from(address: SocketAddr) -> Self {
        Self { address: address.ip(), port: address.port() }
    }
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            0 => self.address.fmt(formatter),
            port => SocketAddr::new(self.address, port).fmt(formatter),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn protocol_name(number: u8) -> String {
    let known = [
        (protocol::ICMP, "icmp"),
        (protocol::TCP, "tcp"),
        (protocol::UDP, "udp"),
        (protocol::GRE, "gre"),
        (protocol::ICMPV6, "icmpv6"),
        (protocol::SCTP, "sctp"),
    ];
    known
        .into_iter()
        .find(|(protocol, _)| *protocol == number)
        .map_or_else(|| number.to_string(), |(_, name)| name.to_owned())
}

/// The flags as tcpdump writes them, and a dot for ACK.
fn tcp_flags(flags: u8) -> String {
    let letters = [
        (tcp_flag::SYN, 'S'),
        (tcp_flag::FIN, 'F'),
        (tcp_flag::RST, 'R'),
        (tcp_flag::PSH, 'P'),
        (tcp_flag::URG, 'U'),
        (tcp_flag::ECE, 'E'),
        (tcp_flag::CWR, 'W'),
        (tcp_flag::ACK, '.'),
    ];
    letters.into_iter().filter(|(flag, _)| flags & flag != 0).map(|(_, letter)| letter).collect()
}
