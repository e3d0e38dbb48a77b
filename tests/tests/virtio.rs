//! Super-packets that a device does not say the segments of (`gso_segs` 0), as virtio devices and taps have them: the count
//! is that of the far end, where each segment is a packet.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    fs::File,
    io::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
};

use tidewaiter_common::{
    direction::Direction,
    packet::{protocol, tcp_flag},
};
use tidewaiter_tests::{
    capture::Capture,
    command::output,
    exporter::Exporter,
    layers::{Ipv4, Layer, Ports, ethernet, extension, ipv6, tag, tcp, udp},
    metrics::{Count, Metrics},
    namespace::Namespace,
    network::{INTERFACE, Network, Offload},
    tap::tap,
    wait::wait_for,
};

const CONFIGURATION: &str = r#"
    interfaces = ["wire", "virtio"]
    [[api]]
    name = "orders"
    ports = [8080]
    transport = ["tcp", "udp"]
    role = "client"
"#;

/// The device, and its address: what is for it is received, or forwarded.
const DEVICE: &str = "virtio";
const ADDRESS: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// Who sends, on the device's side of the host.
const SOURCE4: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 2);
const SOURCE6: Ipv6Addr = Ipv6Addr::new(0xfd80, 0, 0, 0, 0, 0, 0, 2);
const PORTS: Ports = Ports(40_000, 8080);

/// `struct virtio_net_hdr` (`include/uapi/linux/virtio_net.h`).
#[derive(Clone, Copy, Debug)]
struct Offloaded {
    /// `gso_type`: TCP over IPv4 is 1, over IPv6 4, UDP 5.
    kind: u8,
    /// Bytes before the payload.
    headers: u16,
    /// `gso_size`: bytes of each segment.
    size: u16,
    /// Where the transport header begins.
    transport: u16,
    /// Where in that its checksum stands.
    checksum: u16,
}

impl Offloaded {
    fn bytes(self) -> Vec<u8> {
        let Self { kind, headers, size, transport, checksum } = self;
        // VIRTIO_NET_HDR_F_NEEDS_CSUM: the stack accepts no super-packet without.
        let numbers = [headers, size, transport, checksum].map(u16::to_ne_bytes).concat();
        [&[1, kind][..], &numbers].concat()
    }
}

/// A shape of super-packets.
#[derive(Clone, Copy, Debug)]
struct Shape {
    is_ipv4: bool,
    is_tcp: bool,
    option_words: u8,
    tags: u16,
    extensions: u8,
}

impl Shape {
    /// Bytes before the payload; a tag's are on the wire of each segment.
    const fn headers(self) -> usize {
        let transport = if self.is_tcp { 20 + self.option_words as usize * 4 } else { 8 };
        self.transport() + transport
    }

    const fn transport(self) -> usize {
        14 + 4 * self.tags as usize + if self.is_ipv4 { 20 } else { 40 + 8 * self.extensions as usize }
    }

    /// The frame behind its header, and what it is on the wire.
    fn frame(self, payload: usize, size: usize) -> (Vec<u8>, Count) {
        let Self { is_ipv4, is_tcp, option_words, tags, extensions } = self;
        let payload = vec![0x5a; payload];
        let mut layer: Layer =
            if is_tcp { tcp(PORTS, tcp_flag::ACK, option_words, &payload) } else { udp(PORTS, &payload) };
        for _ in 0..extensions {
            layer = extension(protocol::DESTINATION, 0, &layer);
        }
        layer = if is_ipv4 {
            let header = Ipv4 { source: SOURCE4, destination: Network::CLIENT4, options: &[], fragment: 0 };
            header.around(&layer)
        } else {
            ipv6(SOURCE6, Network::CLIENT6, &layer)
        };
        for _ in 0..tags {
            layer = tag(0x8100, 7, &layer);
        }
        let mut frame = ethernet(&layer);
        frame[..6].copy_from_slice(&ADDRESS);
        if is_ipv4 {
            set_checksum(&mut frame[14 + 4 * usize::from(tags)..][..20]);
        }
        let offloaded = Offloaded {
            kind: if !is_tcp {
                5
            } else if is_ipv4 {
                1
            } else {
                4
            },
            headers: self.headers().try_into().unwrap(),
            size: size.try_into().unwrap(),
            transport: self.transport().try_into().unwrap(),
            checksum: if is_tcp { 16 } else { 6 },
        };
        let segments = payload.len().div_ceil(size);
        let count = Count { packets: segments as u64, bytes: (payload.len() + segments * self.headers()) as u64 };
        ([offloaded.bytes(), frame].concat(), count)
    }
}

/// Sets the checksum of an IPv4 header without options: it is to be forwarded.
fn set_checksum(header: &mut [u8]) {
    let mut sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    header[10..12].copy_from_slice(&(!u16::try_from(sum).unwrap()).to_be_bytes());
}

/// Writes super-packets of `shape` to the device, of all sizes; answers with what they are on the wire.
fn write(device: &mut File, shape: Shape) -> Count {
    let mut sum = Count::default();
    for round in 0..ROUNDS {
        // Every length from one full segment and a byte, in steps that no segment's size is a multiple of.
        let size = 600 + round % 800;
        let payload = size + 1 + round * 1_009 % 50_000;
        let (frame, count) = shape.frame(payload, size);
        device.write_all(&frame).expect("is taken");
        sum = sum + count;
    }
    sum
}

