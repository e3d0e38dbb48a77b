//! Whose packets rules have decided about.

use std::{
    collections::BTreeMap,
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

/// How many hits of an interval are told by client, at most: the rest is told without.
const MOST_HITS: usize = 256;

impl GuardRegistry {
    /// Whose packets were decided about since this was last asked, if that is long enough ago.
    pub(in crate::accounting) fn hits(
        &mut self,
        kernel: &mut Kernel,
        now: SystemTime,
    ) -> Result<Vec<Happening>, KernelError> {
        let Some(since) = self.interval_began else {
            self.interval_began = Some(now);
            return Ok(Vec::new());
        };
        if now.duration_since(since).is_ok_and(|long| long < HITS_INTERVAL) || self.pairs.current.is_empty() {
            return Ok(Vec::new());
        }
        let over = self.interval;
        self.interval = over.wrapping_add(1);
        kernel.set_guard_word(word::INTERVAL, self.interval.into())?;
        self.interval_began = Some(now);
        let hits = kernel.hits(over)?;
        let told = self.fold(&hits, since).into_iter().map(Happening::RuleHits);
        // Of those it is not known which rule it was.
        let others: u64 = hits.iter().map(|hit| hit.others).sum();
        let more = (others > 0).then_some(Happening::MoreHits { packets: others, since });
        Ok(told.chain(more).collect())
    }

    /// Whose packets were decided about in the interval that goes on.
    pub(in crate::accounting) fn all_hits(&self, kernel: &Kernel) -> Result<Vec<RuleHits>, KernelError> {
        Ok(self.fold(&kernel.hits(self.interval)?, kernel.created()))
    }

    fn fold(&self, hits: &[Hit], since: SystemTime) -> Vec<RuleHits> {
        let mut by_client: BTreeMap<(u16, u8, IpAddr), u64> = BTreeMap::new();
        for hit in hits {
            *by_client.entry((hit.pair, hit.verdict, hit.client.into())).or_default() += hit.packets;
        }
        let mut ordered: Vec<_> = by_client.into_iter().collect();
        ordered.sort_by_key(|(_, packets)| std::cmp::Reverse(*packets));
        let mut folded: BTreeMap<(u16, u8, Option<IpAddr>), u64> = BTreeMap::new();
        for (place, ((pair, verdict, client), packets)) in ordered.into_iter().enumerate() {
            let client = (place < MOST_HITS).then_some(client);
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
