//! Configuration of the guard: what each mistake is told as, and what good ones resolve to.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests panic for a stack trace")]

mod check;

use std::{collections::BTreeSet, fs, path::Path, process::Command, time::Duration};

use ipnet::IpNet;
use tempfile::TempDir;
use tidewaiter::{
    api::Transport,
    cli::Overrides,
    config::{
        Configuration,
        guard::{ApiMatch, Condition, Guard, GuardAttach, Per},
    },
};
use tidewaiter_common::{
    anomaly::AnomalyKind,
    guard::{Action, Unit, Verdict},
};

use self::check::{NONE, check};

/// Ten lines of APIs, before what is tried.
const APIS: &str = r#"[[api]]
name = "web"
ports = [80]
[[api]]
name = "orders"
ports = [8080]
[[api]]
name = "database"
ports = [5432]
role = "client"
"#;

/// Loads `contents` from a file beside which there are `files`. The folder is called FOLDER in problems, the file FILE.
fn load(contents: &str, files: &[(&str, &str)]) -> Result<Configuration, String> {
    let folder = TempDir::new().unwrap();
    for (name, contents) in files {
        fs::write(folder.path().join(name), contents).unwrap();
    }
    let path = folder.path().join("tidewaiter.toml");
    let shown = folder.path().display().to_string();
    fs::write(&path, contents.replace("FOLDER", &shown)).unwrap();
    Configuration::load(Some(&path), &Overrides::default()).map_err(|error| {
        let problems = format!("{:#}", anyhow::Error::from(error));
        problems.replace(&path.display().to_string(), "FILE").replace(&shown, "FOLDER")
    })
}

fn guard(contents: &str) -> Guard {
    load(&format!("{APIS}{contents}"), &[]).unwrap_or_else(|problems| panic!("{contents}\n{problems}")).guard
}

/// Sees that each of these lines, behind the APIs, is refused with these problems.
#[track_caller]
fn assert_refused(cases: &[(&str, &str)]) {
    for (lines, expected) in cases {
        assert_eq!(load(&format!("{APIS}{lines}"), &[]).err().unwrap_or_default(), *expected, "{lines}");
    }
}

/// As [`assert_refused`], for lines of a rule whose name is in the twelfth line, and which drops unless they say otherwise.
#[track_caller]
fn assert_rule_refused(cases: &[(&str, &str)]) {
    for (lines, expected) in cases {
        let action = if lines.contains("action") { "" } else { "\naction = \"drop\"" };
        let contents = format!("{APIS}[[rule]]\nname = \"r\"\n{lines}{action}");
        assert_eq!(load(&contents, &[]).err().unwrap_or_default(), *expected, "{lines}");
    }
}

