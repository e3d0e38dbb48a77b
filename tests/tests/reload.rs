//! Another configuration in the place of the one in force: all of it or nothing, while traffic passes.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, UdpSocket},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidewaiter::{
    accounting::{Accounting, change::Change},
    anomaly::thresholds::Thresholds,
    api::Transport,
    cli::Overrides,
    config::{Configuration, guard::Guard},
    snapshot::Verdict,
};
use tidewaiter_common::direction::Direction;
use tidewaiter_tests::{
    accounting::account,
    exporter::{ADDRESS, Exporter},
    frames::{Kind, frame},
    namespace::Namespace,
    network::{FrameSocket, INTERFACE, Network, Offload, send_frames},
    wait::wait_until,
};

/// How often another configuration is put in force under traffic, unless that takes too long.
const STORM: u32 = 1000;
/// How long that may take.
const STORM_TIME: Duration = Duration::from_mins(3);

/// What a configuration of these tests has, beside APIs and rules.
const BASE: &str = "interfaces = [\"wire\"]\nwatch = false\n";
const ORDERS: &str = "[[api]]\nname = \"orders\"\nports = [8080]\ntransport = \"udp\"\n";
const SHOP: &str = "[[api]]\nname = \"shop\"\nports = [8081]\ntransport = \"udp\"\n";

/// Two sets of rules, by either of which all that the other host sends to port 8080 is dropped, each by another rule that stands in
/// another place and knows its senders by other prefixes. By parts of both it would pass.
const RULES: [&str; 2] = [
    "
    [[rule]]
    name = \"drop-a\"
    from = [\"10.77.0.0/24\"]
    api = \"orders\"
    action = \"drop\"
    mode = \"enforce\"
    [[rule]]
    name = \"allow-a\"
    from = [\"198.51.100.0/24\"]
    action = \"allow\"
    ",
    "
    [[rule]]
    name = \"allow-b\"
    from = [\"198.51.100.0/25\", \"203.0.113.0/24\"]
    action = \"allow\"
    [[rule]]
    name = \"more-b\"
    from = [\"192.0.2.0/28\"]
    action = \"allow\"
    [[rule]]
    name = \"drop-b\"
    from = [\"10.77.0.2/32\"]
    transport = \"udp\"
    ports = [8080]
    action = \"drop\"
    mode = \"enforce\"
    ",
];

/// Datagrams from the other host to `port`.
fn datagrams(port: u16, count: usize) -> Vec<Vec<u8>> {
    let kind = Kind { transport: Transport::Udp, options: false, payload: 18 };
    let frame = frame(kind, (Network::CLIENT4.into(), 40_000), (Network::SERVER4.into(), port));
    vec![frame; count]
}

/// Has the other host send datagrams to `ports` as fast as it can until `during` is over; answers with how many to each.
fn under_traffic<T>(network: &Network, ports: &[u16], during: impl FnOnce() -> T) -> (T, u64) {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let frames: Vec<_> = ports.iter().flat_map(|port| datagrams(*port, 1)).collect();
            let mut sent = 0;
            network.client.run(|| {
                let socket = FrameSocket::new(INTERFACE).expect("is permitted");
                // It takes all the time that is left, and no other test's.
                rustix::process::nice(10).expect("is permitted");
                while !is_over.load(Ordering::Relaxed) {
                    for frame in &frames {
                        socket.send(frame).expect("is sent");
                    }
                    sent += frames.len() as u64;
                }
            });
            sent
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(during));
        is_over.store(true, Ordering::Relaxed);
        let sent = sending.join().expect("sends");
        (result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)), sent)
    })
}

fn generation(exporter: &Exporter<'_>) -> Option<u64> {
    exporter.metrics().get("tidewaiter_config_generation", &[])
}

fn is_successful(exporter: &Exporter<'_>) -> Option<u64> {
    exporter.metrics().get("tidewaiter_config_last_reload_successful", &[])
}

