//! What is counted for each network interface.

use crate::{counters::Counters, direction::Direction, frame::Framing, reason::Reason, wire::Wire};

/// Index of the loopback interface, the same in every network namespace (`LOOPBACK_IFINDEX`, `include/net/flow.h`).
pub const LOOPBACK_INDEX: u32 = 1;

/// The most interfaces that are counted at a time, [`InterfaceSlot::GONE`] included. Each takes the size of
/// [`InterfaceCounters`] on each CPU.
pub const MAX_INTERFACES: u16 = 256;

/// Entries of the table that finds the slot of an interface; a power of two, and far more than [`MAX_INTERFACES`].
pub const INTERFACE_TABLE_ENTRIES: u32 = 4096;

/// How many entries of that table are looked at, from the interface's own place on, before it is taken for unknown.
pub const INTERFACE_TABLE_PROBES: u32 = 8;

/// The place of an interface in the table of counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct InterfaceSlot(pub u16);

impl InterfaceSlot {
    /// Where the packets of an interface without a slot of its own are counted. It is 0, so an empty table has none.
    pub const GONE: Self = Self(0);
}

/// An entry of the table that finds the slot of an interface.
///
/// Interface indexes grow without bound while interfaces come and go, so the table is indexed by their low bits and
/// holds the whole index beside the slot; who finds his place taken has the next one. A hash map would do the same for
/// 20 ns more a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct InterfaceEntry {
    /// The interface's index; 0 where the entry is free, as no interface has it.
    pub index: u32,
    /// The interface's slot.
    pub slot: u16,
    /// A [`Framing`], as its number: what the interface's frames begin with.
    pub framing: u8,
    /// What of the guard there is to be done for what the interface receives, see [`guarded`].
    pub guarded: u8,
}

/// What of the guard there is to be done for what an interface receives, when it is a socket buffer: bits.
pub mod guarded {
    /// All of it: nobody has judged it as a frame.
    pub const BUFFERS: u8 = 1;
    /// What cannot be done to frames: to mark it.
    pub const MARKS: u8 = 1 << 1;
    /// To judge requests and payload.
    pub const PAYLOAD: u8 = 1 << 2;
}

#[cfg(feature = "user")]
// SAFETY: integers without padding between them, every bit pattern is valid.
unsafe impl aya::Pod for InterfaceEntry {}

impl InterfaceEntry {
    /// What holds for an interface that is not in the table.
    pub const GONE: Self = Self { index: 0, slot: InterfaceSlot::GONE.0, framing: Framing::Ethernet as u8, guarded: 0 };
}

const _: () = assert!(size_of::<InterfaceEntry>() == 8 && INTERFACE_TABLE_ENTRIES.is_power_of_two());

/// The places in the table where the interface with `index` may stand, in the order in which they are tried.
#[inline(always)]
pub fn interface_places(index: u32) -> impl Iterator<Item = u32> {
    (0..INTERFACE_TABLE_PROBES).map(move |probe| index.wrapping_add(probe) % INTERFACE_TABLE_ENTRIES)
}

/// All that the programs saw on one interface in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct InterfaceTotals {
    /// Wire packets and wire bytes.
    pub wire: Counters,
    /// Socket buffers: a super-packet is one.
    pub buffers: u64,
}

const _: () = assert!(size_of::<InterfaceTotals>() == 24);

/// The counters of one interface: its totals, and what of them was counted for no API, by direction and reason.
///
/// Both stand in one place, but each is added to on its own: the totals before it is known whose a packet is, the
/// reasons only after it was found to belong to no API. That is what makes their identity worth checking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct InterfaceCounters {
    /// All that was seen, by [`Direction::index`].
    pub totals: [InterfaceTotals; Direction::COUNT],
    /// What was counted for no API, by [`Direction::index`] and [`Reason::index`].
    pub uncounted: [[Counters; Reason::COUNT]; Direction::COUNT],
}

#[cfg(feature = "user")]
// SAFETY: made of `u64` alone, no padding, every bit pattern is valid.
unsafe impl aya::Pod for InterfaceCounters {}

const _: () = assert!(size_of::<InterfaceCounters>() == Direction::COUNT * (24 + Reason::COUNT * 16));

impl Default for InterfaceCounters {
    fn default() -> Self {
        Self { totals: Default::default(), uncounted: [[Counters::default(); Reason::COUNT]; Direction::COUNT] }
    }
}

impl InterfaceCounters {
    /// Counts one socket buffer as seen.
    #[inline(always)]
    pub fn see(&mut self, direction: Direction, wire: Wire) {
        let totals = &mut self.totals[direction.index()];
        totals.wire.count(wire);
        totals.buffers += 1;
    }

    /// Counts one socket buffer under the reason why it belongs to no API.
    #[inline(always)]
    pub fn leave_uncounted(&mut self, direction: Direction, reason: Reason, wire: Wire) {
        self.uncounted[direction.index()][reason.index()].count(wire);
    }
}

impl core::ops::AddAssign<&Self> for InterfaceCounters {
    fn add_assign(&mut self, other: &Self) {
        for direction in Direction::ALL.map(Direction::index) {
            let totals = other.totals[direction];
            self.totals[direction].wire += totals.wire;
            self.totals[direction].buffers += totals.buffers;
            for (mine, theirs) in self.uncounted[direction].iter_mut().zip(other.uncounted[direction]) {
                *mine += theirs;
            }
        }
    }
}

impl core::ops::Sub for InterfaceCounters {
    type Output = Self;

    /// What was counted since `before`.
    fn sub(mut self, before: Self) -> Self {
        for direction in Direction::ALL.map(Direction::index) {
            let (totals, then) = (&mut self.totals[direction], before.totals[direction]);
            totals.wire = totals.wire - then.wire;
            totals.buffers = totals.buffers.saturating_sub(then.buffers);
            for (mine, then) in self.uncounted[direction].iter_mut().zip(before.uncounted[direction]) {
                *mine = *mine - then;
            }
        }
        self
    }
}
