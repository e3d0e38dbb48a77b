//! Exporter, Prometheus and Alertmanager, real attacks and real faults: each alert reaches a webhook, and is over when it is over.
//!
//! The rules are those that are shipped, with all times divided (see `scaled`).

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use tidewaiter_common::packet::tcp_flag::SYN;
use tidewaiter_tests::{
    exporter::{ADDRESS, Exporter},
    frames::{Segment, segment},
    namespace::Namespace,
    network::{INTERFACE, Network, Offload, send_frames},
    servers::{Nginx, are_installed},
    wait::wait_until,
};

use crate::{
    prometheus::{Alertmanager, Prometheus},
    scaled,
};

/// The exporter's own thresholds are not divided with the rules' times, so the window in which it looks for floods is.
const CONFIGURATION: &str = "
    interfaces = [\"wire\"]
    [[api]]
    name = \"web\"
    ports = [80]
    [anomalies.syn_flood]
    window = \"1s\"
    half_open = 100
";
/// Milliseconds that an answer takes ordinarily, and when something is wrong.
const USUAL: u64 = 20;
const SLOW: u64 = 200;
/// Who asks, and how often.
const CLIENTS: usize = 3;
const PAUSE: Duration = Duration::from_millis(100);
/// How long it is quiet before anything happens: medians of an hour, which is two minutes here, want some of it.
const HISTORY: Duration = Duration::from_secs(40);
/// How long each alert may take to come, and to go. `for` and windows are some seconds.
const PATIENCE: Duration = Duration::from_mins(1);

/// What is to be heard of.
const EXPECTED: [&str; 5] = ["PortScan", "SynFlood", "ApiSlow", "ApiRefusesConnections", "ApiDoesNotAnswer"];

/// Asks the server again and again, each time on a connection of its own, until `is_over`; an answer takes `milliseconds`.
fn ask(is_over: &AtomicBool, milliseconds: &AtomicU64) {
    let server = SocketAddr::new(Network::SERVER4.into(), 80);
    while !is_over.load(Ordering::Relaxed) {
        let next = Instant::now() + PAUSE;
        let path = milliseconds.load(Ordering::Relaxed);
        // Whether there is an answer is what the exporter is to say.
        if let Ok(mut stream) = TcpStream::connect_timeout(&server, Duration::from_secs(1)) {
            stream.set_read_timeout(Some(Duration::from_secs(1))).expect("is a time");
            let request = format!("GET /slow/{path} HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).ok();
            stream.read_to_end(&mut Vec::new()).ok();
        }
        sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// A SYN to `port` of the server.
fn syn(from: Ipv4Addr, source: u16, port: u16) -> Vec<u8> {
    let opening = Segment { sequence: 1, acknowledgement: 0, flags: SYN, payload: b"" };
    segment(opening, (IpAddr::V4(from), source), (Network::SERVER4.into(), port))
}

/// Sends SYNs from addresses that nobody has, some six hundred a second.
fn flood(client: &Namespace, long: Duration) {
    let start = Instant::now();
    let mut number = 0_u32;
    client.run(|| {
        while start.elapsed() < long {
            let frames = (0..30).map(|_| {
                number += 1;
                let [_, a, b, c] = number.to_be_bytes();
                syn(Ipv4Addr::new(172, 16 + a, b, c), 40_000, 80)
            });
            send_frames(INTERFACE, &frames.collect::<Vec<_>>(), 1).expect("can be sent");
            sleep(Duration::from_millis(50));
        }
    });
}

/// Waits until the webhook has heard, since it had heard `before` of all, that `alerts` of the API fire (or are over).
fn wait_to_hear(alertmanager: &Alertmanager, before: usize, alerts: &[&str], api: &str, fires: bool) {
    let start = Instant::now();
    loop {
        let heard = alertmanager.heard();
        let is_heard = |alert: &&&str| heard[before..].contains(&((**alert).to_owned(), api.to_owned(), fires));
        let missing: Vec<_> = alerts.iter().filter(|alert| !is_heard(alert)).collect();
        if missing.is_empty() {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{missing:?} of {api} firing: {fires}; heard: {:?}", &heard[before..]);
        sleep(Duration::from_millis(100));
    }
}

#[test]
fn what_happens_reaches_a_webhook_and_is_over() {
    if !are_installed(&["nginx", "prometheus", "prometheus-alertmanager"]) {
        return;
    }
    let network = Network::new(Offload::Off);
    let host = &network.server;
    let nginx = Nginx::start(host);
    let _exporter = Exporter::start(host, CONFIGURATION);
    let rules = tempfile::tempdir().expect("a directory");
    scaled::write(rules.path());
    let alertmanager = Alertmanager::start(host);
    let prometheus = Prometheus::start(host, rules.path(), &format!("'{ADDRESS}'"));

    let (is_over, milliseconds) = (AtomicBool::new(false), AtomicU64::new(USUAL));
    thread::scope(|scope| {
        // Ends the clients also if something panics.
        let _end = End(&is_over);
        for _ in 0..CLIENTS {
            scope.spawn(|| network.client.run(|| ask(&is_over, &milliseconds)));
        }
        sleep(HISTORY);
        let early: Vec<_> =
            alertmanager.heard().into_iter().filter(|(name, ..)| EXPECTED.contains(&name.as_str())).collect();
        assert_eq!(early, [], "nothing has happened");
        rules_have_data(&prometheus);

        // A port scan.
        let heard = alertmanager.heard().len();
        let scan: Vec<_> = (1_000..1_100).map(|port| syn(Network::CLIENT4, 40_000, port)).collect();
        network.client.run(|| send_frames(INTERFACE, &scan, 1)).expect("can be sent");
        wait_to_hear(&alertmanager, heard, &["PortScan"], "unmapped", true);
        wait_to_hear(&alertmanager, heard, &["PortScan"], "unmapped", false);

        // A flood.
        let heard = alertmanager.heard().len();
        flood(&network.client, Duration::from_secs(10));
        wait_to_hear(&alertmanager, heard, &["SynFlood"], "web", true);
        wait_to_hear(&alertmanager, heard, &["SynFlood"], "web", false);

        // Answers take longer.
        let heard = alertmanager.heard().len();
        milliseconds.store(SLOW, Ordering::Relaxed);
        wait_to_hear(&alertmanager, heard, &["ApiSlow"], "web", true);
        milliseconds.store(USUAL, Ordering::Relaxed);
        wait_to_hear(&alertmanager, heard, &["ApiSlow"], "web", false);

        // The service is stopped, and started again.
        let alerts = ["ApiRefusesConnections", "ApiDoesNotAnswer"];
        let heard = alertmanager.heard().len();
        drop(nginx);
        wait_to_hear(&alertmanager, heard, &alerts, "web", true);
        let _nginx = Nginx::start(host);
        wait_to_hear(&alertmanager, heard, &alerts, "web", false);
    });
}

/// Sets what it has when it is dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sees that what rules record is there, under ordinary traffic.
fn rules_have_data(prometheus: &Prometheus<'_>) {
    // What compares with a day or a week before has nothing to compare with yet.
    let later = ["_usual_", ":usual_", "most7d", "api_load", "ratio3d"];
    let groups = prometheus.ask("rules", &[("type", "record")]);
    let groups = groups["data"]["groups"].as_array().expect("groups");
    let mut looked = 0;
    for rule in groups.iter().filter_map(|group| group["rules"].as_array()).flatten() {
        let name = rule["name"].as_str().expect("a name");
        assert_eq!(rule["health"], "ok", "{rule}");
        if !later.iter().any(|part| name.contains(part)) {
            wait_until(name, || prometheus.count(name) > 0);
            looked += 1;
        }
    }
    assert!(looked > 30, "{looked} rules");
}
