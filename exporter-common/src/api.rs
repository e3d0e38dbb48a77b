//! Which API a packet belongs to.
//!
//! The port table is an array indexed by transport and port: one load answers for nearly every packet. Only a port that
//! an API has claimed for some addresses needs a second look, in a table keyed by address too.

use crate::{
    address::Address, counters::Counters, direction::Direction, frame::Frame, packet::Packet, reason::Reason,
    role::Role, transport::Transport,
};

/// Ports of one transport.
const PORTS: u32 = 1 << 16;

/// Entries of the port table.
pub const PORT_TABLE_ENTRIES: u32 = Transport::COUNT as u32 * PORTS;

/// The most APIs there can be at a time, `unmapped` included.
pub const MAX_APIS: u16 = 1024;

/// The most bytes of an API's name.
pub const API_NAME_BYTES: usize = 400;

/// The most (transport, port, address) triples that APIs with addresses may claim; memory is taken for those in use.
pub const MAX_ADDRESS_ENTRIES: u32 = 1 << 18;

/// The place of an API in the tables: its slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct ApiSlot(pub u16);

impl ApiSlot {
    /// The slot of traffic that maps to no API. It is 0, so an empty port table maps nothing.
    pub const UNMAPPED: Self = Self(0);

    /// Whether this is the slot of an API, not of what maps to none.
    #[inline(always)]
    #[must_use]
    pub const fn is_mapped(self) -> bool {
        self.0 != Self::UNMAPPED.0
    }
}

/// What is counted for one API.
///
/// In the kernel each CPU has its own and is the only one to write it; userspace adds the CPUs up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ApiCounters {
    /// Packets and bytes on the wire, by [`Direction::index`].
    pub wire: [Counters; Direction::COUNT],
    /// Those of them that are part of no flow, because the flow table was full; both directions together.
    pub untracked: Counters,
}

#[cfg(feature = "user")]
// SAFETY: made of `u64` alone, no padding, every bit pattern is valid.
unsafe impl aya::Pod for ApiCounters {}

const _: () = assert!(size_of::<ApiCounters>() == 48);

impl core::ops::AddAssign<&Self> for ApiCounters {
    fn add_assign(&mut self, other: &Self) {
        let Self { wire, untracked } = other;
        for (mine, theirs) in self.wire.iter_mut().zip(wire) {
            *mine += *theirs;
        }
        self.untracked += *untracked;
    }
}

impl core::ops::Sub for ApiCounters {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        let [receive, transmit] = self.wire;
        let wire = [receive - before.wire[0], transmit - before.wire[1]];
        Self { wire, untracked: self.untracked - before.untracked }
    }
}

/// What the port table says of one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PortEntry {
    /// The API that this host serves at the port, whatever its address; [`ApiSlot::UNMAPPED`] if none.
    pub server: ApiSlot,
    /// The API that this host calls at the port, whatever the other's address; [`ApiSlot::UNMAPPED`] if none.
    pub client: ApiSlot,
    /// Bit 0: ask the address table first for servers; bit 1: for clients.
    pub by_address: u16,
    /// Pads the entry to 8 bytes, what an array's element takes in any case.
    pub reserved: u16,
}

#[cfg(feature = "user")]
// SAFETY: four `u16`, no padding, every bit pattern is valid.
unsafe impl aya::Pod for PortEntry {}

const _: () = assert!(size_of::<PortEntry>() == 8 && align_of::<PortEntry>() == 2);

impl PortEntry {
    /// A port that maps to nothing.
    pub const UNMAPPED: Self =
        Self { server: ApiSlot::UNMAPPED, client: ApiSlot::UNMAPPED, by_address: 0, reserved: 0 };

    /// The API of `role` at this port, whatever the address.
    #[inline(always)]
    #[must_use]
    pub const fn any_address(&self, role: Role) -> ApiSlot {
        match role {
            Role::Server => self.server,
            Role::Client => self.client,
        }
    }

    /// Makes `slot` the API of `role` at this port, whatever the address.
    pub const fn set_any_address(&mut self, role: Role, slot: ApiSlot) {
        match role {
            Role::Server => self.server = slot,
            Role::Client => self.client = slot,
        }
    }

    /// Has the address table asked first for APIs of `role` at this port.
    pub const fn set_by_address(&mut self, role: Role) {
        self.by_address |= 1 << role as u16;
    }

    #[inline(always)]
    const fn is_by_address(self, role: Role) -> bool {
        self.by_address & (1 << role as u16) != 0
    }
}

/// The place of `port` in the port table.
#[inline(always)]
#[must_use]
pub const fn port_index(transport: Transport, port: u16) -> u32 {
    transport as u32 * PORTS + port as u32
}

/// The transport and port whose place in the port table is `index`; `None` if that is beyond its end.
#[must_use]
pub fn port_at(index: u32) -> Option<(Transport, u16)> {
    let transport = Transport::ALL.into_iter().find(|transport| *transport as u32 == index / PORTS)?;
    Some((transport, (index % PORTS) as u16))
}

/// A key of the address table: the API's own end, which is the local one for a server and the remote one for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct AddressKey {
    /// The address, IPv4 mapped into IPv6.
    pub address: Address,
    /// The port, in the byte order of the host.
    pub port: u16,
    /// A [`Transport`], as its number.
    pub transport: u8,
    /// A [`Role`], as its number.
    pub role: u8,
}

