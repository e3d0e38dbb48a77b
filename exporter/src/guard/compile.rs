//! Works the rules out into the kernel's tables.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use thiserror::Error;
use tidewaiter_common::{
    address::Address,
    api::{AddressKey, port_index},
    guard::{
        Action, ClassEntry, GUARD_PORT_ENTRIES, GuardHeader, GuardRule, List, MATCH_ENTRIES, MAX_CLASSES, MAX_LISTS,
        MAX_MATCHES, MAX_PAIRS, MAX_PROTECTED_PORTS, MAX_STEPS, PROTECTED, Step, Unit, class, class_place, judges,
        match_place,
    },
    limiter::Limit,
    prefix::PrefixEntry,
};

use super::{
    prefixes::{PrefixTables, Prefixes, PrefixesError},
    reserved::BLOCK,
};
use crate::{
    api::{Api, Role, Transport, reserved},
    config::guard::{ApiMatch, Condition, Guard, Per, Rule},
};

/// What rules cannot be worked out into.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CompileError {
    /// More rules match a packet than can be asked.
    #[error(
        "{} rules match the same packets, from {first:?} to {last:?}: expected at most {MAX_STEPS}, of fewer APIs or senders \
         each", .count
    )]
    Steps {
        /// How many.
        count: usize,
        /// The first of them.
        first: Arc<str>,
        /// The last.
        last: Arc<str>,
    },
    /// More different classes of packets than there is room for.
    #[error("these rules tell {0} classes of packets apart by API and port, expected at most {MAX_CLASSES}")]
    Classes(usize),
    /// More combinations of these with senders than there is room for.
    #[error(
        "these rules tell {classes} classes of packets and {whos} kinds of senders apart, expected at most {MAX_MATCHES} \
         combinations: use fewer different lists of prefixes"
    )]
    Matches {
        /// Classes.
        classes: usize,
        /// Kinds of senders.
        whos: usize,
    },
    /// More different lists of rules than there is room for.
    #[error("these rules make {0} different lists, expected at most {MAX_LISTS}")]
    Lists(usize),
    /// More pairs of rules and APIs than there is room for.
    #[error("these rules are about more than {} pairs of a rule and an API: name the APIs they are about", MAX_PAIRS - 1)]
    Pairs,
    /// The prefixes cannot be put into a table.
    #[error(transparent)]
    Prefixes(#[from] PrefixesError),
}

/// The tables of one half.
#[derive(Clone, Debug)]
pub struct Tables {
    /// What all packets have in common.
    pub header: Box<GuardHeader>,
    /// The rules.
    pub rules: Vec<GuardRule>,
    /// Lists of them; the first is empty.
    pub lists: Vec<List>,
    /// Classes of packets; the first is of those without ports.
    pub classes: Vec<ClassEntry>,
    /// Classes by port.
    pub ports: Vec<u64>,
    /// Those of ports at some addresses.
    pub addresses: Vec<(AddressKey, u16)>,
    /// Lists by class and sender.
    pub matches: Vec<u64>,
    /// Senders by prefix.
    pub prefixes: Vec<PrefixEntry>,
    /// The filter before that.
    pub filter: Vec<u64>,
}

/// Gives each pair of a rule and an API its place, the same as long as both keep their names.
pub trait Pairs {
    /// The place of `rule` and `api`; `None` if there is no room for one more.
    fn place(&mut self, rule: &Arc<str>, api: &str) -> Option<u16>;
}

/// Places that nobody keeps: to find out whether there is room.
#[derive(Debug, Default)]
pub struct NewPairs(HashMap<(Arc<str>, String), u16>);

impl Pairs for NewPairs {
    fn place(&mut self, rule: &Arc<str>, api: &str) -> Option<u16> {
        let key = (Arc::clone(rule), api.to_owned());
        if let Some(place) = self.0.get(&key) {
            return Some(*place);
        }
        let next = u16::try_from(self.0.len() + 1).ok().filter(|next| *next < MAX_PAIRS)?;
        self.0.insert(key, next);
        Some(next)
    }
}