fn networks(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_guard_that_cannot_be_kept_is_refused() {
    assert_refused(&[
        ("[guard]\nhold = \"1s\"", "FILE:12: guard.hold: found \"1s\", expected at least \"5s\""),
        ("[guard]\nclients = 10", "FILE:12: guard.clients: found 10, expected 1024 to 4194304"),
        ("[guard]\nclients = -1", "FILE:12: guard.clients: found -1, expected 1024 to 4194304"),
        ("[guard]\nmode = \"off\"", "FILE:12: guard.mode: found \"off\", expected one of \"observe\", \"enforce\""),
        (
            "[guard]\nattach = \"nic\"",
            "FILE:12: guard.attach: found \"nic\", expected one of \"auto\", \"xdp\", \"tc\"",
        ),
        (
            "[guard]\nprotect_ports = [1, 2, 3, 4, 5, 6, 7, 8]",
            "FILE:12: guard.protect_ports: found 8 ports, expected at most 7",
        ),
        (
            "[guard]\nprotect = [\"10.0.0.1\", \"office\"]",
            "FILE:12: guard.protect.1: expected an IPv4 or IPv6 address, or a prefix such as 192.0.2.0/24 or 2001:db8::/32, not \
             \"office\"",
        ),
        (
            "[guard]\nrate = 1",
            "FILE:12: guard.rate: unknown key, expected one of \"mode\", \"attach\", \"hold\", \"protect\", \"protect_ports\", \
             \"clients\", \"told_clients\", \"max_blocks\", \"state\", \"socket\", \"alert_label\", \"alert_block_for\"",
        ),
    ]);
}

#[test]
fn a_rule_is_named_once_and_for_what_there_is() {
    assert_refused(&[
        (
            "[[rule]]\nname = \" \"\naction = \"drop\"",
            "FILE:12: rule.0.name: found \" \", expected a name that is not empty",
        ),
        (
            "[[rule]]\nname = \"block\"\naction = \"drop\"",
            "FILE:12: rule.0.name: found \"block\", this name is reserved, expected another",
        ),
        (
            "[[rule]]\nname = \"a\\u001b\"\naction = \"drop\"",
            "FILE:12: rule.0.name: found \"a\\u{1b}\", expected at most 100 characters, none of them a control character",
        ),
        (
            "[[rule]]\nname = \"a\"\nports = [1]\naction = \"drop\"\n[[rule]]\nname = \"a\"\nports = [2]\naction = \"drop\"",
            "FILE:16: rule.1.name: found \"a\", another rule has this name, expected one of its own",
        ),
        ("[[rule]]\naction = \"drop\"", "FILE:11: rule.0: the key \"name\" is missing"),
        ("[[rule]]\nname = \"a\"", "FILE:11: rule.0: the key \"action\" is missing"),
    ]);
    assert_rule_refused(&[
        (
            "api = \"orderz\"",
            "FILE:13: rule.0.api: found \"orderz\", which is no API, expected one of \"web\", \"orders\", \"database\", \
             \"unmapped\" or \"*\"",
        ),
        (
            "api = \"database\"",
            "FILE:13: rule.0.api: found \"database\", which this host calls, expected an API whose role is \"server\": rules are \
             about what this host is sent",
        ),
        (
            "api = [\"*\", \"web\"]",
            "FILE:13: rule.0.api: found \"*\" among others, expected it alone: it is all of them",
        ),
        ("api = []", "FILE:13: rule.0.api: found an empty list, expected at least one name, or no key at all"),
        (
            "action = \"deny\"",
            "FILE:13: rule.0.action: found \"deny\", expected \"allow\", \"drop\", \"reject\" or \"mark\"",
        ),
        (
            "color = 1",
            "FILE:13: rule.0.color: unknown key, expected one of \"name\", \"from\", \"from_file\", \"except\", \"except_file\", \
             \"api\", \"transport\", \"ports\", \"anomaly\", \"payload\", \"limit\", \"action\", \"mark\", \"mode\"",
        ),
    ]);
}

#[test]
fn garbage_in_prefixes_is_told_with_its_file_and_line() {
    assert_rule_refused(&[
        (
            "from = [\"192.0.2.0/24\", \"ten\"]",
            "FILE:13: rule.0.from.1: expected an IPv4 or IPv6 address, or a prefix such as 192.0.2.0/24 or 2001:db8::/32, not \
             \"ten\"",
        ),
        (
            "except = \"10.1.2.3/8\"",
            "FILE:13: rule.0.except.0: 10.1.2.3/8 has bits beyond its length, did you mean the network 10.0.0.0/8 or the \
             address 10.1.2.3?",
        ),
    ]);
    let rule = |lines: &str| format!("{APIS}[[rule]]\nname = \"r\"\n{lines}\naction = \"drop\"");
    let files = [("list", "# a list\n192.0.2.0/24\n\n192.0.2.300\n::/129 ; too long\n")];
    let expected = "FOLDER/list:4: rule.0.from_file: expected an IPv4 or IPv6 address, or a prefix such as 192.0.2.0/24 or \
                    2001:db8::/32, not \"192.0.2.300\"\nFOLDER/list:5: rule.0.from_file: expected a prefix length from 0 to \
                    128 behind ::/, not \"129\"";
    assert_eq!(load(&rule("from_file = \"FOLDER/list\""), &files).unwrap_err(), expected);
    let expected = expected.replace("from_file", "except_file");
    assert_eq!(load(&rule("except_file = [\"FOLDER/list\"]"), &files).unwrap_err(), expected);
    let problems = load(&rule("from_file = \"FOLDER/none\""), &files).unwrap_err();
    let expected =
        "FILE:13: rule.0.from_file: cannot read the prefixes in FOLDER/none: No such file or directory (os error 2)";
    assert_eq!(problems, expected);
    let problems = load(&rule("from_file = \"FOLDER\""), &files).unwrap_err();
    assert_eq!(problems, "FILE:13: rule.0.from_file: expected a file of prefixes, and FOLDER is none");
}

#[test]
fn a_limit_that_cannot_be_kept_is_refused() {
    let expected_one = "expected exactly one of \"connections_per_second\", \"packets_per_second\", \"bytes_per_second\", \
                        \"requests_per_second\"";
    assert_rule_refused(&[
        ("limit = {}", &format!("FILE:13: rule.0.limit: {expected_one}")),
        ("limit = { packets_per_second = 1, bytes_per_second = 1 }", &format!("FILE:13: rule.0.limit: {expected_one}")),
        (
            "limit = { packets_per_second = 0 }",
            "FILE:13: rule.0.limit.packets_per_second: found 0, expected at least 0.001",
        ),
        (
            "limit = { connections_per_second = -5 }",
            "FILE:13: rule.0.limit.connections_per_second: found -5, expected at least 0.001",
        ),
        (
            "limit = { connections_per_second = nan }",
            "FILE:13: rule.0.limit.connections_per_second: found NaN, expected at least 0.001",
        ),
        (
            "limit = { connections_per_second = inf }",
            "FILE:13: rule.0.limit.connections_per_second: found inf, expected at most 256000000000",
        ),
        (
            "limit = { bytes_per_second = 300e9 }",
            "FILE:13: rule.0.limit.bytes_per_second: found 300000000000, expected at most 256000000000",
        ),
        (
            "limit = { connections_per_second = 0.001, burst = 1000000000 }",
            "FILE:13: rule.0.limit.burst: a burst of 1000000000 at 1 per 1000s takes more than 208 days to be there again, \
             expected a smaller burst or a higher rate",
        ),
        (
            "limit = { packets_per_second = 1000, burst = 63 }",
            "FILE:13: rule.0.limit.burst: found 63, expected at least 64: the stack may see as much at once",
        ),
        (
            "limit = { bytes_per_second = 1e9, burst = 65536 }",
            "FILE:13: rule.0.limit.burst: found 65536, expected at least 131072: the stack may see as much at once",
        ),
        (
            "limit = { connections_per_second = 1, burst = 0 }",
            "FILE:13: rule.0.limit.burst: found 0, expected at least 1",
        ),
        (
            "limit = { connections_per_second = 1, ipv4_prefix = 24 }",
            "FILE:13: rule.0.limit.ipv4_prefix: found without per = \"client\", expected both or none",
        ),
        (
            "limit = { connections_per_second = 1, per = \"client\", ipv4_prefix = 33, ipv6_prefix = 0 }",
            "FILE:13: rule.0.limit.ipv4_prefix: found 33, expected 1 to 32\nFILE:13: rule.0.limit.ipv6_prefix: found 0, expected \
             1 to 128",
        ),
        (
            "limit = { connections_per_second = 1, per = \"host\" }",
            "FILE:13: rule.0.limit.per: found \"host\", expected one of \"api\", \"client\"",
        ),
        (
            "limit = { requests_per_second = 1 }\naction = \"drop\"",
            "FILE:14: rule.0.action: found \"drop\", expected \"reject\" or \"mark\" for requests_per_second: TCP would send what \
             is dropped again",
        ),
        (
            "limit = { requests_per_minute = 1 }",
            "FILE:13: rule.0.limit.requests_per_minute: unknown key, expected one of \"connections_per_second\", \
             \"packets_per_second\", \"bytes_per_second\", \"requests_per_second\", \"burst\", \"per\", \"ipv4_prefix\", \
             \"ipv6_prefix\"",
        ),
    ]);
}

#[test]
fn what_an_action_does_not_take_is_refused() {
    let allows = "found in a rule that allows, expected none: it lets pass all that it matches";
    assert_rule_refused(&[
        ("action = \"allow\"\nlimit = { connections_per_second = 1 }", &format!("FILE:14: rule.0.limit: {allows}")),
        ("action = \"allow\"\nmode = \"observe\"", &format!("FILE:14: rule.0.mode: {allows}")),
        ("action = \"allow\"\npayload = \"unexpected\"", &format!("FILE:14: rule.0.payload: {allows}")),
        (
            "action = \"mark\"",
            "FILE:13: rule.0.action: found \"mark\", expected a key \"mark\" beside it, with a number",
        ),
        ("action = \"mark\"\nmark = 0", "FILE:14: rule.0.mark: found 0, expected 1 to 4294967295"),
        ("action = \"mark\"\nmark = 4294967296", "FILE:14: rule.0.mark: found 4294967296, expected 1 to 4294967295"),
        (
            "action = \"drop\"\nmark = 1",
            "FILE:14: rule.0.mark: found beside another action, expected it with action = \"mark\" alone",
        ),
        ("mode = \"log\"", "FILE:13: rule.0.mode: found \"log\", expected one of \"observe\", \"enforce\""),
    ]);
}

#[test]
fn only_what_a_packet_can_be_is_a_condition() {
    let known = "expected \"bad_tcp_flags\", \"land\", \"malformed\", \"tiny_fragment\", \"unexpected_protocol\"";
    assert_rule_refused(&[
        (
            "anomaly = \"weird\"",
            "FILE:13: rule.0.anomaly: found \"weird\", expected the name of an anomaly such as \"bad_tcp_flags\"",
        ),
        (
            "anomaly = [\"land\", \"port_scan\"]",
            &format!(
                "FILE:13: rule.0.anomaly: found \"port_scan\", which no single packet is, {known} (or a [[response]])"
            ),
        ),
        (
            "anomaly = \"unexpected_payload\"",
            &format!(
                "FILE:13: rule.0.anomaly: found \"unexpected_payload\", which no single packet is, {known} (or payload = \
                 \"unexpected\")"
            ),
        ),
        (
            "anomaly = []",
            "FILE:13: rule.0.anomaly: found an empty list, expected at least one anomaly, or no key at all",
        ),
        (
            "anomaly = \"land\"\npayload = \"unexpected\"",
            "FILE:14: rule.0.payload: found beside \"anomaly\", expected one of them",
        ),
        ("payload = \"any\"", "FILE:13: rule.0.payload: found \"any\", expected one of \"unexpected\""),
    ]);
    let without_flows = |rule: &str| load(&format!("{APIS}[flows]\ncapacity = 0\n[[rule]]\nname = \"r\"\n{rule}"), &[]);
    assert_eq!(
        without_flows("payload = \"unexpected\"\naction = \"drop\"").unwrap_err(),
        "FILE:15: rule.0.payload: expected none while flows.capacity is 0: requests and payload are known of flows that are kept"
    );
    assert_eq!(
        without_flows("limit = { requests_per_second = 1 }\naction = \"reject\"").unwrap_err(),
        "FILE:15: rule.0.limit: expected none while flows.capacity is 0: requests and payload are known of flows that are kept"
    );
}

/// Rules called `r0` and so on, each with these lines.
fn rules<'a>(lines: impl IntoIterator<Item = &'a str>) -> String {
    let rules = lines.into_iter().enumerate().map(|(place, lines)| format!("[[rule]]\nname = \"r{place}\"\n{lines}\n"));
    rules.collect()
}

