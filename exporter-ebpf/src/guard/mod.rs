//! The guard: which packets are let in.
//!
//! On any doubt a packet passes. Rules and their tables are in [`tidewaiter_common::guard`]; here is what they ask, and what
//! is done.

pub(crate) mod buffer;
pub(crate) mod frame;

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    programs::{TcContext, XdpContext},
};
use tidewaiter_common::{
    address::Address,
    api::{AddressKey, port_index},
    direction::Direction,
    flow::{Flow, FlowKey, OPENED_BY_TRANSMIT},
    frame::Frame,
    guard::{
        BLOCKED_LENGTHS, BlockKey, ClassEntry, ClientKey, Facts, GuardAddressKey, GuardHeader, GuardRule, HIT_ENTRIES,
        Judged, List, MAX_CLASSES, MAX_LISTS, MAX_RULES, PROTECTED, Stage, Verdict, class, class_place, decision, judge,
        judges, match_place, word,
    },
    interface::LOOPBACK_INDEX,
    packet::{Packet, protocol, tcp_flag},
    prefix::{NOBODY, PREFIX_FILTER_WORDS, PrefixEntry, PrefixTable, lookup},
    reason::Reason,
    role::Role,
    transport::Transport,
};

use crate::{
    context::{is_replay, nanoseconds, precise_nanoseconds, tracks_flows},
    maps::{
        API_LIMITS, BLOCKS, CLIENT_LIMITS, CLIENT_LIMITS_MADE, FLOWS, GUARD_ADDRESSES, GUARD_CLASSES, GUARD_COUNTERS,
        GUARD_HEADERS, GUARD_LISTS, GUARD_MATCHES, GUARD_PORTS, GUARD_PREFIX_FILTERS, GUARD_PREFIXES, GUARD_RULES, GUARD_WORDS, HITS, NEW_FLOWS,
        PORTS,
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
pub(crate) fn in_force(tick: u64) -> Option<(u32, &'static GuardHeader)> {
    if number(word::SWITCHED_OFF) != 0 || (tick > number(word::DEADLINE) && !is_replay()) {
        return None;
    }
    let half = (number(word::GENERATION) & 1) as u32;
    GUARD_HEADERS.get(half).map(|header| (half, header))
}

/// Whether anything is to be judged when a packet comes in.
#[inline(always)]
pub(crate) fn judges_packets(header: &GuardHeader) -> bool {
    header.judges & (judges::PACKETS | judges::MARKS) != 0
        || number(word::BLOCKED_IPV4) & number(word::BLOCKED_IPV6) != word::NOTHING_BLOCKED
}

/// Marks a packet, or cannot.
pub(crate) trait Mark {
    fn mark(&self, mark: u32);
}

impl Mark for XdpContext {
    fn mark(&self, _: u32) {}
}

impl Mark for TcContext {
    #[inline(always)]
    fn mark(&self, mark: u32) {
        // SAFETY: `skb` is the context that the kernel gave this program; the verifier allows writing to this field.
        unsafe { (&raw mut (*self.skb.skb).mark).write_volatile(mark) };
    }
}

/// A packet that is judged.
pub(crate) struct Arrival<'a, F, M> {
    pub(crate) packet: &'a Packet,
    pub(crate) frame: &'a F,
    pub(crate) context: &'a M,
    pub(crate) header: &'static GuardHeader,
    pub(crate) half: u32,
    pub(crate) interface: u32,
    pub(crate) tick: u64,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) source: Address,
    pub(crate) is_unmapped: bool,
}

impl<F: Frame, M: Mark> Judged for Arrival<'_, F, M> {
    #[inline(always)]
    fn rule(&self, index: u16) -> Option<&GuardRule> {
        GUARD_RULES.get(self.half * MAX_RULES as u32 + index as u32)
    }

    #[inline(always)]
    fn bytes(&self) -> u64 {
        self.bytes
    }

    #[inline(always)]
    fn admits(&self, rule: &GuardRule, pair: u16, client: Option<Address>, units: u64) -> bool {
        let word = match client {
            Some(client) => client_limit(&ClientKey { client, pair: pair.into() }),
            None => API_LIMITS.get_ptr_mut(pair.into()),
        };
        // Where there is no room for one more, it passes.
        word.is_none_or(|word| take(word, rule, units, self.tick) != 0)
    }

    #[inline(always)]
    fn is_exempt(&self) -> bool {
        is_exempt(self)
    }

    #[inline(always)]
    fn note(&self, pair: u16, verdict: Verdict) {
        count(pair, verdict, self.packets);
        if verdict != Verdict::Pass {
            note_hit(&self.source, pair, verdict, self.packets);
        }
    }

    #[inline(always)]
    fn mark(&self, mark: u32) {
        self.context.mark(mark);
    }
}

