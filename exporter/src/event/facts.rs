//! What is known of an event beside its name, in one list for all who show it: the audit log calls a fact by a plain word, OTLP
//! by the name of an attribute.

use std::{borrow::Cow, net::SocketAddr, time::SystemTime};

use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::{
    AccessChange, Block, BlockedBy, ConfigurationChange, Happening, RuleHits, Trigger, Unblocked,
    texts::{rfc3339, shortened, shortened_list},
};
use crate::{anomaly::Anomaly, api::Role, flow::Protocol, report::flow::End};

/// Declares [`Key`] with both names of each, in one list, so that neither can be forgotten.
macro_rules! keys {
    ($($(#[$doc:meta])+ $variant:ident = $plain:literal, $attribute:literal;)+) => {
        /// What a fact is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Key { $($(#[$doc])+ $variant,)+ }

        impl Key {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// What the audit log calls it: as `/api/v1` does, where that has it.
            #[must_use]
            pub const fn plain(self) -> &'static str {
                match self { $(Self::$variant => $plain,)+ }
            }

            /// What OTLP calls it: as the semantic conventions do, where they have it.
            #[must_use]
            pub const fn attribute(self) -> &'static str {
                match self { $(Self::$variant => $attribute,)+ }
            }
        }
    };
}

keys! {
    /// The name of the API.
    Api = "api", "tidewaiter.api";
    /// Which end of it this host is.
    Role = "role", "tidewaiter.role";
    /// The kind of an anomaly.
    Kind = "kind", "tidewaiter.anomaly.kind";
    /// How many anomalies were not told.
    Count = "count", "tidewaiter.anomaly.count";
    /// The first bytes of a payload, escaped.
    FirstBytes = "first_bytes", "tidewaiter.payload.first_bytes";
    /// The name of a rule.
    Rule = "rule", "tidewaiter.rule";
    /// What a rule has decided.
    Verdict = "verdict", "tidewaiter.verdict";
    /// The client that it has decided of.
    Client = "client", "client.address";
    /// How many packets.
    Packets = "packets", "tidewaiter.packets";
    /// When the interval began.
    Since = "since", "tidewaiter.since";
    /// What is blocked, or no more.
    Network = "network", "tidewaiter.block.network";
    /// Until when it is.
    Until = "until", "tidewaiter.block.until";
    /// Who asked for it, or how it came.
    By = "by", "tidewaiter.by";
    /// Why, in the words of whoever asked for it, or who refused it.
    Reason = "reason", "tidewaiter.reason";
    /// The exporter's version.
    Version = "version", "service.version";
    /// SHA-256 of the configuration that is in force.
    Configuration = "configuration", "tidewaiter.configuration.hash";
    /// SHA-256 of the one before.
    ConfigurationBefore = "configuration_before", "tidewaiter.configuration.hash_before";
    /// The configuration's number.
    Generation = "generation", "tidewaiter.configuration.generation";
    /// What is different in it.
    Difference = "difference", "tidewaiter.configuration.difference";
    /// The key of what says whom HTTP lets in.
    Access = "access", "tidewaiter.access";
    /// SHA-256 of the files that it names.
    AccessHash = "access_hash", "tidewaiter.access.hash";
    /// Whether the exporter goes on from what another has left.
    TookOver = "took_over", "tidewaiter.took_over";
    /// Whether the programs go on without the exporter.
    Persists = "persists", "tidewaiter.persists";
    /// Whether the guard is on.
    On = "on", "tidewaiter.guard.on";
    /// The number of the audit log's last line.
    AuditSequence = "audit_sequence", "tidewaiter.audit.sequence";
    /// SHA-256 of the audit log's last line.
    AuditHash = "audit_hash", "tidewaiter.audit.hash";
}

/// What is so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// In words; at most [`MAX_TEXT`](super::texts::MAX_TEXT) bytes.
    Text(Cow<'static, str>),
    /// A number of things.
    Number(u64),
    /// Yes or no.
    Flag(bool),
    /// A time.
    Time(SystemTime),
    /// Several texts; at most [`MAX_LIST`](super::texts::MAX_LIST) bytes in all.
    List(Vec<String>),
}

/// All that is known of an event beside its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// What is called by a name.
    pub fields: Vec<(Key, Value)>,
    /// Which end this host is of a flow that it is about.
    pub role: Option<Role>,
    /// This host's end of it.
    pub local: Option<SocketAddr>,
    /// The other end.
    pub remote: Option<SocketAddr>,
    /// What its payload looks like.
    pub application: Option<Protocol>,
}

impl Facts {
    fn add(&mut self, key: Key, value: Value) {
        self.fields.push((key, value));
    }

    fn text(&mut self, key: Key, text: impl AsRef<str>) {
        self.add(key, Value::Text(shortened(text.as_ref()).into_owned().into()));
    }

    fn word(&mut self, key: Key, word: &'static str) {
        self.add(key, Value::Text(word.into()));
    }
}

