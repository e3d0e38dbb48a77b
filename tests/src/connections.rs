//! Connections that never were: their segments are given to the programs, so that there can be a million of them within
//! seconds.

use std::net::IpAddr;

use tidewaiter::kernel::Kernel;
use tidewaiter_common::{direction::Direction, packet::tcp_flag};

use crate::{
    bpf::drive::{Change, Drive, Target, Targets},
    frames::{Offsets, Segment, segment},
};

/// The numbers of the first byte that each side sends, after its SYN.
pub const REQUEST: u32 = 1_001;
/// See [`REQUEST`].
pub const ANSWER: u32 = 5_001;
/// Connections that are opened at once. They have to have room in the table of those that are not established.
const CHUNK: u32 = 512;

/// Makes connections of clients, which differ in the last 4 bytes of their addresses, to one port of a server.
#[derive(Debug)]
pub struct Connections {
    targets: Targets,
    server: (IpAddr, u16),
    /// The first client.
    client: (IpAddr, u16),
}

/// A segment of a connection, as [`Connections`] has it.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Which way it goes, as the server sees it.
    pub direction: Direction,
    /// See [`tcp_flag`].
    pub flags: u8,
    /// See [`Segment`].
    pub sequence: u32,
    /// See [`Segment`].
    pub acknowledgement: u32,
}

impl Step {
    const fn new(direction: Direction, flags: u8, sequence: u32, acknowledgement: u32) -> Self {
        Self { direction, flags, sequence, acknowledgement }
    }

    /// What opens a connection.
    pub const OPENING: [Self; 3] = [
        Self::new(Direction::Receive, tcp_flag::SYN, REQUEST - 1, 0),
        Self::new(Direction::Transmit, tcp_flag::SYN | tcp_flag::ACK, ANSWER - 1, REQUEST),
        Self::new(Direction::Receive, tcp_flag::ACK, REQUEST, ANSWER),
    ];

    /// What closes it, if nothing was said.
    pub const CLOSING: [Self; 3] = [
        Self::new(Direction::Receive, tcp_flag::FIN | tcp_flag::ACK, REQUEST, ANSWER),
        Self::new(Direction::Transmit, tcp_flag::FIN | tcp_flag::ACK, ANSWER, REQUEST + 1),
        Self::new(Direction::Receive, tcp_flag::ACK, REQUEST + 1, ANSWER + 1),
    ];
}

impl Connections {
    /// Connections of `client` and those after it.
    pub fn new(kernel: &mut Kernel, client: (IpAddr, u16), server: (IpAddr, u16)) -> Self {
        Self { targets: Targets::of(kernel), server, client }
    }

    /// The programs that they are given to.
    #[must_use]
    pub const fn targets(&self) -> &Targets {
        &self.targets
    }

    /// The last 4 bytes of the address of client number `at`.
    #[must_use]
    pub fn client(&self, at: u32) -> u32 {
        let address = match self.client.0 {
            IpAddr::V4(address) => address.to_bits(),
            IpAddr::V6(address) => address.to_bits() as u32,
        };
        address.wrapping_add(at)
    }

    /// Where in the frames that go in `direction` the last 4 bytes of the client's address are.
    #[must_use]
    pub const fn at(&self, direction: Direction) -> usize {
        let Offsets { source, destination, .. } = self.offsets();
        match direction {
            Direction::Receive => source,
            Direction::Transmit => destination,
        }
    }

    /// Where everything is in their frames.
    #[must_use]
    pub const fn offsets(&self) -> Offsets {
        Offsets::of(self.client.0)
    }

    /// A frame of client number `at`.
    #[must_use]
    pub fn frame(&self, at: u32, step: Step, payload: &[u8]) -> Vec<u8> {
        let Step { direction, flags, sequence, acknowledgement } = step;
        let said = Segment { sequence, acknowledgement, flags, payload };
        let mut frame = match direction {
            Direction::Receive => segment(said, self.client, self.server),
            Direction::Transmit => segment(said, self.server, self.client),
        };
        frame[self.at(direction)..][..4].copy_from_slice(&self.client(at).to_be_bytes());
        frame
    }

    /// What goes through all clients, from one to the next.
    #[must_use]
    pub fn rotation(&self, direction: Direction, first: u32, count: u32) -> Drive {
        self.targets.drive(&[Change::Rotate { at: self.at(direction), from: self.client(first), count }])
    }

    /// What goes from each client to the next one.
    #[must_use]
    pub fn next(&self, direction: Direction) -> Drive {
        self.targets.drive(&[Change::Grow { at: self.at(direction), by: 1 }])
    }

    /// Has `steps` taken by `count` clients from number `first` on: each by some of them, then the next by the same.
    pub fn take(&self, steps: &[Step], first: u32, count: u32) {
        let drives = Direction::ALL.map(|direction| self.next(direction));
        let mut at = first;
        while at < first + count {
            let some = CHUNK.min(first + count - at);
            for &step in steps {
                // It is changed before it is dealt with.
                let mut frame = self.frame(at.wrapping_sub(1), step, &[]);
                drives[step.direction.index()].run(Target::Account(step.direction), &mut frame, some);
            }
            at += some;
        }
    }

    /// Opens `count` connections from client number `first` on.
    pub fn open(&self, first: u32, count: u32) {
        self.take(&Step::OPENING, first, count);
    }

    /// Closes them again.
    pub fn close(&self, first: u32, count: u32) {
        self.take(&Step::CLOSING, first, count);
    }
}
