//! What every sink is a function of: all counts at one moment.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

pub use tidewaiter_common::{
    anomaly::AnomalyKind,
    api::ApiCounters,
    counters::Counters,
    details::{ApiDetails, CloseReason},
    direction::Direction,
    event::Lost,
    guard::{InterfaceGuardCounters, Verdict},
    histogram::{Histogram, Range},
    interface::{InterfaceCounters, InterfaceTotals},
    reason::Reason,
};

use tidewaiter_common::http::{METHODS, STATUS_CODES};

use crate::{
    api::{Api, Role},
    kernel::ProgramStatistics,
    otlp::Signal,
};

/// The value of the label `interface` for what interfaces had counted that exist no more.
pub const GONE: &str = "gone";

/// All counts at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// That moment.
    pub taken: SystemTime,
    /// Every API, `unmapped` first.
    pub apis: Vec<ApiSnapshot>,
    /// Every interface that is accounted, and [`GONE`] if there is anything in it.
    pub interfaces: Vec<InterfaceSnapshot>,
    /// The programs; empty while the kernel's BPF statistics are off.
    pub programs: Vec<ProgramStatistics>,
    /// How often the kernel had no room to tell of something, by [`Lost`]; nothing while no flows are kept.
    pub lost: Option<[u64; Lost::COUNT]>,
    /// How full the tables are.
    pub tables: Vec<TableSnapshot>,
    /// Those who get records of flows that are over.
    pub sinks: Vec<SinkSnapshot>,
    /// Those who get events.
    pub event_sinks: Vec<SinkSnapshot>,
    /// What the guard has decided; `None` if nobody has asked for one.
    pub guard: Option<GuardSnapshot>,
    /// What is sent to OpenTelemetry collectors, by signal.
    pub otlp: Vec<OtlpSnapshot>,
    /// What is written to the audit log, if there is one.
    pub audit: Option<AuditSnapshot>,
    /// How the configuration stands; `None` where none is read but once.
    pub configuration: Option<ConfigurationSnapshot>,
    /// The exporter itself.
    pub process: Option<ProcessSnapshot>,
    /// How reading each of these went.
    pub collectors: Vec<CollectorSnapshot>,
}

/// How the configuration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigurationSnapshot {
    /// The number of the one in force: that of the start is 1, and each change adds one.
    pub generation: u64,
    /// Whether it could be taken when it was last read.
    pub is_successful: bool,
    /// When that was so last.
    pub last_success: SystemTime,
}

/// What was counted for one API.
#[derive(Clone, Debug)]
pub struct ApiSnapshot {
    /// The name.
    pub name: String,
    /// Which end of it this host is; `None` for `unmapped`, which is neither.
    pub role: Option<Role>,
    /// The API, if there is one behind the name.
    pub api: Option<Arc<Api>>,
    /// What was counted.
    pub counters: ApiCounters,
    /// Connections, latencies and protocols; nothing for what has no slot of its own (`removed`), and while no flows are kept.
    pub details: Option<Box<ApiDetails>>,
    /// What should not be, by kind: from zero for kinds that there can be of this API.
    pub anomalies: Vec<(AnomalyKind, u64)>,
    /// How transmission goes.
    pub transmission: TransmissionSnapshot,
    /// Its clients; nothing where no flows are followed, and for what is no API.
    pub clients: Option<ClientsSnapshot>,
    /// Since when.
    pub created: SystemTime,
}

impl ApiSnapshot {
    /// HTTP/1 requests without TLS by method, of those that were seen; nothing where there are no details.
    pub fn requests(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let requests =
            self.details.as_deref().into_iter().flat_map(|details| METHODS.into_iter().zip(details.requests));
        requests.filter(|(_, count)| *count > 0)
    }

    /// Their responses by status code, likewise; `other` for codes that are not registered.
    pub fn responses(&self) -> impl Iterator<Item = (Cow<'static, str>, u64)> {
        let code = |place| STATUS_CODES.get(place).map_or(Cow::Borrowed("other"), |code: &u16| code.to_string().into());
        let responses =
            self.details.as_deref().into_iter().flat_map(|details| details.responses.into_iter().enumerate());
        responses.filter(|(_, count)| *count > 0).map(move |(place, count)| (code(place), count))
    }
}

/// The clients of one API: addresses of the other ends of its flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientsSnapshot {
    /// Those whose bytes are counted by themselves, in the order of their addresses.
    pub named: Vec<ClientSnapshot>,
    /// The same of all others; `None` if nothing is counted by client.
    pub other: Option<u64>,
    /// About how many there were in the last five minutes.
    pub distinct: u64,
    /// Since when: the exporter keeps this, not the kernel.
    pub created: SystemTime,
}

/// One client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientSnapshot {
    /// Its address.
    pub address: IpAddr,
    /// Bytes on the wire of its flows, both ways: of those that are over, and of others up to a minute ago.
    pub bytes: u64,
    /// Since when.
    pub created: SystemTime,
}

