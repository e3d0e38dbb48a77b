//! Why something is not blocked, or not unblocked.

use std::time::Duration;

use ipnet::IpNet;
use thiserror::Error;
use tidewaiter_common::guard::BLOCKED_LENGTHS;

use super::{LONGEST, MAX_REASON, SHORTEST};
use crate::{guard::prefix_file::PrefixError, kernel::KernelError};

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
        "the reason has {0} characters, or some among them that cannot be seen: expected at most {MAX_REASON}, and none of those"
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
    /// It is not blocked, at least not by itself.
    #[error("{network} is not blocked{}", by_covering(*.covering))]
    NotBlocked {
        /// What was asked for.
        network: IpNet,
        /// What is blocked and contains it.
        covering: Option<IpNet>,
    },
    /// It comes too late.
    #[error("the exporter is stopping: nothing is changed any more")]
    Stopping,
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

fn by_covering(covering: Option<IpNet>) -> String {
    covering.map_or_else(String::new, |covering| format!(" by itself, but {covering} is, which contains it"))
}
