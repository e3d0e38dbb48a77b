//! The daemon: everything put together, from start to end.

use std::{future::pending, io, net::SocketAddr, time::Instant};

use thiserror::Error;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::{Interval, MissedTickBehavior, interval},
};
use tracing::{error, info, warn};

use crate::{
    accounting::Accounting,
    api::Api,
    capabilities::{self, CapabilityError},
    config::{ApiSource, Configuration, Discovery, InterfaceSelection, error::ConfigurationError},
    discovery::{
        DiscoveredApis,
        helper::{Helper, HelperError},
    },
    http::{self, Shared},
    interfaces::{Follower, Links},
    kernel::{Kernel, KernelError},
};

/// Why the daemon could not start or go on.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The configuration does not fit this host.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// A capability is missing or could not be given up.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// The address to listen on is not to be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The kernel side failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The process that looks for listening sockets failed.
    #[error(transparent)]
    Discovery(#[from] HelperError),
    /// Netlink failed.
    #[error("cannot list the network interfaces: {0}")]
    Interfaces(#[from] rtnetlink::Error),
    /// The operating system refused something else.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Runs until SIGTERM or SIGINT.
///
/// Everything that can be refused is asked for in an order that leaves nothing behind: configuration, permissions and
/// the listening port before anything is attached. There is one thread until the capabilities are given up, and the
/// runtime has no other: capabilities belong to threads.
pub async fn run(configuration: Configuration) -> Result<(), DaemonError> {
    let Configuration { file: _, listen, interfaces: selection, attach, apis, log: _ } = configuration;
    let mut terminate = on_signal(SignalKind::terminate())?;
    let mut interrupt = on_signal(SignalKind::interrupt())?;
    let mut hang_up = on_signal(SignalKind::hangup())?;

    let mut follower = Follower::new().map_err(|source| DaemonError::Io { action: "open netlink", source })?;
    let links = follower.links().await?;
    links.validate(&selection)?;
    capabilities::require()?;
    let listener = TcpListener::bind(listen).await.map_err(|source| DaemonError::Listen { address: listen, source })?;
    let address = listener.local_addr().map_err(|source| DaemonError::Listen { address: listen, source })?;

    let shared = Shared::new(Accounting::new(Kernel::load()?, attach));
    let (stop_serving, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(http::serve(listener, http::router(shared.clone()), async {
        // An error means that the other end is gone, which is to stop as well.
        stopped.await.unwrap_or_default();
    }));

    let mut discovery = None;
    let apis = match apis {
        ApiSource::Configured(apis) => apis,
        ApiSource::Discovered(settings) => {
            discovery = Some(Discoverer::start(settings)?);
            Discoverer::next(&mut discovery).await
        }
    };
    shared.accounting().apply_apis(&apis)?;
    follow(&shared, &links, &selection, true)?;
    capabilities::keep_only(&capabilities::KEPT)?;
    info!(%address, "serving metrics");

    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            // Unheard, the signal would end the process, and others take it for the wish to reload.
            _ = hang_up.recv() => warn!("the configuration is read at the start alone: restart to apply a change"),
            () = follower.changed() => match follower.links().await {
                Ok(links) => follow(&shared, &links, &selection, false)?,
                Err(error) => warn!(%error, "cannot list the network interfaces"),
            },
            apis = Discoverer::next(&mut discovery) => {
                if let Err(error) = shared.accounting().apply_apis(&apis) {
                    error!(%error, "cannot change which APIs are counted");
                }
            }
        }
    }

    info!("stopping");
    shared.accounting().detach();
    drop(stop_serving);
    server.await.unwrap_or_else(|error| warn!(%error, "the server did not end in order"));
    Ok(())
}

fn on_signal(kind: SignalKind) -> Result<tokio::signal::unix::Signal, DaemonError> {
    signal(kind).map_err(|source| DaemonError::Io { action: "wait for signals", source })
}

/// Has those of `links` accounted that are selected.
///
/// # Errors
/// At the `start`, the first failure; later on, failures are logged, because the next change may mend them.
fn follow(shared: &Shared, links: &Links, selection: &InterfaceSelection, start: bool) -> Result<(), DaemonError> {
    let wanted = links.select(selection);
    if start {
        if let InterfaceSelection::Default = selection
            && links.default_routes.is_empty()
        {
            warn!("there is no default route: only the loopback interface is accounted");
        }
        for interface in links.unreadable(selection) {
            warn!(
                interface = interface.name,
                "its frames have no Ethernet header, which cannot be read yet: not accounting it"
            );
        }
    }
    let mut failures = shared.accounting().apply_interfaces(&wanted);
    if start && !failures.is_empty() {
        return Err(failures.swap_remove(0).into());
    }
    for error in failures {
        warn!(%error, "cannot account an interface");
    }
    Ok(())
}

/// Keeps the APIs in step with the listening sockets.
struct Discoverer {
    helper: Helper,
    ticks: Interval,
    apis: DiscoveredApis,
}

impl Discoverer {
    fn start(discovery: Discovery) -> Result<Self, DaemonError> {
        let mut ticks = interval(discovery.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { helper: Helper::start()?, ticks, apis: DiscoveredApis::new(discovery) })
    }

    /// The APIs, when it is time to look again; the first time is at once. Waits for ever where nothing is to be
    /// discovered, or nothing more can be.
    async fn next(discoverer: &mut Option<Self>) -> Vec<Api> {
        let Some(Self { helper, ticks, apis }) = discoverer else { return pending().await };
        ticks.tick().await;
        match helper.listeners().await {
            Ok(listeners) => apis.update(&listeners, Instant::now()),
            Err(error) => {
                error!(%error, "APIs are not discovered any more: those that are known stay");
                *discoverer = None;
                pending().await
            }
        }
    }
}