/// How the transmission of one API goes, as far as the kernel tells; nothing for what has no slot of its own (`removed`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransmissionSnapshot {
    /// Segments that this host sent again.
    pub retransmitted: Option<u64>,
    /// Packets that the kernel dropped, by the name of the reason; nothing for `unmapped`.
    pub dropped: Option<BTreeMap<String, u64>>,
}

/// What the guard has decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardSnapshot {
    /// By rule and API.
    pub pairs: Vec<PairSnapshot>,
    /// Whether there is anything to judge by: rules, or blocks.
    pub is_on: bool,
    /// Whether rules are enforced that are to be.
    pub enforces: bool,
    /// Whether somebody has switched it off.
    pub is_switched_off: bool,
    /// How often other tables were put in force.
    pub generation: u64,
    /// Clients that limits are kept for.
    pub clients: u64,
    /// How many there can be.
    pub client_capacity: u64,
    /// How many had to go for others.
    pub clients_evicted: u64,
    /// Blocks that were asked for and are not there, by the reason why.
    pub blocks_refused: Vec<(&'static str, u64)>,
}

/// What was decided by one rule about packets of one API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairSnapshot {
    /// The rule's name.
    pub rule: Arc<str>,
    /// The API's.
    pub api: Arc<str>,
    /// Packets, by [`Verdict`].
    pub packets: [u64; Verdict::COUNT],
    /// Verdicts that there can be, as the rule is now.
    pub verdicts: Vec<Verdict>,
    /// Since when.
    pub created: SystemTime,
}

/// What was counted for one interface.
#[derive(Clone, Debug)]
pub struct InterfaceSnapshot {
    /// The name.
    pub name: String,
    /// Its counters.
    pub counters: InterfaceCounters,
    /// What the guard has done to what it received, and sent in its stead; nothing where packets are not judged.
    pub guard: Option<InterfaceGuardCounters>,
    /// Since when they count.
    pub created: SystemTime,
    /// What the kernel itself has counted since our programs were attached, by [`Direction::index`]; `None` for [`GONE`],
    /// and where it could not be read.
    pub kernel: Option<[u64; Direction::COUNT]>,
    /// Our packets, those that the guard dropped as frames included, for each of the kernel's, where it is known what the kernel
    /// counts, by [`Direction::index`].
    pub coverage: [Option<f64>; Direction::COUNT],
}

/// How full a table is.
#[derive(Clone, Copy, Debug)]
pub struct TableSnapshot {
    /// The table's name.
    pub name: &'static str,
    /// Entries in use.
    pub entries: usize,
    /// Entries there can be.
    pub capacity: usize,
}

/// Records of flows, or events, for one who wants them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkSnapshot {
    /// Who.
    pub name: &'static str,
    /// Records that were handed over.
    pub records: u64,
    /// Records that were dropped, because too many had not been read yet.
    pub dropped: u64,
    /// Since when.
    pub created: SystemTime,
}

/// How one signal fares on its way to an OpenTelemetry collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpSnapshot {
    /// Which one.
    pub signal: Signal,
    /// Requests by what became of them.
    pub exports: Vec<(&'static str, u64)>,
    /// Data points, spans or log records that the collector has accepted.
    pub exported: u64,
    /// Those that were dropped, by the reason why.
    pub dropped: Vec<(&'static str, u64)>,
    /// Spans of flows that the sampler has left out; nothing for other signals.
    pub unsampled: Option<u64>,
    /// Bytes of requests that wait, compressed as they are kept.
    pub queued_bytes: u64,
    /// The most bytes that may wait.
    pub queue_bytes: u64,
    /// Since when this counts.
    pub created: SystemTime,
}

/// How the audit log fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditSnapshot {
    /// Lines that were written, by the name of the event.
    pub written: Vec<(&'static str, u64)>,
    /// Events that were not written, by their name and the reason why.
    pub dropped: Vec<(&'static str, &'static str, u64)>,
    /// Bytes that were written.
    pub bytes: u64,
    /// How often the file could not be written.
    pub failures: u64,
    /// How often another file was begun.
    pub rotations: u64,
    /// Whether the file could be written the last time.
    pub is_writable: bool,
    /// The number of the last line that was written.
    pub sequence: u64,
}

/// The exporter's own use of the machine.
#[derive(Clone, Copy, Debug)]
pub struct ProcessSnapshot {
    /// User and system time.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub resident: u64,
    /// Open file descriptors; a process with capabilities of its file may not look at its own.
    pub open_files: Option<u64>,
    /// When it was started.
    pub started: SystemTime,
}

/// How reading one part of a snapshot went.
#[derive(Clone, Copy, Debug)]
pub struct CollectorSnapshot {
    /// What was read.
    pub name: &'static str,
    /// Whether all of it could be.
    pub success: bool,
    /// How long that took.
    pub duration: Duration,
}
