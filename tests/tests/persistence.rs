//! Counters never go backwards: not when the exporter is killed, restarted, upgraded, or its configuration has changed.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    fs::{self, Permissions},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use aya::maps::{Array, Map, MapData};
use rustix::process::Signal;
use tidewaiter_common::{direction::Direction, record::InstanceRecord, transport::Transport};
use tidewaiter_tests::{
    bpf_file_system::BpfFileSystem,
    exporter::{Exporter, binary},
    frames::{Kind, frame},
    hooks,
    metrics::{Count, Metrics},
    namespace::Namespace,
    network::{INTERFACE, KernelCounters, Network, Offload, send_frames},
    old_kernel::without_tcx,
    wait::{wait_until, while_others},
};

const PORT: u16 = 8080;

fn configuration(name: &str, more: &str) -> String {
    format!("interfaces = [\"{INTERFACE}\"]\n{more}\n[[api]]\nname = \"{name}\"\nports = [{PORT}]\n")
}

/// A frame from the client to the port of the API.
fn request() -> Vec<u8> {
    let kind = Kind { transport: Transport::Tcp, options: false, payload: 100 };
    frame(kind, (Network::CLIENT4.into(), 40_000), (Network::SERVER4.into(), PORT))
}

/// A frame back.
fn answer() -> Vec<u8> {
    let kind = Kind { transport: Transport::Tcp, options: false, payload: 100 };
    frame(kind, (Network::SERVER4.into(), PORT), (Network::CLIENT4.into(), 40_000))
}

/// Sends `count` frames each way.
fn send(network: &Network, count: usize) {
    network.client.run(|| send_frames(INTERFACE, &[request()], count)).expect("is sent");
    network.server.run(|| send_frames(INTERFACE, &[answer()], count)).expect("is sent");
}

/// Traffic both ways for as long as `during` takes.
fn under_traffic<T>(network: &Network, during: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for (host, frame) in [(&network.client, request()), (&network.server, answer())] {
            let stop = &stop;
            scope.spawn(move || {
                host.run(|| {
                    while !stop.load(Ordering::Relaxed) {
                        // Fewer at a time than a veth ring has room for.
                        send_frames(INTERFACE, std::slice::from_ref(&frame), 50).expect("is sent");
                        thread::sleep(Duration::from_millis(1));
                    }
                });
            });
        }
        while_others(&stop, during)
    })
}

/// Every series of `before` that is a counter is in `after`, and no lower.
fn assert_nothing_went_backwards(before: &Metrics, after: &Metrics) {
    for (series, value) in before.0.iter().filter(|(series, _)| series.contains("_total{")) {
        // Of a process, not of what passes.
        if series.starts_with("process_") {
            continue;
        }
        let now = after.0.get(series).unwrap_or_else(|| panic!("{series} is no more"));
        assert!(now >= value, "{series} was {value} and is {now}");
    }
}

/// All that was counted on the wire since `before` is what the exporter says, in every number.
fn assert_all_counted(exporter: &Exporter<'_>, network: &Network, before: KernelCounters, api: &str) -> Metrics {
    let metrics = exporter.agree_with_kernel(network, before);
    let labels = |direction: Direction| [("interface", INTERFACE), ("direction", direction.as_str())];
    for direction in Direction::ALL {
        let kernel = metrics.get("tidewaiter_interface_kernel_packets_total", &labels(direction));
        assert_eq!(kernel, Some(metrics.interface(INTERFACE, direction).packets));
        let ratio =
            format!("tidewaiter_coverage_ratio{{direction=\"{}\",interface=\"{INTERFACE}\"}}", direction.as_str());
        assert_eq!(metrics.0.get(&ratio), Some(&1.0));
        assert!(metrics.api(api, "server", direction).packets > 0);
    }
    metrics
}

