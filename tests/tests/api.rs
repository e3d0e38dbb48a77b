//! The JSON API: APIs and live flows, for programs of the same host.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::Value;
use tidewaiter_common::{direction::Direction, transport::Transport};
use tidewaiter_tests::{
    bpf_file_system::BpfFileSystem,
    command::output,
    exporter::Exporter,
    frames::{Kind, frame},
    network::{INTERFACE, Network, Offload, send_frames},
    traffic::exchange,
    wait::{wait_for, wait_until},
};

const CONFIGURATION: &str = r#"
    interfaces = ["wire"]
    [flows]
    idle_timeout = "1s"
    [[api]]
    name = "web"
    ports = [8080]
    [[api]]
    name = "names"
    ports = [53]
    transport = "udp"
"#;

/// The status and the JSON that `path` is answered with.
fn ask(exporter: &Exporter<'_>, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let mut response = exporter.get(path, headers).expect("an answer");
    assert_eq!(response.headers()["content-type"], "application/json");
    let body = exporter.namespace.run(|| response.body_mut().read_to_vec().expect("a body"));
    (response.status().as_u16(), serde_json::from_slice(&body).expect("JSON"))
}

fn flows(exporter: &Exporter<'_>, query: &str) -> Value {
    let (status, answer) = ask(exporter, &format!("/api/v1/flows{query}"), &[]);
    assert_eq!(status, 200, "{answer}");
    answer
}

fn api(exporter: &Exporter<'_>, name: &str) -> Value {
    let (status, answer) = ask(exporter, "/api/v1/apis", &[]);
    assert_eq!(status, 200, "{answer}");
    answer["apis"].as_array().unwrap().iter().find(|api| api["api"] == name).cloned().expect("there is one")
}

#[test]
fn a_live_flow_is_shown_as_it_is() {
    let network = Network::new(Offload::Off);
    let configuration = CONFIGURATION.replace("1s", "1h");
    let exporter = Exporter::start(&network.server, &configuration);
    let listener = network.server.run(|| TcpListener::bind((Network::SERVER4, 8080))).expect("is free");
    let mut client = network.client.run(|| TcpStream::connect((Network::SERVER4, 8080))).expect("is heard");
    let (mut server, from) = listener.accept().expect("a connection");
    client.write_all(b"question").expect("is sent");
    server.read_exact(&mut [0; 8]).expect("a question");
    server.write_all(b"answer").expect("is sent");
    client.read_exact(&mut [0; 6]).expect("an answer");
    network.wait_until_quiet();

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let answer = flows(&exporter, "?api=web");
    let found = answer["flows"].as_array().unwrap();
    assert_eq!((found.len(), &answer["more"]), (1, &false.into()), "{answer}");
    let flow = &found[0];
    let expected = serde_json::json!({
        "established": true, "api": "web", "role": "server", "interface": "wire", "protocol": "tcp",
        "local": { "address": "10.77.0.1", "port": 8080 },
        "remote": { "address": "10.77.0.2", "port": from.port() },
    });
    let name = flow["community_id"].as_str().expect("a name");
    assert!(name.starts_with("1:") && name.len() == 30 && flow.get("end").is_none(), "{flow}");
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&flow[key], value, "{key} of {flow}");
    }
    let counted = Direction::ALL.map(|direction| exporter.metrics().api("web", "server", direction));
    for (direction, count) in Direction::ALL.into_iter().zip(counted) {
        let sent = &flow[direction.as_str()];
        assert_eq!((&sent["packets"], &sent["bytes"]), (&count.packets.into(), &count.bytes.into()), "{flow}");
        assert_eq!(sent["tcp_flags"], "SP.");
    }
    let [first, last] = ["first", "last"].map(|key| flow[key].as_f64().unwrap());
    assert!(first <= last && first > now - 10.0 && last < now, "{first} to {last}, now {now}");

    assert_eq!(flows(&exporter, "?api=names")["flows"], serde_json::json!([]), "it is nobody else's");
    let all = flows(&exporter, "?limit=10000");
    assert_eq!(all["flows"].as_array().unwrap().iter().filter(|one| one["remote"] == flow["remote"]).count(), 1);
    assert_eq!(api(&exporter, "web")["clients"]["top"], Value::Null, "it is not over yet");
    wait_until("the client to be seen", || api(&exporter, "web")["clients"]["distinct_5m"] == 1);
}

