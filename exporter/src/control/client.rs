//! The command line's end of the control socket.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;

use super::{Answer, MAX_ANSWER, Request};

/// How long an exporter may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// Nobody is there, or not for us.
    #[error(
        "cannot reach a tidewaiter at {}: {source} (is it running? only root and its own user may; --socket says where)",
        path.display()
    )]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Whoever is there says nothing of use.
    #[error("the tidewaiter at {} does not answer: {source}", path.display())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It was not done.
    #[error("{0}")]
    Refused(String),
}

/// Asks the exporter at `socket`.
pub fn ask(socket: &Path, request: &Request) -> Result<Answer, AskError> {
    let unreachable = |source| AskError::Unreachable { path: socket.to_owned(), source };
    let stream = UnixStream::connect(socket).map_err(unreachable)?;
    let answer = exchange(&stream, request);
    match answer.map_err(|source| AskError::Silent { path: socket.to_owned(), source })? {
        Answer::Error(error) => Err(AskError::Refused(error)),
        answer => Ok(answer),
    }
}

fn exchange(mut stream: &UnixStream, request: &Request) -> io::Result<Answer> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = Vec::new();
    BufReader::new(stream).take(MAX_ANSWER).read_until(b'\n', &mut answer)?;
    if answer.is_empty() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it has hung up"));
    }
    Ok(serde_json::from_slice(&answer)?)
}
