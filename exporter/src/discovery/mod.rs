//! APIs from the listening sockets, for where no configuration names any.

pub mod helper;
pub mod listeners;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
    time::Instant,
};

use tokio::{
    sync::mpsc::{self, Receiver},
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info, warn};

use self::{
    helper::{Helper, HelperError},
    listeners::Listener,
};
use crate::{
    api::{Api, Role, Transport},
    config::Discovery,
    snapshot::CollectorSnapshot,
};

/// One look at the listening sockets.
#[derive(Debug)]
pub struct Scan {
    /// The APIs that they amount to; `None` if they could not be seen.
    pub apis: Option<Vec<Api>>,
    /// How the look went.
    pub collector: CollectorSnapshot,
}

/// Starts to look at the listening sockets, at once and then again and again, in a task of its own. Must be called while
/// the capabilities are still there. The APIs that are `known` already last as long as if they were found now.
///
/// # Errors
/// If the helper process cannot be started.
pub fn start(discovery: Discovery, known: Vec<Api>) -> Result<Receiver<Scan>, HelperError> {
    let mut helper = Helper::start()?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut known = DiscoveredApis::new(discovery, known, Instant::now());
        let mut ticks = interval(discovery.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let start = Instant::now();
            let listeners = helper.listeners().await;
            let collector =
                CollectorSnapshot { name: "discovery", success: listeners.is_ok(), duration: start.elapsed() };
            let is_over = listeners.as_ref().is_err_and(|error| !error.is_passing());
            let apis = match listeners {
                Ok(listeners) => Some(known.update(&listeners, Instant::now())),
                Err(error) => {
                    error!(%error, "cannot look for listening sockets: the APIs that are known stay");
                    None
                }
            };
            // Nobody listens any more when the daemon ends.
            if sender.send(Scan { apis, collector }).await.is_err() || is_over {
                break;
            }
        }
    });
    Ok(receiver)
}

/// The APIs that the listening sockets amount to. One lasts for a while after its last socket was closed, so that a
/// service that is restarted keeps its counters.
#[derive(Debug)]
pub struct DiscoveredApis {
    discovery: Discovery,
    known: BTreeMap<String, (Api, Instant)>,
    left_out: BTreeSet<String>,
}

impl DiscoveredApis {
    /// Those that are `known` from before; they were last seen `now`.
    #[must_use]
    pub fn new(discovery: Discovery, known: Vec<Api>, now: Instant) -> Self {
        let known = known.into_iter().map(|api| (api.name.clone(), (api, now))).collect();
        Self { discovery, known, left_out: BTreeSet::new() }
    }

    /// Takes note of what is listening `now`, and answers with all APIs.
    pub fn update(&mut self, listeners: &[Listener], now: Instant) -> Vec<Api> {
        let found = apis(listeners);
        let claims: BTreeSet<_> = found.values().flat_map(|api| api.claims().collect::<Vec<_>>()).collect();
        self.known.retain(|name, (api, seen)| {
            found.contains_key(name)
                || now.saturating_duration_since(*seen) < self.discovery.forget_after
                    && !api.claims().any(|claim| claims.contains(&claim))
        });

        let mut left_out = BTreeSet::new();
        for (name, api) in found {
            if self.known.contains_key(&name) || self.known.len() < self.discovery.limit {
                self.known.insert(name, (api, now));
            } else {
                left_out.insert(name);
            }
        }
        if left_out != self.left_out {
            if left_out.is_empty() {
                info!("all listening sockets are counted as APIs of their own again");
            } else {
                let names: Vec<_> = left_out.iter().take(5).map(String::as_str).collect();
                warn!(
                    limit = self.discovery.limit,
                    left_out = left_out.len(),
                    for_example = names.join(", "),
                    "more listening sockets than discovery.limit allows: the traffic of the others stays unmapped"
                );
            }
            self.left_out = left_out;
        }
        self.known.values().map(|(api, _)| api.clone()).collect()
    }
}

/// Who listens at a port, and at which addresses; `None` is any.
type Owners = BTreeMap<String, BTreeSet<Option<IpAddr>>>;

