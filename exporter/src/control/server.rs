//! The exporter's end of the control socket.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixStream as StdStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{fs::Access, process::geteuid};
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::{Answer, MAX_REQUEST, Request, handle};
use crate::http::Shared;

/// How many are served at once.
const MOST_CLIENTS: usize = 4;

/// How long a request may take to arrive, and an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait before accepting again when that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Why there is no control socket.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Another exporter has it.
    #[error(
        "another tidewaiter listens on {}: give this one a guard.socket of its own, until then the command line reaches the other",
        path.display()
    )]
    Busy {
        /// The socket.
        path: PathBuf,
    },
    /// There is something else.
    #[error("{} is no socket: remove it, or give guard.socket another path", path.display())]
    Foreign {
        /// What is there.
        path: PathBuf,
    },
    /// Others could put something in its place.
    #[error("{} belongs to another user or may be written to by others: guard.socket needs a folder of its own", path.display())]
    Unsafe {
        /// The folder.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// What with.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The socket, which is removed when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// What tells it from others that may take its place.
    identity: (u64, u64),
}

/// Whether somebody listens at `path`; nothing is changed.
///
/// # Errors
/// Why nobody could.
pub fn examine(path: &Path) -> Result<bool, ControlError> {
    let failed = |action| move |source| ControlError::Io { action, path: path.to_owned(), source };
    let folder = path.parent().unwrap_or(Path::new("/"));
    if !folder.exists() {
        let existing = folder.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(folder);
        let may_write = rustix::fs::access(existing, Access::WRITE_OK);
        return may_write.map_err(|error| failed("make the folder of")(error.into())).map(|()| false);
    }
    require_own(folder).and_then(|()| require_socket(path))?;
    Ok(StdStream::connect(path).is_ok())
}

/// Sees that nobody else can put anything into `folder`.
fn require_own(folder: &Path) -> Result<(), ControlError> {
    let failed = |source| ControlError::Io { action: "look at", path: folder.to_owned(), source };
    let found = fs::metadata(folder).map_err(failed)?;
    if found.uid() != geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(ControlError::Unsafe { path: folder.to_owned() });
    }
    Ok(())
}

/// Sees that nothing but a socket is at `path`.
fn require_socket(path: &Path) -> Result<(), ControlError> {
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => Err(ControlError::Foreign { path: path.to_owned() }),
        _ => Ok(()),
    }
}

impl ControlSocket {
    /// Listens at `path`, in the place of a socket that nobody listens at any more.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let failed = |action| move |source| ControlError::Io { action, path: path.to_owned(), source };
        let folder = path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed("make the folder of"))?;
        require_own(folder)?;
        require_socket(path)?;
        match fs::symlink_metadata(path) {
            Ok(_) if StdStream::connect(path).is_ok() => return Err(ControlError::Busy { path: path.to_owned() }),
            Ok(_) => fs::remove_file(path).map_err(failed("remove"))?,
            Err(_) => {}
        }
        // Who connects before its permissions are set is asked who he is all the same.
        let listener = UnixListener::bind(path).map_err(failed("listen at"))?;
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed("set the permissions of"))?;
        let there = fs::symlink_metadata(path).map_err(failed("look at"))?;
        Ok(Self { listener, path: path.to_owned(), identity: (there.dev(), there.ino()) })
    }

    /// Serves for ever.
    pub async fn serve(self, shared: Shared) {
        let room = Arc::new(Semaphore::new(MOST_CLIENTS));
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let shared = shared.clone();
                    tokio::spawn(async move {
                        if let Err(error) = serve_one(stream, &shared).await {
                            debug!(%error, "a client of the control socket has gone");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept at the control socket");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let is_ours = |there: fs::Metadata| (there.dev(), there.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours)
            && let Err(error) = fs::remove_file(&self.path)
        {
            debug!(%error, "cannot remove the control socket");
        }
    }
}

async fn serve_one(stream: UnixStream, shared: &Shared) -> io::Result<()> {
    let user = stream.peer_cred()?.uid();
    if user != 0 && user != geteuid().as_raw() {
        debug!(user, "somebody else was not let in at the control socket");
        return Ok(());
    }
    let (reader, mut writer) = stream.into_split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(reader).take(MAX_REQUEST);
    timeout(PATIENCE, reader.read_until(b'\n', &mut line)).await??;
    let answer = match serde_json::from_slice::<Request>(&line) {
        Ok(request) => handle(request, shared).await,
        Err(error) => Answer::Error(format!("this is no request: {error}")),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    timeout(PATIENCE, writer.write_all(&text)).await?
}
