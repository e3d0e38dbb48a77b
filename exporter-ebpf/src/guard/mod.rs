//! The guard: which packets are let in.
//!
//! On any doubt a packet passes. Rules and their tables are in [`tidewaiter_common::guard`]; here is what they ask, and what
//! is done.

#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "what is handed over by value is copied, and the stack has 512 bytes"
)]

pub(crate) mod buffer;
pub(crate) mod frame;

use aya_ebpf::bindings::BPF_NOEXIST;
use tidewaiter_common::{
    address::Address,
    anomaly::stateless::{NONE, stateless_kind},
    api::{AddressKey, ApiSlot, port_index},
    flow::{FlowKey, OPENED_BY_TRANSMIT},
    frame::Frame,
    guard::{
        BLOCKED_LENGTHS, BlockKey, ClassEntry, ClientKey, Facts, GuardAddressKey, GuardHeader, GuardRule, HIT_ENTRIES,
        Judged, List, MAX_CLASSES, MAX_LISTS, MAX_RULES, PROTECTED, Stage, Verdict, ask, class, class_place, decision,
        judges, match_place, outcome, word,
    },
    interface::LOOPBACK_INDEX,
    packet::{Packet, protocol, tcp_flag},
    prefix::{NOBODY, PREFIX_FILTER_WORDS, PrefixEntry, PrefixTable, lookup},
    reason::Reason,
    role::Role,
    transport::Transport,
    wire::Wire,
};

use crate::{
    anomaly::{find_by_guard, settings},
    context::{is_replay, nanoseconds, precise_nanoseconds, tracks_flows},
    maps::{
        API_LIMITS, BLOCKED, BLOCKS, CLIENT_LIMITS, CLIENT_LIMITS_MADE, FLOWS, GUARD_ADDRESSES, GUARD_CLASSES,
        GUARD_COUNTERS, GUARD_HEADERS, GUARD_LISTS, GUARD_MATCHES, GUARD_PORTS, GUARD_PREFIX_FILTERS, GUARD_PREFIXES,
        GUARD_RULES, GUARD_SCRATCH, GUARD_WORDS, HITS, NEW_FLOWS, PORTS,
    },
};

/// A number that userspace says, see [`word`].
#[inline(always)]
fn number(word: u32) -> u64 {
    // SAFETY: volatile, because userspace writes to it at any time.
    GUARD_WORDS.get_ptr(word).map_or(0, |word| unsafe { word.read_volatile() })
}

/// The half of the tables that is in force, and its header; `None` if everything is to pass. To be asked once for a packet.
#[inline(always)]
fn in_force(tick: u64) -> Option<(u32, &'static GuardHeader)> {
    if number(word::SWITCHED_OFF) != 0 || (tick > number(word::DEADLINE) && !is_replay()) {
        return None;
    }
    let half = (number(word::GENERATION) & 1) as u32;
    GUARD_HEADERS.get(half).map(|header| (half, header))
}

/// Whether anything is to be judged when a packet comes in.
#[inline(always)]
fn judges_packets(header: &GuardHeader) -> bool {
    header.judges & (judges::PACKETS | judges::MARKS) != 0 || blocks_anything()
}

/// A packet that is judged, as [`see`] has left it.
struct Arrival {
    seen: &'static Seen,
    half: u32,
}

impl Judged for Arrival {
    #[inline(always)]
    fn rule(&self, index: u16) -> Option<&GuardRule> {
        GUARD_RULES.get(self.half * u32::from(MAX_RULES) + u32::from(index))
    }

    #[inline(always)]
    fn bytes(&self) -> u64 {
        self.seen.bytes
    }

