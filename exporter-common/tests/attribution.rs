//! Which API a packet belongs to: every rule by itself, and what must hold for any tables.

#![allow(clippy::expect_used, reason = "tests panic for a stack trace")]

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use etherparse::{IpNumber, PacketBuilder};
use proptest::prelude::*;
use tidewaiter_common::{
    api::{AddressKey, ApiSlot, ApiTables, Owner, PortEntry, attribute},
    direction::Direction::{self, Receive, Transmit},
    frame::Framing,
    packet::Packet,
    reason::Reason,
    role::Role::{self, Client, Server},
    transport::Transport::{self, Sctp, Tcp, Udp},
};

const ORDERS: ApiSlot = ApiSlot(1);
const BILLING: ApiSlot = ApiSlot(2);
const UNMAPPED: ApiSlot = ApiSlot::UNMAPPED;

type Sight = Result<ApiSlot, Reason>;

/// One port that an API claims, at one address or at all.
type Claim = (ApiSlot, Role, Transport, u16, Option<IpAddr>);

#[derive(Default)]
struct Tables {
    ports: HashMap<(Transport, u16), PortEntry>,
    addresses: HashMap<AddressKey, ApiSlot>,
    unreadable: Option<(Transport, u16)>,
}

impl ApiTables for Tables {
    fn port(&self, transport: Transport, port: u16) -> Option<PortEntry> {
        let key = (transport, port);
        (self.unreadable != Some(key)).then(|| self.ports.get(&key).copied().unwrap_or(PortEntry::UNMAPPED))
    }

    fn address(&self, key: &AddressKey) -> Option<ApiSlot> {
        self.addresses.get(key).copied()
    }
}

fn tables(claims: &[Claim]) -> Tables {
    let mut tables = Tables::default();
    for &(slot, role, transport, port, address) in claims {
        let entry = tables.ports.entry((transport, port)).or_insert(PortEntry::UNMAPPED);
        let Some(address) = address else {
            entry.set_any_address(role, slot);
            continue;
        };
        entry.set_by_address(role);
        let key = AddressKey { address: address.into(), port, transport: transport as u8, role: role as u8 };
        tables.addresses.insert(key, slot);
    }
    tables
}

fn ip(address: &str) -> Option<IpAddr> {
    address.parse().map(Some).expect("an address")
}

/// A frame whose network header is of the addresses' version.
fn frame(transport: Transport, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let ip = match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ethernet.ipv4(source.octets(), destination.octets(), 64),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ethernet.ipv6(source.octets(), destination.octets(), 64),
        mixed => panic!("not of one version: {mixed:?}"),
    };
    let mut frame = Vec::new();
    let written = match transport {
        Tcp => ip.tcp(source.port(), destination.port(), 1, 1000).write(&mut frame, b"payload"),
        Udp => ip.udp(source.port(), destination.port()).write(&mut frame, b"payload"),
        // The builder knows nothing of SCTP, whose ports are where all have them.
        Sctp => {
            let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
            ip.write(&mut frame, IpNumber::SCTP, &[ports.as_slice(), &[0; 8], b"payload"].concat())
        }
    };
    written.expect("a Vec takes all");
    frame
}

fn parse(frame: &[u8]) -> Packet {
    let mut packet = Packet::UNREAD;
    packet.read(frame, Framing::Ethernet).expect("well-formed");
    packet
}

/// What becomes of a packet between the end at this host and the other one.
fn sight(
    tables: &Tables,
    transport: Transport,
    (local, remote): (SocketAddr, SocketAddr),
    direction: Direction,
    loopback: bool,
) -> Sight {
    let frame = match direction {
        Receive => frame(transport, remote, local),
        Transmit => frame(transport, local, remote),
    };
    attribute(tables, frame.as_slice(), &parse(&frame), direction, loopback).map(|owner| owner.slot)
}

/// The two sights of one packet on the loopback interface: leaving, then arriving.
fn sights(tables: &Tables, transport: Transport, source: SocketAddr, destination: SocketAddr) -> [Sight; 2] {
    [
        sight(tables, transport, (source, destination), Transmit, true),
        sight(tables, transport, (destination, source), Receive, true),
    ]
}

fn at(end: &str) -> SocketAddr {
    end.parse().expect("an address and a port")
}

/// Sees that on no loopback interface both directions of the traffic between `local` and `remote` are `expected`.
#[track_caller]
fn assert_both_ways(claims: &[Claim], transport: Transport, local: &str, remote: &str, expected: ApiSlot) {
    for direction in Direction::ALL {
        let sight = sight(&tables(claims), transport, (at(local), at(remote)), direction, false);
        assert_eq!(sight, Ok(expected), "{transport:?} {local} {remote} {direction:?}");
    }
}

