//! What userspace keeps in the kernel for the exporter that comes after it: who has which slot, and since when.
//!
//! The kernel's counters are never reset. A slot's counters are what was counted in it, ever, less what its record says was
//! counted before its present holder came. So what a holder leaves behind moves from one side of a record to the other in
//! a single write, and an exporter that is killed at any moment leaves totals that are right.

use crate::{
    PROGRAM_ENTRIES,
    anomaly::{
        AnomalyKind, ApiAnomalies,
        fragments::{Datagram, DatagramKey, MAX_DATAGRAMS},
        openings::Openings,
        settings::Settings,
        source::{MAX_SOURCES, Source},
        told::ToldAnomaly,
    },
    api::{API_NAME_BYTES, AddressKey, ApiCounters, MAX_ADDRESS_ENTRIES, MAX_APIS, PORT_TABLE_ENTRIES, PortEntry},
    clients::Group,
    details::ApiDetails,
    direction::Direction,
    event::{FinishedFlow, Lost, Sample},
    flow::{Flow, FlowKey},
    guard::{
        BlockKey, ClassEntry, GUARD_PORT_ENTRIES, GuardCounters, GuardHeader, GuardRule, Hit, InterfaceGuardCounters,
        List, MATCH_ENTRIES, MAX_CLASSES, MAX_LISTS, MAX_PAIRS, MAX_RULES, Verdict, word,
    },
    http::{METHODS, STATUS_CODES},
    interface::{INTERFACE_TABLE_ENTRIES, InterfaceCounters, InterfaceEntry, MAX_INTERFACES},
    prefix::PrefixEntry,
    protocol::Protocol,
    reason::Reason,
    role::Role,
    transmission::{ApiTransmission, DropKey, MAX_DROP_ENTRIES},
};

/// Increased with every change of what is pinned that the sizes and names below do not show.
const REVISION: u64 = 4;

/// Bytes of what one program leaves for the next, which programs of two exporters share while one takes over from the other.
pub const SCRATCH_BYTES: u64 = 456;

/// The same of what programs of the guard leave: it is checked where the kernel side is compiled.
pub const GUARD_SCRATCH_BYTES: u64 = 168;

/// The version of the layout of everything that is pinned. An exporter takes over only what has its own.
pub const LAYOUT: u64 = layout();

