//! The traces that requests are part of, by their `traceparent`: which requests are looked at, and what is told of them.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;
use tidewaiter::{
    accounting::Accounting,
    flow::FlowRecord,
    kernel::{CapturedPacket, FlowCapacity, FlowTable, Kernel, LoadOptions, pins::Pins},
};
use tidewaiter_common::{
    api::{ApiSlot, PortEntry, port_index},
    direction::Direction::{self, Receive, Transmit},
    event::{Lost, SAMPLE_BYTES, SAMPLED_REQUESTS, Sample, sample_kind},
    frame::Framing,
    interface::InterfaceSlot,
    packet::tcp_flag::{ACK, PSH, SYN},
    role::Role,
    transport::Transport,
};
use tidewaiter_tests::{
    accounting::{account_as, flows},
    bpf_file_system::BpfFileSystem,
    client::{Client, find, http_answer, http_status},
    command::{Process, output},
    exporter::{Exporter, binary},
    frames::{End, Segment, segment},
    namespace::Namespace,
    network::{INTERFACE, Network, Offload},
    servers::{Nginx, are_installed},
    wait::wait_until,
};

const FLOWS: FlowCapacity = FlowCapacity { established: 1024, new: 1024 };

/// The header's value for the trace with `number`.
fn trace(number: usize) -> String {
    format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{:016x}-01", number + 1)
}

/// A request for `target`, with the header's value in each of `traces`.
fn request(target: &str, traces: &[String]) -> Vec<u8> {
    let headers = traces.iter().map(|trace| format!("Traceparent: {trace}\r\n"));
    format!("GET {target} HTTP/1.1\r\nHost: orders.example\r\n{}\r\n", headers.collect::<String>()).into_bytes()
}

/// Answers whatever is asked at port 8080 of `host`, as long as the test runs.
fn serve(host: &Namespace) {
    let listener = host.run(|| TcpListener::bind(("0.0.0.0", 8080))).expect("is free");
    let answer = |mut client: TcpStream| {
        let (mut asked, mut some) = (Vec::new(), [0; 4096]);
        while let Ok(length @ 1..) = client.read(&mut some) {
            asked.extend(&some[..length]);
            while let Some(end) = find(&asked, b"\r\n\r\n") {
                asked.drain(..end + 4);
                client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("is heard");
            }
        }
    };
    thread::spawn(move || {
        listener.incoming().map_while(Result::ok).for_each(|client| _ = thread::spawn(move || answer(client)));
    });
}

fn load(bpf: &BpfFileSystem, host: &Namespace, trace_parents: bool) -> Accounting {
    let pins = Some(Pins::open(&bpf.pin_path()).expect("nobody else has it"));
    let options = LoadOptions { pins, flows: FLOWS, trace_parents, ..LoadOptions::default() };
    account_as(host, INTERFACE, options, Duration::MAX)
}

/// The traces of the flow of the client at `port`, by all that has passed so far.
fn told(accounting: &mut Accounting, port: u16) -> Vec<String> {
    accounting.drain_flows(Instant::now() + Duration::from_secs(5)).expect("can be read");
    let context = accounting.flow_context().expect("can be read");
    let flows = flows(accounting, FlowTable::Established);
    let (key, flow) = flows.iter().find(|(key, _)| key.remote_port == port).expect("is there");
    let record = FlowRecord::new(key, flow, &context);
    assert!(record.responses > 0, "{record:?}");
    record.trace_parents.iter().map(ToString::to_string).collect()
}

