//! What a user may write.

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use clap::ValueEnum;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tidewaiter_common::flow::DEFAULT_CAPACITY;

use super::{
    anomalies::RawAnomalies,
    audit::RawAudit,
    guard::{
        blocks::RawResponse,
        raw::{RawGuard, RawRule},
    },
    one_or_many::OneOrMany,
    otlp::raw::RawOtlp,
};
use crate::{
    api::{PortRange, Protocol, Role, Transport},
    tracker::ACTIVE_TIMEOUT,
};

/// The configuration as it is written, with all defaults.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfiguration {
    /// Where HTTP is served.
    pub listen: String,
    /// The file that says how TLS and passwords are served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub web_config: Option<PathBuf>,
    /// The file with the token that lets programs change something over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_token_file: Option<PathBuf>,
    /// Names or globs of interfaces; the default route's and `lo` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interfaces: Option<OneOrMany<String>>,
    /// How the programs are attached.
    pub attach: AttachMode,
    /// The folder of the BPF file system where maps and hooks are pinned; one for the network namespace if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin_path: Option<PathBuf>,
    /// Whether accounting goes on when the exporter is asked to end.
    pub persist: bool,
    /// Whether it is read anew when its file, or one that it names, has changed.
    pub watch: bool,
    /// How flows are kept.
    pub flows: RawFlows,
    /// How listening sockets become APIs; only used while there is no `api`.
    pub discovery: RawDiscovery,
    /// How the guard is kept.
    pub guard: RawGuard,
    /// What is an anomaly.
    pub anomalies: RawAnomalies,
    /// What is sent to OpenTelemetry collectors.
    pub otlp: RawOtlp,
    /// The audit log.
    pub audit: RawAudit,
    /// How the log is written.
    pub log: RawLog,
    /// The APIs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub api: Vec<RawApi>,
    /// What is let in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rule: Vec<RawRule>,
    /// What anomalies are responded to with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub response: Vec<RawResponse>,
}

impl Default for RawConfiguration {
    fn default() -> Self {
        Self {
            listen: "0.0.0.0:9473".to_owned(),
            web_config: None,
            api_token_file: None,
            interfaces: None,
            attach: AttachMode::Auto,
            pin_path: None,
            persist: false,
            watch: true,
            flows: RawFlows {
                capacity: DEFAULT_CAPACITY.into(),
                idle_timeout: Interval(Duration::from_mins(1)),
                active_timeout: Interval(ACTIVE_TIMEOUT),
                clients: 20,
            },
            discovery: RawDiscovery {
                interval: Interval(Duration::from_secs(10)),
                limit: 64,
                forget_after: Interval(Duration::from_mins(5)),
            },
            guard: RawGuard::default(),
            anomalies: RawAnomalies::default(),
            otlp: RawOtlp::default(),
            audit: RawAudit::default(),
            log: RawLog { level: LogLevel::Info, format: LogFormat::Text },
            api: Vec::new(),
            rule: Vec::new(),
            response: Vec::new(),
        }
    }
}

/// `[flows]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct RawFlows {
    /// How many established flows there can be.
    pub capacity: i64,
    /// How long a flow is kept after its last packet.
    pub idle_timeout: Interval,
    /// How long a flow goes on until it is told in parts.
    pub active_timeout: Interval,
    /// How many clients of each API are counted by themselves.
    pub clients: i64,
}

/// `[discovery]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct RawDiscovery {
    /// Time between two looks at the sockets.
    pub interval: Interval,
    /// The most APIs that are made of them.
    pub limit: i64,
    /// How long an API stays after its last socket was closed.
    pub forget_after: Interval,
}

/// `[log]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct RawLog {
    /// The least important messages that are written.
    pub level: LogLevel,
    /// Text or JSON.
    pub format: LogFormat,
}

/// `[[api]]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct RawApi {
    /// The name.
    pub name: String,
    /// Ports and ranges of ports.
    pub ports: Vec<PortRange>,
    /// The transports; TCP if absent.
    #[serde(default = "RawApi::default_transport")]
    pub transport: OneOrMany<RawTransport>,
    /// Addresses of the end that has the port; any if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<OneOrMany<Address>>,
    /// Which end this host is; the server if absent.
    #[serde(default)]
    pub role: RawRole,
    /// What its payload should look like; anything if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<OneOrMany<ExpectedProtocol>>,
}

