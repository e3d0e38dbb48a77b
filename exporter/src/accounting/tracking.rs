//! Flows, as they are shown to the tracker and to those who ask.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Instant,
};

use tidewaiter_common::{
    api::ApiSlot,
    event::sample_kind,
    flow::{Flow, FlowKey},
};
use tokio::sync::mpsc::Receiver;

use super::{
    Accounting,
    apis::{ApiRegistry, untracked_bytes},
    flows::{FlowSweeper, Shown},
    interfaces::InterfaceRegistry,
};
use crate::{
    anomaly::{Anomaly, AnomalyKind},
    event::{Event, Happening},
    flow::{FlowClock, FlowContext, Protocol},
    greeting::Greetings,
    kernel::{FlowTable, Kernel, KernelError, Ticks, Walk},
    sinks::NoRoom,
    tracker::FlowTracker,
};

/// Samples that are looked at before others may go on: the ring has room for some more, of short requests.
const MOST_SAMPLES: usize = 2048;

impl Accounting {
    /// Shows flows to `tracker` from now on. Those of APIs that are counted already, for an exporter before us, are theirs
    /// whatever their age.
    pub fn follow_flows(&mut self, mut tracker: FlowTracker) -> Result<(), KernelError> {
        for slot in self.apis.slots() {
            tracker.begin(slot, 0, untracked_bytes(&self.apis.counters(&self.kernel, slot)?));
        }
        let is_enabled = self.thresholds.is_enabled(AnomalyKind::Amplification);
        tracker.set_amplification(is_enabled.then_some(self.thresholds.amplification));
        self.tracker = Some(tracker);
        Ok(())
    }

    /// What follows flows, if anything does.
    pub const fn tracker(&mut self) -> Option<&mut FlowTracker> {
        self.tracker.as_mut()
    }

    /// What is known of first payloads; it goes on to be filled.
    #[must_use]
    pub fn greetings(&self) -> Greetings {
        self.greetings.clone()
    }

    /// Keeps in `greetings` what is known of first payloads from now on.
    pub fn keep_greetings(&mut self, greetings: Greetings) {
        self.greetings = greetings;
    }

    /// Hands what is out of the ordinary to a sink called `name`, which reads it from what this answers with. Where `capacity` of
    /// them wait there, more are dropped.
    pub fn add_event_sink(&mut self, name: &'static str, capacity: usize) -> Receiver<Arc<Event>> {
        self.anomalies.add_sink(name, capacity)
    }

    /// As [`add_event_sink`](Self::add_event_sink), where `no_room` is shown what is dropped.
    pub fn add_watched_event_sink(
        &mut self,
        name: &'static str,
        capacity: usize,
        no_room: Arc<dyn NoRoom<Event>>,
    ) -> Receiver<Arc<Event>> {
        self.anomalies.add_watched_sink(name, capacity, no_room)
    }

    /// Hands what has happened to those who want events.
    pub fn pass_on(&mut self, what: &Happening) {
        self.anomalies.pass_on(what);
    }

    /// Tells how many anomalies were not told one by one, before an end.
    pub fn tell_untold(&mut self) {
        self.anomalies.end();
    }

    /// Looks at samples of payloads that the kernel has taken, at most `limit`. Says whether there may be more.
    pub fn read_samples(&mut self, limit: usize) -> bool {
        let Self { kernel, apis, greetings, anomalies, .. } = self;
        let wants_trace_parents = kernel.wants_trace_parents();
        kernel.read_samples(limit, |sample, payload| {
            let protocol = Protocol::from_index(sample.protocol).unwrap_or_default();
            match sample.kind {
                sample_kind::UNEXPECTED => {}
                sample_kind::GREETING => return greetings.note(sample.key, protocol, payload),
                sample_kind::REQUEST if wants_trace_parents => return greetings.note_request(sample.key, payload),
                // An exporter before us has asked for it.
                _ => return,
            }
            let Some((api, role)) = apis.holder(sample.api) else { return };
            let FlowKey { local, remote, local_port, remote_port, .. } = sample.key;
            let anomaly = Anomaly {
                kind: AnomalyKind::UnexpectedPayload,
                api,
                role: Some(role),
                local: Some(SocketAddr::new(local.into(), local_port)),
                remote: Some(SocketAddr::new(remote.into(), remote_port)),
                application: Some(protocol),
                rule: None,
                detail: "a flow's payload is not what its API expects".to_owned(),
                first_bytes: payload.to_vec(),
            };
            anomalies.tell(&anomaly, Instant::now());
        })
    }

    /// Has flows finished that the kernel says have ended, until `deadline`. Says whether there are more.
    pub fn drain_flows(&mut self, deadline: Instant) -> Result<bool, KernelError> {
        let drained = self.show_flows(|flows, kernel, ticks, show| flows.drain(kernel, ticks, deadline, show));
        // After flows that are over, because others may have their ends by now. Samples are of flows that go on, but for those whose
        // ends another connection has taken within the last tenth of a second: what these said may be taken for the other's.
        self.read_samples(MOST_SAMPLES);
        self.read_anomalies();
        self.respond();
        drained
    }