#[test]
fn a_server_is_found_by_the_local_port_and_a_client_by_the_remote_one() {
    let claims = [(ORDERS, Server, Tcp, 80, None), (BILLING, Client, Tcp, 443, None)];
    for (local, remote, expected) in [
        ("10.0.0.1:80", "10.0.0.2:40000", ORDERS),
        ("10.0.0.1:40000", "10.0.0.2:443", BILLING),
        ("[2001:db8::1]:80", "[2001:db8::2]:40000", ORDERS),
        ("[2001:db8::1]:40000", "[2001:db8::2]:443", BILLING),
        // The port at the wrong end, and no port of an API at all.
        ("10.0.0.1:40000", "10.0.0.2:80", UNMAPPED),
        ("10.0.0.1:443", "10.0.0.2:40000", UNMAPPED),
        ("10.0.0.1:40000", "10.0.0.2:40001", UNMAPPED),
    ] {
        assert_both_ways(&claims, Tcp, local, remote, expected);
        assert_both_ways(&claims, Udp, local, remote, UNMAPPED);
    }
}

#[test]
fn transports_are_told_apart() {
    let claims = [
        (ORDERS, Server, Tcp, 53, None),
        (BILLING, Server, Udp, 53, None),
        (BILLING, Client, Tcp, 853, None),
        (ORDERS, Client, Udp, 853, None),
        (BILLING, Server, Sctp, 38412, None),
        (ORDERS, Client, Sctp, 53, None),
    ];
    assert_both_ways(&claims, Tcp, "10.0.0.1:53", "10.0.0.2:40000", ORDERS);
    assert_both_ways(&claims, Udp, "10.0.0.1:53", "10.0.0.2:40000", BILLING);
    assert_both_ways(&claims, Tcp, "10.0.0.1:40000", "10.0.0.2:853", BILLING);
    assert_both_ways(&claims, Udp, "10.0.0.1:40000", "10.0.0.2:853", ORDERS);
    assert_both_ways(&claims, Sctp, "10.0.0.1:38412", "10.0.0.2:40000", BILLING);
    assert_both_ways(&claims, Sctp, "10.0.0.1:40000", "10.0.0.2:53", ORDERS);
    assert_both_ways(&claims, Sctp, "10.0.0.1:53", "10.0.0.2:40000", UNMAPPED);
    for transport in [Tcp, Udp] {
        assert_both_ways(&claims, transport, "10.0.0.1:38412", "10.0.0.2:40000", UNMAPPED);
    }
}

#[test]
fn roles_are_told_apart_and_the_server_comes_first() {
    let same_port = [(ORDERS, Server, Tcp, 80, None), (BILLING, Client, Tcp, 80, None)];
    assert_both_ways(&same_port, Tcp, "10.0.0.1:80", "10.0.0.2:40000", ORDERS);
    assert_both_ways(&same_port, Tcp, "10.0.0.1:40000", "10.0.0.2:80", BILLING);
    assert_both_ways(&same_port, Tcp, "10.0.0.1:80", "10.0.0.2:80", ORDERS);

    let two_ports = [(BILLING, Client, Tcp, 443, None), (ORDERS, Server, Tcp, 80, None)];
    assert_both_ways(&two_ports, Tcp, "10.0.0.1:80", "10.0.0.2:443", ORDERS);
}

#[test]
fn traffic_without_ports_belongs_to_no_api() {
    let claims = [(ORDERS, Server, Tcp, 0, None), (ORDERS, Client, Tcp, 0, None)];
    let ethernet = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let mut echoes = [Vec::new(), Vec::new()];
    let [v4, v6] = &mut echoes;
    ethernet().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).icmpv4_echo_request(80, 1).write(v4, b"ping").expect("fits");
    ethernet().ipv6([1; 16], [2; 16], 64).icmpv6_echo_request(80, 1).write(v6, b"ping").expect("fits");
    for frame in echoes {
        for (direction, loopback) in [(Receive, false), (Transmit, false), (Receive, true), (Transmit, true)] {
            let sight = attribute(&tables(&claims), frame.as_slice(), &parse(&frame), direction, loopback);
            assert_eq!(sight.map(|owner| owner.slot), Ok(UNMAPPED), "{direction:?}, loopback {loopback}");
        }
    }
}

