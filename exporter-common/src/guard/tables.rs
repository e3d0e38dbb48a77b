//! What a half of the tables holds.

use super::{Action, MAX_PROTECTED_PORTS, MAX_STEPS, Stage, Unit};
use crate::{address::Address, api::AddressKey, limiter::Limit, prefix::PrefixHeader, protocol::opaque};

/// A rule, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct GuardRule {
    /// The limit, if [`GuardRule::unit`] says that there is one.
    pub limit: Limit,
    /// A [`Unit`], as its number.
    pub unit: u8,
    /// Whether each client has a limit of its own; else each API has.
    pub is_per_client: u8,
    /// An [`Action`], as its number.
    pub action: u8,
    /// Whether it is enforced, not only observed.
    pub is_enforced: u8,
    /// When it is asked: a bit for each [`Stage`] by its number, see [`GuardRule::stages`].
    pub stages: u8,
    /// Pads to 4 bytes.
    pub reserved: [u8; 3],
    /// Which anomalies it is about: a bit for each [`AnomalyKind`](crate::anomaly::AnomalyKind) by its number; all packets if
    /// none is set.
    pub anomalies: u32,
    /// What packets are marked with.
    pub mark: u32,
    /// The bits of an IPv4 address that make a client.
    pub ipv4_mask: Address,
    /// The bits of an IPv6 address that do.
    pub ipv6_mask: Address,
}

impl GuardRule {
    /// When a rule is asked that has this action and unit, and is about payload that is not expected, or is not. Those that let everything
    /// pass are asked always: they stand before others.
    #[must_use]
    pub const fn stages(action: Action, unit: Unit, is_about_payload: bool) -> u8 {
        const fn bits(stages: &[Stage]) -> u8 {
            let mut bits = 0;
            let mut place = 0;
            while place < stages.len() {
                bits |= 1 << stages[place] as u8;
                place += 1;
            }
            bits
        }
        let is_about_request = matches!(unit, Unit::Requests);
        match action {
            _ if is_about_payload && is_about_request => bits(&[Stage::Payload, Stage::Request]),
            _ if is_about_payload => bits(&[Stage::Payload]),
            _ if is_about_request => bits(&[Stage::Request]),
            Action::Allow => u8::MAX,
            Action::Mark => bits(&[Stage::Buffer, Stage::Marks]),
            Action::Drop | Action::Reject => bits(&[Stage::Frame, Stage::Buffer]),
        }
    }
}

/// A rule that matches, and what is kept of it for the API that the packet is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Step {
    /// Its place in the table of rules.
    pub rule: u16,
    /// Their place among the pairs.
    pub pair: u16,
}

/// The rules that match, in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct List {
    /// How many there are.
    pub count: u32,
    /// The rules.
    pub steps: [Step; MAX_STEPS],
    /// Pads to 8 bytes.
    pub reserved: u32,
}

/// What all packets of a half have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct GuardHeader {
    /// Finds out who has sent a packet.
    pub prefixes: PrefixHeader,
    /// Where the table of prefixes begins in the map.
    pub first_prefix: u32,
    /// How many kinds of senders there are.
    pub whos: u32,
    /// What there is to judge: see [`judges`].
    pub judges: u32,
    /// Groups of clients that have limits: see [`clients`](crate::clients).
    pub client_groups: u32,
    /// Ports whose established connections are left alone; 0 where there is none.
    pub protected_ports: [u16; MAX_PROTECTED_PORTS],
}

impl GuardHeader {
    /// Whether established connections to `port` are left alone.
    #[inline(always)]
    #[must_use]
    pub fn protects(&self, port: u16) -> bool {
        // Places where there is no port are 0, and so is the port of what could not be read.
        if port == 0 {
            return false;
        }
        // Without branches: the verifier would follow each way through them.
        let found = self.protected_ports.iter().fold(0, |found, protected| {
            let difference = u64::from(*protected ^ port);
            // It borrows from the highest bit if there is none.
            found | opaque(difference.wrapping_sub(1))
        });
        found >> 63 != 0
    }
}

/// What a half has rules about: bits.
pub mod judges {
    /// Packets at all.
    pub const PACKETS: u32 = 1;
    /// Anomalies.
    pub const ANOMALIES: u32 = 1 << 1;
    /// Requests.
    pub const REQUESTS: u32 = 1 << 2;
    /// Payload that is not expected.
    pub const PAYLOAD: u32 = 1 << 3;
    /// What packets are marked with.
    pub const MARKS: u32 = 1 << 4;
    /// Whether blocks are enforced, not only observed.
    pub const ENFORCES_BLOCKS: u32 = 1 << 5;
    /// Packets that are to be answered.
    pub const ANSWERS: u32 = 1 << 6;
}

/// What is known of a class beside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ClassEntry {
    /// Where blocks are counted that hit it: its place among the pairs.
    pub block_pair: u16,
    /// Whether it is of no API.
    pub is_unmapped: u16,
    /// Pads to 8 bytes.
    pub reserved: u32,
}

/// A key of the table that finds classes by address too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct GuardAddressKey {
    /// The port, and this host's address.
    pub key: AddressKey,
    /// The half.
    pub half: u32,
}
