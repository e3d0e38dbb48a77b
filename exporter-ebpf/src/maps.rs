//! The maps: what userspace fills and reads.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
};
use tidewaiter_common::{
    api::{API_COUNTERS_ENTRIES, AddressKey, ApiSlot, MAX_ADDRESS_ENTRIES, PORT_TABLE_ENTRIES, PortEntry},
    counters::Counters,
    interface::{INTERFACE_TABLE_ENTRIES, InterfaceCounters, InterfaceEntry, MAX_INTERFACES},
};

/// Which API a port belongs to, by transport and port. Written by userspace.
#[map]
pub(crate) static PORTS: Array<PortEntry> = Array::with_max_entries(PORT_TABLE_ENTRIES, 0);

/// APIs that claimed some addresses of a port. Written by userspace.
#[map]
pub(crate) static ADDRESSES: HashMap<AddressKey, ApiSlot> =
    HashMap::with_max_entries(MAX_ADDRESS_ENTRIES, BPF_F_NO_PREALLOC);

/// Packets and bytes of each API and direction, a set for each CPU. The truth that every total comes from.
#[map]
pub(crate) static API_COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(API_COUNTERS_ENTRIES, 0);

/// The slot of each interface, by the low bits of its index. Written by userspace.
#[map]
pub(crate) static INTERFACE_SLOTS: Array<InterfaceEntry> = Array::with_max_entries(INTERFACE_TABLE_ENTRIES, 0);

/// Counters of each interface by its slot, a set for each CPU.
#[map]
pub(crate) static INTERFACE_COUNTERS: PerCpuArray<InterfaceCounters> =
    PerCpuArray::with_max_entries(MAX_INTERFACES as u32, 0);