#[test]
fn requests_are_looked_at_while_somebody_wants_them_whoever_was_there_before() {
    let network = Network::new(Offload::Device);
    let bpf = BpfFileSystem::mount();
    serve(&network.server);
    let connect = || network.client.run(|| Client::connect((Network::SERVER4, 8080).into()));
    let ask = |client: &mut Client, traces: &[String]| {
        client.ask(&request("/", traces), http_answer);
    };

    let mut accounting = load(&bpf, &network.server, false);
    let mut client = connect();
    ask(&mut client, &[trace(0)]);
    assert_eq!(told(&mut accounting, client.port()), [""; 0]);
    drop(accounting);

    let mut accounting = load(&bpf, &network.server, true);
    assert!(accounting.took_over());
    ask(&mut client, &[trace(1)]);
    assert_eq!(told(&mut accounting, client.port()), [trace(1)]);
    // Each once, and the first alone; those without one are requests too, and so are those that say too much.
    ask(&mut client, &[]);
    ask(&mut client, &[trace(2)]);
    ask(&mut client, &[trace(3), trace(4)]);
    ask(&mut client, &[trace(1)]);
    (5..30).for_each(|number| ask(&mut client, &[trace(number)]));
    let expected: Vec<_> = [1, 2].into_iter().chain(5..).take(SAMPLED_REQUESTS as usize - 4).map(trace).collect();
    assert_eq!(told(&mut accounting, client.port()), expected);
    // Nobody has read this one when the next exporter comes.
    let mut other = connect();
    ask(&mut other, &[trace(0)]);
    drop(accounting);

    let mut accounting = load(&bpf, &network.server, false);
    assert!(accounting.took_over());
    ask(&mut other, &[trace(1)]);
    assert_eq!(told(&mut accounting, client.port()), [""; 0]);
    assert_eq!(told(&mut accounting, other.port()), [""; 0]);
}

/// A host that serves an API at 8080, with a clock that stands still.
struct Host {
    kernel: Kernel,
}

const INDEX: u32 = 7;
const SERVER: End = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 8080);
/// The first byte that each side of a connection sends.
const REQUEST: u32 = 1_001;
const ANSWER: u32 = 5_001;

impl Host {
    fn new() -> Self {
        let options = LoadOptions { flows: FLOWS, replay: true, trace_parents: true, ..LoadOptions::default() };
        let mut kernel = Kernel::load(options).expect("the kernel takes the programs");
        let mut entry = PortEntry::UNMAPPED;
        entry.set_any_address(Role::Server, ApiSlot(1));
        kernel.set_port(port_index(Transport::Tcp, 8080), entry).expect("is written");
        kernel.set_interface(INDEX, InterfaceSlot(1), Framing::Ethernet).expect("is written");
        Self { kernel }
    }

    /// A segment passes between `server` and the client with this number.
    fn pass(&mut self, client: u16, server: End, direction: Direction, said: Segment<'_>) {
        let client = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 10_000 + client);
        let data = &match direction {
            Receive => segment(said, client, server),
            Transmit => segment(said, server, client),
        };
        let packet = CapturedPacket { data, length: data.len() as u32, time: 1_000_000_000, interface: INDEX };
        self.kernel.replay(direction, packet).expect("is taken");
    }

    fn receive(&mut self, client: u16, flags: u8, sequence: u32, acknowledgement: u32, payload: &[u8]) {
        self.pass(client, SERVER, Receive, Segment { sequence, acknowledgement, flags, payload });
    }

    fn transmit(&mut self, client: u16, flags: u8, sequence: u32, acknowledgement: u32, payload: &[u8]) {
        self.pass(client, SERVER, Transmit, Segment { sequence, acknowledgement, flags, payload });
    }

    /// A client opens a connection, so far that its next segment establishes that.
    fn open(&mut self, client: u16) {
        self.receive(client, SYN, REQUEST - 1, 0, &[]);
        self.transmit(client, SYN | ACK, ANSWER - 1, REQUEST, &[]);
    }

    /// The client's port, the kind and the bytes of all samples that were not read yet.
    fn samples(&mut self) -> Vec<(u16, u8, Vec<u8>)> {
        let mut samples = Vec::new();
        let each = |sample: &Sample, bytes: &[u8]| {
            assert_eq!((sample.api, sample.direction), (ApiSlot(1), Receive as u32), "{sample:?}");
            samples.push((sample.key.remote_port - 10_000, sample.kind, bytes.to_vec()));
        };
        assert!(!self.kernel.read_samples(usize::MAX, each));
        samples
    }
}

