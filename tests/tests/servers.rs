//! Real servers and real clients: what the exporter says of them is what they say themselves.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tidewaiter_common::histogram::Range;
use tidewaiter_tests::{
    client::{
        Client, go_first, http_answer, http_status, postgresql_answer, postgresql_query, postgresql_startup,
        redis_answer, redis_command,
    },
    command::output,
    exporter::{Exporter, binary},
    network::{INTERFACE, Network, Offload},
    servers::{Nginx, Postgres, Redis, Ssh, are_installed},
    tap,
    tshark::{Dump, Stream, streams},
};

/// The APIs, and their ports.
const APIS: [(&str, u16); 7] =
    [("web", 80), ("tls", 443), ("cache", 6379), ("database", 5432), ("shell", 22), ("mail", 25), ("nobody", 81)];

fn configuration(role: &str) -> String {
    let api = |(name, port): (&str, u16)| format!("[[api]]\nname = \"{name}\"\nports = [{port}]\nrole = \"{role}\"\n");
    let apis = APIS.map(api).concat();
    format!("interfaces = [\"{INTERFACE}\"]\n{apis}")
}

fn port(api: &str) -> u16 {
    APIS.iter().find(|(name, _)| *name == api).unwrap().1
}

fn address(api: &str) -> SocketAddr {
    (Network::SERVER4, port(api)).into()
}

/// What `/api/v1/apis` says of `api`.
fn row(exporter: &Exporter<'_>, api: &str) -> Value {
    let answer: Value = serde_json::from_slice(&exporter.body("/api/v1/apis", &[])).unwrap();
    answer["apis"].as_array().unwrap().iter().find(|row| row["api"] == api).cloned().unwrap()
}

/// Waits until `look` finds what is `expected`, or else says what it finds instead.
fn settle<T: PartialEq + Debug>(what: &str, expected: &T, mut look: impl FnMut() -> T) {
    let mut found = look();
    for _ in 0..100 {
        if found == *expected {
            return;
        }
        thread::sleep(Duration::from_millis(50));
        found = look();
    }
    panic!("{what}: {found:?}, expected {expected:?}");
}

/// A number in what `/api/v1/apis` says of an API; 0 if it is not there.
fn number(row: &Value, path: &str) -> u64 {
    row.pointer(path).and_then(Value::as_u64).unwrap_or_default()
}

/// How many answers of `api` were timed.
fn answers(exporter: &Exporter<'_>, api: &str) -> u64 {
    number(&row(exporter, api), "/response/count")
}

fn median(times: impl IntoIterator<Item = Duration>) -> Duration {
    let mut times: Vec<_> = times.into_iter().collect();
    times.sort_unstable();
    times[times.len().div_ceil(2) - 1]
}

/// Sees that two medians are in the same bucket of a histogram, or in neighbours.
fn assert_agree(what: &str, ours: Duration, truth: Duration) {
    println!("{what}: {ours:?}, measured {truth:?}");
    let bucket = |time: Duration| Range::Latency.bucket(u64::try_from(time.as_nanos()).unwrap());
    assert!(bucket(ours).abs_diff(bucket(truth)) <= 1, "{what}: {ours:?}, measured {truth:?}");
}

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

/// Runs a client of `network`.
fn run(network: &Network, line: &str) -> String {
    let mut words = line.split_whitespace();
    let mut command = network.client.command(words.next().unwrap());
    command.env("PGSSLMODE", "disable").env("PGGSSENCMODE", "disable").env("PGUSER", "postgres");
    output(command.args(words))
}

/// The flows of `api` by what they look like.
fn protocols(exporter: &Exporter<'_>, api: &str) -> BTreeMap<String, u64> {
    let row = row(exporter, api);
    let flows = row["protocols"].as_object().into_iter().flatten();
    flows.map(|(protocol, flows)| (protocol.clone(), flows.as_u64().unwrap())).collect()
}

fn assert_protocol(exporter: &Exporter<'_>, api: &str, protocol: &str, flows: u64) {
    println!("{api}: {flows} flows of {protocol}");
    settle(api, &BTreeMap::from([(protocol.to_owned(), flows)]), || protocols(exporter, api));
}

