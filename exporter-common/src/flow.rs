//! Flows: the two ends of a conversation on one interface, and what passed between them.
//!
//! A flow begins in a small table that forgets what it has not seen for long, because anybody can send a packet from
//! anywhere. It moves to the flow table, which forgets nothing by itself, when it is *established*: see
//! [`Flow::is_established`].

use crate::{
    address::Address,
    api::ApiSlot,
    atomic,
    counters::Counters,
    direction::Direction,
    frame::Frame,
    packet::{Packet, protocol, tcp_flag},
    protocol::Protocol,
    wire::Wire,
};

/// How many established flows there can be unless somebody says otherwise.
pub const DEFAULT_CAPACITY: u32 = 1 << 18;

/// How many packets make a flow that is only ever seen in one direction an established one.
pub const ONE_WAY_PACKETS: u64 = 8;

/// What [`Flow::seen`] says of one direction: the TCP flags of all its segments in the lowest 8 bits, and whether there was
/// a segment without SYN and RST.
pub const PLAIN: u64 = 1 << 8;
/// And whether there was a segment without RST.
pub const NO_RESET: u64 = 1 << 9;
/// And whether there was any payload.
pub const PAYLOAD: u64 = 1 << 10;
/// Bits that [`Flow::seen`] has for each direction.
const SEEN_BITS: usize = 16;

/// That there was a segment without SYN and RST in either direction: until then a connection is no more than an attempt.
pub const EVER_PLAIN: u64 = PLAIN | PLAIN << SEEN_BITS;

/// What [`Flow::seen`] says of a whole flow: that its end was counted.
pub const ENDED: u64 = 1 << 32;
/// That it ended by a reset.
pub const RESET: u64 = 1 << 33;
/// That it was an attempt that was refused.
pub const REFUSED: u64 = 1 << 34;
/// That its protocol was counted.
pub const CLASSIFIED: u64 = 1 << 35;
/// That its payload is not what the API expects, and that this was counted.
pub const UNEXPECTED: u64 = 1 << 36;
/// That it speaks HTTP/1, of which requests and responses are counted.
pub const HTTP1: u64 = 1 << 37;
/// That each of its datagrams is a request or an answer by itself.
pub const DATAGRAMS: u64 = 1 << 38;
/// That this host opened the connection, if [`Flow::opened`] says that it was opened.
pub const OPENED_BY_TRANSMIT: u64 = 1 << 39;
/// That it is a connection whose beginning was counted.
pub const BEGUN: u64 = 1 << 56;
/// That the side that asks has sent a datagram of [`FULL_DATAGRAM`] bytes: it is then of no use to who wants more sent to another
/// than it sends itself. QUIC always begins so (RFC 9000 section 14.1).
pub const FULL: u64 = 1 << 57;
/// See [`FULL`]; bytes of the datagram's payload.
pub const FULL_DATAGRAM: u32 = 1_200;
/// Where the protocol stands that was found in what was received, plus one; 8 bits further on that of what was transmitted.
const PROTOCOL_SHIFT: usize = 40;
/// Bit of [`Flow::seen`] of a flow that is not established: it has moved to the flow table.
const MOVED: u64 = 1 << 63;

/// How much a server may send before its client has said more than that it is there: a window without scaling.
const FIRST_WINDOW: u32 = 1 << 16;

/// How many requests of a flow can wait for their answers at once and be timed all.
pub const PENDING: usize = 4;

/// What tells one flow from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// This host's end: the receiver of what is received, the sender of what is transmitted. IPv4 is mapped into IPv6.
    pub local: Address,
    /// The other end.
    pub remote: Address,
    /// Index of the interface.
    pub interface: u32,
    /// This host's port, or 0 where the protocol has none; in the byte order of the host.
    pub local_port: u16,
    /// The other end's port, likewise.
    pub remote_port: u16,
    /// The protocol above IP, see [`protocol`]. (In 4 bytes: the kernel hashes words faster.)
    pub protocol: u32,
}

#[cfg(feature = "user")]
// SAFETY: integers without padding between them, every bit pattern is valid.
unsafe impl aya::Pod for FlowKey {}

const _: () = assert!(size_of::<FlowKey>() == 44 && align_of::<FlowKey>() == 4);

