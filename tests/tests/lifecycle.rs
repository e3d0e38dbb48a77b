//! From start to end: permissions, the port, signals, and what is left behind.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Output},
    sync::Arc,
};

use rustix::process::Signal;
use tidewaiter_tests::{
    bpf_file_system::BpfFileSystem,
    command::{Process, output},
    corpus::say,
    exporter::{ADDRESS, Exporter, binary},
    hooks,
    namespace::Namespace,
    wait::wait_until,
};

/// How programs are attached, and what that looks like: programs by TCX, and TC filters.
const MODES: [(&str, (usize, usize)); 3] = [("auto", (2, 0)), ("tcx", (2, 0)), ("clsact", (0, 2))];

fn configuration(mode: &str) -> String {
    format!("interfaces = [\"lo\"]\nattach = \"{mode}\"\n[[api]]\nname = \"web\"\nports = [80]\n")
}

/// Ids of all programs that the kernel has.
fn loaded() -> BTreeSet<u64> {
    let programs = output(Command::new("bpftool").args(["--json", "prog", "show"]));
    let programs: serde_json::Value = serde_json::from_str(&programs).expect("JSON");
    programs.as_array().expect("a list").iter().map(|program| program["id"].as_u64().expect("a number")).collect()
}

/// Ids of the programs that a running exporter has loaded.
fn loaded_by(exporter: &Exporter<'_>) -> BTreeSet<u64> {
    let files = fs::read_dir(format!("/proc/{}/fdinfo", exporter.pid())).expect("is running");
    files
        .filter_map(|file| fs::read_to_string(file.ok()?.path()).ok())
        .filter_map(|text| text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok()))
        .collect()
}

/// How many programs are attached to `lo` of `namespace`, by TCX and as TC filters.
fn attached(namespace: &Namespace) -> (usize, usize) {
    hooks::attached(namespace, "lo")
}

#[test]
fn nothing_is_left_after_a_signal_to_end() {
    for (mode, expected) in MODES {
        for signal in [Signal::TERM, Signal::INT] {
            let namespace = Namespace::new();
            let mut exporter = Exporter::start(&namespace, &configuration(mode));
            let programs = loaded_by(&exporter);
            // Both that are attached to the interface, three at tracepoints, two that they end in, the one that finishes
            // flows, the clock, and eight of the guard.
            assert_eq!((programs.len(), attached(&namespace)), (16, expected), "{mode}");
            assert!(programs.is_subset(&loaded()));

            let status = exporter.end(signal);
            assert_eq!(status.code(), Some(0), "{mode}, {signal:?}");
            assert_eq!(attached(&namespace), (0, 0), "{mode}, {signal:?}");
            // The kernel frees programs a moment after their last user is gone.
            wait_until("the programs to be gone", || programs.is_disjoint(&loaded()));
        }
    }
}

#[test]
fn after_a_kill_a_restart_works_at_once_with_one_program_for_each_hook() {
    for (mode, expected) in MODES {
        let namespace = Namespace::new();
        let bpf = Arc::new(BpfFileSystem::mount());
        let start = || Exporter::start_after(&bpf, &namespace, &configuration(mode), &[]);
        for _ in 0..3 {
            let mut exporter = start();
            assert_eq!(attached(&namespace), expected, "{mode}");
            exporter.end(Signal::KILL);
        }
        let mut exporter = start();
        assert_eq!(attached(&namespace), expected, "{mode}");
        exporter.end(Signal::TERM);
        assert_eq!(attached(&namespace), (0, 0), "{mode}");
    }
}

