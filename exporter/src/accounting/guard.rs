//! What the guard does: its rules, its blocks, where it is attached, and what it has decided.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tidewaiter_common::{
    direction::Direction,
    guard::{Hit, InterfaceGuardCounters, MAX_PAIRS, Verdict, judges, word},
    interface::{InterfaceTotals, LOOPBACK_INDEX, guarded},
    record::{PAIR_NAME_BYTES, PairRecord},
};
use tracing::{info, warn};

use crate::{
    api::Api,
    chain::chain,
    config::guard::{Guard, GuardAttach},
    event::RuleHits,
    guard::{
        compile::{CompileError, Pairs, Tables, compile},
        reserved::BLOCK,
    },
    interfaces::Interface,
    kernel::{Kernel, KernelError, Ticks, from_nanoseconds, nanoseconds},
    snapshot::{GuardSnapshot, PairSnapshot},
};

/// How often hits are gathered and told.
pub(super) const HITS_INTERVAL: Duration = Duration::from_secs(10);

/// How many times as many clients are told of all rules in an interval as of one: whoever forges senders can have each be told of
/// in a line, and lines of before make room for these.
const MOST_RULES_TOLD: usize = 4;

/// How many clients of a replay are told.
const MOST_REPLAYED: Told = Told { each: 256, all: 256 };

/// Why rules could not be put in force.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// They cannot be worked out.
    #[error("cannot put the rules in force: {0}")]
    Compile(#[from] CompileError),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Others were put in force while these were worked out.
    #[error("the rules in force have changed while others were worked out: try again")]
    Outdated,
}

/// What is needed of the rules in force to work out others apart from them.
#[derive(Debug)]
pub struct Draft {
    taking: Taking,
    /// Entries of prefixes that there is room for.
    capacity: usize,
    /// Which rules were in force.
    generation: u64,
}

/// Rules that can be put in force.
#[derive(Debug)]
pub struct Compiled {
    guard: Arc<Guard>,
    tables: Tables,
    taken: HashMap<Names, u16>,
    new: Vec<(Names, u16)>,
    generation: u64,
}

impl Draft {
    /// Works out `guard` while there are these APIs. It may take long, with many prefixes.
    pub fn compile(self, guard: Arc<Guard>, apis: &[Api]) -> Result<Compiled, CompileError> {
        let Self { mut taking, capacity, generation } = self;
        let tables = compile(&guard, apis, capacity, &mut taking)?;
        let Taking { taken, new, .. } = taking;
        Ok(Compiled { guard, tables, taken, new, generation })
    }
}

/// Where packets of an interface are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardPlace {
    /// As frames, in the driver.
    Xdp,
    /// As socket buffers.
    Tc,
}

impl GuardPlace {
    /// As it is called.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        }
    }
}

/// How many clients are told by their address, those with the most packets: packets of all others are told together.
#[derive(Clone, Copy, Debug)]
struct Told {
    /// For each rule, API and verdict.
    each: usize,
    /// In all.
    all: usize,
}

/// The rules in force, and what is kept of each.
#[derive(Debug, Default)]
pub(super) struct GuardRegistry {
    guard: Option<Arc<Guard>>,
    pairs: PairRegistry,
    /// What there is to judge by the rules in force.
    judges: u32,
    /// Whether anything is blocked, or may be at any time.
    blocks: bool,
    /// Whether that was ever so: series that are there once stay there.
    had_blocks: bool,
    /// Interfaces that are one end of a pair (veth), by index.
    paired: HashSet<u32>,
    /// Interfaces whose devices count each frame that reaches a program of XDP, by index.
    counting: HashSet<u32>,
    places: BTreeMap<u32, GuardPlace>,
    /// Interfaces whose packets were ever judged as socket buffers, by index.
    were_buffers: HashSet<u32>,
    generation: u64,
    interval: u32,
    interval_began: Option<SystemTime>,
}

/// Who has which place among the pairs of a rule and an API.
#[derive(Debug, Default)]
struct PairRegistry {
    places: HashMap<Names, u16>,
    records: BTreeMap<u16, PairRecord>,
    /// Those that rules in force have.
    current: HashSet<u16>,
}

/// Names of a rule and of an API.
type Names = (Arc<str>, Arc<str>);

/// Gives out places, and keeps in mind who is new.
#[derive(Debug)]
struct Taking {
    /// Those that have been given out before.
    places: HashMap<(Arc<str>, Arc<str>), u16>,
    free: Vec<u16>,
    taken: HashMap<Names, u16>,
    new: Vec<(Names, u16)>,
}