const ROUNDS: usize = 1_000;

fn device(host: &Namespace) -> File {
    let device = tap(host, DEVICE);
    host.ip(&format!("link set {DEVICE} address 02:00:00:00:00:09 addrgenmode none multicast off"));
    host.ip(&format!("link set {DEVICE} up"));
    host.ip(&format!("address add 10.80.0.1/24 dev {DEVICE}"));
    host.ip(&format!("address add fd80::1/64 dev {DEVICE} nodad"));
    device
}

fn buffers(metrics: &Metrics, interface: &str, direction: Direction) -> u64 {
    let labels = [("interface", interface), ("direction", direction.as_str())];
    metrics.get("tidewaiter_interface_buffers_total", &labels).expect("is there")
}

#[test]
fn what_is_forwarded_is_counted_as_the_far_end_receives_it() {
    let network = Network::new(Offload::Transmit);
    let Network { server, client } = &network;
    output(server.command("ethtool").args(["-K", INTERFACE, "tx-udp-segmentation", "off"]));
    let mut device = device(server);
    let forwarding = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"];
    output(server.command("sysctl").args(["-q", "-w"]).args(forwarding));
    // The far end says nothing to what it did not ask for: it knows no way back. Nor is it asked where it is.
    let link = client.link(INTERFACE);
    let address = link["address"].as_str().unwrap();
    for neighbour in Network::CLIENTS {
        server.ip(&format!("neighbour replace {neighbour} lladdr {address} dev {INTERFACE} nud permanent"));
    }
    network.wait_until_quiet();

    for shape in [
        Shape { is_ipv4: true, is_tcp: true, option_words: 0, tags: 0, extensions: 0 },
        Shape { is_ipv4: true, is_tcp: true, option_words: 3, tags: 0, extensions: 0 },
        Shape { is_ipv4: false, is_tcp: true, option_words: 0, tags: 0, extensions: 0 },
        Shape { is_ipv4: false, is_tcp: true, option_words: 3, tags: 0, extensions: 1 },
        Shape { is_ipv4: true, is_tcp: false, option_words: 0, tags: 0, extensions: 0 },
        Shape { is_ipv4: false, is_tcp: false, option_words: 0, tags: 0, extensions: 0 },
        Shape { is_ipv4: false, is_tcp: false, option_words: 0, tags: 0, extensions: 2 },
    ] {
        let exporter = Exporter::start(server, CONFIGURATION);
        let capture = Capture::start(client, INTERFACE);
        let before = network.kernel_counters();
        let expected = write(&mut device, shape);
        let kernel = wait_for("the wire's device to have sent everything", || {
            let kernel = network.kernel_counters() - before;
            (kernel.packets[1] >= expected.packets).then_some(kernel)
        });
        let captured = capture.end();
        let metrics = exporter.metrics();
        let kernel = kernel.on_the_wire(Offload::Transmit);
        let far_end = captured
            .iter()
            .filter(|packet| packet.direction == Direction::Receive)
            .fold(Count::default(), |sum, packet| sum + Count { packets: 1, bytes: packet.length as u64 });
        eprintln!("{shape:?}: {expected:?}");
        let device_count = Count { packets: kernel.packets[1], bytes: kernel.bytes[1] };
        assert_eq!((far_end, device_count), (expected, expected), "{shape:?}");
        assert_eq!(metrics.interface(DEVICE, Direction::Receive), expected, "{shape:?}");
        assert_eq!(buffers(&metrics, DEVICE, Direction::Receive), ROUNDS as u64);
        assert_eq!(metrics.interface(INTERFACE, Direction::Transmit), expected, "{shape:?}");
        assert_eq!(buffers(&metrics, INTERFACE, Direction::Transmit), ROUNDS as u64);
        // Leaving, the port is that of the other end.
        assert_eq!(metrics.api("orders", "client", Direction::Transmit), expected, "{shape:?}");
        metrics.assert_the_sums_prove_it();
    }
}

#[test]
fn tags_of_super_packets_are_on_the_wire_of_each_segment() {
    let host = Namespace::new();
    let mut device = device(&host);
    for tags in [1, 2] {
        for (is_ipv4, is_tcp) in [(true, true), (false, true), (true, false), (false, false)] {
            let shape = Shape { is_ipv4, is_tcp, option_words: 2, tags, extensions: 0 };
            let exporter = Exporter::start(&host, &CONFIGURATION.replace("\"wire\", ", ""));
            let expected = write(&mut device, shape);
            let metrics = exporter.metrics();
            assert_eq!(metrics.interface(DEVICE, Direction::Receive), expected, "{shape:?}");
            assert_eq!(metrics.api("unmapped", "none", Direction::Receive), expected, "{shape:?}");
            assert_eq!(buffers(&metrics, DEVICE, Direction::Receive), ROUNDS as u64);
            metrics.assert_the_sums_prove_it();
        }
    }
}
