//! What the rules would have done, and to whom.

use std::{fmt, net::IpAddr};

use serde::Serialize;
use tidewaiter_common::guard::Verdict;

use super::Outcome;
use crate::event::RuleHits;

/// How many clients are listed of each rule, API and verdict: those with the most packets.
const LISTED: usize = 10;

/// What one rule would have done to packets of one API.
#[derive(Debug, Serialize)]
pub(super) struct RuleRow {
    rule: String,
    api: String,
    verdict: &'static str,
    packets: u64,
    /// Those whose packets they were; a packet that passed is nobody's.
    clients: Vec<ClientRow>,
}

#[derive(Debug, Serialize)]
struct ClientRow {
    /// The address; nothing for those that were too many to be told apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    packets: u64,
}

impl fmt::Display for RuleRow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, api, verdict, packets, clients } = self;
        write!(formatter, "{rule:<24} {api:<24} {verdict:<13}{packets:>12}")?;
        for ClientRow { address, packets } in clients {
            let address = address.map_or_else(|| "others".to_owned(), |address| address.to_string());
            write!(formatter, "\n  {address:<60}{packets:>12}")?;
        }
        Ok(())
    }
}

/// A row for each rule, API and verdict that there was.
pub(super) fn rows(outcome: &Outcome) -> Vec<RuleRow> {
    let pairs = outcome.snapshot.guard.iter().flat_map(|guard| &guard.pairs);
    let rows = pairs.flat_map(|pair| {
        let counts = Verdict::ALL.iter().zip(pair.packets).filter(|(_, packets)| *packets > 0);
        counts.map(|(verdict, packets)| {
            let verdict = verdict.as_str();
            let is_of = |hits: &&RuleHits| hits.rule == pair.rule && hits.api == pair.api && hits.verdict == verdict;
            let mut clients: Vec<_> = outcome.hits.iter().filter(is_of).collect();
            clients.sort_by_key(|hits| std::cmp::Reverse(hits.packets));
            let row = |hits: &RuleHits| ClientRow { address: hits.client, packets: hits.packets };
            let mut clients: Vec<_> = clients.into_iter().map(row).collect();
            let told: u64 = clients.iter().map(|row| row.packets).sum();
            // Of more clients than can be told apart it is known how many packets there were of all of them.
            let others = if clients.is_empty() { 0 } else { packets.saturating_sub(told) };
            clients.truncate(LISTED);
            clients.extend((others > 0).then_some(ClientRow { address: None, packets: others }));
            RuleRow { rule: pair.rule.to_string(), api: pair.api.to_string(), verdict, packets, clients }
        })
    });
    rows.collect()
}
