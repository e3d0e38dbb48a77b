//! Which way a packet passes an interface.

use crate::numbered::numbered;

numbered! {
    /// Which way a packet passes an interface, as OpenTelemetry's `network.io.direction` says it.
    Direction {
        /// From the wire to this host.
        Receive = "receive",
        /// From this host to the wire.
        Transmit = "transmit",
    }
}

impl Direction {
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
}
