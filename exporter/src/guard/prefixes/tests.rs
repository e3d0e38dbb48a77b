#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test panics for a stack trace, and a measurement is printed"
)]

use std::{
    collections::BTreeSet,
    hint::black_box,
    net::{Ipv4Addr, Ipv6Addr},
    time::Instant,
};

use proptest::{collection::vec, prelude::*};

use tidewaiter_common::address::Address;

use super::*;

const CAPACITY: usize = 1 << 20;

fn network(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn build(members: &[(u16, IpNet)], chance: u64) -> PrefixTables {
    let mut prefixes = Prefixes::default();
    for (set, network) in members {
        prefixes.insert(*set, *network).unwrap();
    }
    prefixes.build_by_chance(CAPACITY, Chance(chance)).unwrap()
}

/// The sets that `address` is in, by the table.
fn sets(tables: &PrefixTables, address: IpAddr) -> &BTreeSet<u16> {
    &tables.combinations[usize::from(tables.who(address))]
}

/// The sets that it is in, by looking at all of them.
fn model(members: &[(u16, IpNet)], address: IpAddr) -> BTreeSet<u16> {
    let is_in = |network: &IpNet| match (network, address.to_canonical()) {
        (IpNet::V6(network), IpAddr::V4(address)) => {
            network.prefix_len() >= 96 && network.contains(&address.to_ipv6_mapped())
        }
        (network, address) => network.contains(&address),
    };
    members.iter().filter(|(_, network)| is_in(network)).map(|(set, _)| *set).collect()
}

/// Addresses that are close to each other, so that prefixes of them lie within each other.
fn bits() -> impl Strategy<Value = u128> {
    (prop_oneof![Just(0), Just(u128::MAX), Just(0xaaaa_aaaa << 96), any::<u128>()], vec(0_u32..128, 0..4))
        .prop_map(|(bits, flips)| flips.into_iter().fold(bits, |bits, flip| bits ^ (1 << flip)))
}

/// Addresses of all kinds.
fn addresses() -> impl Strategy<Value = IpAddr> {
    (bits(), 0_u8..5).prop_map(|(bits, kind)| match kind {
        0 | 1 => Ipv4Addr::from_bits((bits >> 96) as u32).into(),
        2 => Ipv4Addr::from_bits((bits >> 96) as u32).to_ipv6_mapped().into(),
        _ => Ipv6Addr::from_bits(bits).into(),
    })
}

/// Prefixes of those, of all lengths; `lengths` have most of them.
fn networks() -> impl Strategy<Value = IpNet> {
    (addresses(), prop_oneof![0_u8..=128, Just(0), Just(128), Just(24), Just(96)]).prop_map(|(address, length)| {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new(address, length.min(longest)).unwrap()
    })
}

/// The addresses at the edges of `network`, and just outside.
fn edges(network: IpNet) -> Vec<IpAddr> {
    let ends = [network.network(), network.broadcast()];
    let beyond = |address: IpAddr, step: u128| match address {
        IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits().wrapping_add(step as u32))),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits().wrapping_add(step))),
    };
    vec![ends[0], ends[1], beyond(ends[0], u128::MAX), beyond(ends[1], 1)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn an_address_is_in_the_sets_that_have_a_prefix_of_it(
        members in vec((0_u16..7, networks()), 0..60),
        others in vec(addresses(), 0..50),
        chance in any::<u64>(),
    ) {
        let tables = build(&members, chance);
        for address in members.iter().flat_map(|(_, network)| edges(*network)).chain(others) {
            prop_assert_eq!(sets(&tables, address), &model(&members, address), "{}", address);
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn all_lengths_at_once_are_found(bits in any::<u128>(), flip in 0_u32..128, chance in any::<u64>()) {
        // Around one address and its neighbours, one set for each bit of the length, so that each length is another combination.
        let of = |length: u8| (0..8).filter(move |bit| length >> bit & 1 == 1);
        let v6 = IpAddr::V6(Ipv6Addr::from_bits(bits));
        let v4 = IpAddr::V4(Ipv4Addr::from_bits(bits as u32));
        let members: Vec<_> = [(v4, 32), (v6, 128)]
            .into_iter()
            .flat_map(|(address, longest)| (0..=longest).map(move |length| IpNet::new(address, length).unwrap()))
            .flat_map(|network| of(network.prefix_len()).map(move |set| (set, network)))
            .collect();
        let tables = build(&members, chance);
        let flipped = |address: IpAddr| match address {
            IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() ^ 1 << (flip % 32))),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() ^ 1 << flip)),
        };
        for address in [v4, v6, flipped(v4), flipped(v6)] {
            prop_assert_eq!(sets(&tables, address), &model(&members, address), "{}", address);
        }
    }
}

