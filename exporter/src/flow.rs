//! A flow as userspace has it: what the kernel kept of it, with names and times that people read.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustix::time::{ClockId, clock_gettime};
use tidewaiter_common::{
    api::ApiSlot,
    flow::{ENDED, Flow, FlowKey, REFUSED, RESET},
};
pub use tidewaiter_common::{details::CloseReason, protocol::Protocol};

use crate::{
    api::{Role, reserved},
    greeting::{Greetings, Known},
    kernel::{Ticks, from_nanoseconds},
    snapshot::{Counters, Direction},
    trace_context::TraceParent,
};

/// One flow: the two ends of a conversation on one interface, and what passed between them. Of a flow that is told in parts
/// ([`FlowEnd::ActiveTimeout`]), what passed in one of them: the records of a flow add up to it.
#[derive(Clone, Debug)]
pub struct FlowRecord {
    /// The API that it belongs to; `unmapped` if none.
    pub api: Arc<str>,
    /// Which end of the API this host is; `None` for unmapped traffic.
    pub role: Option<Role>,
    /// The interface, by name; its index where the name is not known.
    pub interface: Arc<str>,
    /// This host's end. Port 0 where the protocol has none.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The protocol above IP, as IANA numbers it.
    pub protocol: u8,
    /// Packets and bytes on the wire, by [`Direction::index`].
    pub wire: [Counters; Direction::COUNT],
    /// The TCP flags of all segments, by [`Direction::index`]; 0 for other protocols. Of a part: of all segments since the flow
    /// began.
    pub tcp_flags: [u8; Direction::COUNT],
    /// When it began, by the kernel's clock: by this and its ends it is told from all other flows.
    pub began: u64,
    /// When its first packet passed. Of a part that is not the first: the end of the one before.
    pub first: SystemTime,
    /// When its last packet passed.
    pub last: SystemTime,
    /// How it ended; `None` while it goes on.
    pub end: Option<FlowEnd>,
    /// How long the handshake took, if it was seen; told with the first part alone.
    pub handshake: Option<Duration>,
    /// How many answers were timed.
    pub responses: u64,
    /// Time from the last byte of a request to the first of its answer, all of them added up.
    pub response_time: Duration,
    /// Segments that this host's TCP sent again, where the kernel told.
    pub retransmitted: u64,
    /// What the payload looks like.
    pub application: Protocol,
    /// What TLS says in the clear, for TLS.
    pub tls: Option<Arc<TlsHello>>,
    /// The traces that its first requests were part of, for plain HTTP/1; none unless somebody asks for them.
    pub trace_parents: Vec<TraceParent>,
}

/// How a flow ended, or why it was told although it did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowEnd {
    /// It was closed so; of a flow that is no connection, it has been quiet for long.
    Closed(CloseReason),
    /// It was an attempt to connect, which was refused.
    Refused,
    /// It goes on, and has done so for the active timeout since it was last told (`flowEndReason` 2 of IPFIX, RFC 5102).
    ActiveTimeout,
    /// It goes on, but the exporter ends (`flowEndReason` 4).
    ForcedEnd,
}

/// What the two hellos of TLS say in the clear (RFC 8446).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsHello {
    /// The version: what the server chose, or the highest that the client offered.
    pub version: Option<&'static str>,
    /// Whether the server chose it.
    pub version_is_chosen: bool,
    /// The server's name that the client asked for (RFC 6066).
    pub server_name: Option<String>,
    /// The application protocols that the client offered, or the one that the server chose (RFC 7301).
    pub application_protocols: Vec<String>,
    /// Whether it is the one that the server chose.
    pub protocol_is_chosen: bool,
}

impl FlowRecord {
    /// The record of what the kernel has kept as `flow` under `key`. Whatever the kernel comes to keep beside is filled in
    /// here.
    #[must_use]
    pub fn new(key: &FlowKey, flow: &Flow, context: &FlowContext) -> Self {
        Self::with(key, flow, context.greetings.of(key), context)
    }

    /// The same, where `known` is what is known of its first payloads.
    #[must_use]
    pub fn with(key: &FlowKey, flow: &Flow, known: Known, context: &FlowContext) -> Self {
        let FlowKey { local, remote, interface, local_port, remote_port, protocol } = *key;
        let (api, role) = context.api(flow.api);
        let (first, last) = context.clock.times(flow);
        let Known { tls, application, trace_parents } = known;
        Self {
            api,
            role,
            interface: context.interface(interface),
            local: SocketAddr::new(local.into(), local_port),
            remote: SocketAddr::new(remote.into(), remote_port),
            protocol: protocol as u8,
            wire: flow.wire(),
            tcp_flags: Direction::ALL.map(|direction| flow.tcp_flags(direction)),
            began: flow.first,
            first,
            last,
            end: FlowEnd::of(flow),
            handshake: (flow.handshake > 0).then(|| Duration::from_nanos(flow.handshake)),
            responses: flow.responses,
            response_time: Duration::from_nanos(flow.response_time),
            retransmitted: flow.retransmitted,
            application: application.unwrap_or_else(|| flow.application()),
            tls,
            trace_parents,
        }
    }