/// Works out the tables for `guard` while there are these APIs, with room for `capacity` entries of prefixes.
pub fn compile(guard: &Guard, apis: &[Api], capacity: usize, pairs: &mut dyn Pairs) -> Result<Tables, CompileError> {
    let senders = Senders::new(guard, capacity)?;
    let mut compiler = Compiler {
        guard,
        senders: &senders,
        pairs,
        classes: Interner::default(),
        lists: Interner::default(),
        block: Arc::from(BLOCK),
    };
    // The empty list is the first.
    compiler.lists.intern(Vec::new());
    let served: Vec<_> = apis.iter().filter(|api| api.role == Role::Server).collect();
    let (ports, addresses) = compiler.ports(&served);
    let classes = compiler.classes(&served)?;
    let matches = compiler.matches(&served)?;
    let lists: Vec<_> = compiler.lists.into_vec().into_iter().map(list).collect();
    if lists.len() > usize::from(MAX_LISTS) {
        return Err(CompileError::Lists(lists.len()));
    }
    let mut protected_ports = [0; MAX_PROTECTED_PORTS];
    protected_ports.iter_mut().zip(&guard.protected_ports).for_each(|(place, port)| *place = *port);
    let Senders { built, .. } = senders;
    let header = Box::new(GuardHeader {
        prefixes: *built.header,
        first_prefix: 0,
        whos: built.combinations.len() as u32,
        judges: judged(guard),
        client_groups: 0,
        protected_ports,
    });
    let rules = guard.rules.iter().map(rule).collect();
    Ok(Tables {
        header,
        rules,
        lists,
        classes,
        ports,
        addresses,
        matches,
        prefixes: built.entries,
        filter: built.filter,
    })
}

/// How many entries a table of prefixes is to have room for: those of `guard`, and twice as many for changes to come.
pub fn prefix_capacity(guard: &Guard) -> Result<u32, CompileError> {
    let senders = Senders::new(guard, usize::MAX)?;
    let needed = u32::try_from(senders.built.entries.len()).unwrap_or(u32::MAX);
    Ok(needed.saturating_mul(2).max(LEAST_PREFIXES))
}

/// Room for some prefixes, where there are none yet.
const LEAST_PREFIXES: u32 = 4096;

/// What there is to judge by these rules: see [`judges`].
fn judged(guard: &Guard) -> u32 {
    let mut judged = if guard.enforces { judges::ENFORCES_BLOCKS } else { 0 };
    for Rule { condition, limit, action, .. } in &guard.rules {
        judged |= match (condition, limit.as_ref().map(|limit| limit.unit)) {
            (Condition::UnexpectedPayload, _) => judges::PAYLOAD,
            (_, Some(Unit::Requests)) => judges::REQUESTS,
            _ if *action == Action::Mark => judges::MARKS,
            _ if *action == Action::Reject => judges::PACKETS | judges::ANSWERS,
            _ => judges::PACKETS,
        };
        if matches!(condition, Condition::Anomalies(_)) {
            judged |= judges::ANOMALIES;
        }
    }
    judged
}

/// A rule, as the kernel knows it.
fn rule(rule: &Rule) -> GuardRule {
    let Rule { condition, limit, action, mark, is_enforced, .. } = rule;
    let per = limit.as_ref().map(|limit| limit.per);
    let (ipv4_length, ipv6_length) = match per {
        Some(Per::Client { ipv4_length, ipv6_length }) => (ipv4_length, ipv6_length),
        _ => (0, 0),
    };
    let anomalies = match condition {
        Condition::Anomalies(kinds) => kinds.iter().fold(0, |mask, kind| mask | 1 << kind.index()),
        _ => 0,
    };
    GuardRule {
        limit: limit.as_ref().map_or(Limit::NONE, |limit| limit.limit),
        unit: limit.as_ref().map_or(Unit::None, |limit| limit.unit) as u8,
        is_per_client: matches!(per, Some(Per::Client { .. })).into(),
        action: *action as u8,
        is_enforced: (*is_enforced).into(),
        stages: GuardRule::stages(
            *action,
            limit.as_ref().map_or(Unit::None, |limit| limit.unit),
            *condition == Condition::UnexpectedPayload,
        ),
        reserved: [0; 3],
        anomalies,
        mark: *mark,
        ipv4_mask: Address::mask(96 + u32::from(ipv4_length)),
        ipv6_mask: Address::mask(ipv6_length.into()),
    }
}

