//! The guard: which packets are let in.
//!
//! On any doubt a packet passes. Rules and their tables are in [`tidewaiter_common::guard`]; here is what they ask, and what
//! is done.

#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "what is handed over by value is copied, and the stack has 512 bytes"
)]

mod block;
pub(crate) mod buffer;
mod exempt;
pub(crate) mod frame;
mod limits;
mod note;
mod seen;

use tidewaiter_common::{
    address::Address,
    api::{AddressKey, port_index},
    guard::{
        self, ClassEntry, Facts, GuardAddressKey, GuardHeader, GuardRule, Judged, List, MAX_CLASSES, MAX_LISTS,
        MAX_RULES, PROTECTED, Stage, Verdict, class, class_place, decision, judges, match_place, outcome, word,
    },
    packet::protocol,
    prefix::{NOBODY, PREFIX_FILTER_WORDS, PrefixEntry, PrefixTable, lookup},
    reason::Reason,
    role::Role,
    transport::Transport,
};

pub(crate) use self::seen::GuardScratch;
use self::{
    block::{blocks_anything, is_blocked},
    exempt::is_exempt,
    limits::{take_from_api, take_from_client},
    note::{count, count_anomaly, note_hit},
    seen::{READ, Seen, has_source},
};
use crate::{
    context::is_replay,
    maps::{
        GUARD_ADDRESSES, GUARD_CLASSES, GUARD_HEADERS, GUARD_LISTS, GUARD_MATCHES, GUARD_PORTS, GUARD_PREFIX_FILTERS,
        GUARD_PREFIXES, GUARD_RULES, GUARD_SCRATCH, GUARD_SWITCH, GUARD_WORDS,
    },
};

/// A number that userspace says, see [`word`].
#[inline(always)]
fn number(word: usize) -> u64 {
    // SAFETY: a word of a map; volatile, because userspace writes to it at any time: all of them at once, of which one changes.
    unsafe { (&raw const (*GUARD_WORDS.get())[word]).read_volatile() }
}

/// What all packets of a half have in common.
#[inline(always)]
fn header(half: u32) -> &'static GuardHeader {
    // SAFETY: a map, which is always there. Userspace writes both halves at once: that which is in force as it is, the other only
    // while nobody reads it.
    unsafe { &(*GUARD_HEADERS.get())[half as usize & 1] }
}

/// The half of the tables that is in force; `None` if everything is to pass. To be asked once for a packet.
#[inline(always)]
fn in_force(tick: u64) -> Option<u32> {
    // SAFETY: a word of a map; volatile, because userspace writes to it at any time.
    let is_off = GUARD_SWITCH.get_ptr(0).is_some_and(|switch| unsafe { switch.read_volatile() } != 0);
    if is_off || (tick > number(word::DEADLINE) && !is_replay()) {
        return None;
    }
    Some((number(word::GENERATION) & 1) as u32)
}

/// Whether anything is to be judged when a packet comes in.
#[inline(always)]
fn judges_packets(half: u32) -> bool {
    header(half).judges & (judges::PACKETS | judges::MARKS) != 0 || blocks_anything()
}

/// A packet that is judged, as [`see`](seen::see) has left it.
struct Arrival {
    scratch: *mut GuardScratch,
    half: u32,
}

impl Arrival {
    #[inline(always)]
    const fn seen(&self) -> &Seen {
        // SAFETY: this CPU's own entry, which was written to a moment ago.
        unsafe { &(*self.scratch).seen }
    }
}

impl Judged for Arrival {
    #[inline(always)]
    fn rule(&self, index: u16) -> Option<&GuardRule> {
        GUARD_RULES.get(self.half * u32::from(MAX_RULES) + u32::from(index))
    }

    #[inline(always)]
    fn bytes(&self) -> u64 {
        self.seen().bytes
    }