/// A digest (FNV-1a, 64 bits) of the sizes and names that both sides must agree about.
const fn layout() -> u64 {
    let sizes = [
        REVISION,
        SCRATCH_BYTES,
        GUARD_SCRATCH_BYTES,
        size_of::<PortEntry>() as u64,
        size_of::<AddressKey>() as u64,
        size_of::<ApiCounters>() as u64,
        size_of::<ApiDetails>() as u64,
        size_of::<ApiTransmission>() as u64,
        size_of::<ApiAnomalies>() as u64,
        size_of::<Openings>() as u64,
        size_of::<Settings>() as u64,
        size_of::<Source>() as u64,
        MAX_SOURCES as u64,
        size_of::<DatagramKey>() as u64,
        size_of::<Datagram>() as u64,
        MAX_DATAGRAMS as u64,
        size_of::<ToldAnomaly>() as u64,
        size_of::<DropKey>() as u64,
        MAX_DROP_ENTRIES as u64,
        size_of::<InterfaceEntry>() as u64,
        size_of::<InterfaceCounters>() as u64,
        size_of::<FlowKey>() as u64,
        size_of::<Flow>() as u64,
        size_of::<FinishedFlow>() as u64,
        size_of::<Sample>() as u64,
        size_of::<InstanceRecord>() as u64,
        size_of::<ApiRecord>() as u64,
        size_of::<InterfaceRecord>() as u64,
        size_of::<PairRecord>() as u64,
        size_of::<GuardHeader>() as u64,
        size_of::<GuardRule>() as u64,
        size_of::<List>() as u64,
        size_of::<ClassEntry>() as u64,
        size_of::<Group>() as u64,
        size_of::<BlockKey>() as u64,
        size_of::<GuardCounters>() as u64,
        size_of::<InterfaceGuardCounters>() as u64,
        size_of::<Hit>() as u64,
        size_of::<PrefixEntry>() as u64,
        PROGRAM_ENTRIES as u64,
        word::COUNT as u64,
        GUARD_PORT_ENTRIES as u64,
        MATCH_ENTRIES as u64,
        MAX_RULES as u64,
        MAX_LISTS as u64,
        MAX_CLASSES as u64,
        MAX_PAIRS as u64,
        Verdict::COUNT as u64,
        PORT_TABLE_ENTRIES as u64,
        MAX_ADDRESS_ENTRIES as u64,
        MAX_APIS as u64,
        INTERFACE_TABLE_ENTRIES as u64,
        MAX_INTERFACES as u64,
    ];
    let mut digest = 0xcbf2_9ce4_8422_2325;
    let mut at = 0;
    while at < sizes.len() {
        digest = fold(digest, &sizes[at].to_le_bytes());
        at += 1;
    }
    // Counters are indexed by reason, and by the others: the same number of others would be counted under wrong names.
    at = 0;
    while at < Reason::COUNT {
        digest = fold(digest, Reason::ALL[at].as_str().as_bytes());
        at += 1;
    }
    digest = fold_names(digest, &METHODS);
    at = 0;
    while at < Protocol::COUNT {
        digest = fold(digest, Protocol::ALL[at].as_str().as_bytes());
        at += 1;
    }
    at = 0;
    while at < Lost::COUNT {
        digest = fold(digest, Lost::ALL[at].as_str().as_bytes());
        at += 1;
    }
    at = 0;
    while at < AnomalyKind::COUNT {
        digest = fold(digest, AnomalyKind::ALL[at].as_str().as_bytes());
        at += 1;
    }
    at = 0;
    while at < STATUS_CODES.len() {
        digest = fold(digest, &STATUS_CODES[at].to_le_bytes());
        at += 1;
    }
    digest
}

const fn fold_names(mut digest: u64, names: &[&str]) -> u64 {
    let mut at = 0;
    while at < names.len() {
        digest = fold(digest, names[at].as_bytes());
        at += 1;
    }
    digest
}

const fn fold(mut digest: u64, bytes: &[u8]) -> u64 {
    let mut at = 0;
    while at < bytes.len() {
        digest = (digest ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    digest
}

/// Whose all the rest is. It is written last, so while it is not there the rest may not be complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct InstanceRecord {
    /// [`LAYOUT`] of the exporter that made it.
    pub layout: u64,
    /// Cookie of the network namespace whose interfaces are accounted (`SO_NETNS_COOKIE`); they are unique until the
    /// machine is started anew.
    pub namespace: u64,
    /// When counting began, in nanoseconds since the epoch.
    pub created: u64,
}

#[cfg(feature = "user")]
// SAFETY: three `u64`, no padding, every bit pattern is valid.
unsafe impl aya::Pod for InstanceRecord {}

/// Whether a slot has a holder. Other numbers than these are none.
pub mod state {
    /// Nobody has the slot.
    pub const FREE: u8 = 0;
    /// Somebody has it, and is in the tables.
    pub const CURRENT: u8 = 1;
    /// Its holder has left the tables, but programs that found it there may still be counting.
    pub const RETIRED: u8 = 2;
}

/// Who has a slot of the APIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ApiRecord {
    /// The name in UTF-8, as long as `name_length` says.
    pub name: [u8; API_NAME_BYTES],
    /// Bytes of the name.
    pub name_length: u16,
    /// See [`state`].
    pub state: u8,
    /// A [`Role`], as its number.
    pub role: u8,
    /// Connections that were open when the table of flows was lost: nobody will see their end.
    pub adrift: u32,
    /// Since when it is counted, in nanoseconds since the epoch.
    pub created: u64,
    /// What had been counted in the slot before.
    pub base: ApiCounters,
    /// What former holders of the slot had counted, by role; it is part of `removed`.
    pub removed: [ApiCounters; Role::COUNT],
}

