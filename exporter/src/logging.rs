//! The log: on standard error, as text or JSON.

use std::io::{self, IsTerminal as _};

use tracing::level_filters::LevelFilter;

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

/// Sends what is logged from now on to standard error. What was set first stays.
pub fn start(log: Log) {
    let builder = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from(log.level))
        .with_target(false)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .unwrap_or_else(|error| eprintln!("the log was set up before: {error}"));
}