fn list(steps: Vec<Step>) -> List {
    let mut list = List { count: steps.len().min(MAX_STEPS) as u32, ..List::default() };
    list.steps.iter_mut().zip(steps).for_each(|(place, step)| *place = step);
    list
}

/// Kinds of senders, by the sets of prefixes that they are in.
struct Senders {
    /// The set of a rule's `from` and that of its `except`, by the rule's place.
    of_rules: Vec<(Option<u16>, Option<u16>)>,
    /// The set of those who are always let in.
    protected: Option<u16>,
    built: PrefixTables,
}

impl Senders {
    fn new(guard: &Guard, capacity: usize) -> Result<Self, PrefixesError> {
        let mut sets = Interner::default();
        let mut set = |prefixes| sets.intern(prefixes) as u16;
        let protected = (!guard.protect.is_empty()).then(|| set(guard.protect.as_slice()));
        let of_rules = guard
            .rules
            .iter()
            .map(|rule| (rule.from.as_deref().map(&mut set), (!rule.except.is_empty()).then(|| set(&rule.except))))
            .collect();
        let mut prefixes = Prefixes::default();
        for (set, networks) in (0..).zip(sets.into_vec()) {
            for network in networks {
                prefixes.insert(set, *network)?;
            }
        }
        let built = prefixes.build(capacity)?;
        Ok(Self { of_rules, protected, built })
    }

    /// Whether the rule at `place` is about senders who are in these `sets`.
    fn are_matched(&self, place: usize, sets: &BTreeSet<u16>) -> bool {
        let Some((from, except)) = self.of_rules.get(place) else { return false };
        from.is_none_or(|set| sets.contains(&set)) && !except.is_some_and(|set| sets.contains(&set))
    }
}

/// Numbers things in the order in which they come, each once.
struct Interner<T> {
    known: HashMap<T, usize>,
    all: Vec<T>,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self { known: HashMap::new(), all: Vec::new() }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Interner<T> {
    fn intern(&mut self, thing: T) -> usize {
        let next = self.all.len();
        *self.known.entry(thing).or_insert_with_key(|thing| {
            self.all.push(thing.clone());
            next
        })
    }

    fn into_vec(self) -> Vec<T> {
        self.all
    }
}

/// Writes `class` to these places of the table of ports.
fn fill(table: &mut [u64], places: std::ops::Range<u32>, class: u16) {
    const IN_ALL: u64 = 0x0001_0001_0001_0001;
    let mut place = places.start;
    while place < places.end {
        let (entry, shift) = class_place(0, place);
        let rest = places.end - place;
        let step = if shift == 0 && rest >= 4 { 4 } else { 1 };
        table[entry as usize] |= if step == 4 { u64::from(class) * IN_ALL } else { u64::from(class) << shift };
        place += step;
    }
}

/// What is known of packets.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// What they are sent to.
    To(Transport, u16),
    /// That they have ports, which say whose they are.
    Ported,
    /// That they have none, or none that can be read.
    Portless,
    /// That they are later parts of datagrams, of which the first has the ports.
    Fragments,
}

/// A class of packets: those of one API, or of none, that the same rules are about.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Class {
    /// Place of the API among those that are served; `None` if they are of none.
    api: Option<usize>,
    kind: Kind,
    /// Places of the rules.
    rules: Vec<usize>,
}

struct Compiler<'a> {
    guard: &'a Guard,
    senders: &'a Senders,
    pairs: &'a mut dyn Pairs,
    classes: Interner<Class>,
    lists: Interner<Vec<Step>>,
    block: Arc<str>,
}

