//! The audit log of a running exporter: what happens is in it, whatever happens to its disk or to the exporter.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::Path,
    sync::Arc,
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tidewaiter::audit::verify::{Expected, Note, Verified, files, verify};
use tidewaiter_tests::{
    bpf_file_system::BpfFileSystem,
    collector::{Collector, Protocol, attribute},
    exporter::{ADDRESS, Exporter, binary},
    namespace::Namespace,
    network::{INTERFACE, Network, Offload},
    tmpfs::Tmpfs,
    wait::{wait_for, wait_until},
};

fn configuration(file: &Path, more: &str) -> String {
    format!(
        r#"
        interfaces = ["lo"]
        [flows]
        capacity = 16384
        idle_timeout = "1h"
        [[api]]
        name = "calls"
        ports = [8080]
        expect = ["tls"]
        [audit]
        file = "{}"
        {more}"#,
        file.display()
    )
}

/// The lines of the log at `file` and of those before it.
fn lines(file: &Path) -> Vec<Value> {
    let files = files(&[file.to_owned()]).expect("are found");
    let text: String = files.iter().map(|file| fs::read_to_string(file).expect("text")).collect();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn called<'a>(lines: &'a [Value], event: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["event"] == event).collect()
}

fn verified(file: &Path) -> Verified {
    let files = files(&[file.to_owned()]).expect("are found");
    verify(&files, Expected::default()).unwrap_or_else(|fault| panic!("{fault}"))
}

/// Has `client` connect so many times to `address` of `server`, which hears `greeting` and hangs up.
fn connect(server: &Namespace, client: &Namespace, address: Ipv4Addr, count: usize, greeting: &[u8]) {
    let listener = server.run(|| TcpListener::bind((address, 8080))).expect("is free");
    client.run(|| {
        for _ in 0..count {
            let mut client = TcpStream::connect((address, 8080)).expect("is heard");
            client.write_all(greeting).expect("is sent");
            let (mut server, _) = listener.accept().expect("a connection");
            server.read_exact(&mut vec![0; greeting.len()]).expect("is heard");
            drop(server);
            client.read_to_end(&mut Vec::new()).expect("the end");
        }
    });
}

/// What `/metrics` says of `event`, written and dropped.
fn counted(exporter: &Exporter<'_>, event: &str) -> [u64; 2] {
    let metrics = exporter.metrics();
    let written = metrics.get("tidewaiter_audit_records_total", &[("event", event)]);
    let dropped = metrics.get("tidewaiter_audit_dropped_total", &[("event", event), ("reason", "backlog")]);
    [written, dropped].map(Option::unwrap_or_default)
}

