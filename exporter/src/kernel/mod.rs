//! The kernel side as userspace sees it: load, attach, fill tables, read counters.
//!
//! Nothing outside this module names `aya`.

mod anomalies;
mod attach;
mod btf;
mod carried;
mod client_limits;
pub mod error;
mod events;
pub mod features;
mod flows;
mod guard;
pub mod pins;
mod programs;
mod system;
mod tables;
mod tracepoints;

use std::{
    collections::HashMap,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{links::FdLink, tc::TcHandle},
};
use tidewaiter_common::{
    ACCOUNT_RECEIVE, ACCOUNT_RECEIVE_INDEX, ACCOUNT_TRANSMIT, ASK_BUFFER, ASK_BUFFER_INDEX, CLOCK, FINISH, FOLLOW,
    FOLLOW_INDEX, GUARD_BUFFER, GUARD_BUFFER_INDEX, GUARD_PAYLOAD, GUARD_PAYLOAD_INDEX, INSPECT, INSPECT_INDEX,
    KERNEL_LAYOUT, REFUSE_BUFFER, REFUSE_BUFFER_INDEX, REPLAY, SAMPLE_REQUESTS, TRACK_FLOWS,
    clients::groups,
    direction::Direction,
    flow::DEFAULT_CAPACITY,
    guard::HALVES,
    record::{InstanceRecord, LAYOUT},
    transmission::KernelLayout,
};
use tracing::{info, warn};

use self::{
    attach::Attached,
    events::{Rings, rings},
    pins::{Inheritance, Pins},
    programs::{load_programs, set_program},
    tracepoints::{Resolved, Tracing},
};
pub use self::{
    attach::{Attachment, Hook},
    client_limits::ClientLimits,
    error::KernelError,
    events::QuietSince,
    flows::{FlowTable, Walk},
    guard::{GuardCapacity, is_pinned_guard_on, switch_pinned_guard},
    programs::{CapturedPacket, ProgramStatistics, TestRun, Ticks},
    tracepoints::{Drops, OTHER_REASON},
};

use crate::guard::compile::Tables;

/// The compiled kernel side; made from `exporter-ebpf` by its `build` script.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/tidewaiter.bpf.o");

/// How the kernel side is loaded.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch by itself")]
pub struct LoadOptions {
    /// The folder where maps and hooks are pinned; nothing outlives this process without one.
    pub pins: Option<Pins>,
    /// Not to take over what is pinned.
    pub fresh: bool,
    /// How many flows there can be.
    pub flows: FlowCapacity,
    /// Whether captures are to be replayed, by [`Kernel::replay`].
    pub replay: bool,
    /// Whether to count at tracepoints how transmission goes, as far as the kernel lets us.
    pub transmission: bool,
    /// Whether requests of plain HTTP/1 are read for the traces that they are part of. It is not among what is pinned: whoever takes
    /// over loads programs of its own.
    pub trace_parents: bool,
    /// How large the guard's maps are; they are larger if those are that are pinned.
    pub guard: GuardCapacity,
}

/// How many flows there can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowCapacity {
    /// Established ones.
    pub established: u32,
    /// Others.
    pub new: u32,
}

impl FlowCapacity {
    /// None: flows are not kept at all.
    pub const NONE: Self = Self { established: 0, new: 0 };

    /// Room for `established` flows, and for an eighth as many that are not: those last no longer than a handshake.
    #[must_use]
    pub fn for_established(established: u32) -> Self {
        if established == 0 { Self::NONE } else { Self { established, new: (established / 8).max(1024) } }
    }
}

impl Default for FlowCapacity {
    fn default() -> Self {
        Self::for_established(DEFAULT_CAPACITY)
    }
}

/// The loaded kernel side. Dropping it detaches whatever is attached and not pinned.
#[derive(Debug)]
pub struct Kernel {
    ebpf: Ebpf,
    rings: Rings,
    /// What the program that finishes flows is given: kept, because it is given much.
    finish_packet: Vec<u8>,
    attached: HashMap<u32, Attached>,
    tracing: Tracing,
    pins: Option<Pins>,
    filter_handle: TcHandle,
    flows: FlowCapacity,
    guard: GuardCapacity,
    /// What was written to the halves of the guard's tables last.
    halves: [Option<Box<Tables>>; HALVES as usize],
    /// What has frames judged, by index of the interface.
    guards: HashMap<u32, FdLink>,
    trace_parents: bool,
    created: SystemTime,
    took_over: bool,
    lost_flows: bool,
}