#[test]
fn an_api_at_an_address_comes_before_the_one_at_any() {
    let at_address = [
        (ORDERS, Server, Tcp, 80, ip("10.0.0.1")),
        (ORDERS, Server, Tcp, 80, ip("2001:db8::1")),
        (ORDERS, Client, Tcp, 443, ip("10.0.0.2")),
        (ORDERS, Client, Tcp, 443, ip("2001:db8::2")),
    ];
    let at_any = [(BILLING, Server, Tcp, 80, None), (BILLING, Client, Tcp, 443, None)];
    let with_any = [&at_address[..], &at_any[..]].concat();
    for (local, remote, is_at_address) in [
        ("10.0.0.1:80", "10.0.0.9:40000", true),
        ("10.0.0.3:80", "10.0.0.9:40000", false),
        // The other end's address is not the API's.
        ("10.0.0.3:80", "10.0.0.1:40000", false),
        ("[2001:db8::1]:80", "[2001:db8::9]:40000", true),
        ("[2001:db8::3]:80", "[2001:db8::1]:40000", false),
        ("10.0.0.9:40000", "10.0.0.2:443", true),
        ("10.0.0.2:40000", "10.0.0.3:443", false),
        ("[2001:db8::9]:40000", "[2001:db8::2]:443", true),
        ("[2001:db8::2]:40000", "[2001:db8::3]:443", false),
    ] {
        assert_both_ways(&at_address, Tcp, local, remote, if is_at_address { ORDERS } else { UNMAPPED });
        assert_both_ways(&with_any, Tcp, local, remote, if is_at_address { ORDERS } else { BILLING });
        assert_both_ways(&at_address, Udp, local, remote, UNMAPPED);
    }
}

#[test]
fn an_address_counts_for_its_own_role_alone() {
    let claims = [(ORDERS, Server, Tcp, 80, ip("10.0.0.1")), (BILLING, Client, Tcp, 80, None)];
    assert_both_ways(&claims, Tcp, "10.0.0.9:40000", "10.0.0.1:80", BILLING);
    assert_both_ways(&claims, Tcp, "10.0.0.1:80", "10.0.0.1:80", ORDERS);
    assert_both_ways(&claims, Tcp, "10.0.0.9:80", "10.0.0.1:80", BILLING);
}

#[test]
fn on_loopback_the_sight_that_is_not_the_apis_own_is_a_mirror() {
    let (caller, served) = ("127.0.0.1:40000", "127.0.0.1:80");
    let mirror = Err(Reason::Mirror);
    for address in [None, ip("127.0.0.1")] {
        for (role, request, reply) in
            [(Server, [mirror, Ok(ORDERS)], [Ok(ORDERS), mirror]), (Client, [Ok(ORDERS), mirror], [mirror, Ok(ORDERS)])]
        {
            let tables = tables(&[(ORDERS, role, Tcp, 80, address)]);
            assert_eq!(sights(&tables, Tcp, at(caller), at(served)), request, "{role:?} {address:?}");
            assert_eq!(sights(&tables, Tcp, at(served), at(caller)), reply, "{role:?} {address:?}");
            assert_eq!(sights(&tables, Udp, at(caller), at(served)), [Ok(UNMAPPED); 2], "{role:?} {address:?}");
        }
    }
}

#[test]
fn elsewhere_there_are_no_mirrors() {
    let claims = [(ORDERS, Server, Tcp, 80, None), (ORDERS, Client, Tcp, 443, None)];
    assert_both_ways(&claims, Tcp, "127.0.0.1:40000", "127.0.0.1:80", UNMAPPED);
    assert_both_ways(&claims, Tcp, "127.0.0.1:443", "127.0.0.1:40000", UNMAPPED);
}

#[test]
fn on_loopback_a_packet_of_a_server_and_a_client_counts_for_both() {
    let tables = tables(&[(ORDERS, Server, Tcp, 80, None), (BILLING, Client, Tcp, 80, None)]);
    let (caller, served) = (at("127.0.0.1:40000"), at("127.0.0.1:80"));
    assert_eq!(sights(&tables, Tcp, caller, served), [Ok(BILLING), Ok(ORDERS)]);
    assert_eq!(sights(&tables, Tcp, served, caller), [Ok(ORDERS), Ok(BILLING)]);
}

#[test]
fn a_table_that_cannot_be_read_is_told() {
    let ends = (at("10.0.0.1:40000"), at("10.0.0.2:80"));
    for port in [40000, 80] {
        let tables = Tables { unreadable: Some((Tcp, port)), ..Tables::default() };
        for direction in Direction::ALL {
            assert_eq!(sight(&tables, Tcp, ends, direction, false), Err(Reason::Internal), "{port} {direction:?}");
            assert_eq!(sight(&tables, Udp, ends, direction, false), Ok(UNMAPPED), "{port} {direction:?}");
        }
    }
}