/// The APIs that `listeners` amount to, by name: one for each process and port.
///
/// Where different processes listen at the same port, each at addresses of its own, so do their APIs. Where several
/// listen at any address (one by IPv4 and one by IPv6, say), the first by name stands for all of them.
fn apis(listeners: &[Listener]) -> BTreeMap<String, Api> {
    let mut ports: BTreeMap<(Transport, u16), Owners> = BTreeMap::new();
    for Listener { process, transport, port, address } in listeners {
        let owner = process.clone().unwrap_or_else(|| "unknown".to_owned());
        ports.entry(((*transport).into(), *port)).or_default().entry(owner).or_default().insert(*address);
    }

    let mut apis: BTreeMap<String, Api> = BTreeMap::new();
    for ((transport, port), owners) in ports {
        let shared = owners.len() > 1;
        let mut any_is_taken = false;
        for (owner, addresses) in owners {
            let any = !shared || addresses.contains(&None);
            if any && std::mem::replace(&mut any_is_taken, true) {
                continue;
            }
            let addresses = if any { Vec::new() } else { addresses.into_iter().flatten().collect() };
            let name = format!("{owner}:{port}");
            match apis.entry(name.clone()) {
                Entry::Vacant(entry) => {
                    let (role, transports, ports) = (Role::Server, vec![transport], vec![port.into()]);
                    entry.insert(Api { name, role, transports, ports, addresses, expect: Vec::new() });
                }
                // The same by the other transport: any address is wider than some.
                Entry::Occupied(entry) => {
                    let api = entry.into_mut();
                    api.transports.push(transport);
                    if addresses.is_empty() || api.addresses.is_empty() {
                        api.addresses.clear();
                    } else {
                        api.addresses.extend(addresses);
                        api.addresses.sort_unstable();
                        api.addresses.dedup();
                    }
                }
            }
        }
    }
    apis
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{DiscoveredApis, Discovery, Listener, apis};
    use crate::config::raw::RawTransport;

    const SECOND: Duration = Duration::from_secs(1);

    fn listener(process: &str, transport: RawTransport, port: u16, address: &str) -> Listener {
        let address = (!address.is_empty()).then(|| address.parse().expect("an address"));
        Listener { process: Some(process.to_owned()), transport, port, address }
    }

    fn tcp(process: &str, port: u16) -> Listener {
        listener(process, RawTransport::Tcp, port, "")
    }

    fn names(discovered: &mut DiscoveredApis, listeners: &[Listener], now: Instant) -> Vec<String> {
        discovered.update(listeners, now).into_iter().map(|api| api.name).collect()
    }

    #[test]
    fn one_api_for_each_process_and_port() {
        let found = apis(&[
            tcp("nginx", 80),
            tcp("nginx", 80),
            tcp("nginx", 443),
            listener("nginx", RawTransport::Udp, 443, ""),
            listener("redis-server", RawTransport::Tcp, 6379, "127.0.0.1"),
            Listener { process: None, ..tcp("", 22) },
        ]);
        let found: Vec<_> = found.values().map(|api| (api.name.as_str(), api.transports_label())).collect();
        let expected =
            [("nginx:443", "tcp,udp"), ("nginx:80", "tcp"), ("redis-server:6379", "tcp"), ("unknown:22", "tcp")];
        assert_eq!(found, expected.map(|(name, transports)| (name, transports.to_owned())));
    }

    #[test]
    fn processes_that_share_a_port_are_told_apart_by_address() {
        let found = apis(&[
            listener("dnsmasq", RawTransport::Udp, 53, "10.0.0.1"),
            listener("systemd-resolve", RawTransport::Udp, 53, "127.0.0.53"),
            listener("systemd-resolve", RawTransport::Udp, 53, "127.0.0.54"),
            listener("unbound", RawTransport::Udp, 53, ""),
        ]);
        let found: Vec<_> = found.values().map(|api| (api.name.as_str(), api.addresses.len())).collect();
        assert_eq!(found, [("dnsmasq:53", 1), ("systemd-resolve:53", 2), ("unbound:53", 0)]);
    }

    #[test]
    fn an_api_of_both_transports_has_the_addresses_of_both() {
        let found = apis(&[
            listener("a", RawTransport::Tcp, 53, "10.0.0.1"),
            listener("b", RawTransport::Tcp, 53, "10.0.0.2"),
            listener("a", RawTransport::Udp, 53, ""),
        ]);
        let found: Vec<_> = found.values().map(|api| (api.name.as_str(), api.addresses.len())).collect();
        assert_eq!(found, [("a:53", 0), ("b:53", 1)]);
    }

    #[test]
    fn of_several_at_any_address_the_first_stands_for_all() {
        let found = apis(&[tcp("b", 80), tcp("a", 80), listener("c", RawTransport::Tcp, 80, "10.0.0.1")]);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a:80", "c:80"]);
    }

    #[test]
    fn an_api_outlives_its_socket_for_a_while_but_not_another_at_its_port() {
        let discovery = Discovery { interval: SECOND, limit: 10, forget_after: 10 * SECOND };
        let mut discovered = DiscoveredApis::new(discovery, Vec::new(), Instant::now());
        let start = Instant::now();
        assert_eq!(names(&mut discovered, &[tcp("a", 1), tcp("b", 2)], start), ["a:1", "b:2"]);
        assert_eq!(names(&mut discovered, &[], start + 9 * SECOND), ["a:1", "b:2"]);
        assert_eq!(names(&mut discovered, &[tcp("a", 1)], start + 9 * SECOND), ["a:1", "b:2"]);
        assert_eq!(names(&mut discovered, &[tcp("c", 2)], start + 9 * SECOND), ["a:1", "c:2"]);
        assert_eq!(names(&mut discovered, &[tcp("c", 2)], start + 19 * SECOND), ["c:2"]);
    }

    #[test]
    fn the_limit_holds_and_first_come_are_first_served() {
        let mut discovered = DiscoveredApis::new(
            Discovery { interval: SECOND, limit: 2, forget_after: SECOND },
            Vec::new(),
            Instant::now(),
        );
        let start = Instant::now();
        assert_eq!(names(&mut discovered, &[tcp("m", 1), tcp("n", 2)], start), ["m:1", "n:2"]);
        assert_eq!(names(&mut discovered, &[tcp("a", 3), tcp("m", 1), tcp("n", 2)], start), ["m:1", "n:2"]);
        assert_eq!(names(&mut discovered, &[tcp("a", 3), tcp("n", 2)], start + SECOND), ["a:3", "n:2"]);
    }
}
