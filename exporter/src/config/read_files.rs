//! Files as they were when a configuration was read: to see whether it would be another one now.

use std::path::{Path, PathBuf};

use super::web::files::Stamp;

/// Files that a configuration was read from, or that could not be read, and how each was before that.
#[derive(Debug, Default)]
pub struct ReadFiles(Vec<(PathBuf, Option<Stamp>)>);

/// How files are at some time.
#[derive(Debug, PartialEq)]
pub(crate) struct Looks(Vec<Option<Stamp>>);

impl ReadFiles {
    /// Takes note of a file that is about to be read.
    pub(super) fn note(&mut self, path: &Path) {
        self.0.push((path.to_owned(), Stamp::of(path)));
    }

    /// How they are now.
    pub(crate) fn look(&self) -> Looks {
        Looks(self.0.iter().map(|(path, _)| Stamp::of(path)).collect())
    }

    /// Whether they look as they did when they were read.
    pub(crate) fn were(&self, looks: &Looks) -> bool {
        self.0.iter().map(|(_, stamp)| stamp).eq(&looks.0)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::ReadFiles;

    #[test]
    fn a_link_that_leads_elsewhere_is_a_change() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        for name in ["one", "two"] {
            fs::write(path(name), "the same").expect("is written");
        }
        symlink("one", path("data")).expect("is made");
        let mut files = ReadFiles::default();
        files.note(&path("data"));
        files.note(&path("absent"));
        assert!(files.were(&files.look()));
        // As Kubernetes does it: another link takes the place of this one.
        symlink("two", path("next")).expect("is made");
        fs::rename(path("next"), path("data")).expect("is moved");
        let looks = files.look();
        assert!(!files.were(&looks));
        assert_eq!(files.look(), looks);
        fs::remove_file(path("data")).expect("is there");
        assert_ne!(files.look(), looks);
    }
}
