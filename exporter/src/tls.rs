//! What the hellos of TLS say in the clear: RFC 8446 section 4.1, RFC 5246 section 7.4.1.
//!
//! They come from the first segment of each direction, and so may be cut off anywhere: a client's has some 1,800 bytes
//! since keys against quantum computers are in it. Parsers of TLS want whole messages, hence this one: it reads what is there,
//! and believes no length further than that.

use crate::flow::TlsHello;

/// The longest name that is kept, in bytes: no host has a longer one (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 255;
/// How many application protocols are kept.
const MAX_PROTOCOLS: usize = 16;
/// How many bytes their names may have together: those of all that are registered have 11 at most each, and few offer many.
const MAX_PROTOCOL_BYTES: usize = 128;
/// How many of a hello's extensions are read; there are some 60 kinds.
const MAX_EXTENSIONS: usize = 64;

const HANDSHAKE: u8 = 22;
/// Bytes of a record before its content (RFC 8446 section 5.1).
const RECORD_HEADER: usize = 5;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;

/// Extensions (IANA, "TLS `ExtensionType` Values").
const SERVER_NAME: u16 = 0;
const APPLICATION_PROTOCOLS: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;

const TLS_1_2: u16 = 0x0303;

/// Reads the hello that `payload`, the first of a client or of a server, begins with. What was cut off is missing in it;
/// `None` if there is no hello.
#[must_use]
pub fn read_hello(payload: &[u8]) -> Option<TlsHello> {
    let message = handshake(payload);
    let mut message = Bytes { rest: &message, is_cut: false };
    let kind = message.byte()?;
    let mut hello = message.vector(Width::Three)?;
    let legacy_version = hello.word()?;
    if !matches!(kind, CLIENT_HELLO | SERVER_HELLO) || legacy_version >> 8 != 3 {
        return None;
    }
    let mut read = Hello { is_client: kind == CLIENT_HELLO, ..Hello::default() };
    let is_whole = read.body(&mut hello).is_some() && !hello.is_cut;
    let version = match read.version {
        // Later versions say that they are this one, and the truth in an extension, which there may have been.
        None if !is_whole && legacy_version >= TLS_1_2 => None,
        None => Some(legacy_version),
        version => version,
    };
    let (version, is_server) = (version.and_then(version_name), kind == SERVER_HELLO);
    Some(TlsHello {
        version,
        version_is_chosen: is_server && version.is_some(),
        server_name: read.server_name,
        protocol_is_chosen: is_server && !read.application_protocols.is_empty(),
        application_protocols: read.application_protocols,
    })
}

/// Whether `payload` begins with the hello of a client, rather than that of a server.
#[must_use]
pub fn is_client_hello(payload: &[u8]) -> bool {
    payload.first() == Some(&HANDSHAKE) && payload.get(RECORD_HEADER) == Some(&CLIENT_HELLO)
}

/// What both hellos of a connection say: of the version and the application protocol what the server chose, as far as it
/// tells in the clear.
#[must_use]
pub fn join(client: Option<TlsHello>, server: Option<TlsHello>) -> Option<TlsHello> {
    let (Some(client), Some(server)) = (&client, &server) else { return client.or(server) };
    let TlsHello { version, version_is_chosen, server_name: _, application_protocols, protocol_is_chosen } = server;
    let protocols =
        if application_protocols.is_empty() { &client.application_protocols } else { application_protocols };
    Some(TlsHello {
        version: version.or(client.version),
        version_is_chosen: *version_is_chosen,
        server_name: client.server_name.clone(),
        application_protocols: protocols.clone(),
        protocol_is_chosen: *protocol_is_chosen,
    })
}

const fn version_name(version: u16) -> Option<&'static str> {
    match version {
        0x0300 => Some("SSL 3.0"),
        0x0301 => Some("1.0"),
        0x0302 => Some("1.1"),
        TLS_1_2 => Some("1.2"),
        0x0304 => Some("1.3"),
        _ => None,
    }
}

/// Handshake messages may lie across records: their contents, one after the other.
fn handshake(payload: &[u8]) -> Vec<u8> {
    let mut records = Bytes { rest: payload, is_cut: false };
    let mut contents = Vec::new();
    while records.byte() == Some(HANDSHAKE) && records.byte() == Some(3) && records.byte().is_some() {
        let Some(record) = records.vector(Width::Two) else { break };
        contents.extend_from_slice(record.rest);
    }
    contents
}

