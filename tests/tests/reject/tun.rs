//! Devices without a link layer.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use rustix::fs::{OFlags, fcntl_setfl};
use tidewaiter_common::{frame::Framing, packet::tcp_flag};
use tidewaiter_tests::{
    layers::{Ipv4, Layer, Ports, ipv6, tcp, udp},
    namespace::Namespace,
    refuser::{Refuser, Way},
    tap::tun,
    wait::wait_for,
};

use crate::answer;

const DEVICE: &str = "tunnel";
const PORTS: Ports = Ports(40_000, 8080);

/// Questions whose checksum nobody looks at before they are answered.
fn questions() -> Vec<Vec<u8>> {
    let (client4, server4) = (Ipv4Addr::new(10, 99, 0, 2), Ipv4Addr::new(10, 99, 0, 1));
    let (client6, server6) = (Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 2), Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1));
    let mut questions = Vec::new();
    for above in [tcp(PORTS, tcp_flag::SYN, 3, &[]), tcp(PORTS, tcp_flag::ACK, 0, b"GET /"), udp(PORTS, b"what?")] {
        for options in [&[][..], &[0x94, 4, 0, 0]] {
            let header = Ipv4 { source: client4, destination: server4, options, fragment: 0 };
            questions.push(bytes(&header.around(&above)));
        }
        questions.push(bytes(&ipv6(client6, server6, &above)));
    }
    questions
}

fn bytes(layer: &Layer) -> Vec<u8> {
    layer.bytes.clone()
}

/// Reads packets until one that is an answer, and nothing that the stack says by itself.
fn read(device: &mut std::fs::File, source: IpAddr) -> Vec<u8> {
    let mut packet = vec![0; 2_048];
    wait_for("an answer", || {
        // There may be none yet.
        let length = device.read(&mut packet).ok()?;
        let is_ours = match source {
            IpAddr::V4(source) => packet[0] >> 4 == 4 && packet[12..16] == source.octets(),
            IpAddr::V6(source) => packet[0] >> 4 == 6 && packet[8..24] == source.octets(),
        };
        is_ours.then(|| packet[..length].to_vec())
    })
}

#[test]
fn packets_without_a_link_layer_are_answered() {
    let host = Namespace::new();
    let mut device = tun(&host, DEVICE);
    fcntl_setfl(&device, OFlags::RDWR | OFlags::NONBLOCK).expect("is a descriptor");
    host.ip(&format!("link set {DEVICE} addrgenmode none multicast off up"));
    let mut refuser = host.run(|| Refuser::attach(Way::Buffer, DEVICE));
    refuser.has_no_link_layer(host.index(DEVICE));
    for question in questions() {
        let expected = answer::to(&question, Framing::Ip, false).expect("there is one");
        let server = match question[0] >> 4 {
            4 => IpAddr::from(<[u8; 4]>::try_from(&question[16..20]).unwrap()),
            _ => IpAddr::from(<[u8; 16]>::try_from(&question[24..40]).unwrap()),
        };
        device.write_all(&question).expect("is taken");
        assert_eq!(read(&mut device, server), expected, "to {question:02x?}");
    }
}