    /// The same of a flow that is over: one that has not ended by itself has been quiet for long.
    #[must_use]
    pub fn finished(key: &FlowKey, flow: &Flow, context: &FlowContext) -> Self {
        let record = Self::new(key, flow, context);
        Self { end: record.end.or(Some(FlowEnd::Closed(CloseReason::Idle))), ..record }
    }
}

impl FlowEnd {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed(reason) => reason.as_str(),
            Self::Refused => "refused",
            Self::ActiveTimeout => "active_timeout",
            Self::ForcedEnd => "forced_end",
        }
    }

    /// How `flow` has ended by itself, if it has.
    fn of(flow: &Flow) -> Option<Self> {
        if flow.seen & REFUSED != 0 {
            Some(Self::Refused)
        } else if flow.seen & RESET != 0 {
            Some(Self::Closed(CloseReason::Reset))
        } else if flow.seen & ENDED != 0 {
            Some(Self::Closed(CloseReason::Fin))
        } else {
            None
        }
    }
}

/// Whether there is nothing in `flow`: what has moved to the other table leaves such an entry.
#[must_use]
pub fn is_empty(flow: &Flow) -> bool {
    Direction::ALL.iter().all(|direction| flow.counters(*direction).packets == 0)
}

/// Names and roles of APIs, by slot.
pub type ApiNames = BTreeMap<ApiSlot, (Arc<str>, Role)>;

/// What is not said in a flow itself: names, and how its times are read.
#[derive(Clone, Debug)]
pub struct FlowContext {
    /// Names and roles of APIs, by slot.
    pub apis: ApiNames,
    /// Names of interfaces, by index.
    pub interfaces: HashMap<u32, Arc<str>>,
    /// How times are read.
    pub clock: FlowClock,
    /// What the kernel has not read of first payloads.
    pub greetings: Greetings,
}

impl FlowContext {
    /// The name and role of the API that has `slot`.
    #[must_use]
    pub fn api(&self, slot: ApiSlot) -> (Arc<str>, Option<Role>) {
        match self.apis.get(&slot) {
            Some((name, role)) => (Arc::clone(name), Some(*role)),
            None => (reserved::UNMAPPED.into(), None),
        }
    }

    fn interface(&self, index: u32) -> Arc<str> {
        self.interfaces.get(&index).map_or_else(|| index.to_string().into(), Arc::clone)
    }
}

/// How the times of flows are read.
#[derive(Clone, Copy, Debug)]
pub enum FlowClock {
    /// As the kernel has them: what time it is by all its clocks.
    Kernel {
        /// Everybody's.
        now: SystemTime,
        /// The monotonic one, in nanoseconds.
        monotonic: u64,
        /// The ticks.
        ticks: Ticks,
        /// When the last tick was, by everybody's clock.
        tick: SystemTime,
    },
    /// In nanoseconds since the epoch, as in a capture.
    Captured,
}

impl FlowClock {
    /// What time it is, where `ticks` is the same by the kernel's ticks.
    #[must_use]
    pub fn at(ticks: Ticks) -> Self {
        let read = |clock| {
            let time = clock_gettime(clock);
            Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
        };
        // The coarse clock stands where it stood at the last tick.
        let tick = SystemTime::UNIX_EPOCH + read(ClockId::RealtimeCoarse);
        let monotonic = u64::try_from(read(ClockId::Monotonic).as_nanos()).unwrap_or(u64::MAX);
        Self::Kernel { now: SystemTime::now(), monotonic, ticks, tick }
    }

    /// What time it is by the clock that [`Flow::first`] is told by; in a capture, when the last packet of `flow` passed.
    pub(crate) const fn moment(self, flow: &Flow) -> u64 {
        match self {
            Self::Kernel { monotonic, .. } => monotonic,
            Self::Captured => flow.last,
        }
    }

