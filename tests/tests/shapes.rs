//! Frames of every shape over a real wire: each counted once, where it belongs, with the bytes that it has on the wire.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{collections::BTreeMap, fmt, slice::from_ref, thread};

use tidewaiter_common::{
    direction::Direction,
    packet::{
        MAX_EXTENSION_HEADERS, MAX_VLAN_TAGS,
        protocol::{
            DESTINATION, GRE, HOP_BY_HOP, HOST_IDENTITY, ICMP, ICMPV6, IPV4 as IPV4_IN_IP, IPV6 as IPV6_IN_IP,
            MOBILITY, ROUTING, SHIM6,
        },
        tcp_flag,
    },
};
use tidewaiter_tests::{
    exporter::Exporter,
    layers::{self, Ipv4, Layer, Ports, authentication, ethernet, extension, fragment, ipv6, sctp, tag, tcp, udp},
    metrics::{Count, Metrics},
    network::{INTERFACE, KernelCounters, Network, Offload, send_frames},
    wait::wait_for,
};

const CONFIGURATION: &str = r#"
    interfaces = ["wire"]
    [[api]]
    name = "web"
    ports = [8080]
    [[api]]
    name = "names"
    ports = [53]
    transport = "udp"
    [[api]]
    name = "signals"
    ports = [2905]
    transport = "sctp"
    [[api]]
    name = "tunnel"
    ports = [4789]
    transport = "udp"
    [[api]]
    name = "mapped"
    ports = [7000]
    address = "10.77.0.1"
"#;

const TIMES: usize = 200;
const VLAN: u16 = 0x8100;
const PROVIDER_VLAN: u16 = 0x88a8;
const OLD_QINQ: u16 = 0x9100;

/// Where a frame is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Api(&'static str),
    Unmapped,
    Reason(&'static str),
}

impl Place {
    fn count(self, metrics: &Metrics, direction: Direction) -> Count {
        match self {
            Self::Api(api) => metrics.api(api, "server", direction),
            Self::Unmapped => metrics.api("unmapped", "none", direction),
            Self::Reason(reason) => metrics.uncounted(INTERFACE, direction, reason),
        }
    }
}

/// A frame, what it is, and where it is counted.
struct Case {
    what: String,
    frame: Vec<u8>,
    place: Place,
}

impl fmt::Debug for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({} bytes, {:?})", self.what, self.frame.len(), self.place)
    }
}

/// The frames that go in one direction.
struct Shapes {
    direction: Direction,
    cases: Vec<Case>,
}

impl Shapes {
    /// All of them.
    fn new(direction: Direction) -> Self {
        let mut shapes = Self { direction, cases: Vec::new() };
        shapes.transports();
        shapes.tags();
        shapes.fragments();
        shapes.extensions();
        shapes.tunnels();
        shapes.others();
        shapes
    }

    fn add(&mut self, what: impl Into<String>, place: Place, packet: &Layer) {
        self.cases.push(Case { what: what.into(), frame: ethernet(packet), place });
    }

    /// The ports of a packet between a client and `port` of the server.
    const fn ports(&self, port: u16) -> Ports {
        match self.direction {
            Direction::Receive => Ports(40_000, port),
            Direction::Transmit => Ports(port, 40_000),
        }
    }

    fn web(&self) -> Layer {
        tcp(self.ports(8080), tcp_flag::ACK, 3, &[7; 100])
    }

    fn names(&self) -> Layer {
        udp(self.ports(53), &[7; 33])
    }

    fn ipv4(&self, options: &[u8], fragment: u16, payload: &Layer) -> Layer {
        let (source, destination) = match self.direction {
            Direction::Receive => (Network::CLIENT4, Network::SERVER4),
            Direction::Transmit => (Network::SERVER4, Network::CLIENT4),
        };
        Ipv4 { source, destination, options, fragment }.around(payload)
    }

    fn ipv6(&self, payload: &Layer) -> Layer {
        match self.direction {
            Direction::Receive => ipv6(Network::CLIENT6, Network::SERVER6, payload),
            Direction::Transmit => ipv6(Network::SERVER6, Network::CLIENT6, payload),
        }
    }

