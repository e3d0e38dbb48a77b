//! What is let in whatever rules say.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tidewaiter_tests::{
    guarded::{Guarded, PLACES},
    network::{INTERFACE, Network},
    wait::wait_until,
};

const EVERYTHING: &str = "[[api]]\nname = \"orders\"\nports = [8080]\n\
    [[rule]]\nname = \"everything\"\naction = \"drop\"\nmode = \"enforce\"\n";

/// A port whose established connections are left alone unless the configuration says otherwise.
const SSH: u16 = 22;

/// Sends something there and back.
fn exchange(one: &mut TcpStream, other: &mut TcpStream) {
    let mut word = [0; 5];
    one.write_all(b"hello").unwrap();
    other.read_exact(&mut word).unwrap();
    other.write_all(&word).unwrap();
    one.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"hello");
}

fn pair(guarded: &Guarded, port: u16) -> (TcpStream, TcpStream) {
    let listener = guarded.network.server.run(|| TcpListener::bind(("::", port)).unwrap());
    let client = guarded.network.client.run(|| TcpStream::connect((Network::SERVER4, port)).unwrap());
    let (server, _) = listener.accept().unwrap();
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    }
    (client, server)
}

#[test]
fn established_connections_to_protected_ports_go_on() {
    for place in PLACES {
        let mut guarded = Guarded::new(place);
        guarded.apply("", "[[api]]\nname = \"orders\"\nports = [8080]\n");
        let (mut client, mut server) = pair(&guarded, SSH);
        exchange(&mut client, &mut server);
        let (mut other_client, other_server) = pair(&guarded, 8080);
        guarded.apply("", EVERYTHING);
        (0..10).for_each(|_| exchange(&mut client, &mut server));

        // No such thing for others,
        let before = guarded.interface();
        other_client.write_all(b"hello").unwrap();
        wait_until("it to be dropped", || (guarded.interface() - before).dropped > 0);
        other_server.set_nonblocking(true).unwrap();
        assert_eq!((&other_server).read(&mut [0; 5]).unwrap_err().kind(), ErrorKind::WouldBlock);
        // and no new ones there.
        let _listener = guarded.network.server.run(|| TcpListener::bind(("::", SSH)).unwrap());
        let address = SocketAddr::new(Network::SERVER4.into(), SSH);
        let connected =
            guarded.network.client.run(|| TcpStream::connect_timeout(&address, Duration::from_millis(1500)));
        assert_eq!(connected.unwrap_err().kind(), ErrorKind::TimedOut, "{place}");
        exchange(&mut client, &mut server);
    }
}

#[test]
fn what_the_host_itself_asks_for_is_answered() {
    for place in PLACES {
        let mut guarded = Guarded::new(place);
        let Network { server, client } = &guarded.network;
        let listener = client.run(|| TcpListener::bind(("::", 5000)).unwrap());
        let answering = client.run(|| UdpSocket::bind(("::", 5353)).unwrap());
        let before = server.run(|| TcpStream::connect((Network::CLIENT4, 5000)).unwrap());
        let (before_accepted, _) = listener.accept().unwrap();
        let (mut before, mut before_accepted) = (before, before_accepted);
        // What was begun before there was a guard goes on too.
        exchange(&mut before, &mut before_accepted);
        for rule in ["", "api = \"unmapped\"\n"] {
            guarded.apply("", &format!("{EVERYTHING}{rule}"));
            exchange(&mut before, &mut before_accepted);
            let Network { server, client: _ } = &guarded.network;
            for address in Network::CLIENTS {
                let mut stream = server.run(|| TcpStream::connect((address, 5000)).unwrap());
                let (mut accepted, _) = listener.accept().unwrap();
                (0..3).for_each(|_| exchange(&mut stream, &mut accepted));

                let asking = server.run(|| UdpSocket::bind(("::", 0)).unwrap());
                asking.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                let mapped = match address {
                    std::net::IpAddr::V4(address) => address.to_ipv6_mapped().into(),
                    other @ std::net::IpAddr::V6(_) => other,
                };
                for _ in 0..3 {
                    asking.send_to(b"what?", SocketAddr::new(mapped, 5353)).unwrap();
                    let mut question = [0; 9];
                    let (length, from) = answering.recv_from(&mut question).unwrap();
                    answering.send_to(&question[..length], from).unwrap();
                    assert_eq!(asking.recv(&mut question).expect("an answer"), 5, "{place}: {address}");
                }
            }
            // While nobody may ask it anything.
            assert_eq!(guarded.arrive(&[("10.77.0.2", 4000), ("fd77::2", 4000)]), [false, false], "{place}");
        }
    }
}

#[test]
fn errors_and_neighbour_discovery_pass_and_echo_requests_do_not() {
    for place in PLACES {
        let mut guarded = Guarded::new(place);
        guarded.apply("", EVERYTHING);
        let Network { server, client } = &guarded.network;
        for address in Network::CLIENTS {
            // Nobody listens: that is an error of ICMP, as is that a packet is too big.
            let asking = server.run(|| {
                let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                UdpSocket::bind(any).unwrap()
            });
            asking.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            asking.connect((address, 5999)).unwrap();
            asking.send(b"anybody?").unwrap();
            assert_eq!(
                asking.recv(&mut [0; 9]).unwrap_err().kind(),
                ErrorKind::ConnectionRefused,
                "{place}: {address}"
            );
        }
        // Both have to find out anew where the other is.
        for host in [server, client] {
            host.ip(&format!("neighbour flush dev {INTERFACE}"));
        }
        let listener = client.run(|| TcpListener::bind(("::", 5001)).unwrap());
        server.run(|| TcpStream::connect((Network::CLIENT6, 5001)).unwrap());
        listener.accept().unwrap();

        // Questions are not: as often as they are asked.
        let dropped =
            |guarded: &mut Guarded| guarded.decided("everything", "unmapped").get("drop").copied().unwrap_or(0);
        let before = dropped(&mut guarded);
        guarded.network.client.run(|| {
            let icmp = |domain, protocol| Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
            let v4 = icmp(Domain::IPV4, Protocol::ICMPV4);
            // An echo request, and its checksum (RFC 792); that of ICMPv6 is the kernel's to reckon.
            v4.send_to(&[8, 0, 0xf7, 0xff, 0, 0, 0, 0], &SocketAddr::new(Network::SERVER4.into(), 0).into()).unwrap();
            let v6 = icmp(Domain::IPV6, Protocol::ICMPV6);
            v6.send_to(&[128, 0, 0, 0, 0, 0, 0, 0], &SocketAddr::new(Network::SERVER6.into(), 0).into()).unwrap();
        });
        wait_until("both questions to be dropped", || dropped(&mut guarded) == before + 2);
    }
}
