//! How transmission goes, held against what the kernel itself counts: segments that are sent again, packets that are dropped.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::Command,
    sync::Arc,
    thread::{scope, sleep},
    time::Duration,
};

use rustix::process::Signal;
use tidewaiter_common::{direction::Direction, transport::Transport};
use tidewaiter_tests::{
    bpf::Program,
    bpf_file_system::BpfFileSystem,
    command::output,
    exporter::Exporter,
    frames::{Kind, frame},
    metrics::Metrics,
    namespace::Namespace,
    network::{INTERFACE, Network, Offload, send_frames},
    traffic::exchange,
    wait::wait_until,
};

/// A port for any address, and one for a single address.
const PORT: u16 = 8080;
const OTHER_PORT: u16 = 8081;

/// Two APIs of `role`, one of them at `address` alone.
fn configuration(role: &str, address: IpAddr) -> String {
    format!(
        "interfaces = [\"{INTERFACE}\"]
        [flows]
        capacity = 0
        [[api]]
        name = \"any\"
        role = \"{role}\"
        transport = [\"tcp\", \"udp\"]
        ports = [{PORT}]
        [[api]]
        name = \"one\"
        role = \"{role}\"
        address = \"{address}\"
        ports = [{OTHER_PORT}]"
    )
}

/// A counter of `host` in a file of pairs of lines: names, values (proc(5), `/proc/net/snmp` and `/proc/net/netstat`).
fn kernel_counter(host: &Namespace, file: &str, group: &str, name: &str) -> u64 {
    let text = host.run(|| fs::read_to_string(format!("/proc/thread-self/net/{file}"))).expect("is there");
    let lines: Vec<Vec<_>> = text
        .lines()
        .filter_map(|line| line.strip_prefix(group)?.strip_prefix(": "))
        .map(|line| line.split(' ').collect())
        .collect();
    let place = lines[0].iter().position(|one| *one == name).unwrap_or_else(|| panic!("no {name} in {text}"));
    lines[1][place].parse().expect("a number")
}

/// Segments that `host` has sent again: those that could not be sent are none.
fn sent_again(host: &Namespace) -> u64 {
    kernel_counter(host, "snmp", "Tcp", "RetransSegs") - kernel_counter(host, "netstat", "TcpExt", "TCPRetransFail")
}

/// How many of `expected` segments the kernel may count that its tracepoint tells nobody of. Linux 6.18 has some, tail loss
/// probes aside: mostly none, and up to 7 in 600 on a busy machine. How many are lost, and sent again, is random: where that is
/// few, one more is a large part of it, so there is a number of them beside the part.
const fn most_untold(expected: u64) -> u64 {
    5 + expected / 20
}

fn retransmitted(metrics: &Metrics, api: &str, role: &str) -> Option<u64> {
    let labels = [("api", api), ("role", role), ("direction", "transmit")];
    metrics.get("tidewaiter_api_retransmitted_packets_total", &labels)
}

/// Packets of `api` that were dropped, by reason.
fn dropped(metrics: &Metrics, api: &str) -> BTreeMap<String, u64> {
    let prefix = format!("tidewaiter_api_dropped_packets_total{{api=\"{api}\",reason=\"");
    let samples = metrics.0.iter().filter_map(|(series, value)| {
        #[expect(clippy::cast_sign_loss, reason = "counters are not negative")]
        Some((series.strip_prefix(&prefix)?.split('"').next()?.to_owned(), *value as u64))
    });
    samples.collect()
}

/// Has each end of the wire lose so many of 65,536 packets that it receives, until what this answers with is dropped.
fn lose(network: &Network, of_65536: u32) -> [tidewaiter_tests::bpf::Link; 2] {
    let program = Program::drop_some(of_65536);
    [&network.server, &network.client].map(|host| {
        let index = host.index(INTERFACE);
        host.run(|| program.attach(index, Direction::Receive))
    })
}

/// Has `host` send no tail loss probes (RFC 8985): the tracepoint of Linux 6.18 is not told of them.
fn no_probes(host: &Namespace) {
    output(host.command("sysctl").args(["-q", "-w", "net.ipv4.tcp_early_retrans=0"]));
}

/// Waits until nobody sends anything any more.
fn wait_until_at_rest(network: &Network) {
    wait_until("every connection to be closed", || {
        [&network.server, &network.client].iter().all(|host| {
            let sockets = output(host.command("ss").args(["--tcp", "--no-header", "state", "connected"]));
            sockets.lines().all(|socket| socket.starts_with("TIME-WAIT"))
        })
    });
}

#[test]
fn segments_that_are_sent_again_are_no_more_than_the_kernel_says_and_hardly_fewer() {
    for offload in [Offload::Off, Offload::Both] {
        let network = Network::new(offload);
        let Network { server, client } = &network;
        let address = Network::SERVER6.into();
        // What one of them counts is the other's traffic as well.
        let exporters = [
            (Exporter::start(server, &configuration("server", address)), "server", server),
            (Exporter::start(client, &configuration("client", address)), "client", client),
        ];
        for host in [server, client] {
            no_probes(host);
        }
        let before = [server, client].map(sent_again);
        let lossy = lose(&network, 1 << 12);
        for server_address in Network::SERVERS {
            for port in [PORT, OTHER_PORT, 8082] {
                exchange(server, client, SocketAddr::new(server_address, port), &[400_000; 5]);
            }
        }
        drop(lossy);
        wait_until_at_rest(&network);
        for ((exporter, role, host), before) in exporters.iter().zip(before) {
            let expected = sent_again(host) - before;
            let metrics = exporter.metrics();
            let [any, one] = ["any", "one"].map(|api| retransmitted(&metrics, api, role).expect("a series"));
            let unmapped = retransmitted(&metrics, "unmapped", "none").expect("a series");
            println!("{offload:?}, {role}: {expected} in the kernel, {any} + {one} + {unmapped} here");
            let untold = expected.checked_sub(any + one + unmapped).expect("more than there were");
            assert!(untold <= most_untold(expected), "{untold} of {expected} were not told");
            assert!([any, one, unmapped].iter().all(|count| *count > 0));
        }
    }
}

#[test]
fn a_flow_knows_what_was_sent_again_of_it() {
    const BYTES: usize = 4_000_000;
    let network = Network::new(Offload::Both);
    let Network { server, client } = &network;
    let configuration = configuration("server", Network::SERVER6.into()).replace("capacity = 0", "capacity = 1024");
    let exporter = Exporter::start(server, &configuration);
    no_probes(server);
    let listener = server.run(|| TcpListener::bind((Network::SERVER4, PORT))).expect("is free");
    let mut near = client.run(|| TcpStream::connect((Network::SERVER4, PORT))).expect("is heard");
    let (mut far, _) = listener.accept().expect("a connection");
    let lossy = lose(&network, 1 << 11);
    scope(|scope| {
        scope.spawn(|| far.write_all(&vec![7; BYTES]).expect("is sent"));
        near.read_exact(&mut vec![0; BYTES]).expect("arrives");
    });
    drop(lossy);
    network.wait_until_quiet();
    let expected = retransmitted(&exporter.metrics(), "any", "server").expect("a series");
    let answer: serde_json::Value = serde_json::from_str(&exporter.text("/api/v1/flows?api=any", &[])).unwrap();
    let [flow] = answer["flows"].as_array().unwrap().as_slice() else { panic!("one flow: {answer}") };
    assert!(expected > 0);
    assert_eq!(flow["retransmitted"], expected, "{flow}");
}

#[test]
fn dropped_packets_are_counted_by_reason_for_the_api_and_namespace_that_lost_them() {
    const COUNT: usize = 1000;
    let network = Network::new(Offload::Off);
    let Network { server, client } = &network;
    let exporter = Exporter::start(server, &configuration("server", Network::SERVER6.into()));
    assert_eq!(dropped(&exporter.metrics(), "any"), BTreeMap::new());

    // Nobody listens; neither does anybody at the other end, which is not this exporter's business.
    for (host, far) in [(client, Network::SERVERS), (server, Network::CLIENTS)] {
        for far in far {
            let any: IpAddr = if far.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
            host.run(|| {
                let socket = UdpSocket::bind((any, 0)).expect("is free");
                for port in [PORT, 8082] {
                    (0..COUNT).for_each(|number| {
                        socket.send_to(b"anybody?", (far, port)).expect("is sent");
                        // No more at a time than the device has room for.
                        if number % 50 == 0 {
                            sleep(Duration::from_millis(1));
                        }
                    });
                }
            });
        }
    }
    // A connection of which a segment has a wrong checksum.
    let mut broken = frame(
        Kind { transport: Transport::Tcp, options: false, payload: 100 },
        (Network::CLIENT4.into(), 40_000),
        (Network::SERVER4.into(), PORT),
    );
    *broken.last_mut().unwrap() ^= 0xff;
    let mac = hardware_address(server);
    broken[..6].copy_from_slice(&mac);
    client.run(|| send_frames(INTERFACE, &[broken], 7)).expect("is sent");
    let metrics = exporter.metrics();
    let expected = [("no_socket", 2 * COUNT as u64), ("tcp_csum", 7)].map(|(name, count)| (name.to_owned(), count));
    assert_eq!(dropped(&metrics, "any"), expected.into(), "{metrics}");
    assert_eq!(dropped(&metrics, "one"), BTreeMap::new());
    assert_eq!(dropped(&metrics, "unmapped"), BTreeMap::new());
}

/// The hardware address of the wire's end at `host`.
fn hardware_address(host: &Namespace) -> [u8; 6] {
    let link = host.link(INTERFACE);
    let bytes: Vec<_> =
        link["address"].as_str().unwrap().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

#[test]
fn what_a_full_socket_drops_is_as_much_as_the_kernel_says() {
    let network = Network::new(Offload::Off);
    let Network { server, client } = &network;
    let exporter = Exporter::start(server, &configuration("server", Network::SERVER6.into()));
    let before = kernel_counter(server, "snmp", "Udp", "RcvbufErrors");
    let _nobody_reads = server.run(|| UdpSocket::bind((Network::SERVER4, PORT)).expect("is free"));
    client.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("is free");
        for number in 0..2000 {
            socket.send_to(&[0; 1000], (Network::SERVER4, PORT)).expect("is sent");
            if number % 50 == 0 {
                sleep(Duration::from_millis(1));
            }
        }
    });
    let expected = kernel_counter(server, "snmp", "Udp", "RcvbufErrors") - before;
    assert!(expected > 0);
    assert_eq!(dropped(&exporter.metrics(), "any"), BTreeMap::from([("socket_rcvbuff".to_owned(), expected)]));
}