#[test]
fn an_owner_says_which_end_this_host_is() {
    let (here, there) = (at("10.0.0.1:80"), at("10.0.0.2:40000"));
    for role in [Server, Client] {
        let port = if role == Server { here.port() } else { there.port() };
        let tables = tables(&[(ORDERS, role, Tcp, port, None)]);
        let received = frame(Tcp, there, here);
        let owner = attribute(&tables, received.as_slice(), &parse(&received), Receive, false);
        assert_eq!(owner, Ok(Owner { slot: ORDERS, role }));
    }
}

#[test]
fn a_frame_that_has_lost_its_addresses_is_told() {
    let frame = frame(Tcp, at("10.0.0.1:40000"), at("10.0.0.2:80"));
    let sight = |address| {
        let tables = tables(&[(ORDERS, Server, Tcp, 80, address)]);
        attribute(&tables, &frame[..20], &parse(&frame), Receive, false).map(|owner| owner.slot)
    };
    assert_eq!(sight(ip("10.0.0.2")), Err(Reason::Internal));
    assert_eq!(sight(None), Ok(ORDERS), "nobody asks for the address");
}

/// Few ports and addresses, so that claims and packets meet.
fn ends() -> impl Strategy<Value = SocketAddr> {
    (1..=2_u8, 1..=4_u16).prop_map(|(host, port)| SocketAddr::from(([127, 0, 0, host], port)))
}

fn transports() -> impl Strategy<Value = Transport> {
    prop_oneof![Just(Tcp), Just(Udp), Just(Sctp)]
}

/// Claims of APIs that each have a slot of their own.
fn claims(roles: impl Strategy<Value = Role>) -> impl Strategy<Value = Vec<Claim>> {
    let claim = (roles, transports(), ends(), any::<bool>());
    proptest::collection::vec(claim, 0..8).prop_map(|claims| {
        let claims = claims.into_iter().zip(1..);
        claims
            .map(|((role, transport, end, by_address), slot)| {
                (ApiSlot(slot), role, transport, end.port(), by_address.then(|| end.ip()))
            })
            .collect()
    })
}

/// The last of `claims` that is for `end`: at its address, or else at any.
fn owner(claims: &[Claim], role: Role, transport: Transport, end: SocketAddr) -> Option<ApiSlot> {
    [Some(end.ip()), None].into_iter().find_map(|at| {
        let wanted = (role, transport, end.port(), at);
        let claim = claims.iter().rev().find(|claim| (claim.1, claim.2, claim.3, claim.4) == wanted);
        claim.map(|claim| claim.0)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn with_one_role_a_packet_on_loopback_counts_once_for_each_end_that_is_an_apis(
        (role, claims) in prop_oneof![Just(Server), Just(Client)].prop_flat_map(|role| (Just(role), claims(Just(role)))),
        transport in transports(),
        (source, destination) in (ends(), ends()),
    ) {
        let owners = [source, destination].map(|end| owner(&claims, role, transport, end));
        let expected = match owners {
            [None, None] => [Ok(UNMAPPED); 2],
            // A server's own sight is the one at its end, a client's is the one at the other end.
            [source, destination] => {
                let order = if role == Server { [source, destination] } else { [destination, source] };
                order.map(|owner| owner.ok_or(Reason::Mirror))
            }
        };
        prop_assert_eq!(sights(&tables(&claims), transport, source, destination), expected);
    }

    #[test]
    fn a_mirror_on_loopback_always_has_a_sight_that_counts(
        claims in claims(prop_oneof![Just(Server), Just(Client)]),
        transport in transports(),
        (source, destination) in (ends(), ends()),
    ) {
        let sights = sights(&tables(&claims), transport, source, destination);
        let is_any_apis = [source, destination]
            .iter()
            .any(|&end| [Server, Client].iter().any(|&role| owner(&claims, role, transport, end).is_some()));
        prop_assert_eq!(sights.iter().any(|sight| sight.is_ok_and(ApiSlot::is_mapped)), is_any_apis);
        prop_assert_eq!(sights.contains(&Ok(UNMAPPED)), !is_any_apis);
        prop_assert!(!sights.contains(&Err(Reason::Internal)));
    }

    #[test]
    fn off_loopback_a_packet_is_the_local_servers_or_the_remote_clients(
        claims in claims(prop_oneof![Just(Server), Just(Client)]),
        transport in transports(),
        ends in (ends(), ends()),
        direction in prop_oneof![Just(Receive), Just(Transmit)],
    ) {
        let (local, remote) = ends;
        let owner = owner(&claims, Server, transport, local).or_else(|| owner(&claims, Client, transport, remote));
        let sight = sight(&tables(&claims), transport, ends, direction, false);
        prop_assert_eq!(sight, Ok(owner.unwrap_or(UNMAPPED)));
    }
}
