//! The maps: what userspace fills, and the counters that it reads.

use std::{
    io,
    ops::AddAssign,
    os::fd::{AsFd as _, BorrowedFd},
};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapError, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use tidewaiter_common::{
    api::{AddressKey, ApiCounters, ApiSlot, PortEntry},
    details::ApiDetails,
    frame::Framing,
    interface::{InterfaceCounters, InterfaceEntry, InterfaceSlot, interface_places},
    record::{ApiRecord, InstanceRecord, InterfaceRecord},
};

use super::{
    Kernel, KernelError,
    attach::has_kind,
    system::{Batch, Cursor, lookup_batch},
};

/// Names of the maps, as `exporter-ebpf/src/maps.rs` has them.
pub(super) mod name {
    pub(in crate::kernel) const PORTS: &str = "PORTS";
    pub(in crate::kernel) const ADDRESSES: &str = "ADDRESSES";
    pub(in crate::kernel) const API_COUNTERS: &str = "API_COUNTERS";
    pub(in crate::kernel) const API_DETAILS: &str = "API_DETAILS";
    pub(in crate::kernel) const API_TRANSMISSION: &str = "API_TRANSMISSION";
    pub(in crate::kernel) const DROPS: &str = "DROPS";
    pub(in crate::kernel) const INTERFACE_SLOTS: &str = "INTERFACE_SLOTS";
    pub(in crate::kernel) const INTERFACE_COUNTERS: &str = "INTERFACE_COUNTERS";
    pub(in crate::kernel) const FLOWS: &str = "FLOWS";
    pub(in crate::kernel) const NEW_FLOWS: &str = "NEW_FLOWS";
    pub(in crate::kernel) const PROGRAMS: &str = "PROGRAMS";
    pub(in crate::kernel) const ENDED_FLOWS: &str = "ENDED_FLOWS";
    pub(in crate::kernel) const FINISHED_FLOWS: &str = "FINISHED_FLOWS";
    pub(in crate::kernel) const SAMPLES: &str = "SAMPLES";
    pub(in crate::kernel) const SCRATCH: &str = "SCRATCH";
    pub(in crate::kernel) const LOST: &str = "LOST";
    pub(in crate::kernel) const EXPECTATIONS: &str = "EXPECTATIONS";
    pub(in crate::kernel) const ANOMALY_SETTINGS: &str = ".bss.ANOMALY_SETTINGS";
    pub(in crate::kernel) const API_ANOMALIES: &str = "API_ANOMALIES";
    pub(in crate::kernel) const API_OPENINGS: &str = "API_OPENINGS";
    pub(in crate::kernel) const SOURCES: &str = "SOURCES";
    pub(in crate::kernel) const DATAGRAMS: &str = "DATAGRAMS";
    pub(in crate::kernel) const AMPLIFICATIONS: &str = "AMPLIFICATIONS";
    pub(in crate::kernel) const ANOMALIES: &str = "ANOMALIES";
    pub(in crate::kernel) const INSTANCE: &str = "INSTANCE";
    pub(in crate::kernel) const API_RECORDS: &str = "API_RECORDS";
    pub(in crate::kernel) const INTERFACE_RECORDS: &str = "INTERFACE_RECORDS";
    pub(in crate::kernel) const FRAME_PROGRAMS: &str = "FRAME_PROGRAMS";
    pub(in crate::kernel) const GUARD_WORDS: &str = ".bss.GUARD_WORDS";
    pub(in crate::kernel) const GUARD_SWITCH: &str = "GUARD_SWITCH";
    pub(in crate::kernel) const GUARD_HEADERS: &str = ".bss.GUARD_HEADERS";
    pub(in crate::kernel) const GUARD_RULES: &str = "GUARD_RULES";
    pub(in crate::kernel) const GUARD_LISTS: &str = "GUARD_LISTS";
    pub(in crate::kernel) const GUARD_CLASSES: &str = "GUARD_CLASSES";
    pub(in crate::kernel) const GUARD_PORTS: &str = "GUARD_PORTS";
    pub(in crate::kernel) const GUARD_ADDRESSES: &str = "GUARD_ADDRESSES";
    pub(in crate::kernel) const GUARD_MATCHES: &str = "GUARD_MATCHES";
    pub(in crate::kernel) const GUARD_PREFIXES: &str = "GUARD_PREFIXES";
    pub(in crate::kernel) const GUARD_PREFIX_FILTERS: &str = "GUARD_PREFIX_FILTERS";
    pub(in crate::kernel) const BLOCKED: &str = "BLOCKED";
    pub(in crate::kernel) const BLOCKS: &str = "BLOCKS";
    pub(in crate::kernel) const API_LIMITS: &str = "API_LIMITS";
    pub(in crate::kernel) const CLIENT_LIMITS: &str = "CLIENT_LIMITS";
    pub(in crate::kernel) const CLIENTS_EVICTED: &str = "CLIENTS_EVICTED";
    pub(in crate::kernel) const GUARD_COUNTERS: &str = "GUARD_COUNTERS";
    pub(in crate::kernel) const INTERFACE_GUARD: &str = "INTERFACE_GUARD";
    pub(in crate::kernel) const HITS: &str = "HITS";
    pub(in crate::kernel) const GUARD_SCRATCH: &str = "GUARD_SCRATCH";
    pub(in crate::kernel) const PAIR_RECORDS: &str = "PAIR_RECORDS";
    /// Those that the guard can do without what is in them: their sizes are the configuration's, or they are
    /// [carried over](crate::kernel::carried).
    pub(in crate::kernel) const GUARD_TABLES: [&str; 5] =
        [GUARD_PREFIXES, CLIENT_LIMITS, GUARD_WORDS, GUARD_HEADERS, ANOMALY_SETTINGS];
    /// Those that programs read in place.
    pub(in crate::kernel) const READ_IN_PLACE: [&str; 3] = [GUARD_WORDS, GUARD_HEADERS, ANOMALY_SETTINGS];
    /// What the kernel tells by itself.
    pub(in crate::kernel) const RINGS: [&str; 3] = [ENDED_FLOWS, FINISHED_FLOWS, SAMPLES];
    /// Those that the programs can do without what is in them: their sizes are the configuration's.
    pub(in crate::kernel) const FLOW_TABLES: [&str; 5] = [FLOWS, NEW_FLOWS, ENDED_FLOWS, FINISHED_FLOWS, SAMPLES];
    /// All of them: what is pinned.
    pub(in crate::kernel) const ALL: [&str; 49] = [
        PORTS,
        ADDRESSES,
        API_COUNTERS,
        API_DETAILS,
        API_TRANSMISSION,
        DROPS,
        INTERFACE_SLOTS,
        INTERFACE_COUNTERS,
        FLOWS,
        NEW_FLOWS,
        ENDED_FLOWS,
        FINISHED_FLOWS,
        SAMPLES,
        PROGRAMS,
        SCRATCH,
        LOST,
        EXPECTATIONS,
        ANOMALY_SETTINGS,
        API_ANOMALIES,
        API_OPENINGS,
        SOURCES,
        DATAGRAMS,
        AMPLIFICATIONS,
        ANOMALIES,
        INSTANCE,
        API_RECORDS,
        INTERFACE_RECORDS,
        FRAME_PROGRAMS,
        GUARD_WORDS,
        GUARD_SWITCH,
        GUARD_HEADERS,
        GUARD_RULES,
        GUARD_LISTS,
        GUARD_CLASSES,
        GUARD_PORTS,
        GUARD_ADDRESSES,
        GUARD_MATCHES,
        GUARD_PREFIXES,
        GUARD_PREFIX_FILTERS,
        BLOCKED,
        BLOCKS,
        API_LIMITS,
        CLIENT_LIMITS,
        CLIENTS_EVICTED,
        GUARD_COUNTERS,
        INTERFACE_GUARD,
        HITS,
        GUARD_SCRATCH,
        PAIR_RECORDS,
    ];
}

