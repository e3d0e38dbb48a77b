//! What flows say first: names within TLS, gRPC, and what an API does not expect.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tidewaiter::{
    accounting::Accounting,
    api::{Api, Role, Transport},
    kernel::FlowTable,
};
use tidewaiter_common::protocol::Protocol;
use tidewaiter_tests::{
    accounting::{account, flows},
    command::{Process, output},
    exporter::Exporter,
    namespace::Namespace,
    wait::{wait_for, wait_until},
};

const CONFIGURATION: &str = r#"
    interfaces = ["lo"]
    [flows]
    idle_timeout = "1h"
    [[api]]
    name = "secure"
    ports = [8443]
    expect = ["tls"]
    [[api]]
    name = "calls"
    ports = [8080]
    expect = ["grpc", "ssh"]
"#;

/// A preface, an empty SETTINGS frame, and HEADERS with `content-type: application/grpc`, name and value plain (RFC 9113,
/// RFC 7541 section 6.2.2).
const GRPC: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
    \0\0\x1f\x01\x04\0\0\0\x01\0\x0ccontent-type\x10application/grpc";

/// A record of TLS with what is encrypted, and no more of it (RFC 8446 section 5.2).
const ENCRYPTED: &[u8] = b"\x17\x03\x03\0\x40 of which nobody can say what it is";

fn flow(exporter: &Exporter<'_>, api: &str, port: u16) -> Option<Value> {
    let answer = exporter.text(&format!("/api/v1/flows?api={api}"), &[]);
    let mut answer: Value = serde_json::from_str(&answer).expect("JSON");
    let flows = answer["flows"].as_array_mut().expect("flows");
    flows.iter_mut().find(|flow| flow["remote"]["port"] == port).map(Value::take)
}

fn unexpected(exporter: &Exporter<'_>, api: &str) -> Option<u64> {
    let labels = [("api", api), ("role", "server"), ("kind", "unexpected_payload")];
    exporter.metrics().get("tidewaiter_anomalies_total", &labels)
}

fn flows_of(exporter: &Exporter<'_>, api: &str, protocol: &str) -> Option<u64> {
    let labels = [("api", api), ("role", "server"), ("protocol", protocol)];
    exporter.metrics().get("tidewaiter_api_protocol_flows_total", &labels)
}

/// Connects to a server at `port` that says nothing, and says `greeting`. Answers with the client's port, and both ends.
fn greet(namespace: &Namespace, port: u16, greeting: &[u8]) -> (u16, [TcpStream; 2]) {
    namespace.run(|| {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("is free");
        let mut client = TcpStream::connect(("127.0.0.1", port)).expect("is heard");
        let (mut server, from) = listener.accept().expect("a connection");
        client.write_all(greeting).expect("is sent");
        server.read_exact(&mut vec![0; greeting.len()]).expect("is heard");
        (from.port(), [client, server])
    })
}

