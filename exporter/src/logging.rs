//! The log: on standard error, as text or JSON.

use std::io::{self, IsTerminal as _};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer as _, Registry, fmt,
    layer::SubscriberExt as _,
    reload::{self, Handle},
    util::SubscriberInitExt as _,
};

use crate::config::{Log, LogFormat, LogLevel};

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// How much is logged: it can be changed.
#[derive(Clone, Debug)]
pub struct Level(Handle<LevelFilter, Registry>);

impl Level {
    /// Logs what is no less important than `level` from now on.
    pub fn set(&self, level: LogLevel) {
        // Without a log that was started by this there is nothing to be changed.
        let _ = self.0.reload(LevelFilter::from(level));
    }
}

/// Sends what is logged from now on to standard error. What was set first stays.
pub fn start(log: Log) -> Level {
    let (level, handle) = reload::Layer::new(LevelFilter::from(log.level));
    let lines = fmt::layer().with_target(false).with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let lines = match log.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(level)
        .with(lines)
        .try_init()
        .unwrap_or_else(|error| eprintln!("the log was set up before: {error}"));
    Level(handle)
}
