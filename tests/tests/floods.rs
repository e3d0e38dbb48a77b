//! Floods from a million sources: who talks goes on to be counted to the packet, and what was flooded is counted to the packet.

#![allow(clippy::expect_used, reason = "a test panics for a stack trace")]

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use tidewaiter::{
    api::Transport,
    kernel::FlowTable::{Established, New},
    snapshot::{ApiDetails, ApiSnapshot},
};
use tidewaiter_common::packet::tcp_flag::{ACK, PSH, SYN};
use tidewaiter_tests::{
    accounting::{account, flows},
    frames::{End, Kind, frame},
    network::{INTERFACE, Network, Offload, send_frames},
    random::Random,
};

/// Sources of each flood.
const SOURCES: usize = 1_000_000;
/// How many of them send before those who talk get a word in.
const WAVE: usize = 50_000;
const TALKERS: usize = 100;
const SERVER: End = (IpAddr::V4(Network::SERVER4), 8080);
/// Where the flags are in a frame of IPv4 without options.
const FLAGS: usize = 14 + 20 + 13;

/// A frame that its sender can be changed in: checksums are of no consequence, because nobody takes what is sent to all hosts.
fn template(transport: Transport, flags: u8) -> Vec<u8> {
    let source = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let mut template = frame(Kind { transport, options: false, payload: 6 }, source, SERVER);
    if transport == Transport::Tcp {
        template[FLAGS] = flags;
    }
    template
}

/// The frame of one of the sources: no two are alike, and none is one that talks.
fn from_source(template: &[u8], random: &mut Random, number: usize) -> Vec<u8> {
    let mut frame = template.to_vec();
    let [_, a, b, c] = u32::try_from(number).expect("a million").to_be_bytes();
    frame[14 + 12..14 + 16].copy_from_slice(&[172, 16 + a, b, c]);
    frame[34..36].copy_from_slice(&[random.byte() | 1, random.byte()]);
    frame
}

fn details(api: &ApiSnapshot) -> &ApiDetails {
    api.details.as_deref().expect("flows are kept")
}

#[test]
fn a_million_sources_change_nothing_for_those_who_talk() {
    let network = Network::new(Offload::Off);
    let Network { server, client: far } = &network;
    let mut accounting = account(server, INTERFACE, 4096, Duration::MAX);
    let talkers: Vec<End> = (0..TALKERS)
        .map(|number| (Ipv4Addr::new(10, 200, 0, u8::try_from(number).expect("a few")).into(), 50_000))
        .collect();
    let segments = |flags: u8, is_to_server: bool| -> Vec<Vec<u8>> {
        let kind = Kind { transport: Transport::Tcp, options: false, payload: 6 };
        let with = |(from, to)| {
            let mut segment = frame(kind, from, to);
            segment[FLAGS] = flags;
            segment
        };
        talkers.iter().map(|&talker| with(if is_to_server { (talker, SERVER) } else { (SERVER, talker) })).collect()
    };
    let send = |from_far: bool, frames: &[Vec<u8>]| {
        let host = if from_far { far } else { server };
        host.run(|| send_frames(INTERFACE, frames, 1)).expect("is sent");
    };
    send(true, &segments(SYN, true));
    send(false, &segments(SYN | ACK, false));
    send(true, &segments(ACK, true));

    let mut random = Random::new(1_234_567);
    let (mut words, mut floods) = (1, 0);
    for (transport, flags) in [(Transport::Tcp, SYN), (Transport::Tcp, ACK), (Transport::Udp, 0)] {
        let template = template(transport, flags);
        for first in (0..SOURCES).step_by(WAVE) {
            let wave: Vec<_> =
                (first..first + WAVE).map(|number| from_source(&template, &mut random, number)).collect();
            send(true, &wave);
            send(true, &segments(PSH | ACK, true));
            send(false, &segments(PSH | ACK, false));
            words += 1;
        }
        floods += 1;
    }

    let established = flows(&mut accounting, Established);
    assert_eq!(established.len(), TALKERS, "the flood has made or displaced established flows");
    for (_, flow) in &established {
        let packets = flow.wire().map(|counters| counters.packets);
        assert_eq!(packets, [words + 1, words]);
    }
    let room = accounting.kernel().flow_capacity().new as usize;
    let new = flows(&mut accounting, New).len();
    assert!(0 < new && new <= room, "{new} flows where {room} have room");

    let snapshot = accounting.snapshot();
    let [unmapped, orders] = snapshot.apis.as_slice() else { panic!("two APIs") };
    let talked = TALKERS as u64 * words;
    let received = floods * SOURCES as u64 + talked + TALKERS as u64;
    assert_eq!(orders.counters.wire.map(|counters| counters.packets), [received, talked]);
    let ApiDetails { attempts, refused, opened, adopted, closed, left, .. } = *details(orders);
    assert_eq!((attempts, opened), ((SOURCES + TALKERS) as u64, TALKERS as u64));
    assert_eq!((refused, adopted, closed, left), (0, 0, [0; 3], 0));
    assert_eq!(details(unmapped).attempts, 0);
    assert_eq!(orders.counters.untracked.packets, 0);
}
