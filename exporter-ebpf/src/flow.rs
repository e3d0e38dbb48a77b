//! The flow table: which ends talk to each other, and how much.
//!
//! Whatever happens in here, the packet was counted for its API before. What nearly every packet needs is in [`track`]; what
//! a packet may mean beside, for the connection or for a request, is in [`connection`](crate::connection) and
//! [`conversation`](crate::conversation).

#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "what is handed over by value is copied, and the stack has 512 bytes"
)]

use aya_ebpf::{
    bindings::{__sk_buff, BPF_NOEXIST},
    programs::TcContext,
};
use tidewaiter_common::{
    api::{ApiSlot, Owner},
    counters::Counters,
    direction::Direction,
    flow::{BEGUN, DATAGRAMS, FULL, FULL_DATAGRAM, Flow, FlowKey, HTTP1, OPENED_BY_TRANSMIT},
    frame::Frame,
    interface::guarded,
    packet::{Packet, protocol, tcp_flag},
    role::Role,
    turn::{Segment, Talk},
    wire::Wire,
};

use crate::{
    account::{FOLLOW, JUDGE, NOTHING, go_on, interface},
    anomaly, connection,
    context::{is_replay, nanoseconds, precise_nanoseconds, ticks, tracks_flows},
    conversation,
    maps::{API_COUNTERS, FLOWS, NEW_FLOWS, SCRATCH},
    source,
};

/// What the kernel answers to an insertion of a key that is there (`EEXIST`, `include/uapi/asm-generic/errno-base.h`).
const ALREADY_THERE: i32 = -17;

/// It was not counted for its flow yet.
const NOT_COUNTED: u64 = u64::MAX;

/// What is left to be done for a packet that was seen, or could not be.
#[inline(always)]
const fn following(sight: Option<&Sight>) -> u32 {
    if sight.is_some() { FOLLOW } else { NOTHING }
}

/// One socket buffer, as far as flows are concerned: what is out of the ordinary finds it in [`SCRATCH`], because the stack has
/// 512 bytes. Enumerations are numbers: the verifier does not know which values they have.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Sight {
    pub(crate) key: FlowKey,
    /// Where the IP header begins.
    pub(crate) network_offset: u32,
    pub(crate) tick: u64,
    pub(crate) bits: u64,
    /// What it says that is new ([`Flow::count`]), or [`NOT_COUNTED`].
    new: u64,
    wire: Wire,
    pub(crate) segment: Segment,
    /// Where the payload begins.
    pub(crate) headers: u32,
    direction: u32,
    role: u32,
    api: u32,
}

impl Sight {
    #[inline(always)]
    pub(crate) const fn direction(&self) -> Direction {
        Direction::from_number(self.direction)
    }

    #[inline(always)]
    pub(crate) const fn role(&self) -> Role {
        if self.role == Role::Server as u32 { Role::Server } else { Role::Client }
    }

    #[inline(always)]
    pub(crate) const fn api(&self) -> ApiSlot {
        ApiSlot(self.api as u16)
    }

    #[inline(always)]
    pub(crate) const fn wire(&self) -> Wire {
        self.wire
    }

    /// Whether the side that asks has sent it.
    #[inline(always)]
    pub(crate) const fn is_request(&self) -> bool {
        is_request(self.direction(), self.role())
    }

    /// The bit of [`Flow::seen`] that a datagram sets which is as large as its sender wants its answers.
    #[inline(always)]
    const fn full(&self) -> u64 {
        let is_full = !self.is_tcp() && self.is_request() && self.segment.payload >= FULL_DATAGRAM;
        if is_full { FULL } else { 0 }
    }

    /// Whether this host is the API's server.
    #[inline(always)]
    pub(crate) const fn is_server(&self) -> bool {
        matches!(self.role(), Role::Server)
    }

    #[inline(always)]
    pub(crate) const fn is_tcp(&self) -> bool {
        self.key.protocol == protocol::TCP as u32
    }

