//! The guard: which packets are let in.
//!
//! Everything that a configuration says is worked out by userspace into tables, of which there are two halves: one is in
//! force, the other is written. A packet reads which one is in force once, so it is judged wholly by the old rules or wholly
//! by the new ones.
//!
//! A packet's transport and port lead to its *class*, its source address to *who* sent it, and both together to the list of
//! rules that match: however many rules there are, that is a table lookup each. [`judge`] goes through this list.

use crate::{
    address::Address,
    api::{AddressKey, PORT_TABLE_ENTRIES},
    limiter::Limit,
    prefix::PrefixHeader,
    protocol::opaque,
};

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

/// Declares an enumeration that both sides know by number, with its names.
macro_rules! numbered {
    ($(#[$doc:meta])+ $name:ident { $($(#[$of:meta])+ $variant:ident = $label:literal,)+ }) => {
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[$of])+ $variant,)+ }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// What it is called in configurations and labels.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }

            /// Whether `number` is the one of this.
            #[inline(always)]
            #[must_use]
            pub const fn is(self, number: u8) -> bool {
                self as u8 == number
            }
        }
    };
}

numbered! {
    /// What a limit counts.
    Unit {
        /// Nothing: there is no limit.
        None = "none",
        /// Packets, as they are on the wire.
        Packets = "packets_per_second",
        /// Bytes, as they are on the wire.
        Bytes = "bytes_per_second",
        /// Segments that open a connection of TCP.
        Connections = "connections_per_second",
        /// Requests of HTTP/1 without TLS.
        Requests = "requests_per_second",
    }
}

numbered! {
    /// What is done to packets that a rule applies to.
    Action {
        /// They pass, whatever rules come after.
        Allow = "allow",
        /// They are gone.
        Drop = "drop",
        /// They are gone, and their sender is told.
        Reject = "reject",
        /// They are marked (`SO_MARK`, `skb->mark`), and the next rule is asked.
        Mark = "mark",
    }
}

numbered! {
    /// What became of a packet: the value of the label `verdict`.
    Verdict {
        /// It passed: it was allowed, within a limit, or nobody knew better.
        Pass = "pass",
        /// It was dropped.
        Drop = "drop",
        /// It was dropped, and answered.
        Reject = "reject",
        /// It was marked.
        Mark = "mark",
        /// It would have been dropped, were the rule enforced.
        WouldDrop = "would_drop",
        /// It would have been rejected.
        WouldReject = "would_reject",
        /// It would have been marked.
        WouldMark = "would_mark",
    }
}

impl Verdict {
    /// What becomes of a packet by an action that is enforced, or not.
    #[inline(always)]
    const fn of(action: u8, is_enforced: bool) -> Self {
        match (is_enforced, action) {
            (true, DROP) => Self::Drop,
            (true, REJECT) => Self::Reject,
            (true, MARK) => Self::Mark,
            (false, DROP) => Self::WouldDrop,
            (false, REJECT) => Self::WouldReject,
            (false, MARK) => Self::WouldMark,
            _ => Self::Pass,
        }
    }
}

const ALLOW: u8 = Action::Allow as u8;
const DROP: u8 = Action::Drop as u8;
const REJECT: u8 = Action::Reject as u8;
const MARK: u8 = Action::Mark as u8;

/// When a packet is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// As a frame, before there is a socket buffer.
    Frame,
    /// As a socket buffer, that nobody has judged before.
    Buffer,
    /// As a socket buffer, that has been judged as a frame: what could not be done then is left.
    Marks,
    /// It begins a request, as its connection's flow knows.
    Request,
    /// Its payload is not what the API expects.
    Payload,
}

impl Stage {
    /// The stage with this number; the last one for any other.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Frame,
            1 => Self::Buffer,
            2 => Self::Marks,
            3 => Self::Request,
            _ => Self::Payload,
        }
    }
}

/// A rule, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct GuardRule {
    /// The limit, if [`GuardRule::unit`] says that there is one.
    pub limit: Limit,
    /// A [`Unit`], as its number.
    pub unit: u8,
    /// Whether each client has a limit of its own; else each API has.
    pub is_per_client: u8,
    /// An [`Action`], as its number.
    pub action: u8,
    /// Whether it is enforced, not only observed.
    pub is_enforced: u8,
    /// When it is asked: a bit for each [`Stage`] by its number, see [`GuardRule::stages`].
    pub stages: u8,
    /// Pads to 4 bytes.
    pub reserved: [u8; 3],
    /// Which anomalies it is about: a bit for each [`AnomalyKind`](crate::anomaly::AnomalyKind) by its number; all packets if
    /// none is set.
    pub anomalies: u32,
    /// What packets are marked with.
    pub mark: u32,
    /// The bits of an IPv4 address that make a client.
    pub ipv4_mask: Address,
    /// The bits of an IPv6 address that do.
    pub ipv6_mask: Address,
}

