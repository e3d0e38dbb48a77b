//! What outlives the exporter: maps and hooks pinned in a folder of the BPF file system.
//!
//! An exporter that ends without being asked to leaves its programs counting; the next one finds the folder and goes on
//! from there. The folder belongs to one exporter at a time, which holds a lock on it. In it are
//!
//! * each map under its name;
//! * `tcx-INDEX-DIRECTION`, a link: while it is pinned, the program stays attached to the interface with that index;
//! * `clsact-INDEX-DIRECTION`, a program: it says that there is a TC filter, which stays by itself;
//! * `tracepoint-NAME`, a link: while it is pinned, the program stays attached to the tracepoint.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use aya::{
    Pod,
    maps::{Array, Map, MapData, MapInfo},
    programs::{
        Link, ProgramError,
        links::PinnedLink,
        tc::{SchedClassifierLink, TcHandle},
    },
};
use rustix::{
    fs::{Access, FlockOperation, access, flock, statfs},
    net::{AddressFamily, SocketType, netdevice::index_to_name, socket},
    process::geteuid,
};
use thiserror::Error;
use tidewaiter_common::{
    direction::Direction,
    record::{InstanceRecord, LAYOUT},
};
use tracing::{debug, info};

use super::{
    attach::{Hook, attach_type, priority},
    features::BPF_FILE_SYSTEM_MAGIC,
    tables::name,
    tracepoints::tracepoints,
};

/// Where the BPF file system is mounted, on any host that mounts it.
pub const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";

/// Why a folder of pins cannot be used.
#[derive(Debug, Error)]
pub enum PinError {
    /// Nothing can be pinned there.
    #[error(
        "{} is not on a BPF file system: mount one (mount -t bpf bpf /sys/fs/bpf), or set pin_path to a folder of one",
        path.display()
    )]
    NotBpf {
        /// The folder that was meant.
        path: PathBuf,
    },
    /// There is something in the folder that is not ours.
    #[error(
        "{} holds {name}, which is none of tidewaiter's pins: give it a pin_path of its own",
        path.display()
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// What is in it.
        name: String,
    },
    /// Others could change what is in the folder.
    #[error(
        "{} belongs to another user or may be written to by others: remove it, or set pin_path to a folder of your own",
        path.display()
    )]
    Unsafe {
        /// The folder.
        path: PathBuf,
    },
    /// Filters are attached in another network namespace.
    #[error(
        "the TC filters of {} are attached in another network namespace: detach them from within that (nsenter --net)",
        path.display()
    )]
    Elsewhere {
        /// The folder.
        path: PathBuf,
    },
    /// Another exporter has it.
    #[error(
        "another tidewaiter has {}: stop that one first, or give this one a pin_path of its own",
        path.display()
    )]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// What with.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What the names of pins begin with that keep frames judged.
const GUARD: &str = "xdp-";

/// A folder of pins, and the lock on it.
#[derive(Debug)]
pub struct Pins {
    path: PathBuf,
    /// The folder itself; closing it gives up the lock.
    _lock: File,
}

/// What an exporter finds in its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inheritance {
    /// The maps of one that was here before, in the layout of this one and for the same network namespace.
    Whole,
    /// Nothing.
    Nothing,
    /// What it cannot use, and why.
    Useless(&'static str),
}

impl Pins {
    /// The folder of exporters that are not told another: each network namespace has its own.
    #[must_use]
    pub fn default_path(namespace: u64) -> PathBuf {
        [BPF_FILE_SYSTEM, "tidewaiter", &format!("net-{namespace}")].iter().collect()
    }

    /// Sees that the folder at `path` could be used, or is by an exporter of this user; nothing is changed, nor locked.
    ///
    /// # Errors
    /// Why it could not be.
    pub fn examine(path: &Path) -> Result<(), PinError> {
        let existing = require_bpf(path)?;
        if existing != path {
            return access(existing, Access::WRITE_OK).map_err(|error| io_error("make the folder", path)(error.into()));
        }
        require_own(path, &fs::metadata(path).map_err(io_error("look at", path))?)?;
        foreign(path).map_or(Ok(()), |name| Err(PinError::Foreign { path: path.to_owned(), name }))
    }

