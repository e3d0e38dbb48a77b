//! What the commands do that ask a running exporter, or go around it.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use super::{
    Answer, Request,
    client::{AskError, ask},
};
use crate::{
    blocks::{BlockRow, UnblockedRow},
    chain::chain,
    config::{Paths, guard::blocks::DEFAULT_SOCKET},
    kernel::{KernelError, namespace_cookie, pins::Pins, switch_pinned_guard},
};

/// Where an exporter is found.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its control socket.
    pub socket: PathBuf,
    /// Its folder of pins.
    pub pins: PathBuf,
}

impl Target {
    /// That of the command line's `socket` and `pins`, else of the configuration as far as that can be read: it may be why somebody
    /// is in a hurry.
    pub fn find(config: Option<&Path>, socket: Option<PathBuf>, pins: Option<PathBuf>) -> Result<Self, KernelError> {
        let paths = Paths::read(config);
        let pins = match pins.or(paths.pin_path) {
            Some(pins) => pins,
            None => Pins::default_path(namespace_cookie()?),
        };
        Ok(Self { socket: socket.or(paths.socket).unwrap_or_else(|| DEFAULT_SOCKET.into()), pins })
    }
}

/// What switching the guard has come to.
#[derive(Debug)]
pub struct Switched {
    /// What was done, for people to read.
    pub text: String,
    /// Whether anything was.
    pub is_done: bool,
}

/// Switches the guard: at once in the kernel, if that can be found there, whatever the exporter does; then by the exporter, which
/// writes it down.
#[must_use]
pub fn switch(target: &Target, on: bool) -> Switched {
    let mut text = String::new();
    let mut is_done = false;
    let word = if on { "on" } else { "off" };
    let pins = target.pins.display();
    match switch_pinned_guard(&target.pins, on) {
        Ok(true) => {
            is_done = true;
            let _ = writeln!(text, "the guard is {word}: written to the kernel at {pins}");
        }
        Ok(false) => {
            let _ = writeln!(text, "nothing is pinned at {pins}");
        }
        Err(error) => {
            let _ = writeln!(text, "cannot switch the guard in the kernel: {}", chain(&error));
        }
    }
    match ask(&target.socket, &Request::Guard { on: Some(on) }) {
        Ok(_) => {
            is_done = true;
            let _ = writeln!(text, "the exporter at {} says that the guard is {word}", target.socket.display());
        }
        Err(error) => {
            let _ = writeln!(text, "{}", chain(&error));
        }
    }
    Switched { text, is_done }
}

/// How the guard is, for people to read.
pub fn status(target: &Target) -> Result<String, AskError> {
    match crate::kernel::is_pinned_guard_on(&target.pins) {
        Ok(Some(on)) => Ok(describe(on)),
        _ => match ask(&target.socket, &Request::Guard { on: None })? {
            Answer::Guard { on } => Ok(describe(on)),
            other => Err(unexpected(&other)),
        },
    }
}

fn describe(on: bool) -> String {
    if on { "the guard is on\n".to_owned() } else { "the guard is off: everything passes\n".to_owned() }
}

/// Asks to block, and says what came of it.
pub fn block(target: &Target, address: String, period: String, reason: String) -> Result<String, AskError> {
    match ask(&target.socket, &Request::Block { address, period, reason })? {
        Answer::Blocked(row) => Ok(format!("{} is blocked until {}\n", row.network, row.until)),
        other => Err(unexpected(&other)),
    }
}

/// Asks to block no more, and says what came of it.
pub fn unblock(target: &Target, address: String) -> Result<String, AskError> {
    match ask(&target.socket, &Request::Unblock { address })? {
        Answer::Unblocked(UnblockedRow { block, still_blocked_by: None }) => {
            Ok(format!("{} is blocked no more\n", block.network))
        }
        Answer::Unblocked(UnblockedRow { block, still_blocked_by: Some(covering) }) => {
            Ok(format!("{} is blocked no more by itself, but {covering} is, which contains it\n", block.network))
        }
        other => Err(unexpected(&other)),
    }
}

/// The blocks that there are.
pub fn blocks(target: &Target) -> Result<Vec<BlockRow>, AskError> {
    match ask(&target.socket, &Request::Blocks)? {
        Answer::Blocks(rows) => Ok(rows),
        other => Err(unexpected(&other)),
    }
}

/// `rows` as a table.
#[must_use]
pub fn table(rows: &[BlockRow]) -> String {
    let networks = rows.iter().map(|row| row.network.len()).max().unwrap_or_default().max("NETWORK".len());
    let mut text = format!("{:networks$}  {:30}  {:12}  REASON\n", "NETWORK", "UNTIL", "BY");
    for BlockRow { network, until, by, anomaly, reason } in rows {
        let by = anomaly.as_ref().unwrap_or(by);
        let _ = writeln!(text, "{network:networks$}  {until:30}  {by:12}  {reason}");
    }
    text
}

fn unexpected(answer: &Answer) -> AskError {
    AskError::Refused(format!("this was not asked for: {answer:?}"))
}
