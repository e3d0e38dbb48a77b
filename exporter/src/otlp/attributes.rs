//! Attributes of spans and log records, by their names in OpenTelemetry's semantic conventions; where those have none, under
//! `tidewaiter.`.

use std::net::SocketAddr;

use opentelemetry::{KeyValue, Value};
use opentelemetry_semantic_conventions::attribute::{
    CLIENT_ADDRESS, CLIENT_PORT, NETWORK_LOCAL_ADDRESS, NETWORK_LOCAL_PORT, NETWORK_PEER_ADDRESS, NETWORK_PEER_PORT,
    NETWORK_PROTOCOL_NAME, NETWORK_PROTOCOL_VERSION, RPC_SYSTEM_NAME, SERVER_ADDRESS, SERVER_PORT,
};

use crate::{api::Role, flow::Protocol};

/// The API.
pub(super) const API: &str = "tidewaiter.api";
/// Which end of it this host is.
pub(super) const ROLE: &str = "tidewaiter.role";

/// The two ends of a flow: who is the client and who the server where that is known, else this host and its peer.
pub(super) fn ends(role: Option<Role>, local: SocketAddr, remote: SocketAddr) -> Vec<KeyValue> {
    known_ends(role, Some(local), Some(remote))
}

/// As [`ends`], of those that are known; a port that is 0 is not.
pub(super) fn known_ends(role: Option<Role>, local: Option<SocketAddr>, remote: Option<SocketAddr>) -> Vec<KeyValue> {
    let of_local = match role {
        Some(Role::Server) => (SERVER_ADDRESS, SERVER_PORT),
        Some(Role::Client) => (CLIENT_ADDRESS, CLIENT_PORT),
        None => (NETWORK_LOCAL_ADDRESS, NETWORK_LOCAL_PORT),
    };
    let of_remote = match role {
        Some(Role::Server) => (CLIENT_ADDRESS, CLIENT_PORT),
        Some(Role::Client) => (SERVER_ADDRESS, SERVER_PORT),
        None => (NETWORK_PEER_ADDRESS, NETWORK_PEER_PORT),
    };
    let mut attributes = Vec::with_capacity(4);
    for ((address, port), end) in [(of_local, local), (of_remote, remote)] {
        let Some(end) = end else { continue };
        attributes.push(KeyValue::new(address, end.ip().to_string()));
        attributes.extend((end.port() != 0).then(|| KeyValue::new(port, i64::from(end.port()))));
    }
    attributes
}

/// What a payload looks like: the name of the protocol, its version where that is another protocol on the wire, and what is
/// spoken over it. Nothing for what is not known.
pub(super) fn application(protocol: Protocol) -> Vec<KeyValue> {
    let (name, version, rpc) = match protocol {
        Protocol::Unknown => return Vec::new(),
        Protocol::Http1 => ("http", Some("1"), None),
        Protocol::Http2 => ("http", Some("2"), None),
        Protocol::Grpc => ("http", Some("2"), Some("grpc")),
        other => (other.as_str(), None, None),
    };
    let value = |key, value: Option<&'static str>| Some(KeyValue::new(key, Value::from(value?)));
    [value(NETWORK_PROTOCOL_NAME, Some(name)), value(NETWORK_PROTOCOL_VERSION, version), value(RPC_SYSTEM_NAME, rpc)]
        .into_iter()
        .flatten()
        .collect()
}
