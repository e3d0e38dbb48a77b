//! What the integration tests are made of: network namespaces, interfaces, frames, the exporter itself.
//!
//! Everything that is made here is removed when it is dropped, also when a test panics. All of it panics rather than
//! returning errors: a test wants a stack trace.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, and says where"
)]

pub mod accounting;
pub mod apis;
pub mod bpf;
pub mod bpf_file_system;
pub mod bulk;
pub mod capture;
pub mod client;
pub mod collector;
pub mod command;
pub mod connections;
pub mod corpus;
pub mod exporter;
pub mod flood;
pub mod frames;
pub mod guarded;
pub mod hooks;
pub mod layers;
pub mod measure;
pub mod metrics;
pub mod namespace;
pub mod network;
pub mod old_kernel;
pub mod otlp;
pub mod packet_socket;
pub mod prometheus;
pub mod random;
pub mod refuser;
pub mod rotel;
pub mod servers;
pub mod snapshot;
pub mod statistics;
pub mod tap;
pub mod tmpfs;
pub mod traffic;
pub mod tshark;
pub mod wait;
