//! The files of an audit log: the one that is written, and those before it, which are called after it and the number of their
//! last line.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, AtFlags, CWD, FlockOperation, OFlags, RenameFlags, accessat, flock, renameat_with},
    io::Errno,
};

use super::error::AuditError;

/// Who may read the log: its user and group.
const FILE_MODE: u32 = 0o640;
/// The same of its folder, where that is made.
const FOLDER_MODE: u32 = 0o750;
/// Digits that the numbers of files have at least, so that they are in order wherever they are listed.
const DIGITS: usize = 12;
/// How often the file is looked for again that somebody takes away at that very moment.
const TRIES: usize = 3;

/// Where an audit log is.
#[derive(Debug)]
pub(super) struct Folder {
    folder: PathBuf,
    name: String,
}

impl Folder {
    /// That of the log at `file`; makes it if it is not there.
    pub(super) fn open(file: &Path) -> Result<Self, AuditError> {
        let folder = file.parent().unwrap_or(Path::new("/")).to_owned();
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let this = Self { folder, name };
        match DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&this.folder) {
            Ok(()) => {}
            Err(source) => return Err(AuditError::Folder { path: this.folder, source }),
        }
        // The files of a folder cannot be renamed by one who may not write it, which shows only when that is due.
        match accessat(CWD, &this.folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) => Ok(this),
            Err(error) => Err(this.failure("write the folder of", error.into())),
        }
    }

    /// The path of the file that is written.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// The file that is written, for this process alone; makes it if it is not there. Nothing else than a file is opened, and no
    /// link is followed.
    pub(super) fn current(&self) -> Result<File, AuditError> {
        let path = self.path();
        // What is no file is not waited for.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        for _ in 0..TRIES {
            let file =
                OpenOptions::new().read(true).append(true).create(true).mode(FILE_MODE).custom_flags(flags).open(&path);
            let file = file.map_err(|error| self.failure("open", error))?;
            let metadata = file.metadata().map_err(|error| self.failure("look at", error))?;
            if !metadata.is_file() {
                return Err(AuditError::NoFile { path, what: "no file" });
            }
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(AuditError::Busy { path }),
                Err(error) => return Err(self.failure("lock", error.into())),
            }
            // Another process may have put it away before it was locked.
            if self.is_current(&file).map_err(|error| self.failure("look at", error))? {
                return Ok(file);
            }
        }
        Err(AuditError::Busy { path })
    }

    /// Whether `file` is the one that is found at its path.
    pub(super) fn is_current(&self, file: &File) -> io::Result<bool> {
        let ours = file.metadata()?;
        match fs::symlink_metadata(self.path()) {
            Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts the file away whose last line is the one with the number `sequence`. Answers with what it is called from then on.
    pub(super) fn put_away(&self, sequence: u64) -> Result<String, AuditError> {
        let name = rotated_name(&self.name, sequence);
        renameat_with(CWD, self.path(), CWD, self.folder.join(&name), RenameFlags::NOREPLACE)
            .map_err(|error| self.failure("put away", error.into()))?;
        Ok(name)
    }

    /// The files that were put away, the oldest first.
    pub(super) fn rotated(&self) -> Result<Vec<PathBuf>, AuditError> {
        rotated(&self.path()).map_err(|error| self.failure("list the files of", error))
    }

    /// Removes all that were put away but the newest `keep`.
    pub(super) fn forget(&self, keep: usize) -> Result<(), AuditError> {
        let rotated = self.rotated()?;
        let old = rotated.len().saturating_sub(keep);
        rotated
            .iter()
            .take(old)
            .try_for_each(|path| fs::remove_file(path).map_err(|error| self.failure("remove files of", error)))
    }

    /// Sees that names of files outlive the machine.
    pub(super) fn sync(&self) -> Result<(), AuditError> {
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| self.failure("keep the folder of", error))
    }

    /// What went wrong.
    pub(super) fn failure(&self, action: &'static str, source: io::Error) -> AuditError {
        let path = self.path();
        match Errno::from_io_error(&source) {
            Some(Errno::LOOP) => AuditError::NoFile { path, what: "a symbolic link" },
            Some(Errno::ISDIR) => AuditError::NoFile { path, what: "a folder" },
            // What a FIFO that nobody reads, or a socket, answers with.
            Some(Errno::NXIO) => AuditError::NoFile { path, what: "no file" },
            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => AuditError::Forbidden { path, source },
            _ => AuditError::Io { action, path, source },
        }
    }
}

/// What the file called `name` is called when it is put away after the line with the number `sequence`.
fn rotated_name(name: &str, sequence: u64) -> String {
    format!("{name}.{sequence:0DIGITS$}")
}

/// The number that `name` has as a file that was put away, and what it was called before.
pub(super) fn rotated_from(name: &str) -> Option<(&str, u64)> {
    let (base, digits) = name.rsplit_once('.')?;
    let is_number = digits.len() >= DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && !base.is_empty()).then_some((base, digits.parse().ok()?))
}

/// The files of the log at `file` that were put away, the oldest first.
pub(super) fn rotated(file: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(wanted) = file.file_name().and_then(|name| name.to_str()) else { return Ok(Vec::new()) };
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if let Some((base, sequence)) = rotated_from(name)
            && base == wanted
        {
            found.push((sequence, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{rotated, rotated_from, rotated_name};

    #[test]
    fn files_are_in_the_order_of_their_lines() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("audit.jsonl");
        for name in
            ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.gz", "other.jsonl.000000000003", "audit.jsonl.00000000000x"]
        {
            fs::write(folder.path().join(name), "").expect("is written");
        }
        let numbers = [999_999_999_999, 7, 1_000_000_000_000, 80];
        for number in numbers {
            fs::write(folder.path().join(rotated_name("audit.jsonl", number)), "").expect("is written");
        }
        let found: Vec<_> = rotated(&file).expect("is read").iter().map(|path| path.display().to_string()).collect();
        let mut expected = numbers;
        expected.sort_unstable();
        let names =
            expected.map(|number| folder.path().join(rotated_name("audit.jsonl", number)).display().to_string());
        assert_eq!(found, names);
        assert_eq!(rotated_from("audit.jsonl.000000000080"), Some(("audit.jsonl", 80)));
        assert_eq!(rotated_from(".000000000080"), None);
    }
}