    #[inline(always)]
    fn admits(&self, index: u16, pair: u16, client: Option<Address>, units: u64) -> bool {
        let Some(scratch) = GUARD_SCRATCH.get_ptr_mut(0) else { return true };
        // SAFETY: this CPU's own entry; volatile, so that the verifier sees one unknown, not all that it may be.
        unsafe {
            (&raw mut (*scratch).units).write_volatile(units);
            (&raw mut (*scratch).rule).write_volatile(self.half * u32::from(MAX_RULES) + u32::from(index));
            (&raw mut (*scratch).client.pair).write_volatile(pair.into());
            if let Some(client) = client {
                (&raw mut (*scratch).client.client).write_volatile(client);
            }
        }
        (if client.is_some() { take_from_client() } else { take_from_api() }) != 0
    }

    #[inline(always)]
    fn is_exempt(&self) -> bool {
        is_exempt(self.half) != 0
    }

    #[inline(always)]
    fn note(&self, pair: u16, verdict: Verdict) {
        count(pair, verdict, self.seen.packets);
        if verdict != Verdict::Pass {
            note_hit(pair, verdict as u8);
        }
        if matches!(verdict, Verdict::Drop | Verdict::Reject) && self.seen.anomaly != NONE {
            count_anomaly();
        }
    }

    #[inline(always)]
    fn mark(&self, mark: u32) {
        if let Some(scratch) = GUARD_SCRATCH.get_ptr_mut(0) {
            // SAFETY: this CPU's own entry.
            unsafe { (&raw mut (*scratch).mark).write_volatile(mark) };
        }
    }
}

/// Takes what was left in [`GuardScratch`] from the limit that the API has: 1 if it was within that. A function of its own, as is
/// that for clients: the verifier would follow each attempt to the end of all that comes after.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn take_from_api() -> u32 {
    let Some(scratch) = GUARD_SCRATCH.get_ptr(0) else { return 1 };
    // SAFETY: this CPU's own entry, written to a moment ago.
    let scratch = unsafe { &*scratch };
    match API_LIMITS.get_ptr_mut(scratch.client.pair) {
        Some(word) => take(word, scratch),
        None => 1,
    }
}

/// The same, from the limit that the client has. Where there is no room for one more, the packet passes.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn take_from_client() -> u32 {
    let Some(scratch) = GUARD_SCRATCH.get_ptr(0) else { return 1 };
    // SAFETY: this CPU's own entry, written to a moment ago.
    let scratch = unsafe { &*scratch };
    let key = &scratch.client;
    let mut word = CLIENT_LIMITS.get_ptr_mut(key);
    if word.is_none() {
        // Another CPU may be faster: then its entry is as good.
        if CLIENT_LIMITS.insert(key, &0, BPF_NOEXIST.into()).is_ok()
            && let Some(made) = CLIENT_LIMITS_MADE.get_ptr_mut(0)
        {
            // SAFETY: this CPU's own entry; who interrupts this one may be counted for it, or the other way round.
            unsafe { *made += 1 };
        }
        word = CLIENT_LIMITS.get_ptr_mut(key);
    }
    match word {
        Some(word) => take(word, scratch),
        None => 1,
    }
}

#[inline(always)]
fn take(word: *mut u64, scratch: &GuardScratch) -> u32 {
    let Some(rule) = GUARD_RULES.get(scratch.rule) else { return 1 };
    let tick = scratch.seen.tick;
    // SAFETY: a word of a map, which nothing else writes to.
    unsafe { rule.limit.admit(word, scratch.units, nanoseconds(tick), || precise_nanoseconds(tick)).into() }
}

#[inline(always)]
fn count(pair: u16, verdict: Verdict, packets: u64) {
    if let Some(counters) = GUARD_COUNTERS.get_ptr_mut(pair.into()) {
        // SAFETY: this CPU's own entry.
        unsafe { (*counters).packets[verdict as usize] += packets };
    }
}

