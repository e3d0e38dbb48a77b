//! Rules that can never decide.

use std::collections::{BTreeSet, HashMap};

use ipnet::IpNet;
use tidewaiter_common::guard::Action;

use crate::{
    api::{PortRange, Transport},
    config::{
        guard::{ApiMatch, Condition, Rule},
        validate::Check,
    },
};

impl Check<'_> {
    /// Sees that each rule can be the one that decides: not that another one before it decides about the same.
    pub(super) fn contradictions(&mut self, rules: &[Rule]) {
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