#[test]
fn rules_that_can_never_decide_are_refused() {
    let told = |place: usize, line: usize, name: &str, before: &str| {
        format!(
            "FILE:{line}: rule.{place}.name: found \"{name}\", which is about the same as \"{before}\" before it, and that decides \
             it all: expected another match, or one of them gone"
        )
    };
    let refused = [
        (rules(["action = \"drop\"", "action = \"allow\""]), told(1, 15, "r1", "r0")),
        (
            rules([
                "api = [\"web\", \"orders\"]\naction = \"allow\"",
                "api = [\"orders\", \"web\"]\naction = \"drop\"",
            ]),
            told(1, 16, "r1", "r0"),
        ),
        (
            rules([
                "from = [\"10.0.0.0/8\", \"::1\"]\naction = \"drop\"",
                "from = [\"::1\", \"10.0.0.0/8\", \"::1\"]\naction = \"reject\"",
            ]),
            told(1, 16, "r1", "r0"),
        ),
        (
            rules(["action = \"drop\"", "limit = { packets_per_second = 100 }\naction = \"drop\""]),
            told(1, 15, "r1", "r0"),
        ),
    ];
    for (rules, expected) in refused {
        assert_eq!(load(&format!("{APIS}{rules}"), &[]).err().unwrap_or_default(), expected, "{rules}");
    }
    // Where the first one does not decide about all, or only marks, there is something left for the other.
    for rules in [
        rules(["limit = { packets_per_second = 100 }\naction = \"drop\"", "action = \"drop\""]),
        rules(["action = \"mark\"\nmark = 1", "action = \"drop\""]),
        rules(["ports = [80]\naction = \"allow\"", "action = \"drop\""]),
        rules(["anomaly = \"land\"\naction = \"drop\"", "action = \"drop\""]),
        rules(["api = \"*\"\naction = \"allow\"", "action = \"drop\""]),
    ] {
        assert_eq!(guard(&rules).rules.len(), 2, "{rules}");
    }
}

