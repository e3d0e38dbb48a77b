//! Requests by their methods and answers by their status, held against what nginx has logged.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use tidewaiter_tests::{
    client::{Client, find, http_answer, http_head_answer, http_status},
    command::output,
    exporter::Exporter,
    namespace::Namespace,
    network::{Network, Offload},
    servers::{Nginx, are_installed},
};

/// A request that is made over and over.
struct Shape {
    method: &'static str,
    target: &'static str,
    /// Headers beside those that every request needs, each with its line's end.
    headers: &'static str,
    /// Bytes of the body; none if 0.
    body: usize,
    status: u16,
}

const fn shape(method: &'static str, target: &'static str, status: u16) -> Shape {
    Shape { method, target, headers: "", body: 0, status }
}

const SHAPES: [Shape; 32] = [
    shape("GET", "/code/200", 200),
    shape("HEAD", "/code/200", 200),
    shape("OPTIONS", "/code/anything", 204),
    shape("POST", "/code/204", 204),
    shape("GET", "/code/301", 301),
    shape("GET", "/code/400", 400),
    shape("GET", "/code/403", 403),
    shape("GET", "/code/404", 404),
    shape("GET", "/code/500", 500),
    shape("GET", "/nowhere", 404),
    shape("GET", "/gone", 502),
    shape("GET", "/slow/2", 200),
    shape("GET", "/one", 200),
    shape("GET", "/file", 200),
    shape("GET", "/large", 200),
    shape("HEAD", "/large", 200),
    shape("POST", "/file", 405),
    shape("PATCH", "/file", 405),
    shape("TRACE", "/file", 405),
    shape("DELETE", "/nowhere", 404),
    // In no registry, and in one.
    shape("BREW", "/code/200", 200),
    shape("PROPFIND", "/code/200", 200),
    Shape { headers: "Range: bytes=5-9\r\n", ..shape("GET", "/file", 206) },
    Shape { headers: "If-None-Match: *\r\n", ..shape("GET", "/file", 304) },
    Shape { body: 1, ..shape("PUT", "/put/one", 204) },
    Shape { body: 5_000, ..shape("PUT", "/put/some", 204) },
    Shape { body: 300_000, ..shape("PUT", "/put/many", 204) },
    Shape { body: 1, ..shape("POST", "/slow/1", 200) },
    Shape { body: 20_000, ..shape("POST", "/slow/1", 200) },
    Shape { body: 1_100, ..shape("POST", "/little", 413) },
    Shape { headers: "Expect: 100-continue\r\n", body: 3_000, ..shape("PUT", "/put/expected", 204) },
    Shape { headers: "Transfer-Encoding: chunked\r\n", body: 40_000, ..shape("PUT", "/put/chunked", 204) },
];

/// What was done, as far as the log does not say it.
#[derive(Debug, Default)]
struct Tally {
    requests: AtomicUsize,
    continued: AtomicUsize,
}

impl Tally {
    /// Makes one request. Says whether the connection goes on.
    fn ask(&self, client: &mut Client, shape: &Shape) -> bool {
        let &Shape { method, target, headers, body, status } = shape;
        let body = vec![b'x'; body];
        let (length, body) = if headers.contains("chunked") {
            let chunks =
                body.chunks(1_500).map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
            (String::new(), [chunks.collect::<Vec<_>>().concat(), b"0\r\n\r\n".to_vec()].concat())
        } else if body.is_empty() {
            (String::new(), body)
        } else {
            (format!("Content-Length: {}\r\n", body.len()), body)
        };
        let head = format!("{method} {target} HTTP/1.1\r\nHost: web\r\n{headers}{length}\r\n").into_bytes();
        let count = self.requests.fetch_add(1, Ordering::Relaxed);
        if headers.contains("Expect") {
            client.send(&head);
            assert_eq!(http_status(&client.receive(http_answer)), 100);
            self.continued.fetch_add(1, Ordering::Relaxed);
            client.send(&body);
        } else if count.is_multiple_of(2) || status == 413 {
            client.send(&[head, body].concat());
        } else {
            client.send(&head);
            client.send(&body);
        }
        let answer = client.receive(if method == "HEAD" { http_head_answer } else { http_answer });
        assert_eq!(
            http_status(&answer),
            status,
            "{method} {target}: {}",
            String::from_utf8_lossy(&answer[..answer.len().min(300)])
        );
        find(&answer, b"\r\nConnection: close\r\n").is_none()
    }

