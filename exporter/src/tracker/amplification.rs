//! Clients whose questions over UDP are answered with far more than they ask: most likely they have not asked, but somebody
//! in their name who wants them flooded.

use std::{collections::HashMap, hash::RandomState, time::Instant};

use tidewaiter_common::{
    address::Address,
    api::ApiSlot,
    flow::{FULL, Flow, FlowKey},
    packet::protocol,
};

use crate::{anomaly::thresholds, snapshot::Counters};

/// The most clients that are watched in a window, some 60 bytes each: those that come later are not looked at until the next.
pub(super) const MOST: usize = 8192;

/// Answers that are far larger than questions, by client.
#[derive(Debug)]
pub(super) struct Amplifications {
    limits: Option<thresholds::Amplification>,
    begun: Instant,
    /// Only clients of flows that are amplified by themselves: others have nothing to do with it.
    clients: HashMap<(ApiSlot, Address), Sums, RandomState>,
    found: Vec<Amplified>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    asked: u64,
    answered: u64,
    is_found: bool,
}

/// A client that was answered far more than it has asked; once in each window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amplified {
    /// The flow that was the last straw.
    pub key: FlowKey,
    /// Whose it is.
    pub api: ApiSlot,
    /// Bytes on the wire that the client has asked in the window under way.
    pub asked: u64,
    /// Bytes on the wire that it was answered.
    pub answered: u64,
}

impl Amplifications {
    pub(super) fn new(now: Instant, hasher: RandomState) -> Self {
        Self { limits: None, begun: now, clients: HashMap::with_hasher(hasher), found: Vec::new() }
    }

    /// Says from which on it is amplification; nothing is looked for without.
    pub(super) fn set_limits(&mut self, limits: Option<thresholds::Amplification>) {
        self.limits = limits;
    }

    /// Takes in what is `new` of a flow, by direction.
    pub(super) fn see(&mut self, key: &FlowKey, flow: &Flow, new: [Counters; 2]) {
        let Some(limits) = self.limits else { return };
        let [asked, answered] = new.map(|counters| counters.bytes);
        // A client that sends large datagrams itself gains nothing for who pretends to be it.
        let is_amplified = key.protocol == u32::from(protocol::UDP)
            && flow.seen & FULL == 0
            && asked > 0
            && answered >= asked.saturating_mul(limits.ratio);
        if !is_amplified {
            return;
        }
        let place = (flow.api, key.remote);
        if self.clients.len() >= MOST && !self.clients.contains_key(&place) {
            return;
        }
        let sums = self.clients.entry(place).or_default();
        sums.asked = sums.asked.saturating_add(asked);
        sums.answered = sums.answered.saturating_add(answered);
        if sums.answered >= limits.bytes && !sums.is_found {
            sums.is_found = true;
            self.found.push(Amplified { key: *key, api: flow.api, asked: sums.asked, answered: sums.answered });
        }
    }

    /// Says what time it is. To be called each second or so.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.limits.is_none_or(|limits| now.saturating_duration_since(self.begun) >= limits.window) {
            self.begun = now;
            self.clients.clear();
        }
    }

    /// Those that were found since this was asked last.
    pub(super) fn take(&mut self) -> Vec<Amplified> {
        std::mem::take(&mut self.found)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        hash::RandomState,
        net::{IpAddr, Ipv4Addr},
        time::{Duration, Instant},
    };

    use super::{Amplifications, ApiSlot, Counters, FULL, Flow, FlowKey, MOST, protocol, thresholds};

    const LIMITS: thresholds::Amplification =
        thresholds::Amplification { window: Duration::from_mins(1), ratio: 10, bytes: 10_000 };

    fn key(client: u32, protocol: u8) -> FlowKey {
        let [local, remote] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::from(client)].map(|one| IpAddr::V4(one).into());
        FlowKey { local, remote, interface: 2, local_port: 53, remote_port: 4000, protocol: protocol.into() }
    }

    fn bytes(asked: u64, answered: u64) -> [Counters; 2] {
        [asked, answered].map(|bytes| Counters { packets: 1, bytes })
    }

    fn amplifications(now: Instant) -> Amplifications {
        let mut all = Amplifications::new(now, RandomState::new());
        all.set_limits(Some(LIMITS));
        all
    }

    #[test]
    fn a_client_is_found_once_in_a_window_when_it_was_answered_enough() {
        let start = Instant::now();
        let mut all = amplifications(start);
        let flow = Flow::new(ApiSlot(3), 0, 0);
        for window in 0..2 {
            all.tick(start + LIMITS.window * window);
            all.see(&key(1, protocol::UDP), &flow, bytes(999, 9_990));
            assert_eq!(all.take(), [], "10 bytes are missing");
            for _ in 0..3 {
                all.see(&key(1, protocol::UDP), &flow, bytes(1, 10));
            }
            let found = all.take();
            assert_eq!(found.iter().map(|one| (one.asked, one.answered)).collect::<Vec<_>>(), [(1000, 10_000)]);
            assert_eq!(found[0].api, ApiSlot(3));
        }
    }

    #[test]
    fn what_is_no_amplification_counts_for_nothing() {
        let mut all = amplifications(Instant::now());
        let flow = Flow::new(ApiSlot(3), 0, 0);
        let mut full = flow;
        full.seen = FULL;
        for _ in 0..100 {
            all.see(&key(1, protocol::UDP), &flow, bytes(1001, 10_000));
            all.see(&key(1, protocol::TCP), &flow, bytes(1000, 100_000));
            all.see(&key(1, protocol::UDP), &full, bytes(1000, 100_000));
            all.see(&key(1, protocol::UDP), &flow, bytes(0, 100_000));
        }
        assert_eq!(all.take(), []);
        all.set_limits(None);
        all.see(&key(1, protocol::UDP), &flow, bytes(1000, 100_000));
        assert_eq!(all.take(), []);
    }

    #[test]
    fn any_number_of_clients_takes_no_more_than_its_room() {
        let mut all = amplifications(Instant::now());
        let flow = Flow::new(ApiSlot(3), 0, 0);
        for client in 0..3 * MOST as u32 {
            all.see(&key(client, protocol::UDP), &flow, bytes(100, 1000));
        }
        assert_eq!(all.clients.len(), MOST);
        all.see(&key(0, protocol::UDP), &flow, bytes(900, 9_000));
        assert_eq!(all.take().len(), 1, "those that have room are watched on");
    }
}
