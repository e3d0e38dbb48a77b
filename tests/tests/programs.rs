//! The programs by themselves, by `BPF_PROG_TEST_RUN`: whatever the frame, the packet goes on, and is counted once.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{net::IpAddr, time::Duration};

use tidewaiter::{
    accounting::Accounting,
    api::{Api, Role},
    config::AttachMode,
    interfaces::{Interface, LinkLayer},
    kernel::{FlowCapacity, Kernel, KernelError, LoadOptions},
    snapshot::{Counters, Direction, InterfaceCounters, Reason, Snapshot},
};
use tidewaiter_common::{
    packet::{MAX_EXTENSION_HEADERS, MAX_VLAN_TAGS, VLAN_TAG, protocol},
    transport::Transport,
};
use tidewaiter_tests::{
    frames::{End, Kind, frame},
    namespace::Namespace,
    random::Random,
};

/// "Ask the next program", to TCX and TC alike.
const NEXT: i32 = -1;

/// What both programs made of some frames.
struct Outcome {
    api: [Counters; Direction::COUNT],
    unmapped: [Counters; Direction::COUNT],
    interface: InterfaceCounters,
}

impl Outcome {
    fn uncounted(&self, direction: Direction, reason: Reason) -> u64 {
        self.interface.uncounted[direction.index()][reason.index()].packets
    }
}

/// Accounting that counts port 80 of every transport as "web", with its programs attached to a loopback interface without
/// any traffic, so that they can be run as if a frame passed it.
fn with_accounting<T: Send>(test: impl FnOnce(&mut Accounting) -> T + Send) -> T {
    Namespace::new().run(|| {
        let options = LoadOptions { flows: FlowCapacity::for_established(1024), ..LoadOptions::default() };
        let kernel = Kernel::load(options).expect("the kernel takes the programs");
        let mut accounting = Accounting::new(kernel, AttachMode::Auto, Duration::MAX).expect("it can be read");
        let transports = Transport::ALL.to_vec();
        let (name, role) = ("web".to_owned(), Role::Server);
        let web = Api { name, role, transports, ports: vec![80.into()], addresses: Vec::new(), expect: Vec::new() };
        accounting.apply_apis(&[web]).expect("is written");
        let lo = Interface { index: 1, name: "lo".to_owned(), link_layer: LinkLayer::Loopback };
        assert!(accounting.apply_interfaces(&[lo]).is_empty());
        test(&mut accounting)
    })
}

fn outcome(accounting: &mut Accounting) -> Outcome {
    let Snapshot { apis, interfaces, collectors, .. } = accounting.snapshot();
    assert!(collectors.iter().all(|collector| collector.success), "{collectors:?}");
    let [unmapped, web] = apis.try_into().expect("two APIs");
    let [lo] = interfaces.try_into().expect("one interface");
    Outcome { api: web.counters.wire, unmapped: unmapped.counters.wire, interface: lo.counters }
}

/// Runs both programs on `frame`; a frame that the kernel refuses to run them on is said to be so.
fn run(accounting: &mut Accounting, frame: &[u8]) -> bool {
    let mut taken = true;
    for direction in Direction::ALL {
        match accounting.kernel().test_run(direction, frame, 1) {
            Ok(run) => assert_eq!(run.verdict, NEXT, "{frame:02x?}"),
            Err(KernelError::TestRun { .. }) => taken = false,
            Err(error) => panic!("{error}"),
        }
    }
    taken
}

const US: (IpAddr, IpAddr) =
    (IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V6(std::net::Ipv6Addr::new(1, 2, 3, 4, 5, 6, 7, 8)));

/// A frame from port 40000 to `port`.
fn to_port(transport: Transport, address: IpAddr, port: u16) -> Vec<u8> {
    let (client, server): (End, End) = ((address, 40_000), (address, port));
    frame(Kind { transport, options: false, payload: 20 }, client, server)
}

#[test]
fn each_program_counts_what_it_is_for() {
    with_accounting(|accounting| {
        for transport in Transport::ALL {
            for address in [US.0, US.1] {
                assert!(run(accounting, &to_port(transport, address, 80)));
                assert!(run(accounting, &to_port(transport, address, 81)));
            }
        }
        let Outcome { api, unmapped, interface } = outcome(accounting);
        let transports = 20 + 8 + 12;
        let bytes = 3 * (14 + 20) + transports + 3 * (14 + 40) + transports + 6 * 20;
        // Received, the API's port is the local one; transmitted, it is the remote one, and on lo that is the mirror.
        let counts = Counters { packets: 6, bytes };
        assert_eq!(api, [counts, Counters::default()]);
        assert_eq!(unmapped, [counts, counts]);
        assert_eq!(interface.uncounted[1][Reason::Mirror.index()], counts);
        for totals in interface.totals {
            assert_eq!((totals.wire, totals.buffers), (Counters { packets: 12, bytes: 2 * bytes }, 12));
        }
    });
}

/// `frame` with `count` tags.
fn tagged(frame: &[u8], count: usize) -> Vec<u8> {
    [&frame[..12], &[0x81, 0x00, 0x00, 0x07].repeat(count), &frame[12..]].concat()
}