#[test]
fn two_exporters_share_the_hooks_if_each_has_pins_of_its_own() {
    for (mode, both, one) in [("tcx", (4, 0), (2, 0)), ("clsact", (0, 4), (0, 2))] {
        let namespace = Namespace::new();
        let bpf = BpfFileSystem::mount();
        let mut first = Exporter::start(&namespace, &configuration(mode));
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("second.toml");
        fs::write(&file, configuration(mode)).expect("can be written");
        let another = |address: &str| {
            let mut command = namespace.command(binary());
            command.args(["--listen", address, "--config"]).arg(&file).env("TIDEWAITER_PIN_PATH", bpf.pin_path());
            command
        };
        let second = Process::start(&mut another("127.0.0.1:9474"));
        wait_until("both to be attached", || attached(&namespace) == both);
        // With the pins of another it would take his programs for its own.
        let third = another("127.0.0.1:9475").output().expect("runs");
        let message = String::from_utf8_lossy(&third.stderr);
        assert_eq!(third.status.code(), Some(1), "{message}");
        assert!(message.contains("give this one a pin_path of its own"), "{message}");

        first.end(Signal::TERM);
        assert_eq!(attached(&namespace), one, "the other one's programs stay");
        drop(second);
        assert_eq!(attached(&namespace), (0, 0));
    }
}

#[test]
fn a_taken_port_is_said_and_nothing_is_attached() {
    let namespace = Namespace::new();
    let taken = namespace.run(|| TcpListener::bind(ADDRESS)).expect("is free");
    let result = namespace.command(binary()).args(["--listen", ADDRESS]).output().expect("runs");
    assert_eq!(result.status.code(), Some(1));
    let message = String::from_utf8_lossy(&result.stderr);
    assert!(message.contains(&format!("cannot listen on {ADDRESS}: Address already in use")), "{message}");
    assert_eq!(attached(&namespace), (0, 0));
    drop(taken);
}

#[test]
fn a_bad_configuration_is_refused_before_anything_is_attached() {
    let namespace = Namespace::new();
    let result = namespace.command(binary()).args(["--interface", "nosuch0"]).output().expect("runs");
    assert_eq!(result.status.code(), Some(78));
    let message = String::from_utf8_lossy(&result.stderr);
    assert!(message.contains("found \"nosuch0\", which matches no interface, expected some of lo"), "{message}");
    assert_eq!(attached(&namespace), (0, 0));
}

/// Capabilities by number (`include/uapi/linux/capability.h`).
mod capability {
    pub(super) const DAC_READ_SEARCH: u32 = 2;
    pub(super) const NET_ADMIN: u32 = 12;
    pub(super) const SYS_PTRACE: u32 = 19;
    pub(super) const BPF: u32 = 39;
}

/// The capability sets of each thread of the process `pid`: inheritable, permitted, effective, bounding, ambient.
fn capabilities(pid: u32) -> Vec<Vec<u64>> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("is running");
    let sets = |status: String| {
        let sets = status.lines().filter(|line| line.starts_with("Cap"));
        sets.map(|line| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()).collect()
    };
    threads.map(|thread| sets(fs::read_to_string(thread.unwrap().path().join("status")).unwrap())).collect()
}

#[test]
fn only_the_capabilities_that_are_needed_are_kept() {
    let namespace = Namespace::new();
    // Without a configured API, a second process looks at other processes.
    let exporter = Exporter::start(&namespace, "interfaces = [\"lo\"]");
    let set = |capabilities: [u32; 2]| capabilities.iter().fold(0_u64, |set, bit| set | 1 << bit);
    let kept = set([capability::NET_ADMIN, capability::BPF]);
    let _scraped = exporter.metrics();
    for thread in capabilities(exporter.pid()) {
        assert_eq!(thread, [0, kept, kept, kept, 0]);
    }
    let pid = exporter.pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("is running");
    let helper: u32 = children.trim().parse().expect("one child");
    let kept = set([capability::DAC_READ_SEARCH, capability::SYS_PTRACE]);
    assert_eq!(capabilities(helper), [[0, kept, kept, kept, 0]]);
    // It does not outlive the daemon, however that ends.
    drop(exporter);
    wait_until("the helper to end", || {
        let status = fs::read_to_string(format!("/proc/{helper}/status")).unwrap_or_default();
        status.is_empty() || status.contains("State:\tZ")
    });
}