#[inline(always)]
fn client_limit(key: &ClientKey) -> Option<*mut u64> {
    if let Some(word) = CLIENT_LIMITS.get_ptr_mut(key) {
        return Some(word);
    }
    // Another CPU may be faster: then its entry is as good.
    if CLIENT_LIMITS.insert(key, &0, BPF_NOEXIST.into()).is_ok()
        && let Some(made) = CLIENT_LIMITS_MADE.get_ptr_mut(0)
    {
        // SAFETY: this CPU's own entry; who interrupts this one may be counted for it, or the other way round.
        unsafe { *made += 1 };
    }
    CLIENT_LIMITS.get_ptr_mut(key)
}

/// Takes `units` from the bucket of `word`: 1 if that was within the limit of `rule`. A function of its own, because the verifier
/// would follow each attempt to the end of all that comes after.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn take(word: *mut u64, rule: &GuardRule, units: u64, tick: u64) -> u32 {
    // SAFETY: a word of a map, which nothing else writes to.
    unsafe { rule.limit.admit(word, units, nanoseconds(tick), || precise_nanoseconds(tick)).into() }
}

#[inline(always)]
fn count(pair: u16, verdict: Verdict, packets: u64) {
    if let Some(counters) = GUARD_COUNTERS.get_ptr_mut(pair.into()) {
        // SAFETY: this CPU's own entry.
        unsafe { (*counters).packets[verdict as usize] += packets };
    }
}

/// Takes note of whose packets it was decided about.
#[inline(always)]
fn note_hit(client: &Address, pair: u16, verdict: Verdict, packets: u64) {
    let interval = number(word::INTERVAL) as u32;
    let place = (client.folded() ^ u32::from(pair)).wrapping_mul(0x9e37_79b1) >> 20;
    let Some(hit) = HITS.get_ptr_mut(place % HIT_ENTRIES) else { return };
    // SAFETY: this CPU's own entry; userspace reads it when the interval is over.
    unsafe {
        if (*hit).interval != interval || (*hit).pair == 0 {
            (*hit).client = *client;
            (*hit).pair = pair;
            (*hit).verdict = verdict as u8;
            (*hit).interval = interval;
            (*hit).packets = packets;
            (*hit).others = 0;
        } else if (*hit).client == *client && (*hit).pair == pair && (*hit).verdict == verdict as u8 {
            (*hit).packets += packets;
        } else {
            (*hit).others += packets;
        }
    }
}