    /// Whether it has one of these flags of TCP.
    #[inline(always)]
    pub(crate) const fn has_flag(&self, flags: u8) -> bool {
        self.segment.flags & flags as u32 != 0
    }

    /// Whether it is the segment that opens a connection.
    #[inline(always)]
    pub(crate) const fn is_opening(&self) -> bool {
        self.has_flag(tcp_flag::SYN) && !self.has_flag(tcp_flag::ACK)
    }
}

/// Counts the socket buffer that `packet` was read from for its flow. Says what is left to be done: it may change what the
/// flow is, or all of it is left for [`follow`] because it is `LATER`.
#[inline(always)]
pub(crate) fn track<F: Frame, const LATER: bool>(
    ctx: &TcContext,
    frame: &F,
    packet: &Packet,
    direction: Direction,
    interface: u32,
    owner: Owner,
    wire: Wire,
) -> u32 {
    if !tracks_flows() {
        return NOTHING;
    }
    let Some(key) = FlowKey::of(packet, frame, direction, interface) else { return NOTHING };
    let (bits, tick) = (Flow::bits(packet, direction), ticks(ctx));
    let see = |new| see(&key, packet, direction, owner, wire, bits, tick, new);
    if LATER {
        return following(see(NOT_COUNTED));
    }
    let Some(flow) = FLOWS.get_ptr_mut(&key) else { return following(see(NOT_COUNTED)) };
    // SAFETY: a flow of the map, which is written to by `Flow`'s methods alone; for all of it.
    unsafe {
        let is_other = (&raw const (*flow).api).read_volatile() != owner.slot;
        if is_other || packet.tcp_flags & tcp_flag::SYN != 0 {
            return following(see(NOT_COUNTED));
        }
        let new = Flow::count(flow, direction, wire, bits, tick);
        if is_replay() {
            Flow::begin_no_later(flow, tick);
        }
        if new != 0 || packet.tcp_flags & tcp_flag::RST != 0 {
            return following(see(new));
        }
        if !takes_turn(flow, packet, direction, owner) {
            return NOTHING;
        }
        let reads = (&raw const (*flow).seen).read_volatile() & (HTTP1 | DATAGRAMS) != 0;
        if is_request(direction, owner.role) && !reads {
            // Most requests are so: nothing of them is read.
            let is_server = owner.role as u32 == Role::Server as u32;
            Flow::ask(flow, &segment(packet), Talk::Stream, false, is_server, || precise_nanoseconds(tick));
        } else if let Some(sight) = see(new) {
            conversation::take_turn(ctx.skb.skb, sight, flow);
            if late() != 0 {
                return JUDGE;
            }
        }
    }
    NOTHING
}

/// What of the packet that was seen is to be judged.
#[inline(always)]
fn late() -> u32 {
    // SAFETY: this CPU's own entry, as in `account`.
    SCRATCH.get_ptr(0).map_or(0, |scratch| unsafe { (&raw const (*scratch).late).read_volatile() })
}

/// Does for a flow what the packet that was left in [`SCRATCH`] calls for.
///
/// This is a program of its own, which those that account packets end in: it has a stack of its own, and the verifier, which
/// follows every function from wherever it is called, follows this once.
#[inline(always)]
pub(crate) fn follow(ctx: &TcContext) {
    let Some(scratch) = SCRATCH.get_ptr(0) else { return };
    // SAFETY: this CPU's own entry, as in `account`; it was written to a moment ago.
    let sight = unsafe { &(*scratch).sight };
    follow_sight(ctx, sight);
    anomaly::tell(ctx.skb.skb, sight.network_offset);
    judge_late(ctx, sight);
}