#[cfg(feature = "user")]
// SAFETY: bytes and integers without padding between them, every bit pattern is valid.
unsafe impl aya::Pod for ApiRecord {}

const _: () = assert!(size_of::<ApiRecord>() == API_NAME_BYTES + 16 + 3 * size_of::<ApiCounters>());

impl Default for ApiRecord {
    fn default() -> Self {
        Self {
            name: [0; API_NAME_BYTES],
            name_length: 0,
            state: state::FREE,
            role: 0,
            adrift: 0,
            created: 0,
            base: ApiCounters::default(),
            removed: Default::default(),
        }
    }
}

/// Bytes of an interface's name, the closing zero included (`IFNAMSIZ`, `include/uapi/linux/if.h`).
pub const INTERFACE_NAME_BYTES: usize = 16;

/// Who has a slot of the interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct InterfaceRecord {
    /// The name, filled up with zeros.
    pub name: [u8; INTERFACE_NAME_BYTES],
    /// The interface's index.
    pub index: u32,
    /// See [`state`].
    pub state: u8,
    /// Pads to 2 bytes.
    pub reserved: u8,
    /// A [`Framing`](crate::frame::Framing), as its number.
    pub framing: u16,
    /// Since when it is accounted, in nanoseconds since the epoch.
    pub created: u64,
    /// The kernel's own count of its packets at that time, by [`Direction::index`].
    pub kernel_base: [u64; Direction::COUNT],
    /// In what the device has counted since then, by [`Direction::index`]: numbers that are userspace's own.
    pub units: [u32; Direction::COUNT],
    /// What had been counted in the slot before.
    pub base: InterfaceCounters,
    /// What former holders of the slot had counted; it is part of `gone`.
    pub gone: InterfaceCounters,
    /// What the guard had counted in the slot before.
    pub guard_base: InterfaceGuardCounters,
    /// What it had counted for former holders of the slot.
    pub guard_gone: InterfaceGuardCounters,
}

#[cfg(feature = "user")]
// SAFETY: bytes and integers without padding between them, every bit pattern is valid.
unsafe impl aya::Pod for InterfaceRecord {}

const _: () = assert!(
    size_of::<InterfaceRecord>() == 56 + 2 * size_of::<InterfaceCounters>() + 2 * size_of::<InterfaceGuardCounters>()
);

/// Bytes of the names that a pair of a rule and an API is known by: as many as both can have.
pub const PAIR_NAME_BYTES: usize = 800;

/// Who has a place among the pairs of a rule and an API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PairRecord {
    /// The names in UTF-8: first the rule's, as long as `rule_length` says, then the API's.
    pub names: [u8; PAIR_NAME_BYTES],
    /// Bytes of the rule's name; 0 if nobody has the place.
    pub rule_length: u16,
    /// Bytes of the API's.
    pub api_length: u16,
    /// Pads to 8 bytes.
    pub reserved: u32,
    /// Since when it is counted, in nanoseconds since the epoch.
    pub created: u64,
    /// What had been counted in the place before.
    pub base: GuardCounters,
}

#[cfg(feature = "user")]
// SAFETY: bytes and integers without padding between them, every bit pattern is valid.
unsafe impl aya::Pod for PairRecord {}

const _: () = assert!(size_of::<PairRecord>() == PAIR_NAME_BYTES + 16 + size_of::<GuardCounters>());

impl Default for PairRecord {
    fn default() -> Self {
        Self {
            names: [0; PAIR_NAME_BYTES],
            rule_length: 0,
            api_length: 0,
            reserved: 0,
            created: 0,
            base: GuardCounters::default(),
        }
    }
}
