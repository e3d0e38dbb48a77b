//! `tidewaiter audit verify`: whether the lines of an audit log are those that were written.
//!
//! Each line is read once, and no more than two are kept. What shows: a line that was changed, removed, put in, moved or repeated,
//! and where; a file that is missing between two; the beginning of a file that was cut off. What does not: that lines at the very
//! end were cut off or changed, unless the last hash is known ([`Expected`]); and whatever was done by one who has written all
//! lines from there on anew, since there is no secret in them, unless a hash from there on is known.

mod chain;
mod files;
mod lines;

use std::{
    fmt,
    fs::File,
    io::{self, BufReader},
    path::PathBuf,
};

use thiserror::Error;

pub use self::files::files;
use self::{
    chain::{Chain, Place},
    files::{Opened, open_all},
};
use super::record::{Hash, Head};

/// The most notes that are listed; there may be any number in a log.
const MAX_NOTES: usize = 100;

/// Why a log was not verified.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// Something is wrong with it.
    #[error("{}:{line}: {what}", file.display())]
    Fault {
        /// The file.
        file: PathBuf,
        /// The first line that is wrong, from 1.
        line: u64,
        /// What is wrong.
        what: What,
    },
    /// No line has a hash that one should have.
    #[error("no line has the hash {0}: lines were cut off at the end, or all were written anew from some line on")]
    Unseen(Hash),
    /// There is no line at all.
    #[error("there is no line in {}", .0.display())]
    Empty(PathBuf),
    /// A folder does not say which log is meant.
    #[error("{} logs are in {}, expected one: name its file", .found, path.display())]
    NotOne {
        /// The folder.
        path: PathBuf,
        /// How many there are.
        found: usize,
    },
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It is not what was written.
    Edited,
    /// It is not, or the next line, which is the last, does not name the line before that it was written after.
    EditedOrNext,
    /// It is no record, and no record behind it says that it was torn.
    NoRecord,
    /// It is no record, and nothing is behind it.
    Unfinished,
    /// It tells of something torn that is not there.
    TornIsGone,
    /// It is the first of its file, but no first line.
    Headless,
    /// It was not between the lines around it.
    Inserted,
    /// Lines are missing before it.
    Missing {
        /// The number of the first of them.
        from: u64,
        /// The number of the last.
        to: u64,
    },
    /// It belongs elsewhere, or is there twice.
    OutOfOrder {
        /// Its number.
        found: u64,
        /// The number that it should have.
        expected: u64,
    },
    /// It is the last line, but should not be.
    NotLast {
        /// The hash of the last line that there should be.
        expected: Hash,
    },
}

impl fmt::Display for What {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Edited => formatter.write_str("this line was edited"),
            Self::EditedOrNext => formatter.write_str("this line was edited, or the hash of it that the next and last line names"),
            Self::NoRecord => formatter.write_str("this line is no record of an audit log: it was edited or put in"),
            Self::Unfinished => formatter.write_str(
                "this line was not written to its end: it was cut, the exporter was killed, or it is being written right now",
            ),
            Self::TornIsGone => formatter.write_str("this line tells of a torn line before it, which is not there or was edited"),
            Self::Headless => formatter.write_str("the file does not begin with this line: what was before it was cut off"),
            Self::Inserted => formatter.write_str("this line was put in: the lines around it belong together"),
            Self::Missing { from, to } if from == to => {
                write!(formatter, "the record {from} is missing before this line: it was cut or moved")
            }
            Self::Missing { from, to } => {
                write!(formatter, "the records {from} to {to} are missing before this line: they were cut or moved")
            }
            Self::OutOfOrder { found, expected } => {
                write!(formatter, "found the record {found}, expected {expected}: lines were reordered or repeated")
            }
            Self::NotLast { expected } => {
                write!(formatter, "this is the last line, expected one with the hash {expected}: lines were cut off, or edited")
            }
        }
    }
}

/// What is worth to be known of a line, though it is as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The exporter was started again without having been stopped.
    Unstopped,
    /// What is before it was not written to its end.
    Torn {
        /// How many bytes there are of it.
        bytes: u64,
    },
    /// Events were lost.
    Gap {
        /// How many.
        lost: u64,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unstopped => formatter.write_str(
                "the exporter was started, but has not said before that it stops: it was killed, or lines before this were cut \
                 off while it was not running",
            ),
            Self::Torn { bytes } => write!(formatter, "{bytes} bytes before this were not written to their end"),
            Self::Gap { lost } => write!(formatter, "{lost} events were lost before this"),
        }
    }
}

