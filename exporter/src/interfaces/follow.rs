//! Following the interfaces by netlink.

use std::{
    future::pending,
    io,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection,
    packet_route::{
        link::{LinkAttribute, LinkMessage},
        route::{RouteAttribute, RouteHeader, RouteMessage, RouteType},
    },
};
use tokio::time::{error::Elapsed, timeout};
use tracing::error;

use super::Interface;

/// How long to wait for more after a change, because changes come in bursts.
const SETTLE: Duration = Duration::from_millis(50);
/// The longest that changes may put off a look by coming one after the other.
const SETTLE_AT_MOST: Duration = Duration::from_millis(500);

/// The interfaces at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// All of them, by index.
    pub interfaces: Vec<Interface>,
    /// Indexes of those that a default route goes out of.
    pub default_routes: Vec<u32>,
}

/// A connection to the kernel that tells when interfaces or routes change.
pub struct Follower {
    handle: Handle,
    changes: BoxStream<'static, ()>,
    /// Whether there was a change that nobody was told of yet.
    has_changed: bool,
}

impl Follower {
    /// Opens the connection; must be called within a Tokio runtime.
    pub fn new() -> io::Result<Self> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];
        let (connection, handle, messages) = new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        Ok(Self { handle, changes: messages.map(|_| ()).boxed(), has_changed: false })
    }

    /// The interfaces as they are now.
    pub async fn links(&self) -> Result<Links, rtnetlink::Error> {
        let mut interfaces: Vec<Interface> =
            self.handle.link().get().execute().try_filter_map(async |link| Ok(interface(link))).try_collect().await?;
        interfaces.sort_unstable_by_key(|interface| interface.index);

        let mut default_routes = Vec::new();
        for request in [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let mut routes = self.handle.route().get(request).execute();
            while let Some(route) = routes.try_next().await? {
                default_routes.extend(default_route(&route));
            }
        }
        default_routes.sort_unstable();
        default_routes.dedup();
        Ok(Links { interfaces, default_routes })
    }

    /// Waits until something about the interfaces or routes has changed. Waits for ever if the kernel will not tell any
    /// more. May be cancelled: a change that was heard of is told by the next call.
    pub async fn changed(&mut self) {
        if !self.has_changed && self.changes.next().await.is_none() {
            error!("the kernel no longer tells of changes: interfaces are not followed any more");
            return pending().await;
        }
        self.has_changed = true;
        let settle = async { while let Ok(Some(())) = timeout(SETTLE, self.changes.next()).await {} };
        // Either it has settled, or it has had its time.
        let _: Result<(), Elapsed> = timeout(SETTLE_AT_MOST, settle).await;
        self.has_changed = false;
    }
}

fn interface(link: LinkMessage) -> Option<Interface> {
    let name = link.attributes.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    })?;
    Some(Interface { index: link.header.index, name, link_layer: link.header.link_layer_type.into() })
}

/// Indexes of the interfaces that `route` goes out of, if it is a default route.
fn default_route(route: &RouteMessage) -> Vec<u32> {
    let RouteHeader { destination_prefix_length, table, kind, .. } = route.header;
    if destination_prefix_length != 0 || table != RouteHeader::RT_TABLE_MAIN || kind != RouteType::Unicast {
        return Vec::new();
    }
    route
        .attributes
        .iter()
        .flat_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => vec![*index],
            RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
            _ => Vec::new(),
        })
        .collect()
}