#[test]
fn ten_kills_under_traffic_lose_no_packet() {
    for mode in ["tcx", "clsact"] {
        let network = Network::new(Offload::Off);
        let bpf = Arc::new(BpfFileSystem::mount());
        let configuration = configuration("web", &format!("attach = \"{mode}\""));
        let start = || Exporter::start_after(&bpf, &network.server, &configuration, &[]);
        let mut exporter = start();
        let before = network.kernel_counters();
        under_traffic(&network, || {
            let mut last = exporter.metrics();
            for _ in 0..10 {
                exporter.end(Signal::KILL);
                exporter = start();
                let now = exporter.metrics();
                assert_nothing_went_backwards(&last, &now);
                last = now;
            }
        });
        let metrics = assert_all_counted(&exporter, &network, before, "web");
        let packets = Direction::ALL.map(|direction| metrics.api("web", "server", direction).packets);
        println!("{mode}: ten kills, {packets:?} packets");
        assert!(packets.iter().all(|packets| *packets > 1_000));
        exporter.end(Signal::TERM);
        assert!(!bpf.pin_path().exists(), "an end in order leaves nothing");
    }
}

#[test]
fn connections_that_open_and_end_while_exporters_change_are_counted_each_once() {
    for mode in ["tcx", "clsact"] {
        let network = Network::new(Offload::Off);
        let bpf = Arc::new(BpfFileSystem::mount());
        let configuration = configuration("web", &format!("attach = \"{mode}\""));
        let start = || Exporter::start_after(&bpf, &network.server, &configuration, &[]);
        let mut exporter = start();
        let listener = network.server.run(|| TcpListener::bind((Network::SERVER4, 8080))).expect("is free");
        let is_over = AtomicBool::new(false);
        let made = thread::scope(|scope| {
            scope.spawn(|| {
                for stream in listener.incoming().map(|stream| stream.expect("a connection")) {
                    let mut word = [0; 4];
                    if (&stream).read_exact(&mut word).is_err() {
                        break;
                    }
                    (&stream).write_all(&word).expect("is sent");
                    // The client closes first, so that its port is the one that rests.
                    (&stream).read_exact(&mut word).ok();
                }
            });
            let client = scope.spawn(|| {
                network.client.run(|| {
                    let mut made = 0_u64;
                    while !is_over.load(Ordering::SeqCst) {
                        let mut stream = TcpStream::connect((Network::SERVER4, 8080)).expect("is heard");
                        stream.write_all(b"word").expect("is sent");
                        stream.read_exact(&mut [0; 4]).expect("is answered");
                        made += 1;
                    }
                    // Who says nothing has the server end.
                    drop(TcpStream::connect((Network::SERVER4, 8080)));
                    made + 1
                })
            });
            while_others(&is_over, || {
                for _ in 0..4 {
                    exporter.end(Signal::KILL);
                    exporter = start();
                }
            });
            client.join().expect("goes well")
        });
        network.wait_until_quiet();
        let metrics = exporter.metrics();
        let count = |name: &str, more: &[(&str, &str)]| {
            metrics.get(&format!("tidewaiter_api_{name}"), &[&[("api", "web"), ("role", "server")], more].concat())
        };
        println!("{mode}: {made} connections over four kills");
        assert!(made > 100);
        assert_eq!(count("connection_attempts_total", &[]), Some(made));
        assert_eq!(count("connections_opened_total", &[]), Some(made));
        assert_eq!(count("connections_adopted_total", &[]), Some(0));
        assert_eq!(count("connections_closed_total", &[("reason", "fin")]), Some(made));
        assert_eq!(count("connections_active", &[]), Some(0));
    }
}

#[test]
fn a_kernel_without_tcx_loses_no_packet_either() {
    let network = Network::new(Offload::Off);
    let bpf = Arc::new(BpfFileSystem::mount());
    let configuration = configuration("web", "");
    let start = || Exporter::start_as(&bpf, &network.server, &configuration, without_tcx);
    let mut exporter = start();
    assert!(exporter.log().contains("hook=\"clsact\""), "{}", exporter.log());
    let before = network.kernel_counters();
    under_traffic(&network, || {
        for _ in 0..5 {
            let last = exporter.metrics();
            exporter.end(Signal::KILL);
            exporter = start();
            assert_nothing_went_backwards(&last, &exporter.metrics());
        }
    });
    assert_all_counted(&exporter, &network, before, "web");
}

