//! Validates `[guard]` and `[[rule]]`.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};
use tidewaiter_common::{
    anomaly::AnomalyKind,
    guard::{Action, MAX_PROTECTED_PORTS, MAX_RULES, Unit},
    limiter::{LEAST_BYTE_BURST, LEAST_PACKET_BURST, Limit, LimitError, MOST_PER_SECOND},
};

use super::{
    ApiMatch, Condition, Guard, Per, Rule, RuleLimit,
    blocks::{RawBlocks, RawResponse},
    raw::{GuardMode, RawAnomaly, RawGuard, RawLimit, RawPer, RawRule},
};
use crate::{
    api::{PortRange, Transport, reserved},
    audit::Hash,
    chain::chain,
    config::{
        ApiSource, Flows,
        error::{Place, Problem},
        one_or_many::OneOrMany,
        validate::Check,
    },
    guard::{
        compile::{NewPairs, compile},
        prefix_file::{LineProblem, PrefixFileError, parse_prefix, read_prefixes},
        reserved as reserved_rules,
    },
};

/// The most characters of a rule's name: it is a label of many series.
const MAX_NAME: usize = 100;

/// The shortest time that the guard may hold without the exporter, which is heard of each second.
const LEAST_HOLD: Duration = Duration::from_secs(5);

/// How many clients limits may be kept for: each takes some 100 bytes of the kernel's memory.
const CLIENTS: std::ops::RangeInclusive<u32> = 1024..=4_194_304;

/// How many clients of a rule may be told in an interval.
const MAX_TOLD_CLIENTS: usize = 256;

/// Seconds that rates are reckoned in: thousandths of a unit a second are exact enough for any rate, and let one be once in a quarter
/// of an hour.
const PERIOD: u32 = 1000;

/// The highest rate.
#[expect(clippy::cast_precision_loss, reason = "2^8 times 10^9, which a float holds exactly")]
const MOST_RATE: f64 = MOST_PER_SECOND as f64;

/// Anomalies that a single packet is: what rules can be about. The others are found over time, and can be responded to.
const OF_PACKETS: [AnomalyKind; 5] = [
    AnomalyKind::BadTcpFlags,
    AnomalyKind::Land,
    AnomalyKind::Malformed,
    AnomalyKind::TinyFragment,
    AnomalyKind::UnexpectedProtocol,
];