/// Takes note of whose packet it was decided about.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn note_hit(pair: u16, verdict: u8) {
    let Some(seen) = seen() else { return };
    let (client, packets) = (&seen.source, seen.packets);
    let interval = number(word::INTERVAL) as u32;
    let place = (client.fold() ^ u32::from(pair)).wrapping_mul(0x9e37_79b1) >> 20;
    let Some(hit) = HITS.get_ptr_mut(place % HIT_ENTRIES) else { return };
    // SAFETY: this CPU's own entry; userspace reads it when the interval is over.
    unsafe {
        if (*hit).interval != interval || (*hit).pair == 0 {
            (*hit).client = *client;
            (*hit).pair = pair;
            (*hit).verdict = verdict;
            (*hit).interval = interval;
            (*hit).packets = packets;
            (*hit).others = 0;
        } else if (*hit).client == *client && (*hit).pair == pair && (*hit).verdict == verdict {
            (*hit).packets += packets;
        } else {
            (*hit).others += packets;
        }
    }
}

/// Counts the packet as the anomaly that it is: nobody else will see it.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_anomaly() {
    let Some(seen) = seen() else { return };
    let entry = seen.transport().and_then(|transport| PORTS.get(port_index(transport, seen.destination_port)));
    // Of ports that have several APIs it is not asked which one it was.
    find_by_guard(entry.map_or(ApiSlot::UNMAPPED, |entry| entry.server), seen.anomaly);
}

/// Whether the packet is let in whatever rules say.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_exempt(half: u32) -> u32 {
    let (Some(seen), Some(header)) = (seen(), GUARD_HEADERS.get(half)) else { return 1 };
    is_let_in(seen, header).into()
}

#[inline(always)]
fn is_let_in(seen: &Seen, header: &GuardHeader) -> bool {
    let Seen { protocol, .. } = *seen;
    match protocol {
        protocol::ICMP => return is_needed_icmp(seen.icmp),
        protocol::ICMPV6 => return is_needed_icmpv6(seen.icmp),
        // Answers to what was asked before there was an address (RFC 2131, RFC 8415).
        protocol::UDP if matches!(seen.destination_port, DHCP_CLIENT | DHCPV6_CLIENT) => return true,
        protocol::TCP | protocol::UDP | protocol::SCTP => {}
        _ => return false,
    }
    let is_tcp = protocol == protocol::TCP;
    // What was refused there comes in as well.
    if is_tcp && seen.interface == LOOPBACK_INDEX && seen.tcp_flags & tcp_flag::RST != 0 {
        return true;
    }
    if is_tcp && seen.is_opening() {
        return false;
    }
    if is_tcp && header.protects(seen.destination_port) {
        return !tracks_flows() || FLOWS.get_ptr(&seen.flow()).is_some();
    }
    if seen.is_unmapped == 0 {
        return false;
    }
    if seen.interface == LOOPBACK_INDEX && is_answer_of_api(seen) {
        return true;
    }
    // What this host has asked for. Without flows nobody knows.
    !tracks_flows() || is_asked_for(&seen.flow(), is_tcp)
}

const DHCP_CLIENT: u16 = 68;
const DHCPV6_CLIENT: u16 = 546;

/// Errors, which path MTU discovery needs (RFC 1191), and which end what cannot work at once.
#[inline(always)]
const fn is_needed_icmp(kind: u8) -> bool {
    matches!(kind, 3 | 11 | 12)
}

/// Errors, multicast listener and neighbour discovery (RFC 4890 section 4.4.1).
#[inline(always)]
const fn is_needed_icmpv6(kind: u8) -> bool {
    matches!(kind, 1..=4 | 130..=136 | 141..=143 | 148 | 149 | 151..=153)
}

/// Whether it is part of something that this host has begun, as far as is known.
#[inline(always)]
fn is_asked_for(key: &FlowKey, is_tcp: bool) -> bool {
    let Some(flow) = FLOWS.get_ptr(key).or_else(|| NEW_FLOWS.get_ptr(key)) else { return false };
    // SAFETY: a flow of the map, which is only read.
    let (seen, opened) =
        unsafe { ((&raw const (*flow).seen).read_volatile(), (&raw const (*flow).opened).read_volatile()) };
    // What goes on from before the exporter began may have been begun by either.
    seen & OPENED_BY_TRANSMIT != 0 || (is_tcp && opened == 0)
}

