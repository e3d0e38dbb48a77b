//! The guard: which packets are let in.
//!
//! Everything that a configuration says is worked out by userspace into tables, of which there are two halves: one is in
//! force, the other is written. A packet reads which one is in force once, so it is judged wholly by the old rules or wholly
//! by the new ones.
//!
//! A packet's transport and port lead to its *class*, its source address to *who* sent it, and both together to the list of
//! rules that match: however many rules there are, that is a table lookup each. [`judge`] goes through this list.

mod block;
mod counters;
mod judge;
mod names;
mod tables;

pub use self::{
    block::{BlockKey, BlockedLength},
    counters::{GuardCounters, Hit, InterfaceGuardCounters},
    judge::{Facts, Judged, ask, decision, judge, outcome},
    names::{Action, Stage, Unit, Verdict},
    tables::{ClassEntry, GuardAddressKey, GuardHeader, GuardRule, List, Step, judges},
};
use crate::{api::PORT_TABLE_ENTRIES, limiter::Limit, prefix::PrefixHeader};

/// How many copies of the tables there are.
pub const HALVES: u32 = 2;

/// The most rules there can be at a time.
pub const MAX_RULES: u16 = 1024;

/// The most classes of packets, [`class::PORTLESS`] included.
pub const MAX_CLASSES: u16 = 4096;

/// The most lists of rules, the empty one included.
pub const MAX_LISTS: u16 = 4096;

/// The most rules that can match a packet.
pub const MAX_STEPS: usize = 8;

/// The most combinations of a class and who sends it.
pub const MAX_MATCHES: u32 = 1 << 16;

/// The most pairs of a rule and an API, which counters and limits are kept for. Nobody has the first.
pub const MAX_PAIRS: u16 = 8192;

/// The most ports whose established connections are left alone.
pub const MAX_PROTECTED_PORTS: usize = 8;

/// How many lengths of prefixes can be blocked at a time, of each IP version.
pub const BLOCKED_LENGTHS: usize = 8;

/// The most blocks there can be at a time.
pub const MAX_BLOCKS: u32 = 1 << 16;

/// Clients whose hits are told apart in an interval, on each CPU.
pub const HIT_ENTRIES: u32 = 4096;

/// Classes that an entry of the table of ports holds.
const CLASSES_PER_ENTRY: u32 = 4;

/// Entries of the table of ports: of each half.
pub const GUARD_PORT_ENTRIES: u32 = PORT_TABLE_ENTRIES / CLASSES_PER_ENTRY;

/// Lists that an entry of the table of matches holds.
const LISTS_PER_ENTRY: u32 = 4;

/// Entries of the table of matches: of each half.
pub const MATCH_ENTRIES: u32 = MAX_MATCHES / LISTS_PER_ENTRY;

/// Single numbers that the exporter writes.
pub mod word {
    /// Counts how often the tables were changed; its lowest bit is the half that is in force.
    pub const GENERATION: usize = 0;
    /// The tick after which everything passes, because the exporter has not been heard of for so long.
    pub const DEADLINE: usize = 1;
    /// Number of the interval that hits are gathered in.
    pub const INTERVAL: usize = 2;
    /// How many lengths of IPv4 prefixes are blocked.
    pub const BLOCKED_IPV4: usize = 3;
    /// How many lengths of IPv6 prefixes are.
    pub const BLOCKED_IPV6: usize = 4;
    /// The random number that [`group`](crate::clients::group) is asked with; 0 while there is none yet.
    pub const CLIENT_SEED: usize = 5;
    /// How many there are.
    pub const COUNT: usize = 6;
}

/// What is known of a packet by its transport and port.
pub mod class {
    /// Of packets without ports, and of those whose ports cannot be read.
    pub const PORTLESS: u16 = 0;
    /// Of later parts of datagrams: their ports are in the first one.
    pub const FRAGMENTS: u16 = 1;
    /// Bit of a class in the table of ports: addresses have classes of their own there.
    pub const BY_ADDRESS: u16 = 1 << 15;
}

/// Where the class of `port_index` stands: the entry, and how far its number is to be shifted.
#[inline(always)]
#[must_use]
pub const fn class_place(half: u32, port_index: u32) -> (u32, u32) {
    (half * GUARD_PORT_ENTRIES + port_index / CLASSES_PER_ENTRY, port_index % CLASSES_PER_ENTRY * 16)
}

/// Where the list stands of who sends packets of a class; likewise. `None` if there is no such place.
#[inline(always)]
#[must_use]
pub const fn match_place(half: u32, class: u16, whos: u32, who: u32) -> Option<(u32, u32)> {
    let place = class as u32 * whos + who;
    if place >= MAX_MATCHES {
        return None;
    }
    Some((half * MATCH_ENTRIES + place / LISTS_PER_ENTRY, place % LISTS_PER_ENTRY * 16))
}

/// The list of packets that nothing is done to, not even if their sender is blocked.
pub const PROTECTED: u16 = u16::MAX;

#[cfg(feature = "user")]
mod pod {
    use super::{
        BlockKey, BlockedLength, ClassEntry, GuardAddressKey, GuardCounters, GuardHeader, GuardRule, Hit,
        InterfaceGuardCounters, List,
    };

    macro_rules! pod {
        ($($name:ty),+ $(,)?) => {
            // SAFETY: integers without padding between them, every bit pattern is valid.
            $(unsafe impl aya::Pod for $name {})+
        };
    }
    pod!(GuardRule, List, GuardHeader, ClassEntry, GuardAddressKey, BlockKey, GuardCounters);
    pod!(InterfaceGuardCounters, Hit, BlockedLength);
}

const _: () = {
    assert!(size_of::<GuardRule>() == size_of::<Limit>() + 48);
    assert!(size_of::<List>() == 40);
    assert!(size_of::<GuardHeader>() == size_of::<PrefixHeader>() + 16 + 2 * MAX_PROTECTED_PORTS);
    assert!(size_of::<ClassEntry>() == 8);
    assert!(size_of::<GuardAddressKey>() == 24);
    assert!(size_of::<BlockKey>() == 24);
    assert!(size_of::<Hit>() == 40);
};
