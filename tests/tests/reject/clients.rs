//! Real clients of a server that everything is refused to: they fail at once, by the error that says so.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use etherparse::{NetSlice, SlicedPacket, TransportSlice, checksum::Sum16BitWords};
use tidewaiter_common::direction::Direction;
use tidewaiter_tests::{
    bpf::{Link, Program},
    capture::{Capture, Captured},
    command::output,
    namespace::Namespace,
    network::{INTERFACE, Network, Offload},
    refuser::{Refuser, Way},
};

const PORT: u16 = 8080;
/// How long anybody waits who hears nothing; that is a failure.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who listens at an address, for connections and for datagrams.
struct Server {
    address: SocketAddr,
    _listener: TcpListener,
    socket: UdpSocket,
}

impl Server {
    fn start(host: &Namespace, address: IpAddr) -> Self {
        let address = SocketAddr::from((address, PORT));
        let (listener, socket) = host.run(|| (TcpListener::bind(address), UdpSocket::bind(address)));
        let socket = socket.expect("is free");
        socket.set_read_timeout(Some(PATIENCE)).expect("is a time");
        Self { address, _listener: listener.expect("is free"), socket }
    }

    /// A client on `host` reaches it.
    fn is_reached(&self, host: &Namespace) {
        host.run(|| TcpStream::connect_timeout(&self.address, PATIENCE)).expect("is heard");
        let _client = host.run(|| ask(self.address));
        self.socket.recv(&mut [0; 16]).expect("is heard");
    }

    /// A client on `host` is told that there is nobody.
    fn is_refused(&self, host: &Namespace) {
        let connection = host.run(|| TcpStream::connect_timeout(&self.address, PATIENCE)).expect_err("is refused");
        assert_eq!(connection.kind(), ErrorKind::ConnectionRefused, "{}", self.address);
        let datagram = host.run(|| ask(self.address)).recv(&mut [0; 16]).expect_err("is refused");
        assert_eq!(datagram.kind(), ErrorKind::ConnectionRefused, "{}", self.address);
    }
}

/// A client that has sent a datagram to `server`.
fn ask(server: SocketAddr) -> UdpSocket {
    let any: IpAddr = if server.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).expect("is free");
    socket.connect(server).expect("is somewhere");
    socket.set_read_timeout(Some(PATIENCE)).expect("is a time");
    socket.send(b"what?").expect("is sent");
    socket
}

fn set(host: &Namespace, switches: &[&str]) {
    output(host.command("ethtool").args(["-K", INTERFACE]).args(switches));
}

/// While the program is attached to `interface` clients are refused, and before and after that they are not.
fn check(way: Way, [server, client]: [&Namespace; 2], interface: &str, addresses: &[IpAddr]) {
    for &address in addresses {
        let listener = Server::start(server, address);
        listener.is_reached(client);
        let refuser = server.run(|| Refuser::attach(way, interface));
        for _ in 0..3 {
            listener.is_refused(client);
        }
        drop(refuser);
        listener.is_reached(client);
    }
}

/// Two hosts; what the server's device sends back by itself reaches the client.
fn network() -> (Network, Link) {
    let network = Network::new(Offload::Device);
    let client = &network.client;
    let link = client.run(|| Program::pass_frames().attach_to_device(client.index(INTERFACE)));
    (network, link)
}

#[test]
fn clients_of_a_wire_are_refused() {
    let (network, _link) = network();
    let hosts = [&network.server, &network.client];
    for way in [Way::Frame, Way::Buffer] {
        check(way, hosts, INTERFACE, &Network::SERVERS);
    }
    // And where senders work out their checksums themselves.
    set(&network.client, &["tx", "off"]);
    for way in [Way::Frame, Way::Buffer] {
        check(way, hosts, INTERFACE, &Network::SERVERS);
    }
}

