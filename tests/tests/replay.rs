//! `tidewaiter replay`: what the exporter would have said of a capture.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;
use tidewaiter_common::transport::Transport;
use tidewaiter_tests::{
    command::{Process, output, run},
    exporter::{Exporter, binary},
    frames::{Kind, frame},
    metrics::Metrics,
    network::{INTERFACE, Network, Offload},
    traffic::exchange,
    wait::wait_until,
};

const CONFIGURATION: &str = r#"
    interfaces = ["wire"]
    [[api]]
    name = "web"
    ports = [8080]
    [[api]]
    name = "names"
    ports = [53]
    transport = "udp"
"#;

fn replay(arguments: &[&str], file: &Path) -> Output {
    Command::new(binary()).arg("replay").args(arguments).arg(file).output().expect("runs")
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("is text")
}

/// The series of APIs and of what was counted for none, whatever the interface is called.
fn counts(metrics: &Metrics) -> Vec<String> {
    let series = metrics.0.iter().filter(|(series, value)| {
        let is_count = ["tidewaiter_api_packets", "tidewaiter_api_bytes", "tidewaiter_uncounted"];
        is_count.iter().any(|name| series.starts_with(name)) && **value > 0.0
    });
    let unnamed = |series: &str| series.replace("interface=\"wire\"", "").replace("interface=\"ethernet\"", "");
    series.map(|(series, value)| format!("{} {value}", unnamed(series))).collect()
}

/// Real traffic, as it was captured and as it was counted.
struct Recording {
    directory: TempDir,
    live: Metrics,
}

impl Recording {
    fn make() -> Self {
        let network = Network::new(Offload::Off);
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("traffic.pcap");
        let mut tcpdump = network.server.command("tcpdump");
        tcpdump.args(["-Z", "root", "-i", INTERFACE, "--immediate-mode", "-U", "-w"]).arg(&file);
        let mut capture = Process::start(&mut tcpdump);
        wait_until("the capture to begin", || file.metadata().is_ok_and(|file| file.len() >= 24));
        let exporter = Exporter::start(&network.server, CONFIGURATION);
        let before = network.kernel_counters();

        for server in Network::SERVERS {
            exchange(&network.server, &network.client, SocketAddr::new(server, 8080), &[1, 100_000]);
            let names = network.server.run(|| UdpSocket::bind((server, 53))).expect("is free");
            network.client.run(|| {
                let socket = UdpSocket::bind((if server.is_ipv4() { "0.0.0.0" } else { "::" }, 0)).expect("is free");
                socket.send_to(b"where?", (server, 53)).expect("is sent");
            });
            drop(names);
        }
        network.client.run(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"?", (Network::SERVER4, 9)).unwrap());
        network.wait_until_quiet();
        let packets = (network.kernel_counters() - before).packets.iter().sum::<u64>();
        let live = exporter.agree_with_kernel(&network, before);
        // It writes each packet as it comes, but those of the quiet before as well.
        wait_until("all to be captured", || frames(&file) >= packets);
        capture.signal(rustix::process::Signal::INT);
        capture.0.wait().expect("ends");
        Self { directory, live }
    }

    fn file(&self) -> std::path::PathBuf {
        self.directory.path().join("traffic.pcap")
    }
}

fn frames(file: &Path) -> u64 {
    let json: Value = serde_json::from_slice(&replay(&["--format", "json"], file).stdout).expect("JSON");
    json["frames"].as_u64().expect("a number")
}

#[test]
fn a_replay_says_what_the_exporter_said() {
    let recording = Recording::make();
    let file = recording.file();
    let configuration = recording.directory.path().join("tidewaiter.toml");
    fs::write(&configuration, CONFIGURATION).expect("can be written");
    let configuration = configuration.to_str().expect("is text");

    let live = counts(&recording.live);
    assert!(live.iter().any(|series| series.contains("\"web\"")), "{live:?}");
    // Which end is this host is said, or found out.
    for local in [&["--local", "10.77.0.1", "--local", "fd77::1", "--local", "fe80::/64"][..], &[]] {
        let output = replay(&[&["--config", configuration, "--format", "prometheus"], local].concat(), &file);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let replayed = counts(&Metrics::parse(&text(&output)));
        let of_apis = |counts: &[String]| -> Vec<String> {
            counts.iter().filter(|series| series.contains("\"web\"") || series.contains("\"names\"")).cloned().collect()
        };
        assert_eq!(of_apis(&replayed), of_apis(&live), "{local:?}");
    }

    let json: Value =
        serde_json::from_slice(&replay(&["--config", configuration, "--flows", "--format", "json"], &file).stdout)
            .unwrap();
    let flows: Vec<_> = json["flows"].as_array().unwrap().iter().filter(|flow| flow["api"] == "web").collect();
    assert_eq!(flows.len(), 4, "four connections: {flows:?}");
    for flow in flows {
        assert_eq!((&flow["protocol"], &flow["local"]["port"]), (&"tcp".into(), &8080.into()));
        for direction in ["receive", "transmit"] {
            assert_eq!(flow[direction]["tcp_flags"], "SFP.", "{flow}");
        }
        let (first, last) = (flow["first"].as_f64().unwrap(), flow["last"].as_f64().unwrap());
        assert!(first > 1.7e9 && last >= first && last < first + 60.0, "the capture's own clock: {flow}");
    }

    // People's table has the same figures.
    let table = text(&replay(&["--config", configuration, "--flows"], &file));
    let row = table.lines().find(|line| line.starts_with("web ")).expect("a row");
    let figures: Vec<&str> = row.split_whitespace().collect();
    let count = |direction| recording.live.api("web", "server", direction);
    let [receive, transmit] = tidewaiter_common::direction::Direction::ALL.map(count);
    let expected = [receive.packets, receive.bytes, transmit.packets, transmit.bytes].map(|figure| figure.to_string());
    assert_eq!(figures, ["web", "server", &expected[0], &expected[1], &expected[2], &expected[3]]);
    assert_eq!(table.matches("10.77.0.1:8080").count(), 2);

    // Compressed, and as two files.
    run(&format!("gzip -k {}", file.display()));
    let compressed = file.with_extension("pcap.gz");
    let plain = text(&replay(&["--format", "json"], &file));
    assert_eq!(text(&replay(&["--format", "json"], &compressed)), plain);
    let both = output(Command::new(binary()).args(["replay", "--format", "json"]).arg(&file).arg(&compressed));
    let [one, two] =
        [&plain, &both].map(|text| serde_json::from_str::<Value>(text).unwrap()["frames"].as_u64().unwrap());
    assert_eq!(two, 2 * one);

    // What is cut off is told of, and what was read before it too.
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 5]).unwrap();
    let cut = replay(&["--format", "json"], &file);
    assert_eq!(cut.status.code(), Some(1));
    let message = String::from_utf8_lossy(&cut.stderr);
    let (path, frames) = (file.display(), one - 1);
    let expected =
        format!("the capture {path} is cut off at byte {}, whole frames before that: {frames}", bytes.len() - 5);
    assert!(message.contains(&expected), "{message}");
    assert_eq!(serde_json::from_str::<Value>(&text(&cut)).unwrap()["frames"].as_u64(), Some(frames));
}