#[test]
fn what_the_tables_have_no_room_for_is_refused() {
    let limit = |rate: usize| format!("limit = {{ connections_per_second = {rate} }}\naction = \"drop\"");
    let limits = |count: usize| {
        let lines: Vec<_> = (1..=count).map(limit).collect();
        rules(lines.iter().map(String::as_str))
    };
    assert_eq!(guard(&limits(8)).rules.len(), 8);
    assert_eq!(
        load(&format!("{APIS}{}", limits(9)), &[]).unwrap_err(),
        "FILE:11: rule: 9 rules match the same packets, from \"r0\" to \"r8\": expected at most 8, of fewer APIs or senders each"
    );
    // Of different senders there may be more.
    let of_senders: Vec<_> = (1..=20).map(|host| format!("from = \"192.0.2.{host}\"\n{}", limit(host))).collect();
    assert_eq!(guard(&rules(of_senders.iter().map(String::as_str))).rules.len(), 20);
    let many: Vec<_> = (1..=1025).map(|port| format!("ports = [{port}]\naction = \"drop\"")).collect();
    let problems = load(&format!("{APIS}{}", rules(many.iter().map(String::as_str))), &[]).unwrap_err();
    assert!(problems.starts_with("FILE:11: rule: found 1025 rules, expected at most 1024"), "{problems}");
}

