//! The maps: what userspace fills and reads.

use core::cell::UnsafeCell;

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, ProgramArray, RingBuf},
};
use tidewaiter_common::{
    FRAME_PROGRAM_ENTRIES, PROGRAM_ENTRIES,
    address::Address,
    anomaly::{
        AnomalyKind, ApiAnomalies,
        fragments::{Datagram, DatagramKey, MAX_DATAGRAMS},
        openings::{Judged, Openings},
        settings::Settings,
        source::{MAX_SOURCES, Source},
        told::{Allowance, EVIDENCE_BYTES, ToldAnomaly},
    },
    api::{AddressKey, ApiCounters, ApiSlot, MAX_ADDRESS_ENTRIES, MAX_APIS, PORT_TABLE_ENTRIES, PortEntry},
    clients::Group,
    details::ApiDetails,
    event::{Lost, SAMPLE_BYTES, Sample},
    flow::{Flow, FlowKey},
    guard::{
        BLOCKED_LENGTHS, BlockKey, BlockedLength, ClassEntry, GUARD_PORT_ENTRIES, GuardAddressKey, GuardCounters,
        GuardHeader, GuardRule, HALVES, HIT_ENTRIES, Hit, InterfaceGuardCounters, List, MATCH_ENTRIES, MAX_BLOCKS,
        MAX_CLASSES, MAX_LISTS, MAX_PAIRS, MAX_RULES, word,
    },
    interface::{INTERFACE_TABLE_ENTRIES, InterfaceCounters, InterfaceEntry, MAX_INTERFACES},
    packet::{IPV6_HEADER, Packet},
    prefix::{PREFIX_FILTER_WORDS, PrefixEntry},
    protocol::Prefix,
    record::{ApiRecord, GUARD_SCRATCH_BYTES, InstanceRecord, InterfaceRecord, PairRecord, SCRATCH_BYTES},
    transmission::{ApiTransmission, DropKey, MAX_DROP_ENTRIES},
};

use crate::{flow::Sight, guard::GuardScratch};

/// Programs that others end in. Written by userspace.
#[map]
pub(crate) static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(PROGRAM_ENTRIES, 0);

/// Programs of XDP that others end in. Written by userspace.
#[map]
pub(crate) static FRAME_PROGRAMS: ProgramArray = ProgramArray::with_max_entries(FRAME_PROGRAM_ENTRIES, 0);

/// The least that a ring can be: a page.
const RING_BYTES: u32 = 4096;

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

/// Established flows. Userspace says how many there can be; none is deleted unless it says so.
#[map]
pub(crate) static FLOWS: HashMap<FlowKey, Flow> = HashMap::with_max_entries(1, 0);

/// Flows that are not established; those that were not seen for long are forgotten for new ones. Userspace says how many
/// there can be.
#[map]
pub(crate) static NEW_FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(1, 0);

/// What one function of a program leaves for another, and one program for the one that it ends in: which may be another
/// exporter's, while one takes over from the other.
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
#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) packet: Packet,
    /// Index of the reason why it was not; any other number if it was. A number, because the verifier does not know which
    /// values an enumeration has, and the compiler does not check what it does know.
    pub(crate) reason: u8,
    /// What of it matters to flows.
    pub(crate) sight: Sight,
    /// A flow that is about to be written to a table.
    pub(crate) flow: Flow,
    /// The first bytes of a payload.
    pub(crate) prefix: Prefix,
    /// The [`Protocol`](tidewaiter_common::protocol::Protocol) that it looks like, as its number.
    pub(crate) found: u8,
    /// What of HTTP/1 or DNS it begins with.
    pub(crate) beginning: u32,
    /// What of it is to be judged: see [`buffer`](crate::guard::buffer).
    pub(crate) late: u32,
    /// What is to be looked at as an anomaly: see [`anomaly::leave`](crate::anomaly::leave).
    pub(crate) suspect: u64,
}

const _: () = assert!(size_of::<Scratch>() as u64 == SCRATCH_BYTES);

/// What is written to [`SAMPLES`].
#[map]
pub(crate) static SAMPLE_SCRATCH: PerCpuArray<SampleScratch> = PerCpuArray::with_max_entries(1, 0);

/// A sample and its bytes.
#[repr(C)]
pub(crate) struct SampleScratch {
    pub(crate) sample: Sample,
    pub(crate) bytes: [u8; SAMPLE_BYTES],
}

/// Established flows that have ended, by key: they stay in their table until they are quiet, and userspace has them finished.
/// Userspace says how long this and the two below are.
#[map]
pub(crate) static ENDED_FLOWS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// Flows that are in no table any more, as they were in the end.
#[map]
pub(crate) static FINISHED_FLOWS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// First bytes of payloads that userspace is to look at, each behind its [`Sample`].
#[map]
pub(crate) static SAMPLES: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// What found no room in these, by [`Lost`](tidewaiter_common::event::Lost), a set for each CPU.
#[map]
pub(crate) static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(Lost::COUNT as u32, 0);

