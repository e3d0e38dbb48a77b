//! A BPF file system of a test's own.

use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

/// A BPF file system. When this is dropped, all that is pinned in it is gone, however a test ends.
#[derive(Debug)]
pub struct BpfFileSystem {
    directory: TempDir,
}

impl BpfFileSystem {
    /// Mounts one.
    #[must_use]
    pub fn mount() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        mount("bpf", directory.path(), "bpf", MountFlags::empty(), None).expect("is root");
        Self { directory }
    }

    /// A folder for the pins of an exporter; it is not there yet.
    #[must_use]
    pub fn pin_path(&self) -> PathBuf {
        self.path().join("tidewaiter").join("test")
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for BpfFileSystem {
    fn drop(&mut self) {
        let unmounted = unmount(self.path(), UnmountFlags::DETACH);
        // A second panic would hide the first.
        assert!(unmounted.is_ok() || std::thread::panicking(), "{unmounted:?}");
    }
}