#[test]
fn with_persist_an_end_in_order_leaves_no_gap_either() {
    for mode in ["tcx", "clsact"] {
        let network = Network::new(Offload::Off);
        let bpf = Arc::new(BpfFileSystem::mount());
        let configuration = configuration("web", &format!("attach = \"{mode}\"\npersist = true"));
        let mut exporter = Exporter::start_after(&bpf, &network.server, &configuration, &[]);
        let before = network.kernel_counters();
        under_traffic(&network, || {
            for _ in 0..3 {
                let last = exporter.metrics();
                assert_eq!(exporter.end(Signal::TERM).code(), Some(0));
                exporter = Exporter::start_after(&bpf, &network.server, &configuration, &[]);
                assert!(exporter.log().contains("taking over"), "{}", exporter.log());
                assert_nothing_went_backwards(&last, &exporter.metrics());
            }
        });
        assert_all_counted(&exporter, &network, before, "web");
    }
}

#[test]
fn fresh_starts_from_zero() {
    let network = Network::new(Offload::Off);
    let bpf = Arc::new(BpfFileSystem::mount());
    let configuration = configuration("web", "");
    let mut exporter = Exporter::start_after(&bpf, &network.server, &configuration, &[]);
    send(&network, 100);
    exporter.end(Signal::KILL);
    send(&network, 10);
    let exporter = Exporter::start_after(&bpf, &network.server, &configuration, &["--fresh"]);
    let before = network.kernel_counters();
    send(&network, 7);
    let metrics = assert_all_counted(&exporter, &network, before, "web");
    assert_eq!(metrics.api("web", "server", Direction::Receive).packets, 7);
    assert!(exporter.log().contains("starting fresh, as asked"));
}

/// Changes what is pinned in `bpf` as if another version or another namespace had left it.
fn change_instance(bpf: &BpfFileSystem, change: impl FnOnce(&mut InstanceRecord)) {
    let map = Map::Array(MapData::from_pin(bpf.pin_path().join("INSTANCE")).expect("is pinned"));
    let mut instance: Array<_, InstanceRecord> = map.try_into().expect("is an array of these");
    let mut record = instance.get(&0, 0).expect("has one");
    change(&mut record);
    instance.set(0, record, 0).expect("is written");
}

#[test]
fn what_another_layout_or_namespace_has_left_is_not_taken_over_and_that_is_said() {
    let network = Network::new(Offload::Off);
    for (change, why) in [
        ((|record| record.layout += 1) as fn(&mut InstanceRecord), "it has the layout of another version"),
        (|record| record.namespace += 1, "it is of another network namespace"),
        (|record| record.layout = 0, "it is not complete"),
    ] {
        let bpf = Arc::new(BpfFileSystem::mount());
        let configuration = configuration("web", "");
        let mut exporter = Exporter::start_after(&bpf, &network.server, &configuration, &[]);
        send(&network, 100);
        exporter.end(Signal::KILL);
        change_instance(&bpf, change);
        let exporter = Exporter::start_after(&bpf, &network.server, &configuration, &[]);
        assert!(exporter.log().contains("starting fresh") && exporter.log().contains(why), "{}", exporter.log());
        let before = network.kernel_counters();
        send(&network, 5);
        let metrics = assert_all_counted(&exporter, &network, before, "web");
        assert_eq!(metrics.api("web", "server", Direction::Receive).packets, 5, "counted by one program, not by two");
    }
}