    /// When the first and the last packet of `flow` passed.
    pub(crate) fn times(self, flow: &Flow) -> (SystemTime, SystemTime) {
        match self {
            Self::Captured => (from_nanoseconds(flow.first), from_nanoseconds(flow.last)),
            Self::Kernel { now, monotonic, ticks, tick } => {
                let before = |time: SystemTime, long| time.checked_sub(long).unwrap_or(SystemTime::UNIX_EPOCH);
                let first = before(now, Duration::from_nanos(monotonic.saturating_sub(flow.first)));
                let quiet = u32::try_from(ticks.now.saturating_sub(flow.last)).unwrap_or(u32::MAX);
                let last = before(tick, ticks.length.saturating_mul(quiet));
                // A clock and ticks differ by a tick.
                (first, last.max(first))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, HashMap},
        time::{Duration, SystemTime},
    };

    use tidewaiter_common::{
        address::Address,
        api::ApiSlot,
        flow::{CLASSIFIED, ENDED, Flow, FlowKey, REFUSED, RESET},
    };

    use super::{CloseReason, FlowClock, FlowContext, FlowEnd, FlowRecord, Greetings, Ticks};

    const KEY: FlowKey = FlowKey {
        local: Address::v4([10, 0, 0, 1]),
        remote: Address::v4([10, 0, 0, 2]),
        interface: 7,
        local_port: 8080,
        remote_port: 40_000,
        protocol: 6,
    };

    fn flow(change: impl FnOnce(&mut Flow)) -> Flow {
        let mut flow = Flow::new(ApiSlot(1), 0, 0);
        change(&mut flow);
        flow
    }

    fn at(first: u64, last: u64) -> Flow {
        flow(|flow| (flow.first, flow.last) = (first, last))
    }

    fn context() -> FlowContext {
        FlowContext {
            apis: BTreeMap::new(),
            interfaces: HashMap::new(),
            clock: FlowClock::Captured,
            greetings: Greetings::default(),
        }
    }

    #[test]
    fn a_flow_ends_as_the_kernel_saw_it_or_by_being_quiet() {
        let closed = |reason| Some(FlowEnd::Closed(reason));
        let idle = closed(CloseReason::Idle);
        for (seen, live, finished) in [
            (0, None, idle),
            // Other bits say nothing of the end.
            (CLASSIFIED | 0xff, None, idle),
            (ENDED, closed(CloseReason::Fin), closed(CloseReason::Fin)),
            (ENDED | RESET, closed(CloseReason::Reset), closed(CloseReason::Reset)),
            // What was refused is no connection, though it was by a reset.
            (ENDED | RESET | REFUSED, Some(FlowEnd::Refused), Some(FlowEnd::Refused)),
            (REFUSED, Some(FlowEnd::Refused), Some(FlowEnd::Refused)),
        ] {
            let flow = flow(|flow| flow.seen = seen);
            assert_eq!(FlowRecord::new(&KEY, &flow, &context()).end, live, "{seen:x}");
            assert_eq!(FlowRecord::finished(&KEY, &flow, &context()).end, finished, "{seen:x}");
        }
    }

    #[test]
    fn every_end_has_a_word_of_its_own() {
        use CloseReason::{Fin, Idle, Reset};
        let closed = [Fin, Reset, Idle].map(FlowEnd::Closed);
        let words = [closed.as_slice(), &[FlowEnd::Refused, FlowEnd::ActiveTimeout, FlowEnd::ForcedEnd]].concat();
        let words: Vec<_> = words.into_iter().map(FlowEnd::as_str).collect();
        assert_eq!(words, ["fin", "reset", "idle", "refused", "active_timeout", "forced_end"]);
    }

    #[test]
    fn what_was_timed_is_in_nanoseconds_and_a_handshake_not_seen_is_none() {
        let nanoseconds = Duration::from_nanos;
        for (handshake, responses, response_time) in [(0, 0, 0), (1, 3, 4_500_000_001), (u64::MAX, 1, 0)] {
            let flow = flow(|flow| {
                (flow.handshake, flow.responses, flow.response_time) = (handshake, responses, response_time);
                flow.retransmitted = 5;
            });
            let record = FlowRecord::new(&KEY, &flow, &context());
            assert_eq!(record.handshake, (handshake > 0).then(|| nanoseconds(handshake)));
            assert_eq!((record.responses, record.response_time), (responses, nanoseconds(response_time)));
            assert_eq!((record.retransmitted, &*record.interface, record.role), (5, "7", None));
        }
    }

    #[test]
    fn the_first_packet_is_timed_by_the_clock_and_the_last_by_ticks() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let tick = now - Duration::from_millis(3);
        let ticks = Ticks { now: 10_000, length: Duration::from_millis(4) };
        let clock = FlowClock::Kernel { now, monotonic: 60_000_000_000, ticks, tick };
        let (second, millisecond) = (Duration::from_secs(1), Duration::from_millis(1));
        for (first, last, times) in [
            // A minute after the machine's start is now.
            (20_000_000_000, 9_000, (now - second * 40, tick - second * 4)),
            (59_999_000_000, 10_000, (now - millisecond, now - millisecond)),
            // By the last tick it was over before it began.
            (59_998_000_000, 9_999, (now - millisecond * 2, now - millisecond * 2)),
            // What has passed since then was not there when it was asked what time it is.
            (60_000_000_001, 10_001, (now, now)),
            (0, 0, (now - second * 60, tick - second * 40)),
        ] {
            assert_eq!(clock.times(&at(first, last)), times, "{first}, {last}");
        }
        let captured = FlowClock::Captured.times(&at(1_500_000_000, 2_000_000_001));
        let since = |nanoseconds| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds);
        assert_eq!(captured, (since(1_500_000_000), since(2_000_000_001)));
    }
}
