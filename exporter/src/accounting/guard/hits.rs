//! Whose packets rules have decided about.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::{Duration, SystemTime},
};

use tidewaiter_common::guard::{Hit, Verdict, word};

use super::{GuardRegistry, pairs::names};
use crate::{
    event::{Happening, RuleHits},
    kernel::{Kernel, KernelError},
};

/// How often hits are gathered and told.
const HITS_INTERVAL: Duration = Duration::from_secs(10);

/// How many times as many clients are told of all rules in an interval as of one: whoever forges senders can have each be told of
/// in a line, and lines of before make room for these.
const MOST_RULES_TOLD: usize = 4;

/// How many clients of a replay are told.
const MOST_REPLAYED: Told = Told { each: 256, all: 256 };

/// How many clients are told by their address, those with the most packets: packets of all others are told together.
#[derive(Clone, Copy, Debug)]
struct Told {
    /// For each rule, API and verdict.
    each: usize,
    /// In all.
    all: usize,
}

impl GuardRegistry {
    /// Whose packets were decided about since this was last asked, if that is long enough ago, or if this `is_last`.
    pub(in crate::accounting) fn hits(
        &mut self,
        kernel: &mut Kernel,
        now: SystemTime,
        is_last: bool,
    ) -> Result<Vec<Happening>, KernelError> {
        let Some(since) = self.interval_began else {
            self.interval_began = Some(now);
            return Ok(Vec::new());
        };
        let is_early = now.duration_since(since).is_ok_and(|long| long < HITS_INTERVAL);
        if (is_early && !is_last) || self.pairs.current.is_empty() {
            return Ok(Vec::new());
        }
        let over = self.interval;
        self.interval = over.wrapping_add(1);
        kernel.set_guard_word(word::INTERVAL, self.interval.into())?;
        self.interval_began = Some(now);
        let hits = kernel.hits(over)?;
        let each = self.guard.as_ref().map_or(0, |guard| guard.told_clients);
        let most = Told { each, all: each * MOST_RULES_TOLD };
        let told = self.fold(&hits, since, most).into_iter().map(Happening::RuleHits);
        // Of those it is not known which rule it was.
        let others: u64 = hits.iter().map(|hit| hit.others).sum();
        let more = (others > 0).then_some(Happening::MoreHits { packets: others, since });
        Ok(told.chain(more).collect())
    }

    /// Whose packets were decided about in the interval that goes on.
    pub(in crate::accounting) fn all_hits(&self, kernel: &Kernel) -> Result<Vec<RuleHits>, KernelError> {
        Ok(self.fold(&kernel.hits(self.interval)?, kernel.created(), MOST_REPLAYED))
    }

    fn fold(&self, hits: &[Hit], since: SystemTime, most: Told) -> Vec<RuleHits> {
        let mut by_client: BTreeMap<(u16, u8, IpAddr), u64> = BTreeMap::new();
        for hit in hits {
            *by_client.entry((hit.pair, hit.verdict, hit.client.into())).or_default() += hit.packets;
        }
        let mut ordered: Vec<_> = by_client.into_iter().collect();
        ordered.sort_by_key(|(_, packets)| std::cmp::Reverse(*packets));
        let mut folded: BTreeMap<(u16, u8, Option<IpAddr>), u64> = BTreeMap::new();
        let (mut told, mut all) = (HashMap::<_, usize>::new(), 0);
        for ((pair, verdict, client), packets) in ordered {
            let of_pair = told.entry((pair, verdict)).or_default();
            let client = (*of_pair < most.each && all < most.all).then_some(client);
            *of_pair += usize::from(client.is_some());
            all += usize::from(client.is_some());
            *folded.entry((pair, verdict, client)).or_default() += packets;
        }
        let told = folded.into_iter().filter_map(|((pair, verdict, client), packets)| {
            let (rule, api) = names(self.pairs.records.get(&pair)?)?;
            let verdict = Verdict::ALL.get(usize::from(verdict))?.as_str();
            Some(RuleHits { rule, api, client, verdict, packets, since })
        });
        told.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::UNIX_EPOCH};

    use tidewaiter_common::guard::{GuardCounters, Hit};

    use super::{GuardRegistry, Told};
    use crate::accounting::guard::pairs::record;

    #[test]
    fn of_many_clients_the_largest_are_told_and_the_others_together() {
        let mut registry = GuardRegistry::default();
        let hit = |pair: u16, last: u8| Hit {
            pair,
            client: IpAddr::from([10, 0, 0, last]).into(),
            verdict: 0,
            reserved: 0,
            interval: 0,
            packets: u64::from(last),
            others: 0,
        };
        let mut hits = Vec::new();
        for (pair, rule) in [(1, "one"), (2, "two"), (3, "three")] {
            registry.pairs.records.insert(pair, record(rule, "web", GuardCounters::default()));
            hits.extend((1..=100).map(|last| hit(pair, last)));
        }
        let told = registry.fold(&hits, UNIX_EPOCH, Told { each: 8, all: 20 });
        assert_eq!(told.len(), 20 + 3);
        for rule in ["one", "two", "three"] {
            let of_rule = || told.iter().filter(|hits| &*hits.rule == rule);
            assert_eq!(of_rule().map(|hits| hits.packets).sum::<u64>(), 5050, "none is forgotten");
            let named: Vec<_> = of_rule().filter(|hits| hits.client.is_some()).map(|hits| hits.packets).collect();
            assert!(named.len() <= 8 && named.iter().all(|packets| *packets > 92), "{named:?}");
            assert_eq!(of_rule().filter(|hits| hits.client.is_none()).count(), 1);
        }
        assert_eq!(registry.fold(&hits, UNIX_EPOCH, Told { each: 0, all: 0 }).len(), 3);
    }
}
