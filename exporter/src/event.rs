//! What happens, for those who want to hear of each: one thing at a time, with the time.
//!
//! This is the one list of it. Whoever shows events (OTLP log records, the audit log) shows all that is here.

pub mod facts;
pub mod texts;
mod wording;

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use ipnet::IpNet;

pub use self::wording::Severity;
pub(crate) use self::wording::{STARTED, STOPPED};
use crate::{
    anomaly::{Anomaly, AnomalyKind},
    blocks::BlockRefusal,
};

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it was seen.
    pub time: SystemTime,
    /// What.
    pub what: Happening,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// Something that should not be.
    Anomaly(Anomaly),
    /// More anomalies of one kind and API than are told one by one.
    MoreAnomalies {
        /// The API.
        api: Arc<str>,
        /// The kind.
        kind: AnomalyKind,
        /// How many, in a minute.
        untold: u64,
    },
    /// What a rule has decided of one client's packets, in an interval.
    RuleHits(RuleHits),
    /// More packets that rules have decided about than are told by rule and client, in an interval.
    MoreHits {
        /// How many packets.
        packets: u64,
        /// When the interval began; it ended at the time of the event.
        since: SystemTime,
    },
    /// All that comes from somewhere is blocked from now on, or for longer than it was.
    Blocked(Block),
    /// It is blocked no more.
    Unblocked {
        /// What was blocked.
        network: IpNet,
        /// Why no more.
        why: Unblocked,
    },
    /// The exporter has begun.
    Started {
        /// Its version.
        version: &'static str,
        /// Hash of the configuration that is in force, see [`ConfigurationChange::hash`].
        configuration: String,
        /// Whether it goes on from what an exporter before it has left.
        took_over: bool,
    },
    /// The exporter is about to end.
    Stopped {
        /// Whether its programs go on without it.
        persists: bool,
    },
    /// Another configuration is in force.
    ConfigurationChanged(ConfigurationChange),
    /// A configuration was not taken; the one before stays in force.
    ConfigurationRefused {
        /// Who asked for it.
        by: Trigger,
        /// What is wrong with it.
        reason: String,
    },
    /// Files that say whom HTTP lets in have changed, and are in force.
    AccessChanged(AccessChange),
    /// They have changed, but cannot be used; what was in force still is.
    AccessRefused {
        /// What they have become.
        change: AccessChange,
        /// What is wrong with that.
        reason: String,
    },
    /// The guard was switched off, or on again, by hand.
    GuardSwitched {
        /// Whether it is on.
        on: bool,
    },
    /// How far the audit log has come: for whoever keeps this elsewhere, so that it shows if the log's end is cut off. It is not
    /// in the audit log itself.
    AuditHead {
        /// The number of the last line.
        sequence: u64,
        /// SHA-256 of the last line, in hexadecimal digits.
        hash: String,
    },
}

/// What was decided of packets of one client, by one rule, for one API, in one interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleHits {
    /// The rule's name.
    pub rule: Arc<str>,
    /// The API.
    pub api: Arc<str>,
    /// The client; `None` for those that were too many to be told one by one.
    pub client: Option<IpAddr>,
    /// What was decided: the value of the label `verdict`.
    pub verdict: &'static str,
    /// How many packets.
    pub packets: u64,
    /// When the interval began; it ended at the time of the event.
    pub since: SystemTime,
}

/// A block: nothing that comes from a network is let in until it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Where from.
    pub network: IpNet,
    /// Until when.
    pub until: SystemTime,
    /// Why, as who asked for it has put it.
    pub reason: String,
    /// Who asked for it.
    pub by: BlockedBy,
}

/// Who asked for a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockedBy {
    /// Somebody with the command line.
    CommandLine,
    /// Another system, over HTTP.
    Http,
    /// A response of the configuration, to an anomaly.
    Response(AnomalyKind),
    /// Somebody, before the exporter was started: the kernel has it, and the file that says more cannot be read.
    Unknown,
}

impl BlockedBy {
    /// Whose words count more: those of people, than those of programs.
    #[must_use]
    pub const fn rank(self) -> u8 {
        match self {
            Self::CommandLine => 3,
            Self::Http => 2,
            Self::Response(_) => 1,
            Self::Unknown => 0,
        }
    }
}

/// Why something is no longer blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unblocked {
    /// Its time is over.
    Expired,
    /// Somebody with the command line has asked for it.
    CommandLine,
    /// Another system has, over HTTP.
    Http,
    /// After a restart it cannot be put in force again: there is less room, or somebody is protected who was not.
    Restart(BlockRefusal),
}

/// One configuration in the place of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigurationChange {
    /// Who asked for it.
    pub by: Trigger,
    /// SHA-256 of the one before, in hexadecimal digits.
    pub hash_before: String,
    /// SHA-256 of the one that is in force now: of what it resolves to, secrets left out.
    pub hash: String,
    /// What is different: a line for each key, with its value before and now.
    pub difference: Vec<String>,
    /// Its number: the first one has 1.
    pub generation: u64,
}

/// What files have become that say whom HTTP lets in. What is in them is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessChange {
    /// The key of the configuration that names them.
    pub key: &'static str,
    /// SHA-256 of their names and contents, in hexadecimal digits.
    pub hash: String,
}

/// Who asked for a configuration to be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The signal SIGHUP.
    Signal,
    /// Its file has changed.
    File,
    /// A request over HTTP.
    Http,
}
