//! The file that keeps blocks over a restart.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::{info, warn};

use super::BlockRow;
use crate::{chain::chain, event::Block};

/// What the file is written as.
const VERSION: u32 = 1;

/// The most bytes of it: more than the most blocks need, with the longest reasons of ASCII.
const MOST_BYTES: u64 = 64 << 20;

/// Why blocks cannot be read or kept.
#[derive(Debug, Error)]
pub enum StateError {
    /// It is not what was written.
    #[error("{} is no file of blocks: {source}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// It is of another version of the program, or too large.
    #[error("{} is no file of blocks of this version", path.display())]
    Foreign {
        /// The file.
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

#[derive(Serialize, Deserialize)]
struct State {
    version: u32,
    blocks: Vec<BlockRow>,
}

/// The file of blocks.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    /// Whether it was said that it cannot be written.
    is_warned: bool,
    /// Whether there is something at its place that could not be read.
    is_unread: bool,
}

impl StateFile {
    /// The one at `path`. Nothing need be there.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path, is_warned: false, is_unread: false }
    }

    /// What blocks there were; `None` if that is not known. A file that is none is put aside, and that is said. One that cannot be
    /// read is left as it is: it is not written to either, since what it says would be lost.
    #[must_use]
    pub fn load(&mut self) -> Option<Vec<Block>> {
        let error = match self.read() {
            Ok(blocks) => return Some(blocks),
            Err(error) => error,
        };
        if let StateError::Io { .. } = error {
            self.is_unread = true;
            let error = chain(&error);
            warn!(
                error,
                "the blocks of before are not known, and others are not kept: see to it that the file can be read, and restart"
            );
            return None;
        }
        warn!(error = chain(&error), "the blocks of before are not known");
        let aside = beside(&self.path, ".bad");
        match fs::rename(&self.path, &aside) {
            Ok(()) => info!(path = %aside.display(), "what was there is put aside"),
            Err(error) => warn!(path = %self.path.display(), %error, "it cannot be put aside"),
        }
        None
    }

    /// As [`StateFile::load`], with what is wrong.
    pub fn read(&self) -> Result<Vec<Block>, StateError> {
        let path = &self.path;
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened.map_err(io_error("open", path))?,
        };
        let mut bytes = Vec::new();
        file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(io_error("read", path))?;
        if bytes.len() as u64 > MOST_BYTES {
            return Err(StateError::Foreign { path: path.clone() });
        }
        let state: State =
            serde_json::from_slice(&bytes).map_err(|source| StateError::Invalid { path: path.clone(), source })?;
        let blocks: Option<Vec<_>> = state.blocks.iter().map(BlockRow::block).collect();
        blocks.filter(|_| state.version == VERSION).ok_or_else(|| StateError::Foreign { path: path.clone() })
    }

    /// Writes `blocks`, wholly or not at all, unless there is something that could not be [read](Self::load). Whether they need not
    /// be written again. That this fails is said once.
    pub fn save(&mut self, blocks: &[Block]) -> bool {
        if self.is_unread {
            return true;
        }
        match self.write(blocks) {
            Ok(()) => {
                self.is_warned = false;
                true
            }
            Err(error) => {
                if !self.is_warned {
                    warn!(error = chain(&error), "blocks are not kept over a restart: trying again");
                }
                self.is_warned = true;
                false
            }
        }
    }

    fn write(&self, blocks: &[Block]) -> Result<(), StateError> {
        let path = &self.path;
        let folder = path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io_error("make the folder", folder))?;
        let state = State { version: VERSION, blocks: blocks.iter().map(BlockRow::from).collect() };
        let text = serde_json::to_vec(&state).map_err(|source| StateError::Invalid { path: path.clone(), source })?;
        let new = beside(path, ".new");
        // Whoever has put something else there may not have it written through.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &new)(error)),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(io_error("write", &new))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(io_error("write", &new))?;
        fs::rename(&new, path).map_err(io_error("replace", path))?;
        // The name is safe only when the folder is.
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("sync", folder))
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { action, path, source }
}
