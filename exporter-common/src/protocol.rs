//! What the payload of a flow looks like, judged by its first bytes.

use crate::transport::Transport;

/// How many bytes of a payload are looked at.
pub const PREFIX_BYTES: usize = 32;

/// Declares [`Protocol`] with its names, in one list, so that neither can be forgotten.
macro_rules! protocols {
    ($($(#[$doc:meta])+ $variant:ident = $name:literal,)+) => {
        /// The application protocol of a flow.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Protocol { #[default] $($(#[$doc])+ $variant,)+ }

        impl Protocol {
            /// All protocols, in the order of their indexes.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];
            /// Number of protocols: the length of every array that is indexed by one.
            pub const COUNT: usize = Self::ALL.len();

            /// The protocol with this index.
            #[inline(always)]
            #[must_use]
            pub const fn from_index(index: u8) -> Option<Self> {
                $(if index == Self::$variant as u8 { return Some(Self::$variant); })+
                None
            }

            /// The name: the value of the label `protocol`, and what a configuration calls it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

protocols! {
    /// None of the others, or not to be told from its first bytes.
    Unknown = "unknown",
    /// HTTP/1.0 and HTTP/1.1 without TLS, RFC 9112.
    Http1 = "http1",
    /// HTTP/2 without TLS, RFC 9113.
    Http2 = "http2",
    /// gRPC over HTTP/2 without TLS, where that can be told.
    Grpc = "grpc",
    /// TLS, RFC 8446.
    Tls = "tls",
    /// DNS, RFC 1035.
    Dns = "dns",
    /// Secure shell, RFC 4253.
    Ssh = "ssh",
    /// SMTP, RFC 5321.
    Smtp = "smtp",
    /// PostgreSQL's frontend/backend protocol.
    Postgresql = "postgresql",
    /// MySQL's client/server protocol.
    Mysql = "mysql",
    /// Redis' RESP.
    Redis = "redis",
    /// Kafka's protocol.
    Kafka = "kafka",
    /// MQTT.
    Mqtt = "mqtt",
    /// AMQP 0-9-1 and 1.0.
    Amqp = "amqp",
}

/// The first bytes of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Prefix {
    /// The bytes; zeros behind the payload's end.
    pub bytes: [u8; PREFIX_BYTES],
    /// How many of them are the payload's.
    pub length: u32,
    /// Length of the whole payload: of the segment or datagram.
    pub payload: u32,
}

impl Protocol {
    /// The place of this protocol in arrays that are indexed by protocol.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The protocol that a payload with `prefix`, the first of its direction, belongs to. It says the same for either
    /// direction: a request, an answer, or a greeting.
    #[inline(always)]
    #[must_use]
    pub fn classify(_transport: Transport, _prefix: &Prefix) -> Self {
        Self::Unknown
    }
}
