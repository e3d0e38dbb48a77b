//! What rules match, and what they do.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use tidewaiter_tests::{
    client::http_answer,
    guarded::{Guarded, PLACES},
    network::{INTERFACE, Network, send_frames},
    servers::{Nginx, are_installed},
    wait::wait_until,
};

const APIS: &str = r#"
[[api]]
name = "orders"
ports = [8080]
transport = ["tcp", "udp"]
[[api]]
name = "stock"
ports = ["9000-9010"]
transport = ["tcp", "udp"]
"#;

/// Someone else of the client's: of a prefix that is dropped, but for one.
const BAD: &str = "10.77.0.9";
const PARDONED: &str = "10.77.0.10";
const BAD6: &str = "fd77::9";
const GOOD: &str = "10.77.0.2";
const GOOD6: &str = "fd77::2";

fn guarded(place: &'static str) -> Guarded {
    let guarded = Guarded::new(place);
    for address in [BAD, PARDONED] {
        guarded.network.client.ip(&format!("address add {address}/24 dev {INTERFACE}"));
    }
    guarded.network.client.ip(&format!("address add {BAD6}/64 dev {INTERFACE} nodad"));
    guarded
}

fn with(rules: &str) -> String {
    format!("{APIS}{rules}")
}

/// Sees that of what is sent that arrives which is said to.
fn assert_arrive(guarded: &Guarded, what: &str, expected: &[(&str, u16, bool)]) {
    let sent: Vec<_> = expected.iter().map(|(sender, port, _)| (*sender, *port)).collect();
    let arrived = guarded.arrive(&sent);
    for ((sender, port, expected), arrived) in expected.iter().zip(arrived) {
        assert_eq!(arrived, *expected, "{what}: {sender} to {port}");
    }
}

fn one(verdict: &'static str, count: u64) -> BTreeMap<&'static str, u64> {
    [(verdict, count)].into()
}

#[test]
fn rules_are_about_what_they_say() {
    for place in PLACES {
        let mut guarded = guarded(place);
        let bad = "from = [\"10.77.0.8/29\", \"fd77::8/125\"]\nexcept = \"10.77.0.10\"";

        guarded.apply(
            "",
            &with(&format!("[[rule]]\nname = \"bad\"\naction = \"drop\"\nmode = \"enforce\"\napi = \"orders\"\n{bad}")),
        );
        assert_arrive(
            &guarded,
            "an API",
            &[
                (GOOD, 8080, true),
                (BAD, 8080, false),
                (PARDONED, 8080, true),
                (GOOD6, 8080, true),
                (BAD6, 8080, false),
                (BAD, 9000, true),
                (BAD6, 7000, true),
            ],
        );
        assert_eq!(guarded.decided("bad", "orders"), one("drop", 2));
        assert_eq!(guarded.interface().dropped, 2);

        let any = |api: &str| format!("[[rule]]\nname = \"any\"\naction = \"drop\"\nmode = \"enforce\"\n{api}\n{bad}");
        guarded.apply("", &with(&any("api = \"*\"")));
        assert_arrive(
            &guarded,
            "any API",
            &[(BAD, 8080, false), (BAD6, 9010, false), (BAD, 9011, true), (GOOD, 9010, true)],
        );
        assert_eq!(guarded.decided("any", "orders"), one("drop", 1));
        assert_eq!(guarded.decided("any", "stock"), one("drop", 1));
        guarded.apply("", &with(&any("api = \"unmapped\"")));
        assert_arrive(&guarded, "no API", &[(BAD, 8080, true), (BAD6, 9011, false), (GOOD, 9011, true)]);
        guarded.apply("", &with(&any("")));
        assert_arrive(&guarded, "all", &[(BAD, 8080, false), (BAD6, 9011, false), (GOOD, 9011, true)]);

        guarded.apply("", &with(
            "[[rule]]\nname = \"ports\"\naction = \"drop\"\nmode = \"enforce\"\ntransport = \"udp\"\nports = [\"9001-9002\", 7001]\n\
             [[rule]]\nname = \"tcp\"\naction = \"drop\"\nmode = \"enforce\"\ntransport = \"tcp\"\nports = [\"9003-9005\"]\n",
        ));
        assert_arrive(
            &guarded,
            "ports",
            &[
                (GOOD, 9000, true),
                (GOOD, 9001, false),
                (GOOD6, 9002, false),
                (GOOD, 9003, true),
                (GOOD, 7001, false),
                (GOOD6, 7000, true),
                (GOOD, 9004, true),
            ],
        );
        assert_eq!(guarded.decided("ports", "stock"), one("drop", 2));
        assert_eq!(guarded.decided("tcp", "stock"), one("", 0).into_iter().filter(|(_, count)| *count > 0).collect());
    }
}

#[test]
fn files_of_prefixes_allowed_senders_and_protected_ones() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.txt");
    std::fs::write(&file, "# who we do not like\n10.77.0.9\n\nfd77::9/128\n").unwrap();
    for place in PLACES {
        let mut guarded = guarded(place);
        guarded.apply(
            "",
            &with(&format!(
                "[[rule]]\nname = \"listed\"\naction = \"drop\"\nmode = \"enforce\"\nfrom_file = \"{}\"\n",
                file.display()
            )),
        );
        assert_arrive(
            &guarded,
            "a file",
            &[(BAD, 8080, false), (BAD6, 7000, false), (PARDONED, 8080, true), (GOOD6, 1, true)],
        );

        // The friend's datagrams, which end each of these, are let in: it is protected.
        guarded.apply(
            "",
            &with(
                "[[rule]]\nname = \"some\"\naction = \"allow\"\nfrom = \"10.77.0.9\"\napi = \"orders\"\n\
             [[rule]]\nname = \"all\"\naction = \"drop\"\nmode = \"enforce\"\n",
            ),
        );
        assert_arrive(
            &guarded,
            "allowed",
            &[(BAD, 8080, true), (BAD, 9000, false), (GOOD, 8080, false), (GOOD6, 9000, false)],
        );
        assert_eq!(guarded.decided("some", "orders"), one("pass", 1));
        assert_eq!(guarded.decided("all", "orders"), one("drop", 1));
    }
}

