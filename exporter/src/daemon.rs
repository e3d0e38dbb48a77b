//! The daemon: everything put together, from start to end.

mod error;
mod flows;
mod following;
pub mod reload;
mod start;
mod upkeep;

use std::{future::pending, pin::pin, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc::Receiver, oneshot},
    time::{Interval, MissedTickBehavior, interval, timeout},
};
use tracing::{error, info, warn};

pub use self::error::DaemonError;
use self::{
    flows::{finish_flows, look_after_flows},
    following::Following,
    reload::{Reloads, Renewal},
    start::{give_up, guard_capacity, open_pins, sources, start_accounting},
    upkeep::{apply_scan, keep_blocks, look_after_guard, open_control},
};
use crate::{
    accounting::Accounting,
    audit::{self, Audit},
    blocks::state::StateFile,
    capabilities,
    config::Configuration,
    discovery::Scan,
    event::Happening,
    http::{self, Access, Shared},
    interfaces::Follower,
    kernel::{FlowCapacity, Kernel, KernelError, LoadOptions, namespace_cookie, pins::Pins},
    otlp::{Exporter, Prepared},
    tracker::FlowTracker,
};

/// How long the start waits for the first look at the listening sockets, so that the first scrape has their APIs.
const FIRST_SCAN: Duration = Duration::from_secs(5);

/// Time between two looks at some of the flows.
const SWEEP: Duration = Duration::from_secs(1);

/// Time between two looks at what the kernel tells of flows.
const DRAIN: Duration = Duration::from_millis(100);