    /// Looks at some of the flows, and has those finished that have been quiet for long, until `deadline`. Says whether that was
    /// too soon: then the next call goes on with the same look.
    pub fn sweep_flows(&mut self, deadline: Instant) -> Result<bool, KernelError> {
        let period = self.tracker.as_ref().map(FlowTracker::period);
        self.show_flows(|flows, kernel, ticks, show| flows.sweep(kernel, ticks, period, deadline, show))
    }

    /// Tells all flows to those who want records, because the exporter is about to end: those that have ended or been quiet for
    /// long as they would have been told later, the others as forced to end. Goes on until `deadline`, and answers with about
    /// how many are left: the next call goes on with them.
    ///
    /// To be called when the programs are detached: what passes after a flow was told would be counted for its API alone.
    pub fn finish_all_flows(&mut self, deadline: Instant) -> Result<usize, KernelError> {
        if !self.tracker.as_ref().is_some_and(FlowTracker::wants_records) {
            return Ok(0);
        }
        // Samples that wait are of flows that go on, and what they say belongs to their records.
        self.drain_flows(deadline)?;
        self.show_flows(|flows, kernel, ticks, show| flows.finish_all(kernel, ticks, deadline, show))
    }

    /// Has `go` go through flows, and shows them to the tracker.
    fn show_flows<T>(
        &mut self,
        go: impl FnOnce(&mut FlowSweeper, &mut Kernel, Ticks, &mut dyn FnMut(Shown<'_>)) -> Result<T, KernelError>,
    ) -> Result<T, KernelError> {
        let Self { kernel, apis, interfaces, flows, tracker, greetings, anomalies, .. } = self;
        let ticks = kernel.ticks()?;
        anomalies.tick(Instant::now());
        let Some(tracker) = tracker else { return go(flows, kernel, ticks, &mut |_| {}) };
        tracker.tick(Instant::now(), ticks);
        let context = tracker.wants_records().then(|| context(apis, interfaces, greetings, ticks));
        go(flows, kernel, ticks, &mut |shown| match shown {
            Shown::Live(key, flow) => tracker.live(key, flow, context.as_ref()),
            Shown::GoingOn(key, flow) => tracker.go_on(key, flow, context.as_ref()),
            Shown::Forced(key, flow) => tracker.force_end(key, flow, context.as_ref()),
            Shown::Finished(key, flow) => {
                tracker.finish(key, flow, context.as_ref());
                greetings.forget(key);
            }
        })
    }

    /// Some of the flows in `table`; all of them if it is called with the same `walk` until that is over. Says whether it is.
    pub fn some_flows(&self, table: FlowTable, walk: &mut Walk) -> Result<(Vec<(FlowKey, Flow)>, bool), KernelError> {
        self.kernel.some_flows(table, walk)
    }

    /// What it takes to make records of flows.
    pub fn flow_context(&mut self) -> Result<FlowContext, KernelError> {
        let ticks = self.kernel.ticks()?;
        Ok(context(&self.apis, &self.interfaces, &self.greetings, ticks))
    }

    /// The slots that are taken, and what tick it is: for [`Accounting::apis_changed`].
    pub(super) fn before_apis_change(&mut self) -> Result<Holders, KernelError> {
        let since = if self.tracker.is_some() { self.kernel.ticks()?.now } else { 0 };
        Ok(Holders { slots: slots(&self.apis), since })
    }

    /// Tells the tracker which APIs have come and gone.
    pub(super) fn apis_changed(&mut self, before: &Holders) {
        let Some(tracker) = &mut self.tracker else { return };
        let now = slots(&self.apis);
        before.slots.difference(&now).for_each(|slot| tracker.forget(*slot));
        // Nothing was counted yet of those that are new, nor was any packet of theirs seen before.
        now.difference(&before.slots).for_each(|slot| tracker.begin(*slot, before.since, 0));
    }
}

/// Who had a slot at some tick.
pub(super) struct Holders {
    slots: BTreeSet<ApiSlot>,
    since: u64,
}

fn slots(apis: &ApiRegistry) -> BTreeSet<ApiSlot> {
    apis.slots().collect()
}

/// What it takes to make records of flows when it is so late by `ticks`.
pub(super) fn context(
    apis: &ApiRegistry,
    interfaces: &InterfaceRegistry,
    greetings: &Greetings,
    ticks: Ticks,
) -> FlowContext {
    FlowContext {
        greetings: greetings.clone(),
        apis: apis.names(),
        interfaces: interfaces.current().map(|one| (one.index, one.name.as_str().into())).collect::<HashMap<_, _>>(),
        clock: FlowClock::at(ticks),
    }
}