#[test]
fn ipv4_is_ipv4_however_it_is_written() {
    let tables = build(&[(1, network("::ffff:0:0/96")), (2, network("::ffff:10.0.0.0/104")), (3, network("::/0"))], 1);
    for (text, expected) in [
        ("192.0.2.1", vec![1]),
        ("::ffff:192.0.2.1", vec![1]),
        ("10.1.1.1", vec![1, 2]),
        ("::ffff:10.1.1.1", vec![1, 2]),
        ("2001:db8::1", vec![3]),
        ("::fffe:10.1.1.1", vec![3]),
    ] {
        assert_eq!(sets(&tables, address(text)), &expected.into_iter().collect(), "{text}");
    }
}

#[test]
fn what_changes_nothing_takes_no_place() {
    let tables = build(
        &[
            (1, network("10.0.0.0/8")),
            (1, network("10.0.0.0/8")),
            (1, network("10.1.0.0/16")),
            (2, network("0.0.0.0/0")),
        ],
        2,
    );
    assert_eq!((tables.statistics.prefixes, tables.statistics.entries), (1, 1));
    assert_eq!(tables.combinations, [vec![], vec![2], vec![1, 2]].map(BTreeSet::from_iter));
    assert_eq!([address("10.1.2.3"), address("11.0.0.1"), address("::")].map(|one| tables.who(one)), [2, 1, NOBODY]);

    let nothing = Prefixes::default().build(CAPACITY).unwrap();
    assert_eq!([address("10.1.2.3"), address("::")].map(|one| nothing.who(one)), [NOBODY; 2]);
}

#[test]
fn what_there_is_no_room_for_is_refused() {
    let mut prefixes = Prefixes::default();
    assert_eq!(prefixes.insert(MOST_SETS, network("10.0.0.0/8")), Err(PrefixesError::TooManySets));
    prefixes.insert(MOST_SETS - 1, network("10.0.0.0/8")).unwrap();
    let tables = prefixes.build(CAPACITY).unwrap();
    assert_eq!(sets(&tables, address("10.0.0.1")), &BTreeSet::from([MOST_SETS - 1]));

    let nested = |sets: u16| {
        let mut prefixes = Prefixes::default();
        for set in 0..sets {
            let address = Ipv6Addr::from_bits(u128::from(set) << 100);
            prefixes.insert(set, IpNet::new(address.into(), 64).unwrap()).unwrap();
        }
        prefixes
    };
    assert_eq!(nested(255).build(CAPACITY).unwrap().combinations.len(), 256);
    assert_eq!(nested(256).build(CAPACITY).unwrap_err(), PrefixesError::TooManyCombinations);
    assert_eq!(nested(255).build(512 + 8).unwrap().entries.len(), 512 + 8);
    assert_eq!(nested(255).build(512 + 7).unwrap_err(), PrefixesError::TooLarge { prefixes: 255, capacity: 519 });
}

