//! Who sends too much of something: ports tried, connections begun or short, messages of ICMP.

#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "what is handed over by value is copied, and the stack has 512 bytes"
)]

use aya_ebpf::bindings::BPF_NOEXIST;
use tidewaiter_common::{
    address::Address,
    anomaly::{
        AnomalyKind,
        openings::Openings,
        source::{Source, scan},
        told::told_flag,
    },
    api::ApiSlot,
    direction::Direction,
};

use crate::{
    anomaly::{find, settings},
    context::nanoseconds,
    flow::Sight,
    maps::{ANOMALY_SCRATCH, API_OPENINGS, AnomalyScratch, SOURCES},
};

/// Nanoseconds in a millisecond.
const MILLISECOND: u64 = 1_000_000;

/// What is remembered of the source at `address`; nothing yet if it is new.
#[inline(always)]
fn source(scratch: *mut AnomalyScratch, address: &Address, now: u64) -> Option<*mut Source> {
    if let Some(source) = SOURCES.get_ptr_mut(address) {
        return Some(source);
    }
    // SAFETY: this CPU's own entry, as in `account`.
    unsafe {
        Source::begin(&raw mut (*scratch).source, now);
        // Another CPU may be faster: then its entry is as good.
        let _: Result<(), i32> = SOURCES.insert(address, &(*scratch).source, BPF_NOEXIST.into());
    }
    SOURCES.get_ptr_mut(address)
}

/// Leaves the ends of `sight` for what is about to be told.
#[inline(always)]
unsafe fn leave_ends(scratch: *mut AnomalyScratch, sight: &Sight) {
    // SAFETY: the caller's: this CPU's own entry.
    unsafe { (&raw mut (*scratch).told.key).write(sight.key) };
}

/// Takes note that somebody else has begun a connection, or sent a first datagram. What this host begins is nothing of the kind.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn attempt(sight: &Sight) {
    let Some(scratch) = ANOMALY_SCRATCH.get_ptr_mut(0) else { return };
    let settings = settings();
    if sight.direction() as u32 != Direction::Receive as u32 {
        return;
    }
    let now = nanoseconds(sight.tick);
    // What is sent to a group is not meant for a host in particular.
    let is_to_one = sight.key.local.is_unicast();
    let mut attempts = 0;
    if is_to_one && settings.is_enabled(AnomalyKind::PortScan as u8) {
        let Some(source) = source(scratch, &sight.key.remote, now) else { return };
        // SAFETY: a source of the map, which is written to by its methods alone; for all of it.
        unsafe {
            Source::attempt(source, now, settings.scan_window, sight.key.local_port, sight.key.local);
            attempts = Source::attempts(source);
            let (ports, addresses) = (Source::ports(source), Source::addresses(source));
            let milliseconds = (Source::scanned_for(source, now) / MILLISECOND) as u32;
            let kind = AnomalyKind::PortScan as u8;
            if ports >= settings.scan_ports && Source::tell_scan(source, scan::VERTICAL) {
                // Which of the ports was the last says nothing.
                leave_ends(scratch, sight);
                find(ApiSlot::UNMAPPED, kind, told_flag::ENDS, ports as u32, milliseconds);
                (*scratch).told.numbers[2] = scan::VERTICAL as u32;
            } else if addresses >= settings.scan_addresses && Source::tell_scan(source, scan::HORIZONTAL) {
                leave_ends(scratch, sight);
                find(sight.api(), kind, told_flag::ENDS, addresses as u32, milliseconds);
                (*scratch).told.numbers[2] = scan::HORIZONTAL as u32;
            }
        }
    }
    if sight.is_opening() {
        open(sight, attempts, now);
    }
}