impl Kernel {
    /// Creates the maps, or takes over those that are pinned, and loads the programs.
    ///
    /// # Errors
    /// Mostly for lack of permission, or a kernel that is too old.
    pub fn load(options: LoadOptions) -> Result<Self, KernelError> {
        let LoadOptions { pins, fresh, flows, replay, transmission, trace_parents, mut guard } = options;
        let namespace = namespace_cookie()?;
        let (took_over, lost_flows) = match &pins {
            Some(pins) => inherit(pins, namespace, fresh, flows, &mut guard)?,
            None => (false, false),
        };
        let resolved = transmission.then(|| Resolved::of_running_kernel(namespace));
        let layout = resolved.as_ref().and_then(|resolved| Some(resolved.as_ref().ok()?.layout));
        let switches = [
            (REPLAY, u8::from(replay)),
            (TRACK_FLOWS, u8::from(flows.established > 0)),
            (SAMPLE_REQUESTS, u8::from(trace_parents)),
        ];
        let loaded = load_object(pins.as_ref(), took_over, flows, guard, &switches, layout)
            .and_then(|mut ebpf| Ok((Rings::take(&mut ebpf)?, ebpf)));
        let (rings, mut ebpf) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                // What was there before goes on counting; what is there since then is of no use.
                if !took_over {
                    pins.map_or(Ok(()), Pins::remove)?;
                }
                return Err(error);
            }
        };
        let filter_handle = Pins::filter_handle(pins.as_ref().map_or(Path::new(""), Pins::path));
        let tracing = resolved.map(|resolved| Tracing::start(&mut ebpf, resolved, pins.as_ref())).unwrap_or_default();
        let now = SystemTime::now();
        let mut kernel = Self {
            ebpf,
            rings,
            finish_packet: Vec::new(),
            attached: HashMap::new(),
            tracing,
            pins,
            filter_handle,
            flows,
            guard,
            halves: [None, None],
            guards: HashMap::new(),
            trace_parents,
            created: now,
            took_over,
            lost_flows,
        };
        kernel.seed_clients()?;
        if took_over {
            kernel.created = from_nanoseconds(kernel.instance()?.created);
        } else {
            kernel.set_instance(&InstanceRecord { layout: LAYOUT, namespace, created: nanoseconds(now) })?;
        }
        Ok(kernel)
    }

    /// When counting began: before this process, if it took over.
    #[must_use]
    pub const fn created(&self) -> SystemTime {
        self.created
    }

    /// How many flows there can be.
    #[must_use]
    pub const fn flow_capacity(&self) -> FlowCapacity {
        self.flows
    }

    /// Whether requests are read for the traces that they are part of.
    #[must_use]
    pub const fn wants_trace_parents(&self) -> bool {
        self.trace_parents
    }

    /// Whether this goes on from what an exporter before this one has left.
    #[must_use]
    pub const fn took_over(&self) -> bool {
        self.took_over
    }

    /// Whether that had flows for which there is another table now.
    #[must_use]
    pub const fn has_lost_flows(&self) -> bool {
        self.lost_flows
    }

    /// Ends the accounting in order: detaches everything, and removes what is pinned.
    ///
    /// # Errors
    /// [`KernelError::Pins`] if something pinned could not be removed.
    pub fn end(&mut self) -> Result<(), KernelError> {
        self.detach_all();
        self.guarded().into_iter().for_each(|index| self.detach_guard(index));
        self.tracing.stop();
        self.pins.take().map_or(Ok(()), Pins::remove).map_err(KernelError::from)
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if self.pins.is_none() {
            self.detach_all();
        }
    }
}