/// Every key, none with its default.
const EXAMPLE: &str = r#"[guard]
mode = "enforce"
attach = "tc"
hold = "2m"
protect = ["192.0.2.0/24", "2001:db8::1"]
protect_ports = [22, 2222]
clients = 4096

[[rule]]
name = "office"
from = "198.51.100.0/24"
action = "allow"

[[rule]]
name = "bad addresses"
from = ["203.0.113.7"]
from_file = "FOLDER/list"
except = "203.0.113.128/25"
except_file = ["FOLDER/friends"]
action = "drop"
mode = "enforce"

[[rule]]
name = "half a hello"
anomaly = ["bad_tcp_flags", "land"]
action = "drop"
mode = "observe"

[[rule]]
name = "new connections"
api = ["web", "orders"]
transport = "tcp"
ports = [80, "8000-8999"]
limit = { connections_per_second = 12.5, burst = 50, per = "client", ipv4_prefix = 24, ipv6_prefix = 56 }
action = "reject"
mode = "enforce"

[[rule]]
name = "requests"
api = "*"
limit = { requests_per_second = 100 }
action = "reject"

[[rule]]
name = "odd payload"
api = "orders"
payload = "unexpected"
action = "mark"
mark = 7
mode = "enforce"
"#;

fn example() -> Guard {
    let files = [("list", "203.0.113.0/24\n# none\n2001:db8:bad::/48\n"), ("friends", "203.0.113.9\n")];
    load(&format!("{APIS}{EXAMPLE}"), &files).unwrap().guard
}

