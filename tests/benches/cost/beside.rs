//! What it costs a host to keep frames out, or to look whether it should, beside what others take for the same: nftables at the
//! ingress of the device, and `xdp-filter` of xdp-tools, which knows single addresses only, and no limits.
//!
//! Frames of 64 bytes are made by XDP and sent over a veth pair, all of it on one CPU and in one thread, and what counts is all CPU
//! time of that: see [`filters`](crate::filters). Each way has a pair of its own, all alike. Whoever drops a frame in XDP saves the
//! kernel what it would do with it: so the wire alone, on which the stack itself drops each frame, can cost more.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::IpAddr,
    path::Path,
    process::Stdio,
    time::Duration,
};

use tidewaiter::kernel::GuardCapacity;
use tidewaiter_tests::{
    bpf::generator::Generator,
    command::{Process, output},
    frames::Offsets,
    guarded::Guarded,
    measure::{kernel_thread, process_cpu_time, quick, stay_on, thread_cpu_time},
    namespace::Namespace,
    network::{INTERFACE, Network},
    servers::are_installed,
};

use crate::{
    guard::{LISTED4, PREFIXES, list},
    live,
    subject::PORT,
};

/// Turns that each way takes.
const ROUNDS: usize = 40;
/// Frames in each turn.
const FRAMES: u32 = 16_384;
/// The CPU that everything happens on.
const CPU: usize = 0;

/// What is measured: what it is called, what is in force for it, who sends, and whether it is dropped.
struct Case {
    what: &'static str,
    ours: &'static str,
    nftables: &'static str,
    sender: IpAddr,
    is_dropped: bool,
}

const LISTED: &str = "from_file = \"PREFIXES\"";
const LISTED_NFTABLES: &str = "ip saddr @bad counter drop; ip6 saddr @bad6 counter drop;";
const CLIENT: IpAddr = Network::CLIENTS[0];

const CASES: [Case; 6] = [
    Case {
        what: "is dropped: its sender is in a list",
        ours: LISTED,
        nftables: LISTED_NFTABLES,
        sender: LISTED4,
        is_dropped: true,
    },
    Case {
        what: "passes: its sender is in none",
        ours: LISTED,
        nftables: LISTED_NFTABLES,
        sender: CLIENT,
        is_dropped: false,
    },
    Case {
        what: "is dropped: above the limit of its API",
        ours: "api = \"any\"\nlimit = { packets_per_second = 1, burst = 64 }",
        nftables: "udp dport PORT limit rate over 1/second burst 64 packets counter drop;",
        sender: CLIENT,
        is_dropped: true,
    },
    Case {
        what: "passes: within the limit of its API",
        ours: "api = \"any\"\nlimit = { packets_per_second = 100000000, burst = 1000000 }",
        nftables: "udp dport PORT limit rate over 100000000/second burst 1000000 packets counter drop;",
        sender: CLIENT,
        is_dropped: false,
    },
    Case {
        what: "is dropped: above the limit of its client",
        ours: "api = \"any\"\nlimit = { packets_per_second = 1, burst = 64, per = \"client\" }",
        nftables: "udp dport PORT update @clients { ip saddr limit rate over 1/second burst 64 packets } counter drop;",
        sender: CLIENT,
        is_dropped: true,
    },
    Case {
        what: "passes: within the limit of its client",
        ours: "api = \"any\"\nlimit = { packets_per_second = 100000000, burst = 1000000, per = \"client\" }",
        nftables: "udp dport PORT update @clients { ip saddr limit rate over 100000000/second burst 1000000 packets } counter drop;",
        sender: CLIENT,
        is_dropped: false,
    },
];

/// Who keeps frames out, each on a wire of its own.
enum Way {
    Nobody(Network),
    /// Without a rule: it counts what comes.
    Counting(Guarded),
    Ours(Guarded),
    Nftables(Network),
    XdpFilter(Network, XdpFilter),
}