/// What is an anomaly. Written by userspace.
// SAFETY: nothing else in the object has this name or is in this section; it is of integers.
#[unsafe(link_section = ".bss.ANOMALY_SETTINGS")]
#[unsafe(no_mangle)]
pub(crate) static ANOMALY_SETTINGS: Shared<Settings> = unsafe { Shared::zeroed() };

/// Anomalies of each API, a set for each CPU. Userspace makes it zeros before an API gets the slot.
#[map]
pub(crate) static API_ANOMALIES: PerCpuArray<ApiAnomalies> = PerCpuArray::with_max_entries(MAX_APIS as u32, 0);

/// Connections that each API is asked for. Whoever has had the slot before makes no difference for long.
#[map]
pub(crate) static API_OPENINGS: Array<Openings> = Array::with_max_entries(MAX_APIS as u32, 0);

/// Who has sent something of late that one may send too much of; the address of nobody stands for all of them. Those that were
/// not seen for longest are forgotten for new ones.
#[map]
pub(crate) static SOURCES: LruHashMap<Address, Source> = LruHashMap::with_max_entries(MAX_SOURCES, 0);

/// Datagrams of which not all parts have come; those that were not seen for longest are forgotten for new ones.
#[map]
pub(crate) static DATAGRAMS: LruHashMap<DatagramKey, Datagram> = LruHashMap::with_max_entries(MAX_DATAGRAMS, 0);

/// Amplified questions of each API, as userspace finds them in flows: for it alone, and for the next exporter.
#[map]
static AMPLIFICATIONS: Array<u64> = Array::with_max_entries(MAX_APIS as u32, 0);

/// Anomalies, each with the first bytes of a packet. Userspace says how long it is.
#[map]
pub(crate) static ANOMALIES: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// How much was told of each kind.
#[map]
pub(crate) static ALLOWANCES: PerCpuArray<Allowance> = PerCpuArray::with_max_entries(AnomalyKind::COUNT as u32, 0);

/// What the functions that find anomalies leave for each other.
#[map]
pub(crate) static ANOMALY_SCRATCH: PerCpuArray<AnomalyScratch> = PerCpuArray::with_max_entries(1, 0);

/// See [`ANOMALY_SCRATCH`].
#[repr(C)]
pub(crate) struct AnomalyScratch {
    /// An anomaly that is about to be told, and the bytes that go with it.
    pub(crate) told: ToldAnomaly,
    pub(crate) bytes: [u8; EVIDENCE_BYTES],
    /// Whether there is one.
    pub(crate) is_found: u64,
    /// A source that is about to be written to its table: nothing is ever counted in it.
    pub(crate) source: Source,
    /// A datagram, likewise.
    pub(crate) datagram: Datagram,
    pub(crate) key: DatagramKey,
    pub(crate) judged: Judged,
}

/// What the payload of each API may look like: a bit for each [`Protocol`](tidewaiter_common::protocol::Protocol) by its
/// number; none if it may be anything. Written by userspace.
#[map]
pub(crate) static EXPECTATIONS: Array<u32> = Array::with_max_entries(MAX_APIS as u32, 0);

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

/// A map of one entry whose place is known when the programs are loaded, so that to read it is a load: an array asks first
/// whether there is such an entry. Userspace knows it by the name of its section.
#[repr(transparent)]
pub(crate) struct Shared<T>(UnsafeCell<T>);

// SAFETY: who reads or writes what is in it says why that is sound.
unsafe impl<T> Sync for Shared<T> {}

impl<T: Copy> Shared<T> {
    /// As it is before userspace has written to it.
    ///
    /// # Safety
    /// Zeros must be a value of `T`.
    const unsafe fn zeroed() -> Self {
        // SAFETY: the caller's.
        Self(UnsafeCell::new(unsafe { core::mem::zeroed() }))
    }

    /// Where it is. The compiler, which sees nobody write to it, is not told that it is this: it would take it for zeros.
    #[inline(always)]
    pub(crate) fn get(&self) -> *const T {
        #[cfg_attr(not(target_arch = "bpf"), expect(unused_mut, reason = "the instruction changes it, or so it says"))]
        let mut place = self.0.get().cast_const();
        #[cfg(target_arch = "bpf")]
        // SAFETY: there is no instruction.
        unsafe {
            core::arch::asm!("/* {0} */", inout(reg) place, options(pure, nomem, nostack, preserves_flags));
        }
        place
    }
}

/// Single numbers of the guard, by [`word`](tidewaiter_common::guard::word). The exporter writes them, and the guard of the
/// exporter that takes over goes on with them.
// SAFETY: nothing else in the object has this name or is in this section; it is of integers.
#[unsafe(link_section = ".bss.GUARD_WORDS")]
#[unsafe(no_mangle)]
pub(crate) static GUARD_WORDS: Shared<[u64; word::COUNT]> = unsafe { Shared::zeroed() };

