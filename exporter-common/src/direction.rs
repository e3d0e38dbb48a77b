//! Which way a packet passes an interface.

/// Which way a packet passes an interface, as OpenTelemetry's `network.io.direction` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Direction {
    /// From the wire to this host.
    Receive = 0,
    /// From this host to the wire.
    Transmit = 1,
}

impl Direction {
    /// Number of directions: the length of every array that is indexed by one.
    pub const COUNT: usize = 2;
    /// All directions, in the order of their indexes.
    pub const ALL: [Self; Self::COUNT] = [Self::Receive, Self::Transmit];

    /// The direction with this number; any but 0 is the second.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        if number == Self::Receive as u32 { Self::Receive } else { Self::Transmit }
    }

    /// The other direction.
    #[inline(always)]
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Receive => Self::Transmit,
            Self::Transmit => Self::Receive,
        }
    }

    /// The place of this direction in arrays that are indexed by direction.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The label value: `receive` or `transmit`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Transmit => "transmit",
        }
    }
}
