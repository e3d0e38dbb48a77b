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
    wire::Wire,
};

/// How many established flows there can be unless somebody says otherwise.
pub const DEFAULT_CAPACITY: u32 = 1 << 18;

/// How many packets make a flow that is only ever seen in one direction an established one.
pub const ONE_WAY_PACKETS: u64 = 8;

/// What [`Flow::seen`] says of one direction: the TCP flags of all its segments in the lowest 8 bits, and whether there was
/// a segment without SYN and RST.
const PLAIN: u64 = 1 << 8;
/// And whether there was a segment without RST.
const NO_RESET: u64 = 1 << 9;
/// Bits that [`Flow::seen`] has for each direction.
const SEEN_BITS: usize = 16;
/// Bit of [`Flow::seen`] of a flow that is not established: it has moved to the flow table.
const MOVED: u64 = 1 << 63;

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
/// Every CPU writes to it, so packets, bytes and `seen` are changed by atomic instructions alone. The times are not: two
/// CPUs that write `last` at once write the same tick, or nearly so.
///
/// The time of the last packet is written with each of them, so it is in ticks of the kernel, which cost next to nothing
/// to read. Ticks and clocks drift apart, if slowly; so that of the first one, which may be long ago, is the clock's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// Packets and bytes that were counted last, by [`Direction::index`]: see [`Flow::counters`].
    recent: [Recent; Direction::COUNT],
    /// What was counted before those.
    earlier: [Counters; Direction::COUNT],
    /// When its first packet passed, in nanoseconds of the kernel's monotonic clock, as of the tick before.
    pub first: u64,
    /// When its last packet passed, in ticks of the kernel (`jiffies`).
    pub last: u64,
    /// What was seen of it beside: see [`Flow::tcp_flags`] and [`Flow::has_moved`].
    pub seen: u64,
    /// The API that it belongs to.
    pub api: ApiSlot,
    /// With the next, pads to 8 bytes, in pieces that BPF can write.
    reserved: u16,
    /// See `reserved`.
    reserved_word: u32,
}

#[cfg(feature = "user")]
// SAFETY: integers without padding between them, every bit pattern is valid.
unsafe impl aya::Pod for Flow {}

const _: () = assert!(size_of::<Flow>() == 80 && align_of::<Flow>() == 8);

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
    /// A flow without a packet yet.
    #[must_use]
    #[inline(always)]
    pub const fn new(api: ApiSlot, first: u64, tick: u64) -> Self {
        let none = Counters { packets: 0, bytes: 0 };
        let (recent, earlier) = ([Recent(0); 2], [none; 2]);
        Self { recent, earlier, first, last: tick, seen: 0, api, reserved: 0, reserved_word: 0 }
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
        if packet.protocol != protocol::TCP {
            return 0;
        }
        let flags = packet.tcp_flags;
        let plain = if flags & (tcp_flag::SYN | tcp_flag::RST) == 0 { PLAIN } else { 0 };
        let no_reset = if flags & tcp_flag::RST == 0 { NO_RESET } else { 0 };
        (flags as u64 | plain | no_reset) << (direction.index() * SEEN_BITS)
    }

    const fn has_seen(&self, direction: Direction, bits: u64) -> bool {
        self.seen >> (direction.index() * SEEN_BITS) & bits != 0
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

    /// Counts one socket buffer of `api` that passed at `tick` and has `bits` ([`Flow::bits`]).
    ///
    /// # Safety
    /// `flow` must point to a flow that may be written to, and that whatever is not a method of this type writes to as these
    /// do.
    #[inline(always)]
    pub unsafe fn count(flow: *mut Self, api: ApiSlot, direction: Direction, wire: Wire, bits: u64, tick: u64) {
        // SAFETY: the caller's; the fields are aligned.
        unsafe {
            let recent = (&raw mut (*flow).recent[direction.index()]).cast();
            if atomic::fetch_add(recent, Recent::of(wire)) & Recent::HALF_FULL != 0 {
                Self::settle(recent, &raw mut (*flow).earlier[direction.index()]);
            }
            // Nearly always they are all set, and an atomic instruction costs more than a look.
            if (&raw const (*flow).seen).read_volatile() & bits != bits {
                atomic::fetch_or(&raw mut (*flow).seen, bits);
            }
            let last = &raw mut (*flow).last;
            if last.read_volatile() < tick {
                last.write_volatile(tick);
            }
            // Ports may change hands while a flow lasts.
            let place = &raw mut (*flow).api;
            if place.read_volatile() != api {
                place.write_volatile(api);
            }
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
            let seen = (&raw const (*from).seen).read_volatile() & !MOVED;
            atomic::fetch_or(&raw mut (*to).seen, seen);
        }
    }

    /// Takes all packets that were counted out of the flow; answers with how many there were.
    ///
    /// # Safety
    /// As for [`Flow::count`].
    #[inline(always)]
    #[must_use]
    pub unsafe fn take_packets(flow: *mut Self) -> u64 {
        let mut packets = 0;
        for place in [0, 1] {
            // SAFETY: as in `count`.
            unsafe {
                packets += Recent(atomic::swap((&raw mut (*flow).recent[place]).cast(), 0)).counters().packets;
                let earlier = &raw mut (*flow).earlier[place];
                packets += atomic::swap(&raw mut (*earlier).packets, 0);
                atomic::swap(&raw mut (*earlier).bytes, 0);
            }
        }
        packets
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

    /// Makes the flow one that has not moved, and that began with a packet that passed at `first` and has `bits`. That packet
    /// was counted before.
    ///
    /// # Safety
    /// As for [`Flow::count`].
    #[inline(always)]
    pub unsafe fn begin_anew(flow: *mut Self, bits: u64, first: u64) {
        // SAFETY: as in `count`.
        unsafe {
            (&raw mut (*flow).first).write_volatile(first);
            atomic::swap(&raw mut (*flow).seen, bits);
        }
    }

    /// Adds what was counted of the same flow elsewhere.
    pub fn merge(&mut self, other: &Self) {
        for direction in Direction::ALL {
            self.earlier[direction.index()] += other.counters(direction);
        }
        self.seen |= other.seen & !MOVED;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}
