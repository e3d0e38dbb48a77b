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
pub(super) fn ends(role: Option<Role>, local: SocketAddr, remote: SocketAddr) -> [KeyValue; 4] {
    let end = |address, port, end: SocketAddr| {
        [KeyValue::new(address, end.ip().to_string()), KeyValue::new(port, i64::from(end.port()))]
    };
    let (client, server) = match role {
        Some(Role::Server) => (remote, local),
        Some(Role::Client) => (local, remote),
        None => {
            let [address, port] = end(NETWORK_LOCAL_ADDRESS, NETWORK_LOCAL_PORT, local);
            let [peer, peer_port] = end(NETWORK_PEER_ADDRESS, NETWORK_PEER_PORT, remote);
            return [address, port, peer, peer_port];
        }
    };
    let [address, port] = end(CLIENT_ADDRESS, CLIENT_PORT, client);
    let [server_address, server_port] = end(SERVER_ADDRESS, SERVER_PORT, server);
    [address, port, server_address, server_port]
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