    #[inline(always)]
    fn admits(&self, rule: &GuardRule, pair: u16, client: Option<Address>, units: u64) -> bool {
        let is_admitted = if let Some(client) = client {
            // SAFETY: this CPU's own entry.
            unsafe { client.write_to(&raw mut (*self.scratch).client) };
            take_from_client(self.scratch, rule, pair, units)
        } else {
            take_from_api(self.scratch, rule, pair, units)
        };
        is_admitted != 0
    }

    #[inline(always)]
    fn is_exempt(&self) -> bool {
        is_exempt(self.scratch, self.half) != 0
    }

    #[inline(always)]
    fn note(&self, pair: u16, verdict: Verdict) {
        let seen = self.seen();
        count(pair, verdict, seen.packets);
        if verdict != Verdict::Pass {
            note_hit(seen, pair, verdict as u8);
        }
        if matches!(verdict, Verdict::Drop | Verdict::Reject)
            && seen.anomaly != tidewaiter_common::anomaly::stateless::NONE
        {
            count_anomaly(seen);
        }
    }

    #[inline(always)]
    fn mark(&self, mark: u32) {
        // SAFETY: this CPU's own entry.
        unsafe { (&raw mut (*self.scratch).mark).write_volatile(mark) };
    }
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

/// The class of a packet to a port of this host, at the address that it was sent to.
#[inline(always)]
fn class_of(half: u32, seen: &Seen, transport: Transport) -> Option<u16> {
    let port = seen.destination_port;
    let (place, shift) = class_place(half, port_index(transport, port));
    let class = (*GUARD_PORTS.get(place)? >> shift) as u16;
    if class & class::BY_ADDRESS == 0 {
        return Some(class);
    }
    let address = seen.destination;
    let key = AddressKey { address, port, transport: transport as u8, role: Role::Server as u8 };
    // SAFETY: userspace writes to it only while nobody reads this half.
    let of_address = unsafe { GUARD_ADDRESSES.get(&GuardAddressKey { half, key }) };
    Some(of_address.copied().unwrap_or(class & !class::BY_ADDRESS))
}

/// Who has sent the packet.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn who(seen: &Seen, half: u32) -> u32 {
    let header = header(half);
    let table = Prefixes { entries: header.first_prefix, filters: half * PREFIX_FILTER_WORDS };
    lookup(&header.prefixes, &table, seen.source).into()
}

/// The list of rules about packets of `class` from who has sent this one, by its place in the half.
#[inline(always)]
fn list_of(half: u32, seen: &Seen, class: u16) -> Option<u16> {
    let whos = header(half).whos;
    let who = if whos > 1 { who(seen, half) } else { NOBODY.into() };
    let (place, shift) = match_place(half, class, whos, who)?;
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

/// Finds out what is to become of the packet that was seen, by blocks and rules: see [`decided`]. A function of its own: the verifier
/// would follow each way of reading a packet to its end.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge_seen(scratch: *mut GuardScratch, half: u32, stage: u32) {
    decide(scratch, judge(scratch, half, stage));
}

/// Leaves what is to become of the packet, for [`decided`].
#[inline(always)]
fn decide(scratch: *mut GuardScratch, decided: u32) {
    // SAFETY: this CPU's own entry.
    unsafe { (&raw mut (*scratch).decided).write_volatile(decided) };
}

/// What is to become of the packet that was seen: a [`decision`], or [`ASK_NEXT`]. It was left in a map: to the verifier it is one
/// unknown number, not each that it can be.
#[inline(always)]
fn decided(scratch: *mut GuardScratch) -> u32 {
    // SAFETY: this CPU's own entry.
    unsafe { (&raw const (*scratch).decided).read_volatile() }
}