#[test]
fn who_is_not_answered_is_not_looked_at() {
    let mut host = Host::new();
    let asked = request("/", &[trace(0)]);
    let said = PSH | ACK;
    // Nobody has answered the opening, nor what seems to be in the middle of a connection.
    host.receive(0, SYN, REQUEST - 1, 0, &[]);
    host.receive(0, said, REQUEST, ANSWER, &asked);
    host.receive(1, said, REQUEST, ANSWER, &asked);
    // Who pretends to be there does not know what to acknowledge.
    host.open(2);
    host.receive(2, said, REQUEST, ANSWER + (1 << 30), &asked);
    // Of no API.
    host.pass(3, (SERVER.0, 8081), Receive, Segment { flags: SYN, sequence: 0, acknowledgement: 0, payload: &[] });
    let answer = Segment { flags: SYN | ACK, sequence: 0, acknowledgement: 1, payload: &[] };
    host.pass(3, (SERVER.0, 8081), Transmit, answer);
    let request = Segment { flags: said, sequence: 1, acknowledgement: 1, payload: &asked };
    host.pass(3, (SERVER.0, 8081), Receive, request);
    assert_eq!(host.samples(), []);

    let sample = |client| (client, sample_kind::REQUEST, asked.clone());
    // The ACK that completes the handshake may be lost, or there are exporters that come late.
    host.open(4);
    host.receive(4, said, REQUEST, ANSWER, &asked);
    host.transmit(5, said, ANSWER, REQUEST, b"HTTP/1.1 200 OK\r\n\r\n");
    host.receive(5, said, REQUEST, ANSWER + 19, &asked);
    assert_eq!(host.samples(), [sample(4), sample(5)]);
    // What is sent again is no other request, and what is no request is none.
    host.receive(4, said, REQUEST, ANSWER, &asked);
    let next = REQUEST + asked.len() as u32;
    host.receive(4, said, next, ANSWER, b"the rest of it");
    assert_eq!(host.samples(), []);
    // Of a long one there is the beginning.
    let long = [asked.clone(), vec![b'x'; 3_000 - asked.len()]].concat();
    host.receive(4, said, next + 14, ANSWER, &long);
    assert_eq!(host.samples(), [(4, sample_kind::REQUEST, long[..SAMPLE_BYTES].to_vec())]);
}

#[test]
fn requests_leave_most_of_the_ring_to_others() {
    const CONNECTIONS: u16 = 100;
    const REQUESTS: u32 = 2 * SAMPLED_REQUESTS;
    let mut host = Host::new();
    let long = [request("/", &[trace(0)]), vec![b'x'; SAMPLE_BYTES]].concat();
    for client in 0..CONNECTIONS {
        host.open(client);
        for number in 0..REQUESTS {
            host.receive(client, PSH | ACK, REQUEST + number * long.len() as u32, ANSWER, &long);
        }
    }
    // A record of TLS that is none of anybody's hellos, but looks like one to the kernel.
    let hello = b"\x16\x03\x01\x00\x30\x01\x00\x00\x2c\x03\x03".repeat(10);
    host.open(CONNECTIONS);
    host.receive(CONNECTIONS, PSH | ACK, REQUEST, ANSWER, &hello);

    let samples = host.samples();
    let (asked, others): (Vec<_>, Vec<_>) = samples.iter().partition(|(_, kind, _)| *kind == sample_kind::REQUEST);
    assert_eq!(others, [&(CONNECTIONS, sample_kind::GREETING, hello)]);
    let bytes = asked.len() * (8 + size_of::<Sample>() + SAMPLE_BYTES);
    assert!((250_000..300_000).contains(&bytes), "{bytes} bytes of requests");
    let all = u64::from(CONNECTIONS) * u64::from(SAMPLED_REQUESTS);
    let lost = host.kernel.lost().expect("can be read")[Lost::Sample as usize];
    assert_eq!(lost, all - asked.len() as u64);
}

/// What a server and its clients say while `talk` runs, as tcpdump has captured it on the server.
fn captured(network: &Network, file: &std::path::Path, talk: impl FnOnce()) {
    let mut tcpdump = network.server.command("tcpdump");
    tcpdump.args(["-Z", "root", "-i", INTERFACE, "--immediate-mode", "-U", "-w"]).arg(file).arg("tcp port 80");
    let mut capture = Process::start(&mut tcpdump);
    wait_until("the capture to begin", || file.metadata().is_ok_and(|file| file.len() >= 24));
    talk();
    network.wait_until_quiet();
    let mut length = 0;
    wait_until("all to be captured", || {
        let before = length;
        length = file.metadata().expect("is there").len();
        before == length
    });
    capture.signal(Signal::INT);
    capture.0.wait().expect("ends");
}

/// The traces of each flow of the API, and the client's port, in the order in which they began.
fn traces(flows: &Value) -> Vec<(u16, Value)> {
    let flows = flows["flows"].as_array().expect("flows").iter();
    let port = |flow: &Value| flow["remote"]["port"].as_u64().and_then(|port| port.try_into().ok()).expect("a port");
    flows.filter(|flow| flow["api"] == "web").map(|flow| (port(flow), flow["trace_parents"].clone())).collect()
}