fn received(exporter: &Exporter<'_>, api: &str) -> u64 {
    exporter.metrics().api(api, "server", Direction::Receive).packets
}

/// Has the exporter read `configuration`, and waits until it has the number `expected`.
fn reload(exporter: &Exporter<'_>, configuration: &str, expected: u64) {
    exporter.configure(configuration);
    exporter.signal(Signal::HUP);
    wait_until("another configuration", || generation(exporter) == Some(expected));
}

/// The events of the audit log at `file` whose names begin with `prefix`.
fn events(file: &Path, prefix: &str) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["event"].as_str().is_some_and(|event| event.starts_with(prefix))).collect()
}

#[test]
fn apis_and_rules_change_under_traffic_and_counters_go_on() {
    let network = Network::new(Offload::Off);
    let with = |parts: &[&str]| format!("{BASE}{}", parts.concat());
    let exporter = Exporter::start(&network.server, &with(&[ORDERS]));
    let sent = under_traffic(&network, &[8080, 8081], || {
        wait_until("some traffic", || received(&exporter, "orders") > 0);
        let before = received(&exporter, "orders");
        reload(&exporter, &with(&[ORDERS, SHOP]), 2);
        wait_until("traffic of the new API", || received(&exporter, "shop") > 0);
        assert!(received(&exporter, "orders") > before, "it went on from where it was");

        let rule = "[[rule]]\nname = \"none\"\napi = \"shop\"\naction = \"drop\"\nmode = \"enforce\"\n";
        reload(&exporter, &with(&[ORDERS, SHOP, rule]), 3);
        let [orders, shop] = ["orders", "shop"].map(|api| received(&exporter, api));
        wait_until("more traffic", || received(&exporter, "orders") > orders + 1000);
        assert_eq!(received(&exporter, "shop"), shop, "nothing of it gets in any more");

        // The rule goes on without the API that has gone.
        let rule =
            "[[rule]]\nname = \"none\"\nports = [8081]\ntransport = \"udp\"\naction = \"drop\"\nmode = \"enforce\"\n";
        reload(&exporter, &with(&[SHOP, rule]), 4);
        let metrics = exporter.metrics();
        assert!(metrics.api("removed", "server", Direction::Receive).packets >= orders, "{metrics}");
        assert_eq!(metrics.get("tidewaiter_api_info", &[]), None);
        assert_eq!(metrics.api("shop", "server", Direction::Receive).packets, shop);
    });
    assert!(sent.1 > 0);
    network.wait_until_quiet();
    let metrics = exporter.metrics();
    metrics.assert_the_sums_prove_it();
    assert!(metrics.api("removed", "server", Direction::Receive).packets > 0);
}

