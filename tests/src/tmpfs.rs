//! A file system in memory, as small as a test wants it.

use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use tempfile::TempDir;

/// A tmpfs. When this is dropped, all that is in it is gone, however a test ends.
#[derive(Debug)]
pub struct Tmpfs {
    directory: TempDir,
}

impl Tmpfs {
    /// Mounts one with room for `size`, such as "64k".
    #[must_use]
    pub fn mount(size: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let data = std::ffi::CString::new(format!("size={size}")).expect("no zero in it");
        mount("tmpfs", directory.path(), "tmpfs", MountFlags::empty(), data.as_c_str()).expect("is root");
        Self { directory }
    }

    /// Has room for `size` from now on.
    pub fn resize(&self, size: &str) {
        mount_remount(self.path(), MountFlags::empty(), format!("size={size}").as_str()).expect("is root");
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let unmounted = unmount(self.path(), UnmountFlags::DETACH);
        // A second panic would hide the first.
        assert!(unmounted.is_ok() || std::thread::panicking(), "{unmounted:?}");
    }
}