    fn transports(&mut self) {
        let signals = sctp(self.ports(2905), &[0, 0, 0, 4]);
        for (what, place, payload) in [
            ("TCP", Place::Api("web"), self.web()),
            ("UDP", Place::Api("names"), self.names()),
            ("SCTP", Place::Api("signals"), signals.clone()),
            ("SCTP to another port", Place::Unmapped, sctp(self.ports(2906), &[0, 0, 0, 4])),
            ("TCP to a port of SCTP", Place::Unmapped, tcp(self.ports(2905), tcp_flag::SYN, 0, &[])),
            ("SCTP, cut", Place::Reason("sctp_truncated"), Layer::new(signals.number, &signals.bytes[..11])),
        ] {
            for words in [0, 1, 10] {
                let packet = self.ipv4(&[1].repeat(words * 4), 0, &payload);
                self.add(format!("{what} over IPv4 with {words} words of options"), place, &packet);
            }
            let packet = self.ipv6(&payload);
            self.add(format!("{what} over IPv6"), place, &packet);
        }
    }

    fn tags(&mut self) {
        for (what, place, packet) in [
            ("TCP over IPv4", Place::Api("web"), self.ipv4(&[], 0, &self.web())),
            ("UDP over IPv6", Place::Api("names"), self.ipv6(&self.names())),
            ("TCP over IPv6 with options", Place::Api("web"), self.ipv6(&extension(DESTINATION, 0, &self.web()))),
            ("ARP", Place::Reason("not_ip"), arp()),
        ] {
            for number in [VLAN, PROVIDER_VLAN, OLD_QINQ] {
                self.add(format!("{what}, tagged {number:04x}"), place, &tag(number, 7, &packet));
            }
            let provider = tag(PROVIDER_VLAN, 100, &tag(VLAN, 7, &packet));
            self.add(format!("{what} in QinQ"), place, &provider);
            self.add(format!("{what} in old QinQ"), place, &tag(OLD_QINQ, 100, &tag(VLAN, 7, &packet)));
            self.add(format!("{what}, of priority alone"), place, &tag(VLAN, 5 << 13, &packet));

            let many = (0..MAX_VLAN_TAGS).fold(packet, |packet, _| tag(VLAN, 7, &packet));
            self.add(format!("{what}, with as many tags as are read"), place, &many);
            // The kernel takes the outermost off what it receives, so that one more is read.
            let more = tag(VLAN, 7, &many);
            let (more_place, most) = match self.direction {
                Direction::Receive => (place, tag(VLAN, 7, &more)),
                Direction::Transmit => (Place::Reason("vlan"), tag(VLAN, 7, &more)),
            };
            self.add(format!("{what}, with one more"), more_place, &more);
            self.add(format!("{what}, with two more"), Place::Reason("vlan"), &most);
        }
    }

    fn fragments(&mut self) {
        const MORE: u16 = 0x2000;
        let (web, names, later) = (self.web(), self.names(), Place::Reason("fragment"));
        let rest = Layer::new(web.number, [7; 64]);
        let packets = [
            ("first", Place::Api("web"), self.ipv4(&[], MORE, &web)),
            ("not to be fragmented", Place::Api("web"), self.ipv4(&[], 0x4000, &web)),
            ("middle", later, self.ipv4(&[], MORE | 0x14, &rest)),
            ("last", later, self.ipv4(&[1; 4], 40, &rest)),
            ("last of one byte", later, self.ipv4(&[], 0x1fff, &Layer::new(web.number, [7]))),
            ("last of ICMP", later, self.ipv4(&[], 40, &Layer::new(ICMP.into(), [0; 8]))),
            ("too short a first", Place::Reason("tcp_truncated"), self.ipv4(&[], MORE, &Layer::new(6, [0; 8]))),
            ("first", Place::Api("names"), self.ipv6(&fragment(0, true, &names))),
            ("only", Place::Api("names"), self.ipv6(&fragment(0, false, &names))),
            ("middle", later, self.ipv6(&fragment(20, true, &rest))),
            ("last", later, self.ipv6(&fragment(40, false, &rest))),
            ("first behind options", Place::Api("web"), self.ipv6(&extension(HOP_BY_HOP, 0, &fragment(0, true, &web)))),
            ("last behind options", later, self.ipv6(&extension(ROUTING, 2, &fragment(9, false, &rest)))),
        ];
        for (what, place, packet) in packets {
            self.add(format!("{what} fragment, {:04x}", packet.number), place, &packet);
            self.add(format!("{what} fragment, {:04x}, tagged", packet.number), place, &tag(VLAN, 7, &packet));
        }
    }