/// Entries of an array that are read at once.
const BATCH: usize = 32_768;

impl Kernel {
    /// Says which API the port at `index` of the port table belongs to.
    pub fn set_port(&mut self, index: u32, entry: PortEntry) -> Result<(), KernelError> {
        let mut ports: Array<_, PortEntry> = self.map_mut(name::PORTS)?;
        ports.set(index, entry, 0).map_err(write(name::PORTS))
    }

    /// Says which API `key` belongs to: none if `slot` is `None`.
    pub fn set_address(&mut self, key: &AddressKey, slot: Option<ApiSlot>) -> Result<(), KernelError> {
        let mut addresses: HashMap<_, AddressKey, u16> = self.map_mut(name::ADDRESSES)?;
        match slot {
            Some(ApiSlot(slot)) => addresses.insert(key, slot, 0),
            None => match addresses.remove(key) {
                Err(error) if has_kind(&error, io::ErrorKind::NotFound) => Ok(()),
                removed => removed,
            },
        }
        .map_err(write(name::ADDRESSES))
    }

    /// Every port that belongs to an API, by its place in the port table.
    pub fn ports(&self) -> Result<Vec<(u32, PortEntry)>, KernelError> {
        let mut ports = self.all_entries(name::PORTS, BATCH)?;
        ports.retain(|(_, entry)| *entry != PortEntry::UNMAPPED);
        Ok(ports)
    }

