//! The network interfaces of this host: which there are, which are to be accounted, and what their devices count.

mod device;
mod ethtool;
mod follow;
mod statistics;
mod unit;
mod xdp;

use std::collections::HashSet;

use rtnetlink::packet_route::link::LinkLayerType;
use tidewaiter_common::frame::Framing;

use tidewaiter_common::direction::Direction;

pub use self::{
    device::{Device, Offload, SuperPackets},
    follow::{Follower, Links},
    statistics::{Statistics, StatisticsError, statistics},
    unit::{Unit, Unknown, coverage},
    xdp::runs_xdp,
};
use crate::{
    api::join,
    config::{
        InterfacePattern, InterfacePatterns, InterfaceSelection,
        error::{ConfigurationError, Problem},
    },
};

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index, unique in its network namespace as long as it exists.
    pub index: u32,
    /// Its name, which may change.
    pub name: String,
    /// What its frames begin with.
    pub link_layer: LinkLayer,
}

/// What kind of link an interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLayer {
    /// Ethernet.
    Ethernet,
    /// The loopback interface, whose Ethernet headers are full of zeros.
    Loopback,
    /// No link layer: its frames are IP packets. Tun, `WireGuard`, PPP, tunnels of the kernel.
    Ip,
    /// Something else, `ARPHRD_…` in `include/uapi/linux/if_arp.h`.
    Other(u16),
}

impl From<LinkLayerType> for LinkLayer {
    fn from(link_layer: LinkLayerType) -> Self {
        match link_layer {
            LinkLayerType::Ether => Self::Ethernet,
            LinkLayerType::Loopback => Self::Loopback,
            LinkLayerType::None
            | LinkLayerType::Rawip
            | LinkLayerType::Ppp
            | LinkLayerType::Tunnel
            | LinkLayerType::Tunnel6
            | LinkLayerType::Sit
            | LinkLayerType::Ipgre
            | LinkLayerType::Ip6gre => Self::Ip,
            other => Self::Other(other.into()),
        }
    }
}

impl Links {
    /// Those of the interfaces that `selection` names and whose frames can be read.
    #[must_use]
    pub fn select(&self, selection: &InterfaceSelection) -> Vec<Interface> {
        self.named(selection).filter(|interface| interface.framing().is_some()).cloned().collect()
    }

    /// Those of the interfaces that `selection` names, but whose frames cannot be read.
    pub fn unreadable(&self, selection: &InterfaceSelection) -> impl Iterator<Item = &Interface> {
        self.named(selection).filter(|interface| interface.framing().is_none())
    }

    /// What the device of `interface` counts in each direction, by [`Direction::index`].
    pub fn units(&self, interface: &Interface) -> [Result<Unit, Unknown>; Direction::COUNT] {
        let device = self.device(interface);
        Direction::ALL.map(|direction| unit::unit(interface.link_layer, &device, direction))
    }

    /// Whether the device of `interface` counts each frame as received that reaches a program of XDP, also one that this drops.
    #[must_use]
    pub fn counts_frames(&self, interface: &Interface) -> bool {
        unit::counts_frames(&self.device(interface))
    }

    /// What the device of `interface` is; one of which nothing is known if the kernel did not tell.
    #[must_use]
    pub fn device(&self, interface: &Interface) -> Device {
        self.devices.get(&interface.index).cloned().unwrap_or_default()
    }

    fn named(&self, selection: &InterfaceSelection) -> impl Iterator<Item = &Interface> {
        self.interfaces.iter().filter(move |interface| match selection {
            InterfaceSelection::Default => {
                interface.link_layer == LinkLayer::Loopback || self.default_routes.contains(&interface.index)
            }
            InterfaceSelection::Matching(InterfacePatterns { globs, .. }) => globs.is_match(&interface.name),
        })
    }

    /// Sees that each pattern of `selection` matches an interface.
    pub fn validate(&self, selection: &InterfaceSelection) -> Result<(), ConfigurationError> {
        let InterfaceSelection::Matching(InterfacePatterns { patterns, globs }) = selection else { return Ok(()) };
        let matched: HashSet<_> = self.interfaces.iter().flat_map(|interface| globs.matches(&interface.name)).collect();
        let there_are = join(self.interfaces.iter().map(|interface| &interface.name));
        let unmatched = patterns.iter().enumerate().filter(|(position, _)| !matched.contains(position));
        let problems: Vec<_> = unmatched
            .map(|(position, InterfacePattern { text, place })| Problem {
                key: format!("interfaces.{position}"),
                place: place.clone(),
                message: format!("found {text:?}, which matches no interface, expected some of {there_are}"),
            })
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(ConfigurationError::Invalid(problems)) }
    }
}

impl Interface {
    /// Whether it is the loopback interface.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.link_layer == LinkLayer::Loopback
    }

    /// What this interface's frames begin with; `None` if the kernel side cannot read that.
    #[must_use]
    pub const fn framing(&self) -> Option<Framing> {
        match self.link_layer {
            LinkLayer::Ethernet | LinkLayer::Loopback => Some(Framing::Ethernet),
            LinkLayer::Ip => Some(Framing::Ip),
            LinkLayer::Other(_) => None,
        }
    }
}
