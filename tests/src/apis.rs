//! APIs of real servers, and what the exporter says of them.

use std::net::SocketAddr;

use serde_json::Value;

use crate::{
    exporter::Exporter,
    network::{INTERFACE, Network},
};

/// The APIs, and their ports.
const APIS: [(&str, u16); 7] =
    [("web", 80), ("tls", 443), ("cache", 6379), ("database", 5432), ("shell", 22), ("mail", 25), ("nobody", 81)];

/// The configuration of an exporter that has `role` in each.
#[must_use]
pub fn configuration(role: &str) -> String {
    let api = |(name, port): (&str, u16)| format!("[[api]]\nname = \"{name}\"\nports = [{port}]\nrole = \"{role}\"\n");
    let apis = APIS.map(api).concat();
    format!("interfaces = [\"{INTERFACE}\"]\n{apis}")
}

/// The port of `api`.
#[must_use]
pub fn port(api: &str) -> u16 {
    APIS.iter().find(|(name, _)| *name == api).unwrap().1
}

/// Where `api` is.
#[must_use]
pub fn address(api: &str) -> SocketAddr {
    (Network::SERVER4, port(api)).into()
}

/// What `/api/v1/apis` says of `api`.
#[must_use]
pub fn row(exporter: &Exporter<'_>, api: &str) -> Value {
    let answer: Value = serde_json::from_slice(&exporter.body("/api/v1/apis", &[])).unwrap();
    answer["apis"].as_array().unwrap().iter().find(|row| row["api"] == api).cloned().unwrap()
}
