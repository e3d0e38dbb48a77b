//! APIs from the listening sockets.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{fs, os::unix::fs::PermissionsExt as _};

use tempfile::TempDir;
use tidewaiter_common::direction::Direction;
use tidewaiter_tests::{
    command::{Process, output},
    exporter::Exporter,
    namespace::Namespace,
    wait::wait_until,
};

const CONFIGURATION: &str = "
    interfaces = [\"lo\"]
    [discovery]
    interval = \"1s\"
    limit = 5
    forget_after = \"2s\"
";

/// Programs called `name` that listen at `ports` of TCP or UDP, one for each, run by the user "nobody".
fn listen(namespace: &Namespace, name: &str, protocol: &str, ports: &[u16]) -> (Vec<Process>, TempDir) {
    let directory = tempfile::tempdir_in("/tmp").expect("a directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("is ours");
    let program = directory.path().join(name);
    fs::copy("/usr/bin/socat", &program).expect("socat is installed");
    let start = |port: &u16| {
        let mut command = namespace.command("setpriv");
        command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(&program);
        command.args([&format!("{protocol}-LISTEN:{port},bind=127.0.0.1,fork"), "PIPE"]);
        Process::start(&mut command)
    };
    let processes = ports.iter().map(start).collect();
    wait_until("the program to listen", || {
        let sockets = output(namespace.command("ss").args(["-Hlntu"]));
        ports.iter().all(|port| sockets.contains(&format!(":{port} ")))
    });
    (processes, directory)
}

fn is_counted(exporter: &Exporter<'_>, api: &str) -> bool {
    let labels = [("api", api), ("role", "server"), ("direction", "receive")];
    exporter.metrics().get("tidewaiter_api_packets_total", &labels).is_some()
}

#[test]
fn listening_sockets_become_apis_and_cease_to_be() {
    let namespace = Namespace::new();
    let orders = listen(&namespace, "orders", "tcp", &[8080]);
    let exporter = Exporter::start(&namespace, CONFIGURATION);
    // Both are there from the first scrape on; the exporter is an API like any other.
    assert!(is_counted(&exporter, "orders:8080") && is_counted(&exporter, "tidewaiter:9473"));
    assert!(exporter.metrics().api("tidewaiter:9473", "server", Direction::Receive).packets > 0);

    // What comes later, of another user and after the capabilities were given up, has a name too.
    let names = listen(&namespace, "names", "udp", &[5353]);
    wait_until("a new listener to be counted", || is_counted(&exporter, "names:5353"));
    let info = exporter.text("/metrics", &[]);
    assert!(
        info.contains(
            "tidewaiter_api_info{api=\"names:5353\",role=\"server\",transport=\"udp\",ports=\"5353\",expect=\"\"} 1"
        ),
        "{info}"
    );

    // More than the limit: the first come stay.
    let many = listen(&namespace, "many", "tcp", &[11001, 11002, 11003, 11004]);
    wait_until("the limit to be reached", || is_counted(&exporter, "many:11002"));
    let api_count = || {
        let text = exporter.text("/metrics", &[]);
        text.lines().filter(|line| line.starts_with("tidewaiter_api_info{")).count()
    };
    assert_eq!(api_count(), 5);
    assert!(is_counted(&exporter, "orders:8080") && !is_counted(&exporter, "many:11003"));
    assert!(exporter.log().contains("more listening sockets than discovery.limit allows"), "{}", exporter.log());

    // What is gone for long enough makes room, and its totals are kept.
    let ask = || std::net::TcpStream::connect("127.0.0.1:8080");
    namespace.run(ask).expect("is heard");
    let before = exporter.metrics().api("orders:8080", "server", Direction::Receive);
    assert!(before.packets >= 2);
    drop(orders);
    wait_until("the closed listener to be forgotten", || !is_counted(&exporter, "orders:8080"));
    wait_until("another to take its place", || is_counted(&exporter, "many:11003"));
    let metrics = exporter.metrics();
    assert!(metrics.api("removed", "server", Direction::Receive).packets >= before.packets);
    metrics.assert_the_sums_prove_it();
    drop((names, many));
}
