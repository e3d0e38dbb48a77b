//! What a guard resolves to.

use std::fmt::Display;

use tidewaiter_common::guard::Action;

use crate::config::guard::{ApiMatch, BlockSettings, Condition, Guard, GuardAttach, Per, Response, Rule, RuleLimit};

/// How `guard` is kept, and its rules in their order: of each part what it is called, and what it comes to.
pub(super) fn guarded(guard: &Guard) -> Vec<(&'static str, String)> {
    let Guard { enforces, attach, hold, protect, protected_ports, clients, told_clients: _, blocks, rules } = guard;
    if !guard.is_on() {
        let mut lines = vec![("guard", "no rules: everything passes".to_owned())];
        lines.extend(blocked(blocks));
        return lines;
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
    lines.extend(blocked(blocks));
    lines
}

/// How blocks are kept, who asks for them, and what anomalies are responded to.
fn blocked(blocks: &BlockSettings) -> Vec<(&'static str, String)> {
    let BlockSettings { capacity, state, socket, alert_label, alert_block_for, responses } = blocks;
    let alert_block_for = humantime::format_duration(*alert_block_for);
    let mut lines = vec![
        ("blocks", format!("at most {capacity}, kept over a restart in {}", state.display())),
        (
            "",
            format!(
                "by command at {}, by alert of whom the label {alert_label} names for {alert_block_for}",
                socket.display()
            ),
        ),
    ];
    lines.extend(responses.iter().map(|response| ("response", responded(response))));
    lines
}

fn responded(Response { on, apis, block_for, ipv4_length, ipv6_length }: &Response) -> String {
    let apis = apis.as_ref().map_or(String::new(), |apis| format!(" of {}", join(apis)));
    let (on, block_for) = (join(on.iter().map(|kind| kind.as_str())), humantime::format_duration(*block_for));
    format!("whoever makes {on}{apis} is blocked for {block_for} (/{ipv4_length} of IPv4, /{ipv6_length} of IPv6)")
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
    let mut words = vec![format!("{name}: {}", action.as_str())];
    if *action == Action::Mark {
        words.push(format!("with {mark}"));
    }
    words.push(match condition {
        Condition::Always => "packets".to_owned(),
        Condition::Anomalies(kinds) => format!("packets that are {}", join(kinds.iter().map(|kind| kind.as_str()))),
        Condition::UnexpectedPayload => "unexpected payload".to_owned(),
    });
    match apis {
        ApiMatch::Everything => {}
        ApiMatch::Any => words.push("of any API".to_owned()),
        ApiMatch::Named(names) => words.push(format!("of {}", join(names))),
    }
    if !transports.is_empty() {
        words.push(format!("by {}", join(transports.iter().map(|transport| transport.as_str()))));
    }
    if !ports.is_empty() {
        words.push(format!("to port {}", join(ports)));
    }
    words.push(from.as_ref().map_or("from everybody".to_owned(), |from| format!("from {}", prefixes(from))));
    if !except.is_empty() {
        words.push(format!("but {}", prefixes(except)));
    }
    words.extend(limit.as_ref().map(limited));
    let mode = match (action, is_enforced) {
        (Action::Allow, _) => "",
        (_, true) => ", enforced",
        (_, false) => ", observed alone",
    };
    words.join(" ") + mode
}

fn limited(limit: &RuleLimit) -> String {
    let RuleLimit { unit, rate, burst, per, limit: _ } = limit;
    let per = match per {
        Per::Api => "API".to_owned(),
        Per::Client { ipv4_length: 32, ipv6_length: 128 } => "client".to_owned(),
        Per::Client { ipv4_length, ipv6_length } => format!("client (/{ipv4_length} of IPv4, /{ipv6_length} of IPv6)"),
    };
    format!("beyond {rate} {} (burst {burst}) per {per}", unit.as_str().replace('_', " "))
}

/// `values`, with commas between them.
fn join(values: impl IntoIterator<Item: Display>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(", ")
}
