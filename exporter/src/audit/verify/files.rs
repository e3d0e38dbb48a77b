//! The files of a log, of which the newest may be put away at any time.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use super::VerifyError;
use crate::audit::folder::{rotated, rotated_from};

/// How often the files of a log are looked for, if they change meanwhile.
const MAX_ATTEMPTS: u32 = 100;

/// The files that `paths` stand for, in order: a file that was put away for itself, another with those before it, and a folder for
/// the one log in it.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, VerifyError> {
    let mut files = Vec::new();
    for path in paths {
        let unreadable = |source| VerifyError::Unreadable { path: path.clone(), source };
        let file = if path.is_dir() { only_log(path)? } else { path.clone() };
        if file.file_name().and_then(|name| name.to_str()).and_then(rotated_from).is_none() {
            files.extend(rotated(&file).map_err(unreadable)?);
        }
        // Between two files there may be no newest one.
        if file.exists() || files.is_empty() {
            files.push(file);
        }
    }
    Ok(files)
}

/// The one log in the folder at `path`.
fn only_log(path: &Path) -> Result<PathBuf, VerifyError> {
    let unreadable = |source| VerifyError::Unreadable { path: path.to_owned(), source };
    let mut logs = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            logs.push(path.join(rotated_from(name).map_or(name, |(base, _)| base)));
        }
    }
    logs.sort();
    logs.dedup();
    match logs.pop() {
        Some(log) if logs.is_empty() => Ok(log),
        last => Err(VerifyError::NotOne { path: path.to_owned(), found: logs.len() + usize::from(last.is_some()) }),
    }
}

/// A file of a log: open already, if it is one whose name the next may have soon.
pub(super) type Opened = (PathBuf, Option<File>);

/// The files that `list` names, at a time when it names the same before and after those were opened that are still written. What is
/// open stays the same file, however it is called later; and what was put away keeps its name. (All of them could be more than a
/// process may open.)
pub(super) fn open_all(list: impl Fn() -> Result<Vec<PathBuf>, VerifyError>) -> Result<Vec<Opened>, VerifyError> {
    let mut before = list()?;
    for _ in 0..MAX_ATTEMPTS {
        let opened = before.iter().map(open_if_written).collect();
        let after = list()?;
        if after == before {
            return opened;
        }
        before = after;
    }
    // A log that goes to another file all the time is none of ours.
    before.iter().map(open_if_written).collect()
}

fn open_if_written(path: &PathBuf) -> Result<Opened, VerifyError> {
    let is_put_away = path.file_name().and_then(|name| name.to_str()).and_then(rotated_from).is_some();
    let opened = (!is_put_away).then(|| File::open(path)).transpose();
    Ok((path.clone(), opened.map_err(|source| VerifyError::Unreadable { path: path.clone(), source })?))
}