#[test]
fn what_is_refused_changes_nothing_and_shows() {
    let (namespace, folder) = (Namespace::new(), TempDir::new().unwrap());
    let audit = folder.path().join("audit.jsonl");
    let configuration = |more: &str| {
        let audit = audit.display();
        format!("interfaces = [\"lo\"]\nwatch = false\n{more}\n{ORDERS}[audit]\nfile = \"{audit}\"\n")
    };
    let exporter = Exporter::start(&namespace, &configuration(""));
    assert_eq!((generation(&exporter), is_successful(&exporter)), (Some(1), Some(1)));
    let time =
        |exporter: &Exporter<'_>| exporter.metrics().0["tidewaiter_config_last_reload_success_timestamp_seconds"];
    let started = time(&exporter);

    // A mistake, what needs a restart, and an interface that is not there.
    let refused = [
        (configuration("listne = 1"), "listne: unknown key"),
        (configuration("persist = true\npin_path = \"/a\"\n[flows]\ncapacity = 20000"), "persist"),
        (configuration("").replace("\"lo\"", "\"eth77\""), "eth77"),
    ];
    for (number, (text, reason)) in refused.iter().enumerate() {
        exporter.configure(text);
        exporter.signal(Signal::HUP);
        let name = "tidewaiter.configuration.refused";
        wait_until("the refusal to be written", || events(&audit, name).len() > number);
        let event = &events(&audit, name)[number];
        assert_eq!(event["by"], "signal");
        assert!(event["reason"].as_str().unwrap().contains(reason), "{event}");
        assert!(exporter.log().contains(reason));
        let stands = (generation(&exporter), is_successful(&exporter));
        assert_eq!(stands, (Some(1), Some(0)), "{text}");
        assert!((time(&exporter) - started).abs() < f64::EPSILON);
    }
    // The environment says where it is pinned, so that has not changed.
    let log = exporter.log();
    assert!(log.contains("a restart is needed for a change of: flows.capacity, persist"), "{log}");
    assert_eq!(exporter.metrics().get("tidewaiter_api_info", &[]), None);

    // What is in force, again; and then another one.
    exporter.configure(&configuration(""));
    exporter.signal(Signal::HUP);
    wait_until("all to be well", || is_successful(&exporter) == Some(1));
    assert_eq!(generation(&exporter), Some(1));
    assert!(time(&exporter) > started);
    reload(&exporter, &configuration(&format!("{SHOP}expect = [\"dns\"]")), 2);
    let name = "tidewaiter.configuration.changed";
    wait_until("the change to be written", || events(&audit, name).len() == 1);
    let event = &events(&audit, name)[0];
    assert_eq!((&event["by"], &event["generation"]), (&json!("signal"), &json!(2)), "{event}");
    let difference = event["difference"].as_array().unwrap();
    assert!(difference.contains(&json!("api.shop.name: none -> \"shop\"")), "{event}");
    let started = &events(&audit, "tidewaiter.started")[0];
    assert_eq!(event["configuration_before"], started["configuration"], "{event}");
    assert_ne!(event["configuration"], started["configuration"]);
}

#[test]
fn files_are_read_when_they_have_changed() {
    let (namespace, folder) = (Namespace::new(), TempDir::new().unwrap());
    let list = folder.path().join("list");
    fs::write(&list, "192.0.2.1\n").unwrap();
    let configuration = |more: &str| {
        let list = list.display();
        format!(
            "interfaces = [\"lo\"]\n{more}\n[[rule]]\nname = \"list\"\nfrom_file = \"{list}\"\naction = \"drop\"\n{ORDERS}"
        )
    };
    let exporter = Exporter::start(&namespace, &configuration(""));
    exporter.configure(&configuration("[log]\nlevel = \"debug\""));
    wait_until("the change to be seen", || generation(&exporter) == Some(2));
    // Another file that says the same is told to those who want to know all.
    exporter.configure(&(configuration("[log]\nlevel = \"debug\"") + "# the same\n"));
    wait_until("more to be logged", || exporter.log().contains("DEBUG"));

    // A link that leads to another folder, as Kubernetes has it.
    let directory = exporter.file().parent().unwrap().to_owned();
    for name in ["one", "two"] {
        fs::create_dir(directory.join(name)).unwrap();
        let level = if name == "one" { "debug" } else { "info" };
        let text = configuration(&format!("[log]\nlevel = \"{level}\""));
        fs::write(directory.join(name).join("tidewaiter.toml"), text).unwrap();
    }
    let lead_to = |name: &str| {
        symlink(name, directory.join("next")).unwrap();
        fs::rename(directory.join("next"), directory.join("data")).unwrap();
    };
    lead_to("one");
    symlink("data/tidewaiter.toml", directory.join("link")).unwrap();
    fs::rename(directory.join("link"), exporter.file()).unwrap();
    lead_to("two");
    wait_until("the swap to be seen", || generation(&exporter) == Some(3));

    // What a rule takes from a file; and a line that is none.
    fs::write(&list, "192.0.2.1\n192.0.2.2\n").unwrap();
    wait_until("the list to be seen", || generation(&exporter) == Some(4));
    fs::write(&list, "192.0.2.1\nten\n").unwrap();
    wait_until("the mistake to be seen", || is_successful(&exporter) == Some(0));
    let place = format!("{}:2", list.display());
    assert!(exporter.log().contains(&place), "{}", exporter.log());
    assert_eq!(generation(&exporter), Some(4));
    fs::write(&list, "192.0.2.3\n").unwrap();
    wait_until("the end of it to be seen", || generation(&exporter) == Some(5));
    assert_eq!(is_successful(&exporter), Some(1));
}

