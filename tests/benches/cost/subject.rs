//! What is measured, within this process: accounting of packets that pass no interface, but `TEST_RUN` pretends they do.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use tidewaiter::{
    accounting::Accounting,
    api::{Api, Role},
    config::AttachMode,
    interfaces::{Interface, LinkLayer},
    kernel::{FlowCapacity, Kernel, LoadOptions},
};
use tidewaiter_common::transport::Transport;

pub(crate) const SERVER4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
pub(crate) const CLIENT4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 78, 0, 0));
pub(crate) const SERVER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1));
pub(crate) const CLIENT6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 1, 0));
/// The port of the first API.
pub(crate) const PORT: u16 = 8080;
/// The port of [`CLIENT4`] and [`CLIENT6`].
pub(crate) const CLIENT_PORT: u16 = 40_000;

/// Accounting of `apis`, with room for `established` flows.
pub(crate) fn subject(established: u32, apis: &[Api]) -> Accounting {
    let flows = FlowCapacity::for_established(established);
    let kernel = Kernel::load(LoadOptions { flows, ..LoadOptions::default() }).expect("the kernel takes the programs");
    let mut accounting = Accounting::new(kernel, AttachMode::Auto, Duration::MAX).expect("it can be read");
    accounting.apply_apis(apis).expect("is written");
    // Whose packets they are said to be if nothing else is said.
    let lo = Interface { index: 1, name: "lo".to_owned(), link_layer: LinkLayer::Loopback };
    accounting.pretend_interface(&lo).expect("is written");
    accounting
}

/// An API at `port` of every transport.
pub(crate) fn api(name: &str, port: u16, addresses: Vec<IpAddr>) -> Api {
    let (name, transports, ports) = (name.to_owned(), Transport::ALL.to_vec(), vec![port.into()]);
    Api { name, role: Role::Server, transports, ports, addresses, expect: Vec::new() }
}

/// So many APIs, from [`PORT`] on.
pub(crate) fn apis(count: u16) -> Vec<Api> {
    (0..count).map(|at| api(&format!("api-{at}"), PORT + at, Vec::new())).collect()
}
