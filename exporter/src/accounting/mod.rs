//! Accounting: the kernel side, which APIs and interfaces it counts for, and what it has counted.

mod anomalies;
mod apis;
mod blocks;
pub mod change;
mod flows;
pub mod guard;
mod interfaces;
mod ledger;
mod process;
mod tracking;

use std::{
    collections::{HashMap, HashSet},
    fs,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tidewaiter_common::{
    api::MAX_APIS,
    direction::Direction,
    interface::{MAX_INTERFACES, guarded},
};
use tracing::{error, warn};

use self::{
    apis::ApiRegistry,
    flows::FlowSweeper,
    guard::{GuardError, GuardRegistry},
    interfaces::InterfaceRegistry,
};
use crate::{
    anomaly::{AnomalyLog, thresholds::Thresholds},
    api::Api,
    blocks::Blocks,
    chain::chain,
    config::{AttachMode, guard::Guard},
    event::RuleHits,
    flow::ApiNames,
    greeting::Greetings,
    interfaces::{Interface, Unit, statistics},
    kernel::{FlowCapacity, Kernel, KernelError},
    snapshot::{ApiSnapshot, CollectorSnapshot, GuardSnapshot, Snapshot, TableSnapshot},
    tracker::FlowTracker,
};

/// The switch of the kernel's BPF statistics: while it is 1, each run of each program is timed.
const BPF_STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// The kernel side, and what it counts for.
#[derive(Debug)]
pub struct Accounting {
    kernel: Kernel,
    apis: ApiRegistry,
    interfaces: InterfaceRegistry,
    guard: GuardRegistry,
    blocks: Blocks,
    /// Whether the guard was on when this was last looked at.
    was_guard_on: bool,
    /// Whether nothing may be blocked or unblocked any more.
    is_stopping: bool,
    flows: FlowSweeper,
    /// What follows flows, if anything does.
    tracker: Option<FlowTracker>,
    /// What the kernel has not read of first payloads.
    greetings: Greetings,
    anomalies: AnomalyLog,
    /// What is one.
    thresholds: Thresholds,
    /// How the last look at the listening sockets went, if anybody looks.
    discovery: Option<CollectorSnapshot>,
    /// Whether the first one has yet to come.
    awaits_apis: bool,
}

impl Accounting {
    /// Goes on from what `kernel`, which was just loaded, took over; accounts nothing yet if that is nothing.
    /// Flows are forgotten `idle_timeout` after their last packet.
    pub fn new(mut kernel: Kernel, mode: AttachMode, idle_timeout: Duration) -> Result<Self, KernelError> {
        let now = Instant::now();
        let apis = ApiRegistry::restore(&mut kernel, idle_timeout, now)?;
        let interfaces = InterfaceRegistry::restore(&kernel, mode, now)?;
        let guard = GuardRegistry::restore(&mut kernel)?;
        let was_guard_on = kernel.is_guard_on()?;
        if !was_guard_on {
            warn!("the guard is switched off: everything passes (tidewaiter guard on)");
        }
        let flows = FlowSweeper::new(idle_timeout);
        let thresholds = Thresholds::default();
        // What an exporter before us has said holds until somebody says otherwise.
        if !kernel.took_over() {
            kernel.set_anomaly_settings(&thresholds.settings())?;
        }
        Ok(Self {
            kernel,
            apis,
            interfaces,
            guard,
            blocks: Blocks::default(),
            was_guard_on,
            is_stopping: false,
            flows,
            tracker: None,
            greetings: Greetings::default(),
            anomalies: AnomalyLog::default(),
            thresholds,
            discovery: None,
            awaits_apis: false,
        })
    }

    /// Makes `wanted` the APIs that are counted. Those that were counted before, by name and role, go on from where they
    /// are; the totals of others move to `removed`.
    pub fn apply_apis(&mut self, wanted: &[Api]) -> Result<(), KernelError> {
        let before = self.before_apis_change()?;
        let applied = self.apis.apply(&mut self.kernel, wanted, Instant::now());
        // What has failed may have changed some all the same.
        self.apis_changed(&before);
        if let Err(error) = self.guard.apply(&mut self.kernel, &self.apis.all()) {
            error!(error = chain(&error), "the guard goes on with the APIs of before");
        }
        guard::warn_all(&self.place_guard());
        applied
    }

    /// Takes note that APIs are being looked for. Until the first look is over, the kernel does not hear of the exporter: rules
    /// about traffic of no API would be about all that was not found yet.
    pub const fn await_apis(&mut self) {
        self.awaits_apis = true;
    }

    /// Takes note of how the last look at the listening sockets went. Where it has failed, rules go on with the APIs that are known.
    pub const fn note_discovery(&mut self, collector: CollectorSnapshot) {
        self.discovery = Some(collector);
        self.awaits_apis = false;
    }

    /// Makes `wanted` the interfaces that are accounted, as far as possible; answers with what was not.
    pub fn apply_interfaces(&mut self, wanted: &[Interface]) -> Vec<KernelError> {
        let mut failures = self.interfaces.apply(&mut self.kernel, wanted, Instant::now());
        self.guard.note_interfaces();
        failures.extend(self.place_guard());
        failures.extend(self.beat().err());
        failures
    }

    /// Makes `guard` what the guard does, all at once; answers with what it could not be attached to.
    ///
    /// # Errors
    /// [`GuardError`]; then what was in force still is.
    pub fn apply_guard(&mut self, guard: Arc<Guard>) -> Result<Vec<KernelError>, GuardError> {
        self.guard.set(guard);
        self.guard.apply(&mut self.kernel, &self.apis.all())?;
        self.beat()?;
        self.configure_blocks();
        Ok(self.place_guard())
    }

    /// Takes note of which interfaces are one end of a pair (veth), by index.
    pub fn note_paired(&mut self, paired: HashSet<u32>) {
        self.guard.note_paired(paired);
    }

    /// As [`Accounting::apply_guard`], without attaching anything.
    pub fn set_guard(&mut self, guard: Arc<Guard>) -> Result<(), GuardError> {
        self.guard.set(guard);
        self.guard.apply(&mut self.kernel, &self.apis.all())
    }

    /// Takes note of which interfaces' devices count each frame that reaches a program of XDP, by index.
    pub fn note_frame_counting(&mut self, counting: HashSet<u32>) {
        self.guard.note_frame_counting(counting);
    }

    /// Lets the kernel know that the exporter is there, unless APIs are awaited.
    pub fn beat(&mut self) -> Result<(), KernelError> {
        if self.awaits_apis {
            return Ok(());
        }
        let ticks = self.kernel.ticks()?;
        self.guard.beat(&mut self.kernel, ticks)
    }

    /// Tells whose packets rules have decided about, each some seconds.
    pub fn tell_hits(&mut self) -> Result<(), KernelError> {
        self.tell_hits_if(false)
    }

    /// Tells the same of the seconds that it was not told of yet, because the end comes.
    pub fn tell_last_hits(&mut self) -> Result<(), KernelError> {
        self.tell_hits_if(true)
    }

    fn tell_hits_if(&mut self, is_last: bool) -> Result<(), KernelError> {
        for hits in self.guard.hits(&mut self.kernel, SystemTime::now(), is_last)? {
            self.anomalies.pass_on(&hits);
        }
        Ok(())
    }

    /// Has packets judged that are said to pass an interface to which nothing is attached, because captures are replayed.
    pub fn pretend_guard(&mut self) -> Result<(), KernelError> {
        for Interface { index, .. } in self.interfaces.current() {
            self.kernel.set_guarded_buffers(*index, guarded::BUFFERS | guarded::PAYLOAD)?;
        }
        Ok(())
    }

    /// What rules have decided since the beginning, by client as far as those could be told apart.
    pub fn all_hits(&self) -> Result<Vec<RuleHits>, KernelError> {
        self.guard.all_hits(&self.kernel)
    }

    fn place_guard(&mut self) -> Vec<KernelError> {
        self.guard.place(&mut self.kernel, self.interfaces.current())
    }

    /// Has packets counted for an interface although nothing is attached to it, and it need not be there: by running the
    /// programs on packets that are said to pass it.
    pub fn pretend_interface(&mut self, interface: &Interface) -> Result<(), KernelError> {
        self.interfaces.pretend(&mut self.kernel, interface)
    }

    /// The APIs that an exporter before us has counted and that were not asked for again yet, as the kernel's tables have them.
    #[must_use]
    pub fn inherited_apis(&self) -> Vec<Api> {
        self.apis.inherited()
    }

    /// Names and roles of the APIs that are counted, by slot.
    #[must_use]
    pub fn api_names(&self) -> ApiNames {
        self.apis.names()
    }

    /// Takes note of what the devices of interfaces count from now on, by the interface's index.
    pub fn note_units(&mut self, units: &HashMap<u32, [Option<Unit>; Direction::COUNT]>) -> Result<(), KernelError> {
        let units = units.iter().map(|(index, [received, transmitted])| {
            // What is merged after a frame was judged was counted by then.
            let received = if self.guard.counts_frames(*index) { Some(Unit::Segments) } else { *received };
            (*index, [received, *transmitted])
        });
        self.interfaces.note_units(&mut self.kernel, &units.collect())
    }

    /// Names of the interfaces that are accounted.
    #[must_use]
    pub fn interfaces(&self) -> impl ExactSizeIterator<Item = &str> {
        self.interfaces.current().map(|interface| interface.name.as_str())
    }

    /// How many APIs are counted.
    #[must_use]
    pub fn api_count(&self) -> usize {
        self.apis.len()
    }

    /// Whether this goes on from what an exporter before this one has left.
    #[must_use]
    pub const fn took_over(&self) -> bool {
        self.kernel.took_over()
    }

    /// Ends the accounting: detaches everything, and removes what is pinned. What was counted can still be read.
    pub fn end(&mut self) -> Result<(), KernelError> {
        self.kernel.end()
    }

    /// The kernel side by itself, to run its programs on frames.
    pub const fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    /// What was counted for each API at this moment.
    pub fn apis(&self) -> Result<Vec<ApiSnapshot>, KernelError> {
        self.apis.snapshot(&self.kernel, self.tracker.as_ref(), &self.thresholds)
    }

    /// All counts at this moment. What cannot be read is left out, logged, and said in [`Snapshot::collectors`].
    pub fn snapshot(&mut self) -> Snapshot {
        let taken = SystemTime::now();
        let mut collectors: Vec<_> = self.discovery.into_iter().collect();
        let statistics = collect(&mut collectors, "statistics", statistics);
        let interfaces = collect(&mut collectors, "interfaces", || {
            self.interfaces.snapshot(&self.kernel, &self.guard, statistics.as_ref())
        });
        let apis = collect(&mut collectors, "apis", || self.apis());
        let programs = collect(&mut collectors, "programs", || {
            if are_statistics_on() { self.kernel.program_statistics() } else { Ok(Vec::new()) }
        });
        let lost = collect(&mut collectors, "events", || {
            let is_kept = self.kernel.flow_capacity() != FlowCapacity::NONE;
            is_kept.then(|| self.kernel.lost()).transpose()
        });
        let mut guard = collect(&mut collectors, "guard", || self.guard.snapshot(&self.kernel)).flatten();
        if let Some(guard) = &mut guard {
            guard.blocks_refused = self.blocks.refusals.counts().to_vec();
        }
        let process = collect(&mut collectors, "process", process::snapshot);
        let mut tables = vec![
            TableSnapshot { name: "apis", entries: self.apis.slots_in_use(), capacity: usize::from(MAX_APIS) - 1 },
            TableSnapshot {
                name: "interfaces",
                entries: self.interfaces.slots_in_use(),
                capacity: usize::from(MAX_INTERFACES) - 1,
            },
            TableSnapshot {
                name: "flows",
                entries: self.flows.entries(),
                capacity: self.kernel.flow_capacity().established as usize,
            },
            TableSnapshot {
                name: "new_flows",
                entries: self.flows.new_entries(),
                capacity: self.kernel.flow_capacity().new as usize,
            },
        ];
        if let Some(GuardSnapshot { clients, client_capacity, .. }) = guard.iter().find(|guard| guard.is_on) {
            let (entries, capacity) = (*clients as usize, *client_capacity as usize);
            tables.push(TableSnapshot { name: "client_limits", entries, capacity });
        }
        if guard.is_some() {
            let (entries, capacity) = (self.blocks.len(), self.blocks.capacity());
            tables.push(TableSnapshot { name: "blocks", entries, capacity });
        }
        Snapshot {
            taken,
            apis: apis.unwrap_or_default(),
            interfaces: interfaces.unwrap_or_default(),
            programs: programs.unwrap_or_default(),
            lost: lost.flatten(),
            tables,
            sinks: self.tracker.as_ref().map(FlowTracker::sinks).unwrap_or_default(),
            event_sinks: self.anomalies.sinks(),
            guard,
            otlp: Vec::new(),
            audit: None,
            configuration: None,
            process,
            collectors,
        }
    }
}

fn are_statistics_on() -> bool {
    fs::read_to_string(BPF_STATISTICS).is_ok_and(|switch| switch.trim() == "1")
}

/// Reads one part of a snapshot, and notes how that went.
fn collect<T, E: std::error::Error + 'static>(
    collectors: &mut Vec<CollectorSnapshot>,
    name: &'static str,
    read: impl FnOnce() -> Result<T, E>,
) -> Option<T> {
    let start = Instant::now();
    let result = read();
    collectors.push(CollectorSnapshot { name, success: result.is_ok(), duration: start.elapsed() });
    result.inspect_err(|error| warn!(collector = name, error = chain(error), "cannot read a part of the metrics")).ok()
}