/// See [`follow`].
#[inline(always)]
fn follow_sight(ctx: &TcContext, sight: &Sight) {
    if sight.segment.payload > 0 {
        conversation::classify(ctx.skb.skb, sight);
    }
    let Some(flow) = FLOWS.get_ptr_mut(&sight.key) else {
        // It was counted for a flow that userspace has taken away since.
        if sight.new == NOT_COUNTED {
            track_new(ctx.skb.skb, sight);
        }
        return;
    };
    // SAFETY: a flow of the map, which is written to by `Flow`'s methods alone; for all of it.
    unsafe {
        let mut new = sight.new;
        if new == NOT_COUNTED {
            connection::reopen(sight, flow);
            new = Flow::count(flow, sight.direction(), sight.wire, sight.bits, sight.tick);
            if is_replay() {
                Flow::begin_no_later(flow, sight.tick);
            }
        }
        connection::go_on(ctx.skb.skb, sight, flow, new);
    }
}

/// Ends in the program that judges what is said, if there is anything to be judged.
#[inline(always)]
fn judge_late(ctx: &TcContext, sight: &Sight) {
    if late() != 0 && interface(sight.key.interface).guarded & guarded::PAYLOAD != 0 {
        go_on(ctx, JUDGE);
    }
}

/// Leaves in [`SCRATCH`] what matters of a packet.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "all that there is to be left")]
fn see(
    key: &FlowKey,
    packet: &Packet,
    direction: Direction,
    owner: Owner,
    wire: Wire,
    bits: u64,
    tick: u64,
    new: u64,
) -> Option<&'static Sight> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: this CPU's own entry, as in `account`, which nobody writes to while this packet is dealt with.
    unsafe {
        let sight = &raw mut (*scratch).sight;
        (&raw mut (*scratch).late).write_volatile(0);
        sight.write(Sight {
            key: *key,
            network_offset: packet.network_offset as u32,
            tick,
            bits,
            new,
            wire,
            segment: segment(packet),
            headers: packet.headers as u32,
            direction: direction as u32,
            role: owner.role as u32,
            api: owner.slot.0.into(),
        });
        Some(&*sight)
    }
}

/// What of `packet` matters to requests and answers.
#[inline(always)]
fn segment(packet: &Packet) -> Segment {
    Segment {
        sequence: packet.sequence,
        acknowledgement: packet.acknowledgement,
        payload: packet.payload,
        flags: packet.tcp_flags.into(),
    }
}

/// Whether the packet may be part of a request, or of the answer to one that waits.
///
/// # Safety
/// As for [`Flow::count`].
#[inline(always)]
unsafe fn takes_turn(flow: *const Flow, packet: &Packet, direction: Direction, owner: Owner) -> bool {
    if !owner.slot.is_mapped() {
        return false;
    }
    // SAFETY: the caller's.
    let (waits, seen) = unsafe { (Flow::waits(Flow::turns(flow)), (&raw const (*flow).seen).read_volatile()) };
    if is_request(direction, owner.role) {
        let ends_run = packet.tcp_flags & (tcp_flag::PSH | tcp_flag::FIN) != 0;
        packet.payload > 0 && (ends_run || waits || seen & (HTTP1 | DATAGRAMS) != 0)
    } else {
        waits
    }
}

/// Whether what goes in `direction` is of the side that asks: the one that is not the server.
const fn is_request(direction: Direction, role: Role) -> bool {
    matches!((direction, role), (Direction::Receive, Role::Server) | (Direction::Transmit, Role::Client))
}

