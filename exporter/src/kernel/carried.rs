//! Maps that programs read in place (`Shared` in `exporter-ebpf/src/maps.rs`), carried over from the exporter before this one.
//!
//! To load such a map is to fill it with zeros, also if it was pinned: by then programs that are attached would read those. So each
//! exporter has maps of its own, which begin with what was in the ones before and take their place in the folder once all programs are
//! loaded; the programs that are attached keep theirs until they are replaced.

use std::{fs, io};

use aya::{
    Ebpf, Pod,
    maps::{Array, Map, MapData},
};
use tidewaiter_common::{
    anomaly::settings::Settings,
    guard::{GuardHeader, HALVES, word},
};

use super::{
    KernelError,
    pins::{PinError, Pins},
    tables::{name, read, write},
};

/// Copies what the exporter before this one has left in its maps to those of `ebpf`. There are so many groups of clients now.
pub(super) fn copy(ebpf: &mut Ebpf, pins: &Pins, client_groups: u32) -> Result<(), KernelError> {
    copy_map(ebpf, pins, name::GUARD_WORDS, |_: &mut [u64; word::COUNT]| {})?;
    copy_map(ebpf, pins, name::ANOMALY_SETTINGS, |_: &mut Settings| {})?;
    copy_map(ebpf, pins, name::GUARD_HEADERS, |headers: &mut [GuardHeader; HALVES as usize]| {
        for header in headers {
            header.client_groups = client_groups;
        }
    })
}

fn copy_map<T: Pod>(
    ebpf: &mut Ebpf,
    pins: &Pins,
    map: &'static str,
    change: impl Fn(&mut T),
) -> Result<(), KernelError> {
    let path = pins.map(map);
    if !path.exists() {
        return Ok(());
    }
    let from =
        MapData::from_pin(&path).and_then(|data| Array::<_, T>::try_from(Map::Array(data))).map_err(read(map))?;
    let mut value = from.get(&0, 0).map_err(read(map))?;
    change(&mut value);
    let to = ebpf.map_mut(map).ok_or(KernelError::Missing { kind: "map", name: map })?;
    Array::try_from(to).and_then(|mut to: Array<_, T>| to.set(0, value, 0)).map_err(write(map))
}

/// Puts the maps of `ebpf` into the folder, in the place of those that are there.
pub(super) fn pin(ebpf: &Ebpf, pins: &Pins) -> Result<(), KernelError> {
    for map in name::READ_IN_PLACE {
        let path = pins.map(map);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(PinError::Io { action: "remove", path, source }.into());
            }
            _ => {}
        }
        let there = ebpf.map(map).ok_or(KernelError::Missing { kind: "map", name: map })?;
        there.pin(&path).map_err(|source| KernelError::Pin { path, source })?;
    }
    Ok(())
}