impl GuardRule {
    /// When a rule is asked that has this action and unit, and is about payload that is not expected, or is not. Those that let everything
    /// pass are asked always: they stand before others.
    #[must_use]
    pub const fn stages(action: Action, unit: Unit, is_about_payload: bool) -> u8 {
        const fn bits(stages: &[Stage]) -> u8 {
            let mut bits = 0;
            let mut place = 0;
            while place < stages.len() {
                bits |= 1 << stages[place] as u8;
                place += 1;
            }
            bits
        }
        let is_about_request = matches!(unit, Unit::Requests);
        match action {
            _ if is_about_payload && is_about_request => bits(&[Stage::Payload, Stage::Request]),
            _ if is_about_payload => bits(&[Stage::Payload]),
            _ if is_about_request => bits(&[Stage::Request]),
            Action::Allow => u8::MAX,
            Action::Mark => bits(&[Stage::Buffer, Stage::Marks]),
            Action::Drop | Action::Reject => bits(&[Stage::Frame, Stage::Buffer]),
        }
    }
}

/// A rule that matches, and what is kept of it for the API that the packet is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Step {
    /// Its place in the table of rules.
    pub rule: u16,
    /// Their place among the pairs.
    pub pair: u16,
}

/// The rules that match, in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct List {
    /// How many there are.
    pub count: u32,
    /// The rules.
    pub steps: [Step; MAX_STEPS],
    /// Pads to 8 bytes.
    pub reserved: u32,
}

/// What all packets of a half have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct GuardHeader {
    /// Finds out who has sent a packet.
    pub prefixes: PrefixHeader,
    /// Where the table of prefixes begins in the map.
    pub first_prefix: u32,
    /// How many kinds of senders there are.
    pub whos: u32,
    /// What there is to judge: see [`judges`].
    pub judges: u32,
    /// Groups of clients that have limits: see [`clients`](crate::clients).
    pub client_groups: u32,
    /// Ports whose established connections are left alone; 0 where there is none.
    pub protected_ports: [u16; MAX_PROTECTED_PORTS],
}

impl GuardHeader {
    /// Whether established connections to `port` are left alone.
    #[inline(always)]
    #[must_use]
    pub fn protects(&self, port: u16) -> bool {
        // Without branches: the verifier would follow each way through them.
        let found = self.protected_ports.iter().fold(0, |found, protected| {
            let difference = u64::from(*protected ^ port);
            // It borrows from the highest bit if there is none.
            found | opaque(difference.wrapping_sub(1))
        });
        found >> 63 != 0
    }
}

/// What a half has rules about: bits.
pub mod judges {
    /// Packets at all.
    pub const PACKETS: u32 = 1;
    /// Anomalies.
    pub const ANOMALIES: u32 = 1 << 1;
    /// Requests.
    pub const REQUESTS: u32 = 1 << 2;
    /// Payload that is not expected.
    pub const PAYLOAD: u32 = 1 << 3;
    /// What packets are marked with.
    pub const MARKS: u32 = 1 << 4;
    /// Whether blocks are enforced, not only observed.
    pub const ENFORCES_BLOCKS: u32 = 1 << 5;
    /// Packets that are to be answered.
    pub const ANSWERS: u32 = 1 << 6;
}

/// What is known of a class beside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ClassEntry {
    /// Where blocks are counted that hit it: its place among the pairs.
    pub block_pair: u16,
    /// Whether it is of no API.
    pub is_unmapped: u16,
    /// Pads to 8 bytes.
    pub reserved: u32,
}

/// A key of the table that finds classes by address too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct GuardAddressKey {
    /// The port, and this host's address.
    pub key: AddressKey,
    /// The half.
    pub half: u32,
}

/// A key of the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C, align(8))]
pub struct BlockKey {
    /// What is blocked: an address of which all bits behind the length are 0.
    pub address: Address,
    /// The length: of an IPv4 address as such, though it is mapped.
    pub length: u32,
    /// Pads to 8 bytes.
    pub reserved: u32,
}

