//! What rules are worked out into decides as the rules themselves say.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests panic for a stack trace")]
#![allow(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "rates here are small whole numbers")]

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{select, subsequence},
};
use tidewaiter::{
    anomaly::AnomalyKind,
    api::{Api, PortRange, Role, Transport},
    config::guard::{ApiMatch, Condition, Guard, GuardAttach, Per, Rule, RuleLimit, blocks::BlockSettings},
    guard::{
        compile::{Pairs, Tables, compile},
        lookup::Found,
    },
};
use tidewaiter_common::{
    address::Address,
    guard::{Action, Facts, GuardRule, Judged, Stage, Unit, Verdict, decision, judge},
    limiter::Limit,
};

const SECOND: u64 = 1_000_000_000;
const NETWORKS: [&str; 9] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3/32",
    "::/0",
    "fd00::/8",
    "fd00:1::/32",
    "fd00:1::5/128",
];
const SOURCES: [&str; 9] =
    ["10.1.2.3", "10.1.2.4", "10.1.9.9", "10.9.9.9", "192.0.2.1", "fd00:1::5", "fd00:1::6", "fd00:2::1", "2001:db8::1"];
const DESTINATIONS: [&str; 3] = ["192.0.2.80", "192.0.2.81", "2001:db8::80"];
const PORTS: [u16; 9] = [1, 53, 80, 443, 999, 1000, 1010, 1011, 65535];
const KINDS: [AnomalyKind; 2] = [AnomalyKind::BadTcpFlags, AnomalyKind::Land];

fn api(name: &str, role: Role, transports: &[Transport], ports: (u16, u16), addresses: &[&str]) -> Api {
    Api {
        name: name.to_owned(),
        role,
        transports: transports.to_vec(),
        ports: vec![PortRange::new(ports.0, ports.1).unwrap()],
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        expect: Vec::new(),
    }
}

fn apis() -> Vec<Api> {
    vec![
        api("web", Role::Server, &[Transport::Tcp], (80, 80), &[]),
        api("range", Role::Server, &[Transport::Tcp, Transport::Udp], (1000, 1010), &[]),
        api("names", Role::Server, &[Transport::Udp], (53, 53), &["192.0.2.80", "2001:db8::80"]),
        api("inner", Role::Server, &[Transport::Tcp], (80, 80), &["192.0.2.81"]),
        api("called", Role::Client, &[Transport::Tcp], (443, 443), &[]),
    ]
}

fn networks() -> impl Strategy<Value = Vec<IpNet>> {
    subsequence(NETWORKS.to_vec(), 0..4).prop_map(|all| all.iter().map(|text| text.parse().unwrap()).collect())
}

fn rule() -> impl Strategy<Value = Rule> {
    let names = ["web", "range", "names", "inner", "unmapped"];
    let apis = prop_oneof![
        Just(ApiMatch::Everything),
        Just(ApiMatch::Any),
        subsequence(names.to_vec(), 1..4)
            .prop_map(|names| ApiMatch::Named(names.into_iter().map(str::to_owned).collect())),
    ];
    let ports = vec((select(PORTS.to_vec()), 0_u16..20), 0..3).prop_map(|ranges| {
        ranges
            .into_iter()
            .map(|(first, more)| PortRange::new(first, first.saturating_add(more)).unwrap())
            .collect::<Vec<_>>()
    });
    let condition = prop_oneof![
        4 => Just(Condition::Always),
        1 => subsequence(KINDS.to_vec(), 1..=2).prop_map(|kinds| Condition::Anomalies(kinds.into_iter().collect::<BTreeSet<_>>())),
        1 => Just(Condition::UnexpectedPayload),
    ];
    let transports = prop_oneof![
        2 => Just(Vec::new()),
        1 => subsequence(vec![Transport::Tcp, Transport::Udp, Transport::Sctp], 1..3),
    ];
    let who = (option::of(networks()), prop_oneof![Just(Vec::new()), networks()]);
    let what = (apis, transports, prop_oneof![Just(Vec::new()), ports], condition);
    (who, what, option::of(limit()), select(Action::ALL.to_vec()), 1_u32..4, any::<bool>()).prop_map(
        |((from, except), (apis, transports, ports, condition), limit, action, mark, is_enforced)| {
            // What validation sees to.
            let is_allowed = action == Action::Allow;
            let condition =
                if is_allowed && condition == Condition::UnexpectedPayload { Condition::Always } else { condition };
            Rule {
                name: Arc::from(""),
                from,
                except,
                apis,
                transports,
                ports,
                condition,
                limit: limit.filter(|_| !is_allowed),
                action,
                mark: if action == Action::Mark { mark } else { 0 },
                is_enforced: is_enforced || is_allowed,
            }
        },
    )
}

