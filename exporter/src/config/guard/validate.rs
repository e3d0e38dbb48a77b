//! Validates `[guard]` and `[[rule]]`.

mod contradictions;
mod limits;
mod prefixes;

use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Duration};

use tidewaiter_common::{
    anomaly::AnomalyKind,
    guard::{Action, MAX_PROTECTED_PORTS, MAX_RULES, Unit},
};

use super::{
    ApiMatch, Condition, Guard, Rule,
    blocks::{RawBlocks, RawResponse},
    raw::{GuardMode, RawAnomaly, RawGuard, RawRule},
};
use crate::{
    api::{Transport, reserved},
    config::{ApiSource, Flows, one_or_many::OneOrMany, validate::Check},
    guard::{
        compile::{NewPairs, compile},
        reserved as reserved_rules,
    },
};

/// The most characters of a rule's name: it is a label of many series.
const MAX_NAME: usize = 100;

/// The shortest time that the guard may hold without the exporter, which is heard of each second.
const LEAST_HOLD: Duration = Duration::from_secs(5);

/// How many clients limits may be kept for: each takes 64 bytes of the kernel's memory.
const CLIENTS: std::ops::RangeInclusive<u32> = 1024..=4_194_304;

/// How many clients of a rule may be told in an interval.
const MAX_TOLD_CLIENTS: usize = 256;

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
}