/// Whether an API of this host has sent it: on the loopback interface what is sent comes in.
#[inline(always)]
fn is_answer_of_api(seen: &Seen) -> bool {
    let Some(transport) = seen.transport() else { return false };
    PORTS
        .get(port_index(transport, seen.source_port))
        .is_none_or(|entry| entry.server.is_mapped() || entry.by_address != 0)
}

/// The table of prefixes of a half: where it begins in the map of entries, and in that of filters.
struct Prefixes {
    entries: u32,
    filters: u32,
}

impl PrefixTable for Prefixes {
    #[inline(always)]
    fn entry(&self, index: u32) -> Option<&PrefixEntry> {
        GUARD_PREFIXES.get(self.entries.wrapping_add(index))
    }

    #[inline(always)]
    fn filter(&self, index: u32) -> Option<u64> {
        GUARD_PREFIX_FILTERS.get(self.filters.wrapping_add(index)).copied()
    }
}

/// The class of a packet to a port of this host, which has the address that `local` answers with.
#[inline(always)]
fn class_of(half: u32, transport: Transport, port: u16, local: impl FnOnce() -> Option<Address>) -> Option<u16> {
    let (place, shift) = class_place(half, port_index(transport, port));
    let class = (*GUARD_PORTS.get(place)? >> shift) as u16;
    if class & class::BY_ADDRESS == 0 {
        return Some(class);
    }
    let key = AddressKey { address: local()?, port, transport: transport as u8, role: Role::Server as u8 };
    // SAFETY: userspace writes to it only while nobody reads this half.
    let of_address = unsafe { GUARD_ADDRESSES.get(&GuardAddressKey { half, key }) };
    Some(of_address.copied().unwrap_or(class & !class::BY_ADDRESS))
}

/// Who has sent the packet.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn who(half: u32) -> u32 {
    let (Some(seen), Some(header)) = (seen(), GUARD_HEADERS.get(half)) else { return NOBODY.into() };
    let table = Prefixes { entries: header.first_prefix, filters: half * PREFIX_FILTER_WORDS };
    lookup(&header.prefixes, &table, seen.source).into()
}

/// The list of rules about packets of `class` from who has sent this one, by its place in the half.
#[inline(always)]
fn list_of(half: u32, header: &GuardHeader, class: u16) -> Option<u16> {
    let who = if header.whos > 1 { who(half) } else { NOBODY.into() };
    let (place, shift) = match_place(half, class, header.whos, who)?;
    Some((*GUARD_MATCHES.get(place)? >> shift) as u16)
}

/// The rules of `list`.
#[inline(always)]
fn rules_of(half: u32, list: u16) -> Option<&'static List> {
    GUARD_LISTS.get(half * u32::from(MAX_LISTS) + u32::from(list))
}

#[inline(always)]
fn entry_of(half: u32, class: u16) -> Option<&'static ClassEntry> {
    GUARD_CLASSES.get(half * u32::from(MAX_CLASSES) + u32::from(class))
}