/// Limits of rates that the kernel's arithmetic has exactly.
fn limit() -> impl Strategy<Value = RuleLimit> {
    let per = prop_oneof![
        Just(Per::Api),
        (select(vec![8, 16, 24, 32]), select(vec![16, 32, 128]))
            .prop_map(|(ipv4_length, ipv6_length)| Per::Client { ipv4_length, ipv6_length }),
    ];
    (select(Unit::ALL[1..].to_vec()), select(vec![1_u64, 2, 4, 5, 10]), 1_u64..4, per).prop_map(
        |(unit, rate, burst, per)| {
            let scale = if unit == Unit::Bytes { 100 } else { 1 };
            let (rate, burst) = (rate * scale, burst * scale);
            RuleLimit {
                unit,
                rate: rate as f64,
                burst,
                per,
                limit: Limit::new(rate, Duration::from_secs(1), burst).unwrap(),
            }
        },
    )
}

fn guards() -> impl Strategy<Value = Guard> {
    (vec(rule(), 0..=8), prop_oneof![3 => Just(Vec::new()), 1 => networks()]).prop_map(|(mut rules, protect)| {
        for (number, rule) in rules.iter_mut().enumerate() {
            rule.name = Arc::from(format!("rule {number}"));
        }
        Guard {
            enforces: true,
            attach: GuardAttach::Auto,
            hold: Duration::from_mins(1),
            protect,
            protected_ports: Vec::new(),
            clients: 1024,
            told_clients: 8,
            blocks: BlockSettings {
                capacity: 1,
                state: PathBuf::new(),
                socket: PathBuf::new(),
                alert_label: String::new(),
                alert_block_for: Duration::from_secs(1),
                responses: Vec::new(),
            },
            rules,
        }
    })
}

/// A packet, and when it comes.
#[derive(Clone, Debug)]
struct Sent {
    source: IpAddr,
    destination: IpAddr,
    port: Option<(Transport, u16)>,
    packets: u64,
    bytes: u64,
    is_opening: bool,
    anomaly: Option<AnomalyKind>,
    is_exempt: bool,
    stage: Stage,
    /// Nanoseconds after the one before it.
    after: u64,
}

fn packet() -> impl Strategy<Value = Sent> {
    let address = |all: &[&'static str]| select(all.to_vec()).prop_map(|text| text.parse().unwrap());
    let port = option::weighted(0.9, (select(Transport::ALL.to_vec()), select(PORTS.to_vec())));
    let ends = (address(&SOURCES), address(&DESTINATIONS), port);
    let stage = prop_oneof![3 => Just(Stage::Buffer), 2 => Just(Stage::Frame), 1 => Just(Stage::Marks), 1 => Just(Stage::Request), 1 => Just(Stage::Payload)];
    let size = (1_u64..3, 40_u64..150);
    (ends, size, any::<bool>(), option::of(select(KINDS.to_vec())), prop::bool::weighted(0.1), stage, 0..SECOND / 2)
        .prop_map(|((source, destination, port), (packets, bytes), is_opening, anomaly, is_exempt, stage, after)| {
            Sent { source, destination, port, packets, bytes, is_opening, anomaly, is_exempt, stage, after }
        })
}

/// What became of a packet: the decision, what it was marked with, and what was noted of it by rule and API.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    decision: u32,
    mark: u32,
    noted: Vec<(String, String, Verdict)>,
}

/// Places, and who has them.
#[derive(Default)]
struct Places(Vec<(Arc<str>, String)>);

impl Pairs for Places {
    fn place(&mut self, rule: &Arc<str>, api: &str) -> Option<u16> {
        let pair = (Arc::clone(rule), api.to_owned());
        let place = self.0.iter().position(|one| *one == pair).unwrap_or_else(|| {
            self.0.push(pair);
            self.0.len() - 1
        });
        Some(place as u16 + 1)
    }
}

/// A packet, judged by what the kernel is given.
struct Native<'a> {
    tables: &'a Tables,
    places: &'a Places,
    words: &'a RefCell<HashMap<(u16, Option<Address>), u64>>,
    packet: &'a Sent,
    now: u64,
    outcome: RefCell<Outcome>,
}