#[test]
fn clients_are_counted_when_their_flows_are_over() {
    let network = Network::new(Offload::Off);
    let configuration = CONFIGURATION.replace("[flows]", "[flows]\nclients = 1");
    let exporter = Exporter::start(&network.server, &configuration);
    let before = network.kernel_counters();
    // The first one gets the only name there is, and its flow is over before the other's.
    let web = |server| exchange(&network.server, &network.client, SocketAddr::new(server, 8080), &[1_000, 50_000]);
    web(Network::SERVERS[0]);
    let bytes =
        || Direction::ALL.map(|direction| exporter.metrics().api("web", "server", direction).bytes).iter().sum::<u64>();
    let client = |client: &str| {
        let labels = [("api", "web"), ("role", "server"), ("client", client)];
        exporter.metrics().get("tidewaiter_client_bytes_total", &labels)
    };
    let first = wait_for("the first flows to be over", || client("10.77.0.2").filter(|counted| *counted == bytes()));
    assert_eq!(client("other"), Some(0));
    web(Network::SERVERS[1]);
    wait_until("the others to be over", || client("other").is_some_and(|other| first + other == bytes()));
    assert_eq!((client("10.77.0.2"), client("fd77::2")), (Some(first), None));
    let metrics = exporter.agree_with_kernel(&network, before);
    let clients = [("api", "web"), ("role", "server"), ("window", "5m")];
    assert_eq!(metrics.get("tidewaiter_api_clients", &clients), Some(2));
    assert!(!metrics.to_string().contains("api=\"unmapped\",client"));

    let web = api(&exporter, "web");
    assert_eq!(
        (&web["role"], &web["transports"], &web["ports"]),
        (&"server".into(), &serde_json::json!(["tcp"]), &serde_json::json!(["8080"]))
    );
    let expected = serde_json::json!({
        "distinct_5m": 2,
        "top": [{ "address": "10.77.0.2", "bytes": first }],
        "other_bytes": bytes() - first,
    });
    assert_eq!(web["clients"], expected);
    assert!(web["connections"]["active"].is_u64(), "{web}");
}

#[test]
fn an_api_is_shown_with_what_went_wrong() {
    let network = Network::new(Offload::Off);
    let configuration = CONFIGURATION.replace("ports = [8080]", "ports = [8080]\nexpect = \"tls\"");
    let exporter = Exporter::start(&network.server, &configuration);
    let kinds = ["requests", "responses", "anomalies", "dropped"];
    for api in ["web", "names"].map(|name| api(&exporter, name)) {
        assert!(kinds.iter().all(|kind| api.get(kind).is_none()), "nothing yet: {api}");
        assert_eq!((&api["retransmitted"], api["connections"].get("duration")), (&0.into(), None), "{api}");
    }

    let listener = network.server.run(|| TcpListener::bind((Network::SERVER4, 8080))).expect("is free");
    for status in ["200 OK", "404 Not Found", "404 Not Found", "499 Strange"] {
        let mut client = network.client.run(|| TcpStream::connect((Network::SERVER4, 8080))).expect("is heard");
        let (mut server, _) = listener.accept().expect("a connection");
        let request = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n";
        client.write_all(request).expect("is sent");
        server.read_exact(&mut request.clone()).expect("a request");
        server.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).expect("is sent");
        drop(server);
        client.read_to_end(&mut Vec::new()).expect("an answer");
    }
    let socket = network.client.run(|| UdpSocket::bind("0.0.0.0:0")).expect("is free");
    for _ in 0..3 {
        socket.send_to(b"anybody?", (Network::SERVER4, 53)).expect("is sent");
    }

    wait_until("all to be over", || api(&exporter, "web")["connections"]["duration"]["count"] == 4);
    let (web, names) = (api(&exporter, "web"), api(&exporter, "names"));
    let responses = serde_json::json!({ "200": 1, "404": 2, "other": 1 });
    assert_eq!((&web["requests"], &web["responses"]), (&serde_json::json!({ "GET": 4 }), &responses));
    assert_eq!(web["anomalies"], serde_json::json!({ "unexpected_payload": 4 }));
    assert!(web["connections"]["duration"]["p99"].as_f64().is_some_and(|seconds| seconds < 10.0), "{web}");
    assert_eq!(names["dropped"], serde_json::json!({ "no_socket": 3 }));
    assert!(["requests", "responses", "anomalies"].iter().all(|kind| names.get(kind).is_none()), "{names}");
}