impl Compiler<'_> {
    /// Classes by port, and by address where APIs have some of their own.
    fn ports(&mut self, served: &[&Api]) -> (Vec<u64>, Vec<(AddressKey, u16)>) {
        let portless = self.class(None, Kind::Portless, served);
        debug_assert_eq!(portless, class::PORTLESS);
        let fragments = self.class(None, Kind::Fragments, served);
        debug_assert_eq!(fragments, class::FRAGMENTS);
        let bounds = self.port_bounds();
        let mut table = vec![0; GUARD_PORT_ENTRIES as usize];
        let mut addresses = Vec::new();
        for transport in Transport::ALL {
            let (owners, with_addresses) = owners(served, transport);
            let alone = owners.keys().chain(with_addresses.keys()).flat_map(|port| [Some(*port), port.checked_add(1)]);
            let mut begins: Vec<u16> = bounds.iter().copied().chain(alone.flatten()).collect();
            begins.sort_unstable();
            begins.dedup();
            for (place, &port) in begins.iter().enumerate() {
                let owner = owners.get(&port).copied();
                let mut class = self.class(owner, Kind::To(transport, port), served);
                for (address, api) in with_addresses.get(&port).into_iter().flatten() {
                    let of_address = self.class(Some(*api), Kind::To(transport, port), served);
                    let key = AddressKey {
                        address: address.to_canonical().into(),
                        port,
                        transport: transport as u8,
                        role: Role::Server as u8,
                    };
                    addresses.push((key, of_address));
                    class |= class::BY_ADDRESS;
                }
                let end = begins.get(place + 1).map_or(1 << 16, |next| u32::from(*next));
                let first = port_index(transport, port);
                fill(&mut table, first..first + (end - u32::from(port)), class);
            }
        }
        (table, addresses)
    }

    /// Where ports begin that rules tell from those before them.
    fn port_bounds(&self) -> Vec<u16> {
        let ranges = self.guard.rules.iter().flat_map(|rule| &rule.ports);
        [0].into_iter()
            .chain(ranges.flat_map(|range| [Some(range.first()), range.last().checked_add(1)]).flatten())
            .collect()
    }

    /// The class of packets of the API at `owner`, of which so much is known.
    fn class(&mut self, owner: Option<usize>, kind: Kind, served: &[&Api]) -> u16 {
        let name = owner.and_then(|place| served.get(place)).map_or(reserved::UNMAPPED, |api| api.name.as_str());
        let is_about_all = |rule: &Rule| rule.transports.is_empty() && rule.ports.is_empty();
        let is_about = |rule: &Rule| match kind {
            Kind::To(transport, port) => {
                rule.apis.has(name)
                    && (rule.transports.is_empty() || rule.transports.contains(&transport))
                    && (rule.ports.is_empty() || rule.ports.iter().any(|range| range.has(port)))
            }
            // They may be of any API, so only rules about all traffic are about them, and those about what they are themselves.
            Kind::Fragments => {
                let is_about_themselves = matches!(rule.condition, Condition::Anomalies(_)) && rule.apis.has(name);
                is_about_all(rule) && (rule.apis == ApiMatch::Everything || is_about_themselves)
            }
            _ => rule.apis.has(name) && is_about_all(rule),
        };
        let rules = (0..).zip(&self.guard.rules).filter(|(_, rule)| is_about(rule)).map(|(place, _)| place).collect();
        let kind = if let Kind::To(..) = kind { Kind::Ported } else { kind };
        let number = self.classes.intern(Class { api: owner, kind, rules });
        // More than there is room for is found out before any of this is used.
        (number as u16) & !class::BY_ADDRESS
    }

    fn classes(&mut self, served: &[&Api]) -> Result<Vec<ClassEntry>, CompileError> {
        let classes = self.classes.all.clone();
        if classes.len() > usize::from(MAX_CLASSES) {
            return Err(CompileError::Classes(classes.len()));
        }
        let block = Arc::clone(&self.block);
        classes
            .iter()
            .map(|class| {
                let block_pair = self.pair(&block, class, served)?;
                Ok(ClassEntry { block_pair, is_unmapped: class.api.is_none().into(), reserved: 0 })
            })
            .collect()
    }

    fn pair(&mut self, rule: &Arc<str>, class: &Class, served: &[&Api]) -> Result<u16, CompileError> {
        let api = class.api.and_then(|place| served.get(place)).map_or(reserved::UNMAPPED, |api| api.name.as_str());
        self.pairs.place(rule, api).ok_or(CompileError::Pairs)
    }

    /// Lists by class and sender.
    fn matches(&mut self, served: &[&Api]) -> Result<Vec<u64>, CompileError> {
        let classes = self.classes.all.clone();
        let combinations = &self.senders.built.combinations;
        let whos = combinations.len();
        if classes.len() * whos > MAX_MATCHES as usize {
            return Err(CompileError::Matches { classes: classes.len(), whos });
        }
        let mut table = vec![0; MATCH_ENTRIES as usize];
        for (number, class) in (0..).zip(&classes) {
            for (who, sets) in (0..).zip(combinations) {
                let list = if self.senders.protected.is_some_and(|set| sets.contains(&set)) {
                    PROTECTED
                } else {
                    self.list(class, sets, served)?
                };
                if let Some((entry, shift)) = match_place(0, number, whos as u32, who) {
                    table[entry as usize] |= u64::from(list) << shift;
                }
            }
        }
        Ok(table)
    }

    /// The list of rules about packets of `class` from senders who are in these `sets`.
    fn list(&mut self, class: &Class, sets: &BTreeSet<u16>, served: &[&Api]) -> Result<u16, CompileError> {
        let mut places = Vec::new();
        for &place in class.rules.iter().filter(|place| self.senders.are_matched(**place, sets)) {
            places.push(place);
            if self.guard.rules.get(place).is_some_and(decides_all) {
                break;
            }
        }
        if places.len() > MAX_STEPS {
            let name = |place: Option<&usize>| {
                place
                    .and_then(|place| self.guard.rules.get(*place))
                    .map(|rule| Arc::clone(&rule.name))
                    .unwrap_or_default()
            };
            let (first, last) = (name(places.first()), name(places.last()));
            return Err(CompileError::Steps { count: places.len(), first, last });
        }
        let mut steps = Vec::with_capacity(places.len());
        for place in places {
            let Some(rule) = self.guard.rules.get(place) else { continue };
            let pair = self.pair(&Arc::clone(&rule.name), class, served)?;
            steps.push(Step { rule: place as u16, pair });
        }
        Ok(self.lists.intern(steps) as u16)
    }
}