impl Judged for Native<'_> {
    fn rule(&self, index: u16) -> Option<&GuardRule> {
        self.tables.rules.get(usize::from(index))
    }

    fn bytes(&self) -> u64 {
        self.packet.bytes
    }

    fn admits(&self, rule: &GuardRule, pair: u16, client: Option<Address>, units: u64) -> bool {
        let mut words = self.words.borrow_mut();
        let word = words.entry((pair, client)).or_default();
        // SAFETY: the word is this test's own.
        unsafe { rule.limit.admit(word, units, self.now, || self.now) }
    }

    fn is_exempt(&self) -> bool {
        self.packet.is_exempt
    }

    fn note(&self, pair: u16, verdict: Verdict) {
        let (rule, api) = &self.places.0[usize::from(pair) - 1];
        self.outcome.borrow_mut().noted.push((rule.to_string(), api.clone(), verdict));
    }

    fn mark(&self, mark: u32) {
        self.outcome.borrow_mut().mark = mark;
    }
}

fn native(native: Native<'_>) -> Outcome {
    let Sent { source, destination, port, packets, is_opening, anomaly, stage, .. } = *native.packet;
    let found = native.tables.find(source, destination, port).expect("every packet finds something");
    let Found::Rules(list) = found else { return Outcome::default() };
    let facts = Facts {
        source: source.into(),
        packets,
        is_opening: is_opening && matches!(port, Some((Transport::Tcp, _))),
        anomaly: anomaly.map_or(u8::MAX, |kind| kind as u8),
    };
    let decision = judge(&native, list, &facts, stage);
    Outcome { decision, ..native.outcome.into_inner() }
}

/// Tokens of a bucket, in units of 1/SECOND, and when they were counted: the definition by itself.
type Buckets = HashMap<(usize, String, Option<IpNet>), (u128, u64)>;

fn admits(
    buckets: &mut Buckets,
    place: usize,
    limit: &RuleLimit,
    api: &str,
    packet: &Sent,
    units: u64,
    now: u64,
) -> bool {
    let client = match limit.per {
        Per::Api => None,
        Per::Client { ipv4_length, ipv6_length } => {
            let length = if packet.source.is_ipv4() { ipv4_length } else { ipv6_length };
            Some(IpNet::new(packet.source, length).unwrap().trunc())
        }
    };
    let full = u128::from(limit.burst) * u128::from(SECOND);
    let (tokens, then) = buckets.entry((place, api.to_owned(), client)).or_insert((full, now));
    *tokens = (*tokens + u128::from(now - *then) * limit.rate as u128).min(full);
    *then = now;
    let price = u128::from(units) * u128::from(SECOND);
    let is_paid = price <= *tokens;
    if is_paid {
        *tokens -= price;
    }
    is_paid
}