#[cfg(feature = "user")]
// SAFETY: integers without padding between them, every bit pattern is valid.
unsafe impl aya::Pod for AddressKey {}

const _: () = assert!(size_of::<AddressKey>() == 20 && align_of::<AddressKey>() == 4);

/// The tables that say which API a port belongs to.
pub trait ApiTables {
    /// What the port table says of `port`; `None` if the table could not be read.
    fn port(&self, transport: Transport, port: u16) -> Option<PortEntry>;

    /// The API that claimed exactly `key`; `None` if none did.
    fn address(&self, key: &AddressKey) -> Option<ApiSlot>;
}

/// The API that a packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its slot; [`ApiSlot::UNMAPPED`] if there is none.
    pub slot: ApiSlot,
    /// Which end of it this host is; of no consequence if there is none.
    pub role: Role,
}

impl Owner {
    /// Of traffic that maps to no API.
    pub const NOBODY: Self = Self { slot: ApiSlot::UNMAPPED, role: Role::Server };
}

/// Finds the API that `packet`, read from `frame`, belongs to: [`ApiSlot::UNMAPPED`] if none claimed its ports.
///
/// On the `loopback` interface a packet is seen twice, leaving and arriving, with its ends exchanged; the sight that is not
/// the API's own is a mirror.
///
/// # Errors
/// [`Reason::Mirror`], or [`Reason::Internal`] if a table or the frame could not be read.
#[inline(always)]
pub fn attribute<F: Frame + ?Sized, T: ApiTables>(
    tables: &T,
    frame: &F,
    packet: &Packet,
    direction: Direction,
    loopback: bool,
) -> Result<Owner, Reason> {
    let Some(transport) = packet.transport else { return Ok(Owner::NOBODY) };
    let ends = PacketEnds { packet, frame, direction };
    let owner = find(tables, transport, &ends)?;
    if !owner.slot.is_mapped() && loopback {
        let is_mapped = |role, side| find_one(tables, transport, &ends, role, side).map(ApiSlot::is_mapped);
        if is_mapped(Role::Server, Side::Remote)? || is_mapped(Role::Client, Side::Local)? {
            return Err(Reason::Mirror);
        }
    }
    Ok(owner)
}

/// One side of traffic as this host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// This host's.
    Local,
    /// The other's.
    Remote,
}

/// Both ends of traffic, which say whose it is.
pub trait Ends {
    /// The port on `side`.
    fn port(&self, side: Side) -> u16;

    /// The address on `side`; `None` if it could not be read.
    fn address(&self, side: Side) -> Option<Address>;
}

/// Finds the API that traffic between `ends` belongs to: [`ApiSlot::UNMAPPED`] if none claimed their ports. A server at the
/// local port comes first, then a client of the remote one.
///
/// # Errors
/// [`Reason::Internal`] if a table or an address could not be read.
#[inline(always)]
pub fn find<T: ApiTables, E: Ends>(tables: &T, transport: Transport, ends: &E) -> Result<Owner, Reason> {
    let server = find_one(tables, transport, ends, Role::Server, Side::Local)?;
    if server.is_mapped() {
        return Ok(Owner { slot: server, role: Role::Server });
    }
    let client = find_one(tables, transport, ends, Role::Client, Side::Remote)?;
    Ok(if client.is_mapped() { Owner { slot: client, role: Role::Client } } else { Owner::NOBODY })
}

/// The API of `role` that claimed the end on `side`.
#[inline(always)]
fn find_one<T: ApiTables, E: Ends>(
    tables: &T,
    transport: Transport,
    ends: &E,
    role: Role,
    side: Side,
) -> Result<ApiSlot, Reason> {
    let port = ends.port(side);
    let entry = tables.port(transport, port).ok_or(Reason::Internal)?;
    if entry.is_by_address(role) {
        let address = ends.address(side).ok_or(Reason::Internal)?;
        let key = AddressKey { address, port, transport: transport as u8, role: role as u8 };
        if let Some(slot) = tables.address(&key) {
            return Ok(slot);
        }
    }
    Ok(entry.any_address(role))
}

/// The ends of a packet that goes in a direction.
#[derive(Clone, Copy, Debug)]
pub struct PacketEnds<'a, F: ?Sized> {
    /// The packet.
    pub packet: &'a Packet,
    /// What it was read from.
    pub frame: &'a F,
    /// Where it goes.
    pub direction: Direction,
}

impl<F: ?Sized> PacketEnds<'_, F> {
    /// Whether `side` has sent it: what this host transmits, it is the source of.
    #[inline(always)]
    fn is_source(&self, side: Side) -> bool {
        (self.direction == Direction::Transmit) == (side == Side::Local)
    }
}

impl<F: Frame + ?Sized> Ends for PacketEnds<'_, F> {
    #[inline(always)]
    fn port(&self, side: Side) -> u16 {
        if self.is_source(side) { self.packet.source_port } else { self.packet.destination_port }
    }

    #[inline(always)]
    fn address(&self, side: Side) -> Option<Address> {
        if self.is_source(side) {
            self.packet.source_address(self.frame)
        } else {
            self.packet.destination_address(self.frame)
        }
    }
}