/// Whether somebody has switched the guard off. A map by itself, which all exporters share: others than they write it too.
#[map]
pub(crate) static GUARD_SWITCH: Array<u64> = Array::with_max_entries(1, 0);

/// What all packets have in common, of each half. Written by userspace, as are all that come next.
// SAFETY: as above.
#[unsafe(link_section = ".bss.GUARD_HEADERS")]
#[unsafe(no_mangle)]
pub(crate) static GUARD_HEADERS: Shared<[GuardHeader; HALVES as usize]> = unsafe { Shared::zeroed() };

/// The rules of each half.
#[map]
pub(crate) static GUARD_RULES: Array<GuardRule> = Array::with_max_entries(HALVES * MAX_RULES as u32, 0);

/// The lists of rules of each half.
#[map]
pub(crate) static GUARD_LISTS: Array<List> = Array::with_max_entries(HALVES * MAX_LISTS as u32, 0);

/// The classes of each half.
#[map]
pub(crate) static GUARD_CLASSES: Array<ClassEntry> = Array::with_max_entries(HALVES * MAX_CLASSES as u32, 0);

/// Classes by port, see [`class_place`](tidewaiter_common::guard::class_place).
#[map]
pub(crate) static GUARD_PORTS: Array<u64> = Array::with_max_entries(HALVES * GUARD_PORT_ENTRIES, 0);

/// Classes of ports at some addresses.
#[map]
pub(crate) static GUARD_ADDRESSES: HashMap<GuardAddressKey, u16> =
    HashMap::with_max_entries(HALVES * MAX_ADDRESS_ENTRIES, BPF_F_NO_PREALLOC);

/// Lists by class and sender, see [`match_place`](tidewaiter_common::guard::match_place).
#[map]
pub(crate) static GUARD_MATCHES: Array<u64> = Array::with_max_entries(HALVES * MATCH_ENTRIES, 0);

/// Senders by prefix, of each half. Userspace says how many entries there are.
#[map]
pub(crate) static GUARD_PREFIXES: Array<PrefixEntry> = Array::with_max_entries(HALVES, 0);

/// The filters before that, of each half.
#[map]
pub(crate) static GUARD_PREFIX_FILTERS: Array<u64> = Array::with_max_entries(HALVES * PREFIX_FILTER_WORDS, 0);

/// The lengths of prefixes that are blocked: first those of IPv4, from the middle on those of IPv6.
#[map]
pub(crate) static BLOCKED: Array<BlockedLength> = Array::with_max_entries(2 * BLOCKED_LENGTHS as u32, 0);

/// What is blocked, and until which tick.
#[map]
pub(crate) static BLOCKS: HashMap<BlockKey, u64> = HashMap::with_max_entries(MAX_BLOCKS, BPF_F_NO_PREALLOC);

/// Words of the limits that APIs have, by pair: see [`limiter`](tidewaiter_common::limiter).
#[map]
pub(crate) static API_LIMITS: Array<u64> = Array::with_max_entries(MAX_PAIRS as u32, 0);

/// The limits that clients have: see [`clients`](tidewaiter_common::clients). Userspace says how many there can be.
#[map]
pub(crate) static CLIENT_LIMITS: Array<Group> = Array::with_max_entries(1, 0);

/// How many clients were forgotten there who were short of something, a number for each CPU.
#[map]
pub(crate) static CLIENTS_EVICTED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// What was decided, by pair, a set for each CPU; never reset.
#[map]
pub(crate) static GUARD_COUNTERS: PerCpuArray<GuardCounters> = PerCpuArray::with_max_entries(MAX_PAIRS as u32, 0);

/// What was decided on each interface by its slot, a set for each CPU; never reset.
#[map]
pub(crate) static INTERFACE_GUARD: PerCpuArray<InterfaceGuardCounters> =
    PerCpuArray::with_max_entries(MAX_INTERFACES as u32, 0);

/// Whose packets were decided about of late, a set for each CPU.
#[map]
pub(crate) static HITS: PerCpuArray<Hit> = PerCpuArray::with_max_entries(HIT_ENTRIES, 0);

/// What one function of the guard leaves for another, and one program for the one that it ends in, as in [`SCRATCH`].
#[map]
pub(crate) static GUARD_SCRATCH: PerCpuArray<GuardScratch> = PerCpuArray::with_max_entries(1, 0);

const _: () = assert!(size_of::<GuardScratch>() as u64 == GUARD_SCRATCH_BYTES);

/// Who has which place among the pairs of a rule and an API. For userspace alone.
#[map]
static PAIR_RECORDS: Array<PairRecord> = Array::with_max_entries(MAX_PAIRS as u32, 0);