#[test]
fn no_more_flows_are_shown_than_were_asked_for() {
    let network = Network::new(Offload::Off);
    let configuration = CONFIGURATION.replace("1s", "1h");
    let exporter = Exporter::start(&network.server, &configuration);
    let kind = Kind { transport: Transport::Udp, options: false, payload: 10 };
    let frames: Vec<_> = (0..250)
        .map(|port| frame(kind, (Network::CLIENT4.into(), 20_000 + port), (Network::SERVER4.into(), 53)))
        .collect();
    network.client.run(|| send_frames(INTERFACE, &frames, 1)).expect("is sent");
    wait_until("all to be seen", || exporter.metrics().api("names", "server", Direction::Receive).packets == 250);
    for (query, expected, more) in [
        ("?api=names", 100, true),
        ("?api=names&limit=249", 249, true),
        ("?api=names&limit=250", 250, false),
        ("?limit=10000&api=names", 250, false),
        ("?limit=1", 1, true),
    ] {
        let answer = flows(&exporter, query);
        assert_eq!((answer["flows"].as_array().unwrap().len(), &answer["more"]), (expected, &more.into()), "{query}");
    }
    let flow = &flows(&exporter, "?api=names&limit=1")["flows"][0];
    // Nobody hears them there, and says so by ICMP: there is one direction alone.
    assert_eq!((&flow["established"], &flow["transmit"]["packets"]), (&false.into(), &0.into()), "{flow}");
    assert_eq!(flow["receive"].get("tcp_flags"), None, "{flow}");
}

#[test]
fn what_makes_no_sense_is_refused_in_words() {
    let network = Network::new(Offload::Off);
    let exporter = Exporter::start(&network.server, CONFIGURATION);
    for (path, status, words) in [
        ("/api/v1/flows?api=wev", 404, "there is no API called \"wev\""),
        ("/api/v1/flows?api=removed", 404, "there is no API called \"removed\""),
        ("/api/v1/flows?limit=0", 400, "limit: found \"0\", expected 1 to 10000"),
        ("/api/v1/flows?limit=10001", 400, "limit: found \"10001\", expected 1 to 10000"),
        ("/api/v1/flows?limit=-1", 400, "limit: found \"-1\", expected 1 to 10000"),
        ("/api/v1/flows?limit=many", 400, "limit: found \"many\", expected 1 to 10000"),
        ("/api/v1/flows?limit=", 400, "limit: found \"\", expected 1 to 10000"),
        ("/api/v1/flows?limits=5", 400, "unknown field `limits`"),
        ("/api/v1/flows?limit=5&limit=6", 400, "duplicate field `limit`"),
        ("/api/v1/nothing", 404, "/api/v1/flows"),
    ] {
        let (found, answer) = ask(&exporter, path, &[]);
        assert_eq!(found, status, "{path}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(words), "{path}: {answer}");
    }
    assert!(flows(&exporter, "?api=unmapped")["flows"].is_array());
}

#[test]
fn only_this_host_is_answered() {
    let network = Network::new(Offload::Off);
    let bpf = Arc::new(BpfFileSystem::mount());
    // It listens for everybody, on a socket of both versions of IP.
    let exporter = Exporter::start_as(&bpf, &network.server, CONFIGURATION, |command| {
        command.args(["--listen", "[::]:9473"]);
    });
    let curl = |namespace: &tidewaiter_tests::namespace::Namespace, arguments: &[&str], url: &str| {
        let mut command = namespace.command("curl");
        output(command.args(["-s", "-w", "\n%{http_code}"]).args(arguments).arg(url))
    };
    for path in ["apis", "flows", "nothing"] {
        for host in ["10.77.0.1", "[fd77::1]"] {
            let url = format!("http://{host}:9473/api/v1/{path}");
            // Neither from another host, whatever it says, nor from this one by another way.
            for (namespace, arguments) in
                [(&network.client, &[][..]), (&network.client, &["-H", "Host: localhost"]), (&network.server, &[])]
            {
                let answer = curl(namespace, arguments, &url);
                assert!(
                    answer.ends_with("\n403") && answer.contains("{\"error\":\"only answered over the loopback"),
                    "{answer}"
                );
            }
        }
    }
    assert!(curl(&network.client, &[], "http://10.77.0.1:9473/metrics").ends_with("\n200"), "others are");
    for (host, status) in [
        ("localhost", 200),
        ("127.0.0.1:9473", 200),
        ("[::1]:9473", 200),
        ("rebound.example.org:9473", 403),
        ("localhost.example.org", 403),
    ] {
        for url in ["http://127.0.0.1:9473/api/v1/apis", "http://[::1]:9473/api/v1/apis"] {
            let answer = curl(&network.server, &["-H", &format!("Host: {host}")], url);
            assert!(answer.ends_with(&format!("\n{status}")), "{host}: {answer}");
        }
    }
    // As /metrics is, it is compressed for those who ask.
    let plain = curl(&network.server, &["-w", " %{size_download}"], "http://127.0.0.1:9473/api/v1/apis");
    let compressed =
        curl(&network.server, &["--compressed", "-w", " %{size_download}"], "http://127.0.0.1:9473/api/v1/apis");
    let size = |answer: &str| answer.rsplit(' ').next().unwrap().parse::<usize>().unwrap();
    assert!(compressed.contains("\"web\"") && size(&compressed) < size(&plain), "{compressed} {plain}");
    drop(exporter);
}