impl FlowKey {
    /// The flow of `packet`, which was read from `frame` and goes in `direction` over `interface`; `None` if the frame is
    /// another, shorter one.
    #[inline(always)]
    pub fn of<F: Frame + ?Sized>(packet: &Packet, frame: &F, direction: Direction, interface: u32) -> Option<Self> {
        let (source, destination) = (packet.source_address(frame)?, packet.destination_address(frame)?);
        let (source_port, destination_port) = (packet.source_port, packet.destination_port);
        let (local, remote, local_port, remote_port) = match direction {
            Direction::Receive => (destination, source, destination_port, source_port),
            Direction::Transmit => (source, destination, source_port, destination_port),
        };
        let protocol = packet.protocol.into();
        Some(Self { local, remote, interface, local_port, remote_port, protocol })
    }
}

/// What passed between the two ends of a flow.
///
/// Every CPU writes to it, so what is counted, `seen` and whatever must happen exactly once are changed by atomic instructions
/// alone. The rest is not: two CPUs that write `last` at once write the same tick, or nearly so.
///
/// The time of the last packet is written with each of them, so it is in ticks of the kernel, which cost next to nothing
/// to read. Ticks and clocks drift apart, if slowly; so that of the first one, which may be long ago, is the clock's.
///
/// What nearly every packet needs comes first, so that it lies in one or two lines of the CPU's cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// Packets and bytes that were counted last, by [`Direction::index`]: see [`Flow::counters`].
    recent: [Recent; Direction::COUNT],
    /// When its last packet passed, in ticks of the kernel (`jiffies`).
    pub last: u64,
    /// What was seen of it beside: see [`Flow::tcp_flags`], [`ENDED`] and the others.
    pub seen: u64,
    /// How many requests there were, in the lower half, and how many of them were answered, in the upper.
    pub(crate) turns: u64,
    /// The API that it belongs to.
    pub api: ApiSlot,
    /// Pads to 4 bytes.
    reserved: u16,
    /// How often the times of `pending` had gone round when they were taken: see [`crate::turn`].
    pub(crate) rounds: [u8; PENDING],
    /// What was counted before `recent`.
    earlier: [Counters; Direction::COUNT],
    /// Requests that wait for their answers: see [`crate::turn`].
    pub(crate) pending: [u64; PENDING],
    /// When its first packet passed, in nanoseconds of the kernel's monotonic clock, as of the tick before.
    pub first: u64,
    /// When the segment passed that opened the connection, in nanoseconds of the kernel's monotonic clock; 0 if it was not
    /// seen.
    pub opened: u64,
    /// How long its handshake took, in nanoseconds; 0 if that was not seen.
    pub handshake: u64,
    /// How long answers took, all added up, in nanoseconds.
    pub response_time: u64,
    /// How many answers there are in that.
    pub responses: u64,
    /// Segments that this host's TCP has sent again.
    pub retransmitted: u64,
    /// What of `wire` userspace was told of while the flow goes on, by [`Direction::index`]: see [`Flow::tell`].
    told: [Counters; Direction::COUNT],
    /// The tick when that was, or when the flow began.
    pub told_at: u64,
    /// The sequence number that opened the connection.
    pub(crate) opening: u32,
    /// The sequence number behind the last request, which the next does not come before; of one that was seen to begin, that
    /// behind its first byte.
    pub(crate) asked: u32,
    /// The sequence number that the next answer does not come before: likewise.
    pub(crate) floor: u32,
    /// The sequence number up to which the answering side has received the request.
    pub(crate) acknowledged: u32,
}

#[cfg(feature = "user")]
// SAFETY: integers without padding between them, every bit pattern is valid.
unsafe impl aya::Pod for Flow {}

const _: () = assert!(size_of::<Flow>() == 216 && align_of::<Flow>() == 8);

/// Packets and bytes in one word, so that one atomic instruction counts both: they are half of what a flow costs.
///
/// Bytes are in the lower 40 bits, packets above. Before either is full, what was counted is added to the flow's earlier
/// counters; the upper half of each range is room for those who count meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
struct Recent(u64);