/// The same, from the rules as they are written.
fn naive(guard: &Guard, apis: &[Api], buckets: &mut Buckets, packet: &Sent, now: u64) -> Outcome {
    let has = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&packet.source));
    let mut outcome = Outcome::default();
    if has(&guard.protect) {
        return outcome;
    }
    let claims =
        |api: &&Api| api.role == Role::Server && packet.port.is_some_and(|port| api.claims().any(|one| one == port));
    let at_address = apis.iter().filter(claims).find(|api| api.addresses.contains(&packet.destination));
    let anywhere = || apis.iter().filter(claims).find(|api| api.addresses.is_empty());
    let api = at_address.or_else(anywhere).map_or("unmapped", |api| api.name.as_str());
    let mut was_observed = false;
    for (place, rule) in guard.rules.iter().enumerate() {
        let is_from = rule.from.as_deref().is_none_or(has) && !has(&rule.except);
        let is_to = match packet.port {
            Some((transport, port)) => {
                (rule.transports.is_empty() || rule.transports.contains(&transport))
                    && (rule.ports.is_empty() || rule.ports.iter().any(|range| range.has(port)))
            }
            None => rule.transports.is_empty() && rule.ports.is_empty(),
        };
        if !is_from || !is_to || !rule.apis.has(api) {
            continue;
        }
        let unit = rule.limit.as_ref().map(|limit| limit.unit);
        let (is_payload, is_requests) = (rule.condition == Condition::UnexpectedPayload, unit == Some(Unit::Requests));
        let is_mark = rule.action == Action::Mark;
        let is_early = !is_payload && !is_requests;
        let is_asked = match packet.stage {
            _ if rule.action == Action::Allow => true,
            Stage::Frame => is_early && !is_mark,
            Stage::Buffer => is_early,
            Stage::Marks => is_early && is_mark,
            Stage::Request => is_requests,
            Stage::Payload => is_payload,
        };
        let is_about = match &rule.condition {
            Condition::Anomalies(kinds) => packet.anomaly.is_some_and(|kind| kinds.contains(&kind)),
            _ => true,
        };
        // What has passed such a rule before is to pass.
        let is_over = rule.is_enforced && !is_mark && rule.limit.is_none() && rule.condition == Condition::Always;
        if !is_asked && is_over {
            return outcome;
        }
        if !is_asked || !is_about || (was_observed && !rule.is_enforced) {
            continue;
        }
        let mut note = |verdict| outcome.noted.push((rule.name.to_string(), api.to_owned(), verdict));
        if rule.action == Action::Allow {
            if matches!(packet.stage, Stage::Frame | Stage::Buffer) {
                note(Verdict::Pass);
            }
            return outcome;
        }
        if let Some(limit) = &rule.limit {
            let is_tcp = matches!(packet.port, Some((Transport::Tcp, _)));
            let units = match limit.unit {
                Unit::Bytes => packet.bytes,
                Unit::Packets => packet.packets,
                Unit::Connections => u64::from(packet.is_opening && is_tcp),
                _ => 1,
            };
            if units == 0 {
                continue;
            }
            if admits(buckets, place, limit, api, packet, units, now) {
                note(Verdict::Pass);
                continue;
            }
        }
        if !is_mark && packet.is_exempt {
            note(Verdict::Pass);
            if rule.is_enforced {
                return outcome;
            }
            was_observed = true;
            continue;
        }
        note(match (rule.action, rule.is_enforced) {
            (Action::Mark, true) => Verdict::Mark,
            (Action::Mark, false) => Verdict::WouldMark,
            (Action::Drop, true) => Verdict::Drop,
            (Action::Drop, false) => Verdict::WouldDrop,
            (_, true) => Verdict::Reject,
            (_, false) => Verdict::WouldReject,
        });
        match (rule.action, rule.is_enforced) {
            (Action::Mark, true) => outcome.mark = rule.mark,
            (Action::Mark, false) => {}
            (_, false) => was_observed = true,
            (Action::Drop, true) => return Outcome { decision: decision::DROP, ..outcome },
            (_, true) => return Outcome { decision: decision::REJECT, ..outcome },
        }
    }
    outcome
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn tables_decide_as_the_rules_say(guard in guards(), packets in vec(packet(), 1..80)) {
        let apis = apis();
        let mut places = Places::default();
        let tables = compile(&guard, &apis, 1 << 20, &mut places).expect("few rules");
        let (words, mut buckets) = (RefCell::default(), Buckets::default());
        let mut now = SECOND;
        for packet in &packets {
            now += packet.after;
            let outcome = RefCell::default();
            let ours = native(Native { tables: &tables, places: &places, words: &words, packet, now, outcome });
            prop_assert_eq!(ours, naive(&guard, &apis, &mut buckets, packet, now), "{:?}", packet);
        }
    }

    #[test]
    fn what_is_observed_would_do_what_is_done_when_enforced(guard in guards(), packets in vec(packet(), 1..80)) {
        // One rule that is not a mark: with more, what one drops is not offered to the next.
        let mut guard = guard;
        guard.rules.truncate(1);
        prop_assume!(guard.rules.iter().all(|rule| rule.action != Action::Allow));
        let [enforced, observed] = [true, false].map(|is_enforced| {
            let mut guard = guard.clone();
            guard.rules.iter_mut().for_each(|rule| rule.is_enforced = is_enforced);
            let mut places = Places::default();
            let tables = compile(&guard, &apis(), 1 << 20, &mut places).expect("few rules");
            let words = RefCell::default();
            let mut now = SECOND;
            let noted = packets.iter().map(|packet| {
                now += packet.after;
                let outcome = RefCell::default();
                native(Native { tables: &tables, places: &places, words: &words, packet, now, outcome }).noted
            });
            noted.collect::<Vec<_>>()
        });
        let done = |verdict: &Verdict| match verdict {
            Verdict::WouldDrop => Verdict::Drop,
            Verdict::WouldReject => Verdict::Reject,
            Verdict::WouldMark => Verdict::Mark,
            other => *other,
        };
        for (enforced, observed) in enforced.iter().zip(&observed) {
            let done: Vec<_> = observed.iter().map(|(rule, api, verdict)| (rule.clone(), api.clone(), done(verdict))).collect();
            prop_assert_eq!(enforced, &done);
        }
    }
}
