//! More connections end at once than the kernel has room to tell of: the walk over the flow table finds the rest, and each is
//! told once.

#![allow(clippy::expect_used, reason = "a test panics for a stack trace")]

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use tidewaiter::{
    api::Transport,
    flow::{CloseReason, FlowEnd, FlowRecord},
    kernel::FlowTable::Established,
    snapshot::{Counters, Lost},
    tracker::FlowTracker,
};
use tidewaiter_common::packet::tcp_flag::{ACK, FIN, SYN};
use tidewaiter_tests::{
    accounting::{account, flows},
    frames::{End, Kind, frame},
    network::{INTERFACE, Network, Offload, send_frames},
    wait::wait_until,
};

/// Connections: the ring of ended flows holds 2 MiB, 56 bytes of it for each.
const CONNECTIONS: usize = 50_000;
const RING: usize = (1 << 21) / 56;
/// Flows that the table has room for: twice as many, so that its buckets do not matter.
const CAPACITY: u32 = 1 << 17;
/// How many begin before the first of them goes on: those that are not established have room for an eighth.
const WAVE: usize = 2048;
/// Hosts that they come from, fewer than have a name.
const CLIENTS: usize = 50;
const SERVER: End = (IpAddr::V4(Network::SERVER4), 8080);

/// The most bytes that are said on one.
const MOST_SAID: usize = 999;

/// Where IPv4 and TCP are in a frame without options.
const IP: usize = 14;
const TCP: usize = IP + 20;

/// A frame that its ends can be changed in: checksums are of no consequence, because nobody takes what is sent to all hosts.
fn template(flags: u8, is_to_server: bool, payload: usize) -> Vec<u8> {
    let client = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let (from, to) = if is_to_server { (client, SERVER) } else { (SERVER, client) };
    let mut template = frame(Kind { transport: Transport::Tcp, options: false, payload }, from, to);
    template[TCP + 13] = flags;
    template
}

/// The client of the connection with `number`.
fn client(number: usize) -> (Ipv4Addr, u16) {
    let small = |number: usize| u8::try_from(number).expect("a small number");
    let port = u16::try_from(10_000 + number / CLIENTS).expect("a port");
    (Ipv4Addr::new(10, 200, 0, small(number % CLIENTS)), port)
}

/// How much the connection with `number` says: so that no other's bytes make up for it.
fn payload(number: usize) -> usize {
    number % (MOST_SAID + 1)
}

#[test]
fn what_the_ring_has_no_room_for_is_found_by_the_sweep_and_told_once() {
    const { assert!(RING + 10_000 < CONNECTIONS) };
    let network = Network::new(Offload::Off);
    let Network { server, client: far } = &network;
    let mut accounting = account(server, INTERFACE, CAPACITY, Duration::from_hours(1));
    accounting.follow_flows(FlowTracker::new(CLIENTS, Instant::now())).expect("can be read");
    let mut records = accounting.tracker().expect("follows").add_sink("test", CONNECTIONS + 1);

    // Flags, whether the client sends it, and whether something is said.
    let steps = [
        (SYN, true, false),
        (SYN | ACK, false, false),
        (ACK, true, true),
        (FIN | ACK, true, false),
        (FIN | ACK, false, false),
        (ACK, true, false),
    ]
    .map(|(flags, is_to_server, speaks)| {
        let longest = if speaks { MOST_SAID } else { 0 };
        (template(flags, is_to_server, longest), is_to_server, speaks)
    });
    for first in (0..CONNECTIONS).step_by(WAVE) {
        for (template, is_to_server, speaks) in &steps {
            let segments: Vec<_> = (first..CONNECTIONS.min(first + WAVE))
                .map(|number| {
                    let mut segment = template.clone();
                    if *speaks {
                        let length = TCP + 20 + payload(number);
                        segment.truncate(length);
                        let total = u16::try_from(length - IP).expect("a packet");
                        segment[IP + 2..IP + 4].copy_from_slice(&total.to_be_bytes());
                    }
                    let (address, port) = client(number);
                    let (address_at, port_at) = if *is_to_server { (IP + 12, TCP) } else { (IP + 16, TCP + 2) };
                    segment[address_at..address_at + 4].copy_from_slice(&address.octets());
                    segment[port_at..port_at + 2].copy_from_slice(&port.to_be_bytes());
                    segment
                })
                .collect();
            let host = if *is_to_server { far } else { server };
            host.run(|| send_frames(INTERFACE, &segments, 1)).expect("is sent");
        }
    }
    assert_eq!(flows(&mut accounting, Established).len(), CONNECTIONS, "nobody has looked yet");
    let lost = accounting.snapshot().lost.expect("flows are kept")[Lost::Ended as usize];
    println!("{lost} of {CONNECTIONS} ends found no room in the ring");
    assert_eq!(lost, (CONNECTIONS - RING) as u64);

    // Those that the ring told of, and only those, once they have rested.
    wait_until("the ring's to be finished", || {
        while accounting.drain_flows(Instant::now() + Duration::from_millis(50)).expect("can be read") {}
        flows(&mut accounting, Established).len() <= CONNECTIONS - RING
    });
    assert_eq!(flows(&mut accounting, Established).len(), CONNECTIONS - RING);
    assert_eq!(records.len(), RING);
    // The others.
    wait_until("the rest to be found", || {
        assert!(!accounting.sweep_flows(Instant::now() + Duration::from_mins(1)).expect("can be read"));
        flows(&mut accounting, Established).is_empty()
    });
    accounting.drain_flows(Instant::now()).expect("can be read");

    let mut told = HashMap::new();
    while let Ok(record) = records.try_recv() {
        let FlowRecord { remote, wire, end, .. } = *record;
        assert_eq!(end, Some(FlowEnd::Closed(CloseReason::Fin)), "{remote}");
        assert_eq!(told.insert(remote, wire), None, "{remote} is told twice");
    }
    let segment = template(0, true, 0).len() as u64;
    let mut of_clients = HashMap::<IpAddr, u64>::new();
    for number in 0..CONNECTIONS {
        let client = SocketAddr::from(client(number));
        let received = Counters { packets: 4, bytes: 4 * segment + payload(number) as u64 };
        let transmitted = Counters { packets: 2, bytes: 2 * segment };
        assert_eq!(told.remove(&client), Some([received, transmitted]), "{client}");
        *of_clients.entry(client.ip()).or_default() += received.bytes + transmitted.bytes;
    }
    assert!(told.is_empty(), "nobody else: {told:?}");

    let snapshot = accounting.snapshot();
    let orders = snapshot.apis.iter().find(|api| api.name == "orders").expect("is counted");
    let clients = orders.clients.as_ref().expect("are followed");
    let named: HashMap<_, _> = clients.named.iter().map(|client| (client.address, client.bytes)).collect();
    assert_eq!((named, clients.other), (of_clients, Some(0)));
    let all: u64 = orders.counters.wire.iter().map(|counters| counters.bytes).sum();
    assert_eq!(all, clients.named.iter().map(|client| client.bytes).sum::<u64>());
    let details = orders.details.as_deref().expect("flows are kept");
    let connections = CONNECTIONS as u64;
    assert_eq!((details.opened, details.closed, details.active()), (connections, [connections, 0, 0], 0));
    assert_eq!(snapshot.lost.expect("flows are kept")[Lost::Finished as usize], 0);
}