    fn extensions(&mut self) {
        let (web, place) = (self.web(), Place::Api("web"));
        for number in [HOP_BY_HOP, DESTINATION, ROUTING, MOBILITY, HOST_IDENTITY, SHIM6] {
            for units in [0, 1, 10] {
                let packet = self.ipv6(&extension(number, units, &web));
                self.add(format!("behind an extension header {number} of {units} units more"), place, &packet);
            }
        }
        let packet = self.ipv6(&authentication(&web));
        self.add("authenticated, IPv6", place, &packet);
        // Every one in the order that RFC 8200 section 4.1 recommends.
        let inner = extension(DESTINATION, 0, &web);
        let chain = extension(ROUTING, 1, &fragment(0, true, &authentication(&inner)));
        let packet = self.ipv6(&extension(HOP_BY_HOP, 0, &extension(DESTINATION, 1, &chain)));
        self.add("behind a chain", place, &packet);

        let most = (0..MAX_EXTENSION_HEADERS).fold(web.clone(), |payload, _| extension(DESTINATION, 0, &payload));
        let packet = self.ipv6(&most);
        self.add("behind as many as are read", place, &packet);
        let packet = self.ipv6(&extension(DESTINATION, 0, &most));
        self.add("behind one more", Place::Reason("ipv6_extension"), &packet);
        let mut cut = extension(DESTINATION, 0, &web);
        cut.bytes[1] = 200;
        let packet = self.ipv6(&cut);
        self.add("behind one that ends nowhere", Place::Reason("ipv6_truncated"), &packet);
        // "No next header" (RFC 8200 section 4.7), and encapsulating security payload, are what IP traffic can be.
        for (what, number) in [("nothing", 59), ("secrets", 50)] {
            let packet = self.ipv6(&extension(DESTINATION, 0, &Layer::new(number, [7; 20])));
            self.add(format!("{what} behind options"), Place::Unmapped, &packet);
        }
    }

    fn tunnels(&mut self) {
        let inner = [self.ipv4(&[], 0, &self.web()), self.ipv6(&self.names())];
        for inner in inner {
            let frame = ethernet(&inner);
            let [number_0, number_1] = inner.number.to_be_bytes();
            let gre = Layer::new(GRE.into(), [&[0, 0, number_0, number_1][..], &inner.bytes].concat());
            // With a key, and Ethernet within.
            let tap = Layer::new(GRE.into(), [&[0x20, 0, 0x65, 0x58, 0, 0, 0, 9][..], &frame].concat());
            let number = if inner.number == layers::IPV4 { IPV4_IN_IP } else { IPV6_IN_IP };
            let ip = Layer::new(number.into(), inner.bytes.clone());
            let vxlan = udp(Ports(50_000, 4789), &[&[8, 0, 0, 0, 0, 0, 42, 0][..], &frame].concat());
            let geneve = udp(Ports(50_000, 6081), &[&[1, 0, 0x65, 0x58, 0, 0, 42, 0, 0, 0, 0, 0][..], &frame].concat());
            // Where it is received the port is that of a server here, else that of one elsewhere.
            let server = if self.direction == Direction::Receive { Place::Api("tunnel") } else { Place::Unmapped };
            for (what, place, payload) in [
                ("GRE", Place::Unmapped, gre),
                ("GRE of Ethernet", Place::Unmapped, tap),
                ("IP in IP", Place::Unmapped, ip),
                ("VXLAN", server, vxlan),
                ("Geneve", Place::Unmapped, geneve),
            ] {
                for outer in [self.ipv4(&[], 0, &payload), self.ipv6(&payload)] {
                    self.add(format!("{what}, {:04x} in {:04x}", inner.number, outer.number), place, &outer);
                }
            }
        }
    }

