//! What is written to the files of an audit log: line after line, each chained to the one before, from file to file.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write as _},
    mem,
    sync::Arc,
};

use rustix::fs::{fdatasync, ftruncate};
use tracing::warn;

use super::{
    error::AuditError,
    folder::Folder,
    record::{Entry, Head, Opened, Why},
    resume::End,
    statistics::Statistics,
};

/// How large files become, and how many there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The most bytes of a file; one that a single line does not fit in is as long as that.
    pub(super) size: u64,
    /// How many files are kept beside the one that is written.
    pub(super) keep: usize,
}

/// An audit log that is written.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is so or not whatever the others are")]
pub(super) struct Journal {
    folder: Folder,
    limits: Limits,
    /// None while there is no file yet, because it could not be made.
    file: Option<File>,
    /// What the next file begins with.
    next: Opened,
    /// How long the file is, by what we know.
    length: u64,
    /// Whether a part of a line stands behind that.
    is_partial: bool,
    /// Whether nothing but its first line is in the file.
    is_fresh: bool,
    /// Whether this is no longer the start: what is there by now in a file of ours is not from an exporter before us.
    is_resumed: bool,
    /// The last line, those that wait included.
    head: Head,
    /// Lines that are not written yet, with their newlines.
    waiting: Vec<u8>,
    /// Each of them.
    lines: VecDeque<Line>,
    is_dirty: bool,
    statistics: Arc<Statistics>,
}

/// A line that waits.
#[derive(Clone, Copy, Debug)]
struct Line {
    /// How many bytes it takes, newlines included.
    bytes: usize,
    name: &'static str,
    head: Head,
}

impl Journal {
    /// Goes on with the log in `folder`, or begins one. If there is no room for a file, that is tried again with each line.
    pub(super) fn open(folder: Folder, limits: Limits, statistics: Arc<Statistics>) -> Result<Self, AuditError> {
        let mut journal = Self {
            folder,
            limits,
            file: None,
            next: Opened { why: Why::Begun, continues: None },
            length: 0,
            is_partial: false,
            is_fresh: false,
            is_resumed: false,
            head: Head::NONE,
            waiting: Vec::new(),
            lines: VecDeque::new(),
            is_dirty: false,
            statistics,
        };
        // What was put away was whole by then, and kept.
        if let Some(path) = journal.folder.rotated()?.pop() {
            let file = File::open(&path).map_err(|error| journal.folder.failure("read", error))?;
            let (_, End::Whole(head)) = journal.end_of(&file)? else { return Err(AuditError::Foreign { path }) };
            journal.head = head;
            journal.next.continues = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        }
        match journal.ensure_file() {
            Ok(()) => {}
            Err(error) if error.is_full() => warn!(%error, "there is no room for the audit log: trying again"),
            Err(error) => return Err(error),
        }
        journal.is_resumed = true;
        Ok(journal)
    }

    /// Has a line written that says `entry`; it is with the next [`flush`](Self::flush). If this fails, it is not.
    pub(super) fn add(&mut self, entry: &Entry) -> Result<(), AuditError> {
        self.ensure_file()?;
        let (line, head) = entry.line(self.head)?;
        let length = self.length + self.waiting.len() as u64;
        if length + line.len() as u64 + 1 > self.limits.size && !self.is_fresh {
            self.flush()?;
            self.rotate()?;
            let (line, head) = entry.line(self.head)?;
            self.push(line, entry.name, head);
        } else {
            self.push(line, entry.name, head);
        }
        self.is_fresh = false;
        Ok(())
    }

