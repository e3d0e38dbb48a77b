//! Configuration of blocks: what of `[guard]` is about them, and `[[response]]`.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use tidewaiter_common::{anomaly::AnomalyKind, guard::MAX_BLOCKS};

use super::raw::RawAnomaly;
use crate::{
    anomaly::thresholds::Thresholds,
    api::{Api, Role, reserved},
    blocks::{LONGEST, SHORTEST},
    config::{ApiSource, Flows, one_or_many::OneOrMany, raw::Interval, validate::Check},
};

/// Where the control socket is, unless a configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/tidewaiter/control.sock";

/// The most responses there can be: each is asked about each anomaly that is told.
const MAX_RESPONSES: usize = 64;

/// Anomalies that are found in flows, or while flows are kept.
const FOUND_IN_FLOWS: [AnomalyKind; 5] = [
    AnomalyKind::UnexpectedPayload,
    AnomalyKind::PortScan,
    AnomalyKind::SynFlood,
    AnomalyKind::ConnectionChurn,
    AnomalyKind::Amplification,
];

/// The most characters of a label's name.
const MAX_LABEL: usize = 100;

/// How blocks are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockSettings {
    /// How many there can be at a time.
    pub capacity: u32,
    /// Where they are kept over a restart.
    pub state: PathBuf,
    /// Where the command line finds the exporter.
    pub socket: PathBuf,
    /// The label of Alertmanager's alerts that says whom to block.
    pub alert_label: String,
    /// How long an alert blocks, unless it says so itself.
    pub alert_block_for: Duration,
    /// What anomalies are responded to with.
    pub responses: Vec<Response>,
}

/// Has those blocked who make an anomaly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The anomalies.
    pub on: BTreeSet<AnomalyKind>,
    /// The APIs that they are anomalies of; all, and what is no API's, if `None`.
    pub apis: Option<BTreeSet<String>>,
    /// How long they are blocked.
    pub block_for: Duration,
    /// The bits of an IPv4 address that are blocked.
    pub ipv4_length: u8,
    /// The bits of an IPv6 address that are.
    pub ipv6_length: u8,
}

/// What a user may write of blocks in `[guard]`.
#[derive(Clone, Debug)]
pub(super) struct RawBlocks {
    pub(super) max_blocks: i64,
    pub(super) state: PathBuf,
    pub(super) socket: PathBuf,
    pub(super) alert_label: String,
    pub(super) alert_block_for: Interval,
}

/// `[[response]]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct RawResponse {
    /// The anomalies.
    pub on: OneOrMany<RawAnomaly>,
    /// How long who makes them is blocked.
    pub block_for: Interval,
    /// The APIs that they are anomalies of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<OneOrMany<String>>,
    /// The bits of an IPv4 address that are blocked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4_prefix: Option<i64>,
    /// The bits of an IPv6 address that are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_prefix: Option<i64>,
}