/// Runs the exporter in `namespace` with `arguments` as user "nobody" with `granted` capabilities and no others, until it ends.
fn run_as_nobody(namespace: &Namespace, granted: &str, arguments: &[&str]) -> Output {
    // "nobody" may not look into the build directory.
    let directory = tempfile::tempdir_in("/tmp").expect("a directory");
    let copy = directory.path().join("tidewaiter");
    fs::copy(binary(), &copy).expect("can be copied");
    output(Command::new("chmod").args(["-R", "a+rX"]).arg(directory.path()));
    let mut command = namespace.command("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--inh-caps", granted]);
    command.args(["--ambient-caps", granted, "timeout", "--signal=TERM", "2"]);
    command.arg(&copy).args(arguments).output().expect("runs")
}

/// Arguments to account `lo`.
const RUN: [&str; 4] = ["--interface", "lo", "--listen", ADDRESS];

#[test]
fn missing_capabilities_are_named_with_the_command_that_grants_them() {
    let namespace = Namespace::new();
    for (granted, missing) in [
        ("-all", "missing CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON: "),
        ("+bpf,+perfmon", "missing CAP_NET_ADMIN: "),
        ("+bpf,+net_admin", "missing CAP_PERFMON: "),
        ("+net_admin,+perfmon", "missing CAP_BPF: "),
    ] {
        let result = run_as_nobody(&namespace, granted, &RUN);
        let message = String::from_utf8_lossy(&result.stderr);
        assert_eq!(result.status.code(), Some(77), "{granted}: {message}");
        let advice = "run as root, or grant it: setcap cap_bpf,cap_net_admin,cap_perfmon+ep /";
        assert!(message.contains(&format!("{missing}{advice}")), "{granted}: {message}");
    }
}

#[test]
fn the_named_capabilities_are_enough() {
    let namespace = Namespace::new();
    let result = run_as_nobody(&namespace, "+bpf,+net_admin,+perfmon", &RUN);
    let message = String::from_utf8_lossy(&result.stderr);
    // `timeout` ends it with SIGTERM, which it answers with an orderly end.
    assert!(message.contains("serving metrics") && message.contains("stopping"), "{message}");
    assert_eq!(attached(&namespace), (0, 0));
}

#[test]
fn the_doctor_says_what_is_there_and_what_is_missing() {
    let namespace = Namespace::new();
    let subjects = [
        "kernel",
        "TC programs",
        "TCX",
        "XDP programs",
        "ring buffer",
        "BTF",
        "BPF file system",
        "retransmissions",
        "drops",
        "CAP_BPF",
        "CAP_NET_ADMIN",
        "CAP_PERFMON",
        "CAP_SYS_PTRACE",
        "CAP_DAC_READ_SEARCH",
        "coverage lo",
        "coverage ship",
        "guard lo",
        "guard ship",
        "control socket",
        "pin path",
    ];
    namespace.ip("link add ship type veth peer name boat");
    for command in ["link set boat up", "link set ship up", "address add 10.77.0.1/24 dev ship"] {
        namespace.ip(command);
    }
    namespace.ip("route add default via 10.77.0.2");
    let verdict = |report: &str, subject: &str| {
        let lines = report.lines().filter(|line| line.get(9..33).is_some_and(|field| field.trim_end() == subject));
        let verdicts: Vec<_> = lines.map(|line| line[..8].trim_end().to_owned()).collect();
        assert_eq!(verdicts.len(), 1, "{subject} in {report}");
        verdicts[0].clone()
    };

    let result = namespace.command(binary()).arg("doctor").output().expect("runs");
    let report = String::from_utf8(result.stdout).expect("is text");
    assert_eq!(result.status.code(), Some(0), "{report}");
    for subject in subjects {
        let verdict = verdict(&report, subject);
        // Not every machine has the BPF file system mounted.
        assert!(verdict == "ok" || ["BPF file system", "pin path"].contains(&subject), "{report}");
    }
    assert_eq!(report.lines().count(), subjects.len());
    let covered = |name| format!("ok       {:<24} receive: buffers, transmit: buffers\n", format!("coverage {name}"));
    assert!(report.contains(&covered("lo")) && report.contains(&covered("ship")), "{report}");

    let place = |name, text| report.contains(&format!("ok       {:<24} {text}", format!("guard {name}")));
    assert!(place("lo", "in TC: ") && place("ship", "by XDP; in TC while a rule rejects"), "{report}");

    // What merges packets after they were counted, and takes some super-packets and not others.
    output(namespace.command("ethtool").args(["-K", "ship", "gro", "on", "tx-udp-segmentation", "off"]));
    let result = namespace.command(binary()).arg("doctor").output().expect("runs");
    let report = String::from_utf8(result.stdout).expect("is text");
    assert_eq!((result.status.code(), verdict(&report, "coverage ship")), (Some(0), "lacking".to_owned()), "{report}");
    for advice in ["(to know: ethtool -K ship rx-gro off)", "(to know: ethtool -K ship tx-udp-segmentation on)"] {
        assert!(report.contains(advice), "{report}");
    }

    let result = run_as_nobody(&namespace, "-all", &["doctor"]);
    let report = String::from_utf8(result.stdout).expect("is text");
    assert_eq!(result.status.code(), Some(1), "{report}");
    assert_eq!(verdict(&report, "kernel"), "ok");
    assert_eq!(verdict(&report, "CAP_BPF"), "MISSING");
    assert_eq!(verdict(&report, "CAP_SYS_PTRACE"), "lacking");
    // The folders are root's.
    assert_eq!(verdict(&report, "control socket"), "lacking", "{report}");
    assert_eq!(verdict(&report, "coverage lo"), "ok", "anybody may ask what a device is");
    assert!(report.contains("run as root, or grant it: setcap cap_bpf,cap_net_admin,cap_perfmon+ep /"), "{report}");
}