#[test]
fn connections_to_redis_and_its_answers_are_as_many_as_it_says() {
    if !are_installed(&["redis-server", "redis-cli", "redis-benchmark"]) {
        return;
    }
    let network = Network::new(Offload::Device);
    let redis = Redis::start(&network.server);
    let exporter = Exporter::start(&network.server, &configuration("server"));
    let before = redis.counts();
    let server = format!("-h {}", Network::SERVER4);
    for _ in 0..3 {
        assert_eq!(run(&network, &format!("redis-cli {server} ping")), "PONG\n");
    }
    run(&network, &format!("redis-cli {server} -x set large")); // of nothing
    run(&network, &format!("redis-benchmark {server} -q -n 2000 -c 20 -t ping_inline,set,get,lrange_100"));
    run(&network, &format!("redis-benchmark {server} -q -n 20 -c 2 -d 300000 -t set,get"));
    let after = redis.counts();
    // The last time that it was asked by us is among them.
    let [commands, connections] = [after.0 - before.0 - 1, after.1 - before.1 - 1];
    println!("redis: {commands} commands, {connections} connections");
    assert!(commands > 10_000 && connections > 80, "{commands} commands, {connections} connections");
    // Each benchmark first asks for two settings at once, in one segment: to us that is one request.
    let benchmarks = 2;
    settle("cache, answers", &(commands - benchmarks), || answers(&exporter, "cache"));
    assert_protocol(&exporter, "cache", "redis", connections);
    settle("cache, connections", &[connections, connections, connections, 0], || {
        let row = row(&exporter, "cache");
        ["attempts", "opened", "closed", "active"].map(|what| match what {
            "closed" => number(&row, "/connections/closed/fin") + number(&row, "/connections/closed/reset"),
            what => number(&row, &format!("/connections/{what}")),
        })
    });
}

#[test]
fn connections_to_postgresql_and_its_answers_are_as_many_as_it_says() {
    if !are_installed(&["postgres", "psql", "pgbench"]) {
        return;
    }
    let network = Network::new(Offload::Device);
    let postgres = Postgres::start(&network.server);
    let exporter = Exporter::start(&network.server, &configuration("server"));
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("script.sql");
    fs::write(&script, "select 1;\nselect repeat('x', 100000);\n").unwrap();
    let server = format!("-h {}", Network::SERVER4);
    for _ in 0..3 {
        assert_eq!(run(&network, &format!("psql {server} -Atc select(2+2)")), "4\n");
    }
    run(&network, &format!("pgbench {server} -n -c 4 -t 100 -f {} postgres", script.display()));
    // Here what a query consists of is several messages, which are sent at once.
    run(&network, &format!("pgbench {server} -n -M extended -c 2 -t 50 -f {} postgres", script.display()));
    // It asks for TLS first, and is told that there is none, which is one more answer.
    let mut psql = network.client.command("psql");
    psql.args(["-h", &Network::SERVER4.to_string(), "-U", "postgres", "-Atc", "select 1"]);
    output(psql.env("PGSSLMODE", "prefer").env("PGGSSENCMODE", "disable"));
    let says = |words| postgres.says(words) as u64;
    let (connections, statements) = (says("connection received"), says("statement: ") + says("execute <unnamed>: "));
    println!("postgres: {connections} connections, {statements} statements");
    assert!(connections > 3 + 4 + 2 && statements > 3 + 800 + 200, "{connections} {statements}");
    settle("database, answers", &(connections + statements + 1), || answers(&exporter, "database"));
    assert_protocol(&exporter, "database", "postgresql", connections);
    settle("database, connections", &[connections, connections, 0], || {
        let row = row(&exporter, "database");
        ["opened", "closed/fin", "active"].map(|what| number(&row, &format!("/connections/{what}")))
    });
}