    /// Many connections at once, each with many requests of every shape.
    fn mix(&self, server: SocketAddr) {
        for (method, status) in [("PUT", 201), ("DELETE", 204)] {
            for target in ["/put/one", "/put/some", "/put/many", "/put/expected", "/put/chunked"] {
                self.ask(&mut Client::connect(server), &shape_with_body(method, target, status));
            }
        }
        for target in ["/put/one", "/put/some", "/put/many", "/put/expected", "/put/chunked"] {
            self.ask(&mut Client::connect(server), &shape_with_body("PUT", target, 201));
        }
        let threads = 16;
        thread::scope(|scope| {
            for thread in 0..threads {
                scope.spawn(move || {
                    let mut client = Client::connect(server);
                    for turn in 0..4 * SHAPES.len() {
                        if !self.ask(&mut client, &SHAPES[(turn + thread * 5) % SHAPES.len()]) {
                            client = Client::connect(server);
                        }
                    }
                });
            }
        });
        // The largest of all.
        let mut client = Client::connect(server);
        for huge in [Shape { body: 10_000_000, ..shape("PUT", "/put/huge", 201) }, shape("GET", "/put/huge", 200)] {
            assert!(self.ask(&mut client, &huge));
        }
    }

    /// HTTP/1.0: one request for each connection.
    fn old(&self, server: SocketAddr) {
        for method in ["GET", "HEAD"] {
            for _ in 0..10 {
                let mut client = Client::connect(server);
                client.send(format!("{method} /file HTTP/1.0\r\n\r\n").as_bytes());
                self.requests.fetch_add(1, Ordering::Relaxed);
                assert_eq!(http_status(&client.receive_all()), 200);
            }
        }
    }

    /// Requests that do not wait for the answers to those before, each in a segment of its own.
    fn pipeline(&self, server: SocketAddr) {
        for in_a_row in [2, 4] {
            let mut client = Client::connect(server);
            // nginx holds back small answers on a connection until the first pause.
            self.ask(&mut client, &SHAPES[0]);
            for _ in 0..20 {
                for _ in 0..in_a_row {
                    client.send(b"GET /file HTTP/1.1\r\nHost: web\r\n\r\n");
                    self.requests.fetch_add(1, Ordering::Relaxed);
                }
                (0..in_a_row).for_each(|_| assert_eq!(http_status(&client.receive(http_answer)), 200));
            }
        }
    }
}

fn shape_with_body(method: &'static str, target: &'static str, status: u16) -> Shape {
    Shape { body: usize::from(method == "PUT"), ..shape(method, target, status) }
}

/// All that `/metrics` counts of an API by `label`.
fn counts(exporter: &Exporter<'_>, metric: &str, label: &str) -> BTreeMap<String, u64> {
    let text = exporter.text("/metrics", &[]);
    let lines = text.lines().filter(|line| line.starts_with(&format!("tidewaiter_api_{metric}_total{{api=\"web\"")));
    let value = |line: &str| {
        let (_, rest) = line.split_once(&format!("{label}=\""))?;
        let (value, _) = rest.split_once('"')?;
        Some((value.to_owned(), line.rsplit(' ').next()?.parse().ok()?))
    };
    lines.filter_map(value).collect()
}

