//! The life of a connection: attempted, opened, ended; and how flows are taken out of the table in the end.

#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "what is handed over by value is copied, and the stack has 512 bytes"
)]

use aya_ebpf::{EbpfContext as _, bindings::__sk_buff, helpers::bpf_skb_load_bytes, programs::TcContext};
use tidewaiter_common::{
    api::ApiSlot,
    atomic,
    details::{ApiDetails, CloseReason},
    direction::Direction,
    event::{FINISH_BATCH, FINISH_KEYS_OFFSET, FINISH_TICKS_OFFSET, FinishedFlow, Lost},
    flow::{BEGUN, CLASSIFIED, ENDED, EVER_PLAIN, Flow, FlowKey, NO_RESET, PAYLOAD, PLAIN, REFUSED, RESET},
    histogram::Range,
    packet::tcp_flag,
    protocol::Protocol,
};

use crate::{
    context::{captured_length, nanoseconds, precise_nanoseconds, tell, ticks},
    conversation,
    flow::Sight,
    maps::{API_DETAILS, ENDED_FLOWS, FINISHED_FLOWS, FLOWS, LOST, NEW_FLOWS},
    source,
};

/// "Wake nobody": userspace looks by itself (`BPF_RB_NO_WAKEUP`, `include/uapi/linux/bpf.h`).
pub(crate) const NO_WAKEUP: u64 = 1;

/// What is counted for `api` beside packets and bytes.
#[inline(always)]
pub(crate) fn details(api: ApiSlot) -> Option<&'static mut ApiDetails> {
    // SAFETY: this CPU's own entry, which no other program uses before this one has ended, and never two at a time.
    API_DETAILS.get_ptr_mut(api.0.into()).map(|details| unsafe { &mut *details })
}

/// Counts what could not be told.
#[inline(always)]
pub(crate) fn lose(what: Lost) {
    if let Some(lost) = LOST.get_ptr_mut(what as u32) {
        // SAFETY: this CPU's own entry, as above.
        unsafe { *lost += 1 };
    }
}

/// Counts an attempt to connect.
#[inline(always)]
pub(crate) fn count_attempt(sight: &Sight) {
    if let Some(details) = details(sight.api()) {
        details.attempts += 1;
    }
    source::attempt(sight);
}

/// Takes note of a segment that opens a connection, in a flow that is not established: it may be the first, one that is sent
/// again, or that of another connection with the same ends.
///
/// # Safety
/// `flow` must be of the map.
#[inline(always)]
pub(crate) unsafe fn attempt(sight: &Sight, flow: *mut Flow) {
    let sequence = sight.segment.sequence;
    // SAFETY: the caller's.
    unsafe {
        if Flow::has_moved(flow) || ((*flow).opened != 0 && !Flow::is_opened_by(flow, sequence)) {
            Flow::begin_anew(flow, 0, nanoseconds(sight.tick));
        }
        if Flow::open(flow, sight.direction(), sequence, || precise_nanoseconds(sight.tick)) {
            count_attempt(sight);
        }
    }
}

/// Takes note of a packet of an established flow that is another API's now, or has SYN. If the connection has ended, and this
/// opens another, what was is told, and the flow begins anew; it does so too if the one before was never more than an attempt.
/// If it has not ended it goes on: anybody can send such a segment (RFC 5961 section 4).
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn reopen(sight: &Sight, flow: *mut Flow) {
    let sequence = sight.segment.sequence;
    // SAFETY: a flow of the map, which is written to by `Flow`'s methods alone; for all of it.
    unsafe {
        let seen = (&raw const (*flow).seen).read_volatile();
        let has_ended = seen & ENDED != 0;
        let is_reopened = sight.is_opening()
            && (has_ended || seen & (BEGUN | EVER_PLAIN) == 0)
            && !Flow::is_opened_by(flow, sequence);
        if is_reopened && has_ended {
            if !tell_finished(&sight.key, flow) {
                lose(Lost::Finished);
            }
            if let Some(details) = details((*flow).api) {
                count_unclassified(seen, details);
            }
        }
        change_hands(sight, flow);
        if !is_reopened {
            return;
        }
        Flow::begin_anew(flow, 0, nanoseconds(sight.tick));
        if Flow::open(flow, sight.direction(), sequence, || precise_nanoseconds(sight.tick)) {
            count_attempt(sight);
        }
    }
}

