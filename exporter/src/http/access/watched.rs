//! A value that is read from files, and anew when they have changed.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{info, warn};

use crate::{
    config::{
        error::{ConfigurationError, Problem},
        token::Token,
        web::{WebConfig, files::Files},
    },
    event::{AccessChange, Happening},
};

/// Time between two looks whether the files have changed.
const PAUSE: Duration = Duration::from_secs(1);

/// What is read from files.
pub(super) trait Value: Sized {
    /// What it is, for people.
    const NAME: &'static str;

    /// The key of the configuration that names its files.
    const KEY: &'static str;

    /// Whether it may take the place of `before` at once.
    fn replaces(&self, before: &Self) -> Result<(), &'static str>;
}

impl Value for WebConfig {
    const NAME: &'static str = "TLS and authentication";
    const KEY: &'static str = "web_config";

    fn replaces(&self, before: &Self) -> Result<(), &'static str> {
        self.replaces(before)
    }
}

impl Value for Token {
    const NAME: &'static str = "the token of the API";
    const KEY: &'static str = "api_token_file";

    fn replaces(&self, _before: &Self) -> Result<(), &'static str> {
        Ok(())
    }
}

/// How much of what has happened waits to be told: it is asked for each second, and there is no more than one thing in a second.
const MOST_NEWS: usize = 8;

type Read<T> = dyn Fn(&mut Files) -> Result<T, Vec<Problem>> + Send + Sync;

/// A value that is read from files. Once it was good it stays: what the files become is taken over only if that is good too.
pub(super) struct Watched<T> {
    read: Box<Read<T>>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    files: Files,
    looked: Instant,
    /// Why the files' latest contents were not taken, if they were not; it is told once.
    refused: Option<String>,
    /// What has happened and was not told yet; see [`MOST_NEWS`].
    news: Vec<Happening>,
}

impl<T> State<T> {
    fn note(&mut self, happening: Happening) {
        if self.news.len() < MOST_NEWS {
            self.news.push(happening);
        }
    }
}

impl<T: Value> Watched<T> {
    /// Reads it for the first time.
    pub(super) fn new(
        read: impl Fn(&mut Files) -> Result<T, Vec<Problem>> + Send + Sync + 'static,
    ) -> Result<Self, ConfigurationError> {
        let mut files = Files::default();
        let value = read(&mut files).map_err(ConfigurationError::Invalid)?.into();
        let state = State { value, files, looked: Instant::now(), refused: None, news: Vec::new() };
        Ok(Self { read: Box::new(read), state: state.into() })
    }

    /// It, as it is now, or was a second ago.
    pub(super) fn current(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= PAUSE {
            state.looked = Instant::now();
            self.look(&mut state);
        }
        Arc::clone(&state.value)
    }

    /// What has happened to it since this was last asked. Looks whether there is anything new.
    pub(super) fn news(&self) -> Vec<Happening> {
        self.current();
        std::mem::take(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).news)
    }

    fn look(&self, state: &mut State<T>) {
        if state.files.are_unchanged() {
            return;
        }
        let mut files = Files::default();
        let read = (self.read)(&mut files).map_err(|problems| ConfigurationError::Invalid(problems).to_string());
        let is_same = files.have_the_same_contents(&state.files);
        state.files = files;
        // Where it was refused before, it may be that a file could not be read which can be now.
        if is_same && state.refused.is_none() {
            return;
        }
        let change = AccessChange { key: T::KEY, hash: state.files.hash() };
        let taken = read.and_then(|value| value.replaces(&state.value).map(|()| value).map_err(str::to_owned));
        match taken {
            Ok(value) => {
                if state.refused.take().is_some() || !is_same {
                    info!("{} changed: what the files say now is in force", T::NAME);
                    state.note(Happening::AccessChanged(change));
                }
                state.value = value.into();
            }
            Err(reason) => {
                if state.refused.as_ref() != Some(&reason) {
                    warn!(reason, "{} changed, but cannot be used: what was in force stays", T::NAME);
                    state.note(Happening::AccessRefused { change, reason: reason.clone() });
                }
                state.refused = Some(reason);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn look_now(&self) -> Arc<T> {
        let mut state = self.state.lock().expect("no panic");
        self.look(&mut state);
        Arc::clone(&state.value)
    }
}

impl<T: fmt::Debug> fmt::Debug for Watched<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Watched").finish_non_exhaustive()
    }
}
