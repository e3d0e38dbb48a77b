//! What a user may write in `[guard]` and `[[rule]]`.

use std::{fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tidewaiter_common::{anomaly::AnomalyKind, guard::Action};

use super::blocks::DEFAULT_SOCKET;
use crate::{
    api::PortRange,
    config::{
        one_or_many::OneOrMany,
        raw::{Interval, RawTransport, Text},
    },
};

/// `[guard]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct RawGuard {
    /// Caps the rules' own.
    pub mode: GuardMode,
    /// Where packets are judged.
    pub attach: GuardAttach,
    /// How long packets are judged after the exporter was last heard of.
    pub hold: Interval,
    /// Who is always let in.
    pub protect: OneOrMany<String>,
    /// Ports whose established connections are always let in.
    pub protect_ports: Vec<u16>,
    /// How many clients limits are kept for.
    pub clients: i64,
    /// How many clients of a rule are told by their address in an interval.
    pub told_clients: i64,
    /// How many blocks there can be.
    pub max_blocks: i64,
    /// Where blocks are kept over a restart.
    pub state: PathBuf,
    /// Where the command line finds the exporter.
    pub socket: PathBuf,
    /// The label of Alertmanager's alerts that says whom to block.
    pub alert_label: String,
    /// How long an alert blocks, unless it says so itself.
    pub alert_block_for: Interval,
}

impl Default for RawGuard {
    fn default() -> Self {
        Self {
            mode: GuardMode::Enforce,
            attach: GuardAttach::Auto,
            hold: Interval(Duration::from_mins(1)),
            protect: OneOrMany(Vec::new()),
            protect_ports: vec![22],
            clients: 65_536,
            told_clients: 8,
            max_blocks: 10_000,
            state: "/var/lib/tidewaiter/blocks.json".into(),
            socket: DEFAULT_SOCKET.into(),
            alert_label: "client".to_owned(),
            alert_block_for: Interval(Duration::from_mins(10)),
        }
    }
}

/// Whether rules do what they say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", expecting = "\"observe\" or \"enforce\"")]
pub enum GuardMode {
    /// No: it is only counted what they would do.
    #[default]
    Observe,
    /// Yes.
    Enforce,
}

/// Where packets are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", expecting = "\"auto\", \"xdp\" or \"tc\"")]
pub enum GuardAttach {
    /// By XDP where the driver has it, else in TC.
    Auto,
    /// By XDP in the driver, or not at all.
    Xdp,
    /// In TC.
    Tc,
}

impl GuardAttach {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        }
    }
}

/// `[[rule]]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct RawRule {
    /// The name.
    pub name: String,
    /// Prefixes that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<OneOrMany<String>>,
    /// Files of such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_file: Option<OneOrMany<PathBuf>>,
    /// Prefixes that it is not about, of those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub except: Option<OneOrMany<String>>,
    /// Files of such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub except_file: Option<OneOrMany<PathBuf>>,
    /// The APIs that it is about: names, `"*"` for all, `"unmapped"`; all traffic if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<OneOrMany<String>>,
    /// The transports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<OneOrMany<RawTransport>>,
    /// The ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PortRange>>,
    /// The anomalies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anomaly: Option<OneOrMany<RawAnomaly>>,
    /// That it is about payload that its API does not expect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<RawPayload>,
    /// What is let through all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<RawLimit>,
    /// What is done.
    pub action: RawAction,
    /// What packets are marked with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<i64>,
    /// Whether it does what it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<GuardMode>,
}

/// `limit` of a rule.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct RawLimit {
    /// Segments that open a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_per_second: Option<f64>,
    /// Packets on the wire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets_per_second: Option<f64>,
    /// Bytes on the wire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<f64>,
    /// Requests of HTTP/1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<f64>,
    /// How many at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<i64>,
    /// Who has one of his own.
    #[serde(default)]
    pub per: RawPer,
    /// Bits of an IPv4 address that make a client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4_prefix: Option<i64>,
    /// Bits of an IPv6 address that make a client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_prefix: Option<i64>,
}

/// Who has a limit of his own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", expecting = "\"api\" or \"client\"")]
pub enum RawPer {
    /// Each API.
    #[default]
    Api,
    /// Each client of each API.
    Client,
}

/// What `payload` may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", expecting = "\"unexpected\"")]
pub enum RawPayload {
    /// Not what the API expects.
    Unexpected,
}

/// Declares what is written as one of some names.
macro_rules! named {
    ($(#[$doc:meta])+ $name:ident($inner:ty), $all:expr, $expected:literal) => {
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(pub $inner);

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.0.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let parse = |text: &str| $all.iter().copied().find(|one| one.as_str() == text);
                deserializer.deserialize_any(Text { parse, expected: $expected }).map(Self)
            }
        }
    };
}

named! {
    /// An [`Action`] as it is written.
    RawAction(Action), Action::ALL, "\"allow\", \"drop\", \"reject\" or \"mark\""
}
named! {
    /// An [`AnomalyKind`] as it is written.
    RawAnomaly(AnomalyKind), AnomalyKind::ALL, "the name of an anomaly such as \"bad_tcp_flags\""
}

impl fmt::Display for RawAnomaly {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.as_str())
    }
}
