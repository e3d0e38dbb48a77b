//! Real servers and real clients: what the exporter counts of them is what they count themselves.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    collections::BTreeMap,
    fmt::Debug,
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tidewaiter_tests::{
    apis::{address, configuration, row},
    client::{Client, assert_agree, http_answer, http_status, median},
    command::output,
    exporter::Exporter,
    network::{Network, Offload},
    servers::{Nginx, Postgres, Redis, Ssh, are_installed},
};

/// How long a server waits before it answers: so long that nothing else matters.
const PAUSE: Duration = Duration::from_millis(100);

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