#[test]
fn an_api_keeps_its_counters_by_its_name_and_leaves_them_to_removed() {
    let network = Network::new(Offload::Off);
    let bpf = Arc::new(BpfFileSystem::mount());
    let two = |first: &str, second: &str| {
        let api = |name: &str, port: u16| format!("[[api]]\nname = \"{name}\"\nports = [{port}]\n");
        format!("interfaces = [\"{INTERFACE}\"]\n{}{}", api(first, PORT), api(second, 9000))
    };
    let mut exporter = Exporter::start_after(&bpf, &network.server, &two("orders", "stock"), &[]);
    let before = network.kernel_counters();
    send(&network, 100);
    exporter.end(Signal::KILL);
    // Nobody is there, and it is counted.
    send(&network, 10);

    // "orders" moves to another port, "stock" is gone, and "web" gets the port of "orders".
    let mut exporter = Exporter::start_after(&bpf, &network.server, &two("web", "orders"), &[]);
    send(&network, 3);
    let packets = |metrics: &Metrics, api| metrics.api(api, "server", Direction::Receive).packets;
    let metrics = exporter.agree_with_kernel(&network, before);
    assert_eq!((packets(&metrics, "orders"), packets(&metrics, "web")), (110, 3));
    assert!(!metrics.0.keys().any(|series| series.contains("\"stock\"")), "what is gone has no series");

    // Both are gone; their totals are not, however often the exporter is killed.
    for _ in 0..2 {
        exporter.end(Signal::KILL);
        exporter = Exporter::start_after(&bpf, &network.server, &configuration("last", ""), &[]);
        let metrics = exporter.agree_with_kernel(&network, before);
        assert_eq!(packets(&metrics, "removed"), 113);
    }
    // Nor after their slots were given to others.
    thread::sleep(Duration::from_millis(1100));
    exporter.end(Signal::KILL);
    let exporter = Exporter::start_after(&bpf, &network.server, &two("new", "newer"), &[]);
    send(&network, 4);
    let metrics = exporter.agree_with_kernel(&network, before);
    assert_eq!((packets(&metrics, "removed"), packets(&metrics, "new"), packets(&metrics, "newer")), (113, 4, 0));
}

#[test]
fn a_discovered_api_outlasts_a_restart_of_its_service_and_of_the_exporter_at_once() {
    let namespace = Namespace::new();
    let bpf = Arc::new(BpfFileSystem::mount());
    let configuration = "interfaces = [\"lo\"]\n[discovery]\ninterval = \"1s\"";
    let listen = || namespace.run(|| TcpListener::bind("127.0.0.1:8080")).expect("is free");
    let listener = listen();
    let mut exporter = Exporter::start_after(&bpf, &namespace, configuration, &[]);
    namespace.run(|| TcpStream::connect("127.0.0.1:8080")).expect("is heard");
    let received = |exporter: &Exporter<'_>| {
        let metrics = exporter.metrics();
        let mut series = metrics.0.iter().filter(|(series, _)| {
            series.starts_with("tidewaiter_api_packets_total{api=\"persistence")
                && series.contains(":8080\"")
                && series.contains("receive")
        });
        let found = series.next().map(|(series, value)| (series.clone(), *value));
        found.unwrap_or_else(|| panic!("there is no such API: {metrics}"))
    };
    let before = received(&exporter);
    assert!(before.1 >= 3.0, "{before:?}");
    exporter.end(Signal::KILL);
    drop(listener);
    let exporter = Exporter::start_after(&bpf, &namespace, configuration, &[]);
    let (series, value) = received(&exporter);
    assert!(series == before.0 && value >= before.1, "{series} was {} and is {value}", before.1);
}

#[test]
fn an_interface_that_vanished_meanwhile_leaves_its_totals() {
    let network = Network::new(Offload::Off);
    let bpf = Arc::new(BpfFileSystem::mount());
    let configuration = "interfaces = [\"wire\", \"lo\"]\n[[api]]\nname = \"web\"\nports = [8080]";
    let mut exporter = Exporter::start_after(&bpf, &network.server, configuration, &[]);
    send(&network, 20);
    wait_until("all to be seen", || exporter.metrics().interface(INTERFACE, Direction::Receive).packets >= 20);
    let seen = exporter.metrics().interface(INTERFACE, Direction::Receive);
    exporter.end(Signal::KILL);
    network.server.ip("link delete wire");
    network.server.ip("link add wire type veth peer name far");
    let mut exporter = Exporter::start_after(&bpf, &network.server, configuration, &[]);
    let metrics = exporter.metrics();
    assert_eq!(metrics.interface("gone", Direction::Receive), seen);
    assert_eq!(metrics.interface(INTERFACE, Direction::Receive), Count::default());
    assert_eq!(metrics.api("web", "server", Direction::Receive).packets, 20);
    metrics.assert_the_sums_prove_it();
    exporter.end(Signal::TERM);
    assert!(!bpf.pin_path().exists());
}