impl Recent {
    const BYTES_BITS: u32 = 40;
    /// The highest bit of each.
    const HALF_FULL: u64 = 1 << 63 | 1 << (Self::BYTES_BITS - 1);

    #[inline(always)]
    const fn of(wire: Wire) -> u64 {
        wire.packets << Self::BYTES_BITS | wire.bytes
    }

    #[inline(always)]
    const fn counters(self) -> Counters {
        Counters { packets: self.0 >> Self::BYTES_BITS, bytes: self.0 & ((1 << Self::BYTES_BITS) - 1) }
    }
}

impl Flow {
    const WORDS: usize = size_of::<Self>() / size_of::<u64>();

    /// A flow without a packet yet.
    #[must_use]
    #[inline(always)]
    pub const fn new(api: ApiSlot, first: u64, tick: u64) -> Self {
        let none = Counters { packets: 0, bytes: 0 };
        Self {
            recent: [Recent(0); 2],
            last: tick,
            seen: 0,
            turns: 0,
            api,
            reserved: 0,
            rounds: [0; PENDING],
            earlier: [none; 2],
            pending: [0; PENDING],
            first,
            opened: 0,
            handshake: 0,
            response_time: 0,
            responses: 0,
            retransmitted: 0,
            told: [none; 2],
            told_at: tick,
            opening: 0,
            asked: 0,
            floor: 0,
            acknowledged: 0,
        }
    }

    /// Forgets what was counted and seen, and nothing else: in a copy of a flow, for that has to be moved to it, see
    /// [`Flow::move_counters`].
    #[inline(always)]
    pub const fn uncount(&mut self) {
        self.recent = [Recent(0); Direction::COUNT];
        self.earlier = [Counters { packets: 0, bytes: 0 }; Direction::COUNT];
        self.response_time = 0;
        self.responses = 0;
        self.retransmitted = 0;
        self.seen = 0;
    }

    /// Packets and bytes on the wire, by [`Direction::index`].
    #[must_use]
    pub fn wire(&self) -> [Counters; Direction::COUNT] {
        Direction::ALL.map(|direction| self.counters(direction))
    }

    /// Packets and bytes on the wire that went in `direction`.
    #[inline(always)]
    #[must_use]
    pub const fn counters(&self, direction: Direction) -> Counters {
        let earlier = self.earlier[direction.index()];
        let recent = self.recent[direction.index()].counters();
        Counters { packets: earlier.packets + recent.packets, bytes: earlier.bytes + recent.bytes }
    }

    /// The bits of [`Flow::seen`] that `packet` sets when it goes in `direction`.
    #[inline(always)]
    #[must_use]
    pub const fn bits(packet: &Packet, direction: Direction) -> u64 {
        let payload = if packet.payload > 0 { PAYLOAD } else { 0 };
        let flags = packet.tcp_flags;
        let tcp = if packet.protocol == protocol::TCP {
            let plain = if flags & (tcp_flag::SYN | tcp_flag::RST) == 0 { PLAIN } else { 0 };
            let no_reset = if flags & tcp_flag::RST == 0 { NO_RESET } else { 0 };
            flags as u64 | plain | no_reset
        } else {
            0
        };
        (tcp | payload) << (direction.index() * SEEN_BITS)
    }

    /// Whether `seen` says one of `bits` of `direction`.
    #[inline(always)]
    #[must_use]
    pub const fn says(seen: u64, direction: Direction, bits: u64) -> bool {
        seen >> (direction.index() * SEEN_BITS) & bits != 0
    }

    /// `seen` without `bits` of `direction`.
    #[inline(always)]
    #[must_use]
    pub const fn without(seen: u64, direction: Direction, bits: u64) -> u64 {
        seen & !(bits << (direction.index() * SEEN_BITS))
    }

    /// Whether `seen` says that the side that does not send in `direction` has sent anything but a refusal.
    #[inline(always)]
    #[must_use]
    pub const fn is_answered(seen: u64, direction: Direction) -> bool {
        Self::says(seen, direction.opposite(), NO_RESET)
    }