/// Tells of a flow that is over but stays in its table, and takes what was counted out of it. Without room to tell, it stays
/// in it.
///
/// # Safety
/// `flow` must be of the map.
#[inline(always)]
unsafe fn tell_finished(key: &FlowKey, flow: *mut Flow) -> bool {
    let Some(mut entry) = FINISHED_FLOWS.reserve::<FinishedFlow>(0) else { return false };
    let finished = entry.as_mut_ptr();
    // SAFETY: the caller's, and the ring's entry is ours until it is submitted; all of it is written.
    unsafe {
        (&raw mut (*finished).key).write(*key);
        (&raw mut (*finished).goes_on).write(0);
        Flow::take(flow, &raw mut (*finished).flow);
    }
    entry.submit(NO_WAKEUP);
    true
}

/// Tells of a flow that goes on; 0 if there is no room.
///
/// # Safety
/// `flow` must be of the map.
#[inline(always)]
unsafe fn tell_going_on(key: &FlowKey, flow: *mut Flow, tick: u64) -> u32 {
    let Some(mut entry) = FINISHED_FLOWS.reserve::<FinishedFlow>(0) else { return 0 };
    let finished = entry.as_mut_ptr();
    // SAFETY: as in `tell_finished`; userspace runs this program from one thread.
    unsafe {
        (&raw mut (*finished).key).write(*key);
        (&raw mut (*finished).goes_on).write(1);
        if !Flow::tell(flow, &raw mut (*finished).flow, tick) {
            entry.discard(NO_WAKEUP);
            return 1;
        }
    }
    entry.submit(NO_WAKEUP);
    1
}

/// Takes note of a packet of an established flow that may change what the connection is: one that says something `new`
/// ([`Flow::count`]), or that has SYN or RST.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn go_on(skb: *mut __sk_buff, sight: &Sight, flow: *mut Flow, new: u64) {
    // SAFETY: a flow of the map, which is written to by `Flow`'s methods alone; for all of it.
    unsafe {
        conversation::speak(skb, sight, flow, new);
        if !sight.is_tcp() {
            return;
        }
        answer_opening(sight, flow);
        // One that began anew in its place is established when the opening is answered, and that acknowledged.
        if Flow::says(new, sight.direction(), PLAIN) {
            begin(sight, flow);
        }
        end(sight, flow, new);
    }
}

/// Counts a reset, and the end of the connection if `sight` is that; says something `new` as in [`go_on`].
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn end(sight: &Sight, flow: *mut Flow, new: u64) {
    const FIN: u64 = tcp_flag::FIN as u64;
    let direction = sight.direction();
    // SAFETY: a flow of the map, as in `begin`.
    let (seen, first) = unsafe { ((&raw const (*flow).seen).read_volatile(), (*flow).first) };
    let (bits, reason) = if sight.has_flag(tcp_flag::RST) {
        let Some(details) = details(sight.api()) else { return };
        details.reset_packets[direction.index()] += 1;
        if seen & (BEGUN | EVER_PLAIN) == 0 {
            // It has begun anew, and is an attempt so far.
            // SAFETY: as above.
            if unsafe { refuse(sight, flow) } {
                tell_ended(sight);
            }
            return;
        }
        (ENDED | RESET, CloseReason::Reset)
    } else if Flow::says(new, direction, FIN) && Flow::says(seen, direction.opposite(), FIN) {
        (ENDED, CloseReason::Fin)
    } else {
        return;
    };
    // A reset after the end says nothing.
    // SAFETY: the caller's.
    if seen & ENDED != 0 || unsafe { Flow::note(flow, bits) } & ENDED == 0 {
        return;
    }
    let lifetime = nanoseconds(sight.tick).saturating_sub(first);
    if let Some(details) = details(sight.api()) {
        details.closed[reason as usize] += 1;
        details.lifetime.observe(Range::Lifetime, lifetime);
    }
    // SAFETY: as above.
    if unsafe { (*flow).opened_by() } == Some(Direction::Receive) {
        source::churn(sight, lifetime);
    }
    tell_ended(sight);
}

/// Says which flow has ended.
#[inline(always)]
fn tell_ended(sight: &Sight) {
    if ENDED_FLOWS.output::<FlowKey>(&sight.key, NO_WAKEUP).is_err() {
        lose(Lost::Ended);
    }
}

/// Measures the handshake of a connection that this host opens, when the answer to its opening comes.
///
/// # Safety
/// `flow` must be of the map.
#[inline(always)]
unsafe fn answer_opening(sight: &Sight, flow: *mut Flow) {
    // SAFETY: the caller's.
    unsafe {
        let is_answer = sight.has_flag(tcp_flag::SYN)
            && sight.has_flag(tcp_flag::ACK)
            && (*flow).opened_by() == Some(sight.direction().opposite());
        if !is_answer {
            return;
        }
        Flow::answer_opening(flow, sight.segment.sequence);
        if sight.direction() == Direction::Receive && (*flow).handshake == 0 {
            (*flow).handshake = precise_nanoseconds(sight.tick).saturating_sub((*flow).opened).max(1);
        }
    }
}