impl Check<'_> {
    /// What the guard is to do. `listen` is where the exporter serves HTTP.
    pub(in crate::config) fn guard(
        &mut self,
        raw: RawGuard,
        rules: Vec<RawRule>,
        responses: Vec<RawResponse>,
        apis: &ApiSource,
        flows: Flows,
        listen: SocketAddr,
    ) -> Guard {
        let RawGuard {
            mode,
            attach,
            hold,
            protect,
            protect_ports,
            clients,
            told_clients,
            max_blocks,
            state,
            socket,
            alert_label,
            alert_block_for,
        } = raw;
        let blocks = RawBlocks { max_blocks, state, socket, alert_label, alert_block_for };
        let blocks = self.blocks(blocks, responses, apis);
        if hold.0 < LEAST_HOLD {
            let found = humantime::format_duration(hold.0);
            self.problem("guard.hold", format!("found \"{found}\", expected at least \"5s\""));
        }
        let in_range = u32::try_from(clients).ok().filter(|clients| CLIENTS.contains(clients));
        let clients = in_range.unwrap_or_else(|| {
            let (least, most) = (CLIENTS.start(), CLIENTS.end());
            self.problem("guard.clients", format!("found {clients}, expected {least} to {most}"));
            *least
        });
        let in_range = usize::try_from(told_clients).ok().filter(|clients| *clients <= MAX_TOLD_CLIENTS);
        let told_clients = in_range.unwrap_or_else(|| {
            self.problem("guard.told_clients", format!("found {told_clients}, expected 0 to {MAX_TOLD_CLIENTS}"));
            0
        });
        let mut protected_ports = vec![listen.port()];
        protected_ports.extend(protect_ports.iter().filter(|port| **port != listen.port()));
        protected_ports.retain(|port| *port != 0);
        if protected_ports.len() > MAX_PROTECTED_PORTS {
            let most = MAX_PROTECTED_PORTS - 1;
            self.problem(
                "guard.protect_ports",
                format!("found {} ports, expected at most {most}", protect_ports.len()),
            );
        }
        let enforces = mode == GuardMode::Enforce;
        let protect = self.prefixes("guard.protect", Some(protect), None).unwrap_or_default();
        if rules.len() > usize::from(MAX_RULES) {
            self.problem("rule", format!("found {} rules, expected at most {MAX_RULES}", rules.len()));
        }
        let known = match apis {
            ApiSource::Configured(apis) => Some(apis.as_slice()),
            // Whatever listens becomes one, sooner or later.
            ApiSource::Discovered(_) => None,
        };
        let mut names = HashSet::new();
        let mut checked = Vec::new();
        for (place, rule) in rules.into_iter().enumerate() {
            self.rule_name(place, &rule.name, &mut names);
            self.rule_apis(place, rule.api.as_ref(), known);
            checked.push(self.rule(place, rule, enforces, flows));
        }
        self.contradictions(&checked);
        let guard = Guard {
            enforces,
            attach,
            hold: hold.0,
            protect,
            protected_ports,
            clients,
            told_clients,
            blocks,
            rules: checked,
        };
        self.tables(&guard, known);
        guard
    }

    /// Sees that the kernel's tables have room for `guard`, as far as it is known for which APIs.
    fn tables(&mut self, guard: &Guard, apis: Option<&[crate::api::Api]>) {
        // What is wrong with single rules would be told twice, or once more as nonsense.
        let Some(apis) = apis.filter(|_| guard.is_on() && self.is_fine()) else { return };
        if let Err(error) = compile(guard, apis, usize::MAX, &mut NewPairs::default()) {
            self.problem("rule", error.to_string());
        }
    }

    fn rule_name(&mut self, place: usize, name: &str, names: &mut HashSet<String>) {
        let complaint = if name.trim().is_empty() {
            "expected a name that is not empty".to_owned()
        } else if name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
            format!("expected at most {MAX_NAME} characters, none of them a control character")
        } else if reserved_rules::NAMES.contains(&name) {
            "this name is reserved, expected another".to_owned()
        } else if !names.insert(name.to_owned()) {
            "another rule has this name, expected one of its own".to_owned()
        } else {
            return;
        };
        self.problem(format!("rule.{place}.name"), format!("found {name:?}, {complaint}"));
    }

    fn rule_apis(&mut self, place: usize, names: Option<&OneOrMany<String>>, known: Option<&[crate::api::Api]>) {
        let key = format!("rule.{place}.api");
        let Some(OneOrMany(names)) = names else { return };
        if names.is_empty() {
            self.problem(&key, "found an empty list, expected at least one name, or no key at all".to_owned());
        }
        if names.len() > 1 && names.iter().any(|name| name == "*") {
            self.problem(&key, "found \"*\" among others, expected it alone: it is all of them".to_owned());
        }
        for name in names.iter().filter(|name| !matches!(name.as_str(), "*" | reserved::UNMAPPED)) {
            let Some(known) = known else { continue };
            match known.iter().find(|api| api.name == *name) {
                None => {
                    let mut all: Vec<_> = known.iter().map(|api| format!("{:?}", api.name)).collect();
                    all.truncate(10);
                    let all = all.join(", ");
                    self.problem(
                        &key,
                        format!("found {name:?}, which is no API, expected one of {all}, \"unmapped\" or \"*\""),
                    );
                }
                Some(api) if api.role != crate::api::Role::Server => {
                    let expected = "expected an API whose role is \"server\": rules are about what this host is sent";
                    self.problem(&key, format!("found {name:?}, which this host calls, {expected}"));
                }
                Some(_) => {}
            }
        }
    }

    fn rule(&mut self, place: usize, raw: RawRule, enforces: bool, flows: Flows) -> Rule {
        let RawRule {
            name,
            from,
            from_file,
            except,
            except_file,
            api,
            transport,
            ports,
            anomaly,
            payload,
            limit,
            action,
            mark,
            mode,
        } = raw;
        let key = |part: &str| format!("rule.{place}.{part}");
        let action = action.0;
        let from = self.prefixes(&key("from"), from, from_file);
        let except = self.prefixes(&key("except"), except, except_file).unwrap_or_default();
        let apis = match api {
            None => ApiMatch::Everything,
            Some(OneOrMany(names)) if names.iter().any(|name| name == "*") => ApiMatch::Any,
            Some(OneOrMany(names)) => ApiMatch::Named(names.into_iter().collect()),
        };
        let mut transports: Vec<_> = transport.into_iter().flat_map(|some| some.0).map(Transport::from).collect();
        transports.sort_unstable();
        transports.dedup();
        let condition = match (anomaly, payload) {
            (Some(_), Some(_)) => {
                self.problem(key("payload"), "found beside \"anomaly\", expected one of them".to_owned());
                Condition::Always
            }
            (None, Some(_)) => Condition::UnexpectedPayload,
            (Some(OneOrMany(kinds)), None) => self.anomalies_of_rule(&key("anomaly"), &kinds),
            (None, None) => Condition::Always,
        };
        let limit = limit.and_then(|limit| self.limit(&key("limit"), &limit));
        if action == Action::Allow {
            let about = [(limit.is_some(), "limit"), (mode.is_some(), "mode"), (payload.is_some(), "payload")];
            for (_, part) in about.into_iter().filter(|(is_there, _)| *is_there) {
                self.problem(
                    key(part),
                    "found in a rule that allows, expected none: it lets pass all that it matches".to_owned(),
                );
            }
        }
        let is_about_requests = limit.as_ref().is_some_and(|limit| limit.unit == Unit::Requests);
        if is_about_requests && action == Action::Drop {
            let expected =
                "expected \"reject\" or \"mark\" for requests_per_second: TCP would send what is dropped again";
            self.problem(key("action"), format!("found \"drop\", {expected}"));
        }
        if flows.capacity == 0 && (is_about_requests || payload.is_some()) {
            let expected =
                "expected none while flows.capacity is 0: requests and payload are known of flows that are kept";
            self.problem(key(if is_about_requests { "limit" } else { "payload" }), expected.to_owned());
        }
        let mark = match (action, mark) {
            (Action::Mark, Some(mark)) => u32::try_from(mark).ok().filter(|mark| *mark != 0).unwrap_or_else(|| {
                self.problem(key("mark"), format!("found {mark}, expected 1 to {}", u32::MAX));
                0
            }),
            (Action::Mark, None) => {
                self.problem(
                    key("action"),
                    "found \"mark\", expected a key \"mark\" beside it, with a number".to_owned(),
                );
                0
            }
            (_, Some(_)) => {
                self.problem(
                    key("mark"),
                    "found beside another action, expected it with action = \"mark\" alone".to_owned(),
                );
                0
            }
            (_, None) => 0,
        };
        let is_enforced = action == Action::Allow || (enforces && mode == Some(GuardMode::Enforce));
        Rule {
            name: Arc::from(name),
            from,
            except,
            apis,
            transports,
            ports: ports.unwrap_or_default(),
            condition,
            limit,
            action,
            mark,
            is_enforced,
        }
    }

    fn anomalies_of_rule(&mut self, key: &str, kinds: &[RawAnomaly]) -> Condition {
        if kinds.is_empty() {
            self.problem(key, "found an empty list, expected at least one anomaly, or no key at all".to_owned());
        }
        for kind in kinds.iter().filter(|kind| !OF_PACKETS.contains(&kind.0)) {
            let all: Vec<_> = OF_PACKETS.iter().map(|kind| format!("{:?}", kind.as_str())).collect();
            let hint =
                if kind.0 == AnomalyKind::UnexpectedPayload { "payload = \"unexpected\"" } else { "a [[response]]" };
            self.problem(
                key,
                format!("found \"{kind}\", which no single packet is, expected {} (or {hint})", all.join(", ")),
            );
        }
        Condition::Anomalies(kinds.iter().map(|kind| kind.0).collect())
    }

    fn limit(&mut self, key: &str, raw: &RawLimit) -> Option<RuleLimit> {
        let rates = [
            (Unit::Connections, raw.connections_per_second),
            (Unit::Packets, raw.packets_per_second),
            (Unit::Bytes, raw.bytes_per_second),
            (Unit::Requests, raw.requests_per_second),
        ];
        let mut given = rates.into_iter().filter_map(|(unit, rate)| Some((unit, rate?)));
        let (Some((unit, rate)), None) = (given.next(), given.next()) else {
            let all: Vec<_> = rates.iter().map(|(unit, _)| format!("\"{}\"", unit.as_str())).collect();
            self.problem(key, format!("expected exactly one of {}", all.join(", ")));
            return None;
        };
        let units = (rate * f64::from(PERIOD)).round();
        let name = format!("{key}.{}", unit.as_str());
        let complaint = if rate > MOST_RATE {
            Some(format!("found {rate}, expected at most {MOST_PER_SECOND}"))
        } else if units >= 1.0 {
            None
        } else {
            // What is no number too.
            Some(format!("found {rate}, expected at least 0.001"))
        };
        if let Some(complaint) = complaint {
            self.problem(name, complaint);
            return None;
        }
        let least = match unit {
            Unit::Bytes => LEAST_BYTE_BURST,
            Unit::Packets => LEAST_PACKET_BURST,
            _ => 1,
        };
        #[expect(clippy::cast_sign_loss, reason = "above 0 and below 2^63, as was just seen")]
        let [units, in_a_second] = [units, rate.ceil()].map(|number| number as u64);
        let burst = match raw.burst {
            None => in_a_second.max(least),
            Some(burst) => u64::try_from(burst).ok().filter(|burst| *burst >= least).unwrap_or_else(|| {
                let why = if least > 1 { ": the stack may see as much at once" } else { "" };
                self.problem(format!("{key}.burst"), format!("found {burst}, expected at least {least}{why}"));
                least
            }),
        };
        let per = self.per(key, raw);
        match Limit::new(units, Duration::from_secs(PERIOD.into()), burst) {
            Ok(limit) => Some(RuleLimit { unit, rate, burst, per, limit }),
            Err(error) => {
                let is_of_burst = matches!(error, LimitError::TooSlow { .. }) && raw.burst.is_some();
                self.problem(if is_of_burst { format!("{key}.burst") } else { name }, error.to_string());
                None
            }
        }
    }

    fn per(&mut self, key: &str, raw: &RawLimit) -> Per {
        let mut length = |name: &str, length: Option<i64>, most: u8| match length {
            None => most,
            Some(_) if raw.per == RawPer::Api => {
                self.problem(
                    format!("{key}.{name}"),
                    "found without per = \"client\", expected both or none".to_owned(),
                );
                most
            }
            Some(length) => {
                u8::try_from(length).ok().filter(|length| (1..=most).contains(length)).unwrap_or_else(|| {
                    self.problem(format!("{key}.{name}"), format!("found {length}, expected 1 to {most}"));
                    most
                })
            }
        };
        let (ipv4_length, ipv6_length) =
            (length("ipv4_prefix", raw.ipv4_prefix, 32), length("ipv6_prefix", raw.ipv6_prefix, 128));
        match raw.per {
            RawPer::Api => Per::Api,
            RawPer::Client => Per::Client { ipv4_length, ipv6_length },
        }
    }

    /// The prefixes that are written at `key`, and in the files that are named beside it; `None` if there is neither key.
    fn prefixes(
        &mut self,
        key: &str,
        inline: Option<OneOrMany<String>>,
        files: Option<OneOrMany<PathBuf>>,
    ) -> Option<Vec<IpNet>> {
        if inline.is_none() && files.is_none() {
            return None;
        }
        let mut prefixes = Vec::new();
        for (place, text) in inline.into_iter().flat_map(|some| some.0).enumerate() {
            match parse_prefix(&text) {
                Ok(prefix) => prefixes.push(prefix),
                Err(error) => self.problem(format!("{key}.{place}"), error.to_string()),
            }
        }
        for (place, path) in files.into_iter().flat_map(|some| some.0).enumerate() {
            let path = self.resolved(&format!("{key}_file.{place}"), path);
            self.files.note(&path);
            match read_prefixes(&path) {
                Ok(read) => {
                    self.contents.push((format!("{key}_file.{place}.prefixes"), summary(&read)));
                    prefixes.extend(read);
                }
                Err(PrefixFileError::Invalid { path, problems, more }) => self.prefix_lines(key, &path, problems, more),
                Err(error) => self.problem(format!("{key}_file"), chain(&error)),
            }
        }
        prefixes.sort_unstable();
        prefixes.dedup();
        Some(prefixes)
    }

    /// Notes what is wrong with lines of a file of prefixes.
    fn prefix_lines(&mut self, key: &str, path: &Path, problems: Vec<LineProblem>, more: usize) {
        let lines = problems.into_iter().map(|LineProblem { line, error }| (Some(line), error.to_string()));
        let rest = (more > 0).then(|| (None, format!("{more} more lines like these")));
        for (line, message) in lines.chain(rest) {
            let place = Place::File { path: path.to_owned(), line };
            self.note(Problem { key: format!("{key}_file"), place, message });
        }
    }

    /// Sees that each rule can be the one that decides: not that another one before it decides about the same.
    fn contradictions(&mut self, rules: &[Rule]) {
        #[derive(PartialEq, Eq, Hash)]
        struct Matched<'a> {
            from: Option<&'a [IpNet]>,
            except: &'a [IpNet],
            apis: Option<BTreeSet<&'a str>>,
            is_any: bool,
            transports: &'a [Transport],
            ports: &'a [PortRange],
            condition: Option<BTreeSet<u8>>,
            is_about_payload: bool,
        }

        fn matched(rule: &Rule) -> Matched<'_> {
            let Rule { from, except, apis, transports, ports, condition, .. } = rule;
            Matched {
                from: from.as_deref(),
                except,
                apis: match apis {
                    ApiMatch::Named(names) => Some(names.iter().map(String::as_str).collect()),
                    _ => None,
                },
                is_any: *apis == ApiMatch::Any,
                transports,
                ports,
                condition: match condition {
                    Condition::Anomalies(kinds) => Some(kinds.iter().map(|kind| *kind as u8).collect()),
                    _ => None,
                },
                is_about_payload: *condition == Condition::UnexpectedPayload,
            }
        }

        let mut deciding: HashMap<_, &Rule> = HashMap::new();
        for (place, rule) in rules.iter().enumerate() {
            let matched = matched(rule);
            if let Some(before) = deciding.get(&matched) {
                let message = format!(
                    "found {:?}, which is about the same as {:?} before it, and that decides it all: expected another match, or one \
                     of them gone",
                    rule.name, before.name
                );
                self.problem(format!("rule.{place}.name"), message);
            } else if rule.limit.is_none() && rule.action != Action::Mark {
                deciding.insert(matched, rule);
            }
        }
    }
}

/// How many prefixes there are, and a hash of them: what tells one list from another.
fn summary(prefixes: &[IpNet]) -> String {
    let mut hasher = Sha256::new();
    for prefix in prefixes {
        hasher.update(format!("{prefix}\n"));
    }
    format!("{} ({})", prefixes.len(), Hash::from(hasher))
}