/// The tracepoints' pins in `folder`.
fn pins(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("tracepoint-")).count()
}

#[test]
fn kills_under_lossy_traffic_lose_no_retransmission() {
    let network = Network::new(Offload::Off);
    let Network { server, client } = &network;
    let bpf = Arc::new(BpfFileSystem::mount());
    let configuration = configuration("server", Network::SERVER6.into());
    let start = || Exporter::start_after(&bpf, server, &configuration, &[]);
    let mut exporter = start();
    no_probes(server);
    let before = sent_again(server);
    let lossy = lose(&network, 1 << 11);
    scope(|scope| {
        let traffic = scope.spawn(|| exchange(server, client, (Network::SERVER4, PORT).into(), &[1_000_000; 12]));
        let mut last = 0;
        for _ in 0..4 {
            exporter.end(Signal::KILL);
            assert_eq!(pins(&bpf.pin_path()), 3);
            sleep(Duration::from_millis(300));
            exporter = start();
            assert!(exporter.log().contains("taking over"), "{}", exporter.log());
            let now = retransmitted(&exporter.metrics(), "any", "server").expect("a series");
            assert!(now >= last, "{now} after {last}");
            last = now;
        }
        traffic.join().expect("goes well");
    });
    drop(lossy);
    wait_until_at_rest(&network);
    let expected = sent_again(server) - before;
    let metrics = exporter.metrics();
    let found =
        retransmitted(&metrics, "any", "server").unwrap() + retransmitted(&metrics, "unmapped", "none").unwrap();
    println!("four kills: {expected} in the kernel, {found} here");
    // What happens while the programs of two exporters are attached is counted twice.
    let counted = expected.saturating_sub(most_untold(expected))..=expected + 2;
    assert!(counted.contains(&found) && expected > 50, "{expected}, {found}");
    exporter.end(Signal::TERM);
    assert!(!bpf.pin_path().exists(), "an end in order leaves nothing");
}