    /// Every claim of a port at an address.
    pub fn addresses(&self) -> Result<Vec<(AddressKey, ApiSlot)>, KernelError> {
        let addresses: HashMap<_, AddressKey, u16> = self.map(name::ADDRESSES)?;
        let claims = addresses.iter().map(|claim| claim.map(|(key, slot)| (key, ApiSlot(slot))));
        claims.collect::<Result<_, _>>().map_err(read(name::ADDRESSES))
    }

    /// What was ever counted in `slot`, all CPUs together.
    pub fn api_counters(&self, slot: ApiSlot) -> Result<ApiCounters, KernelError> {
        self.add_up(name::API_COUNTERS, slot.0)
    }

    /// What was counted beside that for who has `slot`, all CPUs together.
    pub fn api_details(&self, slot: ApiSlot) -> Result<ApiDetails, KernelError> {
        self.add_up(name::API_DETAILS, slot.0)
    }

    /// Makes what was counted beside packets and bytes in `slot` zeros. Nobody may have it.
    pub fn clear_api_details(&mut self, slot: ApiSlot) -> Result<(), KernelError> {
        self.clear::<ApiDetails>(name::API_DETAILS, slot)
    }

    /// Makes the entry of `slot` zeros, on all CPUs.
    pub(super) fn clear<T: Pod + Default>(&mut self, map: &'static str, slot: ApiSlot) -> Result<(), KernelError> {
        let mut array: PerCpuArray<_, T> = self.map_mut(map)?;
        let zeros = nr_cpus()
            .map_err(|(_, source)| source)
            .and_then(|cpus| PerCpuValues::try_from(vec![T::default(); cpus]))
            .map_err(|source| write(map)(source.into()))?;
        array.set(slot.0.into(), zeros, 0).map_err(write(map))
    }

    /// Who has `slot`.
    pub fn api_record(&self, slot: ApiSlot) -> Result<ApiRecord, KernelError> {
        self.get(name::API_RECORDS, slot.0)
    }

    /// Says who has `slot`.
    pub fn set_api_record(&mut self, slot: ApiSlot, record: &ApiRecord) -> Result<(), KernelError> {
        self.set(name::API_RECORDS, slot.0, record)
    }

    /// Says what the payload of who has `slot` may look like: a bit for each protocol, by its number; anything if none is set.
    pub fn set_expectation(&mut self, slot: ApiSlot, protocols: u32) -> Result<(), KernelError> {
        self.set(name::EXPECTATIONS, slot.0, &protocols)
    }

    /// Whose all of it is.
    pub(super) fn instance(&self) -> Result<InstanceRecord, KernelError> {
        self.get(name::INSTANCE, 0)
    }

    /// Says whose all of it is.
    pub(super) fn set_instance(&mut self, record: &InstanceRecord) -> Result<(), KernelError> {
        self.set(name::INSTANCE, 0, record)
    }

    /// Has packets of the interface with `index` counted in `slot`, and read as `framing` says.
    ///
    /// # Errors
    /// [`KernelError::Full`] if the interface's places in the table are all taken.
    pub fn set_interface(&mut self, index: u32, slot: InterfaceSlot, framing: Framing) -> Result<(), KernelError> {
        let guarded = self.interface_entry(index)?.map_or(0, |entry| entry.guarded);
        let entry = InterfaceEntry { index, slot: slot.0, framing: framing as u8, guarded };
        self.replace_interface(&[index, 0], entry)?.then_some(()).ok_or_else(|| KernelError::Full {
            what: format!("the interface with index {index}"),
            limit: interface_places(index).count(),
        })
    }

    /// Has packets of the interface with `index` no longer counted in a slot of its own.
    pub fn clear_interface(&mut self, index: u32) -> Result<(), KernelError> {
        self.replace_interface(&[index], InterfaceEntry::default()).map(|_| ())
    }

    /// Says what of the guard there is to be done for what the interface with `index` receives.
    pub(super) fn set_guarded(&mut self, index: u32, guarded: u8) -> Result<(), KernelError> {
        match self.interface_entry(index)? {
            Some(entry) if entry.guarded != guarded => {
                self.replace_interface(&[index], InterfaceEntry { guarded, ..entry }).map(|_| ())
            }
            _ => Ok(()),
        }
    }

