//! Blocks: who is let in no more, for a while. By hand, by another system, or as a response to an anomaly.
//!
//! This is what is known of them in userspace; [`Accounting`](crate::accounting::Accounting) puts them in force. However many
//! ask, there are no more than a configuration says, of few lengths, and never of those who are always let in.

mod error;
mod network;
pub mod refusal;
pub mod response;
pub mod row;
mod shown;
pub mod state;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant, SystemTime},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tidewaiter_common::guard::BLOCKED_LENGTHS;

use self::network::{canonical, is_v4};
pub(crate) use self::shown::shown;
pub use self::{
    error::BlockError,
    network::{key, network_at, network_of, parse_network, parse_period},
    refusal::{BlockRefusal, BlockRefusals},
    row::{BlockRow, UnblockedRow},
};
use crate::event::{Block, BlockedBy};

/// The shortest time that anybody is blocked for.
pub const SHORTEST: Duration = Duration::from_secs(1);
/// The longest one. Who is never to come back is for a rule.
pub const LONGEST: Duration = Duration::from_hours(366 * 24);

/// The most characters of a reason.
pub const MAX_REASON: usize = 200;

/// The shortest prefix of IPv4 that can be blocked: what is shorter is more likely a mistake than a sender.
const LEAST_IPV4: u8 = 8;
/// The shortest prefix of IPv6 that can be.
const LEAST_IPV6: u8 = 16;

/// How far the time that people are told of an end may be from that end: clocks are set, and hosts sleep.
const MOST_DRIFT: Duration = Duration::from_secs(1);

/// Responses leave a part of this size free, for those who block by hand.
const RESERVED_PART: usize = 8;

/// One moment, by both clocks: blocks end by the one that is never set, as they do in the kernel, and people read the other.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// What people read.
    pub wall: SystemTime,
    /// What goes on evenly.
    pub steady: Instant,
}

impl Now {
    /// This one.
    #[must_use]
    pub fn take() -> Self {
        Self { wall: SystemTime::now(), steady: Instant::now() }
    }

    /// How long it is until `time`.
    #[must_use]
    pub fn until(&self, time: SystemTime) -> Duration {
        time.duration_since(self.wall).unwrap_or_default()
    }
}

/// What becomes of the blocks when one is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// There is this one, new or in the place of the one of the same network.
    New(Block),
    /// Nothing changes: there is this one, which lasts as long.
    Same(Block),
}

/// A block that is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// It.
    pub block: Block,
    /// The prefix around it that is blocked all the same.
    pub covering: Option<IpNet>,
}

/// A block that there is.
#[derive(Clone, Debug)]
struct Held {
    block: Block,
    ends: Instant,
}

/// The blocks that there are.
#[derive(Debug)]
pub struct Blocks {
    capacity: usize,
    /// Who is never blocked.
    protect: Vec<IpNet>,
    by_network: BTreeMap<IpNet, Held>,
    /// Lengths of prefixes that are blocked, of IPv4 and of IPv6, in the order in which they came.
    lengths: [Vec<u8>; 2],
    /// Those that could not be removed, and of which that was told.
    stuck: BTreeSet<IpNet>,
    /// Whether there is something that the state's file does not say.
    is_changed: bool,
    /// Those that were asked for and are not there.
    pub refusals: BlockRefusals,
}

impl Default for Blocks {
    fn default() -> Self {
        let mut blocks = Self {
            capacity: 0,
            protect: Vec::new(),
            by_network: BTreeMap::new(),
            lengths: [Vec::new(), Vec::new()],
            stuck: BTreeSet::new(),
            is_changed: false,
            refusals: BlockRefusals::default(),
        };
        blocks.configure(0, &[]);
        blocks
    }
}

impl Blocks {
    /// Says how many there may be, and who is never blocked. Those that there are stay.
    pub fn configure(&mut self, capacity: usize, protect: &[IpNet]) {
        self.capacity = capacity;
        // To whoever is told from outside to block, an address of this host looks like any other.
        let own = [
            Ipv4Net::new_assert([127, 0, 0, 0].into(), 8).into(),
            Ipv6Net::new_assert(std::net::Ipv6Addr::LOCALHOST, 128).into(),
        ];
        self.protect = protect.iter().copied().map(canonical).chain(own).collect();
    }

