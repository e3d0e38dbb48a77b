//! Why there is no audit log.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::capabilities::CapabilityError;

/// Why the audit log cannot be written.
#[derive(Debug, Error)]
pub enum AuditError {
    /// The folder is not there and cannot be made.
    #[error("cannot make the folder of the audit log, {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file or its folder may not be written.
    #[error(
        "the audit log {} may not be written by this process once it has given up its capabilities: its folder must belong to \
         the user that runs it (chown, or LogsDirectory= of systemd)",
        path.display()
    )]
    Forbidden {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is something else than a file.
    #[error("the audit log {} is {what}, expected a file or nothing", path.display())]
    NoFile {
        /// Where.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// There is a file, but it is none of ours, or its end is damaged.
    #[error("{} does not end like an audit log: move it away, or name another file", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Another process writes it.
    #[error("the audit log {} is written by another process", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// The operating system refused something else.
    #[error("cannot {action} the audit log {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line could not be made.
    #[error("cannot write a record of the audit log as JSON")]
    Line(#[from] serde_json::Error),
    /// Capabilities could not be put away and taken up again.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// There is no thread to be had, or nothing that it needs.
    #[error("cannot start the thread that writes the audit log")]
    Thread(#[source] io::Error),
}

impl AuditError {
    /// Whether another try would end alike until somebody changes the configuration or the file system.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Forbidden { .. } | Self::NoFile { .. } | Self::Foreign { .. } => true,
            Self::Folder { source, .. } => !is_passing(source),
            Self::Busy { .. } | Self::Io { .. } | Self::Line(_) | Self::Capability(_) | Self::Thread(_) => false,
        }
    }

    /// Whether it is that there is no room, which may pass.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } | Self::Folder { source, .. } if is_passing(source))
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
