//! The maps: what userspace fills, and the counters that it reads.

use std::io;

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapError, PerCpuArray, PerCpuValues},
};
use tidewaiter_common::{
    api::{AddressKey, ApiSlot, PortEntry},
    counters::Counters,
    direction::Direction,
    interface::{InterfaceCounters, InterfaceEntry, InterfaceSlot, interface_places},
};

use super::{Kernel, KernelError, attach::has_kind};

/// Names of the maps, as `exporter-ebpf/src/maps.rs` has them.
mod name {
    pub(super) const PORTS: &str = "PORTS";
    pub(super) const ADDRESSES: &str = "ADDRESSES";
    pub(super) const API_COUNTERS: &str = "API_COUNTERS";
    pub(super) const INTERFACE_SLOTS: &str = "INTERFACE_SLOTS";
    pub(super) const INTERFACE_COUNTERS: &str = "INTERFACE_COUNTERS";
}

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

    /// What was counted for the API in `slot`, by direction, all CPUs together.
    pub fn api_counters(&self, slot: ApiSlot) -> Result<[Counters; Direction::COUNT], KernelError> {
        let counters: PerCpuArray<_, Counters> = self.map(name::API_COUNTERS)?;
        let mut totals = [Counters::default(); Direction::COUNT];
        for direction in Direction::ALL {
            let of_cpus = counters.get(&slot.counters_index(direction), 0).map_err(read(name::API_COUNTERS))?;
            totals[direction.index()] = of_cpus.iter().copied().sum();
        }
        Ok(totals)
    }

    /// Zeroes the counters of the API in `slot`, which must have left the tables.
    pub fn reset_api(&mut self, slot: ApiSlot) -> Result<(), KernelError> {
        for direction in Direction::ALL {
            let zeros = self.of_each_cpu(Counters::default())?;
            let mut counters: PerCpuArray<_, Counters> = self.map_mut(name::API_COUNTERS)?;
            counters.set(slot.counters_index(direction), zeros, 0).map_err(write(name::API_COUNTERS))?;
        }
        Ok(())
    }

    /// Has packets of the interface with `index` counted in `slot`.
    ///
    /// # Errors
    /// [`KernelError::Full`] if the interface's places in the table are all taken.
    pub fn set_interface(&mut self, index: u32, slot: InterfaceSlot) -> Result<(), KernelError> {
        let entry = InterfaceEntry { index, slot: slot.0, reserved: 0 };
        self.replace_interface(&[index, 0], entry)?.then_some(()).ok_or_else(|| KernelError::Full {
            what: format!("the interface with index {index}"),
            limit: interface_places(index).count(),
        })
    }

    /// Has packets of the interface with `index` no longer counted in a slot of its own.
    pub fn clear_interface(&mut self, index: u32) -> Result<(), KernelError> {
        self.replace_interface(&[index], InterfaceEntry::default()).map(|_| ())
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

    /// What was counted for the interface in `slot`, all CPUs together.
    pub fn interface_counters(&self, slot: InterfaceSlot) -> Result<InterfaceCounters, KernelError> {
        let counters: PerCpuArray<_, InterfaceCounters> = self.map(name::INTERFACE_COUNTERS)?;
        let of_cpus = counters.get(&slot.0.into(), 0).map_err(read(name::INTERFACE_COUNTERS))?;
        let mut total = InterfaceCounters::default();
        of_cpus.iter().for_each(|one| total += one);
        Ok(total)
    }

    /// Zeroes the counters of the interface in `slot`, which must have left the table.
    pub fn reset_interface(&mut self, slot: InterfaceSlot) -> Result<(), KernelError> {
        let zeros = self.of_each_cpu(InterfaceCounters::default())?;
        let mut counters: PerCpuArray<_, InterfaceCounters> = self.map_mut(name::INTERFACE_COUNTERS)?;
        counters.set(slot.0.into(), zeros, 0).map_err(write(name::INTERFACE_COUNTERS))
    }

    /// `value` for each CPU.
    fn of_each_cpu<T: Pod>(&self, value: T) -> Result<PerCpuValues<T>, KernelError> {
        PerCpuValues::try_from(vec![value; self.cpus])
            .map_err(|source| KernelError::Cpus { file: "/sys/devices/system/cpu/possible", source })
    }

    fn map<'a, M: TryFrom<&'a Map, Error = MapError>>(&'a self, name: &'static str) -> Result<M, KernelError> {
        let map = self.ebpf.map(name).ok_or(KernelError::Missing { kind: "map", name })?;
        M::try_from(map).map_err(|_| KernelError::Missing { kind: "map", name })
    }

    fn map_mut<'a, M: TryFrom<&'a mut Map, Error = MapError>>(
        &'a mut self,
        name: &'static str,
    ) -> Result<M, KernelError> {
        let map = self.ebpf.map_mut(name).ok_or(KernelError::Missing { kind: "map", name })?;
        M::try_from(map).map_err(|_| KernelError::Missing { kind: "map", name })
    }
}

fn read(map: &'static str) -> impl Fn(MapError) -> KernelError {
    move |source| KernelError::Map { action: "read", map, source: source.into() }
}

fn write(map: &'static str) -> impl Fn(MapError) -> KernelError {
    move |source| KernelError::Map { action: "write", map, source: source.into() }
}
