//! What the guard costs a frame, by `BPF_PROG_TEST_RUN`, beside a program of XDP that does nothing; as in [`shapes`](crate::shapes).

use std::{fmt::Write as _, fs, net::IpAddr, path::Path, sync::Arc, time::Duration};

use tidewaiter::{
    accounting::Accounting,
    cli::Overrides,
    config::{ApiSource, AttachMode, Configuration},
    kernel::{FlowCapacity, GuardCapacity, Kernel, LoadOptions},
};
use tidewaiter_common::transport::Transport;
use tidewaiter_tests::{
    frames::{Kind, frame},
    measure::{goal, quick},
    random::Random,
};

use crate::subject::{CLIENT_PORT, CLIENT4, CLIENT6, PORT, SERVER4, SERVER6};

/// Turns that each kind of frame takes.
const ROUNDS: usize = 100;
/// Runs in each turn.
const REPEAT: u32 = 20_000;
/// Prefixes in the list.
pub(crate) const PREFIXES: usize = 100_000;

/// What is measured: what it is called, its rules, who sends the frame, and what that may cost above the no-op.
struct Case {
    what: &'static str,
    rules: &'static str,
    client: IpAddr,
    goal: f64,
}

const CASES: [Case; 8] = [
    Case { what: "passes: no rule is about it", rules: OTHER, client: CLIENT4, goal: 30.0 },
    Case { what: "passes: its sender is in none of the lists", rules: LISTED, client: CLIENT4, goal: 30.0 },
    Case { what: "the same, IPv6", rules: LISTED, client: CLIENT6, goal: 30.0 },
    Case { what: "passes: within the limit of its API", rules: OF_API, client: CLIENT4, goal: 45.0 },
    Case { what: "passes: within the limit of its client", rules: OF_CLIENT, client: CLIENT4, goal: 45.0 },
    Case { what: "is dropped: above the limit of its client", rules: EXCEEDED, client: CLIENT4, goal: 100.0 },
    Case { what: "is dropped: its sender is in a list", rules: LISTED, client: LISTED4, goal: 70.0 },
    Case { what: "the same, IPv6", rules: LISTED, client: LISTED6, goal: 70.0 },
];

pub(crate) const LISTED4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9));
const LISTED6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 9, 9, 0, 0, 0, 9));

const OTHER: &str = r#"
    [[rule]]
    name = "other"
    api = "another"
    action = "drop"
    mode = "enforce"
"#;
const LISTED: &str = r#"
    [[rule]]
    name = "listed"
    from_file = "PREFIXES"
    action = "drop"
    mode = "enforce"
"#;
const OF_API: &str = r#"
    [[rule]]
    name = "limit"
    api = "any"
    limit = { packets_per_second = 1000000000, burst = 1000000000 }
    action = "drop"
    mode = "enforce"
"#;
const OF_CLIENT: &str = r#"
    [[rule]]
    name = "limit"
    api = "any"
    limit = { packets_per_second = 1000000000, burst = 1000000000, per = "client" }
    action = "drop"
    mode = "enforce"
"#;
const EXCEEDED: &str = r#"
    [[rule]]
    name = "limit"
    api = "any"
    limit = { packets_per_second = 1, burst = 64, per = "client" }
    action = "drop"
    mode = "enforce"
"#;

pub(crate) fn print() {
    let directory = tempfile::tempdir().expect("a directory");
    let prefixes = directory.path().join("prefixes.txt");
    fs::write(&prefixes, list()).expect("can be written");
    let mut accounting = accounting();
    println!("{PREFIXES} prefixes in the list; nanoseconds per frame:");
    println!("{:<46}{:>10}{:>18}", "a frame of 154 bytes that", "no-op", "guard_frame");
    let mut goals = Vec::new();
    for Case { what, rules, client, goal } in CASES {
        apply(&mut accounting, directory.path(), &rules.replace("PREFIXES", &prefixes.display().to_string()));
        let server = if client.is_ipv4() { SERVER4 } else { SERVER6 };
        let kind = Kind { transport: Transport::Tcp, options: false, payload: 100 };
        let [noop, guard] = measure(accounting.kernel(), &frame(kind, (client, CLIENT_PORT), (server, PORT)));
        println!("{what:<46}{noop:>10.1}{:>18}", format!("{guard:.1} (+{:.1})", guard - noop));
        goals.push((what, guard - noop, goal));
    }
    for (what, cost, limit) in goals {
        goal(what, cost, limit, "ns above the no-op");
    }
}

fn accounting() -> Accounting {
    let guard = GuardCapacity { prefixes: 1 << 21, clients: 65_536 };
    let flows = FlowCapacity::default();
    let kernel =
        Kernel::load(LoadOptions { flows, guard, ..LoadOptions::default() }).expect("the kernel takes the programs");
    Accounting::new(kernel, AttachMode::Auto, Duration::MAX).expect("it can be read")
}

/// Puts `rules` in force, as a configuration.
fn apply(accounting: &mut Accounting, directory: &Path, rules: &str) {
    let file = directory.join("tidewaiter.toml");
    let apis =
        format!("[[api]]\nname = \"any\"\nports = [{PORT}]\n[[api]]\nname = \"another\"\nports = [{}]\n", PORT + 1);
    fs::write(&file, format!("{apis}{rules}")).expect("can be written");
    let configuration = Configuration::load(Some(&file), &Overrides::default()).expect("is one");
    let ApiSource::Configured(apis) = &configuration.apis else { panic!("there are APIs") };
    accounting.apply_apis(apis).expect("is written");
    accounting.set_guard(Arc::new(configuration.guard)).expect("is put in force");
    accounting.beat().expect("is heard");
}

/// Networks and addresses of both versions, of many lengths, none of them a client's.
pub(crate) fn list() -> String {
    let mut random = Random::new(7);
    let mut text = String::new();
    let lengths = [16, 19, 20, 21, 22, 23, 24, 24, 24, 25, 26, 27, 28, 29, 30, 32, 32, 32, 32, 32];
    for number in 0..PREFIXES - 2 {
        if number % 4 == 3 {
            let length = [29, 32, 40, 44, 48, 56, 64, 128][number / 4 % 8];
            let bits = (u128::from(random.number()) << 64 | u128::from(random.number())) >> 3 | 1 << 125;
            let bits = bits >> (128 - length) << (128 - length);
            writeln!(text, "{}/{length}", std::net::Ipv6Addr::from(bits)).expect("a String takes all");
        } else {
            let length = lengths[number % lengths.len()];
            // From 64.0.0.0 on: far from those of clients.
            let bits = (random.number() as u32) >> 1 | 1 << 30;
            let bits = bits >> (32 - length) << (32 - length);
            writeln!(text, "{}/{length}", std::net::Ipv4Addr::from(bits)).expect("a String takes all");
        }
    }
    text + "203.0.113.0/24\n2001:db8:9::/48\n"
}

/// Nanoseconds per frame of the no-op, and of the guard.
fn measure(kernel: &mut Kernel, frame: &[u8]) -> [f64; 2] {
    let mut rounds: [Vec<f64>; 2] = Default::default();
    for _ in 0..ROUNDS {
        let runs = [kernel.test_run_guard_baseline(frame, REPEAT), kernel.test_run_guard(frame, REPEAT)];
        for (round, run) in rounds.iter_mut().zip(runs) {
            round.push(run.expect("the kernel takes the frame").duration.as_secs_f64() * 1e9);
        }
    }
    rounds.map(|round| quick(&round))
}
