//! Maps that programs read in place (`Shared` in `exporter-ebpf/src/maps.rs`), carried over from the exporter before this one.
//!
//! To load such a map is to fill it with zeros, also if it was pinned: by then programs that are attached would read those. So the
//! programs to come get maps of their own, with what was in the old ones, and those that they replace keep theirs until then.

use std::{fs, io, path::Path};

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

/// What was in the maps of the exporter before this one; nothing of those that were not there.
pub(super) struct Carried {
    words: Option<Array<MapData, [u64; word::COUNT]>>,
    switch: Option<Array<MapData, u64>>,
    headers: Option<Array<MapData, [GuardHeader; HALVES as usize]>>,
    settings: Option<Array<MapData, Settings>>,
}

impl Carried {
    /// Takes the maps out of the folder.
    pub(super) fn take(pins: &Pins) -> Result<Self, KernelError> {
        Ok(Self {
            words: take(&pins.map(name::GUARD_WORDS), name::GUARD_WORDS)?,
            switch: take(&pins.map(name::GUARD_SWITCH), name::GUARD_SWITCH)?,
            headers: take(&pins.map(name::GUARD_HEADERS), name::GUARD_HEADERS)?,
            settings: take(&pins.map(name::ANOMALY_SETTINGS), name::ANOMALY_SETTINGS)?,
        })
    }

    /// Writes to the maps of `ebpf` what is in those.
    pub(super) fn put_back(self, ebpf: &mut Ebpf) -> Result<(), KernelError> {
        put_back(ebpf, name::GUARD_WORDS, self.words)?;
        put_back(ebpf, name::GUARD_SWITCH, self.switch)?;
        put_back(ebpf, name::GUARD_HEADERS, self.headers)?;
        put_back(ebpf, name::ANOMALY_SETTINGS, self.settings)
    }
}

fn take<T: Pod>(path: &Path, map: &'static str) -> Result<Option<Array<MapData, T>>, KernelError> {
    let Ok(data) = MapData::from_pin(path) else { return Ok(None) };
    let array = Array::try_from(Map::Array(data)).map_err(read(map))?;
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(PinError::Io { action: "remove", path: path.to_owned(), source }.into())
        }
        _ => Ok(Some(array)),
    }
}

fn put_back<T: Pod>(ebpf: &mut Ebpf, map: &'static str, from: Option<Array<MapData, T>>) -> Result<(), KernelError> {
    let Some(from) = from else { return Ok(()) };
    let value = from.get(&0, 0).map_err(read(map))?;
    let to = ebpf.map_mut(map).ok_or(KernelError::Missing { kind: "map", name: map })?;
    Array::try_from(to).and_then(|mut to: Array<_, T>| to.set(0, value, 0)).map_err(write(map))
}
