//! Frames of every shape, by `BPF_PROG_TEST_RUN`.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Instant,
};

use tidewaiter_common::{
    frame::Framing,
    packet::{protocol, tcp_flag},
};
use tidewaiter_tests::{
    layers::{Ipv4, Layer, Ports, ethernet, extension, ipv6, sctp, tag, tcp, udp},
    refuser::{Refuser, Way},
    wait::wait_for,
};

use crate::answer;

const CLIENT4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SERVER4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const PORTS: Ports = Ports(40_000, 8080);

/// `XDP_PASS` and `XDP_TX` (`include/uapi/linux/bpf.h`); "ask the next program" and `TC_ACT_REDIRECT`.
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const NEXT: u32 = u32::MAX;
const REDIRECT: u32 = 7;

/// What of a packet is above IP.
fn above(payload: &[u8]) -> Vec<Layer> {
    let echo = |kind: u8| [&[kind, 0, 0, 0, 0, 1, 0, 1], payload].concat();
    vec![
        tcp(PORTS, tcp_flag::SYN, 5, payload),
        tcp(PORTS, tcp_flag::ACK | tcp_flag::PSH, 0, payload),
        tcp(PORTS, tcp_flag::RST, 0, payload),
        udp(PORTS, payload),
        sctp(PORTS, payload),
        Layer::new(protocol::ICMP.into(), echo(8)),
        Layer::new(protocol::ICMP.into(), echo(3)),
        Layer::new(protocol::ICMPV6.into(), echo(128)),
        Layer::new(protocol::ICMPV6.into(), echo(1)),
    ]
}

/// A frame, and how many tags it has, and whether anything stands between its IP header and what is above.
struct Shape {
    frame: Vec<u8>,
    tags: usize,
    is_extended: bool,
}

fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for payload in [0, 1, 200, 1_400].map(|length| vec![0x5a; length]) {
        for above in above(&payload) {
            for is_extended in [false, true] {
                let options: &[u8] = if is_extended { &[0x94, 4, 0, 0] } else { &[] };
                let header = Ipv4 { source: CLIENT4, destination: SERVER4, options, fragment: 0 };
                let ipv4 = header.around(&above);
                let ipv6 = if is_extended {
                    ipv6(CLIENT6, SERVER6, &extension(protocol::DESTINATION, 1, &above))
                } else {
                    ipv6(CLIENT6, SERVER6, &above)
                };
                for mut layer in [ipv4, ipv6] {
                    for tags in 0..=3 {
                        let mut frame = ethernet(&layer);
                        // To the loopback interface, where the programs of TC are run.
                        frame[..6].fill(0);
                        shapes.push(Shape { frame, tags, is_extended });
                        layer = tag(0x8100, 7, &layer);
                    }
                }
            }
        }
    }
    shapes
}

/// Runs the program on each shape: it gets the answer that it should, if that `is_possible`, and else goes on as it is.
fn check(way: Way, [verdict, otherwise]: [u32; 2], is_possible: impl Fn(&Shape) -> bool) {
    let mut refuser = Refuser::load(way);
    let (mut answers, mut others) = (0, 0);
    for shape in shapes() {
        let frame = &shape.frame;
        if let Some(expected) = answer::to(frame, Framing::Ethernet, false).filter(|_| is_possible(&shape)) {
            // Errors of ICMP are limited: some have to wait.
            let answer = wait_for("an answer", || {
                let mut run = frame.clone();
                (refuser.run(&mut run) == verdict).then_some(run)
            });
            assert_eq!(answer, expected, "to {frame:02x?}");
            answers += 1;
        } else {
            let mut run = frame.clone();
            assert_eq!(refuser.run(&mut run), otherwise, "{frame:02x?}");
            others += 1;
        }
    }
    assert!(answers > 100 && others > 100, "{answers} answers, {others} others");
}

#[test]
fn frames_become_their_answers() {
    check(Way::Frame, [XDP_TX, XDP_PASS], |shape| shape.tags <= 2);
}

#[test]
fn buffers_become_their_answers() {
    // The kernel moves headers only where IP follows the first EtherType. (The first tag it takes off before, but not here.)
    check(Way::Buffer, [REDIRECT, NEXT], |shape| {
        let is_reset = matches!(answer::to(&shape.frame, Framing::Ethernet, false), Some(answer) if is_tcp(&answer));
        shape.tags == 0 || (is_reset && !shape.is_extended)
    });
}

/// Whether the packet in `frame` is of TCP.
fn is_tcp(frame: &[u8]) -> bool {
    let mut packet = tidewaiter_common::packet::Packet::UNREAD;
    packet.read(frame, Framing::Ethernet).is_ok() && packet.protocol == protocol::TCP
}

#[test]
fn frames_to_many_get_no_answer() {
    let header = Ipv4 { source: CLIENT4, destination: SERVER4, options: &[], fragment: 0 };
    let frame = ethernet(&header.around(&tcp(PORTS, tcp_flag::SYN, 0, &[])));
    let mut refuser = Refuser::load(Way::Frame);
    for (first, verdict) in [(0x02, XDP_TX), (0x01, XDP_PASS), (0xff, XDP_PASS)] {
        let mut run = frame.clone();
        run[0] = first;
        assert_eq!(refuser.run(&mut run), verdict, "to {first:02x}:…");
    }
    // To another host, seen from the loopback interface; to many; to all.
    let mut refuser = Refuser::load(Way::Buffer);
    for (address, verdict) in [([0; 6], REDIRECT), ([2; 6], NEXT), ([1; 6], NEXT), ([0xff; 6], NEXT)] {
        let mut run = frame.clone();
        run[..6].copy_from_slice(&address);
        assert_eq!(refuser.run(&mut run), verdict, "to {address:02x?}");
    }
}

#[test]
fn errors_are_limited_and_resets_are_not() {
    const QUESTIONS: u64 = 20_000;
    let header = Ipv4 { source: CLIENT4, destination: SERVER4, options: &[], fragment: 0 };
    let mut refuser = Refuser::load(Way::Frame);
    let mut answers = |layer: &Layer| {
        let mut frame = ethernet(&header.around(layer));
        frame[..6].fill(0);
        let start = Instant::now();
        let answers = (0..QUESTIONS).filter(|_| refuser.run(&mut frame.clone()) == XDP_TX).count() as u64;
        (answers, start.elapsed())
    };
    assert_eq!(answers(&tcp(PORTS, tcp_flag::SYN, 0, &[])).0, QUESTIONS);
    let (errors, elapsed) = answers(&udp(PORTS, b"?"));
    let cpus = std::thread::available_parallelism().expect("is known").get() as u64;
    // Fifty at once and a thousand a second, on each CPU; its clock may tell of a tick more.
    let allowed = cpus * (50 + u64::try_from(elapsed.as_millis()).unwrap() + 10);
    assert!((50..=allowed).contains(&errors), "{errors} in {elapsed:?}");
}