#[test]
fn what_happens_is_in_it_from_start_to_stop_and_start() {
    let (namespace, folder) = (Namespace::new(), TempDir::new().unwrap());
    let file = folder.path().join("audit").join("audit.jsonl");
    let configuration = configuration(&file, "");
    let mut exporter = Exporter::start(&namespace, &configuration);
    connect(&namespace, &namespace, Ipv4Addr::LOCALHOST, 1, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let event = "tidewaiter.anomaly.unexpected_payload";
    wait_until("the anomaly to be written", || counted(&exporter, event) == [1, 0]);
    assert_eq!(exporter.metrics().get("tidewaiter_audit_writable", &[]), Some(1));
    assert!(exporter.end(Signal::TERM).success());

    let lines = lines(&file);
    let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["tidewaiter.audit.opened", "tidewaiter.started", event, "tidewaiter.stopped"]);
    assert_eq!(lines[1]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((lines[1]["took_over"].clone(), lines[3]["persists"].clone()), (false.into(), false.into()));
    let anomaly = &lines[2];
    assert_eq!((&anomaly["api"], &anomaly["application"]), (&"calls".into(), &"http1".into()), "{anomaly}");
    assert_eq!((&anomaly["local"]["port"], &anomaly["remote"]["address"]), (&8080.into(), &"127.0.0.1".into()));
    assert_eq!(anomaly["first_bytes"], "GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n", "{anomaly}");
    let end = verified(&file);
    assert!(end.is_stopped && end.notes.is_empty(), "{end}");
    assert!(exporter.log().contains(&end.head.hash.to_string()), "the log has the last hash");

    // One that is killed, in the midst of a line, and one after it.
    let exporter = Exporter::start(&namespace, &configuration);
    wait_until("the start to be written", || counted(&exporter, "tidewaiter.started") == [1, 0]);
    exporter.signal(Signal::KILL);
    wait_until("the end", || !exporter.is_running());
    OpenOptions::new().append(true).open(&file).unwrap().write_all(b"{\"sequence\":6,\"t").unwrap();
    drop(exporter);
    let mut exporter = Exporter::start(&namespace, &configuration);
    assert!(exporter.end(Signal::TERM).success());
    let end = verified(&file);
    let notes: Vec<_> = end.notes.iter().map(|(_, line, note)| (*line, *note)).collect();
    assert_eq!(notes, [(7, Note::Torn { bytes: 17 }), (8, Note::Unstopped)]);
    assert!(end.is_stopped);
}

#[test]
fn each_finished_flow_is_a_line_over_several_files() {
    let (namespace, folder) = (Namespace::new(), TempDir::new().unwrap());
    let file = folder.path().join("audit.jsonl");
    let mut exporter =
        Exporter::start(&namespace, &configuration(&file, "flows = true\nmax_size = \"64KiB\"\nkeep = 100"));
    connect(&namespace, &namespace, Ipv4Addr::LOCALHOST, 300, b"hello");
    wait_until("all flows to be written", || counted(&exporter, "tidewaiter.flow")[0] >= 300);
    let metrics = exporter.metrics();
    assert!(metrics.get("tidewaiter_audit_rotations_total", &[]) >= Some(1));
    assert!(exporter.end(Signal::TERM).success());
    let end = verified(&file);
    assert!(end.files.len() > 1 && end.is_stopped, "{end}");
    let lines = lines(&file);
    let flows: Vec<_> = called(&lines, "tidewaiter.flow")
        .into_iter()
        .map(|line| &line["flow"])
        .filter(|flow| flow["api"] == "calls")
        .collect();
    assert_eq!(flows.len(), 300);
    let ports: std::collections::BTreeSet<_> = flows.iter().map(|flow| flow["remote"]["port"].as_u64()).collect();
    assert_eq!(ports.len(), 300, "each of them once");
    for direction in tidewaiter_common::direction::Direction::ALL {
        let sum = |what: &str| flows.iter().map(|flow| flow[direction.as_str()][what].as_u64().unwrap()).sum::<u64>();
        let counted = metrics.api("calls", "server", direction);
        assert_eq!((sum("packets"), sum("bytes")), (counted.packets, counted.bytes));
    }
    assert!(flows.iter().all(|flow| flow["end"] == "fin" && flow["community_id"].is_string()), "{:?}", flows[0]);
}

#[test]
fn a_full_disk_loses_nothing_but_what_is_counted() {
    const CONNECTIONS: usize = 9000;
    // Scrapes are on another interface, so that no other flows are lost.
    let (network, disk) = (Network::new(Offload::Off), Tmpfs::mount("64k"));
    network.know_each_other();
    let file = disk.path().join("audit.jsonl");
    let configuration = configuration(&file, "flows = true").replace("\"lo\"", &format!("\"{INTERFACE}\""));
    let mut exporter = Exporter::start(&network.server, &configuration);
    connect(&network.server, &network.client, Network::SERVER4, CONNECTIONS, b"hello");
    wait_until("all flows to be handed over", || {
        let metrics = exporter.metrics();
        let sink = |name| metrics.get(name, &[("sink", "audit")]).unwrap_or_default();
        let handed = sink("tidewaiter_flow_records_total") + sink("tidewaiter_flow_records_dropped_total");
        handed >= CONNECTIONS as u64
    });
    let metrics = exporter.metrics();
    assert_eq!(metrics.get("tidewaiter_audit_writable", &[]), Some(0));
    assert!(metrics.get("tidewaiter_audit_failures_total", &[]) >= Some(1));
    metrics.assert_the_sums_prove_it();
    assert_eq!(exporter.log().matches("cannot write the audit log: trying again").count(), 1, "it is said once");
    let [written, dropped] = counted(&exporter, "tidewaiter.flow");
    assert!(written > 10 && dropped > 0, "{written}, {dropped}");
    assert!(fs::read(&file).unwrap().ends_with(b"}\n"), "a whole line is the last");
    verified(&file);

    disk.resize("64m");
    wait_until("the gap to be recorded", || counted(&exporter, "tidewaiter.audit.gap") == [1, 0]);
    assert_eq!(exporter.metrics().get("tidewaiter_audit_writable", &[]), Some(1));
    assert!(exporter.end(Signal::TERM).success());
    let end = verified(&file);
    assert!(end.is_stopped, "{end}");
    let lines = lines(&file);
    let gaps = called(&lines, "tidewaiter.audit.gap");
    let lost = |gap: &&Value| gap["lost"]["tidewaiter.flow"].as_u64().unwrap();
    let lost: u64 = gaps.iter().map(lost).sum();
    assert_eq!(lost, dropped, "{gaps:?}");
    assert!(gaps[0]["since"].as_str() <= gaps[0]["until"].as_str());
    let flows = called(&lines, "tidewaiter.flow").into_iter().filter(|line| line["flow"]["api"] == "calls").count();
    assert_eq!(flows as u64 + lost, CONNECTIONS as u64, "{end}");
}

#[test]
fn where_it_cannot_be_written_the_start_is_refused() {
    let (namespace, folder, bpf) = (Namespace::new(), TempDir::new().unwrap(), Arc::new(BpfFileSystem::mount()));
    let (file, settings) = (folder.path().join("audit.jsonl"), folder.path().join("tidewaiter.toml"));
    let start = |file: &Path| {
        fs::write(&settings, configuration(file, "")).unwrap();
        let mut command = namespace.command(binary());
        command
            .env("TIDEWAITER_LISTEN", ADDRESS)
            .env("TIDEWAITER_PIN_PATH", bpf.pin_path())
            .arg("--config")
            .arg(&settings);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let target = folder.path().join("target");
    symlink(&target, &file).unwrap();
    let (code, log) = start(&file);
    assert_eq!(code, Some(78), "{log}");
    assert!(log.contains("is a symbolic link, expected a file or nothing") && !target.exists(), "{log}");

    // Root alone may write to others' folders, and gives that up.
    let others = folder.path().join("others");
    fs::create_dir(&others).unwrap();
    fs::set_permissions(&others, fs::Permissions::from_mode(0o755)).unwrap();
    chown(&others, Some(65534), Some(65534)).unwrap();
    let (code, log) = start(&others.join("audit.jsonl"));
    assert_eq!(code, Some(78), "{log}");
    assert!(log.contains("may not be written by this process once it has given up its capabilities"), "{log}");

    let foreign = folder.path().join("foreign");
    fs::write(&foreign, "something else\n").unwrap();
    let (code, log) = start(&foreign);
    assert_eq!(code, Some(78), "{log}");
    assert!(log.contains("does not end like an audit log: move it away"), "{log}");
    assert!(!bpf.pin_path().exists(), "nothing was pinned");
}

#[test]
fn collectors_get_the_same_events_and_how_far_it_has_come() {
    let (namespace, folder) = (Namespace::new(), TempDir::new().unwrap());
    let file = folder.path().join("audit.jsonl");
    let collector = Collector::new(&namespace);
    let more =
        format!("[otlp.logs]\nendpoint = \"http://127.0.0.1:{}\"\nbatch_delay = \"100ms\"", Protocol::Grpc.port());
    let more = format!("{more}\nprotocol = \"grpc\"");
    let mut exporter = Exporter::start(&namespace, &configuration(&file, &more));
    connect(&namespace, &namespace, Ipv4Addr::LOCALHOST, 1, b"hello");
    wait_for("the anomaly", || {
        let logs = collector.logs();
        logs.iter().any(|(_, record)| record.event_name.starts_with("tidewaiter.anomaly.")).then_some(())
    });
    assert!(exporter.end(Signal::TERM).success());
    let end = verified(&file);
    let names = |name: &str| !name.starts_with("tidewaiter.audit.");
    let mut written = BTreeMap::<String, usize>::new();
    for line in lines(&file).iter().filter_map(|line| line["event"].as_str()).filter(|name| names(name)) {
        *written.entry(line.to_owned()).or_default() += 1;
    }
    let logs = collector.logs();
    let mut sent = BTreeMap::<String, usize>::new();
    for (_, record) in logs.iter().filter(|(_, record)| names(&record.event_name)) {
        *sent.entry(record.event_name.clone()).or_default() += 1;
    }
    assert_eq!(written, sent);
    assert_eq!(sent.len(), 3, "{sent:?}");
    let head = logs.iter().rfind(|(_, record)| record.event_name == "tidewaiter.audit.head").expect("was sent");
    let attribute = |key| attribute(&head.1.attributes, key).expect("is there");
    assert_eq!(attribute("tidewaiter.audit.sequence"), end.head.sequence.to_string());
    assert_eq!(attribute("tidewaiter.audit.hash"), end.head.hash.to_string());
}
