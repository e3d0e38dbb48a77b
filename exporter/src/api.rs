//! What an API is to this program: a name, and the ports it is found by.

use std::{fmt, net::IpAddr, ops::RangeInclusive};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
pub use tidewaiter_common::{protocol::Protocol, role::Role, transport::Transport};

/// Names that traffic is counted under when it belongs to no API of the user's.
pub mod reserved {
    /// Traffic that maps to no API.
    pub const UNMAPPED: &str = "unmapped";
    /// What APIs had counted that exist no more.
    pub const REMOVED: &str = "removed";
    /// What does not fit a budget of series.
    pub const OTHER: &str = "other";
    /// All of them.
    pub const NAMES: [&str; 3] = [UNMAPPED, REMOVED, OTHER];
}

/// One API: traffic that goes by one name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Api {
    /// The name, unique among all APIs: the value of the label `api`.
    pub name: String,
    /// Which end of it this host is.
    pub role: Role,
    /// The transports it is spoken over; at least one, sorted.
    pub transports: Vec<Transport>,
    /// Its ports; at least one range.
    pub ports: Vec<PortRange>,
    /// The addresses of the end that has the port: the local one for a server, the remote one for a client. Any if empty.
    pub addresses: Vec<IpAddr>,
    /// What its payload should look like, sorted; anything if empty.
    pub expect: Vec<Protocol>,
}

/// [`Api::expect_mask`] has a bit for each.
const _: () = assert!(Protocol::COUNT <= u32::BITS as usize);

impl Api {
    /// Every (transport, port) that this API claims.
    pub fn claims(&self) -> impl Iterator<Item = (Transport, u16)> {
        self.transports.iter().flat_map(|&transport| {
            self.ports.iter().flat_map(move |range| range.ports().map(move |port| (transport, port)))
        })
    }

    /// Its ports as they are written in a configuration: `8080,9000-9010`.
    #[must_use]
    pub fn ports_label(&self) -> String {
        join(&self.ports)
    }

    /// Its transports, joined by commas: `tcp,udp`.
    #[must_use]
    pub fn transports_label(&self) -> String {
        join(self.transports.iter().map(|transport| transport.as_str()))
    }

    /// What its payload should look like, joined by commas: `http1,tls`; empty if that may be anything.
    #[must_use]
    pub fn expect_label(&self) -> String {
        join(self.expect.iter().map(|protocol| protocol.as_str()))
    }

    /// What its payload should look like, a bit for each protocol, by [`Protocol::index`]; 0 if that may be anything.
    #[must_use]
    pub fn expect_mask(&self) -> u32 {
        let expected = self.expect.iter().fold(0, |mask, protocol| mask | 1 << protocol.index());
        // The kernel cannot tell one from the other.
        if self.expect.contains(&Protocol::Grpc) { expected | 1 << Protocol::Http2.index() } else { expected }
    }
}

/// The items, joined by commas.
pub(crate) fn join<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(",")
}

/// One port, or several in a row, never 0.
///
/// In a configuration it is a number, `8080`, or a string, `"9000-9010"`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PortRange(RangeInclusive<u16>);

impl PortRange {
    /// What a configuration may say.
    const EXPECTED: &str = "a port from 1 to 65535, or a range such as \"9000-9010\"";

    /// The range from `first` to `last`; `None` if that is empty or has port 0 in it.
    #[must_use]
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || first > last { None } else { Some(Self(first..=last)) }
    }

    /// Every port of the range.
    pub fn ports(&self) -> impl Iterator<Item = u16> + use<> {
        self.0.clone()
    }

    /// The lowest of them.
    #[must_use]
    pub const fn first(&self) -> u16 {
        *self.0.start()
    }

    /// The highest of them.
    #[must_use]
    pub const fn last(&self) -> u16 {
        *self.0.end()
    }

    /// Whether `port` is one of them.
    #[must_use]
    pub fn has(&self, port: u16) -> bool {
        self.0.contains(&port)
    }

    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Self::new(first.trim().parse().ok()?, last.trim().parse().ok()?)
    }
}

impl From<u16> for PortRange {
    fn from(port: u16) -> Self {
        Self(port..=port)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.0.start(), self.0.end());
        if first == last { write!(formatter, "{first}") } else { write!(formatter, "{first}-{last}") }
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = PortRange;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(PortRange::EXPECTED)
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<PortRange, E> {
                u16::try_from(number)
                    .ok()
                    .and_then(|port| PortRange::new(port, port))
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<PortRange, E> {
                u16::try_from(number)
                    .ok()
                    .and_then(|port| PortRange::new(port, port))
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<PortRange, E> {
                PortRange::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::{Api, PortRange, Protocol, Role, Transport};

    #[test]
    fn a_range_is_written_as_it_is_read() {
        for text in ["1", "8080", "9000-9010", "1-65535"] {
            assert_eq!(PortRange::parse(text).map(|range| range.to_string()).as_deref(), Some(text));
        }
        for text in ["", "0", "0-5", "5-4", "65536", "-1", "80-", "-80", "http", "1-2-3"] {
            assert_eq!(PortRange::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_api_claims_each_port_on_each_transport() {
        let api = Api {
            name: "orders".into(),
            role: Role::Server,
            transports: vec![Transport::Tcp, Transport::Udp],
            ports: vec![443.into(), PortRange::parse("65534-65535").expect("a range")],
            addresses: Vec::new(),
            expect: vec![Protocol::Http1, Protocol::Tls],
        };
        let claims: Vec<_> = api.claims().collect();
        let ports = [443, 65534, 65535];
        assert_eq!(claims[..3], ports.map(|port| (Transport::Tcp, port)));
        assert_eq!(claims[3..], ports.map(|port| (Transport::Udp, port)));
        assert_eq!((api.ports_label().as_str(), api.transports_label().as_str()), ("443,65534-65535", "tcp,udp"));
        assert_eq!((api.expect_label().as_str(), api.expect_mask()), ("http1,tls", 0b1_0010));
        let anything = Api { expect: Vec::new(), ..api };
        assert_eq!((anything.expect_label().as_str(), anything.expect_mask()), ("", 0));
    }
}