/// Prefixes as blocklists have them: single addresses, networks, clusters of both, rows without gaps, and some large ones.
fn blocklists(count: u64, chance: &mut Chance) -> Vec<(u16, IpNet)> {
    let mut members = Vec::new();
    let mut cluster = 0;
    for index in 0..count {
        let (high, low) = (chance.number(), chance.number());
        if index % 16 == 0 {
            cluster = high as u32;
        }
        let v4 = |bits: u32, length: u64| IpNet::new(Ipv4Addr::from_bits(bits).into(), length as u8).unwrap().trunc();
        let v6 = |bits: u128, length: u64| IpNet::new(Ipv6Addr::from_bits(bits).into(), length as u8).unwrap().trunc();
        let site = 0x2000 << 112 | u128::from(high) << 52;
        let network = match index % 10 {
            0..3 => v4(high as u32, 32),
            3 => v4(high as u32, 12 + low % 21),
            4 | 5 => v4(cluster ^ low as u32 & 0xfff, 24 + low % 9),
            6 => v4(0x0b00_0000 + (index as u32) * 26, 32),
            7 => v6(site, 29 + low % 36),
            8 => v6(site | u128::from(low), 128),
            _ => v6(0x2001_0db8 << 96 | u128::from(index) << 64, 64),
        };
        members.push(((low >> 32) as u16 % 5, network));
    }
    members
}

#[test]
fn a_hundred_thousand_prefixes_are_all_found() {
    let mut chance = Chance(7);
    let members = blocklists(100_000, &mut chance);
    let start = Instant::now();
    let tables = build(&members, 8);
    println!("built in {:?}: {:?}, {} places", start.elapsed(), tables.statistics, tables.entries.len());

    // To look at all prefixes for each address would take too long: one set for each length will do.
    let mut by_length = std::collections::HashMap::<IpNet, BTreeSet<u16>>::new();
    for (set, network) in &members {
        by_length.entry(*network).or_default().insert(*set);
    }
    let model = |address: IpAddr| -> BTreeSet<u16> {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let networks = (0..=longest).map(|length| IpNet::new(address, length).unwrap().trunc());
        networks.filter_map(|network| by_length.get(&network)).flatten().copied().collect()
    };
    for (index, (_, network)) in members.iter().enumerate() {
        for address in edges(*network).into_iter().skip(index % 4).take(1) {
            assert_eq!(sets(&tables, address), &model(address), "{address}");
        }
    }
    for _ in 0..10_000 {
        let (high, low) = (chance.number(), chance.number());
        let v6 = 0x2000 << 112 | u128::from(high) << 52 | u128::from(low);
        for address in [Ipv4Addr::from_bits(high as u32).into(), Ipv6Addr::from_bits(v6).into()] {
            assert_eq!(sets(&tables, address), &model(address), "{address}");
        }
    }
}

#[test]
#[ignore = "a measurement, to be read: cargo test --release -- --ignored --nocapture"]
fn how_long_a_lookup_takes() {
    let mut chance = Chance(7);
    let members = blocklists(100_000, &mut chance);
    let start = Instant::now();
    let tables = build(&members, 8);
    println!("built in {:?}: {:?}, {} places", start.elapsed(), tables.statistics, tables.entries.len());
    let in_lists = |is_v4: bool| {
        members.iter().map(|(_, network)| network.network()).filter(move |address| address.is_ipv4() == is_v4)
    };
    let v4: Vec<_> = (0..200_000).map(|_| IpAddr::V4(Ipv4Addr::from_bits(chance.number() as u32))).collect();
    let v6: Vec<_> =
        (0..200_000).map(|_| Ipv6Addr::from_bits(0x2 << 124 | u128::from(chance.number()) << 60).into()).collect();
    let is_miss = |address: &&IpAddr| tables.who(**address) == NOBODY;
    for (name, addresses) in [
        ("IPv4, hit", in_lists(true).collect::<Vec<_>>()),
        ("IPv6, hit", in_lists(false).collect()),
        ("IPv4, miss", v4.iter().filter(is_miss).copied().collect()),
        ("IPv6, miss", v6.iter().filter(is_miss).copied().collect()),
    ] {
        let addresses: Vec<_> = addresses.into_iter().map(Address::from).collect();
        for (kind, few) in [("hot", 64), ("cold", addresses.len())] {
            let (start, mut sum) = (Instant::now(), 0);
            for address in addresses[..few].iter().cycle().take(2_000_000) {
                sum += u64::from(lookup(&tables.header, &tables, black_box(*address)));
            }
            println!("{name}, {kind}: {} ns ({sum})", start.elapsed().as_nanos() / 2_000_000);
        }
    }
}