#[test]
fn an_interface_that_was_renamed_meanwhile_begins_under_its_new_name() {
    let network = Network::new(Offload::Off);
    let bpf = Arc::new(BpfFileSystem::mount());
    let configuration = "interfaces = [\"wire*\"]\n[[api]]\nname = \"web\"\nports = [8080]";
    let mut exporter = Exporter::start_after(&bpf, &network.server, configuration, &[]);
    let before = network.kernel_counters();
    send(&network, 20);
    let seen = exporter.agree_with_kernel(&network, before).interface(INTERFACE, Direction::Receive);
    exporter.end(Signal::KILL);
    network.server.ip("link set wire down");
    network.server.ip("link set wire name wired");
    network.server.ip("link set wired up");
    let exporter = Exporter::start_after(&bpf, &network.server, configuration, &[]);
    network.client.run(|| send_frames(INTERFACE, &[request()], 7)).expect("is sent");
    wait_until("all to be seen", || exporter.metrics().api("web", "server", Direction::Receive).packets == 27);
    let metrics = exporter.metrics();
    assert!(metrics.interface("wired", Direction::Receive).packets >= 7);
    // Up again, it may have said something of its own before the exporter was back.
    assert!(metrics.interface("gone", Direction::Receive).packets >= seen.packets);
    assert_eq!(metrics.interface(INTERFACE, Direction::Receive), Count::default());
    metrics.assert_the_sums_prove_it();
}

#[test]
fn a_device_that_takes_the_place_of_another_is_counted_from_its_beginning() {
    let network = Network::new(Offload::Off);
    let bpf = Arc::new(BpfFileSystem::mount());
    let configuration = "interfaces = [\"ship\", \"lo\"]\n[[api]]\nname = \"web\"\nports = [8080]";
    let host = &network.server;
    let make = || {
        let batch = "link delete ship\nlink add ship index 77 type veth peer name p-ship\n\
                     link set ship arp off multicast off addrgenmode none up\n\
                     link set p-ship arp off multicast off addrgenmode none up\n";
        let file = bpf.path().parent().expect("a folder").join(format!("batch-{}", host.name()));
        fs::write(&file, batch).expect("can be written");
        // In one go, so that whoever looks sees the one, then the other.
        let result = Command::new("ip").args(["-netns", host.name(), "-force", "-batch"]).arg(&file).output();
        fs::remove_file(&file).expect("is there");
        result.expect("runs");
    };
    let transmit = |count| host.run(|| send_frames("ship", &[answer()], count)).expect("is sent");
    let seen = |exporter: &Exporter<'_>| exporter.metrics().interface("ship", Direction::Transmit).packets;
    make();
    let mut exporter = Exporter::start_after(&bpf, host, configuration, &[]);
    transmit(10);
    assert_eq!(seen(&exporter), 10);
    // While the exporter runs, and while it does not.
    make();
    wait_until("the new device to be accounted", || seen(&exporter) == 0);
    transmit(7);
    assert_eq!(seen(&exporter), 7);
    exporter.end(Signal::KILL);
    make();
    let exporter = Exporter::start_after(&bpf, host, configuration, &[]);
    transmit(5);
    let metrics = exporter.metrics();
    let labels = [("interface", "ship"), ("direction", "transmit")];
    assert_eq!(metrics.get("tidewaiter_interface_kernel_packets_total", &labels), Some(5));
    assert_eq!(metrics.interface("ship", Direction::Transmit).packets, 5);
    assert_eq!(metrics.interface("gone", Direction::Transmit).packets, 17);
    assert_eq!(metrics.api("web", "server", Direction::Transmit).packets, 22);
    metrics.assert_the_sums_prove_it();
}

#[test]
fn a_start_that_fails_leaves_nothing_behind() {
    let network = Network::new(Offload::Off);
    let bpf = BpfFileSystem::mount();
    // This qdisc has filters for what is received alone: the first program can be attached, and the second cannot.
    tidewaiter_tests::command::output(network.server.command("tc").args(["qdisc", "add", "dev", INTERFACE, "ingress"]));
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("tidewaiter.toml");
    fs::write(&file, "attach = \"clsact\"").expect("can be written");
    let arguments =
        ["--listen", "127.0.0.1:9473", "--interface", INTERFACE, "--config", file.to_str().expect("is text")];
    let (code, message) = refused(&network.server, &arguments, &bpf.pin_path());
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains("cannot attach to wire: its ingress qdisc has no hook"), "{message}");
    assert_eq!(attached(&network.server), 0, "{message}");
    assert!(!bpf.pin_path().exists(), "{message}");
}

