//! The maps: what userspace fills and reads.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap},
};
use tidewaiter_common::{
    api::{AddressKey, ApiCounters, ApiSlot, MAX_ADDRESS_ENTRIES, MAX_APIS, PORT_TABLE_ENTRIES, PortEntry},
    details::ApiDetails,
    flow::{Flow, FlowKey},
    interface::{INTERFACE_TABLE_ENTRIES, InterfaceCounters, InterfaceEntry, MAX_INTERFACES},
    packet::{IPV6_HEADER, Packet},
    record::{ApiRecord, InstanceRecord, InterfaceRecord},
    transmission::{ApiTransmission, DropKey, MAX_DROP_ENTRIES},
};

/// Which API a port belongs to, by transport and port. Written by userspace.
#[map]
pub(crate) static PORTS: Array<PortEntry> = Array::with_max_entries(PORT_TABLE_ENTRIES, 0);

/// APIs that claimed some addresses of a port. Written by userspace.
#[map]
pub(crate) static ADDRESSES: HashMap<AddressKey, ApiSlot> =
    HashMap::with_max_entries(MAX_ADDRESS_ENTRIES, BPF_F_NO_PREALLOC);

/// What was counted for each API, a set for each CPU. The truth that every total comes from; never reset.
#[map]
pub(crate) static API_COUNTERS: PerCpuArray<ApiCounters> = PerCpuArray::with_max_entries(MAX_APIS as u32, 0);

/// What was counted for each API beside that, a set for each CPU. Userspace makes it zeros before an API gets the slot.
#[map]
pub(crate) static API_DETAILS: PerCpuArray<ApiDetails> = PerCpuArray::with_max_entries(MAX_APIS as u32, 0);

/// What was counted of each API's transmission, a set for each CPU. Userspace makes it zeros before an API gets the slot.
#[map]
pub(crate) static API_TRANSMISSION: PerCpuArray<ApiTransmission> = PerCpuArray::with_max_entries(MAX_APIS as u32, 0);

/// Packets that the kernel dropped, by API and reason. Userspace takes out those of a slot before an API gets that.
#[map]
pub(crate) static DROPS: PerCpuHashMap<DropKey, u64> = PerCpuHashMap::with_max_entries(MAX_DROP_ENTRIES, 0);

/// The slot of each interface, by the low bits of its index. Written by userspace.
#[map]
pub(crate) static INTERFACE_SLOTS: Array<InterfaceEntry> = Array::with_max_entries(INTERFACE_TABLE_ENTRIES, 0);

/// Counters of each interface by its slot, a set for each CPU; never reset.
#[map]
pub(crate) static INTERFACE_COUNTERS: PerCpuArray<InterfaceCounters> =
    PerCpuArray::with_max_entries(MAX_INTERFACES as u32, 0);

/// Established flows. Userspace says how many there can be, and is the only one to delete any.
#[map]
pub(crate) static FLOWS: HashMap<FlowKey, Flow> = HashMap::with_max_entries(1, 0);

/// Flows that are not established; those that were not seen for long are forgotten for new ones. Userspace says how many
/// there can be.
#[map]
pub(crate) static NEW_FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(1, 0);

/// What one function of a program leaves for another.
#[map]
pub(crate) static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// What one function of the program that counts drops leaves for another: that program may interrupt the others.
#[map]
pub(crate) static DROP_SCRATCH: PerCpuArray<DropScratch> = PerCpuArray::with_max_entries(1, 0);

/// The most bytes that are read of a header at once.
pub(crate) const HEADER_BYTES: usize = IPV6_HEADER;

/// A packet that was read, and what it is read from.
pub(crate) struct DropScratch {
    pub(crate) packet: Packet,
    pub(crate) bytes: [u8; HEADER_BYTES],
}

/// A packet that was read, and how that went.
pub(crate) struct Scratch {
    pub(crate) packet: Packet,
    /// Index of the reason why it was not; any other number if it was. A number, because the verifier does not know which
    /// values an enumeration has, and the compiler does not check what it does know.
    pub(crate) reason: u8,
}

/// Whose all of this is. This map and the two below are for userspace alone: it keeps in them what the next exporter
/// has to know.
#[map]
static INSTANCE: Array<InstanceRecord> = Array::with_max_entries(1, 0);

/// Who has which slot of the APIs.
#[map]
static API_RECORDS: Array<ApiRecord> = Array::with_max_entries(MAX_APIS as u32, 0);

/// Who has which slot of the interfaces.
#[map]
static INTERFACE_RECORDS: Array<InterfaceRecord> = Array::with_max_entries(MAX_INTERFACES as u32, 0);
