//! The alerts that are shipped: what they say can be read, is complete, and is so when it happens.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

mod end_to_end;
mod prometheus;
mod rules;
mod scaled;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The folder with the rules.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../alerts").canonicalize().expect("is there")
}

/// The files in `folder` whose names end in `end`, by name.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("can be read").path());
    let is_one = |path: &PathBuf| path.to_str().is_some_and(|path| path.ends_with(end) && !path.ends_with("README.md"));
    let mut files: Vec<_> = entries.filter(is_one).collect();
    assert!(!files.is_empty(), "no {end} in {}", folder.display());
    files.sort();
    files
}
