//! The daemon: everything put together, from start to end.

pub mod reload;

use std::{future::pending, io, net::SocketAddr, path::Path, pin::pin, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc::Receiver, oneshot},
    task::{JoinHandle, yield_now},
    time::{Instant, Interval, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use tracing::{error, info, warn};

use self::reload::{Reloads, Renewal};
use crate::{
    accounting::{Accounting, guard::GuardError},
    audit::{self, Audit, AuditError},
    blocks::state::StateFile,
    capabilities::{self, CapabilityError},
    config::{ApiSource, Configuration, InterfaceSelection, error::ConfigurationError, guard::Guard, otlp::Otlp},
    control::server::ControlSocket,
    discovery::{self, Scan, helper::HelperError},
    event::Happening,
    guard::compile::prefix_capacity,
    http::{self, Access, AccessError, Shared},
    interfaces::{Follower, Interface, Links, Unit, Unknown},
    kernel::{
        FlowCapacity, GuardCapacity, Kernel, KernelError, LoadOptions, namespace_cookie,
        pins::{PinError, Pins},
    },
    otlp::{self, Exporter, OtlpError, Prepared, Sources},
    slots::GRACE,
    tracker::FlowTracker,
};

/// How long the start waits for the first look at the listening sockets, so that the first scrape has their APIs.
const FIRST_SCAN: Duration = Duration::from_secs(5);

/// Time between two looks at some of the flows.
const SWEEP: Duration = Duration::from_secs(1);

/// Time between two looks at what the kernel tells of flows.
const DRAIN: Duration = Duration::from_millis(100);

/// How long those who want records of flows are told of those that go on, before the end.
const LAST_FLOWS: Duration = Duration::from_secs(3);

/// For how long nobody else gets at the accounting, or the thread, while flows are looked after.
const SLICE: Duration = Duration::from_millis(5);

/// Why the daemon could not start or go on.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The configuration does not fit this host.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// It is not known whom to let in over HTTP.
    #[error(transparent)]
    Access(#[from] AccessError),
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
    /// The rules cannot be put in force.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// Nothing can be sent over OTLP.
    #[error(transparent)]
    Otlp(#[from] OtlpError),
    /// There is no audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
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
    let mut following = Following { follower, selection, unreadable: Vec::new(), retry: None };
    let started = start_accounting(&shared, apis, guard, &mut following, &links).and_then(|(discovered, gone)| {
        let exporter = prepared.map(|prepared| prepared.start(sources)).transpose()?;
        let audit = audit.map(|(sources, audit)| audit.start(sources)).transpose()?;
        Ok((discovered, gone, exporter, audit))
    });
    let (mut discovered, gone, mut exporter, mut audit) = started.inspect_err(|_| give_up(&shared))?;
    tell_start(&shared, fingerprint.hash(), &gone);
    let control = open_control(&socket, &shared);
    if let Some(discovered) = &mut discovered
        && let Ok(Some(scan)) = timeout(FIRST_SCAN, discovered.recv()).await
    {
        apply_scan(&shared, scan);
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

/// Has APIs and interfaces accounted, and gives up the capabilities that this took. Answers with where APIs are told of that
/// are found, and what has happened meanwhile: it is to be told after the start.
fn start_accounting(
    shared: &Shared,
    apis: ApiSource,
    guard: Guard,
    following: &mut Following,
    links: &Links,
) -> Result<(Option<Receiver<Scan>>, Vec<Happening>), DaemonError> {
    let discovered = match apis {
        ApiSource::Configured(apis) => {
            shared.accounting().apply_apis(&apis)?;
            None
        }
        ApiSource::Discovered(discovery) => Some(discovery::start(discovery, shared.accounting().inherited_apis())?),
    };
    let blocks = shared.load_blocks();
    let mut accounting = shared.accounting();
    accounting.apply_guard(Arc::new(guard))?;
    let gone = accounting.restore_blocks(blocks)?;
    drop(accounting);
    if let InterfaceSelection::Default = following.selection
        && links.default_routes.is_empty()
    {
        warn!("there is no default route: only the loopback interface is accounted");
    }
    if let Some(failure) = following.apply(shared, links).pop() {
        return Err(failure.into());
    }
    capabilities::keep_only(&capabilities::KEPT)?;
    Ok((discovered, gone))
}

/// Leaves nothing behind of a start that has failed; but what was there before it goes on counting.
fn give_up(shared: &Shared) {
    let mut accounting = shared.accounting();
    if !accounting.took_over()
        && let Err(error) = accounting.end()
    {
        warn!(%error, "cannot remove all that was pinned");
    }
}

/// The folder of pins. Without `persist` it is only there for an end that nobody asked for: then nothing that stands in the
/// way of pinning stands in the way of accounting.
fn open_pins(path: &Path, persist: bool) -> Result<Option<Pins>, DaemonError> {
    match Pins::open(path) {
        Ok(pins) => Ok(Some(pins)),
        Err(error @ (PinError::Busy { .. } | PinError::Foreign { .. })) => Err(KernelError::from(error).into()),
        Err(error) if persist => Err(KernelError::from(error).into()),
        Err(error) => {
            warn!(%error, "nothing is pinned: should this process be killed, its counters are lost");
            Ok(None)
        }
    }
}

/// Where what is sent over OTLP comes from.
fn sources(otlp: &Otlp, accounting: &mut Accounting) -> Sources {
    let events = otlp.logs.as_ref().map(|logs| accounting.add_event_sink(otlp::SINK, logs.batch.queue));
    let records = match (&otlp.traces, accounting.tracker()) {
        (Some(traces), Some(tracker)) => Some(tracker.add_sink(otlp::SINK, traces.batch.queue)),
        (Some(_), None) => {
            warn!("no spans are sent over OTLP, because flows.capacity is 0");
            None
        }
        (None, _) => None,
    };
    Sources { records, events }
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

/// How large the guard's maps have to be: there is to be room for some more prefixes after a change of the configuration, which may
/// bring the first rules.
fn guard_capacity(guard: &Guard) -> Result<GuardCapacity, GuardError> {
    Ok(GuardCapacity { prefixes: prefix_capacity(guard)?, clients: guard.clients })
}

/// Lets the kernel know that the exporter is there, and tells what rules have decided.
fn look_after_guard(shared: &Shared) {
    let mut accounting = shared.accounting();
    if let Err(error) = accounting.beat().and_then(|()| accounting.tell_hits()) {
        warn!(%error, "cannot look after the guard");
    }
    if let Err(error) = accounting.look_after_blocks() {
        warn!(%error, "cannot look after blocks");
    }
}

/// Has the command line reach the exporter. Without, everything else goes on.
fn open_control(socket: &Path, shared: &Shared) -> Option<JoinHandle<()>> {
    match ControlSocket::bind(socket) {
        Ok(control) => Some(tokio::spawn(control.serve(shared.clone()))),
        Err(error) => {
            warn!(%error, "the command line cannot ask this exporter for anything");
            None
        }
    }
}

/// Has blocks kept over a restart, unless that is still under way: a disk that is slow holds nothing else up.
fn keep_blocks(shared: &Shared, keeping: &mut Option<JoinHandle<()>>) {
    if keeping.as_ref().is_none_or(JoinHandle::is_finished) {
        let shared = shared.clone();
        *keeping = Some(tokio::spawn(async move { shared.save_blocks().await }));
    }
}

/// Has flows finished that have ended, or looks at some of all, and lets others do something in between.
async fn look_after_flows(
    shared: &Shared,
    mut look: impl FnMut(&mut Accounting, std::time::Instant) -> Result<bool, KernelError>,
) {
    loop {
        let looked = look(&mut shared.accounting(), std::time::Instant::now() + SLICE);
        match looked {
            Ok(true) => yield_now().await,
            Ok(false) => return,
            Err(error) => return warn!(%error, "cannot look after the flows"),
        }
    }
}

/// Has all flows told to those who want records, because they go with the exporter, and lets others do something in between.
async fn finish_flows(shared: &Shared) {
    let deadline = std::time::Instant::now() + LAST_FLOWS;
    loop {
        let now = std::time::Instant::now();
        let finished = shared.accounting().finish_all_flows(deadline.min(now + SLICE));
        match finished {
            Ok(0) => return,
            Ok(left) if now >= deadline => return warn!(flows = left, "there was no time to tell of all flows"),
            // Here there is time to wait for those who read the records.
            Ok(_) if !has_room(shared) => sleep(SLICE).await,
            Ok(_) => yield_now().await,
            Err(error) => return warn!(%error, "cannot tell of the flows that go on"),
        }
    }
}

/// Whether those who want records of flows have room for many more.
fn has_room(shared: &Shared) -> bool {
    shared.accounting().tracker().is_none_or(|tracker| tracker.has_room())
}

/// The next look at the listening sockets; waits for ever where nobody looks.
async fn next_scan(discovered: &mut Option<Receiver<Scan>>) -> Option<Scan> {
    match discovered {
        Some(discovered) => discovered.recv().await,
        None => pending().await,
    }
}

/// Makes what was found the APIs that are counted.
fn apply_scan(shared: &Shared, Scan { apis, collector }: Scan) {
    let mut accounting = shared.accounting();
    accounting.note_discovery(collector);
    if let Some(apis) = apis
        && let Err(error) = accounting.apply_apis(&apis)
    {
        error!(%error, "cannot change which APIs are counted: trying again after the next look at the sockets");
    }
}

fn on_signal(kind: SignalKind) -> Result<tokio::signal::unix::Signal, DaemonError> {
    signal(kind).map_err(|source| DaemonError::Io { action: "wait for signals", source })
}

/// Keeps what is accounted in step with the interfaces that there are.
struct Following {
    follower: Follower,
    selection: InterfaceSelection,
    /// Names of those that are selected but cannot be read, as they were last told.
    unreadable: Vec<String>,
    /// When to look again although nothing has changed, because the last look met a failure.
    retry: Option<Instant>,
}

impl Following {
    /// Waits until it is time to look: something has changed, or something has failed a while ago.
    async fn is_due(&mut self) {
        let retry = async {
            match self.retry {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = self.follower.changed() => {}
            () = retry => {}
        }
    }

    /// Looks at the interfaces, and has those accounted that are selected. What fails is logged, and tried again.
    async fn look(&mut self, shared: &Shared) {
        self.retry = None;
        let failures: Vec<DaemonError> = match self.follower.links().await {
            Ok(links) => self.apply(shared, &links).into_iter().map(DaemonError::from).collect(),
            Err(error) => vec![error.into()],
        };
        for error in failures {
            warn!(%error, "cannot account an interface: trying again");
            // By then, slots that are not free now will be.
            self.retry = Some(Instant::now() + 2 * GRACE);
        }
    }

    /// Has those of `links` accounted that are selected; answers with what failed.
    fn apply(&mut self, shared: &Shared, links: &Links) -> Vec<KernelError> {
        let unreadable: Vec<_> = links.unreadable(&self.selection).map(|interface| interface.name.clone()).collect();
        for interface in unreadable.iter().filter(|name| !self.unreadable.contains(name)) {
            warn!(interface, "its link layer is neither Ethernet nor IP, which cannot be read: not accounting it");
        }
        self.unreadable = unreadable;
        let selected = links.select(&self.selection);
        let units = selected.iter().map(|interface| (interface.index, links.units(interface)));
        // Where the kernel did not answer nothing is known, not even that nothing is known.
        let is_told = |units: &[Result<Unit, Unknown>; 2]| !units.contains(&Err(Unknown::Offload));
        let told = units.filter(|(_, units)| is_told(units));
        let units = told.map(|(index, units)| (index, units.map(Result::ok))).collect();
        let is_paired = |interface: &&Interface| links.device(interface).kind.as_deref() == Some("veth");
        let paired = selected.iter().filter(is_paired).map(|interface| interface.index).collect();
        let counts_frames = |interface: &&Interface| links.counts_frames(interface);
        let counting = selected.iter().filter(counts_frames).map(|interface| interface.index).collect();
        let mut accounting = shared.accounting();
        accounting.note_paired(paired);
        accounting.note_frame_counting(counting);
        let mut failures = accounting.apply_interfaces(&selected);
        failures.extend(accounting.note_units(&units).err());
        failures
    }
}