    /// Makes sure that the folder at `path` is there, and locks it.
    pub fn open(path: &Path) -> Result<Self, PinError> {
        require_bpf(path)?;
        loop {
            // What is pinned is nobody else's.
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("make the folder", path))?;
            let lock = File::open(path).map_err(io_error("open", path))?;
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(PinError::Busy { path: path.to_owned() }),
                Err(error) => return Err(io_error("lock", path)(error.into())),
            }
            let locked = lock.metadata().map_err(io_error("look at", path))?;
            // One that ends removes its folder while it has the lock: what was locked may be that folder, not this one.
            match fs::metadata(path) {
                Ok(there) if (there.dev(), there.ino()) == (locked.dev(), locked.ino()) => {}
                _ => continue,
            }
            require_own(path, &locked)?;
            return match foreign(path) {
                Some(name) => Err(PinError::Foreign { path: path.to_owned(), name }),
                None => Ok(Self { path: path.to_owned(), _lock: lock }),
            };
        }
    }

    /// As [`Pins::open`], but only if the folder is there.
    pub fn open_existing(path: &Path) -> Result<Option<Self>, PinError> {
        if path.exists() { Self::open(path).map(Some) } else { Ok(None) }
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the map called `name` is pinned.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.path.join(pin_name(name))
    }

    /// Where it is pinned that a program is attached.
    pub(super) fn hook(&self, hook: Hook, index: u32, direction: Direction) -> PathBuf {
        self.path.join(format!("{}-{index}-{}", hook.as_str(), direction.as_str()))
    }

    /// Where it is pinned that frames of an interface are judged.
    pub(super) fn guard(&self, index: u32) -> PathBuf {
        self.path.join(format!("{GUARD}{index}"))
    }

    /// Indexes of the interfaces whose frames are judged.
    pub(super) fn guards(&self) -> Vec<u32> {
        self.entries().filter_map(|path| path.file_name()?.to_str()?.strip_prefix(GUARD)?.parse().ok()).collect()
    }

    /// Has frames of an interface judged no more, and removes its pin. Nothing need be there.
    pub(super) fn detach_guard(&self, index: u32) {
        remove_link(&self.guard(index), true);
    }

    /// The size of the map called `name`; `None` if it is not there.
    pub(super) fn entries_of(&self, name: &str) -> Option<u32> {
        MapInfo::from_pin(self.map(name)).ok().map(|info| info.max_entries())
    }

    /// Where it is pinned that a program is attached to the tracepoint called `name`.
    pub(super) fn tracepoint(&self, name: &str) -> PathBuf {
        self.path.join(tracepoint_pin(name))
    }

    /// Detaches the program at the tracepoint called `name`, and removes its pin. Nothing need be there.
    pub(super) fn detach_tracepoint(&self, name: &str) {
        remove_link(&self.tracepoint(name), true);
    }

    /// The handle of the TC filters of the exporter with this folder, so that two on one interface do not take each
    /// other's filters for their own.
    pub(super) fn filter_handle(path: &Path) -> TcHandle {
        let digest = path.as_os_str().as_bytes().iter().fold(0x811c_9dc5_u32, |digest, byte| {
            // FNV-1a, 32 bits.
            (digest ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
        // Handle 0 would let the kernel choose.
        TcHandle::new((digest >> 16) as u16, (digest & 0xffff) as u16 | 1)
    }

    /// What is in the folder, for an exporter of the network namespace with the cookie `namespace`.
    pub(super) fn inheritance(&self, namespace: u64) -> Inheritance {
        let path = self.map(name::INSTANCE);
        if self.entries().next().is_none() {
            return Inheritance::Nothing;
        }
        // Tables of flows may be missing: they begin empty when they get another size.
        if name::ALL.iter().any(|name| {
            !name::FLOW_TABLES.contains(name) && !name::GUARD_TABLES.contains(name) && !self.map(name).exists()
        }) {
            return Inheritance::Useless("it is not complete");
        }
        match read_first::<InstanceRecord>(&path) {
            Some(InstanceRecord { layout: 0, .. }) => Inheritance::Useless("it is not complete"),
            Some(InstanceRecord { layout: LAYOUT, namespace: found, .. }) if found == namespace => Inheritance::Whole,
            Some(InstanceRecord { layout: LAYOUT, .. }) => Inheritance::Useless("it is of another network namespace"),
            _ => Inheritance::Useless("it has the layout of another version"),
        }
    }

    /// Removes the map called `name` if it has another number of entries than `entries`. Says whether it did.
    pub(super) fn remove_if_sized_otherwise(&self, name: &str, entries: u32) -> Result<bool, PinError> {
        let path = self.map(name);
        match MapInfo::from_pin(&path) {
            Ok(info) if info.max_entries() != entries => {
                fs::remove_file(&path).map_err(io_error("remove", &path)).map(|()| true)
            }
            _ => Ok(false),
        }
    }

    /// The hooks that programs are attached to.
    pub(super) fn hooks(&self) -> Vec<(Hook, u32, Direction)> {
        self.entries().filter_map(|path| parse_hook(path.file_name()?.to_str()?)).collect()
    }

    /// Detaches the program at a hook, and removes its pin. Nothing need be there.
    pub(super) fn detach(&self, hook: Hook, index: u32, direction: Direction) {
        let path = self.hook(hook, index, direction);
        if hook == Hook::Clsact && path.exists() {
            remove_filter(index, direction, Self::filter_handle(&self.path));
        }
        remove_link(&path, hook == Hook::Tcx);
    }

    /// Detaches everything, and removes all pins.
    pub fn clear(&self) -> Result<(), PinError> {
        // First what says that the rest is whole.
        let instance = self.map(name::INSTANCE);
        match fs::remove_file(&instance) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &instance)(error)),
            _ => {}
        }
        for (hook, index, direction) in self.hooks() {
            self.detach(hook, index, direction);
        }
        self.guards().into_iter().for_each(|index| self.detach_guard(index));
        tracepoints().for_each(|name| self.detach_tracepoint(name));
        for path in self.entries() {
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
        Ok(())
    }

    /// Sees that what is attached can be detached from the network namespace with the cookie `namespace`: links can be from
    /// anywhere, filters cannot.
    pub fn require_namespace(&self, namespace: u64) -> Result<(), PinError> {
        let record = read_first::<InstanceRecord>(&self.map(name::INSTANCE));
        let is_elsewhere = record.is_some_and(|record| record.namespace != namespace);
        if is_elsewhere && self.hooks().iter().any(|(hook, ..)| *hook == Hook::Clsact) {
            return Err(PinError::Elsewhere { path: self.path.clone() });
        }
        Ok(())
    }

    /// Detaches everything, and removes the folder.
    pub fn remove(self) -> Result<(), PinError> {
        self.clear()?;
        fs::remove_dir(&self.path).map_err(io_error("remove", &self.path))?;
        info!(path = %self.path.display(), "detached, and removed what was pinned");
        Ok(())
    }

    fn entries(&self) -> impl Iterator<Item = PathBuf> + use<> {
        entries(&self.path)
    }
}

