//! Names of protocols above IP, as they are written and told.

/// Those that have a name here, with their numbers (IANA, "Protocol Numbers").
const NAMES: [(&str, u8); 16] = [
    ("icmp", 1),
    ("igmp", 2),
    ("ipip", 4),
    ("tcp", 6),
    ("udp", 17),
    ("ipv6", 41),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("none", 59),
    ("ospf", 89),
    ("pim", 103),
    ("vrrp", 112),
    ("sctp", 132),
    ("udplite", 136),
];

/// What hosts and the routers beside them speak: whatever has a name here.
pub(crate) fn usual() -> impl Iterator<Item = u8> {
    NAMES.into_iter().map(|(_, number)| number)
}

/// The names.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().map(|(name, _)| name)
}

/// The number of the protocol that is called `name`.
pub(crate) fn number(name: &str) -> Option<u8> {
    NAMES.into_iter().find(|(known, _)| *known == name).map(|(_, number)| number)
}

/// What the protocol with this number is called, if it has a name here.
pub(crate) fn name(number: u8) -> Option<&'static str> {
    NAMES.into_iter().find(|(_, known)| *known == number).map(|(name, _)| name)
}