/// The bits of a segment ([`Flow::bits`]) as far as they can be believed: one that completes a handshake must acknowledge the
/// answer to the opening, which who only pretends to be at an address has not seen.
///
/// # Safety
/// `flow` must be of the map.
#[inline(always)]
pub(crate) unsafe fn believe(sight: &Sight, flow: *const Flow) -> u64 {
    const SYN: u64 = tcp_flag::SYN as u64;
    let direction = sight.direction();
    // SAFETY: the caller's.
    unsafe {
        let is_doubtful = sight.is_tcp()
            && (*flow).opened_by() == Some(direction)
            && Flow::says((*flow).seen, direction.opposite(), SYN)
            && !Flow::acknowledges_answer(flow, sight.segment.acknowledgement);
        if is_doubtful { Flow::without(sight.bits, direction, PLAIN) } else { sight.bits }
    }
}

/// Counts the beginning of an established connection, if it was not yet, and its handshake if that was seen.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn begin(sight: &Sight, flow: *mut Flow) {
    if !sight.is_tcp() {
        return;
    }
    // SAFETY: a flow of the map, which is written to by `Flow`'s methods alone; for all of it.
    unsafe {
        if Flow::note(flow, BEGUN) == 0 {
            return;
        }
        let Some(details) = details(sight.api()) else { return };
        let Some(opened_by) = (*flow).opened_by() else {
            details.adopted += 1;
            return;
        };
        details.opened += 1;
        if opened_by == Direction::Receive {
            source::complete(sight);
        }
        let is_answered = Flow::says((*flow).seen, Direction::Transmit, tcp_flag::SYN.into());
        if opened_by == Direction::Receive && sight.direction() == Direction::Receive && is_answered {
            (*flow).handshake = precise_nanoseconds(sight.tick).saturating_sub((*flow).opened).max(1);
        }
        if (*flow).handshake != 0 {
            details.handshake.observe(Range::Latency, (*flow).handshake);
        }
    }
}

/// Counts an established connection that finds the table full: it was opened, but nobody will see its end.
///
/// # Safety
/// `flow` must be of the map.
#[inline(always)]
pub(crate) unsafe fn leave(sight: &Sight, flow: *mut Flow) {
    // SAFETY: the caller's.
    if !sight.is_tcp() || unsafe { (&raw const (*flow).seen).read_volatile() } & BEGUN != 0 {
        return;
    }
    begin(sight, flow);
    if let Some(details) = details(sight.api()) {
        details.left += 1;
    }
}

/// Counts a connection that had found the table full, and finds room now.
#[inline(always)]
pub(crate) fn take_up(sight: &Sight) {
    if let Some(details) = details(sight.api()) {
        details.adopted += 1;
    }
}

/// Takes note that packets of a flow are another API's from now on, if they are.
///
/// # Safety
/// `flow` must be of the map.
#[inline(always)]
unsafe fn change_hands(sight: &Sight, flow: *mut Flow) {
    // SAFETY: the caller's.
    unsafe {
        let before = (*flow).api;
        if before == sight.api() {
            return;
        }
        // What was counted until now is the one's. Where there is no room to tell, its client's bytes become the other's.
        tell_going_on(&sight.key, flow, sight.tick);
        (&raw mut (*flow).api).write_volatile(sight.api());
        if (*flow).seen & (BEGUN | ENDED) != BEGUN {
            return;
        }
        if let Some(details) = details(before) {
            details.left += 1;
        }
        if let Some(details) = details(sight.api()) {
            details.adopted += 1;
        }
    }
}

/// Takes note of a segment of a connection that is not established: the answer to its opening, or its refusal. Says whether it
/// was refused, and is gone.
///
/// # Safety
/// `flow` must be of the map.
#[inline(always)]
pub(crate) unsafe fn is_refused(sight: &Sight, flow: *mut Flow) -> bool {
    // SAFETY: the caller's, for all of it.
    unsafe {
        answer_opening(sight, flow);
        if !sight.has_flag(tcp_flag::RST) {
            return false;
        }
        let Some(details) = details(sight.api()) else { return false };
        details.reset_packets[sight.direction().index()] += 1;
        if !refuse(sight, flow) {
            return false;
        }
        if !tell_finished(&sight.key, flow) {
            lose(Lost::Finished);
            return false;
        }
        // Should this fail, it is gone by itself.
        let _: Result<(), i32> = NEW_FLOWS.remove(&sight.key);
        true
    }
}

