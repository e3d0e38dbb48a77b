//! Networks: as people write them, and as the kernel finds their blocks.

use std::{net::IpAddr, time::Duration};

use ipnet::{IpNet, Ipv4Net};
use tidewaiter_common::guard::{BlockKey, BlockedLength};

use super::{BlockError, MAX_REASON};
use crate::guard::prefix_file::parse_prefix;

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

/// As one of IPv4, if it is addresses of that within IPv6.
pub(super) fn canonical(network: IpNet) -> IpNet {
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

pub(super) const fn is_v4(network: &IpNet) -> bool {
    matches!(network, IpNet::V4(_))
}

/// The network that the kernel finds by `key`.
#[must_use]
pub fn network_at(key: &BlockKey) -> Option<IpNet> {
    let length = u8::try_from(key.length).ok()?;
    IpNet::new(IpAddr::from(key.address).to_canonical(), length).ok()
}
