//! The transport protocols whose ports APIs are found by.

/// A transport protocol whose ports APIs are found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Transport {
    /// TCP, RFC 9293.
    Tcp = 0,
    /// UDP, RFC 768.
    Udp = 1,
    /// SCTP, RFC 9260.
    Sctp = 2,
}

impl Transport {
    /// Number of transports: what the port table is sized by.
    pub const COUNT: usize = 3;
    /// All transports, in the order of their indexes.
    pub const ALL: [Self; Self::COUNT] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The name in configuration and labels, as OpenTelemetry's `network.transport` says it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}