#[test]
fn everything_together_means_what_it_says() {
    let Guard { enforces, attach, hold, protect, protected_ports, clients, told_clients: _, blocks: _, rules } =
        example();
    assert!(enforces);
    assert_eq!((attach, hold, clients), (GuardAttach::Tc, Duration::from_mins(2), 4096));
    assert_eq!(protect, networks(&["192.0.2.0/24", "2001:db8::1/128"]));
    assert_eq!(protected_ports, [9473, 22, 2222]);
    let [office, bad, half, new, requests, odd] = rules.as_slice() else { panic!("{rules:?}") };

    let shown: Vec<_> = rules.iter().map(|rule| (&*rule.name, rule.action, rule.is_enforced)).collect();
    let expected = [
        ("office", Action::Allow, true),
        ("bad addresses", Action::Drop, true),
        ("half a hello", Action::Drop, false),
        ("new connections", Action::Reject, true),
        ("requests", Action::Reject, false),
        ("odd payload", Action::Mark, true),
    ];
    assert_eq!(shown, expected);

    assert_eq!((&office.from, &office.apis), (&Some(networks(&["198.51.100.0/24"])), &ApiMatch::Everything));
    assert_eq!(bad.from, Some(networks(&["203.0.113.0/24", "203.0.113.7/32", "2001:db8:bad::/48"])));
    assert_eq!(bad.except, networks(&["203.0.113.9/32", "203.0.113.128/25"]));
    let kinds = BTreeSet::from([AnomalyKind::BadTcpFlags, AnomalyKind::Land]);
    assert_eq!((&half.condition, &half.from), (&Condition::Anomalies(kinds), &None));
    assert_eq!(new.apis, ApiMatch::Named(["web", "orders"].map(str::to_owned).into()));
    assert_eq!(new.transports, [Transport::Tcp]);
    assert_eq!(
        new.ports.iter().map(|range| (range.first(), range.last())).collect::<Vec<_>>(),
        [(80, 80), (8000, 8999)]
    );
    let limit = new.limit.as_ref().unwrap();
    assert_eq!((limit.unit, limit.rate, limit.burst), (Unit::Connections, 12.5, 50));
    assert_eq!(limit.per, Per::Client { ipv4_length: 24, ipv6_length: 56 });
    let limit = requests.limit.as_ref().unwrap();
    // As much at once as in a second, unless it says otherwise.
    assert_eq!((limit.unit, limit.burst, limit.per), (Unit::Requests, 100, Per::Api));
    assert_eq!(requests.apis, ApiMatch::Any);
    assert_eq!((&odd.condition, odd.mark), (&Condition::UnexpectedPayload, 7));
}

#[test]
fn what_a_rule_can_decide_is_known_before_it_does() {
    use Verdict::{Drop, Mark, Pass, Reject, WouldDrop, WouldMark, WouldReject};
    let guard = example();
    let decided: Vec<_> = guard.rules.iter().map(|rule| guard.verdicts(&rule.name)).collect();
    let expected: [&[Verdict]; 6] =
        [&[Pass], &[Pass, Drop], &[Pass, WouldDrop], &[Pass, Reject], &[Pass, WouldReject], &[Mark]];
    assert_eq!(decided, expected);
    assert_eq!(guard.verdicts("block"), [Drop]);
    let observed = Guard { enforces: false, ..guard };
    assert_eq!(observed.verdicts("block"), [WouldDrop]);
    let marks = self::guard(&rules(["limit = { packets_per_second = 1 }\naction = \"mark\"\nmark = 1"]));
    assert_eq!(marks.verdicts("r0"), [Pass, WouldMark]);
}

#[test]
fn rules_observe_unless_both_say_otherwise() {
    for (mode, own, is_enforced) in [
        ("", "", false),
        ("", "mode = \"observe\"", false),
        ("", "mode = \"enforce\"", true),
        ("mode = \"enforce\"", "", false),
        ("mode = \"observe\"", "mode = \"enforce\"", false),
    ] {
        let guard = guard(&format!("[guard]\n{mode}\n[[rule]]\nname = \"r\"\naction = \"drop\"\n{own}"));
        assert_eq!(guard.rules[0].is_enforced, is_enforced, "{mode} {own}");
    }
}

#[test]
fn check_prints_the_rules_as_they_work() {
    let example = EXAMPLE.lines().filter(|line| !line.contains("_file")).collect::<Vec<_>>().join("\n");
    let lines = |contents: &str| {
        let checked = check(contents, NONE, &[]);
        assert_eq!((checked.code, &*checked.stderr), (Some(0), ""), "{}", checked.stdout);
        let lines = checked.stdout.lines().skip_while(|line| !line.starts_with("guard"));
        lines.take_while(|line| !line.starts_with("otlp")).fold(String::new(), |text, line| text + line + "\n")
    };
    let blocks = "\
blocks      at most 10000, kept over a restart in /var/lib/tidewaiter/blocks.json
            by command at /run/tidewaiter/control.sock, by alert of whom the label client names for 10m
";
    assert_eq!(lines(APIS), format!("guard       no rules: everything passes\n{blocks}"));
    let responses =
        "[[response]]\non = ['port_scan', 'syn_flood']\napi = 'orders'\nblock_for = '1h'\nipv4_prefix = 24\n";
    let responded =
        "response    whoever makes port_scan, syn_flood of orders is blocked for 1h (/24 of IPv4, /64 of IPv6)\n";
    assert_eq!(
        lines(&format!("{APIS}{responses}")),
        format!("guard       no rules: everything passes\n{blocks}{responded}")
    );
    let rules = "\
guard       each rule as it says, in TC; everything passes 2m after the exporter was last heard of
            always let in: established connections to port 9473, 22, 2222
            always let in: whoever is in 192.0.2.0/24, 2001:db8::1/128
            limits are kept for at most 4096 clients
rule        office: allow packets from 198.51.100.0/24
rule        bad addresses: drop packets from 203.0.113.7/32 but 203.0.113.128/25, enforced
rule        half a hello: drop packets that are bad_tcp_flags, land from everybody, observed alone
rule        new connections: reject packets of orders, web by tcp to port 80, 8000-8999 from everybody beyond 12.5 connections per second (burst 50) per client (/24 of IPv4, /56 of IPv6), enforced
rule        requests: reject packets of any API from everybody beyond 100 requests per second (burst 100) per API, observed alone
rule        odd payload: mark with 7 unexpected payload of orders from everybody, enforced
";
    assert_eq!(lines(&format!("{APIS}{example}")), format!("{rules}{blocks}"));
    // What caps them all is seen in each.
    let observed = lines(&format!("{APIS}{}", example.replacen("mode = \"enforce\"", "mode = \"observe\"", 1)));
    assert!(observed.starts_with("guard       all rules observed alone, in TC;"), "{observed}");
    assert!(!observed.contains(", enforced"), "{observed}");
    let refused = check(&format!("{APIS}[[rule]]\nname = \"r\"\naction = \"mark\""), NONE, &[]);
    assert_eq!((refused.code, &*refused.stdout), (Some(78), ""));
}