impl RawApi {
    fn default_transport() -> OneOrMany<RawTransport> {
        OneOrMany(vec![RawTransport::Tcp])
    }
}

/// A [`Transport`] as it is written.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", expecting = "\"tcp\", \"udp\" or \"sctp\"")]
pub enum RawTransport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl From<RawTransport> for Transport {
    fn from(transport: RawTransport) -> Self {
        match transport {
            RawTransport::Tcp => Self::Tcp,
            RawTransport::Udp => Self::Udp,
            RawTransport::Sctp => Self::Sctp,
        }
    }
}

/// A [`Role`] as it is written.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", expecting = "\"server\" or \"client\"")]
pub enum RawRole {
    /// This host serves the API.
    #[default]
    Server,
    /// This host calls the API.
    Client,
}

impl From<RawRole> for Role {
    fn from(role: RawRole) -> Self {
        match role {
            RawRole::Server => Self::Server,
            RawRole::Client => Self::Client,
        }
    }
}

/// How the programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", expecting = "\"auto\", \"tcx\" or \"clsact\"")]
pub enum AttachMode {
    /// By TCX where the kernel has it (Linux 6.6), else as TC filters.
    Auto,
    /// By TCX, or not at all.
    Tcx,
    /// As TC filters of a clsact qdisc.
    Clsact,
}

/// The least important messages that are written to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase", expecting = "\"error\", \"warn\", \"info\", \"debug\" or \"trace\"")]
pub enum LogLevel {
    /// What made something fail.
    Error,
    /// And what may need somebody's attention.
    Warn,
    /// And what happens: start, stop, interfaces and APIs that come and go.
    Info,
    /// And why.
    Debug,
    /// And everything else.
    Trace,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase", expecting = "\"text\" or \"json\"")]
pub enum LogFormat {
    /// A line of text each.
    Text,
    /// A JSON object on a line each.
    Json,
}

/// A span of time, written as `"90s"` or `"1m 30s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval(pub Duration);

impl Serialize for Interval {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parse = |text: &str| humantime::parse_duration(text).ok();
        deserializer.deserialize_any(Text { parse, expected: "a span of time such as \"30s\" or \"5m\"" }).map(Self)
    }
}

/// An IP address.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Address(pub IpAddr);

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parse = |text: &str| text.parse().ok();
        deserializer
            .deserialize_any(Text { parse, expected: "an IP address such as \"10.0.0.1\" or \"2001:db8::1\"" })
            .map(Self)
    }
}

/// A [`Protocol`] that payload should look like.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedProtocol(pub Protocol);

impl ExpectedProtocol {
    /// What may be expected: every protocol but the first, which is none of the others.
    const NAMES: [&str; Protocol::COUNT - 1] = {
        let mut names = [""; Protocol::COUNT - 1];
        let mut at = 0;
        while at < names.len() {
            names[at] = Protocol::ALL[at + 1].as_str();
            at += 1;
        }
        names
    };
}

const _: () = assert!(Protocol::Unknown.index() == 0);

impl Serialize for ExpectedProtocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for ExpectedProtocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = ExpectedProtocol;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("the name of a protocol such as \"http1\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ExpectedProtocol, E> {
                let place = ExpectedProtocol::NAMES.iter().position(|name| *name == text);
                place
                    .and_then(|place| Protocol::ALL.get(place + 1).copied())
                    .map(ExpectedProtocol)
                    .ok_or_else(|| E::unknown_variant(text, &ExpectedProtocol::NAMES))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// Reads what is written as a string, but is not any string.
pub(super) struct Text<F> {
    /// What it is, if it is that.
    pub(super) parse: F,
    /// What should have been there.
    pub(super) expected: &'static str,
}

impl<T, F: Fn(&str) -> Option<T>> de::Visitor<'_> for Text<F> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}
