//! `tidewaiter replay`: the packets of captures instead of those of interfaces, counted by the very same programs.
//!
//! The captures are read twice: first for how many flows there are, so that the tables have room for all of them, and for
//! which end of each is this host; then to run the programs on each frame (`BPF_PROG_TEST_RUN`).

pub mod capture;
mod progress;
mod report;
mod rules;
mod survey;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use caps::Capability;
use ipnet::IpNet;
use thiserror::Error;
use tidewaiter_common::{
    counters::Counters,
    event::FinishedFlow,
    flow::{Flow, FlowKey},
};

pub use self::report::{Format, ReportError};
use self::{
    capture::{Capture, CapturedFrame, error::CaptureError, link_layer::Framing},
    progress::Progress,
    survey::Survey,
};
use crate::{
    accounting::{Accounting, guard::GuardError},
    anomaly::thresholds::Thresholds,
    api::Api,
    capabilities::{self, CapabilityError},
    chain::chain,
    config::{AttachMode, guard::Guard},
    event::RuleHits,
    flow::{ApiNames, is_empty},
    greeting::{Greetings, Known},
    guard::compile::prefix_capacity,
    interfaces::{Interface, LinkLayer},
    kernel::{CapturedPacket, FlowCapacity, FlowTable, GuardCapacity, Kernel, KernelError, LoadOptions},
    snapshot::Snapshot,
};

/// What a replay keeps while it looks at files, which may be anybody's: what it needs to load the programs later.
const KEPT_FOR_LOADING: [Capability; 4] =
    [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON, Capability::CAP_DAC_READ_SEARCH];
/// And what it keeps once they are loaded.
const KEPT: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_DAC_READ_SEARCH];

/// How many refused frames are listed; all are counted.
const LISTED: usize = 20;

/// Why nothing could be replayed.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// A capability is missing or could not be given up.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// The kernel side failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The rules cannot be put in force.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// There are more flows than tables can have room for.
    #[error("found {0} flows, more than there can be in a table: replay fewer files at a time")]
    TooManyFlows(usize),
    /// A file cannot be read twice.
    #[error("{} is not a regular file: captures are read twice, so write it to a file first", .0.display())]
    NotAFile(PathBuf),
    /// Some packets are in no flow: the file was another when it was read again.
    #[error("only {found} of {expected} packets were found in flows: has a file changed while it was read?")]
    Incomplete {
        /// Packets of all flows.
        found: u64,
        /// Packets of all APIs.
        expected: u64,
    },
}

/// What is to be replayed.
#[derive(Debug)]
pub struct Replay {
    /// The captures.
    pub files: Vec<PathBuf>,
    /// Addresses of this host.
    pub local: Vec<IpNet>,
    /// The APIs.
    pub apis: Vec<Api>,
    /// What is an anomaly.
    pub anomalies: Thresholds,
    /// The rules. Blocks and responses are not replayed: whoever is blocked would have sent something else.
    pub guard: Guard,
}

/// What the exporter would have said.
#[derive(Debug)]
pub struct Outcome {
    /// All counts.
    pub snapshot: Snapshot,
    /// All flows; the interface in their keys says nothing but how the frames were framed. Two can have the same ends, one
    /// after the other. With each is what the kernel has not read of its first payloads.
    pub flows: Vec<(FlowKey, Flow, Known)>,
    /// Names and roles of the APIs, by slot.
    pub apis: ApiNames,
    /// Whose packets rules would have decided about.
    pub hits: Vec<RuleHits>,
    /// What became of the frames.
    pub tally: Tally,
    /// What was wrong with files: each was read as far as it could be.
    pub failures: Vec<CaptureError>,
}

/// A frame that the kernel would not run a program on.
#[derive(Debug)]
pub struct Refusal {
    /// The capture.
    pub file: PathBuf,
    /// The frame's number in it, from 1.
    pub frame: u64,
    /// Its length on the wire in bytes.
    pub length: u32,
    /// Bytes of it that were captured.
    pub captured: usize,
    /// What the kernel said.
    pub reason: String,
}