impl Way {
    /// All that can be measured here, and their names.
    fn all() -> Vec<(&'static str, Self)> {
        let guarded = |attach| {
            let capacity = GuardCapacity { prefixes: 1 << 21, clients: 65_536 };
            Guarded::on(live::wire(), attach, capacity)
        };
        let mut all = vec![
            ("wire alone", Self::Nobody(live::wire())),
            ("no rules", Self::Counting(guarded("xdp"))),
            ("in XDP", Self::Ours(guarded("xdp"))),
            ("in TC", Self::Ours(guarded("tc"))),
        ];
        // What is missing is said.
        if are_installed(&["nft"]) {
            all.push(("nftables", Self::Nftables(live::wire())));
        } else {
            println!("WITHOUT nftables: install Debian's package nftables to see it");
        }
        if are_installed(&["xdp-filter"]) {
            let network = live::wire();
            let filter = XdpFilter::start(&network.server);
            all.push(("xdp-filter", Self::XdpFilter(network, filter)));
        } else {
            println!("WITHOUT xdp-filter: install Debian's package xdp-tools to see it");
        }
        all
    }

    const fn network(&self) -> &Network {
        match self {
            Self::Nobody(network) | Self::Nftables(network) | Self::XdpFilter(network, _) => network,
            Self::Counting(guarded) | Self::Ours(guarded) => &guarded.network,
        }
    }

    /// Puts `case` in force, whose number is `at`; says whether this way can do it.
    fn apply(&mut self, at: usize, case: &Case, lists: &Lists<'_>) -> bool {
        let api = format!("[[api]]\nname = \"any\"\nports = [{PORT}]\ntransport = [\"tcp\", \"udp\"]\n");
        match self {
            Self::Nobody(_) => {}
            Self::Counting(guarded) => guarded.apply("", &api),
            Self::Ours(guarded) => {
                let ours = case.ours.replace("PREFIXES", &lists.file.display().to_string());
                let head = format!("[[rule]]\nname = \"rule-{at}\"\naction = \"drop\"\nmode = \"enforce\"\n");
                guarded.apply("", &format!("{api}{head}{ours}\n"));
            }
            Self::Nftables(network) => {
                let file = lists.file.with_file_name("rules.nft");
                let rules = case.nftables.replace("PORT", &PORT.to_string());
                let sets = if rules.contains("@bad") { lists.nftables.as_str() } else { "" };
                let text = format!(
                    "flush ruleset\ntable netdev t {{\n{sets}\
                     set clients {{ type ipv4_addr; size 65535; flags dynamic; }}\n\
                     chain c {{ type filter hook ingress device {INTERFACE} priority -500; policy accept; {rules} }}\n}}\n"
                );
                fs::write(&file, text).expect("can be written");
                output(network.server.command("nft").arg("-f").arg(&file));
            }
            Self::XdpFilter(..) => return case.ours == LISTED,
        }
        true
    }

    /// How many frames were dropped since `case`, whose number is `at`, was put in force: by whom else than the stack.
    fn dropped(&mut self, at: usize) -> u64 {
        match self {
            Self::Nobody(_) | Self::Counting(_) => 0,
            Self::Ours(guarded) => guarded.decided(&format!("rule-{at}"), "any").get("drop").copied().unwrap_or(0),
            Self::Nftables(network) => {
                let text = output(network.server.command("nft").args(["list", "chain", "netdev", "t", "c"]));
                let counts = text
                    .split("counter packets ")
                    .skip(1)
                    .map(|rest| rest.split(' ').next().and_then(|count| count.parse::<u64>().ok()).expect("a number"));
                counts.sum()
            }
            Self::XdpFilter(_, filter) => filter.dropped(),
        }
    }
}

/// What is in the list, as each way wants it.
struct Lists<'a> {
    file: &'a Path,
    nftables: String,
}

impl<'a> Lists<'a> {
    fn new(file: &'a Path) -> Self {
        let text = list();
        fs::write(file, &text).expect("can be written");
        let set = |name: &str, kind: &str, is_v6: bool| {
            let some: Vec<_> = text.lines().filter(|line| line.contains(':') == is_v6).collect();
            format!("set {name} {{ type {kind}; flags interval; auto-merge; elements = {{ {} }} }}\n", some.join(", "))
        };
        let nftables = set("bad", "ipv4_addr", false) + &set("bad6", "ipv6_addr", true);
        Self { file, nftables }
    }
}

/// `xdp-filter`, which drops what [`LISTED4`] sends; where it pins, nobody else looks.
struct XdpFilter(Process);

impl XdpFilter {
    fn start(namespace: &Namespace) -> Self {
        let script = format!(
            "mount -t bpf bpf /sys/fs/bpf && xdp-filter load {INTERFACE} --features ipv4 && \
             xdp-filter ip {LISTED4} --mode src && echo ready && exec sleep infinity"
        );
        let mut command = namespace.command("unshare");
        command.args(["--mount", "sh", "-c", &script]).stdout(Stdio::piped());
        let mut process = Process::start(&mut command);
        let said = BufReader::new(process.0.stdout.take().expect("is piped"));
        let is_ready = said.lines().map_while(Result::ok).any(|line| line == "ready");
        assert!(is_ready, "xdp-filter cannot be loaded");
        Self(process)
    }

