//! What was wrong with a configuration, where, and what was expected.

use std::{fmt, io, path::PathBuf};

use figment::{
    Source,
    error::{Actual, Kind},
};
use thiserror::Error;

use super::{ENVIRONMENT_PREFIX, file::File};

/// A configuration that was refused.
#[derive(Debug, Error)]
pub enum ConfigurationError {
    /// The file could not be read.
    #[error("cannot read the configuration file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It was read, and these things are wrong with it.
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, such as `api.0.ports`; empty if the whole is meant.
    pub key: String,
    /// Where it was written.
    pub place: Place,
    /// The value, and what was expected.
    pub message: String,
}

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1, where it is known.
        line: Option<usize>,
    },
    /// In the environment, in the variable that is called after the key.
    Environment,
    /// In the environment, in a variable that OpenTelemetry defines.
    Variable(String),
    /// On the command line.
    CommandLine,
}

impl From<Problem> for ConfigurationError {
    fn from(problem: Problem) -> Self {
        Self::Invalid(vec![problem])
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, place, message } = self;
        match place {
            Place::File { path, line: Some(line) } => write!(formatter, "{}:{line}: ", path.display())?,
            Place::File { path, line: None } => write!(formatter, "{}: ", path.display())?,
            Place::Environment => {
                // A variable holds a list as a whole.
                let parts: Vec<_> = key.split('.').take_while(|part| part.parse::<usize>().is_err()).collect();
                let variable = parts.join("__").to_uppercase();
                write!(formatter, "environment variable {ENVIRONMENT_PREFIX}{variable}: ")?;
            }
            Place::Variable(variable) => write!(formatter, "environment variable {variable}: ")?,
            Place::CommandLine => formatter.write_str("command line: ")?,
        }
        // Who set a variable that is called otherwise need not know the key.
        if !key.is_empty() && !matches!(place, Place::Variable(_)) {
            write!(formatter, "{key}: ")?;
        }
        formatter.write_str(message)
    }
}

impl ConfigurationError {
    /// Puts an error of the layers' into words.
    pub(super) fn from_figment(error: figment::Error, file: Option<&File>) -> Self {
        let problems = error.into_iter().map(|error| Problem::from_figment(error, file)).collect();
        Self::Invalid(problems)
    }
}

impl Problem {
    fn from_figment(error: figment::Error, file: Option<&File>) -> Self {
        let figment::Error { metadata, path, kind, .. } = error;
        let message = match kind {
            Kind::Message(message) => message,
            Kind::InvalidType(found, wanted) | Kind::InvalidValue(found, wanted) => {
                format!("found {}, expected {}", value(&found), expected(&wanted))
            }
            Kind::InvalidLength(found, expected) => format!("found a list of {found}, expected {expected}"),
            Kind::UnknownVariant(found, expected) => format!("found {found:?}, expected one of {}", words(expected)),
            Kind::UnknownField(_, expected) => format!("unknown key, expected one of {}", words(expected)),
            Kind::MissingField(key) => format!("the key {key:?} is missing"),
            Kind::DuplicateField(key) => format!("the key {key:?} is there twice"),
            other => other.to_string(),
        };
        let from_file = matches!(metadata.as_ref().and_then(|from| from.source.as_ref()), Some(Source::File(_)));
        let from_environment = metadata.as_ref().is_some_and(|from| from.name.contains("environment"));
        let place = match file {
            Some(file) if from_file || !from_environment && path.first().is_some_and(|key| file.has(key)) => {
                Place::File { path: file.path.clone(), line: file.line(&path) }
            }
            _ if from_environment => Place::Environment,
            _ => Place::CommandLine,
        };
        Self { key: path.join("."), place, message }
    }
}

/// A value as its user wrote it.
fn value(value: &Actual) -> String {
    match value {
        Actual::Str(text) => format!("{text:?}"),
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(number) => number.to_string(),
        Actual::Signed(number) => number.to_string(),
        Actual::Float(number) => number.to_string(),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// What serde expected, in words that are not about Rust.
fn expected(expected: &str) -> &str {
    match expected {
        "a sequence" => "a list",
        "a map" => "a table",
        "i64" => "a whole number",
        "a boolean" => "true or false",
        other => other,
    }
}

fn words(words: &[&str]) -> String {
    let words: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
    words.join(", ")
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
