//! tidewaiter: counts every packet per API in the kernel and serves the counts to Prometheus.
//!
//! There is one way up: kernel maps → [`snapshot::Snapshot`] → families of [`metrics`] → `/metrics` ([`http`]) and collectors
//! ([`otlp`]); flows that are over and events go to those who want them one by one. And there is one way down: [`config`] →
//! validated model → maps. [`kernel`] alone knows BPF, [`accounting`] owns it, [`daemon`] puts it all together.

pub mod accounting;
pub mod anomaly;
pub mod api;
pub mod audit;
pub mod blocks;
pub mod capabilities;
pub mod chain;
pub mod check;
pub mod cli;
pub mod community_id;
pub mod config;
pub mod control;
pub mod daemon;
pub mod discovery;
pub mod doctor;
pub mod event;
pub mod flow;
pub mod greeting;
pub mod grpc;
pub mod guard;
pub mod http;
pub mod interfaces;
pub mod kernel;
pub mod logging;
pub mod metrics;
pub mod otlp;
pub mod reload;
pub mod replay;
pub mod report;
pub mod sinks;
pub mod slots;
pub mod snapshot;
pub mod tls;
pub mod trace_context;
pub mod tracker;