#[test]
fn what_is_observed_passes_and_is_counted() {
    for place in PLACES {
        let mut guarded = guarded(place);
        let rule =
            |mode: &str| format!("[[rule]]\nname = \"all\"\napi = \"*\"\naction = \"drop\"\nmode = \"{mode}\"\n");
        for (guard, mode) in [("", "observe"), ("mode = \"observe\"", "enforce")] {
            let before = guarded.interface();
            let counted =
                |guarded: &mut Guarded| guarded.decided("all", "orders").get("would_drop").copied().unwrap_or(0);
            guarded.apply(guard, &with(&rule(mode)));
            let already = counted(&mut guarded);
            assert_arrive(&guarded, mode, &[(BAD, 8080, true), (GOOD6, 8080, true), (GOOD, 8080, true)]);
            assert_eq!(counted(&mut guarded) - already, 3);
            let done = guarded.interface() - before;
            assert_eq!((done.dropped, done.rejected), (0, 0));
        }
        guarded.apply("", &with(&rule("enforce")));
        assert_arrive(&guarded, "enforced", &[(BAD, 8080, false), (GOOD6, 8080, false), (GOOD, 8080, false)]);
    }
}

#[test]
fn marks_are_seen_by_the_stack() {
    for place in PLACES {
        let mut guarded = guarded(place);
        // What has the mark goes nowhere, even to this host.
        let server = &guarded.network.server;
        server.ip("rule add pref 10 lookup local");
        server.ip("rule add pref 5 fwmark 7 blackhole");
        server.ip("rule del pref 0");
        guarded.apply(
            "",
            &with(
                "[[rule]]\nname = \"mark\"\naction = \"mark\"\nmark = 7\nmode = \"enforce\"\nfrom = \"10.77.0.9\"\n\
             [[rule]]\nname = \"would\"\naction = \"mark\"\nmark = 7\nmode = \"observe\"\nfrom = \"10.77.0.10\"\n",
            ),
        );
        assert_arrive(&guarded, "marked", &[(BAD, 8080, false), (PARDONED, 8080, true), (GOOD, 8080, true)]);
        assert_eq!(guarded.decided("mark", "orders"), one("mark", 1));
        assert_eq!(guarded.decided("would", "orders"), one("would_mark", 1));
        assert_eq!(guarded.interface().dropped, 0, "the guard itself lets them in");
    }
}