/// `frame`, of IPv6, with `count` extension headers of 8 bytes, destination options that say nothing.
fn extended(frame: &[u8], count: usize) -> Vec<u8> {
    let (headers, payload) = frame.split_at(14 + 40);
    let mut headers = headers.to_vec();
    let mut next_header = std::mem::replace(&mut headers[14 + 6], protocol::DESTINATION);
    let mut extensions = Vec::new();
    for _ in 0..count {
        // Their order is of no consequence, so the first that is made is the last.
        extensions.splice(0..0, [next_header, 0, 1, 4, 0, 0, 0, 0]);
        next_header = protocol::DESTINATION;
    }
    let length = u16::try_from(extensions.len() + payload.len()).expect("is short");
    headers[14 + 4..14 + 6].copy_from_slice(&length.to_be_bytes());
    [headers, extensions, payload.to_vec()].concat()
}

#[test]
fn as_many_tags_and_extension_headers_as_are_read_are_read() {
    with_accounting(|accounting| {
        let mut expected = Counters::default();
        for transport in Transport::ALL {
            for count in 0..=MAX_VLAN_TAGS {
                for address in [US.0, US.1] {
                    let frame = tagged(&to_port(transport, address, 80), count);
                    assert!(run(accounting, &frame));
                    expected += Counters { packets: 1, bytes: frame.len() as u64 };
                }
            }
            for count in 1..=MAX_EXTENSION_HEADERS {
                let frame = tagged(&extended(&to_port(transport, US.1, 80), count), MAX_VLAN_TAGS);
                assert!(run(accounting, &frame));
                expected += Counters { packets: 1, bytes: frame.len() as u64 };
            }
        }
        let Outcome { api, unmapped: _, interface } = outcome(accounting);
        assert_eq!(api, [expected, Counters::default()]);
        assert_eq!(interface.uncounted[1][Reason::Mirror.index()], expected);
    });
}

#[test]
fn every_reason_is_counted_under_its_own_name() {
    let tcp = to_port(Transport::Tcp, US.0, 80);
    let with = |offset: usize, bytes: &[u8]| {
        let mut frame = tcp.clone();
        frame[offset..offset + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let mut version = to_port(Transport::Tcp, US.1, 80);
    version[14] = 0x40;
    let udp = to_port(Transport::Udp, US.1, 80);
    let sctp = to_port(Transport::Sctp, US.1, 80);
    let cases = [
        (with(12, &[0x08, 0x06]), Reason::NotIp),
        (tagged(&tcp, MAX_VLAN_TAGS + 1), Reason::Vlan),
        (tagged(&tcp, 1)[..14 + VLAN_TAG - 1].to_vec(), Reason::EthernetTruncated),
        (with(14, &[0x44]), Reason::Ipv4Malformed),
        (with(20, &[0x00, 0x01]), Reason::Fragment),
        (extended(&udp, MAX_EXTENSION_HEADERS + 1), Reason::Ipv6Extension),
        (extended(&udp, 1)[..14 + 40 + 7].to_vec(), Reason::Ipv6Truncated),
        (version, Reason::Ipv6Malformed),
        (with(46, &[0x40]), Reason::TcpMalformed),
        (with(16, &[0, 39]), Reason::TcpTruncated),
        (udp[..14 + 40 + 7].to_vec(), Reason::UdpTruncated),
        (sctp[..14 + 40 + 11].to_vec(), Reason::SctpTruncated),
        // The kernel runs no program on less than an IPv4 header; an IPv4 header may have options.
        (with(14, &[0x4f])[..14 + 59].to_vec(), Reason::Ipv4Truncated),
    ];
    with_accounting(|accounting| {
        for (frame, reason) in cases {
            let before = outcome(accounting);
            assert!(run(accounting, &frame), "the kernel refuses the frame for {reason:?}");
            let after = outcome(accounting);
            for direction in Direction::ALL {
                let count = after.uncounted(direction, reason) - before.uncounted(direction, reason);
                assert_eq!(count, 1, "{reason:?}, {}", direction.as_str());
            }
        }
    });
}

#[test]
fn truncated_oversized_and_random_frames_are_all_counted() {
    let mut random = Random::new(0x1234_5678_9abc_def1);
    let kinds: Vec<_> = Transport::ALL.iter().flat_map(|&t| [US.0, US.1].map(|us| to_port(t, us, 80))).collect();
    let mut frames = Vec::new();
    for frame in &kinds {
        frames.extend((0..=frame.len()).map(|length| frame[..length].to_vec()));
        for length in [1514, 3000, 3520, 9000, 65_535] {
            let mut long = frame.clone();
            long.resize(length, 0);
            frames.push(long);
        }
    }
    for _ in 0..20_000 {
        let mut frame = kinds[random.below(kinds.len())].clone();
        for _ in 0..=random.below(6) {
            let place = random.below(frame.len());
            frame[place] = random.byte();
        }
        frames.push(frame);
        let length = random.below(200);
        frames.push((0..length).map(|_| random.byte()).collect());
    }

    with_accounting(|accounting| {
        let (mut taken, mut bytes) = (0, 0);
        for frame in &frames {
            if run(accounting, frame) {
                taken += 1;
                bytes += frame.len() as u64;
            }
        }
        println!("{taken} frames of {} were run, the kernel refuses the others", frames.len());
        assert!(taken > 30_000);
        let Outcome { api, unmapped, interface } = outcome(accounting);
        for direction in Direction::ALL.map(Direction::index) {
            let seen = interface.totals[direction].wire;
            assert_eq!(seen, Counters { packets: taken, bytes });
            let mut sum: Counters = interface.uncounted[direction].into_iter().sum();
            sum += api[direction];
            sum += unmapped[direction];
            assert_eq!(sum, seen);
            assert_eq!(interface.uncounted[direction][Reason::Internal.index()], Counters::default());
        }
    });
}
