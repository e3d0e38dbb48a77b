//! Files that are read anew when they have changed.

use std::{
    fmt::Write as _,
    fs::{self, File, Metadata},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use ring::digest;

/// The most bytes of a file: bundles of all authorities there are have some 200 kB.
const MAX_BYTES: u64 = 1 << 20;

/// For how long after a change there may be another that the times of the file do not show.
const TICK: Duration = Duration::from_secs(1);

/// Files that were read for one purpose, and by which it is known whether they are still the same.
pub struct Files {
    read: Vec<(PathBuf, Option<Stamp>)>,
    /// Over names and contents.
    digest: digest::Context,
}

impl Default for Files {
    fn default() -> Self {
        Self { read: Vec::new(), digest: digest::Context::new(&digest::SHA256) }
    }
}

impl Files {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Those of the system, and one for a file of more than 1 MiB.
    pub fn read(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        self.read_if(path, |_| Ok(()))
    }

    /// As [`Files::read`], unless `refuse` does not like what the system says of it.
    ///
    /// # Errors
    /// Those of `refuse` too.
    pub fn read_if(&mut self, path: &Path, refuse: impl FnOnce(&Metadata) -> io::Result<()>) -> io::Result<Vec<u8>> {
        // What changes after this is seen by the next look.
        self.read.push((path.to_owned(), Stamp::of(path)));
        // To open a pipe could take for ever.
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        let file = File::open(path)?;
        refuse(&file.metadata()?)?;
        let mut contents = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut contents)?;
        if contents.len() as u64 > MAX_BYTES {
            return Err(io::Error::other(format!("it has more than {MAX_BYTES} bytes")));
        }
        for part in [path.as_os_str().as_encoded_bytes(), &contents] {
            self.digest.update(&part.len().to_be_bytes());
            self.digest.update(part);
        }
        Ok(contents)
    }

    /// Whether none has changed since, as far as can be told without reading them.
    #[must_use]
    pub fn are_unchanged(&self) -> bool {
        self.read.iter().all(|(path, stamp)| match (stamp, Stamp::of(path)) {
            (Some(then), Some(now)) => *then == now && then.is_settled,
            (None, None) => true,
            _ => false,
        })
    }

    /// SHA-256 of names and contents of those that could be read, in hexadecimal digits.
    #[must_use]
    pub fn hash(&self) -> String {
        let digest = self.digest.clone().finish();
        digest.as_ref().iter().fold(String::new(), |mut text, byte| {
            // A string takes whatever there is.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Whether those that could be read have the same names and contents in both.
    #[must_use]
    pub fn have_the_same_contents(&self, other: &Self) -> bool {
        self.digest.clone().finish().as_ref() == other.digest.clone().finish().as_ref()
    }
}

/// What the system says of a file that was not changed meanwhile.
#[derive(Debug)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// Whether its last change was long enough ago for the next one to have another time.
    pub(crate) is_settled: bool,
}

impl PartialEq for Stamp {
    fn eq(&self, other: &Self) -> bool {
        let Self { device, inode, size, modified, changed, is_settled: _ } = self;
        (device, inode, size, modified, changed)
            == (&other.device, &other.inode, &other.size, &other.modified, &other.changed)
    }
}

impl Stamp {
    /// That of the file at `path`, wherever a link there leads; `None` if there is none.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        let age = u64::try_from(changed.0).ok().and_then(|seconds| {
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).ok()
        });
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed,
            is_settled: age.is_some_and(|age| age > 2 * TICK),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::{Files, MAX_BYTES};

    #[test]
    fn a_change_of_any_kind_is_seen() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        let read = || {
            let mut files = Files::default();
            let contents = files.read(&path);
            (files, contents)
        };
        let (absent, error) = read();
        assert!(error.is_err() && absent.are_unchanged());
        fs::write(&path, "one").expect("is written");
        assert!(!absent.are_unchanged());

        let (one, contents) = read();
        assert_eq!(contents.expect("is there"), b"one");
        // What has just been written may be written again within the same tick of the clock.
        assert!(!one.are_unchanged());
        let (same, _) = read();
        assert!(one.have_the_same_contents(&same));
        fs::write(&path, "two").expect("is written");
        let (two, _) = read();
        assert!(!one.have_the_same_contents(&two));
        fs::remove_file(&path).expect("is there");
        assert!(!two.are_unchanged());
    }

    #[test]
    fn what_is_no_file_or_too_large_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let error = Files::default().read(directory.path()).expect_err("is none");
        assert_eq!(error.to_string(), "it is not a file");
        let path = directory.path().join("large");
        File::create(&path).and_then(|file| file.set_len(MAX_BYTES)).expect("is made");
        assert_eq!(Files::default().read(&path).expect("is just small enough").len() as u64, MAX_BYTES);
        File::create(&path).and_then(|file| file.set_len(MAX_BYTES + 1)).expect("is made");
        let error = Files::default().read(&path).expect_err("is too large");
        assert_eq!(error.to_string(), "it has more than 1048576 bytes");
    }
}