impl Pairs for Taking {
    fn place(&mut self, rule: &Arc<str>, api: &str) -> Option<u16> {
        let key = (Arc::clone(rule), Arc::from(api));
        if let Some(place) = self.taken.get(&key) {
            return Some(*place);
        }
        let place = if let Some(place) = self.places.get(&key) {
            *place
        } else {
            let place = self.free.pop()?;
            self.new.push((key.clone(), place));
            place
        };
        self.taken.insert(key, place);
        Some(place)
    }
}

impl PairRegistry {
    fn restore(kernel: &Kernel) -> Result<Self, KernelError> {
        let mut registry = Self::default();
        for place in 1..MAX_PAIRS {
            let record = kernel.pair_record(place)?;
            let Some(names) = names(&record) else { continue };
            registry.places.insert(names, place);
            registry.records.insert(place, record);
        }
        Ok(registry)
    }

    /// Places that nobody has come first; then those that nobody has any more.
    fn taking(&self) -> Taking {
        let (held, unheld): (Vec<_>, Vec<_>) = (1..MAX_PAIRS).rev().partition(|place| self.records.contains_key(place));
        let mut free: Vec<_> = held.into_iter().filter(|place| !self.current.contains(place)).collect();
        free.extend(unheld);
        Taking { places: self.places.clone(), free, taken: HashMap::new(), new: Vec::new() }
    }
}

impl GuardRegistry {
    /// What the exporter before this one has left in the kernel; nothing, if there was none.
    pub(super) fn restore(kernel: &mut Kernel) -> Result<Self, KernelError> {
        let generation = kernel.guard_word(word::GENERATION)?;
        let interval = kernel.guard_word(word::INTERVAL)? as u32;
        Ok(Self { pairs: PairRegistry::restore(kernel)?, generation, interval, ..Self::default() })
    }

    /// Takes note of what the rules are; they are not in force before [`GuardRegistry::apply`].
    pub(super) fn set(&mut self, guard: Arc<Guard>) {
        self.guard = Some(guard);
    }

    /// What the rules are.
    pub(super) fn settings(&self) -> Option<Arc<Guard>> {
        self.guard.clone()
    }

    /// Puts the rules in force for these APIs, all at once.
    pub(super) fn apply(&mut self, kernel: &mut Kernel, apis: &[Api]) -> Result<(), GuardError> {
        let Some(guard) = self.guard.clone() else { return Ok(()) };
        let compiled = self.draft(kernel).compile(guard, apis)?;
        self.commit(kernel, compiled)
    }

    /// What it takes to work rules out apart from this, so that nobody waits for it.
    pub(super) fn draft(&self, kernel: &Kernel) -> Draft {
        let capacity = kernel.guard_capacity().prefixes as usize;
        Draft { taking: self.pairs.taking(), capacity, generation: self.generation }
    }

    /// The rules in force, if there were ever any.
    pub(super) fn in_force(&self) -> Option<Arc<Guard>> {
        self.guard.clone()
    }

    /// Puts rules in force that were worked out, all at once.
    ///
    /// # Errors
    /// [`GuardError::Outdated`] if others were put in force since; or [`GuardError::Kernel`], and then what was in force still is.
    pub(super) fn commit(&mut self, kernel: &mut Kernel, compiled: Compiled) -> Result<(), GuardError> {
        let Compiled { guard, tables, taken, new, generation } = compiled;
        if generation != self.generation {
            return Err(GuardError::Outdated);
        }
        for ((rule, api), place) in new {
            let base = kernel.guard_counters(place)?;
            let record = record(&rule, &api, base);
            kernel.set_pair_record(place, &record)?;
            self.pairs.places.retain(|_, held| *held != place);
            self.pairs.places.insert((rule, api), place);
            self.pairs.records.insert(place, record);
        }
        let Tables { header, .. } = &tables;
        let judges = header.judges;
        self.generation = kernel.set_guard_tables(&tables)?;
        self.judges = judges;
        self.guard = Some(guard);
        self.pairs.current = taken.into_values().collect();
        Ok(())
    }

    /// Says that anything may be blocked at any time, or that nothing is. Answers with whether that is new.
    pub(super) const fn set_blocks(&mut self, blocks: bool) -> bool {
        self.had_blocks |= blocks;
        std::mem::replace(&mut self.blocks, blocks) != blocks
    }

    /// Takes note of which interfaces are one end of a pair: what is answered there as a frame reaches the other end only if that
    /// has a program of XDP too (`veth_xdp_xmit`, `drivers/net/veth.c`), so answers are left to TC.
    pub(super) fn note_paired(&mut self, paired: HashSet<u32>) {
        self.paired = paired;
    }

    /// Takes note of which interfaces' devices count each frame that reaches a program of XDP, by index.
    pub(super) fn note_frame_counting(&mut self, counting: HashSet<u32>) {
        self.counting = counting;
    }

