//! `interface_…` and `uncounted_…`: what was counted for each interface.

use std::{fmt, sync::Arc};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{Families, collector};
use crate::snapshot::{Counters, Direction, InterfaceSnapshot, InterfaceTotals, Reason, Snapshot};

#[derive(Debug)]
pub(super) struct InterfaceCollector(pub(super) Arc<Snapshot>);

collector!(InterfaceCollector);

impl InterfaceCollector {
    fn families(&self, families: &mut Families<'_>) -> fmt::Result {
        families.counter(
            "interface_packets",
            "All packets that the programs saw, as they are on the wire: a super-packet counts as its segments",
            self.totals(|totals| totals.wire.packets),
        )?;
        families.counter(
            "interface_bytes",
            "All bytes that the programs saw, as they are on the wire: headers of each segment included",
            self.totals(|totals| totals.wire.bytes),
        )?;
        families.counter(
            "interface_buffers",
            "All socket buffers that the programs saw: a super-packet is one",
            self.totals(|totals| totals.buffers),
        )?;
        families.counter(
            "interface_kernel_packets",
            "The kernel's own count since the programs were attached: of packets or of socket buffers, as the device has it",
            self.known(|InterfaceSnapshot { kernel, .. }| kernel.map_or([None; Direction::COUNT], |kernel| kernel.map(Some))),
        )?;
        families.gauge(
            "coverage_ratio",
            "Packets that the programs saw for each one that the kernel counted, where it is known what that counts",
            self.known(|interface| interface.coverage),
        )?;
        families.counter(
            "uncounted_packets",
            "Packets that were counted for no API, by the reason why",
            self.uncounted(|counters| counters.packets),
        )?;
        families.counter(
            "uncounted_bytes",
            "Bytes on the wire that were counted for no API, by the reason why",
            self.uncounted(|counters| counters.bytes),
        )
    }

    fn totals(&self, value: impl Fn(InterfaceTotals) -> u64) -> impl Iterator<Item = ([(&'static str, &str); 2], u64)> {
        self.0.interfaces.iter().flat_map(move |InterfaceSnapshot { name, counters, .. }| {
            Direction::ALL.map(|direction| {
                let labels = [("interface", name.as_str()), ("direction", direction.as_str())];
                (labels, value(counters.totals[direction.index()]))
            })
        })
    }

    /// What is known of each interface and direction.
    fn known<T>(
        &self,
        values: impl Fn(&InterfaceSnapshot) -> [Option<T>; Direction::COUNT],
    ) -> impl Iterator<Item = ([(&'static str, &str); 2], T)> {
        self.0.interfaces.iter().flat_map(move |interface| {
            let samples = Direction::ALL.into_iter().zip(values(interface)).filter_map(|(direction, value)| {
                Some(([("interface", interface.name.as_str()), ("direction", direction.as_str())], value?))
            });
            samples.collect::<Vec<_>>()
        })
    }

    // Reasons that never occurred are there too: a counter that begins at its first value loses it to `rate()`.
    fn uncounted(&self, value: impl Fn(Counters) -> u64) -> impl Iterator<Item = ([(&'static str, &str); 3], u64)> {
        self.0.interfaces.iter().flat_map(move |InterfaceSnapshot { name, counters, .. }| {
            let mut samples = Vec::with_capacity(Direction::COUNT * Reason::COUNT);
            for direction in Direction::ALL {
                samples.extend(Reason::ALL.iter().map(|reason| {
                    let labels =
                        [("interface", name.as_str()), ("direction", direction.as_str()), ("reason", reason.as_str())];
                    (labels, value(counters.uncounted[direction.index()][reason.index()]))
                }));
            }
            samples
        })
    }
}