#[test]
fn an_end_that_was_cut_short_leaves_nothing_to_take_over() {
    let network = Network::new(Offload::Off);
    for missing in ["INSTANCE", "API_COUNTERS", "INTERFACE_RECORDS"] {
        let bpf = Arc::new(BpfFileSystem::mount());
        let mut exporter = Exporter::start_after(&bpf, &network.server, &configuration("web", ""), &[]);
        send(&network, 20);
        exporter.end(Signal::KILL);
        fs::remove_file(bpf.pin_path().join(missing)).expect("is pinned");
        let exporter = Exporter::start_after(&bpf, &network.server, &configuration("web", ""), &[]);
        assert!(exporter.log().contains("it is not complete"), "{}", exporter.log());
        let before = network.kernel_counters();
        send(&network, 5);
        assert_all_counted(&exporter, &network, before, "web");
    }
}

/// Runs the exporter where it is to refuse that; answers with its exit code and its words.
fn refused(namespace: &Namespace, arguments: &[&str], pin_path: &Path) -> (Option<i32>, String) {
    let mut command = namespace.command("timeout");
    // It would run on if it did not refuse.
    command.arg("10").arg(binary()).args(arguments).env("TIDEWAITER_PIN_PATH", pin_path);
    command.env("TIDEWAITER_PERSIST", "true");
    let output = command.output().expect("runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_others_have_pinned_is_left_alone() {
    let namespace = Namespace::new();
    let bpf = BpfFileSystem::mount();
    let run = ["--listen", "127.0.0.1:9473", "--interface", "lo"];
    let folder = bpf.path().join("others");
    fs::create_dir_all(folder.join("programs")).expect("can be made");
    let detach = ["detach", "--pin-path", folder.to_str().expect("is text")];
    for arguments in [&run[..], &detach] {
        let (code, message) = refused(&namespace, arguments, &folder);
        assert_eq!(code, Some(1), "{message}");
        assert!(message.contains("holds programs, which is none of tidewaiter's pins"), "{message}");
    }
    assert!(folder.join("programs").exists());

    // What others may write to is not to be trusted.
    let folder = bpf.path().join("open");
    fs::create_dir(&folder).expect("can be made");
    fs::set_permissions(&folder, Permissions::from_mode(0o777)).expect("is ours");
    let (code, message) = refused(&namespace, &run, &folder);
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains("may be written to by others"), "{message}");
}

/// When a counter of `OpenMetrics` text says that it was created.
fn created(exporter: &Exporter<'_>, series: &str) -> String {
    let text = exporter.text("/metrics", &[("Accept", "application/openmetrics-text")]);
    let line = text.lines().find(|line| line.starts_with(series)).unwrap_or_else(|| panic!("no {series} in {text}"));
    line.rsplit_once(' ').unwrap().1.to_owned()
}

#[test]
fn a_counter_says_since_when_it_counts_whatever_happened_to_the_exporter() {
    let network = Network::new(Offload::Off);
    let bpf = Arc::new(BpfFileSystem::mount());
    let configuration = configuration("web", "");
    let mut exporter = Exporter::start_after(&bpf, &network.server, &configuration, &[]);
    let series = [
        "tidewaiter_api_packets_created{api=\"unmapped\"",
        "tidewaiter_api_packets_created{api=\"web\"",
        "tidewaiter_interface_packets_created{interface=\"wire\"",
    ];
    let before = series.map(|series| created(&exporter, series));
    exporter.end(Signal::KILL);
    let exporter = Exporter::start_after(&bpf, &network.server, &configuration, &[]);
    assert_eq!(series.map(|series| created(&exporter, series)), before);
}

fn detach(namespace: &Namespace, bpf: &BpfFileSystem) -> Output {
    let mut command: Command = namespace.command(binary());
    command.arg("detach").arg("--pin-path").arg(bpf.pin_path()).output().expect("runs")
}