    /// Whether packets of an interface are judged as frames, each of which its device has counted.
    pub(super) fn counts_frames(&self, index: u32) -> bool {
        self.place_of(index) == Some(GuardPlace::Xdp) && self.counting.contains(&index)
    }

    /// All that was seen on an interface in `direction`, of which `accounted` has passed the guard; `None` if that cannot be said
    /// in what its device counts.
    pub(super) fn seen(
        &self,
        index: u32,
        direction: Direction,
        accounted: InterfaceTotals,
        judged: &InterfaceGuardCounters,
    ) -> Option<InterfaceTotals> {
        let InterfaceGuardCounters { dropped, rejected, answered, .. } = judged;
        match (direction, dropped + rejected, answered) {
            (Direction::Receive, 0, _) | (Direction::Transmit, _, 0) => Some(accounted),
            // A driver may count them late, or elsewhere.
            (Direction::Transmit, ..) => None,
            // How many socket buffers they were was not counted.
            (Direction::Receive, ..) if self.were_buffers.contains(&index) || !self.counting.contains(&index) => None,
            (Direction::Receive, gone, _) => {
                let mut seen = accounted;
                seen.wire.packets += gone;
                seen.buffers += gone;
                Some(seen)
            }
        }
    }

    /// Whether there is anything to judge when a packet comes in.
    const fn judges_packets(&self) -> bool {
        self.blocks || self.judges & (judges::PACKETS | judges::MARKS) != 0
    }