    /// What is known of the interface with `index`, if anything is.
    fn interface_entry(&self, index: u32) -> Result<Option<InterfaceEntry>, KernelError> {
        let slots: Array<_, InterfaceEntry> = self.map(name::INTERFACE_SLOTS)?;
        for place in interface_places(index) {
            let found = slots.get(&place, 0).map_err(read(name::INTERFACE_SLOTS))?;
            if found.index == index {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Writes `entry` over the first place of the interface that one of `indexes` stands in, or says that there is none.
    fn replace_interface(&mut self, indexes: &[u32], entry: InterfaceEntry) -> Result<bool, KernelError> {
        let Some(&index) = indexes.first() else { return Ok(false) };
        let mut slots: Array<_, InterfaceEntry> = self.map_mut(name::INTERFACE_SLOTS)?;
        for wanted in indexes {
            for place in interface_places(index) {
                let found = slots.get(&place, 0).map_err(read(name::INTERFACE_SLOTS))?;
                if found.index == *wanted {
                    slots.set(place, entry, 0).map_err(write(name::INTERFACE_SLOTS))?;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// What was ever counted in `slot`, all CPUs together.
    pub fn interface_counters(&self, slot: InterfaceSlot) -> Result<InterfaceCounters, KernelError> {
        self.add_up(name::INTERFACE_COUNTERS, slot.0)
    }

    /// Who has `slot`.
    pub fn interface_record(&self, slot: InterfaceSlot) -> Result<InterfaceRecord, KernelError> {
        self.get(name::INTERFACE_RECORDS, slot.0)
    }

    /// Says who has `slot`.
    pub fn set_interface_record(&mut self, slot: InterfaceSlot, record: &InterfaceRecord) -> Result<(), KernelError> {
        self.set(name::INTERFACE_RECORDS, slot.0, record)
    }

    /// The entry at `index` of an array.
    pub(super) fn get<T: Pod>(&self, map: &'static str, index: u16) -> Result<T, KernelError> {
        let array: Array<_, T> = self.map(map)?;
        array.get(&index.into(), 0).map_err(read(map))
    }

    /// Writes the entry at `index` of an array.
    pub(super) fn set<T: Pod>(&mut self, map: &'static str, index: u16, value: &T) -> Result<(), KernelError> {
        let mut array: Array<_, T> = self.map_mut(map)?;
        array.set(index.into(), value, 0).map_err(write(map))
    }

    /// The entry at `index` of an array of which each CPU has its own, all of them together.
    pub(super) fn add_up<T>(&self, map: &'static str, index: u16) -> Result<T, KernelError>
    where
        T: Pod + Default + for<'a> AddAssign<&'a T>,
    {
        let array: PerCpuArray<_, T> = self.map(map)?;
        let of_cpus = array.get(&index.into(), 0).map_err(read(map))?;
        let mut total = T::default();
        of_cpus.iter().for_each(|one| total += one);
        Ok(total)
    }

    /// Some entries of a map from `cursor` on, at most `count`.
    pub(super) fn some_entries<K: Pod, V: Pod>(
        &self,
        map: &'static str,
        cursor: Cursor,
        count: usize,
    ) -> Result<Batch<K, V>, KernelError> {
        let descriptor = self.map_descriptor(map)?;
        lookup_batch(descriptor, cursor, count).map_err(|source| KernelError::Batch { map, source })
    }

    /// All entries of a map, read `count` at a time.
    pub(super) fn all_entries<K: Pod, V: Pod>(
        &self,
        map: &'static str,
        count: usize,
    ) -> Result<Vec<(K, V)>, KernelError> {
        let mut all = Vec::new();
        let mut cursor = Some(Cursor::default());
        while let Some(from) = cursor {
            let batch = self.some_entries(map, from, count)?;
            all.extend(batch.entries);
            cursor = batch.next;
        }
        Ok(all)
    }

    /// The map itself, for what aya does not offer.
    pub(super) fn map_descriptor(&self, name: &'static str) -> Result<BorrowedFd<'_>, KernelError> {
        match self.ebpf.map(name) {
            Some(Map::Array(map) | Map::HashMap(map) | Map::LruHashMap(map)) => Ok(map.fd().as_fd()),
            _ => Err(KernelError::Missing { kind: "map", name }),
        }
    }

    pub(super) fn map<'a, M: TryFrom<&'a Map, Error = MapError>>(
        &'a self,
        name: &'static str,
    ) -> Result<M, KernelError> {
        let map = self.ebpf.map(name).ok_or(KernelError::Missing { kind: "map", name })?;
        M::try_from(map).map_err(|_| KernelError::Missing { kind: "map", name })
    }

    pub(super) fn map_mut<'a, M: TryFrom<&'a mut Map, Error = MapError>>(
        &'a mut self,
        name: &'static str,
    ) -> Result<M, KernelError> {
        let map = self.ebpf.map_mut(name).ok_or(KernelError::Missing { kind: "map", name })?;
        M::try_from(map).map_err(|_| KernelError::Missing { kind: "map", name })
    }
}

pub(super) fn read(map: &'static str) -> impl Fn(MapError) -> KernelError {
    move |source| KernelError::Map { action: "read", map, source: source.into() }
}

pub(super) fn write(map: &'static str) -> impl Fn(MapError) -> KernelError {
    move |source| KernelError::Map { action: "write", map, source: source.into() }
}
