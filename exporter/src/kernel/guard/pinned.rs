//! The guard of another exporter, by what is pinned of it.

use std::{io, os::unix::fs::MetadataExt as _, path::Path};

use aya::{
    Pod,
    maps::{Array, Map, MapData},
};
use tidewaiter_common::guard::word;

use crate::kernel::{
    KernelError,
    pins::{PinError, pin_name},
    tables::{name, read, write},
};

/// Switches the guard that is pinned in `folder`, without its lock: whoever has that may hang. Answers with whether there is one.
///
/// # Errors
/// [`KernelError::Pins`] if others could have put something else there, or that of the map.
pub fn switch_pinned_guard(folder: &Path, on: bool) -> Result<bool, KernelError> {
    let Some(mut switch) = pinned::<u64>(folder, name::GUARD_SWITCH)? else { return Ok(false) };
    switch.set(0, u64::from(!on), 0).map_err(write(name::GUARD_SWITCH))?;
    Ok(true)
}

/// Whether the guard that is pinned in `folder` is on; `None` if there is none.
pub fn is_pinned_guard_on(folder: &Path) -> Result<Option<bool>, KernelError> {
    let Some(switch) = pinned::<u64>(folder, name::GUARD_SWITCH)? else { return Ok(None) };
    Ok(Some(switch.get(&0, 0).map_err(read(name::GUARD_SWITCH))? == 0))
}

/// Has everything pass the guard that is pinned in `folder`, until an exporter lets the kernel know again that it is there.
pub(in crate::kernel) fn let_all_pass(folder: &Path) -> Result<(), KernelError> {
    let Some(mut words) = pinned::<[u64; word::COUNT]>(folder, name::GUARD_WORDS)? else { return Ok(()) };
    let mut changed = words.get(&0, 0).map_err(read(name::GUARD_WORDS))?;
    changed[word::DEADLINE] = 0;
    words.set(0, changed, 0).map_err(write(name::GUARD_WORDS))
}

fn pinned<T: Pod>(folder: &Path, map: &'static str) -> Result<Option<Array<MapData, T>>, KernelError> {
    let path = folder.join(pin_name(map));
    let of_folder = match std::fs::metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        of_folder => of_folder.map_err(|source| PinError::Io { action: "look at", path: folder.to_owned(), source })?,
    };
    if !path.exists() {
        return Ok(None);
    }
    if of_folder.uid() != rustix::process::geteuid().as_raw() || of_folder.mode() & 0o022 != 0 {
        return Err(PinError::Unsafe { path: folder.to_owned() }.into());
    }
    let data = MapData::from_pin(&path).map_err(read(map))?;
    Array::try_from(Map::Array(data)).map(Some).map_err(read(map))
}