#[test]
fn a_hang_up_does_not_end_it() {
    let namespace = Namespace::new();
    let exporter = Exporter::start(&namespace, &configuration("auto"));
    exporter.signal(Signal::HUP);
    wait_until("an answer", || exporter.log().contains("the configuration is what it was: nothing changes"));
    assert_eq!(exporter.status("/healthz"), Some(200));
}

/// The unit for systemd, with the program where it is now.
fn unit() -> String {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/tidewaiter.service");
    let unit = fs::read_to_string(unit).expect("is there");
    unit.replace("/usr/local/bin/tidewaiter", binary().to_str().expect("is text"))
}

#[test]
fn systemd_understands_the_unit() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        say("SKIP: systemd-analyze is not installed");
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("tidewaiter.service");
    fs::write(&file, unit()).expect("can be written");
    let result = Command::new("systemd-analyze").arg("verify").arg(&file).output().expect("runs");
    let words = String::from_utf8_lossy(&result.stderr);
    // It looks at other units of the machine too.
    let ours: Vec<_> = words.lines().filter(|line| line.contains("tidewaiter")).collect();
    assert!(result.status.success() && ours.is_empty(), "{words}");
}

#[test]
fn the_capabilities_of_the_unit_are_enough_to_persist() {
    let namespace = Namespace::new();
    let bpf = BpfFileSystem::mount();
    let unit = unit();
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("a line");
    let names = line.split_whitespace().map(|name| name.trim_start_matches("CAP_").to_lowercase());
    let bounding = names.fold("-all".to_owned(), |set, name| format!("{set},+{name}"));
    let mut command = namespace.command("setpriv");
    command.args(["--bounding-set", &bounding, "--inh-caps=-all", "timeout", "--signal=TERM", "2"]);
    command.arg(binary()).args(RUN).env("TIDEWAITER_PIN_PATH", bpf.pin_path()).env("TIDEWAITER_PERSIST", "true");
    let output = command.output().expect("runs");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("serving metrics") && message.contains("the programs stay attached"), "{message}");
    assert!(!message.contains("WARN") && !message.contains("ERROR"), "{message}");
    assert_eq!(attached(&namespace), (2, 0), "{message}");
}