#[inline(always)]
fn judge(scratch: *mut GuardScratch, half: u32, stage: u32) -> u32 {
    // SAFETY: this CPU's own entry, written to a moment ago.
    let seen = unsafe { &(*scratch).seen };
    if seen.reason != READ && !has_source(seen.reason) {
        return decision::PASS;
    }
    let class = match seen.transport() {
        Some(transport) if seen.reason == READ => class_of(half, seen, transport),
        _ if seen.reason == Reason::Fragment as u8 => Some(class::FRAGMENTS),
        _ => Some(class::PORTLESS),
    };
    let Some(class) = class else { return decision::PASS };
    let Some(list) = list_of(half, seen, class) else { return decision::PASS };
    let blocks = stage == Stage::Frame as u32 || stage == Stage::Buffer as u32;
    let is_blocked = blocks && blocks_anything() && is_blocked(seen) != 0;
    if (list == 0 && !is_blocked) || list == PROTECTED {
        return decision::PASS;
    }
    // SAFETY: as above.
    unsafe { (&raw mut (*scratch).seen.class).write_volatile(class) };
    let mut was_observed = false;
    if is_blocked && is_exempt(scratch, half) == 0 {
        let Some(entry) = entry_of(half, class) else { return decision::PASS };
        let arrival = Arrival { scratch, half };
        if header(half).judges & judges::ENFORCES_BLOCKS != 0 {
            arrival.note(entry.block_pair, Verdict::Drop);
            return decision::DROP;
        }
        arrival.note(entry.block_pair, Verdict::WouldDrop);
        was_observed = true;
    }
    if list == 0 {
        return decision::PASS;
    }
    // SAFETY: as above; volatile, so that the verifier sees unknown numbers.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        (&raw mut (*walk).list).write_volatile(list);
        (&raw mut (*walk).half).write_volatile(half as u8);
        (&raw mut (*walk).stage).write_volatile(stage as u8);
        (&raw mut (*walk).was_observed).write_volatile(was_observed.into());
        (&raw mut (*walk).place).write_volatile(0);
    }
    ask(scratch)
}

/// That the next rule is to be asked, besides what a [`decision`] can be. Each is asked by [`ask_rule`], and all but the first by a
/// program that ends in itself: the verifier follows that once, where it would follow a loop as often as that goes round.
const ASK_NEXT: u32 = 3;

/// How far asking the rules of a list has come.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Walk {
    /// The rule that is next.
    place: u32,
    /// The list's place in the half.
    list: u16,
    half: u8,
    /// A [`Stage`], as its number.
    stage: u8,
    /// Whether a rule would have decided that is only observed.
    was_observed: u64,
}

impl Walk {
    #[inline(always)]
    const fn stage(&self) -> Stage {
        Stage::from_number(self.stage)
    }
}

/// Asks the next rule about the packet that was seen: see [`decided`].
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ask_rule(scratch: *mut GuardScratch) {
    decide(scratch, ask(scratch));
}

#[inline(always)]
fn ask(scratch: *mut GuardScratch) -> u32 {
    // SAFETY: this CPU's own entry, written to a moment ago.
    let (seen, walk) = unsafe { (&(*scratch).seen, &mut (*scratch).walk) };
    let Some(list) = rules_of(walk.half.into(), walk.list) else { return decision::PASS };
    let place = walk.place;
    let Some(step) = list.steps.get(place as usize) else { return decision::PASS };
    if place >= list.count {
        return decision::PASS;
    }
    let is_last = place + 1 >= list.count;
    walk.place = place + 1;
    let facts = Facts {
        source: seen.source,
        packets: seen.packets,
        is_opening: seen.protocol == protocol::TCP && seen.is_opening(),
        anomaly: seen.anomaly,
    };
    let arrival = Arrival { scratch, half: walk.half.into() };
    match guard::ask(&arrival, *step, &facts, walk.stage(), walk.was_observed != 0) {
        outcome::OBSERVED => walk.was_observed = 1,
        outcome::DROP => return decision::DROP,
        outcome::REJECT => return decision::REJECT,
        outcome::PASS => return decision::PASS,
        _ => {}
    }
    if is_last { decision::PASS } else { ASK_NEXT }
}

/// What this CPU's functions of the guard leave for each other.
#[inline(always)]
fn scratch() -> Option<*mut GuardScratch> {
    GUARD_SCRATCH.get_ptr_mut(0)
}