/// Creates the maps, or opens those that are pinned, and loads the programs.
fn load_object(
    pins: Option<&Pins>,
    takes_over: bool,
    flows: FlowCapacity,
    guard: GuardCapacity,
    switches: &[(&str, u8)],
    layout: Option<KernelLayout>,
) -> Result<Ebpf, KernelError> {
    let mut loader = EbpfLoader::new();
    for (name, entries) in sizes(flows).chain(guard.sizes()) {
        loader.map_max_entries(name, entries);
    }
    for (name, switch) in switches {
        loader.override_global(name, switch, true);
    }
    if let Some(layout) = &layout {
        loader.override_global(KERNEL_LAYOUT, layout, true);
    }
    let is_pinned_here = |name: &&str| !tables::name::READ_IN_PLACE.contains(name);
    for name in tables::name::ALL.into_iter().filter(is_pinned_here) {
        if let Some(pins) = pins {
            loader.map_pin_path(name, pins.map(name));
        }
    }
    let mut ebpf = loader.load(OBJECT).map_err(KernelError::Load)?;
    if let Some(pins) = pins.filter(|_| takes_over) {
        carried::copy(&mut ebpf, pins, groups(guard.clients))?;
    }
    let others = [
        (FOLLOW_INDEX, FOLLOW),
        (GUARD_BUFFER_INDEX, GUARD_BUFFER),
        (GUARD_PAYLOAD_INDEX, GUARD_PAYLOAD),
        (INSPECT_INDEX, INSPECT),
        (ASK_BUFFER_INDEX, ASK_BUFFER),
        (REFUSE_BUFFER_INDEX, REFUSE_BUFFER),
    ];
    let names = others.map(|(_, name)| name).into_iter().chain([ACCOUNT_RECEIVE, ACCOUNT_TRANSMIT, FINISH, CLOCK]);
    let failures = load_programs(&mut ebpf, names.chain(guard::OF_FRAMES));
    let (of_frames, others_failed): (Vec<_>, Vec<_>) =
        failures.into_iter().partition(|(name, _)| guard::OF_FRAMES.contains(name));
    if let Some((_, failure)) = others_failed.into_iter().next() {
        return Err(failure);
    }
    if let Some(pins) = pins {
        carried::pin(&ebpf, pins)?;
    }
    // The programs of an exporter before this one end in these from now on: none of them before all are there.
    for (index, name) in others.into_iter().chain([(ACCOUNT_RECEIVE_INDEX, ACCOUNT_RECEIVE)]) {
        set_program(&mut ebpf, index, name)?;
    }
    let of_frames = of_frames.into_iter().next().map_or(Ok(()), |(_, failure)| Err(failure));
    if let Err(error) = of_frames.and_then(|()| guard::set_programs(&mut ebpf)) {
        warn!(%error, "the guard judges packets in TC alone");
    }
    Ok(ebpf)
}

/// The maps whose size is the configuration's, with their entries: bytes, of a ring.
fn sizes(flows: FlowCapacity) -> impl Iterator<Item = (&'static str, u32)> {
    let tables = [(tables::name::FLOWS, flows.established.max(1)), (tables::name::NEW_FLOWS, flows.new.max(1))];
    tables.into_iter().chain(rings(flows)).chain([(tables::name::ANOMALIES, anomalies::RING_BYTES)])
}

/// Makes the folder ready, and says whether there is something in it to take over; and whether that is without the flows that
/// there were.
fn inherit(
    pins: &Pins,
    namespace: u64,
    fresh: bool,
    flows: FlowCapacity,
    guard: &mut GuardCapacity,
) -> Result<(bool, bool), KernelError> {
    let path = pins.path().display();
    match pins.inheritance(namespace) {
        Inheritance::Nothing => return Ok((false, false)),
        Inheritance::Whole if fresh => info!(%path, "starting fresh, as asked: what was pinned is removed"),
        Inheritance::Useless(why) => warn!(%path, why, "cannot take over what is pinned: starting fresh"),
        Inheritance::Whole => {
            let mut has_lost_flows = false;
            for (name, entries) in sizes(flows) {
                if pins.remove_if_sized_otherwise(name, entries)? {
                    has_lost_flows |= name == tables::name::FLOWS;
                    info!(map = name, entries, "what holds flows has another size now: it begins empty");
                }
            }
            // What is in force goes on to be, so there must be room for as much.
            let there = pins.entries_of(tables::name::GUARD_PREFIXES).unwrap_or_default() / HALVES;
            guard.prefixes = guard.prefixes.max(there);
            if guard.prefixes != there {
                // What is in force points into a table that the programs to come do not have; and those that are there do not have the
                // one to come.
                guard::let_all_pass(pins.path())?;
                info!("all passes until the rules are in force with more room for prefixes");
            }
            for (name, entries) in guard.sizes() {
                if pins.remove_if_sized_otherwise(name, entries)? {
                    info!(map = name, entries, "what the guard knows of senders has another size now: it begins empty");
                }
            }
            info!(%path, "taking over from the exporter before this one");
            return Ok((true, has_lost_flows));
        }
    }
    pins.require_namespace(namespace)?;
    pins.clear()?;
    Ok((false, false))
}

/// The cookie of this process's network namespace: unique until the machine is started anew.
pub fn namespace_cookie() -> Result<u64, KernelError> {
    system::namespace_cookie().map_err(KernelError::Namespace)
}

/// Nanoseconds since the epoch, as records hold a time.
pub(crate) fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

/// The time that is so many nanoseconds since the epoch.
pub(crate) fn from_nanoseconds(nanoseconds: u64) -> SystemTime {
    UNIX_EPOCH + std::time::Duration::from_nanos(nanoseconds)
}

/// The name of the program that accounts packets of `direction`.
const fn program_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Receive => ACCOUNT_RECEIVE,
        Direction::Transmit => ACCOUNT_TRANSMIT,
    }
}