    /// How many bytes wait.
    pub(super) const fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Writes all that waits. What cannot be written goes on to wait, and the file ends with a whole line.
    pub(super) fn flush(&mut self) -> Result<(), AuditError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let Some(file) = &mut self.file else { return self.ensure_file() };
        let size = file.metadata().map_err(|error| self.folder.failure("look at", error))?.len();
        if self.is_partial {
            ftruncate(&*file, self.length).map_err(|error| self.folder.failure("cut back", error.into()))?;
            self.is_partial = false;
        } else if size != self.length {
            warn!(file = %self.folder.path().display(), expected = self.length, found = size, "somebody else has changed the audit log");
            // What was left of a line is not to be taken for a part of ours.
            file.write_all(b"\n").map_err(|error| self.folder.failure("write", error))?;
            self.length = size + 1;
        }
        let (written, result) = write(file, &self.waiting);
        let mut whole = 0;
        while let Some(line) = self.lines.front()
            && whole + line.bytes <= written
        {
            whole += line.bytes;
            self.statistics.written(line.name, line.bytes as u64, line.head);
            self.lines.pop_front();
        }
        self.waiting.drain(..whole);
        self.length += whole as u64;
        self.is_dirty |= whole > 0;
        if written > whole {
            self.is_partial = ftruncate(&*file, self.length).is_err();
        }
        result.map_err(|error| self.folder.failure("write", error))
    }

    /// Sees that what was written outlives the machine.
    pub(super) fn sync(&mut self) -> Result<(), AuditError> {
        if let Some(file) = &self.file
            && mem::take(&mut self.is_dirty)
        {
            fdatasync(file).map_err(|error| self.folder.failure("keep", error.into()))?;
        }
        Ok(())
    }

    /// Sees that what is written can be found: if somebody has moved or removed the file, the log goes on in another.
    pub(super) fn look(&mut self) -> Result<(), AuditError> {
        let Some(file) = &self.file else { return Ok(()) };
        if self.folder.is_current(file).map_err(|error| self.folder.failure("look at", error))? {
            return Ok(());
        }
        warn!(file = %self.folder.path().display(), "somebody has taken the audit log away: it goes on in another file");
        self.flush()?;
        self.file = None;
        self.next = Opened { why: Why::Replaced, continues: None };
        self.ensure_file()
    }

    /// Names of what waits and will not be written.
    pub(super) fn give_up(&mut self) -> impl Iterator<Item = &'static str> + use<> {
        self.waiting.clear();
        mem::take(&mut self.lines).into_iter().map(|line| line.name)
    }

    /// Puts the file away, and begins another.
    fn rotate(&mut self) -> Result<(), AuditError> {
        self.sync()?;
        let name = self.folder.put_away(self.head.sequence)?;
        self.file = None;
        self.next = Opened { why: Why::Rotated, continues: Some(name) };
        self.statistics.rotated();
        self.ensure_file()?;
        if let Err(error) = self.folder.forget(self.limits.keep).and_then(|()| self.folder.sync()) {
            warn!(%error, "cannot tidy up after the audit log: trying again after the next file");
        }
        Ok(())
    }

    /// Opens the file if that is not open, and has it begin as every file does.
    fn ensure_file(&mut self) -> Result<(), AuditError> {
        if self.file.is_some() {
            return Ok(());
        }
        let file = self.folder.current()?;
        let (size, end) = self.end_of(&file)?;
        let is_ours = !self.is_resumed;
        let first = match end {
            End::Empty => Some((Entry::opened(self.next.clone()), false)),
            End::Whole(head) if is_ours => {
                self.head = head;
                None
            }
            End::Torn { head, torn, lacks_newline } if is_ours => {
                self.head = head.unwrap_or(self.head);
                warn!(
                    bytes = torn.bytes,
                    "the last line of the audit log was not written to its end: that is recorded"
                );
                Some((Entry::torn(torn), lacks_newline))
            }
            End::Whole(_) | End::Torn { .. } | End::Foreign => {
                return Err(AuditError::Foreign { path: self.folder.path() });
            }
        };
        self.is_fresh = end == End::Empty;
        self.length = size;
        self.is_partial = false;
        if let Some((entry, lacks_newline)) = first {
            let (mut line, head) = entry.line(self.head)?;
            if lacks_newline {
                line.insert(0, b'\n');
            }
            self.push(line, entry.name, head);
        }
        self.file = Some(file);
        Ok(())
    }

    /// How long `file` is, and how it ends.
    fn end_of(&self, file: &File) -> Result<(u64, End), AuditError> {
        let end = file.metadata().and_then(|metadata| Ok((metadata.len(), End::of(file, metadata.len())?)));
        end.map_err(|error| self.folder.failure("read", error))
    }

    fn push(&mut self, mut line: Vec<u8>, name: &'static str, head: Head) {
        line.push(b'\n');
        self.lines.push_back(Line { bytes: line.len(), name, head });
        self.waiting.append(&mut line);
        self.head = head;
    }
}

/// Writes as much of `bytes` as possible. Answers with how much that is.
fn write(file: &mut File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

#[cfg(test)]
pub(super) mod tests;
