//! Reading the configuration anew: what others see of it, and how they ask for it.

use std::{
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use serde::Serialize;
use tokio::sync::oneshot;

use crate::snapshot::ConfigurationSnapshot;

/// How many requests to read the configuration anew can wait.
pub const QUEUE: usize = 16;

/// Asks for the configuration to be read anew; the answer comes when that is done.
pub type Request = oneshot::Sender<Answer>;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is in force.
    Taken(Taken),
    /// It was refused, and why; what was in force still is.
    Refused(String),
    /// It could not be put in force, although nothing is wrong with it; what was in force still is.
    Failed(String),
}

/// A configuration that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// Its number: the first one has 1. It stays what it was if nothing has changed.
    pub generation: u64,
    /// SHA-256 of it, in hexadecimal digits.
    pub hash: String,
    /// What is different: a line for each key, with its value before and now; nothing if nothing is.
    pub difference: Vec<String>,
}

/// How the configuration stands, for all to see.
#[derive(Debug)]
pub struct Standing(Mutex<ConfigurationSnapshot>);

impl Default for Standing {
    /// The first one, which was taken just now.
    fn default() -> Self {
        Self(Mutex::new(ConfigurationSnapshot { generation: 1, is_successful: true, last_success: SystemTime::now() }))
    }
}

impl Standing {
    /// As it is now.
    #[must_use]
    pub fn snapshot(&self) -> ConfigurationSnapshot {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note that a configuration was taken, and whether it is another one. Answers with its number.
    pub(crate) fn note_taken(&self, is_another: bool) -> u64 {
        let mut standing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = standing.generation + u64::from(is_another);
        *standing = ConfigurationSnapshot { generation, is_successful: true, last_success: SystemTime::now() };
        generation
    }

    /// Takes note that a configuration was not taken.
    pub(crate) fn note_refused(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_successful = false;
    }
}