#[test]
fn who_is_rejected_is_told_at_once() {
    for place in PLACES {
        let mut guarded = guarded(place);
        guarded
            .apply("", &with("[[rule]]\nname = \"no\"\naction = \"reject\"\nmode = \"enforce\"\napi = \"orders\"\n"));
        let network = &guarded.network;
        let _listener = network.server.run(|| TcpListener::bind(("::", 8080)).unwrap());
        let _socket = network.server.run(|| UdpSocket::bind(("::", 8080)).unwrap());
        for server in Network::SERVERS {
            network.client.run(|| {
                let address = SocketAddr::new(server, 8080);
                let refused = TcpStream::connect_timeout(&address, Duration::from_secs(10));
                assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{place}: {address}");
                let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                socket.connect(address).unwrap();
                socket.send(b"hello").unwrap();
                assert_eq!(
                    socket.recv(&mut [0; 9]).unwrap_err().kind(),
                    ErrorKind::ConnectionRefused,
                    "{place}: {address}"
                );
            });
        }
        assert_eq!(guarded.decided("no", "orders"), one("reject", 4));
    }
}

/// An API of which HTTP/1 is expected.
const WEB: &str = "[[api]]\nname = \"web\"\nports = [80]\ntransport = \"tcp\"\nexpect = [\"http1\"]\n";

