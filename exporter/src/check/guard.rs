//! What a guard resolves to.

use std::fmt::Display;

use tidewaiter_common::guard::Action;

use crate::config::guard::{ApiMatch, Condition, Guard, GuardAttach, Per, Rule, RuleLimit};

/// How `guard` is kept, and its rules in their order: of each part what it is called, and what it comes to.
pub(super) fn guarded(guard: &Guard) -> Vec<(&'static str, String)> {
    let Guard { enforces, attach, hold, protect, protected_ports, clients, rules } = guard;
    if !guard.is_on() {
        return vec![("guard", "no rules: everything passes".to_owned())];
    }
    let mode = if *enforces { "each rule as it says" } else { "all rules observed alone" };
    let place = match attach {
        GuardAttach::Auto => "by XDP where the driver has it, else in TC",
        GuardAttach::Xdp => "by XDP alone",
        GuardAttach::Tc => "in TC",
    };
    let hold = humantime::format_duration(*hold);
    let mut lines = vec![
        ("guard", format!("{mode}, {place}; everything passes {hold} after the exporter was last heard of")),
        ("", format!("always let in: established connections to port {}", join(protected_ports))),
    ];
    if !protect.is_empty() {
        lines.push(("", format!("always let in: whoever is in {}", prefixes(protect))));
    }
    lines.push(("", format!("limits are kept for at most {clients} clients")));
    lines.extend(rules.iter().map(|rule| ("rule", ruled(rule))));
    lines
}

/// How many prefixes are written out: there may be a hundred thousand.
const WRITTEN_OUT: usize = 4;

fn prefixes(prefixes: &[ipnet::IpNet]) -> String {
    match prefixes.len().saturating_sub(WRITTEN_OUT) {
        0 if prefixes.is_empty() => "no prefix".to_owned(),
        0 => join(prefixes),
        more => format!("{} and {more} more", join(prefixes.iter().take(WRITTEN_OUT))),
    }
}

fn ruled(rule: &Rule) -> String {
    let Rule { name, from, except, apis, transports, ports, condition, limit, action, mark, is_enforced } = rule;
    let mut text = format!("{name}: {}", action.as_str());
    if *action == Action::Mark {
        text += &format!(" with {mark}");
    }
    text += match condition {
        Condition::Always => " packets",
        Condition::Anomalies(_) => " packets that are ",
        Condition::UnexpectedPayload => " unexpected payload",
    };
    if let Condition::Anomalies(kinds) = condition {
        text += &join(kinds.iter().map(|kind| kind.as_str()));
    }
    match apis {
        ApiMatch::Everything => {}
        ApiMatch::Any => text += " of any API",
        ApiMatch::Named(names) => text += &format!(" of {}", join(names)),
    }
    if !transports.is_empty() {
        text += &format!(" by {}", join(transports.iter().map(|transport| transport.as_str())));
    }
    if !ports.is_empty() {
        text += &format!(" to port {}", join(ports));
    }
    match from {
        None => text += " from everybody",
        Some(from) => text += &format!(" from {}", prefixes(from)),
    }
    if !except.is_empty() {
        text += &format!(" but {}", prefixes(except));
    }
    if let Some(RuleLimit { unit, rate, burst, per, limit: _ }) = limit {
        text += &format!(" beyond {rate} {} (burst {burst}) ", unit.as_str().replace('_', " "));
        text += &match per {
            Per::Api => "per API".to_owned(),
            Per::Client { ipv4_length: 32, ipv6_length: 128 } => "per client".to_owned(),
            Per::Client { ipv4_length, ipv6_length } => {
                format!("per client (/{ipv4_length} of IPv4, /{ipv6_length} of IPv6)")
            }
        };
    }
    if *action != Action::Allow {
        text += if *is_enforced { ", enforced" } else { ", observed alone" };
    }
    text
}

/// `values`, with commas between them.
fn join(values: impl IntoIterator<Item: Display>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(", ")
}