/// What is to become of the packet that was seen, by blocks and rules: see [`decision`].
#[inline(always)]
fn decide(half: u32, stage: u32) -> u32 {
    let Some(scratch) = GUARD_SCRATCH.get_ptr_mut(0) else { return decision::PASS };
    // SAFETY: this CPU's own entry, written to a moment ago.
    let seen = unsafe { &(*scratch).seen };
    let Some(header) = GUARD_HEADERS.get(half) else { return decision::PASS };
    if seen.reason != READ && !has_source(seen.reason) {
        return decision::PASS;
    }
    let class = match seen.transport() {
        Some(transport) if seen.reason == READ => {
            class_of(half, transport, seen.destination_port, || Some(seen.destination))
        }
        _ => Some(class::PORTLESS),
    };
    let Some(class) = class else { return decision::PASS };
    let Some(list) = list_of(half, header, class) else { return decision::PASS };
    if list == PROTECTED {
        return decision::PASS;
    }
    let blocks = stage == Stage::Frame as u32 || stage == Stage::Buffer as u32;
    let is_blocked = blocks && blocks_anything() && is_blocked() != 0;
    if list == 0 && !is_blocked {
        return decision::PASS;
    }
    let Some(entry) = entry_of(half, class) else { return decision::PASS };
    // SAFETY: as above.
    unsafe { (&raw mut (*scratch).seen.is_unmapped).write_volatile(entry.is_unmapped.into()) };
    let mut was_observed = 0;
    if is_blocked && is_exempt(half) == 0 {
        if header.judges & judges::ENFORCES_BLOCKS != 0 {
            Arrival { seen, half }.note(entry.block_pair, Verdict::Drop);
            return decision::DROP;
        }
        Arrival { seen, half }.note(entry.block_pair, Verdict::WouldDrop);
        was_observed = 1;
    }
    if list == 0 {
        return decision::PASS;
    }
    // SAFETY: as above; volatile, so that the verifier sees one unknown.
    unsafe {
        (&raw mut (*scratch).walk).write_volatile(Walk {
            list: list.into(),
            half,
            stage,
            was_observed,
            place: 0,
            reserved: 0,
        });
    }
    ASK
}

/// That the rules of a list are to be asked, besides what a [`decision`] can be.
const ASK: u32 = 3;
/// Likewise, that the next one is.
const ASK_NEXT: u32 = ASK;

/// How far asking the rules of a list has come.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Walk {
    /// Its place in the half.
    list: u32,
    half: u32,
    /// A [`Stage`], as its number.
    stage: u32,
    /// Whether a rule would have decided that is only observed.
    was_observed: u32,
    /// The rule that is next.
    place: u32,
    reserved: u32,
}

impl Walk {
    #[inline(always)]
    const fn stage(&self) -> Stage {
        Stage::from_number(self.stage as u8)
    }
}

/// Asks the next rule about the packet that was seen: answers with a [`decision`], or with [`ASK_NEXT`]. Each is asked by a
/// program that ends in itself: the verifier follows that once, where it would follow a loop as often as that goes round.
#[inline(always)]
fn ask_one() -> u32 {
    let Some(scratch) = GUARD_SCRATCH.get_ptr_mut(0) else { return decision::PASS };
    // SAFETY: this CPU's own entry, written to a moment ago.
    let (seen, walk) = unsafe { (&(*scratch).seen, &mut (*scratch).walk) };
    let Some(list) = rules_of(walk.half, walk.list as u16) else { return decision::PASS };
    let place = walk.place;
    let Some(step) = list.steps.get(place as usize) else { return decision::PASS };
    if place >= list.count {
        return decision::PASS;
    }
    walk.place = place + 1;
    let is_last = place + 1 >= list.count;
    let facts = Facts {
        source: seen.source,
        packets: seen.packets,
        is_opening: seen.protocol == protocol::TCP && seen.is_opening(),
        anomaly: seen.anomaly,
    };
    let stage = walk.stage();
    match ask(&Arrival { seen, half: walk.half }, *step, &facts, stage, walk.was_observed != 0) {
        outcome::OBSERVED => walk.was_observed = 1,
        outcome::DROP => return decision::DROP,
        outcome::REJECT => return decision::REJECT,
        outcome::PASS => return decision::PASS,
        _ => {}
    }
    if is_last { decision::PASS } else { ASK_NEXT }
}

/// That a packet was read; any other number is that of the [`Reason`] why not.
pub(crate) const READ: u8 = u8::MAX;

