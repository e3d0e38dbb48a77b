//! `guard_…` and `interface_guard_…`: what the guard has decided.

use std::{fmt, sync::Arc};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{Families, NoLabels, collector};
use crate::snapshot::{Direction, GuardSnapshot, InterfaceGuardCounters, InterfaceSnapshot, Snapshot, Verdict};

/// Clients that had to go, as the exposition calls it.
pub(super) const CLIENTS_EVICTED: &str = "guard_clients_evicted";

#[derive(Debug)]
pub(super) struct GuardCollector(pub(super) Arc<Snapshot>);

collector!(GuardCollector);

impl GuardCollector {
    fn families(&self, families: &mut Families<'_>) -> fmt::Result {
        families.counter(
            "interface_guard_packets",
            "Packets that were judged before they were accounted, by what became of them; transmitted ones are answers that went \
             out in the stead of what was rejected, past all other programs",
            self.interfaces(),
        )?;
        let Some(guard) = &self.0.guard else { return Ok(()) };
        // Whoever asks for the first block may be refused it.
        families.counter(
            "blocks_refused",
            "Blocks that were asked for and are not there, by the reason why",
            guard.blocks_refused.iter().map(|(reason, count)| ([("reason", *reason)], *count)),
        )?;
        if !guard.is_on {
            return Ok(());
        }
        families.counter(
            "guard_packets",
            "Packets that a rule has decided about, as they are on the wire, by what it has decided",
            pairs(guard),
        )?;
        let none: NoLabels = [];
        families.gauge(
            "guard_enforcing",
            "Whether rules that are to be enforced are, 1 or 0: not while the guard observes alone or is switched off",
            [(none, u64::from(guard.enforces && !guard.is_switched_off))],
        )?;
        families.gauge(
            "guard_generation",
            "How often other rules or APIs were put in force",
            [(none, guard.generation)],
        )?;
        families.counter(
            CLIENTS_EVICTED,
            "Clients whose limits were forgotten to make room for others",
            [(none, guard.clients_evicted)],
        )
    }

    fn interfaces(&self) -> impl Iterator<Item = ([(&'static str, &str); 3], u64)> {
        self.0.interfaces.iter().filter_map(|interface| Some((interface, interface.guard?))).flat_map(
            |(InterfaceSnapshot { name, .. }, counters)| {
                let InterfaceGuardCounters { passed, dropped, rejected, answered } = counters;
                let samples = [
                    (Direction::Receive, Verdict::Pass, passed),
                    (Direction::Receive, Verdict::Drop, dropped),
                    (Direction::Receive, Verdict::Reject, rejected),
                    (Direction::Transmit, Verdict::Reject, answered),
                ];
                samples.map(|(direction, verdict, packets)| {
                    let labels = [
                        ("interface", name.as_str()),
                        ("direction", direction.as_str()),
                        ("verdict", verdict.as_str()),
                    ];
                    (labels, packets)
                })
            },
        )
    }
}

// What can become of packets is there from zero; and what has, by the rule as it was before a change.
fn pairs(guard: &GuardSnapshot) -> impl Iterator<Item = ([(&'static str, &str); 3], u64)> {
    guard.pairs.iter().flat_map(|pair| {
        Verdict::ALL.iter().zip(pair.packets).filter_map(|(verdict, packets)| {
            let is_told = packets > 0 || pair.verdicts.contains(verdict);
            let labels = [("api", &*pair.api), ("rule", &*pair.rule), ("verdict", verdict.as_str())];
            is_told.then_some((labels, packets))
        })
    })
}
