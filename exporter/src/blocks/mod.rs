//! Blocks: who is let in no more, for a while. By hand, by another system, or as a response to an anomaly.
//!
//! This is what is known of them in userspace; [`Accounting`](crate::accounting::Accounting) puts them in force. However many
//! ask, there are no more than a configuration says, of few lengths, and never of those who are always let in.

pub mod response;
pub mod row;
pub mod state;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, SystemTime},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;
use tidewaiter_common::guard::{BLOCKED_LENGTHS, BlockKey, BlockedLength};

pub use self::row::BlockRow;
use crate::{
    event::{Block, BlockedBy},
    guard::prefix_file::{PrefixError, parse_prefix},
    kernel::KernelError,
};

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

/// Responses leave a part of this size free, for those who block by hand.
const RESERVED_PART: usize = 8;

/// Why something is not blocked, or not unblocked.
#[derive(Debug, Error)]
pub enum BlockError {
    /// That is no address and no prefix.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// That is no time.
    #[error("found {0:?}, expected a span of time such as \"10m\" or \"2h\"")]
    NotAPeriod(String),
    /// It is too short or too long a time.
    #[error(
        "found {}, expected {} to {}", humantime::format_duration(*.0), humantime::format_duration(SHORTEST),
        humantime::format_duration(LONGEST)
    )]
    Period(Duration),
    /// The reason cannot be shown.
    #[error(
        "the reason has {0} characters, or control characters among them: expected at most {MAX_REASON}, and none of those"
    )]
    Reason(usize),
    /// It is far too much.
    #[error("{network} is too much to be blocked at once, expected a prefix of {least} bits or more")]
    TooShort {
        /// What was asked for.
        network: IpNet,
        /// The fewest bits.
        least: u8,
    },
    /// It, or a part of it, is always let in.
    #[error("{network} cannot be blocked: {protected} is always let in (guard.protect, and this host itself)")]
    Protected {
        /// What was asked for.
        network: IpNet,
        /// Who is protected.
        protected: IpNet,
    },
    /// There are too many.
    #[error("there are {0} blocks already (guard.max_blocks): unblock some, or block a prefix that contains them")]
    Full(usize),
    /// There are blocks of too many lengths.
    #[error(
        "{network} cannot be blocked: there are blocks of {BLOCKED_LENGTHS} other lengths, expected one of {lengths}"
    )]
    Lengths {
        /// What was asked for.
        network: IpNet,
        /// The lengths that there are.
        lengths: String,
    },
    /// It is not blocked.
    #[error("{0} is not blocked")]
    NotBlocked(IpNet),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// The network that `text` is, or that of a single address. One of IPv4 addresses within IPv6 is one of IPv4.
pub fn parse_network(text: &str) -> Result<IpNet, BlockError> {
    Ok(canonical(parse_prefix(text)?))
}

/// The time that `text` is, such as "10m".
pub fn parse_period(text: &str) -> Result<Duration, BlockError> {
    humantime::parse_duration(text).map_err(|_| BlockError::NotAPeriod(text.chars().take(MAX_REASON).collect()))
}

/// The network of the first bits of `address`.
#[must_use]
pub fn network_of(address: IpAddr, ipv4_length: u8, ipv6_length: u8) -> IpNet {
    let address = address.to_canonical();
    let length = if address.is_ipv4() { ipv4_length } else { ipv6_length };
    IpNet::new(address, length).unwrap_or_else(|_| address.into()).trunc()
}

fn canonical(network: IpNet) -> IpNet {
    let mapped = match network {
        IpNet::V6(network) => network.addr().to_ipv4_mapped().zip(network.prefix_len().checked_sub(96)),
        IpNet::V4(_) => None,
    };
    mapped.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(network, IpNet::V4)
}

/// How the kernel finds the block of `network`.
#[must_use]
pub fn key(network: &IpNet) -> BlockKey {
    let length = BlockedLength::new(network.prefix_len(), is_v4(network));
    BlockKey::of(network.network().into(), &length)
}

const fn is_v4(network: &IpNet) -> bool {
    matches!(network, IpNet::V4(_))
}

/// The blocks that there are.
#[derive(Debug)]
pub struct Blocks {
    capacity: usize,
    /// Who is never blocked.
    protect: Vec<IpNet>,
    by_network: BTreeMap<IpNet, Block>,
    /// Lengths of prefixes that are blocked, of IPv4 and of IPv6, in the order in which they came.
    lengths: [Vec<u8>; 2],
    /// Those that could not be removed, and of which that was told.
    stuck: BTreeSet<IpNet>,
    /// Whether there is something that the state's file does not say.
    is_changed: bool,
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

    /// What becomes of blocks when this one is added: it itself, or the one there is of the same network if that lasts longer.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn admit(&self, block: Block, now: SystemTime) -> Result<Block, BlockError> {
        let Block { network, until, reason, by } = &block;
        let period = until.duration_since(now).unwrap_or_default();
        // Some time has passed since `until` was worked out.
        if period.is_zero() || period > LONGEST {
            return Err(BlockError::Period(period));
        }
        let characters = reason.chars().count();
        if characters > MAX_REASON || reason.chars().any(char::is_control) {
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
            return Ok(if before.until > block.until { before.clone() } else { block });
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
        Ok(block)
    }

    /// Adds a block that was admitted, or has it in the place of the one of the same network.
    pub fn insert(&mut self, block: Block) {
        let lengths = &mut self.lengths[usize::from(!is_v4(&block.network))];
        if !lengths.contains(&block.network.prefix_len()) {
            lengths.push(block.network.prefix_len());
        }
        self.by_network.insert(block.network, block);
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
        Some(removed)
    }

    /// The block of `network`.
    #[must_use]
    pub fn get(&self, network: &IpNet) -> Option<&Block> {
        self.by_network.get(network)
    }

    /// Networks whose time is over.
    #[must_use]
    pub fn expired(&self, now: SystemTime) -> Vec<IpNet> {
        self.by_network.values().filter(|block| block.until <= now).map(|block| block.network).collect()
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
        self.by_network.values()
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