/// A packet as far as the guard asks. In a map: to the verifier what comes out of one is always the same unknown, however it got
/// there.
#[repr(C)]
pub(crate) struct Seen {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) tick: u64,
    /// Packets and bytes on the wire.
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) interface: u32,
    pub(crate) is_unmapped: u32,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) protocol: u8,
    /// Number of the transport, or any other.
    pub(crate) transport: u8,
    pub(crate) tcp_flags: u8,
    /// The type of a message of ICMP.
    pub(crate) icmp: u8,
    /// See [`READ`].
    pub(crate) reason: u8,
    /// The [`AnomalyKind`](tidewaiter_common::anomaly::AnomalyKind) that it is by itself, as its number, or [`NONE`].
    pub(crate) anomaly: u8,
}

impl Seen {
    #[inline(always)]
    const fn transport(&self) -> Option<Transport> {
        match self.transport {
            TCP => Some(Transport::Tcp),
            UDP => Some(Transport::Udp),
            SCTP => Some(Transport::Sctp),
            _ => None,
        }
    }

    #[inline(always)]
    const fn is_opening(&self) -> bool {
        self.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN
    }

    /// The flow that it belongs to.
    #[inline(always)]
    const fn flow(&self) -> FlowKey {
        FlowKey {
            local: self.destination,
            remote: self.source,
            interface: self.interface,
            local_port: self.destination_port,
            remote_port: self.source_port,
            protocol: self.protocol as u32,
        }
    }
}

const TCP: u8 = Transport::Tcp as u8;
const UDP: u8 = Transport::Udp as u8;
const SCTP: u8 = Transport::Sctp as u8;
const NO_TRANSPORT: u8 = u8::MAX;

/// The packet that was seen last.
#[inline(always)]
fn seen() -> Option<&'static Seen> {
    // SAFETY: this CPU's own entry, which is written to before it is judged, and by one program at a time.
    GUARD_SCRATCH.get_ptr(0).map(|scratch| unsafe { &(*scratch).seen })
}

/// Leaves a packet for whoever goes on with it, and how reading it went.
#[inline(always)]
fn leave(packet: &Packet, read: Result<(), Reason>) {
    let Some(scratch) = GUARD_SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own entry.
    unsafe {
        (&raw mut (*scratch).packet).write(*packet);
        (&raw mut (*scratch).reason).write(read.err().map_or(READ, |reason| reason as u8));
    }
}

/// The packet that was left.
#[inline(always)]
fn left() -> Option<(&'static Packet, u8)> {
    // SAFETY: as above.
    GUARD_SCRATCH.get_ptr(0).map(|scratch| unsafe { (&(*scratch).packet, (*scratch).reason) })
}

/// What one function of the guard leaves for another.
#[repr(C)]
pub(crate) struct GuardScratch {
    pub(crate) seen: Seen,
    pub(crate) packet: Packet,
    pub(crate) reason: u8,
    /// What is to be taken from a limit: so much,
    pub(crate) units: u64,
    /// from that of a rule,
    pub(crate) rule: u32,
    /// What the packet is to be marked with; 0 if it is not.
    pub(crate) mark: u32,
    pub(crate) walk: Walk,
    /// and of a client, or of the API alone.
    pub(crate) client: ClientKey,
}

/// How a packet arrives.
#[derive(Clone, Copy)]
struct Arrives {
    interface: u32,
    tick: u64,
    wire: Wire,
    /// What is judged, see [`judges`].
    judges: u32,
}