/// Runs until SIGTERM or SIGINT.
///
/// Everything that can be refused is asked for in an order that leaves nothing behind: configuration, permissions and
/// the listening port before anything is attached. The capabilities are given up before the first request is answered;
/// until then there is no thread but this one, because capabilities belong to threads.
#[expect(clippy::too_many_lines, reason = "the steps of a start and of an end, in their order")]
pub async fn run(configuration: Configuration, fresh: bool, renewal: Renewal) -> Result<(), DaemonError> {
    let access = Access::open(&configuration)?;
    let (mut reloads, asks_to_reload) = Reloads::new(renewal, &configuration)?;
    let Configuration {
        listen,
        interfaces: selection,
        attach,
        pin_path,
        persist,
        flows,
        apis,
        anomalies,
        guard,
        otlp,
        audit,
        fingerprint,
        ..
    } = configuration;
    let mut terminate = on_signal(SignalKind::terminate())?;
    let mut interrupt = on_signal(SignalKind::interrupt())?;

    let follower = Follower::new().map_err(|source| DaemonError::Io { action: "open netlink", source })?;
    let links = follower.links().await?;
    links.validate(&selection)?;
    capabilities::require()?;
    let listener = TcpListener::bind(listen).await.map_err(|source| DaemonError::Listen { address: listen, source })?;
    let address = listener.local_addr().map_err(|source| DaemonError::Listen { address: listen, source })?;

    let pin_path = match pin_path {
        Some(path) => path,
        None => Pins::default_path(namespace_cookie()?),
    };
    let prepared = otlp.is_on().then(|| Prepared::new(&otlp, &pin_path.to_string_lossy())).transpose()?;
    let audit = audit.as_ref().map(audit::Prepared::new).transpose()?;
    let pins = open_pins(&pin_path, persist)?;
    let capacity = FlowCapacity::for_established(flows.capacity);
    // Only spans say of which traces their requests are part.
    // Without flows there are no spans either.
    let trace_parents = otlp.traces.is_some() && capacity != FlowCapacity::NONE;
    let sizes = guard_capacity(&guard)?;
    let options =
        LoadOptions { pins, fresh, flows: capacity, replay: false, transmission: true, trace_parents, guard: sizes };
    let kernel = Kernel::load(options)?;
    let mut accounting = Accounting::new(kernel, attach, flows.idle_timeout)?;
    if capacity != FlowCapacity::NONE {
        let tracker = FlowTracker::new(flows.clients, std::time::Instant::now());
        accounting.follow_flows(tracker.with_active_timeout(flows.active_timeout))?;
    }
    accounting.set_anomaly_thresholds(&anomalies)?;
    let sources = sources(&otlp, &mut accounting);
    let audit = audit.map(|audit| (audit.sources(&mut accounting), audit));
    let shared = Shared::new(accounting, prepared.as_ref().map(Prepared::statistics).unwrap_or_default())
        .with_audit(audit.as_ref().map(|(_, audit)| audit.statistics()))
        .with_state(StateFile::new(guard.blocks.state.clone()))
        .with_reloads(reloads.standing(), asks_to_reload);
    let socket = guard.blocks.socket.clone();
    let mut following = Following::new(follower, selection);
    let started = start_accounting(&shared, apis, guard, &mut following, &links).and_then(|(discovered, gone)| {
        let exporter = prepared.map(|prepared| prepared.start(sources)).transpose()?;
        let audit = audit.map(|(sources, audit)| audit.start(sources)).transpose()?;
        Ok((discovered, gone, exporter, audit))
    });
    let (mut discovered, gone, mut exporter, mut audit) = started.inspect_err(|_| give_up(&shared))?;
    tell_start(&shared, fingerprint.hash(), &gone);
    let control = open_control(&socket, &shared);
    if let Some(discovered) = &mut discovered {
        if let Ok(scan) = timeout(FIRST_SCAN, discovered.recv()).await {
            if let Some(scan) = scan {
                apply_scan(&shared, scan);
            }
        } else {
            warn!(
                "it takes long to look for listening sockets: until that is done, their traffic is unmapped and not judged"
            );
        }
    }

    let (stop_serving, stopped) = oneshot::channel::<()>();
    let router = http::router(shared.clone(), &access);
    let is_encrypted = access.web().is_some_and(|web| web.tls.is_some());
    let server = tokio::spawn(http::serve(listener, router, access.clone(), async {
        // An error means that the other end is gone, which is to stop as well.
        stopped.await.unwrap_or_default();
    }));
    info!(%address, tls = is_encrypted.then_some(true), "serving metrics");
    return_memory();

    let mut keeping = None;
    let [mut drain, mut sweep] = [DRAIN, SWEEP].map(interval);
    let mut announce = audit.as_ref().map(|_| interval(audit::ANNOUNCEMENTS));
    let mut send = otlp.metrics.as_ref().map(|metrics| interval(metrics.interval));
    if let Some(send) = &mut send {
        send.set_missed_tick_behavior(MissedTickBehavior::Skip);
    }
    drain.set_missed_tick_behavior(MissedTickBehavior::Delay);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Each branch may be cancelled while it waits: none loses anything by that.
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            loaded = reloads.next(&shared) => {
                reloads.take(loaded, &shared, &mut following).await;
                if reloads.has_configured_apis() {
                    discovered = None;
                }
            }
            () = following.is_due() => following.look(&shared).await,
            Some(scan) = next_scan(&mut discovered) => apply_scan(&shared, scan),
            _ = drain.tick() => look_after_flows(&shared, Accounting::drain_flows).await,
            _ = sweep.tick() => {
                look_after_guard(&shared);
                tell_access(&access, &shared);
                keep_blocks(&shared, &mut keeping);
                look_after_flows(&shared, Accounting::sweep_flows).await;
            }
            () = tick(send.as_mut()) => send_metrics(exporter.as_ref(), &shared),
            () = tick(announce.as_mut()) => announce_audit(audit.as_mut(), &shared),
            () = audit_has_failed(audit.as_mut()) => {
                error!("the thread that writes the audit log has failed: nothing is written any more");
                audit = None;
            }
            () = has_failed(exporter.as_mut()) => {
                error!("the thread that sends OTLP has failed: nothing is sent any more");
                exporter = None;
            }
        }
    }

    if let Some(control) = control {
        control.abort();
    }
    // Whoever asks from now on is told that it is too late.
    drop(reloads);
    shared.accounting().stop_changes();
    shared.save_blocks().await;
    let ended = beating(&shared, end(&shared, persist, exporter, audit)).await;
    drop(stop_serving);
    server.await.unwrap_or_else(|error| warn!(%error, "the server did not end in order"));
    Ok(ended?)
}

