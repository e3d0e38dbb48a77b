//! A first look at captures: how many flows there are, and which end of each is this host.
//!
//! A capture does not say on which host it was made. It is said by whoever replays it, or else guessed, once for each
//! flow: what has received the SYN is local, else what has the lower port, else what has received the first packet.

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;
use tidewaiter_common::{
    address::Address,
    direction::Direction,
    flow::FlowKey,
    frame::{Frame, Framing as ReadableFraming},
    packet::{Packet, tcp_flag},
};

use super::capture::{CapturedFrame, link_layer::Framing};

/// A captured frame as the programs see it: as long as it was on the wire, though not all of it is there.
struct OnTheWire<'a>(&'a CapturedFrame<'a>);

impl Frame for OnTheWire<'_> {
    fn length(&self) -> usize {
        self.0.length as usize
    }

    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.data.read(offset)
    }
}

/// One end of a flow.
type End = (Address, u16);

/// The two ends of a flow, in an order that says nothing, its protocol, and what its frames begin with, because those of
/// one framing pass another interface than those of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ends {
    both: [End; 2],
    protocol: u32,
    framing: ReadableFraming,
}

/// Which of the two ends is this host's: its place in [`Ends`].
type Local = usize;

/// What the packets of a flow have said of its ends so far.
#[derive(Clone, Copy, Debug)]
struct Told {
    /// What its first SYN has said.
    by_handshake: Option<Local>,
    /// Who has received its first packet.
    by_first_packet: Local,
}

/// What is known of the flows of some captures.
#[derive(Debug)]
pub(super) struct Survey {
    local: Vec<IpNet>,
    flows: HashMap<Ends, Told>,
}

impl Survey {
    /// Nothing yet. Addresses within `local` are this host's.
    pub(super) fn new(local: Vec<IpNet>) -> Self {
        Self { local, flows: HashMap::new() }
    }

    /// How many flows there are.
    pub(super) fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Looks at one more frame.
    pub(super) fn look(&mut self, frame: &CapturedFrame<'_>) {
        let Some((ends, destination, tcp_flags)) = ends(frame) else { return };
        let told = self.flows.entry(ends).or_insert(Told { by_handshake: None, by_first_packet: destination });
        if told.by_handshake.is_none() {
            told.by_handshake = match (tcp_flags & tcp_flag::SYN != 0, tcp_flags & tcp_flag::ACK != 0) {
                (true, false) => Some(destination),
                (true, true) => Some(1 - destination),
                _ => None,
            };
        }
    }

    /// Which way `frame`, which was looked at before, goes. What has no ends is received.
    pub(super) fn direction(&self, frame: &CapturedFrame<'_>) -> Direction {
        match ends(frame) {
            Some((ends, destination, _)) if self.local_end(&ends) == destination => Direction::Receive,
            Some(_) => Direction::Transmit,
            None => Direction::Receive,
        }
    }

    fn local_end(&self, ends: &Ends) -> Local {
        match ends.both.map(|(address, _)| self.is_local(address.into())) {
            [true, false] => return 0,
            [false, true] => return 1,
            _ => {}
        }
        let told = self.flows.get(ends);
        if let Some(local) = told.and_then(|told| told.by_handshake) {
            return local;
        }
        let [(_, first), (_, second)] = ends.both;
        match first.cmp(&second) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Greater => 1,
            std::cmp::Ordering::Equal => told.map_or(0, |told| told.by_first_packet),
        }
    }

    fn is_local(&self, address: IpAddr) -> bool {
        self.local.iter().any(|network| network.contains(&address))
    }
}

/// The ends of the flow that `frame` belongs to, which of them it goes to, and its TCP flags; `None` if the programs would
/// count it for no flow.
fn ends(frame: &CapturedFrame<'_>) -> Option<(Ends, Local, u8)> {
    let framing = match frame.framing {
        Framing::Ethernet => ReadableFraming::Ethernet,
        Framing::Ip => ReadableFraming::Ip,
        Framing::Unreadable { .. } => return None,
    };
    let mut packet = Packet::UNREAD;
    packet.read(&OnTheWire(frame), framing).ok()?;
    let FlowKey { local, remote, local_port, remote_port, protocol, .. } =
        FlowKey::of(&packet, frame.data, Direction::Receive, 0)?;
    let (source, destination) = ((remote, remote_port), (local, local_port));
    let (both, place) = if source <= destination { ([source, destination], 1) } else { ([destination, source], 0) };
    Some((Ends { both, protocol, framing }, place, packet.tcp_flags))
}