    /// Attaches the guard to the interfaces that are accounted, as far as there is anything to judge; answers with what went wrong.
    pub(super) fn place<'a>(
        &mut self,
        kernel: &mut Kernel,
        interfaces: impl Iterator<Item = &'a Interface>,
    ) -> Vec<KernelError> {
        let Some(guard) = self.guard.clone() else { return Vec::new() };
        let mut failures = Vec::new();
        let payload = if self.judges & (judges::REQUESTS | judges::PAYLOAD) != 0 { guarded::PAYLOAD } else { 0 };
        let marks = if self.judges & judges::MARKS != 0 { guarded::MARKS } else { 0 };
        let mut there = HashSet::new();
        for Interface { index, name, .. } in interfaces {
            there.insert(*index);
            if !self.judges_packets() {
                failures.extend(kernel.set_guarded_buffers(*index, payload).err());
                self.leave(kernel, *index);
                continue;
            }
            let is_answered = self.judges & judges::ANSWERS != 0 && self.paired.contains(index);
            let wants_xdp = guard.attach != GuardAttach::Tc && *index != LOOPBACK_INDEX && !is_answered;
            let is_xdp = wants_xdp
                && match kernel.attach_guard(*index, name) {
                    Ok(()) => true,
                    Err(error) if guard.attach == GuardAttach::Xdp => {
                        failures.push(error);
                        continue;
                    }
                    Err(error) => {
                        if self.places.get(index) != Some(&GuardPlace::Tc) {
                            info!(
                                interface = name,
                                error = chain(&error),
                                "no XDP in this driver: packets are judged in TC"
                            );
                        }
                        false
                    }
                };
            let place = if is_xdp { GuardPlace::Xdp } else { GuardPlace::Tc };
            if !is_xdp {
                self.were_buffers.insert(*index);
            }
            let bits = payload | if is_xdp { marks } else { guarded::BUFFERS };
            failures.extend(kernel.set_guarded_buffers(*index, bits).err());
            if !is_xdp {
                kernel.detach_guard(*index);
            }
            if self.places.insert(*index, place) != Some(place) {
                info!(interface = name, place = place.as_str(), "judging packets");
            }
        }
        for index in kernel.guarded().into_iter().filter(|index| !there.contains(index)) {
            kernel.detach_guard(index);
        }
        self.places.retain(|index, _| there.contains(index));
        self.were_buffers.retain(|index| there.contains(index));
        failures
    }

    fn leave(&mut self, kernel: &mut Kernel, index: u32) {
        if self.places.remove(&index).is_some() || kernel.guarded().contains(&index) {
            kernel.detach_guard(index);
            info!(index, "packets are judged no more");
        }
    }

    /// Where packets of an interface are judged.
    pub(super) fn place_of(&self, index: u32) -> Option<GuardPlace> {
        self.places.get(&index).copied()
    }

    /// Lets the kernel know that the exporter is there: until what tick it is to go on by itself.
    pub(super) fn beat(&self, kernel: &mut Kernel, ticks: Ticks) -> Result<(), KernelError> {
        let Some(guard) = &self.guard else { return Ok(()) };
        kernel.set_guard_word(word::DEADLINE, ticks.after(guard.hold))
    }

    /// Whose packets were decided about since this was last asked, if that is long enough ago, or if this `is_last`.
    pub(super) fn hits(
        &mut self,
        kernel: &mut Kernel,
        now: SystemTime,
        is_last: bool,
    ) -> Result<Vec<RuleHits>, KernelError> {
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
        Ok(self.fold(&hits, since, Told { each, all: each * MOST_RULES_TOLD }))
    }

    /// Whose packets were decided about in the interval that goes on.
    pub(super) fn all_hits(&self, kernel: &Kernel) -> Result<Vec<RuleHits>, KernelError> {
        Ok(self.fold(&kernel.hits(self.interval)?, kernel.created(), MOST_REPLAYED))
    }

    fn fold(&self, hits: &[Hit], since: SystemTime, most: Told) -> Vec<RuleHits> {
        let mut by_client: BTreeMap<(u16, u8, Option<IpAddr>), u64> = BTreeMap::new();
        for hit in hits {
            *by_client.entry((hit.pair, hit.verdict, Some(hit.client.into()))).or_default() += hit.packets;
            if hit.others > 0 {
                *by_client.entry((hit.pair, hit.verdict, None)).or_default() += hit.others;
            }
        }
        let mut ordered: Vec<_> = by_client.into_iter().collect();
        ordered.sort_by_key(|(_, packets)| std::cmp::Reverse(*packets));
        let mut folded: BTreeMap<(u16, u8, Option<IpAddr>), u64> = BTreeMap::new();
        let (mut told, mut all) = (HashMap::<_, usize>::new(), 0);
        for ((pair, verdict, client), packets) in ordered {
            let of_pair = told.entry((pair, verdict)).or_default();
            let client = client.filter(|_| *of_pair < most.each && all < most.all);
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

    /// What the guard has decided, and how it is; `None` if nobody has asked for one.
    pub(super) fn snapshot(&self, kernel: &Kernel) -> Result<Option<GuardSnapshot>, KernelError> {
        let Some(guard) = &self.guard else { return Ok(None) };
        let mut pairs = Vec::new();
        for (place, record) in self.pairs.records.iter().filter(|(place, _)| self.pairs.current.contains(place)) {
            let Some((rule, api)) = names(record) else { continue };
            if &*rule == BLOCK && !self.had_blocks {
                continue;
            }
            let mut packets = kernel.guard_counters(*place)?.packets;
            packets.iter_mut().zip(record.base.packets).for_each(|(count, base)| *count = count.saturating_sub(base));
            let verdicts = guard.verdicts(&rule);
            pairs.push(PairSnapshot { rule, api, packets, verdicts, created: from_nanoseconds(record.created) });
        }
        pairs.sort_by(|one, other| (&one.api, &one.rule).cmp(&(&other.api, &other.rule)));
        let (clients_made, clients) = kernel.client_limits()?;
        Ok(Some(GuardSnapshot {
            pairs,
            is_on: guard.is_on() || self.had_blocks,
            enforces: guard.enforces,
            is_switched_off: kernel.guard_word(word::SWITCHED_OFF)? != 0,
            generation: self.generation,
            clients,
            client_capacity: kernel.guard_capacity().clients.into(),
            clients_evicted: clients_made.saturating_sub(clients),
            blocks_refused: Vec::new(),
        }))
    }
}

fn record(rule: &str, api: &str, base: tidewaiter_common::guard::GuardCounters) -> PairRecord {
    let mut record = PairRecord { created: nanoseconds(SystemTime::now()), base, ..PairRecord::default() };
    // Names are checked to be no longer.
    let bytes = rule.bytes().chain(api.bytes()).take(PAIR_NAME_BYTES);
    record.names.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
    record.rule_length = rule.len() as u16;
    record.api_length = api.len() as u16;
    record
}

/// Names of the rule and of the API that have a place.
fn names(record: &PairRecord) -> Option<(Arc<str>, Arc<str>)> {
    let (rule, api) = (usize::from(record.rule_length), usize::from(record.api_length));
    if rule == 0 {
        return None;
    }
    let text = |bytes: &[u8]| str::from_utf8(bytes).ok().map(Arc::from);
    Some((text(record.names.get(..rule)?)?, text(record.names.get(rule..rule + api)?)?))
}

/// Warns of each failure.
pub(super) fn warn_all(failures: &[KernelError]) {
    for error in failures {
        warn!(error = chain(error), "cannot attach the guard");
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::UNIX_EPOCH};

    use tidewaiter_common::guard::{GuardCounters, Hit};

    use super::{GuardRegistry, Told, record};

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