    fn others(&mut self) {
        // Answers that nobody asked for: nobody answers those.
        let icmp = self.ipv4(&[], 0, &Layer::new(ICMP.into(), [0, 0, 0, 0, 0, 9, 0, 1]));
        let icmpv6 = self.ipv6(&Layer::new(ICMPV6.into(), [129, 0, 0, 0, 0, 9, 0, 1]));
        let quoting =
            self.ipv4(&[], 0, &Layer::new(ICMP.into(), [&[3, 3, 0, 0, 0, 0, 0, 0][..], &icmp.bytes].concat()));
        for (what, packet) in [("ICMP", icmp), ("ICMPv6", icmpv6), ("an ICMP error", quoting)] {
            self.add(what, Place::Unmapped, &packet);
        }
        let unicast = Layer::new(0x88cc, [7; 60]);
        for (what, packet) in [
            ("ARP", arp()),
            ("LLDP", unicast),
            // IEEE 802.3: a length, not a type.
            ("a spanning tree's", Layer::new(38, [&[0x42, 0x42, 3][..], &[0; 43]].concat())),
            ("an unknown type", Layer::new(0xffff, [0; 1400])),
        ] {
            self.add(what, Place::Reason("not_ip"), &packet);
        }
        // IPv4 addresses written as IPv6 ones mean the same to an API.
        let [client, server] = [Network::CLIENT4, Network::SERVER4].map(|address| address.to_ipv6_mapped());
        let (source, destination) =
            if self.direction == Direction::Receive { (client, server) } else { (server, client) };
        let payload = tcp(self.ports(7000), tcp_flag::ACK, 0, &[7; 10]);
        self.add("mapped addresses", Place::Api("mapped"), &ipv6(source, destination, &payload));
        let packet = self.ipv4(&[], 0, &payload);
        self.add("the same as they are", Place::Api("mapped"), &packet);
        let packet = self.ipv6(&payload);
        self.add("and of other addresses", Place::Unmapped, &packet);
        // A frame that is filled up to the least that Ethernet has.
        let mut short = self.ipv4(&[], 0, &udp(self.ports(53), &[]));
        short.bytes.resize(46, 0);
        self.add("a short one", Place::Api("names"), &short);
    }
}

/// A gratuitous answer of ARP (RFC 826).
fn arp() -> Layer {
    Layer::new(0x0806, [&[0, 1, 8, 0, 6, 4, 0, 2][..], &[2, 0, 0, 0, 0, 1, 10, 77, 0, 9].repeat(2)].concat())
}

/// Waits until the exporter has seen what the device has counted since `before`, and sees that all sums agree.
///
/// What the stack drops behind our programs, for want of anybody who wants it, the device is said to have dropped too.
fn agree(exporter: &Exporter<'_>, network: &Network, before: KernelCounters) -> Metrics {
    let KernelCounters { packets, bytes, dropped } = network.kernel_counters() - before;
    assert_eq!(dropped[Direction::Transmit.index()], 0, "the device dropped packets");
    let metrics = wait_for("the exporter to have seen every packet", || {
        let metrics = exporter.metrics();
        let seen = Direction::ALL.map(|direction| metrics.interface(INTERFACE, direction).packets);
        (seen == packets).then_some(metrics)
    });
    assert_eq!(Direction::ALL.map(|direction| metrics.interface(INTERFACE, direction).bytes), bytes);
    metrics.assert_the_sums_prove_it();
    metrics
}

#[test]
fn frames_of_every_shape_are_counted_where_they_belong() {
    let network = Network::new(Offload::Off);
    let exporter = Exporter::start(&network.server, CONFIGURATION);
    let all = Direction::ALL.map(Shapes::new);
    let before = network.kernel_counters();

    // One by one, to say which is wrong.
    let mut last = exporter.metrics();
    for Shapes { direction, cases } in &all {
        for case in cases {
            let host = if *direction == Direction::Receive { &network.client } else { &network.server };
            host.run(|| send_frames(INTERFACE, from_ref(&case.frame), 3)).expect("is sent");
            let metrics = agree(&exporter, &network, before);
            let [then, now] = [&last, &metrics].map(|metrics| case.place.count(metrics, *direction));
            let count = Count { packets: 3, bytes: 3 * case.frame.len() as u64 };
            assert_eq!(now, then + count, "{case:?}, {}", direction.as_str());
            last = metrics;
        }
    }

    // And all together, at full speed.
    let mut expected = BTreeMap::new();
    for Shapes { direction, cases } in &all {
        for Case { frame, place, .. } in cases {
            let count = Count { packets: TIMES as u64, bytes: (TIMES * frame.len()) as u64 };
            let sum: &mut Count = expected.entry((direction.index(), *place)).or_default();
            *sum = *sum + count;
        }
    }
    thread::scope(|scope| {
        for (host, Shapes { cases, .. }) in [&network.client, &network.server].into_iter().zip(&all) {
            let frames: Vec<_> = cases.iter().map(|case| case.frame.clone()).collect();
            scope.spawn(move || host.run(|| send_frames(INTERFACE, &frames, TIMES)).expect("is sent"));
        }
    });
    let metrics = agree(&exporter, &network, before);
    for ((direction, place), count) in expected {
        let direction = Direction::ALL[direction];
        let [then, now] = [&last, &metrics].map(|metrics| place.count(metrics, direction));
        assert_eq!(now, then + count, "{place:?}, {}", direction.as_str());
    }
}