    fn dropped(&self) -> u64 {
        let mut command = std::process::Command::new("nsenter");
        command.args(["--target", &self.0.0.id().to_string(), "--mount", "--net", "xdp-filter", "status"]);
        let text = output(&mut command);
        let line = text.lines().find_map(|line| line.trim().strip_prefix("XDP_DROP"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).expect("a number")
    }
}

pub(crate) fn print() {
    println!(
        "{PREFIXES} prefixes in the list; nanoseconds of CPU time for each of {FRAMES} frames at a time, sent and received; the \
         figure that a tenth of {ROUNDS} rounds are below, and in brackets what it is above (or below) the wire alone"
    );
    println!(
        "(tidewaiter with no rules, in XDP and in TC also counts what passes, for its API, its interface and its flow; xdp-filter takes \
         single addresses, and has one)"
    );
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("prefixes.txt");
    let lists = Lists::new(&file);
    let mut ways = Way::all();
    let names: Vec<_> = ways.iter().map(|(name, _)| format!("{name:>16}")).collect();
    let names = names.concat();
    println!("\n{:<44}{names}{:>16}", "a frame that", "XDP/nftables");
    for (at, case) in CASES.iter().enumerate() {
        let can: Vec<_> = ways.iter_mut().map(|(_, way)| way.apply(at, case, &lists)).collect();
        let before: Vec<_> = ways.iter_mut().map(|(_, way)| way.dropped(at)).collect();
        let mut rounds = vec![Vec::new(); ways.len()];
        let generators: Vec<_> =
            ways.iter().map(|(_, way)| Generator::one_in(live::index(&way.network().client), 1, PORT, PORT)).collect();
        for _ in 0..ROUNDS {
            for (place, (_, way)) in ways.iter().enumerate().filter(|(place, _)| can[*place]) {
                rounds[place].push(way.network().client.run(|| turn(&generators[place], case.sender)));
            }
        }
        let times: Vec<_> = rounds.iter().map(|rounds| (!rounds.is_empty()).then(|| quick(rounds))).collect();
        let wire = times[0].expect("is measured");
        let figures = times.iter().map(|time| match time {
            Some(time) => format!("{:>16}", format!("{time:.0} ({:+.0})", time - wire)),
            None => format!("{:>16}", "-"),
        });
        let time_of = |wanted: &str| ways.iter().zip(&times).find(|((name, _), _)| *name == wanted)?.1.to_owned();
        let ratio = time_of("in XDP")
            .zip(time_of("nftables"))
            .map_or_else(|| "-".to_owned(), |(ours, nftables)| format!("{:.2}", ours / nftables));
        println!("{:<44}{}{ratio:>16}", case.what, figures.collect::<String>());
        // Whoever has not done it was not measured.
        let all = u64::from(FRAMES) * ROUNDS as u64;
        let expected = if case.is_dropped { all * 9 / 10..=all } else { 0..=0 };
        for (place, (name, way)) in ways.iter_mut().enumerate() {
            let dropped = way.dropped(at) - before[place];
            let drops = matches!(way, Way::Ours(_) | Way::Nftables(_) | Way::XdpFilter(..)) && can[place];
            assert!(!drops || expected.contains(&dropped), "{name} has dropped {dropped} of {all}: {}", case.what);
        }
    }
}

/// Sends frames; answers with nanoseconds for each.
fn turn(generator: &Generator, sender: IpAddr) -> f64 {
    stay_on(CPU);
    let mut frame = live::datagram();
    let IpAddr::V4(sender) = sender else { panic!("{sender} is not of IPv4") };
    frame[Offsets::IPV4.source..][..4].copy_from_slice(&sender.octets());
    let put_off = kernel_thread(&format!("ksoftirqd/{CPU}"));
    let time = || thread_cpu_time() + process_cpu_time(put_off);
    let before = time();
    generator.program.run_live(&frame, FRAMES).expect("is run");
    // What was put off is done by the time that this thread goes on.
    std::thread::sleep(Duration::from_millis(1));
    time().saturating_sub(before).as_secs_f64() * 1e9 / f64::from(FRAMES)
}
