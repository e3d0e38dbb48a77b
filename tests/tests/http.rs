//! A real HTTP server and a real client.

use std::{fs, os::unix::fs::PermissionsExt as _};

use tidewaiter_common::direction::Direction;
use tidewaiter_tests::{
    command::{Process, output},
    exporter::Exporter,
    network::{Network, Offload},
    wait::wait_until,
};

const CONFIGURATION: &str = "
    interfaces = [\"wire\"]
    [[api]]
    name = \"web\"
    ports = [80]
";

/// Requests of each client.
const REQUESTS: u64 = 20;
/// Bytes of each answer's body.
const BODY: u64 = 100_000;

#[test]
fn nginx_and_curl_are_counted_as_the_kernel_counts_them() {
    let network = Network::new(Offload::Off);
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path();
    // The server's workers are of another user.
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).expect("is ours");
    fs::write(root.join("body"), vec![b'x'; usize::try_from(BODY).expect("fits")]).expect("can be written");
    let path = root.display();
    let configuration = format!(
        "daemon off; pid {path}/pid; error_log stderr warn; events {{}}
         http {{ access_log {path}/access; server {{ listen 80; listen [::]:80; root {path}; }} }}"
    );
    fs::write(root.join("nginx.conf"), configuration).expect("can be written");
    let mut command = network.server.command("nginx");
    let _nginx = Process::start(command.arg("-p").arg(root).arg("-c").arg(root.join("nginx.conf")));
    wait_until("nginx to listen", || output(network.server.command("ss").arg("-Hlnt")).contains(":80 "));

    let exporter = Exporter::start(&network.server, CONFIGURATION);
    let before = network.kernel_counters();
    for server in Network::SERVERS {
        // One connection for all requests, then one for each.
        let host = if server.is_ipv6() { format!("[{server}]") } else { server.to_string() };
        let url = format!("http://{host}/body?[1-{REQUESTS}]");
        for connection in ["keep-alive", "close"] {
            let mut curl = network.client.command("curl");
            curl.args(["-s", "-f", "-H", &format!("Connection: {connection}"), "-o", "/dev/null", &url]);
            output(&mut curl);
        }
    }
    network.wait_until_quiet();

    let metrics = exporter.agree_with_kernel(&network, before);
    let served = fs::read_to_string(root.join("access")).expect("is written").lines().count();
    assert_eq!(served as u64, 4 * REQUESTS);
    let [received, transmitted] = Direction::ALL.map(|direction| metrics.api("web", "server", direction));
    let bodies = 4 * REQUESTS * BODY;
    assert!(transmitted.bytes > bodies && transmitted.bytes < bodies + bodies / 10, "{transmitted:?}");
    // Nothing but this passed the wire, but for neighbours that looked for each other.
    let all = Direction::ALL.map(|direction| metrics.interface("wire", direction).packets);
    assert!(
        all[0] - received.packets < 20 && all[1] - transmitted.packets < 20,
        "{received:?} {transmitted:?} {all:?}"
    );
}
