//! What the payload of a flow looks like, judged by its first bytes.
//!
//! Each protocol has a module, which says what its check is taken from. All of them compare numbers at constant
//! offsets: the verifier has to follow every step.

mod amqp;
mod dns;
mod http2;
mod kafka;
mod mqtt;
mod mysql;
mod postgresql;
mod redis;
mod smtp;
mod ssh;
mod tls;

use crate::{http, numbered::numbered, transport::Transport};

/// How many bytes of a payload are looked at.
pub const PREFIX_BYTES: usize = 32;

numbered! {
    /// The application protocol of a flow.
    #[derive(Default)]
    Protocol {
        /// None of the others, or not to be told from its first bytes.
        #[default]
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
        /// `PostgreSQL`'s frontend/backend protocol.
        Postgresql = "postgresql",
        /// `MySQL`'s client/server protocol.
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
}

/// The first bytes of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Prefix {
    /// The bytes; zeros behind the payload's end.
    pub bytes: [u8; PREFIX_BYTES],
    /// How many of them are the payload's.
    pub length: u32,
    /// Length of the whole payload: of the segment or datagram.
    pub payload: u32,
}

impl Prefix {
    /// What `payload`, of which every byte is there, begins with.
    #[must_use]
    pub fn of(payload: &[u8]) -> Self {
        let length = payload.len().min(PREFIX_BYTES);
        let mut bytes = [0; PREFIX_BYTES];
        bytes[..length].copy_from_slice(&payload[..length]);
        Self { bytes, length: length as u32, payload: u32::try_from(payload.len()).unwrap_or(u32::MAX) }
    }
}

/// The first bytes of a payload as numbers in registers, out of which every field is shifted.
///
/// A [`Prefix`] is on the stack, where the verifier allows no access that is not aligned, while the compiler thinks that all
/// are allowed, as they are in packets.
#[derive(Clone, Copy)]
pub(crate) struct Words {
    /// Eight bytes each, the first the most significant; zeros behind the payload's end.
    quads: [u64; PREFIX_BYTES / 8],
    /// As in [`Prefix`].
    pub(crate) length: u32,
    /// As in [`Prefix`].
    pub(crate) payload: u32,
}

impl Words {
    /// The words of `prefix`.
    #[inline(always)]
    pub(crate) fn of(prefix: &Prefix) -> Self {
        let (quads, _) = prefix.bytes.as_chunks();
        let quads = [quads[0], quads[1], quads[2], quads[3]].map(|quad| opaque(u64::from_be_bytes(quad)));
        Self { quads, length: prefix.length, payload: prefix.payload }
    }

    /// The byte at `AT`; as all of these, 0 behind the payload's end.
    #[inline(always)]
    pub(crate) const fn byte<const AT: usize>(&self) -> u8 {
        const { assert!(AT < PREFIX_BYTES) };
        (self.from::<AT>() >> 56) as u8
    }

    /// The number of two bytes at `AT`, the most significant first.
    #[inline(always)]
    pub(crate) const fn word<const AT: usize>(&self) -> u16 {
        const { assert!(AT + 2 <= PREFIX_BYTES) };
        (self.from::<AT>() >> 48) as u16
    }

    /// The number of four bytes at `AT`, the most significant first.
    #[inline(always)]
    pub(crate) const fn double<const AT: usize>(&self) -> u32 {
        const { assert!(AT + 4 <= PREFIX_BYTES) };
        (self.from::<AT>() >> 32) as u32
    }

    /// The number of eight bytes at `AT`, the most significant first.
    #[inline(always)]
    pub(crate) const fn quad<const AT: usize>(&self) -> u64 {
        const { assert!(AT + 8 <= PREFIX_BYTES) };
        self.from::<AT>()
    }

    /// The words without their first byte.
    #[inline(always)]
    pub(crate) const fn skip_byte(&mut self) {
        let [a, b, c, d] = self.quads;
        self.quads = [a << 8 | b >> 56, b << 8 | c >> 56, c << 8 | d >> 56, d << 8];
    }

    /// The eight bytes from `AT` on; zeros for those that are beyond all that is looked at.
    #[inline(always)]
    const fn from<const AT: usize>(&self) -> u64 {
        let first = self.quads[AT / 8] << (AT % 8 * 8);
        if AT.is_multiple_of(8) || AT / 8 + 1 == self.quads.len() {
            return first;
        }
        first | self.quads[AT / 8 + 1] >> (64 - AT % 8 * 8)
    }
}