impl Replay {
    /// Replays all of it.
    ///
    /// # Errors
    /// Only if there is nothing to be told: a file that is not right is one of [`Outcome::failures`].
    pub fn run(&self) -> Result<Outcome, ReplayError> {
        if let Some(other) = self.files.iter().find(|file| fs::metadata(file).is_ok_and(|file| !file.is_file())) {
            return Err(ReplayError::NotAFile(other.clone()));
        }
        capabilities::require()?;
        capabilities::keep_only(&KEPT_FOR_LOADING)?;
        let mut progress = Progress::start(&self.files);
        let mut survey = Survey::new(self.local.clone());
        // What is wrong with a file is told by the second reading.
        self.each_frame(&mut progress, |_, frame| survey.look(&frame));

        let mut accounting = Accounting::new(load(survey.flows(), &self.guard)?, AttachMode::Auto, Duration::MAX)?;
        capabilities::keep_only(&KEPT)?;
        accounting.set_anomaly_thresholds(&self.anomalies)?;
        accounting.apply_apis(&self.apis)?;
        for (index, name, link_layer) in INTERFACES {
            accounting.pretend_interface(&Interface { index, name: name.to_owned(), link_layer })?;
        }
        if self.guard.is_on() {
            accounting.set_guard(Arc::new(self.guard.clone()))?;
            accounting.pretend_guard()?;
        }
        let mut tally = Tally::default();
        let greetings = Greetings::of_capture();
        accounting.keep_greetings(greetings.clone());
        let mut flows = Vec::new();
        let failures = self.each_frame(&mut progress, |file, frame| {
            tally.run(accounting.kernel(), &survey, file, frame);
            // Attempts that were refused, and connections whose ends have opened another: what that says is not theirs.
            accounting.kernel().read_finished(|FinishedFlow { key, flow, .. }| {
                flows.push((*key, *flow, greetings.of(key)));
                greetings.forget(key);
            });
            accounting.read_samples(usize::MAX);
        });
        progress.end();

        for table in [FlowTable::Established, FlowTable::New] {
            for (key, flow) in accounting.kernel().all_flows(table)? {
                if !is_empty(&flow) {
                    flows.push((key, flow, greetings.of(&key)));
                }
            }
        }
        let in_flows = flows.iter().flat_map(|(_, flow, _)| flow.wire()).sum::<Counters>().packets;
        let apis = accounting.api_names();
        let mut snapshot = accounting.snapshot();
        let expected = snapshot.apis.iter().flat_map(|api| api.counters.wire).sum::<Counters>().packets;
        let found = in_flows + snapshot.apis.iter().map(|api| api.counters.untracked.packets).sum::<u64>();
        if found != expected {
            return Err(ReplayError::Incomplete { found, expected });
        }
        // These are about a process that runs on, not about captures.
        (snapshot.process, snapshot.collectors, snapshot.tables) = (None, Vec::new(), Vec::new());
        snapshot.interfaces.retain(|interface| interface.counters.totals.iter().any(|totals| totals.buffers > 0));
        let hits = accounting.all_hits()?;
        Ok(Outcome { snapshot, flows, apis, hits, tally, failures })
    }

    /// Hands each frame of each file on, as far as the files can be read; answers with what was wrong with them.
    fn each_frame(
        &self,
        progress: &mut Progress,
        mut hand_on: impl FnMut(&Path, CapturedFrame<'_>),
    ) -> Vec<CaptureError> {
        let mut failures = Vec::new();
        for file in &self.files {
            let mut capture = match Capture::open(file) {
                Ok(capture) => capture,
                Err(error) => {
                    failures.push(error);
                    progress.next_file();
                    continue;
                }
            };
            loop {
                match capture.next_frame() {
                    Some(Ok(frame)) => hand_on(file, frame),
                    Some(Err(error)) => {
                        failures.push(error);
                        break;
                    }
                    None => break,
                }
                progress.show(capture.position());
            }
            progress.next_file();
        }
        failures
    }
}

/// The interfaces that frames are said to pass: there need be none with these indexes.
const INTERFACES: [(u32, &str, LinkLayer); 2] =
    [(ETHERNET, "ethernet", LinkLayer::Ethernet), (IP, "ip", LinkLayer::Ip)];
/// Of frames with an Ethernet header. (The loopback interface has index 1.)
const ETHERNET: u32 = 2;
/// Of frames without one.
const IP: u32 = 3;

/// Loads the programs with room for `flows`, and for what `guard` needs.
fn load(flows: usize, guard: &Guard) -> Result<Kernel, ReplayError> {
    // Flows of both framings are two; and the table that forgets does so as soon as one CPU finds nothing free, while
    // others keep some.
    let room =
        u32::try_from(flows).ok().and_then(|flows| flows.checked_mul(4)).and_then(|room| room.checked_add(65_536));
    let Some(room) = room else { return Err(ReplayError::TooManyFlows(flows)) };
    let flows = FlowCapacity { established: room, new: room };
    let prefixes = prefix_capacity(guard).map_err(GuardError::from)?;
    let guard = GuardCapacity { prefixes, clients: guard.clients };
    Ok(Kernel::load(LoadOptions { flows, replay: true, trace_parents: true, guard, ..LoadOptions::default() })?)
}

/// What became of the frames.
#[derive(Debug, Default)]
pub struct Tally {
    /// Frames that were found.
    pub frames: u64,
    /// Bytes on the wire of all of them.
    pub bytes: u64,
    /// Frames that the kernel would not run a program on.
    pub refused: u64,
    /// Bytes on the wire of those.
    pub refused_bytes: u64,
    /// The first of them.
    pub refusals: Vec<Refusal>,
    /// Frames whose link type cannot be read, by the number of that.
    pub unreadable: BTreeMap<u16, u64>,
}

impl Tally {
    /// Runs a program on `frame`.
    fn run(&mut self, kernel: &mut Kernel, survey: &Survey, file: &Path, frame: CapturedFrame<'_>) {
        let CapturedFrame { number, timestamp, length, framing, data } = frame;
        self.frames += 1;
        self.bytes += u64::from(length);
        let interface = match framing {
            Framing::Ethernet => ETHERNET,
            Framing::Ip => IP,
            Framing::Unreadable { link_type } => {
                *self.unreadable.entry(link_type).or_default() += 1;
                return;
            }
        };
        let packet = CapturedPacket { data, length, time: timestamp, interface };
        if let Err(error) = kernel.replay(survey.direction(&frame), packet) {
            self.refused += 1;
            self.refused_bytes += u64::from(length);
            if self.refusals.len() < LISTED {
                let (file, captured, reason) = (file.to_owned(), data.len(), chain(&error));
                self.refusals.push(Refusal { file, frame: number, length, captured, reason });
            }
        }
    }
}