/// Ends the accounting, or leaves it to the next start if it `persists`, and has all written and sent that there is to be told.
async fn end(
    shared: &Shared,
    persists: bool,
    exporter: Option<Exporter>,
    audit: Option<Audit>,
) -> Result<(), KernelError> {
    let ended = if persists {
        info!("stopping: the programs stay attached and go on counting for the next start");
        send_metrics(exporter.as_ref(), shared);
        Ok(())
    } else {
        info!("stopping");
        let ended = shared.accounting().end();
        shared.accounting().tell_untold();
        // Nothing passes any more that could be missing in what is told now.
        finish_flows(shared).await;
        send_metrics(exporter.as_ref(), shared);
        ended
    };
    tell_stop(shared, persists);
    if let Some(audit) = audit
        && let Some(head) = audit.end().await
    {
        shared.accounting().pass_on(&head);
    }
    if let Some(exporter) = exporter {
        exporter.end().await;
    }
    ended
}

/// Does something that may take a while, and lets the kernel know meanwhile that the exporter is there: what goes on without it goes
/// on from its very end.
async fn beating<T>(shared: &Shared, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let mut beats = interval(SWEEP);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = beats.tick() => if let Err(error) = shared.accounting().beat() {
                warn!(%error, "cannot look after the guard");
            },
            done = &mut work => return done,
        }
    }
}

/// Waits for the next tick; for ever where there is none.
async fn tick(interval: Option<&mut Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => pending().await,
    }
}

/// Waits until nothing is sent over OTLP any more, though nobody asked for that.
async fn has_failed(exporter: Option<&mut Exporter>) {
    match exporter {
        Some(exporter) => exporter.ended().await,
        None => pending().await,
    }
}

/// Waits until nothing is written to the audit log any more, though nobody asked for that.
async fn audit_has_failed(audit: Option<&mut Audit>) {
    match audit {
        Some(audit) => audit.ended().await,
        None => pending().await,
    }
}

/// Tells those who want events that the exporter has begun, by the configuration with `hash`, and what has `gone` since another
/// ended.
fn tell_start(shared: &Shared, hash: String, gone: &[Happening]) {
    let mut accounting = shared.accounting();
    let took_over = accounting.took_over();
    accounting.pass_on(&Happening::Started { version: env!("CARGO_PKG_VERSION"), configuration: hash, took_over });
    for gone in gone {
        accounting.pass_on(gone);
    }
}

/// Tells them what rules have decided in the last seconds, and that the exporter ends.
fn tell_stop(shared: &Shared, persists: bool) {
    let mut accounting = shared.accounting();
    if let Err(error) = accounting.tell_last_hits() {
        warn!(%error, "cannot tell what rules have decided last");
    }
    accounting.pass_on(&Happening::Stopped { persists });
}

/// Tells them what has become of the files that say whom HTTP lets in.
fn tell_access(access: &Access, shared: &Shared) {
    for happening in access.news() {
        shared.accounting().pass_on(&happening);
    }
}

/// Tells them how far the audit log has come.
fn announce_audit(audit: Option<&mut Audit>, shared: &Shared) {
    if let Some(head) = audit.and_then(Audit::announcement) {
        shared.accounting().pass_on(&head);
    }
}

/// Has all counts of this moment sent over OTLP.
fn send_metrics(exporter: Option<&Exporter>, shared: &Shared) {
    if let Some(exporter) = exporter
        && exporter.sends_metrics()
    {
        exporter.send(Arc::new(shared.snapshot()));
    }
}

/// Gives memory back that the start took: the kernel's types are some 20 MB, for a moment.
fn return_memory() {
    // SAFETY: the function of the C library has no preconditions. Others hold on to less, or give back by themselves.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The next look at the listening sockets; waits for ever where nobody looks.
async fn next_scan(discovered: &mut Option<Receiver<Scan>>) -> Option<Scan> {
    match discovered {
        Some(discovered) => discovered.recv().await,
        None => pending().await,
    }
}

fn on_signal(kind: SignalKind) -> Result<tokio::signal::unix::Signal, DaemonError> {
    signal(kind).map_err(|source| DaemonError::Io { action: "wait for signals", source })
}