    /// Whether `seen` says that both sides talk: the one that sends in `direction` has done more than to open a connection, and is
    /// answered. Of a connection that was seen to open, who only pretends to be at an address does not get so far.
    #[inline(always)]
    #[must_use]
    pub const fn is_mutual(seen: u64, direction: Direction) -> bool {
        Self::says(seen, direction, PLAIN) && Self::is_answered(seen, direction)
    }

    const fn has_seen(&self, direction: Direction, bits: u64) -> bool {
        Self::says(self.seen, direction, bits)
    }

    /// The bits of [`Flow::seen`] that say what the payload of `direction` looks like: a [`Protocol`], as its number.
    #[inline(always)]
    #[must_use]
    pub const fn protocol_bits(direction: Direction, protocol: u8) -> u64 {
        (protocol as u64 + 1) << (PROTOCOL_SHIFT + direction.index() * 8)
    }

    /// What the payload of `direction` looks like; `None` if there was none yet.
    #[must_use]
    pub const fn protocol_of(&self, direction: Direction) -> Option<Protocol> {
        match (self.seen >> (PROTOCOL_SHIFT + direction.index() * 8)) as u8 {
            0 => None,
            found => Protocol::from_index(found - 1),
        }
    }

    /// What the payload looks like: what is known of either direction.
    #[must_use]
    pub fn application(&self) -> Protocol {
        let known = Direction::ALL.into_iter().filter_map(|direction| self.protocol_of(direction));
        known.max().unwrap_or_default()
    }

    /// Which way the segment went that opened the connection; `None` if it was not seen.
    #[inline(always)]
    #[must_use]
    pub const fn opened_by(&self) -> Option<Direction> {
        if self.opened == 0 {
            None
        } else if self.seen & OPENED_BY_TRANSMIT != 0 {
            Some(Direction::Transmit)
        } else {
            Some(Direction::Receive)
        }
    }

    /// The TCP flags of all segments that went in `direction`, see [`tcp_flag`].
    #[must_use]
    pub const fn tcp_flags(&self, direction: Direction) -> u8 {
        (self.seen >> (direction.index() * SEEN_BITS)) as u8
    }

    /// Whether there is a conversation, rather than somebody who sent packets.
    ///
    /// TCP: one side has sent a segment that is neither the opening nor the refusal of a connection, and the other has
    /// sent anything but a refusal; that is the third segment of a handshake. So neither a flood of SYN nor a scan makes an
    /// established flow, whatever it is answered with. Others: both sides have sent something. And in any case a flow of
    /// [`ONE_WAY_PACKETS`] in one direction, for TCP with at least one such segment: there are hosts that see one side only.
    #[inline(always)]
    #[must_use]
    pub const fn is_established(&self, protocol: u32) -> bool {
        use Direction::{Receive, Transmit};
        let [receive, transmit] = [self.counters(Receive).packets, self.counters(Transmit).packets];
        let is_steady = receive >= ONE_WAY_PACKETS || transmit >= ONE_WAY_PACKETS;
        if protocol != protocol::TCP as u32 {
            return is_steady || (receive > 0 && transmit > 0);
        }
        let is_plain = self.has_seen(Receive, PLAIN) || self.has_seen(Transmit, PLAIN);
        let is_answered = (self.has_seen(Receive, PLAIN) && self.has_seen(Transmit, NO_RESET))
            || (self.has_seen(Transmit, PLAIN) && self.has_seen(Receive, NO_RESET));
        is_answered || (is_plain && is_steady)
    }

    /// Counts one socket buffer that passed at `tick` and has `bits` ([`Flow::bits`]). Answers with those of `bits`
    /// that are new: each is to one caller alone.
    ///
    /// # Safety
    /// `flow` must point to a flow that may be written to, and that whatever is not a method of this type writes to as these
    /// do.
    #[inline(always)]
    pub unsafe fn count(flow: *mut Self, direction: Direction, wire: Wire, bits: u64, tick: u64) -> u64 {
        // SAFETY: the caller's; the fields are aligned.
        unsafe {
            let recent = (&raw mut (*flow).recent[direction.index()]).cast();
            if atomic::fetch_add(recent, Recent::of(wire)) & Recent::HALF_FULL != 0 {
                Self::settle(recent, &raw mut (*flow).earlier[direction.index()]);
            }
            let last = &raw mut (*flow).last;
            if last.read_volatile() < tick {
                last.write_volatile(tick);
            }
            Self::note(flow, bits)
        }
    }