impl BlockKey {
    /// Whoever begins as `address` does, for so long.
    #[inline(always)]
    #[must_use]
    pub const fn of(address: Address, length: &BlockedLength) -> Self {
        Self { address: address.and(&length.mask), length: length.length, reserved: 0 }
    }
}

/// A length of prefixes that are blocked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct BlockedLength {
    /// The bits of an address that count.
    pub mask: Address,
    /// The length: see [`BlockKey::length`].
    pub length: u32,
    /// Pads to 8 bytes.
    pub reserved: u32,
}

impl BlockedLength {
    /// The first `length` bits of an IPv4 address, or of an IPv6 address.
    #[must_use]
    pub const fn new(length: u8, is_v4: bool) -> Self {
        let mask = Address::mask(if is_v4 { 96 + length as u32 } else { length as u32 });
        Self { mask, length: length as u32, reserved: 0 }
    }
}

/// Packets that were judged, by [`Verdict`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GuardCounters {
    /// Packets on the wire.
    pub packets: [u64; Verdict::COUNT],
}

impl core::ops::AddAssign<&Self> for GuardCounters {
    fn add_assign(&mut self, other: &Self) {
        for (mine, theirs) in self.packets.iter_mut().zip(other.packets) {
            *mine += theirs;
        }
    }
}

/// What the guard has done to what passes an interface, before it was accounted; answers that it has sent in its stead too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct InterfaceGuardCounters {
    /// Packets that were received and let in.
    pub passed: u64,
    /// Packets that were received and dropped.
    pub dropped: u64,
    /// Packets that were received, dropped and answered.
    pub rejected: u64,
    /// Answers that were transmitted and passed no other program.
    pub answered: u64,
}

impl core::ops::AddAssign<&Self> for InterfaceGuardCounters {
    fn add_assign(&mut self, other: &Self) {
        let Self { passed, dropped, rejected, answered } = other;
        self.passed += passed;
        self.dropped += dropped;
        self.rejected += rejected;
        self.answered += answered;
    }
}

impl core::ops::Sub for InterfaceGuardCounters {
    type Output = Self;

    /// What was counted since `before`.
    fn sub(self, before: Self) -> Self {
        Self {
            passed: self.passed.saturating_sub(before.passed),
            dropped: self.dropped.saturating_sub(before.dropped),
            rejected: self.rejected.saturating_sub(before.rejected),
            answered: self.answered.saturating_sub(before.answered),
        }
    }
}

/// What was decided about one client's packets by one rule, in an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Hit {
    /// Who has sent them.
    pub client: Address,
    /// The place of rule and API among the pairs; 0 if there was no hit yet.
    pub pair: u16,
    /// A [`Verdict`], as its number.
    pub verdict: u8,
    /// Pads to 4 bytes.
    pub reserved: u8,
    /// The interval.
    pub interval: u32,
    /// Packets on the wire.
    pub packets: u64,
    /// Packets of others, who would have had the same place in the interval.
    pub others: u64,
}

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

/// What is to become of a packet.
pub mod decision {
    /// It is let in.
    pub const PASS: u32 = 0;
    /// It is dropped.
    pub const DROP: u32 = 1;
    /// It is dropped and answered.
    pub const REJECT: u32 = 2;
}

/// A packet, as far as rules ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Who has sent it.
    pub source: Address,
    /// Packets on the wire.
    pub packets: u64,
    /// Whether it opens a connection of TCP.
    pub is_opening: bool,
    /// The [`AnomalyKind`](crate::anomaly::AnomalyKind) that it is, as its number; any other number if none.
    pub anomaly: u8,
}

/// What [`judge`] asks, and tells, while it goes through a list.
pub trait Judged {
    /// The rule at `index` of the half.
    fn rule(&self, index: u16) -> Option<&GuardRule>;

    /// How many bytes the packet is on the wire.
    fn bytes(&self) -> u64;

    /// Whether `units` are within the limit of `rule`, which is that of `pair`, or of the `client` of it; they are then taken from it.
    fn admits(&self, rule: &GuardRule, pair: u16, client: Option<Address>, units: u64) -> bool;

    /// Whether the packet is to pass whatever rules say, because more would break than traffic: asked only if it is about to
    /// be dropped.
    fn is_exempt(&self) -> bool;