#[test]
fn an_api_begins_from_zero_in_a_slot_that_another_had() {
    let network = Network::new(Offload::Off);
    let Network { server, client } = &network;
    let bpf = Arc::new(BpfFileSystem::mount());
    let start = |name: &str| {
        let configuration = configuration("server", Network::SERVER6.into()).replace("\"any\"", &format!("{name:?}"));
        Exporter::start_after(&bpf, server, &configuration, &[])
    };
    let send = || {
        let socket = client.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        (0..10).for_each(|_| assert_eq!(socket.send_to(b"anybody?", (Network::SERVER4, PORT)).unwrap(), 8));
    };
    let expected = |count: u64| BTreeMap::from([("no_socket".to_owned(), count)]);
    // More names than there are slots before one is used again: each start retires one, the next but one takes it.
    for name in ["a", "b", "c", "d"] {
        let mut exporter = start(name);
        send();
        assert_eq!(dropped(&exporter.metrics(), name), expected(10), "{name}");
        assert_eq!(retransmitted(&exporter.metrics(), name, "server"), Some(0));
        exporter.end(Signal::KILL);
        // For longer than a slot stays retired.
        sleep(Duration::from_millis(1200));
    }
    let exporter = start("d");
    assert_eq!(dropped(&exporter.metrics(), "d"), expected(10));
}

#[test]
fn a_kernel_that_does_not_say_how_it_is_laid_out_counts_all_but_that() {
    let namespace = Namespace::new();
    let bpf = Arc::new(BpfFileSystem::mount());
    let configuration = "interfaces = [\"lo\"]\n[[api]]\nname = \"exporter\"\nports = [9473]";
    let hide = |command: &mut Command| {
        let hidden = "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"";
        let mut wrapped = Command::new("unshare");
        wrapped.args(["--mount", "sh", "-c", hidden, "sh"]).arg(command.get_program()).args(command.get_args());
        *command = wrapped;
    };
    let exporter = Exporter::start_as(&bpf, &namespace, configuration, hide);
    let log = exporter.log();
    assert_eq!(log.matches("are not counted").count(), 1, "{log}");
    assert_eq!(pins(&bpf.pin_path()), 0);
    let text = exporter.text("/metrics", &[]);
    assert!(!text.contains("retransmitted") && !text.contains("dropped"), "{text}");
    assert!(exporter.metrics().api("exporter", "server", Direction::Receive).packets > 0);
}
