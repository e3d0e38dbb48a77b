//! Handshakes and answers of real servers: the exporter, the client and tshark measure the same.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use serde_json::Value;
use tidewaiter_tests::{
    apis::{address, configuration, port, row},
    client::{
        Client, assert_agree, go_first, http_answer, http_status, median, postgresql_answer, postgresql_query,
        postgresql_startup, redis_answer, redis_command,
    },
    command::output,
    exporter::{Exporter, binary},
    network::{INTERFACE, Network, Offload},
    servers::{Nginx, Postgres, Redis, are_installed},
    tap,
    tshark::{Dump, Stream, streams},
};

/// What a client has measured of one server.
#[derive(Debug, Default)]
struct Times {
    ports: Vec<u16>,
    connecting: Vec<Duration>,
    answers: Vec<Duration>,
}

const CONNECTIONS: usize = 7;
const REQUESTS: usize = 4;
/// Answers of many segments.
const DOWNLOADS: usize = 3;
/// Requests of many segments, or of few: bytes of their bodies, which are sent so often each.
const UPLOADS: [usize; 4] = [1, 1_000, 100_000, 1_000_000];
const REPEATED: usize = 2;
/// How long servers wait before they answer: so long that nothing else matters.
const PAUSE: Duration = Duration::from_millis(100);

/// Talks to `api`: requests one after the other, on connections one after the other.
fn talk(api: &str) -> Times {
    let (milliseconds, seconds) = (PAUSE.as_millis(), PAUSE.as_secs_f64());
    let mut times = Times::default();
    go_first();
    for _ in 0..CONNECTIONS {
        let mut client = Client::connect(address(api));
        if api == "database" {
            client.ask(&postgresql_startup(), postgresql_answer);
        }
        for request in 0..REQUESTS {
            match api {
                "web" => {
                    let (method, body) = if request % 2 == 0 { ("GET", "") } else { ("POST", "body") };
                    let length = body.len();
                    let head =
                        format!("{method} /slow/{milliseconds} HTTP/1.1\r\nHost: web\r\nContent-Length: {length}");
                    let answer = client.ask(format!("{head}\r\n\r\n{body}").as_bytes(), http_answer);
                    assert!(answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"late\n"), "{answer:?}");
                }
                "cache" => {
                    let answer = client.ask(&redis_command(&["DEBUG", "SLEEP", &seconds.to_string()]), redis_answer);
                    assert_eq!(answer, b"+OK\r\n");
                }
                _ => {
                    client.ask(&postgresql_query(&format!("select pg_sleep({seconds})")), postgresql_answer);
                }
            }
        }
        times.ports.push(client.port());
        times.connecting.push(client.connecting);
        times.answers.append(&mut client.answers);
    }
    times
}

const MEASURED: [&str; 3] = ["web", "cache", "database"];

/// What was measured in one namespace.
struct Recording {
    times: BTreeMap<&'static str, Times>,
    /// Ports of clients that have sent bodies of many segments.
    uploads: BTreeSet<u16>,
    capture: (tempfile::TempDir, std::path::PathBuf),
    /// What the server's exporter has said of each API.
    rows: BTreeMap<&'static str, Value>,
}

/// Talks to all servers over `network`, and compares what the exporters at both ends say with what the client has measured.
/// Handshakes only if they take so long (`is_long`) that nothing else matters.
fn measure(network: &Network, is_long: bool) -> Recording {
    let (nginx, _redis) = (Nginx::start(&network.server), Redis::start(&network.server));
    let _postgres = Postgres::start(&network.server);
    fs::write(nginx.files().join("large"), vec![b'x'; 1_000_000]).unwrap();
    let dump = Dump::start(&network.server, INTERFACE);
    let ends = [&network.server, &network.client];
    let exporters =
        [Exporter::start(ends[0], &configuration("server")), Exporter::start(ends[1], &configuration("client"))];

    let times: BTreeMap<_, _> = network.client.run(|| {
        thread::scope(|scope| {
            let threads = MEASURED.map(|api| (api, scope.spawn(move || talk(api))));
            threads.into_iter().map(|(api, thread)| (api, thread.join().unwrap())).collect()
        })
    });
    let mut rows = BTreeMap::new();
    for (exporter, role) in exporters.iter().zip(["server", "client"]) {
        for api in MEASURED {
            let row = row(exporter, api);
            let Times { connecting, answers, .. } = &times[api];
            let count = |what: &str| row[what]["count"].as_u64().map(|count| count as usize);
            assert_eq!((count("handshake"), count("response")), (Some(connecting.len()), Some(answers.len())), "{row}");
            let ours = |what: &str| Duration::from_secs_f64(row[what]["p50"].as_f64().unwrap());
            let (handshake, mut response) = (median(connecting.clone()), median(answers.clone()));
            if is_long {
                assert_agree(&format!("{api}, {role}, handshake"), ours("handshake"), handshake);
                // The server does not know how long its answers are under way.
                if role == "server" {
                    response -= handshake;
                }
            }
            assert_agree(&format!("{api}, {role}, response"), ours("response"), response);
            if role == "server" {
                rows.insert(api, row);
            }
        }
    }

    // What follows takes its time, and the client cannot tell when the last byte of it leaves: that is for the capture.
    let uploads = network.client.run(|| {
        // Without a look at the whole of it, tshark does not find what comes behind a large answer.
        for _ in 0..DOWNLOADS {
            let mut client = Client::connect(address("web"));
            client.send(b"GET /large HTTP/1.1\r\nHost: web\r\n\r\n");
            client.receive(http_answer);
        }
        let mut uploads = BTreeSet::new();
        for length in UPLOADS {
            let mut client = Client::connect(address("web"));
            uploads.insert(client.port());
            for _ in 0..REPEATED {
                client
                    .send(format!("POST /slow/3 HTTP/1.1\r\nHost: web\r\nContent-Length: {length}\r\n\r\n").as_bytes());
                client.send(&vec![b'x'; length]);
                assert_eq!(http_status(&client.receive(http_answer)), 200);
            }
        }
        uploads
    });
    Recording { times, uploads, capture: dump.end(), rows }
}