impl Happening {
    /// All that is known of it. It is bounded, whatever others have sent.
    #[must_use]
    pub fn facts(&self) -> Facts {
        let mut facts = Facts::default();
        match self {
            Self::Anomaly(anomaly) => of_anomaly(&mut facts, anomaly),
            Self::MoreAnomalies { api, kind, untold } => {
                facts.text(Key::Api, api);
                facts.word(Key::Kind, kind.as_str());
                facts.add(Key::Count, Value::Number(*untold));
            }
            Self::RuleHits(RuleHits { rule, api, client, verdict, packets, since }) => {
                facts.text(Key::Rule, rule);
                facts.text(Key::Api, api);
                if let Some(client) = client {
                    facts.text(Key::Client, client.to_string());
                }
                facts.word(Key::Verdict, verdict);
                facts.add(Key::Packets, Value::Number(*packets));
                facts.add(Key::Since, Value::Time(*since));
            }
            Self::MoreHits { packets, since } => {
                facts.add(Key::Packets, Value::Number(*packets));
                facts.add(Key::Since, Value::Time(*since));
            }
            Self::Blocked(Block { network, until, reason, by }) => {
                facts.text(Key::Network, network.to_string());
                facts.add(Key::Until, Value::Time(*until));
                facts.word(Key::By, by.as_str());
                if let BlockedBy::Response(kind) = by {
                    facts.word(Key::Kind, kind.as_str());
                }
                facts.text(Key::Reason, reason);
            }
            Self::Unblocked { network, why } => {
                facts.text(Key::Network, network.to_string());
                facts.word(Key::By, why.as_str());
                if let Unblocked::Restart(refusal) = why {
                    facts.word(Key::Reason, refusal.as_str());
                }
            }
            Self::Started { version, configuration, took_over } => {
                facts.word(Key::Version, version);
                facts.text(Key::Configuration, configuration);
                facts.add(Key::TookOver, Value::Flag(*took_over));
            }
            Self::Stopped { persists } => facts.add(Key::Persists, Value::Flag(*persists)),
            Self::ConfigurationChanged(ConfigurationChange { by, hash_before, hash, difference, generation }) => {
                facts.word(Key::By, by.as_str());
                facts.add(Key::Generation, Value::Number(*generation));
                facts.text(Key::ConfigurationBefore, hash_before);
                facts.text(Key::Configuration, hash);
                facts.add(Key::Difference, Value::List(shortened_list(difference)));
            }
            Self::ConfigurationRefused { by, reason } => {
                facts.word(Key::By, by.as_str());
                facts.text(Key::Reason, reason);
            }
            Self::AccessChanged(change) => of_access(&mut facts, change),
            Self::AccessRefused { change, reason } => {
                of_access(&mut facts, change);
                facts.text(Key::Reason, reason);
            }
            Self::GuardSwitched { on } => facts.add(Key::On, Value::Flag(*on)),
            Self::AuditHead { sequence, hash } => {
                facts.add(Key::AuditSequence, Value::Number(*sequence));
                facts.text(Key::AuditHash, hash);
            }
        }
        facts
    }
}

fn of_access(facts: &mut Facts, AccessChange { key, hash }: &AccessChange) {
    facts.word(Key::Access, key);
    facts.text(Key::AccessHash, hash);
}

fn of_anomaly(facts: &mut Facts, anomaly: &Anomaly) {
    let Anomaly { kind, api, role, local, remote, application, rule, detail: _, first_bytes } = anomaly;
    facts.text(Key::Api, api);
    facts.word(Key::Role, role.map_or("none", Role::as_str));
    facts.word(Key::Kind, kind.as_str());
    if let Some(rule) = rule {
        facts.text(Key::Rule, rule);
    }
    if !first_bytes.is_empty() {
        facts.text(Key::FirstBytes, first_bytes.escape_ascii().to_string());
    }
    *facts = Facts { role: *role, local: *local, remote: *remote, application: *application, ..std::mem::take(facts) };
}

impl BlockedBy {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CommandLine => "command_line",
            Self::Http => "http",
            Self::Response(_) => "response",
            Self::Unknown => "unknown",
        }
    }
}

impl Unblocked {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expiry",
            Self::CommandLine => "command_line",
            Self::Http => "http",
            Self::Restart(_) => "restart",
        }
    }
}

impl Trigger {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::File => "file",
            Self::Http => "http",
        }
    }
}

/// Facts as the audit log has them: an object, with the two ends as `/api/v1/flows` writes them.
impl Serialize for Facts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { fields, role: _, local, remote, application } = self;
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in fields {
            map.serialize_entry(key.plain(), value)?;
        }
        for (name, end) in [("local", local), ("remote", remote)] {
            if let Some(end) = end {
                map.serialize_entry(name, &End::from(*end))?;
            }
        }
        if let Some(application) = application.filter(|application| *application != Protocol::Unknown) {
            map.serialize_entry("application", application.as_str())?;
        }
        map.end()
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Number(number) => serializer.serialize_u64(*number),
            Self::Flag(flag) => serializer.serialize_bool(*flag),
            Self::Time(time) => serializer.serialize_str(&rfc3339(*time)),
            Self::List(texts) => serializer.collect_seq(texts),
        }
    }
}

#[cfg(test)]
mod tests;