    /// Whether nothing was counted in it yet, nor taken out of it: it is as it was made.
    ///
    /// # Safety
    /// As for [`Flow::count`].
    #[inline(always)]
    #[must_use]
    pub unsafe fn is_untouched(flow: *const Self) -> bool {
        // SAFETY: as in `count`.
        unsafe {
            let [receive, transmit] = [&raw const (*flow).recent[0], &raw const (*flow).recent[1]];
            (&raw const (*flow).seen).read_volatile() == 0
                && receive.read_volatile().0 == 0
                && transmit.read_volatile().0 == 0
        }
    }

    /// Sets `bits` of [`Flow::seen`]. Answers with those that are new: each is to one caller alone.
    ///
    /// # Safety
    /// As for [`Flow::count`].
    #[inline(always)]
    pub unsafe fn note(flow: *mut Self, bits: u64) -> u64 {
        // Nearly always they are all set, and an atomic instruction costs more than a look.
        // SAFETY: as in `count`.
        unsafe {
            if (&raw const (*flow).seen).read_volatile() & bits == bits {
                return 0;
            }
            bits & !atomic::fetch_or(&raw mut (*flow).seen, bits)
        }
    }

    /// Forgets that there was any payload in `direction`: the next one is taken for the first.
    ///
    /// # Safety
    /// As for [`Flow::count`].
    #[inline(always)]
    pub unsafe fn forget_payload(flow: *mut Self, direction: Direction) {
        // SAFETY: the caller's.
        unsafe { atomic::fetch_and(&raw mut (*flow).seen, !(PAYLOAD << (direction.index() * SEEN_BITS))) };
    }

    /// Writes a flow without a packet yet, as [`Flow::new`] has it, to its place. (A flow takes a third of the stack that BPF
    /// programs have.)
    ///
    /// # Safety
    /// `flow` must point to what may be written to.
    #[inline(always)]
    pub unsafe fn write_new(flow: *mut Self, api: ApiSlot, first: u64, tick: u64) {
        // SAFETY: the caller's; all fields are integers, for which zeros are fine.
        unsafe {
            for word in 0..Self::WORDS {
                flow.cast::<u64>().add(word).write_volatile(0);
            }
            (*flow).last = tick;
            (*flow).told_at = tick;
            (*flow).first = first;
            (*flow).api = api;
        }
    }

    /// Copies a flow, which others may be writing to, word by word, for the same reason.
    ///
    /// # Safety
    /// `from` must point to a flow, `to` to what may be written to.
    #[inline(always)]
    pub unsafe fn copy(from: *const Self, to: *mut Self) {
        // From the end: what is on its way from what was counted last to what was counted earlier is then missing, rather than
        // there twice.
        for word in (0..Self::WORDS).rev() {
            // SAFETY: the caller's; the words are aligned.
            unsafe { to.cast::<u64>().add(word).write_volatile(from.cast::<u64>().add(word).read_volatile()) };
        }
    }

    /// Takes note of a packet that passed at `first`: captures need not be in order.
    ///
    /// # Safety
    /// As for [`Flow::count`].
    #[inline(always)]
    pub unsafe fn begin_no_later(flow: *mut Self, first: u64) {
        // SAFETY: as in `count`.
        unsafe {
            let place = &raw mut (*flow).first;
            if first < place.read_volatile() {
                place.write_volatile(first);
            }
        }
    }

    /// Moves what `recent` holds to `to`.
    ///
    /// # Safety
    /// As for [`Flow::count`]: both are parts of flows.
    #[inline(always)]
    unsafe fn settle(recent: *mut u64, to: *mut Counters) {
        // SAFETY: the caller's.
        unsafe {
            let Counters { packets, bytes } = Recent(atomic::swap(recent, 0)).counters();
            atomic::add(&raw mut (*to).packets, packets);
            atomic::add(&raw mut (*to).bytes, bytes);
        }
    }