/// Has nginx on `server` asked for everything by `client`, over the interface called `name`, and compares.
fn assert_counted_as_logged(server: &Namespace, client: &Namespace, address: SocketAddr, name: &str) {
    // Small answers in a row are not put into one segment: those that share one are not counted.
    output(server.command("sysctl").args(["-q", "-w", "net.ipv4.tcp_autocorking=0"]));
    let nginx = Nginx::start(server);
    for (file, length) in [("one", 1), ("file", 300), ("large", 400_000)] {
        fs::write(nginx.files().join(file), vec![b'x'; length]).unwrap();
    }
    let start = |host, role| {
        let api = format!("name = \"web\"\nports = [80]\nrole = \"{role}\"");
        (role, Exporter::start(host, &format!("interfaces = [\"{name}\"]\n[[api]]\n{api}\n")))
    };
    // Over loopback there is one host, which is the server.
    let exporters = [(server, "server"), (client, "client")].into_iter().take(if name == "lo" { 1 } else { 2 });
    let exporters: Vec<_> = exporters.map(|(host, role)| start(host, role)).collect();
    let tally = Tally::default();
    client.run(|| {
        tally.mix(address);
        tally.old(address);
        tally.pipeline(address);
    });
    // Real clients.
    let url = format!("http://{address}");
    let curl = |arguments: &[&str], requests: usize| {
        output(client.command("curl").args(["-s", "-o", "/dev/null"]).args(arguments));
        tally.requests.fetch_add(requests, Ordering::Relaxed);
    };
    curl(&[&format!("{url}/file?[1-20]")], 20);
    let large = nginx.files().join("large");
    let large = large.to_str().unwrap();
    curl(&["-T", large, "-H", "Expect:", &format!("{url}/put/by-curl")], 1);
    curl(&["-T", large, "-H", "Expect:", "-H", "Transfer-Encoding: chunked", &format!("{url}/put/by-curl")], 1);
    curl(&["-T", large, "-H", "Expect: 100-continue", &format!("{url}/put/by-curl")], 1);
    tally.continued.fetch_add(1, Ordering::Relaxed);
    for keep_alive in [&["-k"][..], &[]] {
        let mut ab = client.command("ab");
        output(ab.args(["-q", "-n", "1000", "-c", "20"]).args(keep_alive).arg(format!("{url}/file")));
        tally.requests.fetch_add(1000, Ordering::Relaxed);
    }

    let log = nginx.log(tally.requests.load(Ordering::Relaxed));
    let (mut methods, mut codes, mut connections) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
    for [method, code, connection] in log {
        connections.insert(connection);
        let is_known = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"].contains(&&*method);
        *methods.entry(if is_known { method } else { "other".to_owned() }).or_insert(0) += 1;
        *codes.entry(code).or_insert(0) += 1;
    }
    let answers: u64 = codes.values().sum();
    codes.insert("100".to_owned(), tally.continued.load(Ordering::Relaxed) as u64);
    println!("{name}: {methods:?}\n{codes:?}");
    for (role, exporter) in &exporters {
        let what = format!("{name}, {role}");
        // The last answers of all may still be on their way through the kernel.
        for _ in 0..40 {
            if counts(exporter, "responses", "code") == codes {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(counts(exporter, "requests", "method"), methods, "{what}");
        assert_eq!(counts(exporter, "responses", "code"), codes, "{what}");
        let metrics = exporter.metrics();
        let count = |name: &str| metrics.get(&format!("tidewaiter_api_{name}"), &[("api", "web"), ("role", role)]);
        assert_eq!(count("response_duration_seconds_count"), Some(answers), "{what}: each answer has its time");
        assert_eq!(count("handshake_duration_seconds_count"), count("connections_opened_total"), "{what}");
        // (Some clients open connections that they ask nothing on.)
        let protocols = BTreeMap::from([("http1".to_owned(), connections.len() as u64)]);
        assert_eq!(counts(exporter, "protocol_flows", "protocol"), protocols, "{what}");
        metrics.assert_the_sums_prove_it();
    }
}

const NEEDED: [&str; 4] = ["nginx", "openssl", "curl", "ab"];

#[test]
fn requests_and_answers_on_a_wire_of_super_packets_are_those_that_nginx_logs() {
    if !are_installed(&NEEDED) {
        return;
    }
    let network = Network::new(Offload::Device);
    assert_counted_as_logged(&network.server, &network.client, (Network::SERVER6, 80).into(), "wire");
}

#[test]
fn requests_and_answers_over_loopback_are_those_that_nginx_logs() {
    if !are_installed(&NEEDED) {
        return;
    }
    let host = Namespace::new();
    assert_counted_as_logged(&host, &host, (Ipv4Addr::LOCALHOST, 80).into(), "lo");
}

#[test]
fn what_is_not_told_apart_is_as_the_readme_says() {
    if !are_installed(&["nginx", "openssl"]) {
        return;
    }
    let network = Network::new(Offload::Device);
    let nginx = Nginx::start(&network.server);
    let exporter = Exporter::start(&network.server, "interfaces = [\"wire\"]\n[[api]]\nname = \"web\"\nports = [80]\n");
    let get = "GET /code/200 HTTP/1.1\r\nHost: web\r\n\r\n";
    let ask = |segments: &[&str], answers: usize| {
        network.client.run(|| {
            let mut client = Client::connect((Network::SERVER4, 80).into());
            for segment in segments {
                client.send(segment.as_bytes());
            }
            (0..answers).for_each(|_| assert_eq!(http_status(&client.receive(http_answer)), 200));
        });
        ["requests", "responses"].map(|what| {
            let label = if what == "requests" { "method" } else { "code" };
            counts(&exporter, what, label).into_values().sum::<u64>()
        })
    };
    // Three in one segment are one to us, whatever nginx logs.
    assert_eq!(ask(&[&get.repeat(3)], 3), [1, 1]);
    // A body that begins a segment, and looks like a request.
    let head = format!("POST /slow/1 HTTP/1.1\r\nHost: web\r\nContent-Length: {}\r\n\r\n", get.len());
    assert_eq!(ask(&[&(head.clone() + get)], 1), [2, 2]);
    assert_eq!(ask(&[&head, get], 1), [4, 3]);
    assert_eq!(nginx.log(3 + 2).len(), 5);
}