/// The flows that a replay of `capture` finds, as seen by the end that has the address `local`, by the client's port.
fn replay(capture: &Path, role: &str, local: IpAddr) -> BTreeMap<u16, Value> {
    let file = capture.with_extension(format!("{role}.toml"));
    fs::write(&file, configuration(role)).unwrap();
    let mut command = Command::new(binary());
    command.args(["replay", "--flows", "--format", "json", "--local", &local.to_string(), "--config"]).arg(&file);
    let report: Value = serde_json::from_str(&output(command.arg(capture))).unwrap();
    let flows = report["flows"].as_array().unwrap().iter();
    let end = if role == "server" { "remote" } else { "local" };
    let flows = flows.filter(|flow| flow["role"] == role);
    flows.map(|flow| (flow[end]["port"].as_u64().unwrap() as u16, flow.clone())).collect()
}

/// As close as two figures of one capture must be: answers are timed in units of 128 nanoseconds.
fn assert_same(what: &str, ours: Option<f64>, theirs: Option<f64>) {
    let (ours, theirs) = (ours.unwrap_or_default(), theirs.unwrap_or_default());
    assert!((ours - theirs).abs() <= 130e-9, "{what}: {ours}, tshark says {theirs}");
}

/// Compares a capture of it, as tshark sees it, with what was said live, and with what a replay of it says.
fn compare_with_tshark(recording: &Recording, is_long: bool) {
    let Recording { times, uploads, capture: (_, capture), rows } = recording;
    let by_head = streams(capture, false);
    let by_last = streams(capture, true);
    let http = |port: &u16| if uploads.contains(port) { &by_last[port].http_times } else { &by_head[port].http_times };
    let seconds = |times: &mut dyn Iterator<Item = f64>| median(times.map(Duration::from_secs_f64));

    for (role, local) in [("server", Network::SERVER4), ("client", Network::CLIENT4)] {
        let flows = replay(capture, role, local.into());
        assert_eq!(flows.keys().collect::<Vec<_>>(), by_head.keys().collect::<Vec<_>>(), "{role}");
        let mut count = 0;
        for (port, flow) in &flows {
            let Stream { initial_rtt, answered, server_port, .. } = by_head[port];
            let handshake = if role == "server" { initial_rtt } else { answered };
            assert!(handshake.is_some());
            assert_same(&format!("{role}, handshake of {flow}"), flow["handshake"].as_f64(), handshake);
            if server_port == 80 {
                let times = http(port);
                assert_eq!(flow["responses"]["count"], times.len(), "{role}, {flow}, {times:?}");
                #[expect(clippy::cast_precision_loss, reason = "a few")]
                let mean = times.iter().sum::<f64>() / times.len() as f64;
                assert_same(&format!("{role}, answers of {flow}"), flow["responses"]["mean"].as_f64(), Some(mean));
                count += times.len();
            }
        }
        println!("replay, {role}: {} flows and {count} answers of HTTP as tshark has them", flows.len());
        assert_eq!(count, CONNECTIONS * REQUESTS + DOWNLOADS + UPLOADS.len() * REPEATED);
    }

    let of_api = |api| {
        let of_api = by_head.iter().filter(move |(_, stream)| stream.server_port == port(api));
        of_api.filter(move |(port, _)| times[api].ports.contains(port))
    };
    for api in MEASURED {
        let of_api: Vec<_> = of_api(api).collect();
        assert_eq!(of_api.len(), times[api].connecting.len(), "{api}");
        let ours = |what: &str| Duration::from_secs_f64(rows[api][what]["p50"].as_f64().unwrap());
        if is_long {
            let theirs = seconds(&mut of_api.iter().map(|(_, stream)| stream.initial_rtt.unwrap()));
            assert_agree(&format!("{api}, handshake, tshark"), ours("handshake"), theirs);
        }
        if api == "web" {
            let theirs = seconds(&mut of_api.iter().flat_map(|(_, stream)| stream.http_times.iter().copied()));
            assert_agree("web, response, tshark", ours("response"), theirs);
        }
    }
}

/// What is needed for both.
const NEEDED: [&str; 6] = ["nginx", "openssl", "redis-server", "postgres", "tshark", "tcpdump"];

#[test]
fn on_a_long_wire_times_are_those_that_client_and_tshark_measure() {
    if !are_installed(&NEEDED) {
        return;
    }
    let network = tap::long_network(Duration::from_millis(20));
    compare_with_tshark(&measure(&network, true), true);
}

#[test]
fn with_super_packets_times_are_those_that_client_and_tshark_measure() {
    if !are_installed(&NEEDED) {
        return;
    }
    let network = Network::new(Offload::Device);
    compare_with_tshark(&measure(&network, false), false);
}
