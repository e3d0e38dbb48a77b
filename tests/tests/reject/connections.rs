//! Established connections that are ended.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use tidewaiter_tests::{
    command::output,
    namespace::Namespace,
    network::{INTERFACE, Network, Offload},
    refuser::{Refuser, Way},
};

const PORT: u16 = 8080;
/// How long an end waits that is told nothing.
const PATIENCE: Duration = Duration::from_secs(20);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Both ends of a connection.
fn connect([server, client]: [&Namespace; 2], address: IpAddr) -> [TcpStream; 2] {
    let address = SocketAddr::from((address, PORT));
    let listener = server.run(|| TcpListener::bind(address)).expect("is free");
    let client = client.run(|| TcpStream::connect(address)).expect("is heard");
    let (server, _) = listener.accept().expect("somebody has connected");
    for end in [&server, &client] {
        end.set_read_timeout(Some(PATIENCE)).expect("is a time");
        end.set_write_timeout(Some(PATIENCE)).expect("is a time");
    }
    [server, client]
}

fn say(from: &mut TcpStream, to: &mut TcpStream, words: &[u8]) {
    from.write_all(words).expect("is heard");
    let mut heard = vec![0; words.len()];
    to.read_exact(&mut heard).expect("is said");
    assert_eq!(heard, words);
}

/// A request is answered; the next one ends the connection at both ends.
fn check_both(hosts: [&Namespace; 2], interface: &str, address: IpAddr) {
    let [mut server, mut client] = connect(hosts, address);
    say(&mut client, &mut server, REQUEST);
    say(&mut server, &mut client, ANSWER);
    let refuser = hosts[0].run(|| Refuser::attach(Way::Both, interface));
    client.write_all(REQUEST).expect("is taken");
    for (name, end) in [("client", &mut client), ("server", &mut server)] {
        let error = end.read(&mut [0; 64]).expect_err("the connection is over");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{name} of {address} on {interface}");
    }
    // Nobody who does not ask is in the way: connections are opened, and closed.
    drop(connect(hosts, address));
    drop(refuser);
}

#[test]
fn a_refused_request_ends_its_connection_at_both_ends() {
    let network = Network::new(Offload::Device);
    let hosts = [&network.server, &network.client];
    for address in Network::SERVERS {
        check_both(hosts, INTERFACE, address);
    }
    for host in hosts {
        output(host.command("ethtool").args(["-K", INTERFACE, "tx", "off"]));
    }
    for address in Network::SERVERS {
        check_both(hosts, INTERFACE, address);
    }
}

#[test]
fn a_refused_request_ends_its_connection_on_the_same_host() {
    let host = Namespace::new();
    for address in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
        check_both([&host, &host], "lo", address);
    }
}

#[test]
fn super_packets_are_answered() {
    let network = Network::new(Offload::Device);
    for way in [Way::Buffer, Way::Both] {
        for address in Network::SERVERS {
            let [mut server, mut client] = connect([&network.server, &network.client], address);
            say(&mut client, &mut server, REQUEST);
            say(&mut server, &mut client, ANSWER);
            let refuser = network.server.run(|| Refuser::attach(way, INTERFACE));
            // More than any socket keeps: it is written until the reset comes.
            let error = client.write_all(&vec![b'x'; 64 << 20]).expect_err("the connection is over");
            let is_over = matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
            assert!(is_over, "{way:?} {address}: {error}");
            drop(refuser);
        }
    }
}