/// Takes note that somebody else, who has made so many `attempts` of late, has begun a connection; and judges those that there were
/// before, once their window is over.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn open(sight: &Sight, attempts: u64, now: u64) {
    let Some(scratch) = ANOMALY_SCRATCH.get_ptr_mut(0) else { return };
    let settings = settings();
    let Some(openings) = API_OPENINGS.get_ptr_mut(sight.api().0.into()) else { return };
    // SAFETY: entries of maps, which are written to by their methods alone, and this CPU's own.
    unsafe {
        if !Openings::attempt(openings, now, settings.flood_window) {
            return;
        }
        Openings::take(openings, &mut (*scratch).judged);
        let judged = &(*scratch).judged;
        if !judged.is_flood(settings.flood_half_open, settings.flood_completed) {
            return;
        }
        // Addresses of who floods are rarely its own, and then there are many.
        let is_one = attempts >= judged.attempts / 2;
        let flags = if is_one { told_flag::ENDS } else { told_flag::ENDS | told_flag::MANY };
        leave_ends(scratch, sight);
        let (attempts, completed, refused) = (judged.attempts, judged.completed, judged.refused);
        find(sight.api(), AnomalyKind::SynFlood as u8, flags, attempts as u32, completed as u32);
        (*scratch).told.numbers[2] = refused as u32;
    }
}

/// Takes note that somebody else has got through: that a connection is complete, or a datagram was answered.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn complete(sight: &Sight) {
    if sight.is_tcp()
        && let Some(openings) = API_OPENINGS.get_ptr_mut(sight.api().0.into())
    {
        // SAFETY: as in `open`.
        unsafe { Openings::complete(openings) };
    }
    if let Some(source) = SOURCES.get_ptr_mut(&sight.key.remote) {
        // SAFETY: as in `attempt`.
        unsafe { Source::complete(source, sight.key.local_port, sight.key.local) };
    }
}

/// Takes note that this host has refused a connection.
#[inline(always)]
pub(crate) fn refuse(api: ApiSlot) {
    if let Some(openings) = API_OPENINGS.get_ptr_mut(api.0.into()) {
        // SAFETY: as in `open`.
        unsafe { Openings::refuse(openings) };
    }
}

/// Takes note that a connection is over that somebody else had opened, after `lifetime`.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn churn(sight: &Sight, lifetime: u64) {
    let Some(scratch) = ANOMALY_SCRATCH.get_ptr_mut(0) else { return };
    let settings = settings();
    let kind = AnomalyKind::ConnectionChurn as u8;
    if lifetime >= settings.churn_lifetime || !settings.is_enabled(kind) {
        return;
    }
    let now = nanoseconds(sight.tick);
    let Some(source) = source(scratch, &sight.key.remote, now) else { return };
    // SAFETY: as in `attempt`.
    unsafe {
        let count = Source::churn(source, now, settings.churn_window, settings.churn_connections);
        if count > 0 {
            leave_ends(scratch, sight);
            find(sight.api(), kind, told_flag::ENDS, count as u32, 0);
        }
    }
}

/// Takes note of a message of ICMP, whose ends stand in what is about to be told.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn message(scratch: *mut AnomalyScratch, now: u64) {
    let settings = settings();
    let kind = AnomalyKind::IcmpFlood as u8;
    if !settings.is_enabled(kind) {
        return;
    }
    // SAFETY: as in `attempt`; and this CPU's own entry.
    unsafe {
        let from = &(*scratch).told.key.remote;
        let Some(one) = source(scratch, from, now) else { return };
        let count = Source::message(one, now, settings.icmp_window, settings.icmp_from_one);
        if count > 0 {
            find(ApiSlot::UNMAPPED, kind, told_flag::ENDS, count as u32, 0);
        }
        (*scratch).key.source = Address::default();
        let Some(all) = source(scratch, &(*scratch).key.source, now) else { return };
        let count = Source::message(all, now, settings.icmp_window, settings.icmp_from_all);
        if count > 0 {
            find(ApiSlot::UNMAPPED, kind, told_flag::ENDS | told_flag::MANY, count as u32, 1);
        }
    }
}
