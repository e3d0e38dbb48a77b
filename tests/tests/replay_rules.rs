//! `tidewaiter replay` with rules: what they would have done, and to whom.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{collections::BTreeMap, fs, net::IpAddr, path::Path, process::Command};

use serde_json::Value;
use tidewaiter_common::{packet::tcp_flag, transport::Transport};
use tidewaiter_tests::{
    command::output,
    exporter::binary,
    frames::{Kind, Segment, frame, segment},
};

const SERVER: &str = "10.77.0.1";
/// Its neighbours: one in the list, one that is an exception from that, and two that are not in it.
const LISTED: &str = "198.51.100.9";
const EXCEPTED: &str = "198.51.100.7";
const CLIENTS: [&str; 2] = ["10.77.0.2", "10.77.0.3"];
const SECONDS: u64 = 10;

const CONFIGURATION: &str = r#"
    [[api]]
    name = "web"
    ports = [8080]
    [[api]]
    name = "names"
    ports = [53]
    transport = "udp"
    [[rule]]
    name = "listed"
    from = "198.51.100.0/24"
    except = "198.51.100.7"
    action = "drop"
    mode = "MODE"
    [[rule]]
    name = "connections"
    api = "web"
    limit = { connections_per_second = 10, burst = 20, per = "client" }
    action = "reject"
    mode = "MODE"
    [[rule]]
    name = "datagrams"
    api = "names"
    limit = { packets_per_second = 100, burst = 64 }
    action = "drop"
    mode = "MODE"
"#;

/// What one sends each second, and how long it takes.
struct Load {
    from: &'static str,
    port: u16,
    per_second: u64,
}

const LOADS: [Load; 7] = [
    Load { from: LISTED, port: 8080, per_second: 3 },
    Load { from: LISTED, port: 53, per_second: 5 },
    Load { from: EXCEPTED, port: 8080, per_second: 9 },
    Load { from: CLIENTS[0], port: 8080, per_second: 100 },
    Load { from: CLIENTS[1], port: 8080, per_second: 12 },
    Load { from: CLIENTS[0], port: 53, per_second: 150 },
    Load { from: CLIENTS[1], port: 53, per_second: 60 },
];