/// How many programs are attached to the wire of `namespace`.
fn attached(namespace: &Namespace) -> usize {
    let (tcx, filters) = hooks::attached(namespace, INTERFACE);
    tcx + filters
}

#[test]
fn detach_removes_what_a_dead_exporter_has_left_and_nothing_of_a_living_one() {
    for mode in ["tcx", "clsact"] {
        let network = Network::new(Offload::Off);
        let bpf = Arc::new(BpfFileSystem::mount());
        let configuration = configuration("web", &format!("attach = \"{mode}\""));
        let mut exporter = Exporter::start_after(&bpf, &network.server, &configuration, &[]);

        let refused = detach(&network.server, &bpf);
        assert_eq!(refused.status.code(), Some(1));
        let message = String::from_utf8_lossy(&refused.stderr);
        assert!(message.contains("another tidewaiter has") && message.contains("stop that one first"), "{message}");
        assert_eq!(attached(&network.server), 2);

        exporter.end(Signal::KILL);
        assert_eq!(attached(&network.server), 2, "{mode}: a crash leaves the programs counting");
        assert_eq!(detach(&network.server, &bpf).status.code(), Some(0));
        assert_eq!((attached(&network.server), bpf.pin_path().exists()), (0, false), "{mode}");

        let again = detach(&network.server, &bpf);
        assert_eq!(again.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&again.stdout).contains("nothing is pinned"));
    }
}

#[test]
fn another_way_of_attaching_does_not_count_twice() {
    let network = Network::new(Offload::Off);
    let bpf = Arc::new(BpfFileSystem::mount());
    let with = |mode: &str| configuration("web", &format!("attach = \"{mode}\""));
    let mut exporter = Exporter::start_after(&bpf, &network.server, &with("clsact"), &[]);
    let before = network.kernel_counters();
    for mode in ["tcx", "clsact"] {
        send(&network, 10);
        exporter.end(Signal::KILL);
        exporter = Exporter::start_after(&bpf, &network.server, &with(mode), &[]);
        assert_eq!(attached(&network.server), 2, "{mode}");
    }
    send(&network, 10);
    let metrics = assert_all_counted(&exporter, &network, before, "web");
    assert_eq!(metrics.api("web", "server", Direction::Receive).packets, 30);
}

#[test]
fn flows_may_get_another_capacity() {
    let network = Network::new(Offload::Off);
    let bpf = Arc::new(BpfFileSystem::mount());
    let with = |capacity: u32| format!("{}[flows]\ncapacity = {capacity}\n", configuration("web", ""));
    let mut exporter = Exporter::start_after(&bpf, &network.server, &with(4096), &[]);
    let before = network.kernel_counters();
    for capacity in [8192, 0, 1024] {
        send(&network, 10);
        exporter.end(Signal::KILL);
        exporter = Exporter::start_after(&bpf, &network.server, &with(capacity), &[]);
        let labels = [("map", "flows")];
        assert_eq!(exporter.metrics().get("tidewaiter_map_capacity", &labels), Some(u64::from(capacity)));
    }
    assert_all_counted(&exporter, &network, before, "web");
}

#[test]
fn without_a_bpf_file_system_it_counts_all_the_same_unless_it_is_to_persist() {
    let namespace = Namespace::new();
    let directory = tempfile::tempdir().expect("a directory");
    let run = |persist: &str| {
        let mut command = namespace.command("timeout");
        command.args(["--signal=TERM", "2"]).arg(binary()).args(["--interface", "lo", "--listen", "127.0.0.1:9473"]);
        command.env("TIDEWAITER_PIN_PATH", directory.path().join("pins")).env("TIDEWAITER_PERSIST", persist);
        let output = command.output().expect("runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (_, log) = run("false");
    assert!(log.contains("is not on a BPF file system") && log.contains("serving metrics"), "{log}");
    let (code, log) = run("true");
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("is not on a BPF file system: mount one (mount -t bpf bpf /sys/fs/bpf)"), "{log}");
    assert!(fs::read_dir(directory.path()).expect("is there").next().is_none());
}
