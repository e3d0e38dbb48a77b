//! Which devices run programs of XDP in their driver, by the kernel's netdev family (`Documentation/netlink/specs/netdev.yaml`,
//! Linux 6.3). Anybody may ask.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use rtnetlink::{packet_core::parse_u64, proto::new_connection, sys::protocols::NETLINK_GENERIC};
use tracing::debug;

use super::{
    Interface,
    ethtool::{EthtoolError, ask, attribute, family, required},
};
use crate::chain::chain;

// What follows is from `include/uapi/linux/netdev.h`.

/// `NETDEV_CMD_DEV_GET`.
const GET_DEVICE: u8 = 1;
/// `NETDEV_A_DEV_IFINDEX`.
const INDEX: u16 = 1;
/// `NETDEV_A_DEV_XDP_FEATURES`.
const XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_BASIC`: frames can be let pass, dropped and sent back.
const BASIC: u64 = 1;

/// Whether the drivers of `interfaces` run programs of XDP, by index; `None` if the kernel does not say.
pub async fn runs_xdp(interfaces: &[Interface]) -> Option<BTreeMap<u32, bool>> {
    match ask_about(interfaces).await {
        Ok(answers) => Some(answers),
        Err(error) => {
            debug!(error = chain(&error), "cannot tell which drivers have XDP");
            None
        }
    }
}

async fn ask_about(interfaces: &[Interface]) -> Result<BTreeMap<u32, bool>, EthtoolError> {
    let (connection, handle, _messages) = new_connection(NETLINK_GENERIC).map_err(EthtoolError::Open)?;
    // It ends when the handle is dropped.
    tokio::spawn(connection);
    let family = family(&handle, b"netdev\0").await?;
    let what = "what a device can do with XDP";
    let mut found = BTreeMap::new();
    // One by one: the kernel does not mark the parts of an answer about all as parts.
    for Interface { index, .. } in interfaces {
        let mut answers = ask(&handle, what, 0, family, GET_DEVICE, &[attribute(INDEX, &index.to_ne_bytes())])?;
        let answer = answers.next().await.ok_or(EthtoolError::Lacking(what))??;
        let features = parse_u64(required(&answer.attributes, XDP_FEATURES, what)?)?;
        found.insert(*index, features & BASIC != 0);
    }
    Ok(found)
}