/// What was read of a hello.
#[derive(Default)]
struct Hello {
    is_client: bool,
    version: Option<u16>,
    server_name: Option<String>,
    application_protocols: Vec<String>,
}

impl Hello {
    /// Reads what follows the version; `None` where that ends too early.
    fn body(&mut self, hello: &mut Bytes<'_>) -> Option<()> {
        let _random = hello.take(32)?;
        let _session = hello.vector(Width::One)?;
        if self.is_client {
            let _cipher_suites = hello.vector(Width::Two)?;
            let _compression_methods = hello.vector(Width::One)?;
        } else {
            let _cipher_suite = hello.word()?;
            let _compression_method = hello.byte()?;
        }
        if hello.rest.is_empty() && !hello.is_cut {
            // Before TLS 1.2 there need not be any extensions.
            return Some(());
        }
        let mut extensions = hello.vector(Width::Two)?;
        for _ in 0..MAX_EXTENSIONS {
            if extensions.rest.is_empty() {
                break;
            }
            let kind = extensions.word()?;
            let mut extension = extensions.vector(Width::Two)?;
            // Of one that is cut off or malformed, what could be read is kept.
            let _ = match kind {
                SERVER_NAME if self.is_client => self.server_name(&mut extension),
                APPLICATION_PROTOCOLS => self.application_protocols(&mut extension),
                SUPPORTED_VERSIONS => self.supported_versions(&mut extension),
                _ => Some(()),
            };
        }
        if extensions.is_cut { None } else { Some(()) }
    }

    /// RFC 6066 section 3: a list, but of one name alone, of the only kind that there is.
    fn server_name(&mut self, extension: &mut Bytes<'_>) -> Option<()> {
        let mut names = extension.vector(Width::Two)?;
        let kind = names.byte()?;
        let name = names.vector(Width::Two)?;
        let is_usual = kind == 0 && !name.is_cut && (1..=MAX_NAME).contains(&name.rest.len());
        if is_usual {
            self.server_name = Some(printable(name.rest));
        }
        Some(())
    }

    /// RFC 7301 section 3.1.
    fn application_protocols(&mut self, extension: &mut Bytes<'_>) -> Option<()> {
        let mut names = extension.vector(Width::Two)?;
        let mut room = MAX_PROTOCOL_BYTES;
        while self.application_protocols.len() < MAX_PROTOCOLS {
            let name = names.vector(Width::One)?;
            if name.rest.is_empty() || name.is_cut || is_grease(name.rest) {
                continue;
            }
            room = room.checked_sub(name.rest.len())?;
            self.application_protocols.push(printable(name.rest));
        }
        Some(())
    }

    /// RFC 8446 section 4.2.1: a list from a client, its choice from a server.
    fn supported_versions(&mut self, extension: &mut Bytes<'_>) -> Option<()> {
        if !self.is_client {
            self.version = Some(extension.word()?);
            return Some(());
        }
        let mut versions = extension.vector(Width::One)?;
        loop {
            let version = versions.word()?;
            if version_name(version).is_some() {
                self.version = self.version.max(Some(version));
            }
        }
    }
}

/// RFC 8701 section 2: values that mean nothing, sent so that nobody chokes on those that will mean something.
fn is_grease(name: &[u8]) -> bool {
    matches!(name, [first, second] if first == second && first & 0x0f == 0x0a)
}

/// Text of what should be ASCII; everything else, spaces too, is replaced.
fn printable(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' }).collect()
}

/// In how many bytes the length of a vector is stated.
#[derive(Clone, Copy)]
enum Width {
    One = 1,
    Two,
    Three,
}

/// Bytes that are being read.
struct Bytes<'a> {
    rest: &'a [u8],
    /// Whether there were more than what was captured.
    is_cut: bool,
}

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn word(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(*self.take(2)?.as_array()?))
    }

    /// A vector (RFC 8446 section 3.4) behind its length, as much of it as there is.
    fn vector(&mut self, width: Width) -> Option<Self> {
        let length = self.take(width as usize)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        let there = length.min(self.rest.len());
        Some(Self { rest: self.take(there)?, is_cut: there < length })
    }
}
