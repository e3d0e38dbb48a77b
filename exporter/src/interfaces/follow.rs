//! Following the interfaces by netlink.

use std::{
    collections::{BTreeSet, HashMap},
    future::{pending, ready},
    io,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection,
    packet_core::NetlinkPayload,
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkInfo, LinkMessage},
        route::{RouteAttribute, RouteHeader, RouteMessage, RouteType},
        tc::TcAttribute,
    },
};
use tokio::time::{error::Elapsed, timeout};
use tracing::{debug, error};

use super::{Interface, device::Device, ethtool};
use crate::chain::chain;

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
    /// What the devices are, by index.
    pub devices: HashMap<u32, Device>,
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
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route, MulticastGroup::Tc];
        let (connection, handle, messages) = new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        let changes = messages.filter_map(|(message, _)| ready(is_a_change(&message.payload).then_some(())));
        Ok(Self { handle, changes: changes.boxed(), has_changed: false })
    }

    /// The interfaces as they are now.
    pub async fn links(&self) -> Result<Links, rtnetlink::Error> {
        let mut links: Vec<(Interface, Device)> =
            self.handle.link().get().execute().try_filter_map(async |link| Ok(interface(link))).try_collect().await?;
        links.sort_unstable_by_key(|(interface, _)| interface.index);
        let mut offloads = ethtool::offloads().await.unwrap_or_else(|error| {
            debug!(error = chain(&error), "cannot tell which offloads are on");
            HashMap::new()
        });
        let mut qdiscs = self.qdiscs().await;
        let (mut interfaces, mut devices) = (Vec::new(), HashMap::new());
        for (interface, mut device) in links {
            device.offload = offloads.remove(&interface.index);
            device.qdiscs = qdiscs.remove(&interface.index).unwrap_or_default();
            devices.insert(interface.index, device);
            interfaces.push(interface);
        }

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
        Ok(Links { interfaces, default_routes, devices })
    }

    /// Kinds of the queueing disciplines of each interface. A kernel that refuses to tell has none to tell of.
    async fn qdiscs(&self) -> HashMap<u32, BTreeSet<String>> {
        let mut kinds: HashMap<u32, BTreeSet<String>> = HashMap::new();
        let mut qdiscs = self.handle.qdisc().get().execute().boxed();
        while let Some(qdisc) = qdiscs.next().await {
            match qdisc {
                Ok(qdisc) => {
                    let of_interface = kinds.entry(qdisc.header.index.cast_unsigned()).or_default();
                    of_interface.extend(qdisc.attributes.into_iter().filter_map(|attribute| match attribute {
                        TcAttribute::Kind(kind) => Some(kind),
                        _ => None,
                    }));
                }
                Err(error) => debug!(error = chain(&error), "cannot list queueing disciplines"),
            }
        }
        kinds
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

/// Whether `message` tells of anything that is looked at here: filters and their like are not.
const fn is_a_change(message: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
    use RouteNetlinkMessage::{
        DelTrafficAction, DelTrafficChain, DelTrafficClass, DelTrafficFilter, NewTrafficAction, NewTrafficChain,
        NewTrafficClass, NewTrafficFilter,
    };
    !matches!(
        message,
        NetlinkPayload::InnerMessage(
            NewTrafficAction(_)
                | DelTrafficAction(_)
                | NewTrafficChain(_)
                | DelTrafficChain(_)
                | NewTrafficClass(_)
                | DelTrafficClass(_)
                | NewTrafficFilter(_)
                | DelTrafficFilter(_)
        )
    )
}

fn interface(link: LinkMessage) -> Option<(Interface, Device)> {
    let LinkMessage { header, attributes, .. } = link;
    let mut name = None;
    let mut device = Device::default();
    for attribute in attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text),
            LinkAttribute::ParentDevBusName(bus) => device.bus = Some(bus),
            LinkAttribute::LinkInfo(information) => {
                device.kind = information.into_iter().find_map(|information| match information {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some((Interface { index: header.index, name: name?, link_layer: header.link_layer_type.into() }, device))
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
