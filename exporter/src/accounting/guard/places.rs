//! Where packets are judged: as frames or as socket buffers, interface by interface.

use std::collections::HashSet;

use tidewaiter_common::{
    direction::Direction,
    guard::{InterfaceGuardCounters, judges},
    interface::{InterfaceTotals, LOOPBACK_INDEX, guarded},
};
use tracing::info;

use super::GuardRegistry;
use crate::{
    chain::chain,
    config::guard::GuardAttach,
    interfaces::Interface,
    kernel::{Kernel, KernelError},
};

/// Where packets of an interface are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardPlace {
    /// As frames, in the driver.
    Xdp,
    /// As socket buffers.
    Tc,
}

impl GuardPlace {
    /// As it is called.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        }
    }
}

impl GuardRegistry {
    /// Takes note of which interfaces are one end of a pair: what is answered there as a frame reaches the other end only if that
    /// has a program of XDP too (`veth_xdp_xmit`, `drivers/net/veth.c`), so answers are left to TC.
    pub(in crate::accounting) fn note_paired(&mut self, paired: HashSet<u32>) {
        self.paired = paired;
    }

    /// Takes note of which interfaces' devices count each frame that reaches a program of XDP, by index.
    pub(in crate::accounting) fn note_frame_counting(&mut self, counting: HashSet<u32>) {
        self.counting = counting;
    }

    /// Whether packets of an interface are judged as frames, each of which its device has counted.
    pub(in crate::accounting) fn counts_frames(&self, index: u32) -> bool {
        self.place_of(index) == Some(GuardPlace::Xdp) && self.counting.contains(&index)
    }

    /// All that was seen on an interface in `direction`, of which `accounted` has passed the guard; `None` if that cannot be said
    /// in what its device counts.
    pub(in crate::accounting) fn seen(
        &self,
        index: u32,
        direction: Direction,
        accounted: InterfaceTotals,
        judged: &InterfaceGuardCounters,
    ) -> Option<InterfaceTotals> {
        let InterfaceGuardCounters { dropped, rejected, answered, .. } = judged;
        match (direction, dropped + rejected, answered) {
            (Direction::Receive, 0, _) | (Direction::Transmit, _, 0) => Some(accounted),
            // A driver may count them late, or elsewhere.
            (Direction::Transmit, ..) => None,
            // How many socket buffers they were was not counted.
            (Direction::Receive, ..) if self.were_buffers.contains(&index) || !self.counting.contains(&index) => None,
            (Direction::Receive, gone, _) => {
                let mut seen = accounted;
                seen.wire.packets += gone;
                seen.buffers += gone;
                Some(seen)
            }
        }
    }

    /// Takes note that it is known which interfaces are accounted: until then the guard stays where one before us has attached it.
    pub(in crate::accounting) const fn note_interfaces(&mut self) {
        self.knows_interfaces = true;
    }

    /// Whether there is anything to judge when a packet comes in.
    const fn judges_packets(&self) -> bool {
        self.blocks || self.judges & (judges::PACKETS | judges::MARKS) != 0
    }

    /// Attaches the guard to the interfaces that are accounted, once they are known and as far as there is anything to judge; answers
    /// with what went wrong.
    pub(in crate::accounting) fn place<'a>(
        &mut self,
        kernel: &mut Kernel,
        interfaces: impl Iterator<Item = &'a Interface>,
    ) -> Vec<KernelError> {
        let Some(guard) = self.guard.clone().filter(|_| self.knows_interfaces) else { return Vec::new() };
        let mut failures = Vec::new();
        let payload = if self.judges & (judges::REQUESTS | judges::PAYLOAD) != 0 { guarded::PAYLOAD } else { 0 };
        let marks = if self.judges & judges::MARKS != 0 { guarded::MARKS } else { 0 };
        let mut there = HashSet::new();
        for Interface { index, name, .. } in interfaces {
            there.insert(*index);
            if !self.judges_packets() {
                failures.extend(kernel.set_guarded_buffers(*index, payload).err());
                self.leave(kernel, *index);
                continue;
            }
            let is_answered = self.judges & judges::ANSWERS != 0 && self.paired.contains(index);
            let wants_xdp = guard.attach != GuardAttach::Tc && *index != LOOPBACK_INDEX && !is_answered;
            let is_xdp = wants_xdp
                && match kernel.attach_guard(*index, name, payload | marks) {
                    Ok(()) => true,
                    Err(error) if guard.attach == GuardAttach::Xdp => {
                        failures.push(error);
                        // Nowhere, as it is asked for: nor where it was judged before.
                        failures.extend(kernel.replace_guard(*index, payload).err());
                        self.leave(kernel, *index);
                        continue;
                    }
                    Err(error) => {
                        if self.places.get(index) != Some(&GuardPlace::Tc) {
                            info!(
                                interface = name,
                                error = chain(&error),
                                "no XDP in this driver: packets are judged in TC"
                            );
                        }
                        false
                    }
                };
            let place = if is_xdp { GuardPlace::Xdp } else { GuardPlace::Tc };
            if !is_xdp {
                self.were_buffers.insert(*index);
                failures.extend(kernel.replace_guard(*index, payload | guarded::BUFFERS).err());
            }
            if self.places.insert(*index, place) != Some(place) {
                info!(interface = name, place = place.as_str(), "judging packets");
            }
        }
        for index in kernel.guarded().into_iter().filter(|index| !there.contains(index)) {
            kernel.detach_guard(index);
        }
        self.places.retain(|index, _| there.contains(index));
        self.were_buffers.retain(|index| there.contains(index));
        failures
    }

    fn leave(&mut self, kernel: &mut Kernel, index: u32) {
        if self.places.remove(&index).is_some() || kernel.guarded().contains(&index) {
            kernel.detach_guard(index);
            info!(index, "packets are judged no more");
        }
    }

    /// Where packets of an interface are judged.
    pub(in crate::accounting) fn place_of(&self, index: u32) -> Option<GuardPlace> {
        self.places.get(&index).copied()
    }
}