#[test]
fn clients_on_the_same_host_are_refused() {
    let host = Namespace::new();
    let addresses = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    check(Way::Buffer, [&host, &host], "lo", &addresses);
}

#[test]
fn answers_have_the_tag_of_their_question() {
    let (network, _link) = network();
    let Network { server, client } = &network;
    let listeners = Network::SERVERS.map(|address| Server::start(server, address));
    // Between its stack and the wire, the client puts a tag on and takes it off, and drops what has none. It is in the frame: where
    // devices keep it beside, no program sees it before the stack does.
    for host in [server, client] {
        set(host, &["txvlan", "off", "rxvlan", "off"]);
    }
    let attach =
        |host: &Namespace, program: Program, direction| host.run(|| program.attach(host.index(INTERFACE), direction));
    network.know_each_other();
    let _push = attach(client, Program::push_tag(7), Direction::Transmit);
    let _filter = attach(client, Program::drop_untagged(), Direction::Receive);
    let _pop = attach(client, Program::pop_tag(), Direction::Receive);
    for way in [Way::Frame, Way::Buffer] {
        let refuser = server.run(|| Refuser::attach(way, INTERFACE));
        for listener in &listeners {
            listener.is_refused(client);
        }
        drop(refuser);
    }
}

#[test]
fn checksums_on_the_wire_are_right() {
    let (network, _link) = network();
    let Network { server, client } = &network;
    let listeners = Network::SERVERS.map(|address| Server::start(server, address));
    // What leaves the server is complete.
    set(server, &["tx", "off"]);
    for way in [Way::Frame, Way::Buffer] {
        for client_completes in ["on", "off"] {
            set(client, &["tx", client_completes]);
            let refuser = server.run(|| Refuser::attach(way, INTERFACE));
            let capture = Capture::start(client, INTERFACE);
            for listener in &listeners {
                listener.is_refused(client);
            }
            drop(refuser);
            let answers: Vec<_> =
                capture.end().into_iter().filter(|packet| packet.direction == Direction::Receive).collect();
            let kinds: Vec<_> = answers.iter().filter_map(check_sums).collect();
            for kind in ["reset4", "reset6", "error4", "error6"] {
                assert!(kinds.contains(&kind), "{way:?}: no {kind} among {kinds:?}");
            }
        }
    }
}

/// Checks the checksums of a received packet, and says what it is; other packets of the wire are of no interest.
fn check_sums(packet: &Captured) -> Option<&'static str> {
    assert_eq!(packet.start.len(), packet.length, "all of it is there");
    let sliced = SlicedPacket::from_ethernet(&packet.start).expect("can be read");
    let is_ipv4 = match sliced.net.as_ref()? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            true
        }
        NetSlice::Ipv6(_) => false,
        NetSlice::Arp(_) => return None,
    };
    match (sliced.transport.as_ref()?, sliced.net.as_ref()?) {
        (TransportSlice::Tcp(tcp), net) => {
            let expected = match net {
                NetSlice::Ipv4(ip) => tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()),
                NetSlice::Ipv6(ip) => tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()),
                NetSlice::Arp(_) => unreachable!("has no transport"),
            };
            assert_eq!(tcp.checksum(), expected.expect("is short"), "{:02x?}", packet.start);
            tcp.rst().then_some(if is_ipv4 { "reset4" } else { "reset6" })
        }
        (TransportSlice::Icmpv4(icmp), _) => {
            let sum = Sum16BitWords::new().add_slice(icmp.slice()).ones_complement();
            assert_eq!(sum, 0, "{:02x?}", packet.start);
            (icmp.type_u8() == 3).then_some("error4")
        }
        (TransportSlice::Icmpv6(icmp), NetSlice::Ipv6(ip)) => {
            let (source, destination) = (ip.header().source(), ip.header().destination());
            assert!(icmp.is_checksum_valid(source, destination), "{:02x?}", packet.start);
            (icmp.type_u8() == 1).then_some("error6")
        }
        _ => None,
    }
}