#[test]
fn the_example_of_the_readme_comes_to_what_it_says() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let (_, section) = readme.split_once("## The guard: rules and limits").unwrap();
    let (_, section) = section.split_once("```toml\n").unwrap();
    let (example, section) = section.split_once("```\n").unwrap();
    let (_, section) = section.split_once("```\n").unwrap();
    let (expected, _) = section.split_once("```\n").unwrap();
    let folder = TempDir::new().unwrap();
    let list = folder.path().join("drop.txt");
    fs::write(&list, "192.0.2.0/24\n203.0.113.0/24\n").unwrap();
    let checked = check(&example.replace("/etc/tidewaiter/drop.txt", &list.display().to_string()), NONE, &[]);
    assert_eq!((checked.code, &*checked.stderr), (Some(0), ""));
    assert!(checked.stdout.contains(expected), "{}\n{expected}", checked.stdout);
}

#[test]
fn everything_in_the_readme_is_a_key() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let (_, everything) = readme.split_once("[guard]                          # what is let in").unwrap();
    let (guard, _) = everything.split_once("[anomalies.port_scan]").unwrap();
    let rule = load(&format!("{APIS}[guard] # {guard}"), &[]).unwrap().guard.rules.remove(0);
    assert_eq!((&*rule.name, rule.action, rule.is_enforced), ("connections", Action::Reject, false));
}

#[test]
fn files_are_from_where_the_configuration_is() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tidewaiter.toml");
    let rule = "[[rule]]\nname = \"list\"\nfrom_file = \"drop.txt\"\nexcept_file = [\"not.txt\"]\naction = \"drop\"\n";
    let contents = format!("interfaces = [\"lo\"]\nweb_config = \"web.yml\"\napi_token_file = \"token\"\n{rule}");
    fs::write(&path, contents).unwrap();
    fs::write(folder.path().join("drop.txt"), "192.0.2.0/24\n").unwrap();
    fs::write(folder.path().join("not.txt"), "192.0.2.7\n").unwrap();
    fs::write(folder.path().join("web.yml"), "").unwrap();
    fs::write(folder.path().join("token"), "0123456789abcdef").unwrap();
    Command::new("chmod").arg("600").arg(folder.path().join("token")).status().unwrap();
    let check = |file: &Path, directory: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidewaiter"));
        command.env_clear().current_dir(directory).arg("check").arg(file).output().unwrap()
    };
    for (file, directory) in [(path.as_path(), Path::new("/")), ("tidewaiter.toml".as_ref(), folder.path())] {
        let checked = check(file, directory);
        let said = String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{said}");
        assert!(said.contains("192.0.2.0/24 but 192.0.2.7/32"), "{said}");
    }
    // What the environment names is from where the program is started.
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidewaiter"));
    command.env_clear().env("TIDEWAITER_WEB_CONFIG", "web.yml").current_dir("/").arg("check").arg(&path);
    assert_eq!(command.output().unwrap().status.code(), Some(78));
}