/// The same value, of which the compiler knows nothing: neither where it came from, nor what it can be.
#[inline(always)]
#[cfg_attr(not(target_arch = "bpf"), expect(unused_mut, reason = "the instruction changes it, or so it says"))]
#[must_use]
pub fn opaque(mut value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    // SAFETY: there is no instruction.
    unsafe {
        core::arch::asm!("/* {0} */", inout(reg) value, options(pure, nomem, nostack, preserves_flags));
    }
    value
}

impl Protocol {
    /// The protocol that a payload with `prefix`, the first of its direction, belongs to. It says the same for either
    /// direction: a request, an answer, or a greeting.
    ///
    /// What can be taken for two things is [`Protocol::Unknown`]. Of 10⁹ payloads of 2 to 64 random bytes, none was told to be
    /// anything; of those of a single byte, three of 256 are, which `PostgreSQL` answers requests for encryption with.
    /// gRPC is told from HTTP/2 by its headers, which come later. In BPF this is some 1,800 instructions: it should be
    /// called at one place, or from a function of its own.
    #[inline(always)]
    #[must_use]
    pub fn classify(transport: Transport, prefix: &Prefix) -> Self {
        let words = Words::of(prefix);
        match transport {
            Transport::Tcp => Self::classify_tcp(&words),
            Transport::Udp if dns::is_datagram(&words) => Self::Dns,
            Transport::Udp | Transport::Sctp => Self::Unknown,
        }
    }

    /// By the first byte, so that no way through leads along all checks: the verifier walks every way that it cannot
    /// tell from another.
    #[inline(always)]
    fn classify_tcp(words: &Words) -> Self {
        // Begins with the low byte of a length, which can be any.
        if mysql::is_mysql(words) {
            return Self::Mysql;
        }
        // (No guard stands behind alternatives: the compiler makes a copy of it for each of them.)
        match words.byte::<0>() {
            0 if http2::is_server_preface(words) => Self::Http2,
            0 if postgresql::is_request(words) => Self::Postgresql,
            0 if kafka::is_kafka(words) => Self::Kafka,
            1 if amqp::is_connection_start(words) => Self::Amqp,
            0x10 => Self::Mqtt.only_if(mqtt::is_connect(words)),
            0x15 => Self::Tls.only_if(tls::is_alert(words)),
            0x16 => Self::Tls.only_if(tls::is_hello(words)),
            0x20 => Self::Mqtt.only_if(mqtt::is_connack(words)),
            b'$' | b'%' | b'*' | b'+' | b'-' | b':' | b'~' => Self::Redis.only_if(redis::is_redis(words)),
            b'2' | b'5' => Self::Smtp.only_if(smtp::is_greeting(words)),
            b'A'..=b'Z' | b'a'..=b'z' => Self::classify_word(words),
            // The first byte of a length. Where it is one of those above, the message is one of many KB: the transfer of a
            // zone, for which the other side has asked with few.
            _ => Self::Dns.only_if(dns::is_stream(words)),
        }
    }

    /// What begins with a letter.
    #[inline(always)]
    fn classify_word(words: &Words) -> Self {
        let first = words.byte::<0>();
        let (other, is_other) = match first {
            b'A' => (Self::Amqp, amqp::is_header(words)),
            b'R' => (Self::Postgresql, postgresql::is_authentication(words)),
            b'S' if words.payload > 1 => (Self::Ssh, ssh::is_ssh(words)),
            b'G' | b'N' | b'S' => (Self::Postgresql, postgresql::is_encryption(words)),
            b'P' if http2::is_client_preface(words) => (Self::Http2, true),
            b'P' | b'p' => (Self::Redis, redis::is_ping(words)),
            b'E' if postgresql::is_error(words) => (Self::Postgresql, true),
            b'H' if http::status_code_of(words).is_some() => (Self::Http1, true),
            b'E' | b'H' | b'M' | b'e' | b'h' | b'm' => (Self::Smtp, smtp::is_command(words)),
            _ => (Self::Unknown, false),
        };
        if is_other { other } else { Self::Http1.only_if(http::method_of(words).is_some()) }
    }

    #[inline(always)]
    const fn only_if(self, condition: bool) -> Self {
        if condition { self } else { Self::Unknown }
    }
}