/// What is known from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// The hash of the last line.
    pub last: Option<Hash>,
    /// Hashes that some lines have.
    pub any: Vec<Hash>,
}

/// What was found out of a log that is as it was written.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The files, in order, each with its number of lines.
    pub files: Vec<(PathBuf, u64)>,
    /// How many records there are.
    pub records: u64,
    /// The number of the first.
    pub first: u64,
    /// The last.
    pub head: Head,
    /// Times of the first record and the last.
    pub times: (String, String),
    /// Whether the exporter has said at the end that it stops.
    pub is_stopped: bool,
    /// What is worth to be known, with the file and the line.
    pub notes: Vec<(PathBuf, u64, Note)>,
    /// How many notes more there are.
    pub more_notes: u64,
}

/// Verifies the log that `paths` stand for, as [`files`] says, also while it is written: if a file was put away while they were
/// looked for, they are looked for again.
///
/// # Errors
/// The first fault.
pub fn verify_log(paths: &[PathBuf], expected: Expected) -> Result<Verified, VerifyError> {
    verify_open(open_all(|| files(paths))?, expected)
}

/// Verifies `files`, each of which goes on from the one before.
///
/// # Errors
/// The first fault.
pub fn verify(files: &[PathBuf], expected: Expected) -> Result<Verified, VerifyError> {
    verify_open(open_all(|| Ok(files.to_vec()))?, expected)
}

fn verify_open(files: Vec<Opened>, mut expected: Expected) -> Result<Verified, VerifyError> {
    let mut chain = Chain::default();
    let (mut counted, mut notes, mut more_notes) = (Vec::new(), Vec::new(), 0);
    let paths: Vec<_> = files.iter().map(|(path, _)| path.clone()).collect();
    let name = |place: Place| paths.get(place.file).cloned().unwrap_or_default();
    let fault = |(place, what): chain::Found| VerifyError::Fault { file: name(place), line: place.line, what };
    let mut last = Place { file: 0, line: 0 };
    for (file, (path, opened)) in files.into_iter().enumerate() {
        let unreadable = |source| VerifyError::Unreadable { path: path.clone(), source };
        let mut reader = BufReader::new(opened.map_or_else(|| File::open(&path), Ok).map_err(unreadable)?);
        let mut place = Place { file, line: 0 };
        while let Some(line) = lines::next(&mut reader, chain.debris()).map_err(unreadable)? {
            place.line += 1;
            match chain.take(place, &line).map_err(fault)? {
                Some(note) if notes.len() < MAX_NOTES => notes.push((path.clone(), place.line, note)),
                Some(_) => more_notes += 1,
                None => {}
            }
            expected.any.retain(|hash| chain.head().is_none_or(|head| head.hash != *hash));
            last = place;
        }
        counted.push((path, place.line));
    }
    chain.end().map_err(fault)?;
    let (Some(head), Some(first), Some(times)) = (chain.head(), chain.first, chain.times.take()) else {
        return Err(VerifyError::Empty(paths.last().cloned().unwrap_or_default()));
    };
    if let Some(expected) = expected.last.filter(|hash| *hash != head.hash) {
        return Err(fault((last, What::NotLast { expected })));
    }
    if let Some(hash) = expected.any.first() {
        return Err(VerifyError::Unseen(*hash));
    }
    let is_stopped = chain.is_running == Some(false);
    Ok(Verified { files: counted, records: chain.records, first, head, times, is_stopped, notes, more_notes })
}

impl fmt::Display for Verified {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, records, first, head, times: (from, to), is_stopped, notes, more_notes } = self;
        for (file, line, note) in notes {
            writeln!(formatter, "{}:{line}: note: {note}", file.display())?;
        }
        if *more_notes > 0 {
            writeln!(formatter, "and {more_notes} more notes")?;
        }
        for (file, lines) in files {
            writeln!(formatter, "{}: {lines} lines", file.display())?;
        }
        writeln!(formatter, "verified      {records} records, {first} to {}", head.sequence)?;
        writeln!(formatter, "time          {from} to {to}")?;
        if *first > 1 {
            writeln!(
                formatter,
                "begins late   the records 1 to {} are not here: removed as [audit] keep says, or cut off",
                first - 1
            )?;
        }
        if *is_stopped {
            writeln!(formatter, "ends          in order")?;
        } else {
            writeln!(formatter, "ends          without a stop: the exporter runs, was killed, or lines were cut off")?;
        }
        writeln!(formatter, "last hash     {}", head.hash)
    }
}

#[cfg(test)]
mod tests;