#[test]
fn what_is_no_capture_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("notes.txt");
    fs::write(&file, "not a capture").unwrap();
    for (arguments, path, expected) in [
        (&[][..], file.as_path(), "is not a capture: at byte 0 there is 6e6f7420; expected pcap or pcapng"),
        (&[], Path::new("/nowhere/a.pcap"), "cannot open the capture /nowhere/a.pcap: No such file or directory"),
    ] {
        let output = replay(arguments, path);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains(expected), "{message}");
    }
    let output = replay(&["--local", "everywhere"], &file);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("expected an address or a network such as 10.0.0.0/8"));
}

#[test]
fn frames_that_the_kernel_refuses_are_listed_and_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("refused.pcap");
    // Frames of 20 bytes that say that they are IPv4.
    let frame = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x08, 0x00, 0x45, 0, 0, 0, 0, 0];
    let frames: Vec<_> = (0..30).map(|second| (second, 20, &frame[..])).collect();
    fs::write(&file, pcap(&frames)).unwrap();
    let json: Value = serde_json::from_slice(&replay(&["--format", "json"], &file).stdout).unwrap();
    assert_eq!((&json["frames"], &json["bytes"], &json["refused"]), (&30.into(), &600.into(), &30.into()));
    assert_eq!(json["refusals"].as_array().unwrap().len(), 20);
    let first = &json["refusals"][0];
    assert_eq!((&first["frame"], &first["length"], &first["captured"]), (&1.into(), &20.into(), &20.into()));
    assert!(first["reason"].as_str().unwrap().contains("Invalid argument"), "{first}");

    let output = replay(&[], &file);
    assert_eq!(output.status.code(), Some(0));
    let table = text(&output);
    assert!(table.contains("30 frames that the kernel refuses to run a program on:"), "{table}");
    assert!(
        table.contains(&format!("{}: frame 20, 20 of 20 bytes: ", file.display())) && table.contains("  and 10 more")
    );
}

/// A pcap file (draft-ietf-opsawg-pcap, little-endian, microseconds, Ethernet) of `frames`: second, length on the wire, bytes.
fn pcap(frames: &[(u32, u32, &[u8])]) -> Vec<u8> {
    let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0];
    for (second, length, data) in frames {
        let captured = u32::try_from(data.len()).expect("is short");
        for number in [*second, 0, captured, *length] {
            file.extend(number.to_le_bytes());
        }
        file.extend(*data);
    }
    file
}

#[test]
fn frames_of_any_length_and_in_any_order_are_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("lo.pcap");
    let kind = Kind { transport: Transport::Tcp, options: false, payload: 100 };
    let (client, server) = (([10, 0, 0, 2].into(), 40_000), ([10, 0, 0, 1].into(), 80));
    let (question, answer) = (frame(kind, client, server), frame(kind, server, client));
    // What the loopback interface passes, and what BIG TCP does.
    let frames =
        [(1000, 65_549, &*question), (980, 150_000, &answer), (990, 524_000, &question), (970, 154, &question)];
    fs::write(&file, pcap(&frames)).unwrap();
    let json: Value = serde_json::from_slice(&replay(&["--format", "json", "--flows"], &file).stdout).unwrap();
    assert_eq!((&json["frames"], &json["refused"]), (&4.into(), &0.into()), "{json}");
    let [flow] = json["flows"].as_array().unwrap().as_slice() else { panic!("one flow: {json}") };
    let count = |direction: &str| (flow[direction]["packets"].as_u64(), flow[direction]["bytes"].as_u64());
    assert_eq!(
        (count("receive"), count("transmit")),
        ((Some(3), Some(65_549 + 524_000 + 154)), (Some(1), Some(150_000)))
    );
    assert_eq!((flow["first"].as_f64(), flow["last"].as_f64()), (Some(970.0), Some(1000.0)));
}

#[test]
fn what_cannot_be_read_twice_is_told() {
    let (code, message) = {
        let output = Command::new("sh")
            .args(["-c", &format!("echo | {} replay /dev/stdin", binary().display())])
            .output()
            .expect("runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains("/dev/stdin is not a regular file: captures are read twice"), "{message}");
}
