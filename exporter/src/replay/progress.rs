//! How far a replay is, on a terminal.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    time::{Duration, Instant},
};

/// Time between two figures.
const PACE: Duration = Duration::from_millis(200);

/// How far a replay is: on standard error, and only if that is a terminal.
#[derive(Debug)]
pub(super) struct Progress {
    /// Bytes of the files, each read twice; `None` if nobody is to see it.
    total: Option<u64>,
    sizes: Vec<u64>,
    /// Files that were read, those of both readings.
    files: usize,
    shown: Instant,
}

impl Progress {
    pub(super) fn start(files: &[PathBuf]) -> Self {
        let sizes: Vec<_> = files.iter().map(|file| fs::metadata(file).map_or(0, |file| file.len())).collect();
        let total = io::stderr().is_terminal().then(|| 2 * sizes.iter().sum::<u64>());
        Self { total, sizes, files: 0, shown: Instant::now() }
    }

    /// Says how far it is if it is time to: `position` is that in the file under way.
    pub(super) fn show(&mut self, position: u64) {
        let Some(total @ 1..) = self.total else { return };
        if self.shown.elapsed() < PACE {
            return;
        }
        self.shown = Instant::now();
        let read: u64 = self.sizes.iter().cycle().take(self.files).sum::<u64>() + position;
        // Nobody is there to see it if this fails.
        write!(io::stderr(), "\rreplaying: {} %", 100 * read / total).unwrap_or_default();
    }

    /// Takes note that a file was read.
    pub(super) const fn next_file(&mut self) {
        self.files += 1;
    }

    /// Takes what was shown away.
    pub(super) fn end(self) {
        if self.total.is_some() {
            write!(io::stderr(), "\r{:16}\r", "").unwrap_or_default();
        }
    }
}