/// Has curl ask for `url` on one connection, from the port `from` or any if it is 0, in each of `traces`. Answers with its port.
fn curl(host: &Namespace, url: &str, from: u16, traces: &[usize]) -> u16 {
    let mut curl = host.command("curl");
    for (at, number) in traces.iter().enumerate() {
        curl.args(if at == 0 { &[][..] } else { &["--next"] });
        curl.args([
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{local_port} %{num_connects}\n",
            "--local-port",
            &from.to_string(),
        ]);
        // Who closes first cannot have the port again for a while: that is to be nginx, if there is one request alone.
        curl.args(if traces.len() == 1 { &["-H", "Connection: close"][..] } else { &[] });
        curl.arg("-H").arg(format!("traceparent: {}", trace(*number))).arg(url);
    }
    let said = output(&mut curl);
    let lines: Vec<_> = said.lines().map(|line| line.split_once(' ').expect("two numbers")).collect();
    let connects: Vec<_> = lines.iter().map(|(_, connects)| *connects).collect();
    assert_eq!(connects.join(""), format!("1{}", "0".repeat(traces.len() - 1)), "one connection");
    lines[0].0.parse().expect("a port")
}

#[test]
fn a_replay_tells_the_traces_that_nginx_was_asked_in_and_an_exporter_that_sends_no_spans_tells_none() {
    if !are_installed(&["nginx", "openssl", "curl"]) {
        return;
    }
    let network = Network::new(Offload::Off);
    let _nginx = Nginx::start(&network.server);
    let configuration = "interfaces = [\"wire\"]\n[[api]]\nname = \"web\"\nports = [80]\n";
    let exporter = Exporter::start(&network.server, configuration);
    let directory = tempfile::tempdir().expect("a directory");
    let (file, configured) = (directory.path().join("traffic.pcap"), directory.path().join("tidewaiter.toml"));
    fs::write(&configured, configuration).expect("can be written");
    let (mut clients, mut expected) = (Vec::new(), Vec::new());
    captured(&network, &file, || {
        let connect = || network.client.run(|| Client::connect((Network::SERVER4, 80).into()));
        let ask = |client: &mut Client, target: &str, traces: &[String]| {
            assert_eq!(http_status(&client.ask(&request(target, traces), http_answer)), 200);
        };
        let mut client = connect();
        for number in [1, 2, 1, 3] {
            ask(&mut client, "/code/200", &[trace(number)]);
        }
        (4..20).for_each(|number| ask(&mut client, "/slow/1", &[trace(number)]));
        expected.push((client.port(), vec![1, 2, 3, 4, 5, 6, 7]));
        let mut other = connect();
        ask(&mut other, "/code/200", &[]);
        ask(&mut other, "/code/200", &["00-0-0-0".to_owned()]);
        expected.push((other.port(), vec![]));
        clients.extend([client, other]);

        let url = format!("http://{}/code/200", Network::SERVER4);
        expected.push((curl(&network.client, &url, 0, &[7, 8]), vec![7, 8]));
        // The same ends, one connection after the other.
        for number in [30, 31, 32] {
            expected.push((curl(&network.client, &url, 30_000, &[number]), vec![number]));
        }
    });
    let traces_of = |numbers: &[usize]| match numbers {
        [] => Value::Null,
        numbers => numbers.iter().map(|number| trace(*number)).collect(),
    };
    let expected: Vec<_> = expected.iter().map(|(port, numbers)| (*port, traces_of(numbers))).collect();
    let mut replay = Command::new(binary());
    replay.args(["replay", "--flows", "--format", "json", "--config"]).arg(configured).arg(file);
    let replayed: Value = serde_json::from_str(&output(&mut replay)).expect("JSON");
    assert_eq!(traces(&replayed), expected);

    let live: Value = serde_json::from_str(&exporter.text("/api/v1/flows?api=web", &[])).expect("JSON");
    let found = traces(&live);
    assert!(clients.iter().all(|client| found.iter().any(|(port, _)| *port == client.port())), "{live}");
    assert!(found.iter().all(|(_, traces)| traces.is_null()), "{found:?}");
}
