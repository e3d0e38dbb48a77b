//! What the guard sees of a packet.

use tidewaiter_common::{
    address::Address,
    anomaly::stateless::{NONE, stateless_kind},
    flow::FlowKey,
    frame::Frame,
    guard::judges,
    interface::LOOPBACK_INDEX,
    packet::{Packet, protocol, tcp_flag},
    reason::Reason,
    transport::Transport,
    wire::Wire,
};

use super::{Walk, header, scratch};
use crate::anomaly::settings;

/// That a packet was read; any other number is that of the [`Reason`] why not.
pub(super) const READ: u8 = u8::MAX;

/// A packet as far as the guard asks. In a map: to the verifier what comes out of one is always the same unknown, however it got
/// there.
#[repr(C)]
pub(crate) struct Seen {
    pub(super) source: Address,
    pub(super) destination: Address,
    pub(super) tick: u64,
    /// Packets and bytes on the wire.
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) interface: u32,
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    pub(super) protocol: u8,
    /// Number of the transport, or any other.
    pub(super) transport: u8,
    pub(super) tcp_flags: u8,
    /// The type of a message of ICMP.
    pub(super) icmp: u8,
    /// See [`READ`].
    pub(super) reason: u8,
    /// The [`AnomalyKind`](tidewaiter_common::anomaly::AnomalyKind) that it is by itself, as its number, or [`NONE`].
    pub(super) anomaly: u8,
    /// Its class, once it is known.
    pub(super) class: u16,
}

impl Seen {
    #[inline(always)]
    pub(super) const fn transport(&self) -> Option<Transport> {
        match self.transport {
            TCP => Some(Transport::Tcp),
            UDP => Some(Transport::Udp),
            SCTP => Some(Transport::Sctp),
            _ => None,
        }
    }

    #[inline(always)]
    pub(super) const fn is_opening(&self) -> bool {
        self.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN
    }

    /// The flow that it belongs to.
    #[inline(always)]
    pub(super) const fn flow(&self) -> FlowKey {
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

/// What one function of the guard leaves for another.
#[repr(C)]
pub(crate) struct GuardScratch {
    pub(super) seen: Seen,
    /// Whose limit is asked.
    pub(super) client: Address,
    pub(super) walk: Walk,
    /// What is to become of the packet.
    pub(super) decided: u32,
    /// What the packet is to be marked with; 0 if it is not.
    pub(super) mark: u32,
    /// How reading the packet went, if that took a function of its own.
    reason: u8,
    packet: Packet,
}

/// Leaves a packet for whoever goes on with it, and how reading it went.
#[inline(always)]
pub(super) fn leave(packet: &Packet, read: Result<(), Reason>) {
    let Some(scratch) = scratch() else { return };
    // SAFETY: this CPU's own entry.
    unsafe {
        (&raw mut (*scratch).packet).write(*packet);
        (&raw mut (*scratch).reason).write(read.err().map_or(READ, |reason| reason as u8));
    }
}

/// The packet that was left.
#[inline(always)]
pub(super) fn left(scratch: *mut GuardScratch) -> (&'static Packet, u8) {
    // SAFETY: as above.
    unsafe { (&(*scratch).packet, (*scratch).reason) }
}

/// How a packet arrives.
#[derive(Clone, Copy)]
pub(super) struct Arrives {
    pub(super) interface: u32,
    pub(super) tick: u64,
    pub(super) wire: Wire,
    /// The half of the tables that is in force.
    pub(super) half: u32,
}

/// Leaves what matters of a packet for the rest.
#[inline(always)]
pub(super) fn see<F: Frame>(scratch: *mut GuardScratch, packet: &Packet, frame: &F, reason: u8, arrival: &Arrives) {
    // SAFETY: this CPU's own entry.
    unsafe {
        let seen = &raw mut (*scratch).seen;
        // Unless it is found out who has sent it.
        (&raw mut (*seen).reason).write_volatile(Reason::Internal as u8);
        (&raw mut (*seen).tick).write(arrival.tick);
        (&raw mut (*seen).packets).write(arrival.wire.packets);
        (&raw mut (*seen).bytes).write(arrival.wire.bytes);
        (&raw mut (*seen).interface).write(arrival.interface);
        (&raw mut (*seen).source_port).write(packet.source_port);
        (&raw mut (*seen).destination_port).write(packet.destination_port);
        (&raw mut (*seen).protocol).write(packet.protocol);
        let transport = packet.transport.map_or(NO_TRANSPORT, |transport| transport as u8);
        (&raw mut (*seen).transport).write(transport);
        (&raw mut (*seen).tcp_flags).write(packet.tcp_flags);
        (&raw mut (*seen).icmp).write(0);
        (&raw mut (*seen).anomaly).write(NONE);
        // What could not be read stays as it is: the compiler would carry undefined values from one branch to another.
        let Some(source) = packet.source_address(frame) else { return };
        source.write_to(&raw mut (*seen).source);
        let Some(destination) = packet.destination_address(frame) else { return };
        destination.write_to(&raw mut (*seen).destination);
        (&raw mut (*seen).reason).write_volatile(reason);
        if header(arrival.half).judges & judges::ANOMALIES != 0 {
            let read = Reason::from_index(reason).map_or(Ok(()), Err);
            let expects = |number| settings().expected.contains(number);
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
pub(super) fn see_flow(scratch: *mut GuardScratch, key: &FlowKey, tick: u64, wire: Wire) {
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
            source_port: key.remote_port,
            destination_port: key.local_port,
            protocol: key.protocol as u8,
            transport,
            tcp_flags: 0,
            icmp: 0,
            reason: READ,
            anomaly: NONE,
            class: 0,
        });
    }
}

/// Whether a packet that could not be read all the same says who has sent it. Of what is not IP nobody knows.
#[inline(always)]
pub(super) const fn has_source(reason: u8) -> bool {
    reason != Reason::NotIp as u8
        && reason != Reason::Vlan as u8
        && reason != Reason::EthernetTruncated as u8
        && reason != Reason::Ipv4Truncated as u8
        && reason != Reason::Ipv6Truncated as u8
        && reason != Reason::Ipv6Malformed as u8
        && reason != Reason::Internal as u8
}