/// Counts the refusal of an attempt to connect, if this segment, which has RST, is that. Says whether it is.
///
/// # Safety
/// `flow` must be of the map.
#[inline(always)]
unsafe fn refuse(sight: &Sight, flow: *mut Flow) -> bool {
    // SAFETY: the caller's, for all of it.
    unsafe {
        let is_answer = (*flow).opened_by() == Some(sight.direction().opposite());
        // Who has refused has sent nothing but that.
        if !is_answer || Flow::says((*flow).seen, sight.direction(), NO_RESET) {
            return false;
        }
        if Flow::note(flow, ENDED | REFUSED) & ENDED == 0 {
            return false;
        }
    }
    if let Some(details) = details(sight.api()) {
        details.refused += 1;
    }
    if sight.direction() == Direction::Transmit {
        source::refuse(sight.api());
    }
    true
}

/// Counts the protocol of a flow that is over, if somebody has spoken and that was not taken for anything.
#[inline(always)]
fn count_unclassified(seen: u64, details: &mut ApiDetails) {
    let has_spoken = Flow::says(seen, Direction::Receive, PAYLOAD) || Flow::says(seen, Direction::Transmit, PAYLOAD);
    if has_spoken && seen & CLASSIFIED == 0 {
        // Older kernels let packets interrupt what userspace runs, on the same CPU.
        // SAFETY: this CPU's own entry.
        unsafe { atomic::add(&raw mut details.protocols[Protocol::Unknown.index()], 1) };
    }
}

/// Takes the flows out of their table that the packet names: see [`FINISH`](tidewaiter_common::FINISH).
#[inline(always)]
pub(crate) fn finish(ctx: &TcContext) {
    let mut done = 0;
    let mut since = [0_u64; 3];
    if load(ctx, FINISH_TICKS_OFFSET, &mut since) {
        let now = ticks(ctx);
        let keys = (captured_length(ctx) as usize).saturating_sub(FINISH_KEYS_OFFSET) / size_of::<FlowKey>();
        for at in 0..FINISH_BATCH {
            let mut key = [0_u32; size_of::<FlowKey>() / 4];
            if at >= keys || !load(ctx, FINISH_KEYS_OFFSET + at * size_of::<FlowKey>(), &mut key) {
                break;
            }
            // SAFETY: the same bytes; any are a key.
            let key = unsafe { &*(&raw const key).cast::<FlowKey>() };
            if finish_one(key, &since, now) == 0 {
                break;
            }
            done += 1;
        }
    }
    tell(ctx, done);
}

/// Reads what is at `offset` of the packet; says whether it could.
#[inline(always)]
fn load<T>(ctx: &TcContext, offset: usize, to: &mut T) -> bool {
    let to: *mut T = to;
    // SAFETY: the helper writes as many bytes as there is room for, of integers.
    unsafe { bpf_skb_load_bytes(ctx.as_ptr(), offset as u32, to.cast(), size_of::<T>() as u32) == 0 }
}

/// Takes a flow out of its table, if it was quiet for long enough, or tells of it if it goes on: see [`FINISH_TICKS_OFFSET`] for
/// what it is `since`. 0 if there is no room to tell.
///
/// What passes between the moment in which its counters are taken and that in which it is gone is lost to the flow (not to the
/// API); it was quiet until then.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn finish_one(key: &FlowKey, since: &[u64; 3], now: u64) -> u32 {
    let &[ended, others, told] = since;
    let (flow, is_established) = match FLOWS.get_ptr_mut(key) {
        Some(flow) => (flow, true),
        None => match NEW_FLOWS.get_ptr_mut(key) {
            Some(flow) => (flow, false),
            None => return 1,
        },
    };
    // SAFETY: a flow of the map, which is written to by `Flow`'s methods alone; for all of it.
    unsafe {
        let seen = (&raw const (*flow).seen).read_volatile();
        // What has ended may have begun anew since somebody was told.
        let tick = if seen & ENDED != 0 { ended } else { others };
        if (&raw const (*flow).last).read_volatile() > tick {
            let is_due = is_established && (*flow).told_at < told;
            return if is_due { tell_going_on(key, flow, now) } else { 1 };
        }
        let api = (*flow).api;
        if Flow::has_moved(flow) {
            // Nothing of it is left to tell.
            let _: Result<(), i32> = NEW_FLOWS.remove(key);
            return 1;
        }
        if !tell_finished(key, flow) {
            return 0;
        }
        let has_ended = seen & REFUSED == 0 && Flow::note(flow, ENDED) & ENDED == 0;
        // Of an established flow there is an empty entry in the other table, which goes when there is need for room.
        let _: Result<(), i32> = if is_established { FLOWS.remove(key) } else { NEW_FLOWS.remove(key) };
        let Some(details) = details(api) else { return 1 };
        // One in the other table that has begun found this one full, and was counted as left.
        if is_established && seen & BEGUN != 0 && !has_ended {
            atomic::add(&raw mut details.closed[CloseReason::Idle as usize], 1);
        }
        count_unclassified(seen, details);
    }
    1
}
