//! Configuration of the guard: `[guard]` and `[[rule]]`.

pub mod blocks;
pub mod raw;
mod validate;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ipnet::IpNet;
use tidewaiter_common::{
    anomaly::AnomalyKind,
    guard::{Action, Unit, Verdict},
    limiter::Limit,
};

pub use self::{
    blocks::{BlockSettings, Response},
    raw::GuardAttach,
};
use crate::api::{PortRange, Transport, reserved};

/// How the guard is kept.
#[derive(Clone, Debug)]
pub struct Guard {
    /// Whether rules that are to be enforced are; else all of them are observed.
    pub enforces: bool,
    /// Where packets are judged.
    pub attach: GuardAttach,
    /// How long packets are judged after the exporter was last heard of.
    pub hold: Duration,
    /// Who is always let in.
    pub protect: Vec<IpNet>,
    /// Ports whose established connections are always let in: that of the exporter, and others.
    pub protected_ports: Vec<u16>,
    /// How many clients limits are kept for at a time; memory for them is taken at the start.
    pub clients: u32,
    /// How many clients of a rule and API are told by their address in an interval; all others together.
    pub told_clients: usize,
    /// How blocks are kept.
    pub blocks: BlockSettings,
    /// The rules, in their order.
    pub rules: Vec<Rule>,
}

/// A rule: what is done to whom.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name, unique among rules: the value of the label `rule`.
    pub name: Arc<str>,
    /// Who it is about; everybody if `None`.
    pub from: Option<Vec<IpNet>>,
    /// Who it is not about, of those.
    pub except: Vec<IpNet>,
    /// The APIs that it is about.
    pub apis: ApiMatch,
    /// The transports that it is about; all, and what has none, if empty.
    pub transports: Vec<Transport>,
    /// The ports that it is about; all, and what has none, if empty.
    pub ports: Vec<PortRange>,
    /// What of that it is about.
    pub condition: Condition,
    /// What is let through all the same.
    pub limit: Option<RuleLimit>,
    /// What is done to the rest.
    pub action: Action,
    /// What packets are marked with, if they are.
    pub mark: u32,
    /// Whether it is enforced, not only observed.
    pub is_enforced: bool,
}

/// The APIs that a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiMatch {
    /// All traffic, that of no API too.
    Everything,
    /// That of any API.
    Any,
    /// That of these; `unmapped` may be among them.
    Named(BTreeSet<String>),
}

impl ApiMatch {
    /// Whether traffic of `api` is meant; of none, if that is `unmapped`.
    #[must_use]
    pub fn has(&self, api: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Any => api != reserved::UNMAPPED,
            Self::Named(names) => names.contains(api),
        }
    }
}

/// What of the traffic that it matches a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// All of it.
    Always,
    /// Packets that are such an anomaly.
    Anomalies(BTreeSet<AnomalyKind>),
    /// Payload that its API does not expect.
    UnexpectedPayload,
}

/// The limit of a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleLimit {
    /// What it counts.
    pub unit: Unit,
    /// How many in a second.
    pub rate: f64,
    /// How many at once, after a while without any.
    pub burst: u64,
    /// Who has one of his own.
    pub per: Per,
    /// The same, as the kernel reckons.
    pub limit: Limit,
}

/// Who has a limit of his own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// Each API.
    Api,
    /// Each client of each API: whoever shares so many bits of an address.
    Client {
        /// Of an IPv4 address.
        ipv4_length: u8,
        /// Of an IPv6 address.
        ipv6_length: u8,
    },
}

impl Guard {
    /// Whether there are limits that each client has.
    #[must_use]
    pub fn limits_clients(&self) -> bool {
        let mut limits = self.rules.iter().filter_map(|rule| rule.limit.as_ref());
        limits.any(|limit| matches!(limit.per, Per::Client { .. }))
    }

    /// Whether there is anything to be judged.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.rules.is_empty()
    }

    /// What the rule called `name` can decide about a packet, or blocks if no rule is called so.
    #[must_use]
    pub fn verdicts(&self, name: &str) -> Vec<Verdict> {
        let rule = self.rules.iter().find(|rule| &*rule.name == name);
        let (action, is_enforced) = rule.map_or((Action::Drop, self.enforces), |rule| (rule.action, rule.is_enforced));
        let decided = match (action, is_enforced) {
            (Action::Allow, _) => return vec![Verdict::Pass],
            (Action::Drop, true) => Verdict::Drop,
            (Action::Drop, false) => Verdict::WouldDrop,
            (Action::Reject, true) => Verdict::Reject,
            (Action::Reject, false) => Verdict::WouldReject,
            (Action::Mark, true) => Verdict::Mark,
            (Action::Mark, false) => Verdict::WouldMark,
        };
        // Packets pass that are within a limit, or exempt: but those may be marked, and are not told of where they are blocked.
        let passes = rule.is_some_and(|rule| rule.limit.is_some() || action != Action::Mark);
        passes.then_some(Verdict::Pass).into_iter().chain([decided]).collect()
    }
}
