//! The process that looks at other processes.
//!
//! Whose a socket is can only be seen by one who may look into other processes (`CAP_SYS_PTRACE`, `CAP_DAC_READ_SEARCH`).
//! The daemon, which speaks to the network, gives these capabilities up. So it starts a second process of the same
//! program first, which keeps nothing but these two, hears nobody but the daemon, and answers each line on its standard
//! input with one line, as JSON: the listening sockets. It ends when the daemon does, however that ends.

use std::{
    io::{self, BufRead as _, Write as _},
    process::Stdio,
};

use caps::Capability;
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::listeners::{Listener, Scanner};
use crate::capabilities::{self, CapabilityError};

/// The capabilities that the helper keeps, where it has them.
const KEPT: [Capability; 2] = [Capability::CAP_SYS_PTRACE, Capability::CAP_DAC_READ_SEARCH];

/// What can go wrong with the helper.
#[derive(Debug, Error)]
pub enum HelperError {
    /// It could not be started, or spoken to.
    #[error("cannot talk to the process that looks for listening sockets: {0}")]
    Io(#[from] io::Error),
    /// It ended.
    #[error("the process that looks for listening sockets has ended")]
    Ended,
    /// It said something else than expected.
    #[error("the process that looks for listening sockets answered something unexpected: {0}")]
    Answer(#[from] serde_json::Error),
    /// It could not look, this time.
    #[error("cannot list the listening sockets: {0}")]
    Scan(String),
    /// It could not give up its capabilities.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
}

/// What the helper answers: the listening sockets, or why they could not be listed.
type Answer = Result<Vec<Listener>, String>;

impl HelperError {
    /// Whether it may go better the next time.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Scan(_))
    }
}

/// The helper as the daemon sees it. Dropping it ends the process.
#[derive(Debug)]
pub struct Helper {
    _child: Child,
    requests: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Helper {
    /// Starts the process; must be called while the capabilities are still there.
    pub fn start() -> Result<Self, HelperError> {
        let mut child = Command::new("/proc/self/exe")
            .arg("listeners")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let requests = child.stdin.take().ok_or(HelperError::Ended)?;
        let answers = BufReader::new(child.stdout.take().ok_or(HelperError::Ended)?).lines();
        Ok(Self { _child: child, requests, answers })
    }

    /// The listening sockets as they are now.
    pub async fn listeners(&mut self) -> Result<Vec<Listener>, HelperError> {
        self.requests.write_all(b"\n").await?;
        let answer = self.answers.next_line().await?.ok_or(HelperError::Ended)?;
        serde_json::from_str::<Answer>(&answer)?.map_err(HelperError::Scan)
    }
}

/// Is the helper: answers each line on standard input until that ends.
pub fn serve() -> Result<(), HelperError> {
    capabilities::keep_only(&KEPT)?;
    let mut scanner = Scanner::default();
    let mut output = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        line?;
        let answer: Answer = scanner.scan().map_err(|error| error.to_string());
        serde_json::to_writer(&mut output, &answer)?;
        output.write_all(b"\n")?;
        output.flush()?;
    }
    Ok(())
}