    /// Moves all that was counted in `from` to `to`, whatever other CPUs do to both.
    ///
    /// # Safety
    /// As for [`Flow::count`], for both.
    #[inline(always)]
    pub unsafe fn move_counters(from: *mut Self, to: *mut Self) {
        // SAFETY: as in `count`.
        unsafe {
            for place in [0, 1] {
                let to = &raw mut (*to).earlier[place];
                Self::settle((&raw mut (*from).recent[place]).cast(), to);
                let from = &raw mut (*from).earlier[place];
                atomic::add(&raw mut (*to).packets, atomic::swap(&raw mut (*from).packets, 0));
                atomic::add(&raw mut (*to).bytes, atomic::swap(&raw mut (*from).bytes, 0));
            }
            for (from, to) in [
                (&raw mut (*from).response_time, &raw mut (*to).response_time),
                (&raw mut (*from).responses, &raw mut (*to).responses),
                (&raw mut (*from).retransmitted, &raw mut (*to).retransmitted),
            ] {
                let value = atomic::swap(from, 0);
                if value != 0 {
                    atomic::add(to, value);
                }
            }
            let seen = (&raw const (*from).seen).read_volatile() & !MOVED;
            atomic::fetch_or(&raw mut (*to).seen, seen);
        }
    }

    /// Takes all that was counted out of the flow; answers with how much it was, both directions together.
    ///
    /// # Safety
    /// As for [`Flow::count`].
    #[inline(always)]
    #[must_use]
    pub unsafe fn take_counters(flow: *mut Self) -> Counters {
        let mut taken = Counters { packets: 0, bytes: 0 };
        for place in [0, 1] {
            // SAFETY: as in `count`.
            unsafe {
                let recent = Recent(atomic::swap((&raw mut (*flow).recent[place]).cast(), 0)).counters();
                let earlier = &raw mut (*flow).earlier[place];
                taken.packets += recent.packets + atomic::swap(&raw mut (*earlier).packets, 0);
                taken.bytes += recent.bytes + atomic::swap(&raw mut (*earlier).bytes, 0);
            }
        }
        taken
    }

    /// Moves all that was counted into a copy, which is this flow as it ended; in the flow itself nothing is left of it.
    ///
    /// # Safety
    /// As for [`Flow::count`], for both.
    #[inline(always)]
    pub unsafe fn take(flow: *mut Self, copy: *mut Self) {
        // SAFETY: as in `count`; the copy may be of two moments, so what was counted is moved.
        unsafe {
            Self::copy(flow, copy);
            (*copy).uncount();
            Self::move_counters(flow, copy);
            for told in [&raw mut (*flow).told[0], &raw mut (*flow).told[1]] {
                (&raw mut (*told).packets).write_volatile(0);
                (&raw mut (*told).bytes).write_volatile(0);
            }
        }
    }

    /// Whether the flow has moved to the flow table. Nothing that this CPU counted before is later than the answer.
    ///
    /// # Safety
    /// As for [`Flow::count`].
    #[inline(always)]
    #[must_use]
    pub unsafe fn has_moved(flow: *mut Self) -> bool {
        // It changes nothing, but a plain read would not be ordered.
        // SAFETY: as in `count`.
        unsafe { atomic::fetch_or(&raw mut (*flow).seen, 0) & MOVED != 0 }
    }

    /// Says that the flow has moved to the flow table.
    ///
    /// # Safety
    /// As for [`Flow::count`].
    #[inline(always)]
    pub unsafe fn set_moved(flow: *mut Self) {
        // SAFETY: as in `count`.
        unsafe { atomic::fetch_or(&raw mut (*flow).seen, MOVED) };
    }

    /// Makes the flow one that has not moved, and that began with a packet that passed at `first` and has `bits`. Whether that
    /// packet was counted before makes no difference: what was counted stays.
    ///
    /// # Safety
    /// As for [`Flow::count`].
    #[inline(always)]
    pub unsafe fn begin_anew(flow: *mut Self, bits: u64, first: u64) {
        // SAFETY: as in `count`.
        unsafe {
            (&raw mut (*flow).first).write_volatile(first);
            (&raw mut (*flow).opened).write_volatile(0);
            (&raw mut (*flow).handshake).write_volatile(0);
            for place in 0..PENDING {
                (&raw mut (*flow).pending[place]).write_volatile(0);
            }
            atomic::swap(&raw mut (*flow).turns, 0);
            atomic::swap(&raw mut (*flow).seen, bits);
        }
    }