/// As [`track`], for a flow that is not in the table of established ones.
///
/// What is counted here and what moves from here cannot miss each other. A CPU first counts, then asks whether the flow
/// has moved; the one that moves it first says so, then takes what was counted. All four are atomic and ordered, so
/// either the taker finds the count, or the counter hears of the move and takes it along itself.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn track_new(skb: *mut __sk_buff, sight: &Sight) {
    let &Sight { ref key, tick, wire, .. } = sight;
    // Where even that table has no room, for an entry of another CPU was the one to go, it is part of no flow.
    let Some(flow) = new_flow(sight) else {
        if sight.is_opening() {
            connection::count_attempt(sight);
        }
        return leave_untracked(sight.api(), wire.into());
    };
    // SAFETY: a flow of the map, which is written to by `Flow`'s methods alone; for all of it.
    unsafe {
        // What moved from here, and is not there any more, was taken away by userspace: this packet is of another flow with the same
        // ends, or of the same connection after a silence. How that began is not known any more.
        if Flow::has_moved(flow) && FLOWS.get_ptr(key).is_none() {
            Flow::begin_anew(flow, 0, nanoseconds(tick));
        }
        if sight.is_opening() {
            connection::attempt(sight, flow);
        }
        // The first datagram of a flow; segments of TCP say so themselves.
        if Flow::is_untouched(flow) && key.protocol == protocol::UDP.into() {
            source::attempt(sight);
        }
        let bits = connection::believe(sight, flow) | sight.full();
        let new = Flow::count(flow, sight.direction(), wire, bits, tick);
        if is_replay() {
            Flow::begin_no_later(flow, tick);
        }
        if sight.segment.payload > 0 {
            conversation::speak(skb, sight, flow, new);
        }
        if sight.is_tcp() && connection::is_refused(sight, flow) {
            return;
        }
        if !Flow::has_moved(flow) {
            let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return };
            // This CPU's own entry, as in `account`. The copy may be of two moments.
            let copy = &raw mut (*scratch).flow;
            Flow::copy(flow, copy);
            if !(*copy).is_established(key.protocol) {
                return;
            }
            let was_left = (*copy).seen & BEGUN != 0;
            (*copy).uncount();
            (*copy).api = sight.api();
            match FLOWS.insert(key, &*copy, BPF_NOEXIST.into()) {
                Ok(()) if was_left => connection::take_up(sight),
                Ok(()) | Err(ALREADY_THERE) => {}
                // It is part of no flow then, nor of this one should there be room for it later.
                Err(_) => {
                    connection::leave(sight, flow);
                    return leave_untracked(sight.api(), Flow::take_counters(flow));
                }
            }
            Flow::set_moved(flow);
            if key.protocol == protocol::UDP.into() {
                source::complete(sight);
            }
        }
        if let Some(established) = FLOWS.get_ptr_mut(key) {
            Flow::move_counters(flow, established);
            connection::begin(sight, established);
            // The other side may have been done before.
            if sight.has_flag(tcp_flag::FIN) && !sight.has_flag(tcp_flag::RST) {
                connection::end(sight, established, new);
            }
            return;
        }
        // Userspace has taken it away this very moment: this is the first packet of another with the same ends.
        Flow::begin_anew(flow, bits, nanoseconds(tick));
        // Unless another CPU has put it back meanwhile, and has said that it has moved before this one said that it has not.
        if let Some(established) = FLOWS.get_ptr_mut(key) {
            Flow::set_moved(flow);
            Flow::move_counters(flow, established);
        }
    }
}

/// The entry for `key` in the table of flows that are not established.
#[inline(always)]
fn new_flow(sight: &Sight) -> Option<*mut Flow> {
    let &Sight { ref key, tick, .. } = sight;
    if let Some(flow) = NEW_FLOWS.get_ptr_mut(key) {
        return Some(flow);
    }
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: this CPU's own entry, as in `account`.
    unsafe {
        let flow = &raw mut (*scratch).flow;
        Flow::write_new(flow, sight.api(), nanoseconds(tick), tick);
        // A connection's opening segment says so by itself.
        if !sight.is_tcp() && sight.direction() == Direction::Transmit {
            (*flow).seen = OPENED_BY_TRANSMIT;
        }
        // Another CPU may be faster: then its entry is as good.
        let _: Result<(), i32> = NEW_FLOWS.insert(key, &*flow, BPF_NOEXIST.into());
    }
    NEW_FLOWS.get_ptr_mut(key)
}

/// Counts packets of a flow that found the flow table full.
#[inline(always)]
fn leave_untracked(api: ApiSlot, counters: Counters) {
    if let Some(of_api) = API_COUNTERS.get_ptr_mut(api.0.into()) {
        // SAFETY: this CPU's own entry, as in `account`.
        unsafe { (*of_api).untracked += counters };
    }
}