/// A packet: when, in nanoseconds, from whom, to which port.
type Packet = (u64, &'static str, u16);

fn packets() -> Vec<Packet> {
    let mut packets: Vec<_> = LOADS
        .iter()
        .flat_map(|Load { from, port, per_second }| {
            (0..per_second * SECONDS).map(move |number| (number * 1_000_000_000 / per_second, *from, *port))
        })
        .collect();
    packets.sort_unstable();
    packets
}

/// A capture with nanoseconds, in the classic format (`pcap-savefile(5)`).
fn write_capture(path: &Path, packets: &[Packet]) {
    let mut file = Vec::new();
    for word in [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for (number, (time, from, port)) in (0..).zip(packets) {
        let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), SERVER.parse().unwrap());
        let source = (from, 10_000 + number % 50_000);
        let bytes = if *port == 53 {
            frame(Kind { transport: Transport::Udp, options: false, payload: 30 }, source, (to, *port))
        } else {
            let opening = Segment { sequence: 1, acknowledgement: 0, flags: tcp_flag::SYN, payload: &[] };
            segment(opening, source, (to, *port))
        };
        let seconds = 1_700_000_000 + time / 1_000_000_000;
        for word in [seconds as u32, (time % 1_000_000_000) as u32, bytes.len() as u32, bytes.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(bytes);
    }
    fs::write(path, file).expect("can be written");
}

/// A bucket of tokens, as a limit is explained to people: in billionths of a token.
struct Bucket {
    rate: u64,
    burst: u64,
    tokens: u64,
    last: u64,
}

impl Bucket {
    fn new(rate: u64, burst: u64) -> Self {
        Self { rate, burst: burst * 1_000_000_000, tokens: burst * 1_000_000_000, last: 0 }
    }

    fn admits(&mut self, now: u64) -> bool {
        self.tokens = self.burst.min(self.tokens + (now - self.last) * self.rate);
        self.last = now;
        let admits = self.tokens >= 1_000_000_000;
        self.tokens -= if admits { 1_000_000_000 } else { 0 };
        admits
    }
}

/// What is to become of each packet: how many, by rule, API, and whether they pass; and how many are refused of whom.
type Expected = (BTreeMap<(&'static str, &'static str, bool), u64>, BTreeMap<(&'static str, String), u64>);

fn expected(packets: &[Packet]) -> Expected {
    let mut connections = BTreeMap::new();
    let mut datagrams = Bucket::new(100, 64);
    let (mut counts, mut refused) = Expected::default();
    for (time, from, port) in packets {
        let api = if *port == 53 { "names" } else { "web" };
        let (rule, passes) = if *from == LISTED {
            ("listed", false)
        } else if *port == 53 {
            ("datagrams", datagrams.admits(*time))
        } else {
            ("connections", connections.entry(*from).or_insert_with(|| Bucket::new(10, 20)).admits(*time))
        };
        *counts.entry((rule, api, passes)).or_default() += 1;
        if !passes {
            *refused.entry((rule, (*from).to_owned())).or_default() += 1;
        }
    }
    (counts, refused)
}

#[test]
fn a_replay_says_what_rules_would_have_done_and_to_whom() {
    let directory = tempfile::tempdir().expect("a directory");
    let capture = directory.path().join("traffic.pcap");
    let packets = packets();
    write_capture(&capture, &packets);
    let (counts, refused) = expected(&packets);
    assert!(counts.values().all(|count| *count > 0) && counts.len() == 6, "every case is there: {counts:?}");

    for mode in ["observe", "enforce"] {
        let configuration = directory.path().join(format!("{mode}.toml"));
        fs::write(&configuration, CONFIGURATION.replace("MODE", mode)).expect("can be written");
        let replay = |format| {
            let mut replay = Command::new(binary());
            replay
                .args(["replay", "--local", SERVER, "--format", format, "--config"])
                .arg(&configuration)
                .arg(&capture);
            output(&mut replay)
        };
        let json: Value = serde_json::from_str(&replay("json")).expect("JSON");
        assert_eq!(json["frames"], packets.len());

        let (mut found, mut found_refused) = Expected::default();
        for row in json["rules"].as_array().expect("a list") {
            let verdict = row["verdict"].as_str().unwrap();
            let known = |wanted: &Value| {
                ["listed", "connections", "datagrams", "web", "names"].into_iter().find(|one| wanted == one)
            };
            let (rule, api) = (known(&row["rule"]).unwrap(), known(&row["api"]).unwrap());
            let passes = verdict == "pass";
            let action = if rule == "connections" { "reject" } else { "drop" };
            let refusing = if mode == "enforce" { action.to_owned() } else { format!("would_{action}") };
            assert!(passes || verdict == refusing, "{mode}: {row}");
            *found.entry((rule, api, passes)).or_default() += row["packets"].as_u64().unwrap();
            for client in row["clients"].as_array().unwrap() {
                let address = client["address"].as_str().expect("so few are told apart").to_owned();
                *found_refused.entry((rule, address)).or_default() += client["packets"].as_u64().unwrap();
            }
        }
        assert_eq!(found, counts, "{mode}");
        assert_eq!(found_refused, refused, "{mode}");

        // What is dropped is counted for nobody; what would be is.
        let web = json["apis"].as_array().unwrap().iter().find(|row| row["api"] == "web").expect("is there");
        let all = packets.iter().filter(|(_, _, port)| *port == 8080).count() as u64;
        let gone: u64 =
            counts.iter().filter(|((_, api, passes), _)| *api == "web" && !passes).map(|(_, count)| count).sum();
        let expected = if mode == "enforce" { all - gone } else { all };
        assert_eq!(web["receive"]["packets"], expected, "{mode}");

        // People's table has the same.
        let table = replay("table");
        let dropped = counts[&("datagrams", "names", false)].to_string();
        let row = table.lines().find(|line| line.starts_with("datagrams") && !line.contains(" pass ")).expect("a row");
        assert!(row.ends_with(&dropped), "{row}");
        assert!(table.lines().any(|line| line.trim_start().starts_with(LISTED)), "{table}");
    }
}

#[test]
fn a_replay_finds_the_anomalies_that_the_configuration_says() {
    let directory = tempfile::tempdir().expect("a directory");
    let capture = directory.path().join("traffic.pcap");
    write_capture(&capture, &packets());
    // Nobody completes what is begun here: more than a hundred connections a second.
    for (anomalies, is_found) in [("half_open = 500", true), ("half_open = 100000", false), ("enabled = false", false)]
    {
        let configuration = directory.path().join("anomalies.toml");
        let text = format!("{CONFIGURATION}\n[anomalies.syn_flood]\n{anomalies}\n").replace("MODE", "observe");
        fs::write(&configuration, text).expect("can be written");
        let mut replay = Command::new(binary());
        replay.args(["replay", "--local", SERVER, "--format", "prometheus", "--config"]);
        let metrics = output(replay.arg(&configuration).arg(&capture));
        let flood = |line: &&str| line.starts_with("tidewaiter_anomalies_total") && line.contains("kind=\"syn_flood\"");
        let counted: f64 =
            metrics.lines().filter(flood).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
        assert_eq!(counted > 0.0, is_found, "{anomalies}: {metrics}");
    }
}