#[test]
fn a_greeting_is_no_answer_and_what_follows_half_a_close_is() {
    if !are_installed(&["nginx", "openssl", "curl", "sshd", "ssh-keyscan", "redis-server"]) {
        return;
    }
    let network = Network::new(Offload::Device);
    let (_nginx, _ssh) = (Nginx::start(&network.server), Ssh::start(&network.server));
    let _redis = Redis::start(&network.server);
    let exporter = Exporter::start(&network.server, &configuration("server"));

    // OpenSSH speaks first, and so does whoever takes mail.
    let mail = network.server.run(|| TcpListener::bind(address("mail"))).unwrap();
    thread::spawn(move || {
        for mut client in mail.incoming().map_while(Result::ok) {
            client.write_all(b"220 mail.example ESMTP\r\n").unwrap();
            let mut line = [0; 100];
            while let Ok(1..) = client.read(&mut line) {
                client.write_all(b"250 mail.example\r\n").unwrap();
            }
        }
    });
    let line = |bytes: &[u8]| bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
    network.client.run(|| {
        for _ in 0..3 {
            let greeting = Client::connect(address("shell")).receive(line);
            assert!(greeting.starts_with(b"SSH-2.0-OpenSSH"), "{greeting:?}");
            assert_eq!(Client::connect(address("mail")).receive(line), b"220 mail.example ESMTP\r\n");
        }
    });
    assert_protocol(&exporter, "shell", "ssh", 3);
    assert_protocol(&exporter, "mail", "smtp", 3);
    assert_eq!(["shell", "mail"].map(|api| answers(&exporter, api)), [0, 0]);

    network.client.run(|| {
        let mut client = Client::connect(address("mail"));
        client.receive(line);
        for command in ["EHLO client.example\r\n", "NOOP\r\n", "QUIT\r\n"] {
            client.ask(command.as_bytes(), line);
        }
    });
    assert_protocol(&exporter, "mail", "smtp", 4);
    assert_eq!(answers(&exporter, "mail"), 3);
    assert!(run(&network, &format!("ssh-keyscan -t ed25519 {}", Network::SERVER4)).contains("ssh-ed25519"));
    assert_protocol(&exporter, "shell", "ssh", 4);
    assert!(answers(&exporter, "shell") > 0, "the keys");

    // With TLS there is nothing to read but the greeting.
    for _ in 0..4 {
        run(&network, &format!("curl -ksSf -o /dev/null -I https://{}/code/200", Network::SERVER4));
    }
    assert_protocol(&exporter, "tls", "tls", 4);

    // A client that says that it is done, and waits.
    let late = network.server.run(|| TcpListener::bind(address("nobody"))).unwrap();
    thread::spawn(move || {
        for mut client in late.incoming().map_while(Result::ok) {
            client.read_to_end(&mut Vec::new()).unwrap();
            thread::sleep(PAUSE);
            client.write_all(b"late").unwrap();
        }
    });
    let times = network.client.run(|| {
        let times = [1, 1_000, 1_000_000].map(|length| {
            let mut client = Client::connect(address("nobody"));
            client.send(&vec![b'x'; length]);
            let start = Instant::now();
            client.finish_sending();
            assert_eq!(client.receive_all(), b"late");
            start.elapsed()
        });
        let mut client = Client::connect(address("cache"));
        client.send(b"PING\r\n");
        client.finish_sending();
        assert_eq!(client.receive_all(), b"+PONG\r\n");
        let mut client = Client::connect(address("web"));
        client.send(b"GET /slow/5 HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n");
        let answer = client.receive(http_answer);
        client.finish_sending();
        assert_eq!((http_status(&answer), client.receive_all()), (200, Vec::new()));
        times
    });
    assert_eq!(["nobody", "cache", "web"].map(|api| answers(&exporter, api)), [3, 1, 1]);
    let ours = Duration::from_secs_f64(row(&exporter, "nobody")["response"]["p50"].as_f64().unwrap());
    assert_agree("after half a close", ours, median(times));
    settle("connections", &[3, 1, 1], || {
        ["nobody", "cache", "web"].map(|api| number(&row(&exporter, api), "/connections/closed/fin"))
    });
}

#[test]
fn connections_are_counted_as_the_client_makes_them() {
    if !are_installed(&["nginx", "openssl"]) {
        return;
    }
    let network = Network::new(Offload::Device);
    let _nginx = Nginx::start(&network.server);
    let exporters = [
        Exporter::start(&network.server, &configuration("server")),
        Exporter::start(&network.client, &configuration("client")),
    ];
    let request = |connection: &str| format!("GET /code/200 HTTP/1.1\r\nHost: web\r\nConnection: {connection}\r\n\r\n");
    let kept = network.client.run(|| {
        let asked = |connection| {
            let mut client = Client::connect(address("web"));
            assert_eq!(http_status(&client.ask(request(connection).as_bytes(), http_answer)), 200);
            client
        };
        (0..50).for_each(|_| drop(asked("keep-alive")));
        (0..20).for_each(|_| assert_eq!(asked("close").receive_all(), b""));
        (0..30).for_each(|_| asked("keep-alive").reset());
        // Nothing is said on these.
        (0..10).for_each(|_| drop(Client::connect(address("web"))));
        (0..5).for_each(|_| Client::connect(address("web")).reset());
        (0..40).for_each(|_| assert!(TcpStream::connect(address("nobody")).is_err()));
        (0..7).map(|_| asked("keep-alive")).collect::<Vec<_>>()
    });
    let counts = |exporter: &Exporter<'_>, api: &str| {
        let row = row(exporter, api);
        let names = ["attempts", "refused", "opened", "adopted", "closed/fin", "closed/reset", "closed/idle", "active"];
        names.map(|name| number(&row, &format!("/connections/{name}")))
    };
    for exporter in &exporters {
        settle("web", &[122, 0, 122, 0, 80, 35, 0, 7], || counts(exporter, "web"));
        settle("nobody", &[40, 40, 0, 0, 0, 0, 0, 0], || counts(exporter, "nobody"));
        assert_protocol(exporter, "web", "http1", 107);
    }
    drop(kept);
    for exporter in &exporters {
        settle("web", &[122, 0, 122, 0, 87, 35, 0, 0], || counts(exporter, "web"));
    }
}