    /// Takes note of what was decided.
    fn note(&self, pair: u16, verdict: Verdict);

    /// Marks the packet.
    fn mark(&self, mark: u32);
}

/// What comes of asking one rule.
pub mod outcome {
    /// The next one is asked.
    pub const NEXT: u32 = 0;
    /// It would have decided: of those that come next, only those are asked that are enforced.
    pub const OBSERVED: u32 = 1;
    /// The packet passes.
    pub const PASS: u32 = 2;
    /// It is dropped.
    pub const DROP: u32 = 3;
    /// It is dropped and answered.
    pub const REJECT: u32 = 4;
}

/// What is to become of a packet by the rules of `list`: see [`decision`].
///
/// They are asked in their order. A rule applies to a packet that it matches, if it has a limit only to what exceeds that; the
/// first one that applies decides, but for marks, after which the next is asked. A rule that is only observed says what it would
/// have decided; then only those go on to be asked that are enforced, as if the others were not there.
pub fn judge<J: Judged>(judged: &J, list: &List, facts: &Facts, stage: Stage) -> u32 {
    let mut was_observed = false;
    for step in list.steps.iter().take(list.count as usize) {
        match ask(judged, *step, facts, stage, was_observed) {
            outcome::NEXT => {}
            outcome::OBSERVED => was_observed = true,
            outcome::DROP => return decision::DROP,
            outcome::REJECT => return decision::REJECT,
            _ => break,
        }
    }
    decision::PASS
}

/// Asks one rule, see [`judge`]: answers with an [`outcome`].
#[inline(always)]
pub fn ask<J: Judged>(judged: &J, step: Step, facts: &Facts, stage: Stage, was_observed: bool) -> u32 {
    let Step { rule: index, pair } = step;
    let Some(rule) = judged.rule(index) else { return outcome::PASS };
    let is_enforced = rule.is_enforced != 0;
    if was_observed && !is_enforced || rule.stages & 1 << stage as u8 == 0 || !is_about(rule, facts) {
        return outcome::NEXT;
    }
    if rule.action == ALLOW {
        // Once a packet, though it is judged again later.
        if matches!(stage, Stage::Frame | Stage::Buffer) {
            judged.note(pair, Verdict::Pass);
        }
        return outcome::PASS;
    }
    if !exceeds(judged, rule, step, facts) {
        return outcome::NEXT;
    }
    let verdict = Verdict::of(rule.action, is_enforced);
    if rule.action == MARK {
        if is_enforced {
            judged.mark(rule.mark);
        }
        judged.note(pair, verdict);
        return outcome::NEXT;
    }
    if judged.is_exempt() {
        judged.note(pair, Verdict::Pass);
        // What is only observed changes nothing for those that come next.
        return if is_enforced { outcome::PASS } else { outcome::OBSERVED };
    }
    judged.note(pair, verdict);
    match verdict {
        Verdict::Drop => outcome::DROP,
        Verdict::Reject => outcome::REJECT,
        _ => outcome::OBSERVED,
    }
}

/// Whether `rule` is about what is out of the ordinary with a packet, or about all.
#[inline(always)]
const fn is_about(rule: &GuardRule, facts: &Facts) -> bool {
    rule.anomalies == 0 || (facts.anomaly < 32 && rule.anomalies & (1 << (facts.anomaly & 31)) != 0)
}

/// Whether a packet exceeds the limit of `rule`; every packet does if there is none. What is within a limit is noted as such.
#[inline(always)]
fn exceeds<J: Judged>(judged: &J, rule: &GuardRule, step: Step, facts: &Facts) -> bool {
    if Unit::None.is(rule.unit) {
        return true;
    }
    let units = if Unit::Bytes.is(rule.unit) {
        judged.bytes()
    } else if Unit::Packets.is(rule.unit) {
        facts.packets
    } else if Unit::Connections.is(rule.unit) {
        facts.is_opening.into()
    } else {
        1
    };
    if units == 0 {
        return false;
    }
    let client = if rule.is_per_client != 0 {
        let mask = if facts.source.is_v4() { &rule.ipv4_mask } else { &rule.ipv6_mask };
        Some(facts.source.and(mask))
    } else {
        None
    };
    let is_admitted = judged.admits(rule, step.pair, client, units);
    if is_admitted {
        judged.note(step.pair, Verdict::Pass);
    }
    !is_admitted
}