#[test]
fn who_has_the_token_can_ask_for_it() {
    let (namespace, folder) = (Namespace::new(), TempDir::new().unwrap());
    let token = folder.path().join("token");
    fs::write(&token, "0123456789abcdef\n").unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let configuration = |more: &str| {
        let token = token.display();
        format!("interfaces = [\"lo\"]\nwatch = false\napi_token_file = \"{token}\"\n{more}{ORDERS}")
    };
    let exporter = Exporter::start(&namespace, &configuration(""));
    let ask = |arguments: &[&str]| {
        let mut curl = namespace.command("curl");
        curl.args(["-s", "--max-time", "20", "-w", "\n%{http_code}"]).args(arguments);
        let output = curl.arg(format!("http://{ADDRESS}/-/reload")).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        let body = if body.is_empty() { Value::Null } else { serde_json::from_str(body).unwrap() };
        (status.parse::<u16>().unwrap(), body)
    };
    let right = ["-X", "POST", "-H", "Authorization: Bearer 0123456789abcdef"];
    exporter.configure(&configuration("[flows]\nclients = 3\n").replace("orders", "shop"));
    for wrong in [&["-X", "POST"][..], &["-X", "POST", "-H", "Authorization: Bearer 0123456789abcdeg"]] {
        assert_eq!(ask(wrong), (401, Value::Null));
    }
    assert_eq!((generation(&exporter), is_successful(&exporter)), (Some(1), Some(1)), "nobody has read it");
    assert_eq!(ask(&right[2..]).0, 405);

    let (status, body) = ask(&right);
    assert_eq!(status, 400);
    assert_eq!(body, json!({ "error": "a restart is needed for a change of: flows.clients" }));
    exporter.configure(&configuration("").replace("orders", "shop"));
    let (status, body) = ask(&right);
    assert_eq!((status, &body["generation"]), (200, &json!(2)));
    let difference: Vec<_> = body["difference"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert!(difference.contains(&"api.orders.name: \"orders\" -> none"), "{difference:?}");
    assert!(difference.contains(&"api.shop.name: none -> \"shop\""), "{difference:?}");
    assert!(difference.iter().all(|line| line.starts_with("api.")), "{difference:?}");
    let (status, again) = ask(&right);
    assert_eq!((status, &again["generation"], &again["hash"]), (200, &json!(2), &body["hash"]));
    assert_eq!(again["difference"], json!([]), "nothing has changed");
    assert_eq!(generation(&exporter), Some(2));

    // The last API is gone: the sockets cannot be looked for any more.
    exporter.configure(&configuration("").replace(ORDERS, ""));
    let (status, body) = ask(&right);
    assert_eq!(status, 400);
    assert!(body["error"].as_str().unwrap().contains("api (none is left"), "{body}");
}

/// The guard of a configuration with `rules`, which is written to `folder`.
fn guard(folder: &Path, rules: &str) -> Guard {
    let file = folder.join("tidewaiter.toml");
    fs::write(&file, format!("{BASE}{ORDERS}{rules}")).unwrap();
    Configuration::load(Some(&file), &Overrides::default()).expect("is right").guard
}

/// Makes `guard` what `accounting`, in `namespace`, has in force. Answers with how long that took: to work out the tables, and to
/// put them in force.
fn change_rules(accounting: &mut Accounting, namespace: &Namespace, guard: &Guard) -> [Duration; 2] {
    namespace.run(|| {
        let began = Instant::now();
        let (draft, apis) = accounting.draft().expect("can be had");
        let rules = draft.compile(guard.clone().into(), &apis).expect("there is room");
        let worked_out = began.elapsed();
        accounting.apply(Change { apis: None, rules, thresholds: Thresholds::default() }).expect("is written");
        [worked_out, began.elapsed().saturating_sub(worked_out)]
    })
}

/// How many packets the rule "slow" has let pass, and how many it has dropped.
fn decided(accounting: &mut Accounting) -> [u64; 2] {
    let guard = accounting.snapshot().guard.expect("there is one");
    let pair = guard.pairs.iter().find(|pair| &*pair.rule == "slow").expect("is in force");
    [Verdict::Pass, Verdict::Drop].map(|verdict| pair.packets[verdict as usize])
}

#[test]
fn what_is_left_of_a_limit_stays_with_its_rule() {
    let network = Network::new(Offload::Off);
    let folder = TempDir::new().unwrap();
    // Nothing comes back within the test: one packet in a quarter of an hour.
    let slow = |per: &str| {
        let limit = format!("{{ packets_per_second = 0.001, burst = 64, per = \"{per}\" }}");
        let head = "[[rule]]\nname = \"slow\"\napi = \"orders\"\naction = \"drop\"\nmode = \"enforce\"\n";
        format!("{head}limit = {limit}\n")
    };
    let other = "[[rule]]\nname = \"other\"\nfrom = [\"192.0.2.0/24\"]\naction = \"allow\"\n";
    for per in ["api", "client"] {
        let mut accounting = account(&network.server, INTERFACE, 4096, Duration::MAX);
        let send = || network.client.run(|| send_frames(INTERFACE, &datagrams(8080, 100), 1)).expect("is sent");
        let force = |accounting: &mut Accounting, rules: &str| {
            change_rules(accounting, &network.server, &guard(folder.path(), rules));
        };
        force(&mut accounting, &slow(per));
        send();
        wait_until("all to be judged", || decided(&mut accounting).iter().sum::<u64>() == 100);
        let [passed, dropped] = decided(&mut accounting);
        assert!(passed >= 64 && dropped > 0, "per {per}: {passed} passed, {dropped} were dropped");

        // In another place, among others.
        force(&mut accounting, &format!("{other}{}", slow(per)));
        assert_eq!(decided(&mut accounting), [passed, dropped], "per {per}: counters go on");
        send();
        wait_until("all to be judged", || decided(&mut accounting).iter().sum::<u64>() == 200);
        assert_eq!(decided(&mut accounting), [passed, dropped + 100], "per {per}: nothing was left of the limit");

        // One by another name begins with all of it.
        force(&mut accounting, &slow(per).replace("slow", "new"));
        send();
        wait_until("all to be judged", || {
            let guard = accounting.snapshot().guard.expect("there is one");
            let pair = guard.pairs.iter().find(|pair| &*pair.rule == "new").expect("is in force");
            pair.packets[Verdict::Pass as usize] == passed
        });
    }
}

/// How many packets were dropped by each rule; nothing else may have been decided.
fn dropped(accounting: &mut Accounting) -> BTreeMap<String, u64> {
    let guard = accounting.snapshot().guard.expect("there is one");
    let mut dropped = BTreeMap::new();
    for pair in guard.pairs {
        for (&verdict, packets) in Verdict::ALL.iter().zip(pair.packets) {
            assert!(verdict == Verdict::Drop || packets == 0, "{}: {packets} {}", pair.rule, verdict.as_str());
        }
        *dropped.entry(pair.rule.to_string()).or_default() += pair.packets[Verdict::Drop as usize];
    }
    dropped
}

#[test]
fn no_packet_is_judged_by_a_mixture_of_rules() {
    let network = Network::new(Offload::Off);
    let folder = TempDir::new().unwrap();
    let guards = RULES.map(|rules| guard(folder.path(), rules));
    let mut accounting = account(&network.server, INTERFACE, 4096, Duration::MAX);
    let put_in_force = |accounting: &mut Accounting, generation: u32| {
        change_rules(accounting, &network.server, &guards[generation as usize % 2])
    };
    put_in_force(&mut accounting, 0);
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    let mut note = |accounting: &mut Accounting| {
        for (rule, packets) in dropped(accounting) {
            let before = counted.insert(rule.clone(), packets).unwrap_or_default();
            assert!(packets >= before, "{rule} went back from {before} to {packets}");
        }
        counted.clone()
    };
    let (times, sent) = under_traffic(&network, &[8080], || {
        let began = Instant::now();
        let mut times = 0;
        let mut took = [Duration::ZERO; 2];
        while times < STORM && began.elapsed() < STORM_TIME {
            times += 1;
            let parts = put_in_force(&mut accounting, times);
            took.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
            note(&mut accounting);
        }
        let [working_out, putting_in_force] = took.map(|sum| sum / times);
        let all = began.elapsed() / times;
        println!(
            "each took {working_out:?} to work out and {putting_in_force:?} to put in force, and with what is read {all:?}"
        );
        times
    });
    // What a device has no room for was sent, but not received.
    let lost = network.client.link(INTERFACE)["stats64"]["tx"]["dropped"].as_u64().expect("a number");
    let mut ended = BTreeMap::new();
    for generation in [times + 1, times + 2] {
        put_in_force(&mut accounting, generation);
        ended = note(&mut accounting);
    }
    println!("{times} reloads, {sent} datagrams, {lost} lost by the device, {ended:?}");
    assert!(times >= 20, "only {times} reloads");
    let (a, b) = (ended["drop-a"], ended["drop-b"]);
    assert!(a > 0 && b > 0, "both were in force: {a}, {b}");
    assert_eq!(a + b + lost, sent, "each was dropped by one of them");
    let snapshot = accounting.snapshot();
    let orders = snapshot.apis.iter().find(|api| api.name == "orders").expect("is counted");
    let received = orders.counters.wire[Direction::Receive.index()].packets;
    assert_eq!(received, 0, "none came through");
}

#[test]
fn signals_under_full_traffic_let_nothing_through() {
    let network = Network::new(Offload::Off);
    let configuration = |generation: u64| format!("{BASE}{ORDERS}{}", RULES[generation as usize % 2]);
    let exporter = Exporter::start(&network.server, &configuration(0));
    let socket = network.server.run(|| UdpSocket::bind((IpAddr::from(Network::SERVER4), 8080)).expect("is free"));
    socket.set_nonblocking(true).unwrap();
    let ((), sent) = under_traffic(&network, &[8080], || {
        for times in 1..=30 {
            reload(&exporter, &configuration(times), times + 1);
        }
    });
    assert!(sent > 0);
    network.wait_until_quiet();
    assert_eq!(received(&exporter, "orders"), 0);
    assert!(socket.recv(&mut [0; 64]).is_err());
    // It would have come through, if it were not for the rules.
    reload(&exporter, &format!("{BASE}{ORDERS}"), 32);
    let to_it = |frame: &mut Vec<u8>| {
        let address = network.server.link(INTERFACE)["address"].as_str().unwrap().to_owned();
        let bytes: Vec<_> = address.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        frame[..6].copy_from_slice(&bytes);
    };
    let mut frames = datagrams(8080, 1);
    frames.iter_mut().for_each(to_it);
    network.client.run(|| send_frames(INTERFACE, &frames, 1)).unwrap();
    wait_until("one to come through", || socket.recv(&mut [0; 64]).is_ok());
    assert_eq!(received(&exporter, "orders"), 1);
}
