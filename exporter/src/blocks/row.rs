//! A block as it is shown, and kept over a restart.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tidewaiter_common::anomaly::AnomalyKind;

use super::{MAX_REASON, Removed, parse_network};
use crate::event::{Block, BlockedBy, texts::rfc3339};

/// A block in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRow {
    /// What is blocked: a prefix.
    pub network: String,
    /// Until when, by RFC 3339.
    pub until: String,
    /// Who asked for it: `command_line`, `http` or `response`; `unknown` of those of before a restart, where nothing else is known.
    pub by: String,
    /// The anomaly that it responds to, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anomaly: Option<String>,
    /// Why.
    pub reason: String,
}

impl From<&Block> for BlockRow {
    fn from(block: &Block) -> Self {
        let Block { network, until, reason, by } = block;
        let anomaly = match by {
            BlockedBy::Response(kind) => Some(kind.as_str().to_owned()),
            BlockedBy::CommandLine | BlockedBy::Http | BlockedBy::Unknown => None,
        };
        Self {
            network: network.to_string(),
            until: rfc3339(*until),
            by: by.as_str().to_owned(),
            anomaly,
            reason: reason.clone(),
        }
    }
}

impl BlockRow {
    /// The block that it is; `None` if it is none.
    #[must_use]
    pub fn block(&self) -> Option<Block> {
        let network = parse_network(&self.network).ok()?;
        let until: SystemTime = humantime::parse_rfc3339(&self.until).ok()?;
        let by = match (self.by.as_str(), self.anomaly.as_deref()) {
            ("command_line", None) => BlockedBy::CommandLine,
            ("http", None) => BlockedBy::Http,
            ("unknown", None) => BlockedBy::Unknown,
            ("response", Some(kind)) => {
                BlockedBy::Response(AnomalyKind::ALL.iter().copied().find(|one| one.as_str() == kind)?)
            }
            _ => return None,
        };
        let is_shown = self.reason.chars().count() <= MAX_REASON && !self.reason.chars().any(char::is_control);
        is_shown.then(|| Block { network, until, reason: super::shown(&self.reason), by })
    }
}

/// A block that is no more, in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnblockedRow {
    /// The block that there was.
    #[serde(flatten)]
    pub block: BlockRow,
    /// The prefix around it that is blocked all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub still_blocked_by: Option<String>,
}

impl From<&Removed> for UnblockedRow {
    fn from(Removed { block, covering }: &Removed) -> Self {
        Self { block: BlockRow::from(block), still_blocked_by: covering.map(|covering| covering.to_string()) }
    }
}