/// What of the path of a folder of pins is there already: on a BPF file system.
fn require_bpf(path: &Path) -> Result<&Path, PinError> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path);
    let is_bpf = statfs(existing).is_ok_and(|stat| stat.f_type == BPF_FILE_SYSTEM_MAGIC);
    is_bpf.then_some(existing).ok_or_else(|| PinError::NotBpf { path: path.to_owned() })
}

/// Sees that nobody else can put anything into the folder at `path`: maps would be taken for counters.
fn require_own(path: &Path, found: &fs::Metadata) -> Result<(), PinError> {
    if found.uid() != geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(PinError::Unsafe { path: path.to_owned() });
    }
    Ok(())
}

/// The name of something in the folder at `path` that is none of our pins.
fn foreign(path: &Path) -> Option<String> {
    let names = entries(path).map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned());
    let is_tracepoint = |name: &str| tracepoints().any(|one| *name == tracepoint_pin(one));
    let is_guard = |name: &str| name.strip_prefix(GUARD).is_some_and(|index| index.parse::<u32>().is_ok());
    let is_ours = |name: &str| {
        name::ALL.iter().any(|map| pin_name(map) == name)
            || parse_hook(name).is_some()
            || is_guard(name)
            || is_tracepoint(name)
    };
    names.into_iter().find(|name| !is_ours(name))
}

fn entries(path: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(path).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

/// What the pin of a map is called: a BPF file system takes no dots.
pub(super) fn pin_name(map: &str) -> &str {
    map.strip_prefix(".bss.").unwrap_or(map)
}

/// Removes the pin at `path`, which detaches what it keeps attached if it is a link. Nothing need be there.
fn remove_link(path: &Path, is_link: bool) {
    // The kernel detaches when the last user is gone. Being the last one makes it happen here and now.
    let link = is_link.then(|| PinnedLink::from_pin(path).ok()).flatten();
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            debug!(path = %path.display(), %error, "cannot remove a pin");
        }
        _ => {}
    }
    drop(link);
}

fn tracepoint_pin(name: &str) -> String {
    format!("tracepoint-{name}")
}

/// Removes a TC filter of ours; it may be gone with its interface.
pub(super) fn remove_filter(index: u32, direction: Direction, handle: TcHandle) {
    let Some(name) = interface_name(index) else { return };
    let link = SchedClassifierLink::attached(&name, attach_type(direction), priority(direction), handle, None);
    let removed = link.map_err(ProgramError::from).and_then(Link::detach);
    if let Err(error) = removed {
        debug!(index, direction = direction.as_str(), %error, "there was no filter to remove");
    }
}

/// The name of the interface with `index` in the network namespace of this process.
fn interface_name(index: u32) -> Option<String> {
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    index_to_name(&any, index).ok()
}

/// The first entry of the pinned array at `path`; `None` if it has another type of entries.
fn read_first<T: Pod>(path: &Path) -> Option<T> {
    let map = Map::Array(MapData::from_pin(path).ok()?);
    let array = Array::<_, T>::try_from(map).ok()?;
    array.get(&0, 0).ok()
}

fn parse_hook(name: &str) -> Option<(Hook, u32, Direction)> {
    let mut parts = name.splitn(3, '-');
    let (hook, index, direction) = (parts.next()?, parts.next()?, parts.next()?);
    let hook = Hook::ALL.into_iter().find(|one| one.as_str() == hook)?;
    let direction = Direction::ALL.into_iter().find(|one| one.as_str() == direction)?;
    Some((hook, index.parse().ok()?, direction))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PinError {
    let path = path.to_owned();
    move |source| PinError::Io { action, path, source }
}