    /// Takes note that the segment that opens the connection passed in `direction` at `time`, and has the number `sequence`.
    /// Says whether it is new, rather than sent again.
    ///
    /// # Safety
    /// As for [`Flow::count`].
    #[inline(always)]
    pub unsafe fn open(flow: *mut Self, direction: Direction, sequence: u32, time: impl Fn() -> u64) -> bool {
        // SAFETY: as in `count`.
        unsafe {
            if Self::is_opened_by(flow, sequence) {
                return false;
            }
            (&raw mut (*flow).opening).write_volatile(sequence);
            (&raw mut (*flow).opened).write_volatile(time());
            if let Direction::Transmit = direction {
                atomic::fetch_or(&raw mut (*flow).seen, OPENED_BY_TRANSMIT);
            }
            true
        }
    }

    /// Takes note that the opening of the connection was answered by a segment with the number `sequence`.
    ///
    /// # Safety
    /// As for [`Flow::count`].
    #[inline(always)]
    pub unsafe fn answer_opening(flow: *mut Self, sequence: u32) {
        // SAFETY: as in `count`.
        unsafe { (&raw mut (*flow).floor).write_volatile(sequence.wrapping_add(1)) };
    }

    /// Whether `acknowledgement` is of the answer to the opening of the connection, or of what may have followed it by now: who
    /// only pretends to be at an address has not seen that, and would have to guess.
    ///
    /// # Safety
    /// As for [`Flow::count`].
    #[inline(always)]
    #[must_use]
    pub unsafe fn acknowledges_answer(flow: *const Self, acknowledgement: u32) -> bool {
        // SAFETY: as in `count`.
        acknowledgement.wrapping_sub(unsafe { (&raw const (*flow).floor).read_volatile() }) < FIRST_WINDOW
    }

    /// Whether the connection was opened by the segment with the number `sequence`.
    ///
    /// # Safety
    /// As for [`Flow::count`].
    #[inline(always)]
    #[must_use]
    pub unsafe fn is_opened_by(flow: *const Self, sequence: u32) -> bool {
        // SAFETY: as in `count`.
        unsafe {
            (&raw const (*flow).opened).read_volatile() != 0 && (&raw const (*flow).opening).read_volatile() == sequence
        }
    }

    /// Packets and bytes of which userspace was not told while the flow went on, by [`Direction::index`].
    #[must_use]
    pub fn untold(&self) -> [Counters; Direction::COUNT] {
        Direction::ALL.map(|direction| self.counters(direction) - self.told[direction.index()])
    }

    /// Copies a flow that goes on, so that userspace can be told of it, and takes note of what that is. Says whether it could:
    /// a copy is of several moments, and may lack what was on its way from one counter to another.
    ///
    /// # Safety
    /// As for [`Flow::copy`], and nobody else may do the same at the same time.
    #[inline(always)]
    pub unsafe fn tell(flow: *mut Self, copy: *mut Self, tick: u64) -> bool {
        // SAFETY: the caller's, and as in `count`.
        unsafe {
            Self::copy(flow, copy);
            for direction in [Direction::Receive, Direction::Transmit] {
                let (now, before) = ((*copy).counters(direction), (*copy).told[direction.index()]);
                if now.packets < before.packets || now.bytes < before.bytes {
                    return false;
                }
            }
            for direction in [Direction::Receive, Direction::Transmit] {
                let (now, told) = ((*copy).counters(direction), &raw mut (*flow).told[direction.index()]);
                (&raw mut (*told).packets).write_volatile(now.packets);
                (&raw mut (*told).bytes).write_volatile(now.bytes);
            }
            (&raw mut (*flow).told_at).write_volatile(tick);
            true
        }
    }

    /// Adds what was counted of the same flow elsewhere.
    pub fn merge(&mut self, other: &Self) {
        for direction in Direction::ALL {
            self.earlier[direction.index()] += other.counters(direction);
        }
        self.seen |= other.seen & !MOVED;
        self.response_time += other.response_time;
        self.responses += other.responses;
        self.retransmitted += other.retransmitted;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}