#[test]
fn a_flow_of_tls_says_for_whom_it_is() {
    let namespace = Namespace::new();
    let exporter = Exporter::start(&namespace, CONFIGURATION);
    let directory = tempfile::tempdir().expect("a directory");
    let (key, certificate) = (directory.path().join("key.pem"), directory.path().join("certificate.pem"));
    let mut request = Command::new("openssl");
    request.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    request.args(["-subj", "/CN=orders.example"]).arg("-keyout").arg(&key).arg("-out").arg(&certificate);
    output(request.stderr(Stdio::null()));
    for (version, named) in [("-tls1_3", "1.3"), ("-tls1_2", "1.2")] {
        let mut serve = namespace.command("openssl");
        serve.args(["s_server", "-accept", "127.0.0.1:8443", "-quiet", "-alpn", "http/1.1", version]);
        serve.arg("-key").arg(&key).arg("-cert").arg(&certificate);
        let _server = Process::start(serve.stdout(Stdio::null()).stderr(Stdio::null()));
        wait_until("the server to listen", || {
            // A connection that says nothing would be answered with an alert, which looks like TLS.
            let sockets = namespace.run(|| fs::read_to_string("/proc/thread-self/net/tcp").expect("is there"));
            sockets.lines().any(|line| line.contains("0100007F:20FB 00000000:0000 0A"))
        });
        let mut connect = namespace.command("openssl");
        connect.args(["s_client", "-connect", "127.0.0.1:8443", "-servername", "orders.example", version]);
        connect.args(["-alpn", "h2,http/1.1"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut client = connect.spawn().expect("runs");
        let tls = wait_for("the flow to be told of", || {
            let answer: Value = serde_json::from_str(&exporter.text("/api/v1/flows?api=secure", &[])).expect("JSON");
            let flows = answer["flows"].as_array().expect("flows");
            // Until the server has answered, it is what the client offers.
            let is_answered = |flow: &Value| flow["transmit"]["bytes"].as_u64() > Some(1000);
            flows.iter().find(|flow| flow["tls"]["version"] == named && is_answered(flow)).cloned()
        });
        client.kill().expect("is there");
        client.wait().expect("ends");
        assert_eq!(
            (&tls["application"], &tls["tls"]["server_name"]),
            (&"tls".into(), &"orders.example".into()),
            "{tls}"
        );
        // With TLS 1.3 the server's choice is encrypted: then it is what the client offered.
        let offered = if named == "1.3" { vec!["h2", "http/1.1"] } else { vec!["http/1.1"] };
        assert_eq!(tls["tls"]["application_protocols"], Value::from(offered), "{tls}");
    }
    assert_eq!(flows_of(&exporter, "secure", "tls"), Some(2));
    assert_eq!(unexpected(&exporter, "secure"), Some(0));
}

#[test]
fn what_an_api_does_not_expect_is_counted_and_told() {
    let namespace = Namespace::new();
    let exporter = Exporter::start(&namespace, CONFIGURATION);
    let _expected = greet(&namespace, 8080, b"SSH-2.0-OpenSSH_9.2p1\r\n");
    let (port, _called) = greet(&namespace, 8080, GRPC);
    let called = wait_for("the call", || flow(&exporter, "calls", port).filter(|flow| flow["application"] == "grpc"));
    assert_eq!(called["role"], "server");
    assert_eq!(unexpected(&exporter, "calls"), Some(0));

    let (port, _ends) = greet(&namespace, 8080, b"GET / HTTP/1.1\r\nHost: orders.example\r\n\r\n");
    let _again = greet(&namespace, 8080, b"\x00\x01\x02\xff nothing that anybody knows");
    wait_until("both to be counted", || unexpected(&exporter, "calls") == Some(2));
    wait_until("both to be told", || exporter.log().matches("unexpected_payload").count() == 2);
    let log = exporter.log();
    assert!(log.contains(&format!("127.0.0.1:{port}")) && log.contains(r"GET / HTTP/1.1\r\nHost"), "{log}");
    assert!(log.contains(r"\x00\x01\x02\xff nothing"), "{log}");
    // The kernel cannot tell gRPC from other HTTP/2.
    assert_eq!(["ssh", "http2", "http1"].map(|protocol| flows_of(&exporter, "calls", protocol)), [Some(1); 3]);
}

#[test]
fn what_goes_on_after_a_long_silence_is_no_greeting() {
    let namespace = Namespace::new();
    let mut accounting = account(&namespace, "lo", 1024, Duration::from_secs(1));
    let secure = Api {
        name: "secure".to_owned(),
        role: Role::Server,
        transports: vec![Transport::Tcp],
        ports: vec![8443.into()],
        addresses: Vec::new(),
        expect: vec![Protocol::Tls],
    };
    accounting.apply_apis(&[secure]).expect("is written");
    let unexpected_and_adopted = |accounting: &mut Accounting| {
        let snapshot = accounting.snapshot();
        let secure = snapshot.apis.iter().find(|api| api.name == "secure").expect("is there");
        let details = secure.details.as_ref().expect("flows are kept");
        (details.unexpected, details.adopted)
    };
    let (_, [client, server]) = greet(&namespace, 8443, ENCRYPTED);
    // As it begins a connection, nobody expects it.
    assert_eq!(unexpected_and_adopted(&mut accounting), (1, 0));
    wait_until("the flow to be forgotten", || {
        accounting.sweep_flows(Instant::now() + Duration::from_mins(1)).expect("can be read");
        flows(&mut accounting, FlowTable::Established).is_empty()
    });
    for (mut from, mut to) in [(&client, &server), (&server, &client)] {
        from.write_all(ENCRYPTED).expect("is sent");
        to.read_exact(&mut [0; ENCRYPTED.len()]).expect("is heard");
    }
    assert_eq!(unexpected_and_adopted(&mut accounting), (1, 1));
}