/// Asks for something; says whether there was an answer.
fn ask(stream: &mut TcpStream) -> std::io::Result<bool> {
    stream.write_all(b"GET /code/200 HTTP/1.1\r\nHost: server\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut some = [0; 4096];
    while http_answer(&answer).is_none() {
        match stream.read(&mut some)? {
            0 => return Ok(false),
            length => answer.extend(&some[..length]),
        }
    }
    Ok(true)
}

fn connect(guarded: &Guarded, sender: &str) -> TcpStream {
    guarded.network.client.run(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let sender = SocketAddr::new(sender.parse().unwrap(), 0);
        socket.bind(&sender.into()).unwrap();
        socket.connect(&SocketAddr::new(Network::SERVER4.into(), 80).into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    })
}

#[test]
fn requests_above_the_limit_end_their_connection_alone() {
    if !are_installed(&["nginx", "openssl"]) {
        return;
    }
    for place in PLACES {
        let mut guarded = guarded(place);
        let _nginx = Nginx::start(&guarded.network.server);
        guarded.apply(
            "",
            &format!(
                "{WEB}[[rule]]\nname = \"slow\"\naction = \"reject\"\nmode = \"enforce\"\napi = \"web\"\n\
             limit = {{ requests_per_second = 0.01, burst = 3, per = \"client\" }}\n"
            ),
        );
        let (mut greedy, mut modest) = (connect(&guarded, BAD), connect(&guarded, GOOD));
        for _ in 0..3 {
            assert!(ask(&mut greedy).unwrap(), "{place}");
        }
        assert!(ask(&mut modest).unwrap());
        assert_eq!(ask(&mut greedy).unwrap_err().kind(), ErrorKind::ConnectionReset, "{place}");
        assert!(ask(&mut modest).unwrap() && ask(&mut modest).unwrap(), "others go on");
        assert_eq!(guarded.decided("slow", "web"), [("pass", 6), ("reject", 1)].into());
    }
}

#[test]
fn payload_that_is_not_expected_goes_nowhere() {
    for place in PLACES {
        let mut guarded = guarded(place);
        let listener = guarded.network.server.run(|| TcpListener::bind(("0.0.0.0", 80)).unwrap());
        for action in ["drop", "reject"] {
            guarded.apply("", &format!(
                "{WEB}[[rule]]\nname = \"{action}\"\naction = \"{action}\"\nmode = \"enforce\"\napi = \"web\"\npayload = \"unexpected\"\n"
            ));
            let mut expected = connect(&guarded, GOOD);
            let (mut accepted, _) = listener.accept().unwrap();
            expected.write_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n").unwrap();
            let mut some = [0; 100];
            assert!(accepted.read(&mut some).unwrap() > 0);

            let mut other = connect(&guarded, BAD);
            let (mut accepted, _) = listener.accept().unwrap();
            other.write_all(b"SSH-2.0-nobody\r\n").unwrap();
            wait_until("it to be judged", || guarded.decided(action, "web").contains_key(action));
            if action == "reject" {
                assert_eq!(accepted.read(&mut some).unwrap_err().kind(), ErrorKind::ConnectionReset, "{place}");
                assert_eq!(other.read(&mut some).unwrap_err().kind(), ErrorKind::ConnectionReset, "{place}");
            } else {
                accepted.set_nonblocking(true).unwrap();
                assert_eq!(accepted.read(&mut some).unwrap_err().kind(), ErrorKind::WouldBlock, "{place}");
            }
        }
    }
}

#[test]
fn what_is_no_packet_of_tcp_is_dropped_by_its_anomaly() {
    for place in PLACES {
        let mut guarded = guarded(place);
        guarded.apply(
            "",
            &with("[[rule]]\nname = \"odd\"\naction = \"drop\"\nmode = \"enforce\"\nanomaly = \"bad_tcp_flags\"\n"),
        );
        let before = guarded.interface();
        let frame = |flags: u8| {
            let tcp = tidewaiter_tests::frames::segment(
                tidewaiter_tests::frames::Segment { sequence: 1, acknowledgement: 1, flags: 2, payload: b"" },
                (Network::CLIENT4.into(), 40_000),
                (Network::SERVER4.into(), 8080),
            );
            let mut frame = tcp;
            frame[tidewaiter_tests::frames::Offsets::IPV4.flags] = flags;
            frame
        };
        // None, SYN and FIN, all of Christmas; then three that are usual.
        let frames = [0, 0x03, 0x29, 0x02, 0x10, 0x18].map(frame);
        guarded.network.client.run(|| send_frames(INTERFACE, &frames, 1)).unwrap();
        wait_until("all to be judged", || {
            let done = guarded.interface() - before;
            done.passed + done.dropped >= 6
        });
        assert_eq!(guarded.decided("odd", "orders"), one("drop", 3), "{place}");
        assert_eq!((guarded.interface() - before).dropped, 3);
    }
}

#[test]
fn what_has_no_port_or_the_first_of_all_is_exempt_from_nothing() {
    for place in PLACES {
        let mut guarded = guarded(place);
        guarded.apply(
            "",
            &with(
                "[[rule]]\nname = \"hidden\"\naction = \"drop\"\nmode = \"enforce\"\nanomaly = \"tiny_fragment\"\n\
                 [[rule]]\nname = \"rest\"\naction = \"drop\"\nmode = \"enforce\"\napi = \"unmapped\"\ntransport = \"tcp\"\n",
            ),
        );
        let before = guarded.interface();
        let acknowledgement = |port: u16| {
            tidewaiter_tests::frames::segment(
                tidewaiter_tests::frames::Segment { sequence: 1, acknowledgement: 1, flags: 0x10, payload: b"" },
                (Network::CLIENT4.into(), 40_000),
                (Network::SERVER4.into(), port),
            )
        };
        // A part of a datagram that begins within the header of TCP: eight bytes from its start.
        let mut part = acknowledgement(8080);
        part[20..22].copy_from_slice(&1_u16.to_be_bytes());
        guarded.network.client.run(|| send_frames(INTERFACE, &[part, acknowledgement(0)], 1)).unwrap();
        wait_until("both to be judged", || {
            let done = guarded.interface() - before;
            done.passed + done.dropped >= 2
        });
        assert_eq!(guarded.decided("hidden", "unmapped"), one("drop", 1), "{place}");
        assert_eq!(guarded.decided("rest", "unmapped"), one("drop", 1), "{place}");
    }
}
