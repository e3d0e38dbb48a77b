//! The control socket: how the command line asks a running exporter for something.
//!
//! A client sends one line of JSON, a [`Request`], and gets one back, an [`Answer`]. Only root and the exporter's own user are let
//! in: by the socket's permissions, and by what the kernel says of who has connected.

pub mod client;
pub mod command;
pub mod server;

use serde::{Deserialize, Serialize};

use crate::{
    blocks::{BlockError, BlockRow, UnblockedRow, parse_network, parse_period},
    event::{BlockedBy, Unblocked},
    http::Shared,
};

/// The most bytes of a request.
pub const MAX_REQUEST: u64 = 4 << 10;

/// The most bytes of an answer: as many blocks as there can be, with long reasons.
pub const MAX_ANSWER: u64 = 64 << 20;

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// To block.
    Block {
        /// An address or a prefix.
        address: String,
        /// For how long, such as "10m".
        #[serde(rename = "for")]
        period: String,
        /// Why.
        reason: String,
    },
    /// To block no more.
    Unblock {
        /// An address or a prefix.
        address: String,
    },
    /// All blocks that there are.
    Blocks,
    /// How the guard is.
    Guard {
        /// Whether it is to be on, if it is to be switched.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        on: Option<bool>,
    },
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The block that there is now.
    Blocked(BlockRow),
    /// The block that there was.
    Unblocked(UnblockedRow),
    /// All blocks.
    Blocks(Vec<BlockRow>),
    /// Whether the guard is on.
    Guard {
        /// So it is.
        on: bool,
    },
    /// Nothing was done.
    Error(String),
}

/// Does what is asked for. Where blocks have changed, they are kept before this answers.
pub async fn handle(request: Request, shared: &Shared) -> Answer {
    let answered = answer(request, shared);
    shared.save_blocks().await;
    answered.unwrap_or_else(|error| Answer::Error(crate::chain::chain(&error)))
}

fn answer(request: Request, shared: &Shared) -> Result<Answer, BlockError> {
    let mut accounting = shared.accounting();
    Ok(match request {
        Request::Block { address, period, reason } => {
            let (network, period) = (parse_network(&address)?, parse_period(&period)?);
            let block = accounting.block(network, period, reason, BlockedBy::CommandLine)?;
            Answer::Blocked(BlockRow::from(&block))
        }
        Request::Unblock { address } => {
            let removed = accounting.unblock(parse_network(&address)?, Unblocked::CommandLine)?;
            Answer::Unblocked(UnblockedRow::from(&removed))
        }
        Request::Blocks => Answer::Blocks(accounting.blocks().iter().map(BlockRow::from).collect()),
        Request::Guard { on } => {
            if let Some(on) = on {
                accounting.require_changes()?;
                accounting.switch_guard(on)?;
            }
            Answer::Guard { on: accounting.is_guard_on()? }
        }
    })
}