/// Whether a packet is let in whatever rules say.
#[inline(always)]
fn is_exempt<F: Frame, M>(arrival: &Arrival<'_, F, M>) -> bool {
    let Arrival { packet, frame, header, interface, .. } = arrival;
    match packet.protocol {
        protocol::ICMP => return frame.read::<2>(packet.headers).is_none_or(|[kind, _]| is_needed_icmp(kind)),
        protocol::ICMPV6 => return frame.read::<2>(packet.headers).is_none_or(|[kind, _]| is_needed_icmpv6(kind)),
        // Answers to what was asked before there was an address (RFC 2131, RFC 8415).
        protocol::UDP if matches!(packet.destination_port, DHCP_CLIENT | DHCPV6_CLIENT) => return true,
        protocol::TCP | protocol::UDP | protocol::SCTP => {}
        _ => return false,
    }
    let is_tcp = packet.protocol == protocol::TCP;
    let is_opening = is_tcp && is_opening(packet);
    if is_opening {
        return false;
    }
    let mut is_protected = false;
    for port in header.protected_ports {
        is_protected |= port == packet.destination_port;
    }
    if is_tcp && is_protected {
        return !tracks_flows() || flow(arrival).is_some();
    }
    if !arrival.is_unmapped {
        return false;
    }
    if *interface == LOOPBACK_INDEX && is_answer_of_api(packet) {
        return true;
    }
    // What this host has asked for. Without flows nobody knows.
    !tracks_flows() || is_asked_for(arrival, is_tcp)
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

#[inline(always)]
const fn is_opening(packet: &Packet) -> bool {
    packet.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN
}

/// The established flow that the packet belongs to. One that cannot be looked for is none.
#[inline(always)]
fn flow<F: Frame, M>(arrival: &Arrival<'_, F, M>) -> Option<*mut Flow> {
    let key = FlowKey::of(arrival.packet, arrival.frame, Direction::Receive, arrival.interface)?;
    FLOWS.get_ptr_mut(&key)
}

/// Whether it is part of something that this host has begun, as far as is known.
#[inline(always)]
fn is_asked_for<F: Frame, M>(arrival: &Arrival<'_, F, M>, is_tcp: bool) -> bool {
    let Some(key) = FlowKey::of(arrival.packet, arrival.frame, Direction::Receive, arrival.interface) else { return true };
    let Some(flow) = FLOWS.get_ptr(&key).or_else(|| NEW_FLOWS.get_ptr(&key)) else { return false };
    // SAFETY: a flow of the map, which is only read.
    let (seen, opened) = unsafe { ((&raw const (*flow).seen).read_volatile(), (&raw const (*flow).opened).read_volatile()) };
    // What goes on from before the exporter began may have been begun by either.
    seen & OPENED_BY_TRANSMIT != 0 || (is_tcp && opened == 0)
}

/// Whether an API of this host has sent it: on the loopback interface what is sent comes in.
#[inline(always)]
fn is_answer_of_api(packet: &Packet) -> bool {
    let Some(transport) = packet.transport else { return false };
    PORTS.get(port_index(transport, packet.source_port)).is_none_or(|entry| {
        entry.server.is_mapped() || entry.by_address != 0
    })
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
pub(crate) fn class_of(half: u32, transport: Transport, port: u16, local: impl FnOnce() -> Option<Address>) -> Option<u16> {
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

/// The list of rules about packets of `class` from `source`, by its place in the half.
#[inline(always)]
pub(crate) fn list_of(half: u32, header: &GuardHeader, class: u16, source: &Address) -> Option<u16> {
    let who = if header.whos > 1 {
        let table = Prefixes { entries: header.first_prefix, filters: half * PREFIX_FILTER_WORDS };
        lookup(&header.prefixes, &table, *source)
    } else {
        NOBODY
    };
    let (place, shift) = match_place(half, class, header.whos, who.into())?;
    Some((*GUARD_MATCHES.get(place)? >> shift) as u16)
}

/// The rules of `list`.
#[inline(always)]
pub(crate) fn rules_of(half: u32, list: u16) -> Option<&'static List> {
    GUARD_LISTS.get(half * MAX_LISTS as u32 + list as u32)
}

#[inline(always)]
fn entry_of(half: u32, class: u16) -> Option<&'static ClassEntry> {
    GUARD_CLASSES.get(half * MAX_CLASSES as u32 + class as u32)
}

/// What is to become of a packet that comes in, by blocks and rules: see [`decision`]. `read` is how reading it went.
#[inline(always)]
pub(crate) fn decide<F: Frame, M: Mark>(arrival: &mut Arrival<'_, F, M>, read: u8, stage: Stage) -> u32 {
    let Arrival { packet, frame, header, half, tick, .. } = *arrival;
    if read != READ && !has_source(read) {
        return decision::PASS;
    }
    let class = match packet.transport {
        Some(transport) if read == READ => {
            class_of(half, transport, packet.destination_port, || packet.destination_address(frame))
        }
        _ => Some(class::PORTLESS),
    };
    let (Some(class), Some(source)) = (class, packet.source_address(frame)) else { return decision::PASS };
    let Some(list) = list_of(half, header, class, &source) else { return decision::PASS };
    if list == PROTECTED {
        return decision::PASS;
    }
    arrival.source = source;
    if stage != Stage::Marks && is_blocked(&source, tick) {
        let Some(entry) = entry_of(half, class) else { return decision::PASS };
        arrival.is_unmapped = entry.is_unmapped != 0;
        if !is_exempt(arrival) {
            if header.judges & judges::ENFORCES_BLOCKS != 0 {
                arrival.note(entry.block_pair, Verdict::Drop);
                return decision::DROP;
            }
            arrival.note(entry.block_pair, Verdict::WouldDrop);
        }
    }
    if list == 0 {
        return decision::PASS;
    }
    let Some(list) = rules_of(half, list) else { return decision::PASS };
    let Some(entry) = entry_of(half, class) else { return decision::PASS };
    arrival.is_unmapped = entry.is_unmapped != 0;
    let facts = Facts {
        source,
        packets: arrival.packets,
        is_opening: packet.protocol == protocol::TCP && is_opening(packet),
        anomaly: if header.judges & judges::ANOMALIES != 0 { anomaly(packet, frame, read) } else { NO_ANOMALY },
    };
    judge(arrival, list, &facts, stage)
}

/// That a packet was read; any other number is that of the [`Reason`] why not.
pub(crate) const READ: u8 = u8::MAX;

/// No anomaly.
pub(crate) const NO_ANOMALY: u8 = u8::MAX;

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

/// What is out of the ordinary with a packet: an [`AnomalyKind`], as its number, or [`NO_ANOMALY`].
#[inline(always)]
fn anomaly<F: Frame>(_packet: &Packet, _frame: &F, _read: u8) -> u8 {
    NO_ANOMALY
}

/// Whether all that comes from `source` is blocked at this tick.
#[inline(always)]
fn is_blocked(source: &Address, tick: u64) -> bool {
    let lengths = number(if source.is_v4() { word::BLOCKED_IPV4 } else { word::BLOCKED_IPV6 });
    for place in 0..BLOCKED_LENGTHS as u32 {
        let length = (lengths >> (place * 8)) as u8;
        if length == word::NO_LENGTH {
            break;
        }
        // SAFETY: a word that userspace replaces as a whole.
        let until = unsafe { BLOCKS.get(&BlockKey::of(*source, length.into())) };
        if until.is_some_and(|until| tick < *until) {
            return true;
        }
    }
    false
}
