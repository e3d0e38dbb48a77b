//! Lines of the audit log, and how each is chained to the one before.

use std::{
    collections::BTreeMap,
    fmt,
    str::FromStr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

use crate::{
    event::{
        Event, Severity,
        facts::Facts,
        texts::{rfc3339, shortened},
    },
    flow::FlowRecord,
    report::flow::FlowRow,
};

/// The most bytes of a line, without its newline. Whatever others have sent, a record is shorter: texts in it are cut, and
/// what JSON makes of a byte is six at most.
pub const MAX_LINE: usize = 256 << 10;

/// The first line of each file.
pub(super) const OPENED: &str = "tidewaiter.audit.opened";
/// What says that a line before it was not written to its end.
pub(super) const TORN: &str = "tidewaiter.audit.torn";
/// What says which events were lost.
pub(super) const GAP: &str = "tidewaiter.audit.gap";
/// A flow.
pub const FLOW: &str = "tidewaiter.flow";
/// Whether the event called `name` is about the log itself.
pub(super) fn is_own(name: &str) -> bool {
    [OPENED, TORN, GAP].contains(&name)
}

/// What all names of events begin with.
const NAMES: &str = "tidewaiter.";

/// SHA-256 of a line, without its newline.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; 32]);

impl Hash {
    /// What stands in the place of the line before the very first one.
    pub const NONE: Self = Self([0; 32]);

    /// That of `line`.
    #[must_use]
    pub fn of(line: &[u8]) -> Self {
        Self::from(Sha256::new().chain_update(line))
    }
}

impl From<Sha256> for Hash {
    fn from(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for Hash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("found {text:?}, expected the 64 hexadecimal digits of a SHA-256");
        let mut hash = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        for (place, byte) in hash.iter_mut().enumerate() {
            let digits = text.get(place * 2..place * 2 + 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self(hash))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// How far a log has come: its last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The line's number; the very first line has 1.
    pub sequence: u64,
    /// The line's hash.
    pub hash: Hash,
}

impl Head {
    /// That of a log without lines.
    pub const NONE: Self = Self { sequence: 0, hash: Hash::NONE };
}

/// What a line is made of.
#[derive(Debug)]
pub(super) struct Entry {
    time: SystemTime,
    /// The name of the event.
    pub(super) name: &'static str,
    severity: Severity,
    message: String,
    body: Body,
}

/// What a line says beside what all do.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Body {
    Facts(Facts),
    Flow { flow: Box<FlowRow> },
    Opened(Opened),
    Torn(Torn),
    Gap(Gap),
}

/// A file was begun.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Opened {
    /// Why.
    pub(super) why: Why,
    /// The name of the file that it goes on from, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) continues: Option<String>,
}

/// Why a file was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Why {
    /// There was none.
    Begun,
    /// The one before was full.
    Rotated,
    /// Somebody else has taken the one before away while it was written.
    Replaced,
}

/// What stands between the last whole record and this one was written by half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Torn {
    /// How many bytes that is, newlines included.
    pub(super) bytes: u64,
    /// SHA-256 of these.
    pub(super) sha256: Hash,
}

/// What was lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Gap {
    /// How many events, in all.
    pub(super) total: u64,
    /// How many by their names.
    pub(super) lost: BTreeMap<&'static str, u64>,
    /// How many by the reason.
    pub(super) reasons: BTreeMap<&'static str, u64>,
    /// When the first of them was.
    #[serde(serialize_with = "write_time")]
    pub(super) since: SystemTime,
    /// When the last of them was.
    #[serde(serialize_with = "write_time")]
    pub(super) until: SystemTime,
}

fn write_time<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*time))
}

impl Entry {
    /// What is said of `event`.
    pub(super) fn event(event: &Event) -> Self {
        let Event { time, what } = event;
        let message = shortened(&what.message()).into_owned();
        Self { time: *time, name: what.name(), severity: what.severity(), message, body: Body::Facts(what.facts()) }
    }

    /// What is said of a flow.
    pub(super) fn flow(record: &Arc<FlowRecord>) -> Self {
        Self {
            time: record.last,
            name: FLOW,
            severity: Severity::Info,
            message: format!("a flow of {}", record.api),
            body: Body::Flow { flow: Box::new(FlowRow::from(record.as_ref())) },
        }
    }

    pub(super) fn opened(opened: Opened) -> Self {
        let (severity, message) = match opened.why {
            Why::Begun => (Severity::Info, "the audit log begins"),
            Why::Rotated => (Severity::Info, "the audit log goes on in another file"),
            Why::Replaced => (Severity::Warn, "somebody has taken the file away: the audit log goes on in another"),
        };
        Self::own(OPENED, severity, message.to_owned(), Body::Opened(opened))
    }

    pub(super) fn torn(torn: Torn) -> Self {
        let message = format!("{} bytes before this were written when the last exporter ended", torn.bytes);
        Self::own(TORN, Severity::Warn, message, Body::Torn(torn))
    }

    pub(super) fn gap(gap: Gap) -> Self {
        Self::own(GAP, Severity::Warn, format!("{} events could not be written", gap.total), Body::Gap(gap))
    }

    fn own(name: &'static str, severity: Severity, message: String, body: Body) -> Self {
        Self { time: SystemTime::now(), name, severity, message, body }
    }

    /// The line that says it after `head`, without its newline, and the head that it makes.
    pub(super) fn line(&self, head: Head) -> serde_json::Result<(Vec<u8>, Head)> {
        #[derive(Serialize)]
        struct Line<'a> {
            sequence: u64,
            time: String,
            event: &'static str,
            severity: &'static str,
            message: &'a str,
            #[serde(flatten)]
            body: &'a Body,
            previous: Hash,
        }

        let Self { time, name, severity, message, body } = self;
        let sequence = head.sequence.saturating_add(1);
        let time = rfc3339((*time).max(UNIX_EPOCH));
        let line =
            Line { sequence, time, event: name, severity: severity.as_str(), message, body, previous: head.hash };
        let line = serde_json::to_vec(&line)?;
        let head = Head { sequence, hash: Hash::of(&line) };
        Ok((line, head))
    }
}

/// What a line says that was read: as much as it takes to check it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Link {
    pub(super) sequence: u64,
    pub(super) time: String,
    pub(super) event: String,
    pub(super) previous: Hash,
    /// Of [`TORN`].
    #[serde(default)]
    pub(super) bytes: Option<u64>,
    /// Of [`TORN`].
    #[serde(default)]
    pub(super) sha256: Option<Hash>,
    /// Of [`GAP`].
    #[serde(default)]
    pub(super) total: Option<u64>,
}

impl Link {
    /// What `text` says, if it is a line of an audit log.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let link: Self = serde_json::from_slice(text).ok()?;
        let is_ours = link.event.starts_with(NAMES) && link.time.len() <= 64 && link.sequence > 0;
        is_ours.then_some(link)
    }
}

#[cfg(test)]
mod tests;