    /// What becomes of blocks when this one is added: it itself, or the one there is of the same network if that lasts as long. What
    /// somebody has said of a network is not lost because a program has it blocked for longer.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn admit(&self, block: Block, now: Now) -> Result<Admitted, BlockError> {
        let Block { network, until, reason, by } = &block;
        let period = now.until(*until);
        // Some time has passed since `until` was worked out.
        if period.is_zero() || period > LONGEST {
            return Err(BlockError::Period(period));
        }
        let characters = reason.chars().count();
        if characters > MAX_REASON || shown(reason) != *reason {
            return Err(BlockError::Reason(characters));
        }
        let least = if is_v4(network) { LEAST_IPV4 } else { LEAST_IPV6 };
        if network.prefix_len() < least {
            return Err(BlockError::TooShort { network: *network, least });
        }
        if let Some(protected) = self.protect.iter().find(|one| one.contains(network) || network.contains(*one)) {
            return Err(BlockError::Protected { network: *network, protected: *protected });
        }
        if let Some(before) = self.by_network.get(network) {
            let Held { block: before, ends } = before;
            if *ends >= now.steady + period {
                return Ok(Admitted::Same(before.clone()));
            }
            let says = if by.rank() < before.by.rank() { before } else { &block };
            return Ok(Admitted::New(Block { reason: says.reason.clone(), by: says.by, ..block.clone() }));
        }
        let is_response = matches!(by, BlockedBy::Response(_));
        let reserved = if is_response { self.capacity / RESERVED_PART } else { 0 };
        if self.by_network.len() >= self.capacity - reserved {
            return Err(BlockError::Full(self.by_network.len()));
        }
        let lengths = self.lengths(is_v4(network));
        if !lengths.contains(&network.prefix_len()) && lengths.len() >= BLOCKED_LENGTHS {
            let lengths: Vec<_> = lengths.iter().map(|length| format!("/{length}")).collect();
            return Err(BlockError::Lengths { network: *network, lengths: lengths.join(", ") });
        }
        Ok(Admitted::New(block))
    }

    /// Adds a block that was admitted, or has it in the place of the one of the same network.
    pub fn insert(&mut self, block: Block, now: Now) {
        let lengths = &mut self.lengths[usize::from(!is_v4(&block.network))];
        if !lengths.contains(&block.network.prefix_len()) {
            lengths.push(block.network.prefix_len());
        }
        let ends = now.steady + now.until(block.until).min(LONGEST);
        self.by_network.insert(block.network, Held { block, ends });
        self.is_changed = true;
    }

    /// Removes the block of `network`.
    pub fn remove(&mut self, network: &IpNet) -> Option<Block> {
        let removed = self.by_network.remove(network)?;
        self.stuck.remove(network);
        let is_used = |length: &u8| {
            let has = |other: &IpNet| is_v4(other) == is_v4(network) && other.prefix_len() == *length;
            self.by_network.keys().any(has)
        };
        let lengths = &mut self.lengths[usize::from(!is_v4(network))];
        lengths.retain(|length| *length != network.prefix_len() || is_used(length));
        self.is_changed = true;
        Some(removed.block)
    }

    /// The block of `network`.
    #[must_use]
    pub fn get(&self, network: &IpNet) -> Option<&Block> {
        self.by_network.get(network).map(|held| &held.block)
    }

    /// How long `network` is still blocked; not at all if it is not.
    #[must_use]
    pub fn left(&self, network: &IpNet, now: Instant) -> Duration {
        self.by_network.get(network).map_or(Duration::ZERO, |held| held.ends.saturating_duration_since(now))
    }

    /// The shortest prefix that is blocked and contains `network`, but is not it.
    #[must_use]
    pub fn covering(&self, network: &IpNet) -> Option<IpNet> {
        let shorter = self.lengths(is_v4(network)).iter().filter(|length| **length < network.prefix_len());
        let outer = shorter.filter_map(|length| Some(IpNet::new(network.network(), *length).ok()?.trunc()));
        outer.filter(|outer| self.by_network.contains_key(outer)).min_by_key(IpNet::prefix_len)
    }

    /// Networks whose time is over.
    #[must_use]
    pub fn expired(&self, now: Instant) -> Vec<IpNet> {
        self.by_network.values().filter(|held| held.ends <= now).map(|held| held.block.network).collect()
    }

    /// Corrects the times that people are told, where a clock was set since.
    pub fn correct_times(&mut self, now: Now) {
        for Held { block, ends } in self.by_network.values_mut() {
            let until = now.wall + ends.saturating_duration_since(now.steady);
            let drift = until.duration_since(block.until).unwrap_or_else(|error| error.duration());
            if drift > MOST_DRIFT {
                block.until = until;
                self.is_changed = true;
            }
        }
    }

    /// How many there can be.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_network.len()
    }

    /// Takes note that the block of `network` could not be removed; answers with whether that is new.
    pub fn note_stuck(&mut self, network: &IpNet) -> bool {
        self.by_network.contains_key(network) && self.stuck.insert(*network)
    }

    /// The lengths of prefixes that are blocked, of one version of IP.
    #[must_use]
    pub fn lengths(&self, is_v4: bool) -> &[u8] {
        &self.lengths[usize::from(!is_v4)]
    }

    /// All of them, by network.
    pub fn iter(&self) -> impl Iterator<Item = &Block> {
        self.by_network.values().map(|held| &held.block)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_network.is_empty()
    }

    /// Whether anything has changed since this was last asked.
    pub const fn take_changed(&mut self) -> bool {
        std::mem::replace(&mut self.is_changed, false)
    }

    /// Takes note that what has changed could not be kept.
    pub const fn set_changed(&mut self) {
        self.is_changed = true;
    }
}