/// Leaves what matters of a packet for the rest.
#[inline(always)]
fn see<F: Frame>(packet: &Packet, frame: &F, reason: u8, arrival: &Arrives) {
    let Some(scratch) = GUARD_SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own entry.
    unsafe {
        let seen = &raw mut (*scratch).seen;
        seen.write(Seen {
            source: Address::default(),
            destination: Address::default(),
            tick: arrival.tick,
            packets: arrival.wire.packets,
            bytes: arrival.wire.bytes,
            interface: arrival.interface,
            is_unmapped: 0,
            source_port: packet.source_port,
            destination_port: packet.destination_port,
            protocol: packet.protocol,
            transport: packet.transport.map_or(NO_TRANSPORT, |transport| transport as u8),
            tcp_flags: packet.tcp_flags,
            icmp: 0,
            // Unless it is found out who has sent it.
            reason: Reason::Internal as u8,
            anomaly: NONE,
        });
        // What could not be read stays as it is: the compiler would carry undefined values from one branch to another.
        let Some(source) = packet.source_address(frame) else { return };
        (&raw mut (*seen).source).write_volatile(source);
        let Some(destination) = packet.destination_address(frame) else { return };
        (&raw mut (*seen).destination).write_volatile(destination);
        (&raw mut (*seen).reason).write_volatile(reason);
        if arrival.judges & judges::ANOMALIES != 0 {
            let read = Reason::from_index(reason).map_or(Ok(()), Err);
            // Until userspace has said what is expected, everything is.
            let expects = |number| settings().is_none_or(|settings| settings.expected.contains(number));
            let kind = stateless_kind(packet, frame, read, expects, arrival.interface == LOOPBACK_INDEX);
            (&raw mut (*seen).anomaly).write_volatile(kind);
        }
        if matches!(packet.protocol, protocol::ICMP | protocol::ICMPV6)
            && reason == READ
            && let Some([icmp, _]) = frame.read::<2>(packet.headers)
        {
            (&raw mut (*seen).icmp).write_volatile(icmp);
        }
    }
}

/// As [`see`], for a packet that was received as part of a flow.
#[inline(always)]
fn see_flow(key: &FlowKey, tick: u64, wire: Wire) {
    let Some(scratch) = GUARD_SCRATCH.get_ptr_mut(0) else { return };
    let transport = if key.protocol == u32::from(protocol::TCP) { TCP } else { UDP };
    // SAFETY: this CPU's own entry.
    unsafe {
        (&raw mut (*scratch).seen).write(Seen {
            source: key.remote,
            destination: key.local,
            tick,
            packets: wire.packets,
            bytes: wire.bytes,
            interface: key.interface,
            is_unmapped: 0,
            source_port: key.remote_port,
            destination_port: key.local_port,
            protocol: key.protocol as u8,
            transport,
            tcp_flags: 0,
            icmp: 0,
            reason: READ,
            anomaly: NONE,
        });
    }
}

/// Whether a packet that could not be read all the same says who has sent it. Of what is not IP nobody knows.
#[inline(always)]
const fn has_source(reason: u8) -> bool {
    reason != Reason::NotIp as u8
        && reason != Reason::Vlan as u8
        && reason != Reason::EthernetTruncated as u8
        && reason != Reason::Ipv4Truncated as u8
        && reason != Reason::Ipv6Truncated as u8
        && reason != Reason::Ipv6Malformed as u8
        && reason != Reason::Internal as u8
}

/// Whether anything is blocked.
#[inline(always)]
fn blocks_anything() -> bool {
    number(word::BLOCKED_IPV4) | number(word::BLOCKED_IPV6) != 0
}

/// Whether all that comes from who has sent the packet is blocked.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_blocked() -> u32 {
    let Some(seen) = seen() else { return 0 };
    let is_v4 = seen.source.is_v4();
    let (first, count) = if is_v4 { (0, word::BLOCKED_IPV4) } else { (BLOCKED_LENGTHS as u32, word::BLOCKED_IPV6) };
    let count = number(count);
    for place in 0..BLOCKED_LENGTHS as u32 {
        if u64::from(place) >= count {
            break;
        }
        let Some(length) = BLOCKED.get(first + place) else { break };
        // SAFETY: a word that userspace replaces as a whole.
        let until = unsafe { BLOCKS.get(&BlockKey::of(seen.source, length)) };
        if until.is_some_and(|until| seen.tick < *until) {
            return 1;
        }
    }
    0
}