/// Whether no rule after `rule` is ever asked about packets that it matches.
fn decides_all(rule: &Rule) -> bool {
    rule.is_enforced && rule.limit.is_none() && rule.condition == Condition::Always && rule.action != Action::Mark
}

/// Which API has each port of `transport`, and which have it at some addresses alone; by place.
type Owners = (BTreeMap<u16, usize>, BTreeMap<u16, Vec<(std::net::IpAddr, usize)>>);

fn owners(served: &[&Api], transport: Transport) -> Owners {
    let (mut owners, mut with_addresses) = Owners::default();
    for (place, api) in served.iter().enumerate() {
        for (_, port) in api.claims().filter(|(one, _)| *one == transport) {
            if api.addresses.is_empty() {
                owners.insert(port, place);
            } else {
                let addresses = api.addresses.iter().map(|address| (*address, place));
                with_addresses.entry(port).or_insert_with(Vec::new).extend(addresses);
            }
        }
    }
    (owners, with_addresses)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{MAX_PAIRS, NewPairs, Pairs as _};

    #[test]
    fn who_has_a_place_keeps_it_when_there_are_no_more() {
        let (mut pairs, rule) = (NewPairs::default(), Arc::from("rule"));
        for place in 1..MAX_PAIRS {
            assert_eq!(pairs.place(&rule, &place.to_string()), Some(place));
        }
        assert_eq!(pairs.place(&rule, "one more"), None);
        assert_eq!(pairs.place(&rule, "7"), Some(7));
    }
}
