//! A configuration that was read, and whether it can take the place of the one in force.

use std::sync::Arc;

use super::Source;
use crate::{
    accounting::guard::{Compiled, Draft, GuardError},
    api::Api,
    chain::chain,
    config::{ApiSource, Configuration, Fingerprint, read_files::ReadFiles},
    guard::{compile::CompileError, prefixes::PrefixesError},
};

/// Keys that can change while the exporter runs, each with all that is below it.
const CHANGEABLE: [&str; 16] = [
    "anomalies",
    "api",
    "guard.alert_block_for",
    "guard.alert_label",
    "guard.attach",
    "guard.hold",
    "guard.max_blocks",
    "guard.mode",
    "guard.protect",
    "guard.protect_ports",
    "guard.told_clients",
    "interfaces",
    "log.level",
    "response",
    "rule",
    "watch",
];

/// What is in force, as far as it decides what can take its place.
#[derive(Debug)]
pub(super) struct InForce {
    pub(super) fingerprint: Fingerprint,
    pub(super) has_configured_apis: bool,
}

/// Why a configuration was not taken.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Something is wrong with it, or cannot change while the exporter runs.
    Refused(String),
    /// Something else is wrong.
    Failed(String),
}

/// A configuration that can be put in force.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) configuration: Configuration,
    pub(super) rules: Compiled,
}

/// What was read.
#[derive(Debug)]
pub(in crate::daemon) struct Loaded {
    pub(super) files: Option<ReadFiles>,
    /// `Ok(None)` if it is what is in force.
    pub(super) ready: Result<Option<Box<Ready>>, Refusal>,
}

impl InForce {
    pub(super) fn by(configuration: &Configuration) -> Self {
        let has_configured_apis = matches!(configuration.apis, ApiSource::Configured(_));
        Self { fingerprint: configuration.fingerprint.clone(), has_configured_apis }
    }

    pub(super) fn changed_keys<'a>(&'a self, next: &'a Self) -> impl Iterator<Item = &'a str> {
        self.fingerprint.changed_keys(&next.fingerprint).into_iter()
    }

    /// What of `next` cannot be put in force while the exporter runs.
    pub(super) fn need_restart(&self, next: &Self) -> Vec<String> {
        let is_fixed = |key: &&str| !CHANGEABLE.iter().any(|changeable| is_within(key, changeable));
        let mut keys: Vec<_> = self.changed_keys(next).filter(is_fixed).map(str::to_owned).collect();
        if self.has_configured_apis && !next.has_configured_apis {
            // What it takes to look into other processes was given up.
            keys.push("api (none is left, so the listening sockets would be looked for)".to_owned());
        }
        keys
    }
}

impl Loaded {
    pub(super) fn by(source: &Source, in_force: &InForce, draft: Draft, apis: &[Api]) -> Self {
        let (configuration, files) = source.load();
        let ready = configuration
            .map_err(|error| Refusal::Refused(chain(&error)))
            .and_then(|configuration| Ready::by(configuration, in_force, draft, apis));
        Self { files: Some(files), ready: ready.map(|ready| ready.map(Box::new)) }
    }

    pub(super) fn failed(reason: String) -> Self {
        Self { files: None, ready: Err(Refusal::Failed(reason)) }
    }
}

impl Ready {
    pub(super) fn by(
        configuration: Configuration,
        in_force: &InForce,
        draft: Draft,
        apis: &[Api],
    ) -> Result<Option<Self>, Refusal> {
        let next = InForce::by(&configuration);
        if in_force.fingerprint == next.fingerprint {
            return Ok(None);
        }
        let keys = in_force.need_restart(&next);
        if !keys.is_empty() {
            return Err(Refusal::Refused(format!("a restart is needed for a change of: {}", keys.join(", "))));
        }
        let apis = match &configuration.apis {
            ApiSource::Configured(apis) => apis,
            ApiSource::Discovered(_) => apis,
        };
        let rules = draft.compile(Arc::new(configuration.guard.clone()), apis).map_err(|error| match error {
            GuardError::Compile(error) => {
                let is_for_room = matches!(error, CompileError::Prefixes(PrefixesError::TooLarge { .. }));
                let advice =
                    if is_for_room { "; a restart makes room for more than there was at the start" } else { "" };
                Refusal::Refused(format!("{}{advice}", chain(&error)))
            }
            error => Refusal::Failed(chain(&error)),
        })?;
        Ok(Some(Self { configuration, rules }))
    }
}

/// Whether `key` is `outer`, or below it.
pub(super) fn is_within(key: &str, outer: &str) -> bool {
    key.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::{CHANGEABLE, is_within};

    #[test]
    fn a_key_is_within_itself_and_those_around_it() {
        assert!(is_within("api", "api") && is_within("api.0.name", "api"));
        assert!(!is_within("api_token_file", "api") && !is_within("guard.protect_ports.0", "guard.protect"));
        assert!(!CHANGEABLE.iter().any(|key| is_within("guard.clients", key) || is_within("api_token_file", key)));
    }
}