impl Check<'_> {
    /// How blocks are kept, and what they respond to.
    pub(super) fn blocks(&mut self, raw: RawBlocks, responses: Vec<RawResponse>, apis: &ApiSource) -> BlockSettings {
        let RawBlocks { max_blocks, state, socket, alert_label, alert_block_for } = raw;
        let in_range = u32::try_from(max_blocks).ok().filter(|most| (1..=MAX_BLOCKS).contains(most));
        if in_range.is_none() {
            self.problem("guard.max_blocks", format!("found {max_blocks}, expected 1 to {MAX_BLOCKS}"));
        }
        for (key, path) in [("guard.state", &state), ("guard.socket", &socket)] {
            if !path.is_absolute() || path.file_name().is_none() {
                let found = path.display().to_string();
                self.problem(key, format!("found {found:?}, expected an absolute path of a file"));
            }
        }
        if alert_label.is_empty() || alert_label.chars().count() > MAX_LABEL {
            self.problem("guard.alert_label", format!("expected a name of 1 to {MAX_LABEL} characters"));
        }
        self.block_period("guard.alert_block_for", alert_block_for.0);
        if responses.len() > MAX_RESPONSES {
            self.problem("response", format!("found {} responses, expected at most {MAX_RESPONSES}", responses.len()));
        }
        let known = match apis {
            ApiSource::Configured(apis) => Some(apis.as_slice()),
            // Whatever listens becomes one, sooner or later.
            ApiSource::Discovered(_) => None,
        };
        let responses = responses.into_iter().enumerate();
        BlockSettings {
            capacity: in_range.unwrap_or(1),
            state,
            socket,
            alert_label,
            alert_block_for: alert_block_for.0,
            responses: responses.map(|(place, raw)| self.response(place, raw, known)).collect(),
        }
    }

    /// Sees that each response can be one: that what it responds to is looked for, and can be of its APIs.
    pub(in crate::config) fn responses(
        &mut self,
        responses: &[Response],
        anomalies: &Thresholds,
        flows: Flows,
        apis: &ApiSource,
    ) {
        for (place, Response { on, apis: names, .. }) in responses.iter().enumerate() {
            for kind in on.iter().filter(|kind| !anomalies.is_enabled(**kind)) {
                let kind = kind.as_str();
                let expected = format!("which is not looked for: expected another, or anomalies.{kind}.enabled = true");
                self.problem(format!("response.{place}.on"), format!("found {kind:?}, {expected}"));
            }
            for kind in on.iter().filter(|kind| flows.capacity == 0 && FOUND_IN_FLOWS.contains(kind)) {
                let expected = "expected another while flows.capacity is 0: it is found in flows that are kept";
                self.problem(format!("response.{place}.on"), format!("found {:?}, {expected}", kind.as_str()));
            }
            let ApiSource::Configured(known) = apis else { continue };
            let is_client = |name: &&String| known.iter().any(|api| api.name == **name && api.role != Role::Server);
            for name in names.iter().flatten().filter(is_client) {
                let expected = "expected an API whose role is \"server\": servers that this host calls are not blocked";
                self.problem(format!("response.{place}.api"), format!("found {name:?}, {expected}"));
            }
        }
    }

    fn block_period(&mut self, key: &str, period: Duration) {
        if !(SHORTEST..=LONGEST).contains(&period) {
            let [found, least, most] = [period, SHORTEST, LONGEST].map(humantime::format_duration);
            self.problem(key, format!("found \"{found}\", expected \"{least}\" to \"{most}\""));
        }
    }

    fn response(&mut self, place: usize, raw: RawResponse, known: Option<&[Api]>) -> Response {
        let RawResponse { on: OneOrMany(on), block_for, api, ipv4_prefix, ipv6_prefix } = raw;
        let key = |name: &str| format!("response.{place}.{name}");
        if on.is_empty() {
            self.problem(key("on"), "found an empty list, expected at least one anomaly".to_owned());
        }
        if on.iter().any(|kind| kind.0 == AnomalyKind::Land) {
            let message =
                "found \"land\", whose source is this host's own address: expected another, or a rule about it";
            self.problem(key("on"), message.to_owned());
        }
        self.block_period(&key("block_for"), block_for.0);
        let apis = api.map(|OneOrMany(names)| self.response_apis(&key("api"), names, known));
        let mut length = |name: &str, length: Option<i64>, least: u8, most: u8, default: u8| match length {
            None => default,
            Some(length) => {
                u8::try_from(length).ok().filter(|length| (least..=most).contains(length)).unwrap_or_else(|| {
                    self.problem(key(name), format!("found {length}, expected {least} to {most}"));
                    most
                })
            }
        };
        // Who has one IPv6 address has a whole network of them.
        let ipv4_length = length("ipv4_prefix", ipv4_prefix, 16, 32, 32);
        let ipv6_length = length("ipv6_prefix", ipv6_prefix, 32, 128, 64);
        Response {
            on: on.into_iter().map(|kind| kind.0).collect(),
            apis,
            block_for: block_for.0,
            ipv4_length,
            ipv6_length,
        }
    }

    fn response_apis(&mut self, key: &str, names: Vec<String>, known: Option<&[Api]>) -> BTreeSet<String> {
        if names.is_empty() {
            self.problem(key, "found an empty list, expected at least one name, or no key at all".to_owned());
        }
        for name in names.iter().filter(|name| *name != reserved::UNMAPPED) {
            if known.is_some_and(|known| known.iter().all(|api| api.name != *name)) {
                self.problem(key, format!("found {name:?}, which is no API, expected the name of one or \"unmapped\""));
            }
        }
        names.into_iter().collect()
    }
}
