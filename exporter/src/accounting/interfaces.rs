//! Which interface has which slot, and has the programs attached.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Instant, SystemTime},
};

use tidewaiter_common::{
    direction::Direction,
    frame::Framing,
    guard::InterfaceGuardCounters,
    interface::{InterfaceCounters, InterfaceSlot, MAX_INTERFACES},
    record::{INTERFACE_NAME_BYTES, InterfaceRecord, state},
};
use tracing::{info, warn};

use super::{
    guard::GuardRegistry,
    ledger::{Ledger, Record},
};
use crate::{
    config::AttachMode,
    interfaces::{Interface, Statistics, Unit, coverage, statistics},
    kernel::{Attachment, Kernel, KernelError, from_nanoseconds, nanoseconds},
    slots::GRACE,
    snapshot::{GONE, InterfaceSnapshot},
};

/// The interfaces that are accounted, by index.
#[derive(Debug)]
pub(super) struct InterfaceRegistry {
    ledger: Ledger<InterfaceRecord>,
    mode: AttachMode,
    current: BTreeMap<u32, (InterfaceSlot, Interface)>,
    /// Slots that an exporter before us counted an interface in, by its index and name, until it is asked for again.
    inherited: BTreeMap<(u32, String), InterfaceSlot>,
}

impl InterfaceRegistry {
    /// What the exporter before this one has left in the kernel; nothing, if there was none.
    pub(super) fn restore(kernel: &Kernel, mode: AttachMode, now: Instant) -> Result<Self, KernelError> {
        let ledger: Ledger<InterfaceRecord> = Ledger::restore(kernel, GRACE, now)?;
        let holders = ledger.records().filter(|(_, record)| record.state() == state::CURRENT);
        let inherited = holders.map(|(slot, record)| ((record.index, name(record)), InterfaceSlot(slot))).collect();
        Ok(Self { ledger, mode, current: BTreeMap::new(), inherited })
    }

    /// The interfaces that are accounted.
    pub(super) fn current(&self) -> impl ExactSizeIterator<Item = &Interface> {
        self.current.values().map(|(_, interface)| interface)
    }

    /// How many slots are taken, those of interfaces that have just gone included.
    pub(super) fn slots_in_use(&self) -> usize {
        self.ledger.in_use()
    }

    /// Makes `wanted` the interfaces that are accounted; answers with what could not be attached to.
    ///
    /// An interface that was renamed ends under its old name and begins under the new one, with the programs attached all
    /// the while. One whose programs are no longer attached (another may have been made with its index and its name) ends, and
    /// begins anew.
    pub(super) fn apply(&mut self, kernel: &mut Kernel, wanted: &[Interface], now: Instant) -> Vec<KernelError> {
        let mut failures = Vec::new();
        let is_there = |index: u32| wanted.iter().any(|interface| interface.index == index);
        let mut is_gone = |index: &u32, (_, interface): &mut (InterfaceSlot, Interface)| {
            !wanted.contains(interface) || !kernel.is_attached(*index, &interface.name)
        };
        let gone: Vec<_> = self.current.extract_if(.., &mut is_gone).collect();
        for (index, (slot, Interface { name, .. })) in gone {
            let is_renamed = is_there(index) && !wanted.iter().any(|one| one.index == index && one.name == name);
            failures.extend(self.retire(kernel, slot, (index, &name), is_renamed, now).err());
        }
        let is_wanted =
            |(index, name): &(u32, String)| wanted.iter().any(|one| one.index == *index && one.name == *name);
        let gone: Vec<_> = self.inherited.extract_if(.., |interface, _| !is_wanted(interface)).collect();
        for ((index, name), slot) in gone {
            failures.extend(self.retire(kernel, slot, (index, &name), is_there(index), now).err());
        }
        failures.extend(self.ledger.recycle(kernel, now).err());
        for interface in wanted {
            if !self.current.contains_key(&interface.index) {
                failures.extend(self.add(kernel, interface, now).err());
            }
        }
        for index in kernel.left_attached() {
            if !is_there(index) {
                kernel.detach(index);
            }
        }
        failures
    }

    /// Counts for an interface without anything attached to it.
    pub(super) fn pretend(&mut self, kernel: &mut Kernel, interface: &Interface) -> Result<(), KernelError> {
        let framing = interface.framing().unwrap_or(Framing::Ethernet);
        let slot = self.take_slot(kernel, interface, framing)?;
        kernel.set_interface(interface.index, slot, framing)?;
        self.current.insert(interface.index, (slot, interface.clone()));
        Ok(())
    }

    /// Takes note of what the devices count from now on, by index of the interface.
    pub(super) fn note_units(
        &mut self,
        kernel: &mut Kernel,
        units: &HashMap<u32, [Option<Unit>; Direction::COUNT]>,
    ) -> Result<(), KernelError> {
        let current: Vec<_> = self.current.iter().map(|(index, (slot, _))| (*index, *slot)).collect();
        for (index, slot) in current {
            let Some(now) = units.get(&index) else { continue };
            let before = self.ledger.record(slot.0).units;
            let changed = Direction::ALL.map(Direction::index).map(|at| recorded::change(before[at], now[at]));
            if changed != before {
                self.ledger.change(kernel, slot.0, |record| record.units = changed)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, kernel: &mut Kernel, interface: &Interface, now: Instant) -> Result<(), KernelError> {
        let Interface { index, name, .. } = interface;
        match self.inherited.remove(&(*index, name.clone())) {
            Some(slot) => self.take_over(kernel, interface, slot, now),
            None => self.begin(kernel, interface, now),
        }
    }

    /// Goes on accounting an interface that an exporter before us has accounted in `slot`.
    fn take_over(
        &mut self,
        kernel: &mut Kernel,
        interface: &Interface,
        slot: InterfaceSlot,
        now: Instant,
    ) -> Result<(), KernelError> {
        let Interface { index, name, .. } = interface;
        match kernel.attach(*index, name, self.mode) {
            Ok(Attachment { hook, took_over: true }) => {
                info!(interface = name, index, hook = hook.as_str(), "going on with an interface");
                self.current.insert(*index, (slot, interface.clone()));
                // It is so already, unless the one before was killed on his way there.
                kernel.set_interface(*index, slot, interface.framing().unwrap_or(Framing::Ethernet))
            }
            // The programs of before are gone, and so is the device that they were attached to: this is another.
            Ok(Attachment { took_over: false, .. }) => {
                self.retire(kernel, slot, (*index, name), true, now)?;
                self.begin(kernel, interface, now)
            }
            Err(error) => {
                // What is left of before goes on counting, and this is tried again.
                self.inherited.insert((*index, name.clone()), slot);
                Err(error)
            }
        }
    }

    /// Begins to account an interface.
    fn begin(&mut self, kernel: &mut Kernel, interface: &Interface, now: Instant) -> Result<(), KernelError> {
        let Interface { index, name, .. } = interface;
        let framing = interface.framing().unwrap_or(Framing::Ethernet);
        let slot = self.take_slot(kernel, interface, framing)?;
        let is_attached = kernel.is_attached(*index, name);
        let attached = kernel.set_interface(*index, slot, framing).and_then(|()| {
            // Whoever has it from before, under another name, is attached already.
            if is_attached { Ok(None) } else { kernel.attach(*index, name, self.mode).map(Some) }
        });
        match attached {
            Ok(attachment) => {
                let hook = attachment.map_or("as before", |attachment| attachment.hook.as_str());
                info!(interface = name, index, hook, "accounting an interface");
                self.current.insert(*index, (slot, interface.clone()));
                Ok(())
            }
            Err(error) => {
                let given_up = kernel.clear_interface(*index).and(self.ledger.retire(kernel, slot.0, now));
                if let Err(error) = given_up {
                    warn!(interface = name, %error, "cannot take an interface out of the table");
                }
                Err(error)
            }
        }
    }

    /// A slot for a new interface, with its name on it.
    fn take_slot(
        &mut self,
        kernel: &mut Kernel,
        interface: &Interface,
        framing: Framing,
    ) -> Result<InterfaceSlot, KernelError> {
        let Interface { index, name, .. } = interface;
        let packets = packets(name);
        let slot = self.ledger.take(kernel, |record| {
            record.name = [0; INTERFACE_NAME_BYTES];
            // The kernel gives no longer names.
            record.name.iter_mut().zip(name.bytes()).for_each(|(place, byte)| *place = byte);
            record.index = *index;
            record.framing = framing as u16;
            record.created = nanoseconds(SystemTime::now());
            record.kernel_base = packets;
            record.units = [recorded::NOTHING; Direction::COUNT];
        })?;
        slot.map(InterfaceSlot).ok_or_else(|| KernelError::Full {
            what: format!("the interface {name}"),
            limit: usize::from(MAX_INTERFACES) - 1,
        })
    }

    /// Stops accounting an interface in `slot`; its counters stay until its last packet is counted. If it `goes_on`, in another
    /// slot, it stays attached.
    fn retire(
        &mut self,
        kernel: &mut Kernel,
        slot: InterfaceSlot,
        (index, name): (u32, &str),
        goes_on: bool,
        now: Instant,
    ) -> Result<(), KernelError> {
        let cleared = if goes_on {
            Ok(())
        } else {
            kernel.detach(index);
            kernel.clear_interface(index)
        };
        info!(interface = name, index, "no longer accounting an interface: its totals move to {GONE:?}");
        cleared.and(self.ledger.retire(kernel, slot.0, now))
    }

    /// What was counted for each interface; `statistics` is what the kernel has.
    pub(super) fn snapshot(
        &self,
        kernel: &Kernel,
        guard: &GuardRegistry,
        statistics: Option<&HashMap<String, Statistics>>,
    ) -> Result<Vec<InterfaceSnapshot>, KernelError> {
        let mut interfaces = Vec::new();
        for (slot, interface) in self.current.values() {
            let record = self.ledger.record(slot.0);
            let counters = kernel.interface_counters(*slot)? - record.base;
            let theirs = statistics.and_then(|statistics| statistics.get(&interface.name)).map(|statistics| {
                Direction::ALL
                    .map(Direction::index)
                    .map(|direction| statistics.packets[direction].saturating_sub(record.kernel_base[direction]))
            });
            let judged = kernel.interface_guard_counters(*slot)? - record.guard_base;
            let is_judged = guard.place_of(interface.index).is_some() || judged != InterfaceGuardCounters::default();
            interfaces.push(InterfaceSnapshot {
                name: interface.name.clone(),
                counters,
                guard: is_judged.then_some(judged),
                created: from_nanoseconds(record.created),
                kernel: theirs,
                coverage: Direction::ALL.map(|direction| {
                    let at = direction.index();
                    let seen = guard.seen(interface.index, direction, counters.totals[at], &judged)?;
                    coverage(recorded::to_unit(record.units[at]), seen, theirs?[at])
                }),
            });
        }
        let counters = self.gone(kernel)?;
        let judged = self.gone_guard(kernel)?;
        if counters != InterfaceCounters::default() || judged != InterfaceGuardCounters::default() {
            let (name, created) = (GONE.to_owned(), kernel.created());
            let coverage = [None; Direction::COUNT];
            let guard = (judged != InterfaceGuardCounters::default()).then_some(judged);
            interfaces.push(InterfaceSnapshot { name, counters, guard, created, kernel: None, coverage });
        }
        Ok(interfaces)
    }

    /// What was counted for interfaces that are no more.
    fn gone(&self, kernel: &Kernel) -> Result<InterfaceCounters, KernelError> {
        let current: HashSet<_> = self.current.values().map(|(slot, _)| *slot).collect();
        let mut gone = kernel.interface_counters(InterfaceSlot::GONE)?;
        for (slot, record) in self.ledger.records().map(|(slot, record)| (InterfaceSlot(slot), record)) {
            gone += &record.gone;
            if !current.contains(&slot) && record.state != state::FREE {
                gone += &(kernel.interface_counters(slot)? - record.base);
            }
        }
        Ok(gone)
    }

    /// What the guard has counted for interfaces that are no more.
    fn gone_guard(&self, kernel: &Kernel) -> Result<InterfaceGuardCounters, KernelError> {
        let current: HashSet<_> = self.current.values().map(|(slot, _)| *slot).collect();
        let mut gone = kernel.interface_guard_counters(InterfaceSlot::GONE)?;
        for (slot, record) in self.ledger.records().map(|(slot, record)| (InterfaceSlot(slot), record)) {
            gone += &record.guard_gone;
            if !current.contains(&slot) && record.state != state::FREE {
                gone += &(kernel.interface_guard_counters(slot)? - record.guard_base);
            }
        }
        Ok(gone)
    }
}

impl Record for InterfaceRecord {
    const CAPACITY: u16 = MAX_INTERFACES;

    fn read(kernel: &Kernel, slot: u16) -> Result<Self, KernelError> {
        kernel.interface_record(InterfaceSlot(slot))
    }

    fn write(&self, kernel: &mut Kernel, slot: u16) -> Result<(), KernelError> {
        kernel.set_interface_record(InterfaceSlot(slot), self)
    }

    fn state(&self) -> u8 {
        self.state
    }

    fn set_state(&mut self, state: u8) {
        self.state = state;
    }

    fn keep_counters(&mut self, kernel: &Kernel, slot: u16) -> Result<(), KernelError> {
        let counters = kernel.interface_counters(InterfaceSlot(slot))?;
        self.gone += &(counters - self.base);
        self.base = counters;
        let judged = kernel.interface_guard_counters(InterfaceSlot(slot))?;
        self.guard_gone += &(judged - self.guard_base);
        self.guard_base = judged;
        Ok(())
    }
}

/// The kernel's own count of packets on the interface called `name`. Zeros if it cannot be read: then there is no coverage,
/// and each snapshot says why.
fn packets(name: &str) -> [u64; Direction::COUNT] {
    statistics().ok().and_then(|mut all| all.remove(name)).unwrap_or_default().packets
}

/// How a record says in what a device counts.
mod recorded {
    use crate::interfaces::Unit;

    /// Nothing was recorded yet.
    pub(super) const NOTHING: u32 = 0;
    /// It is not known, or it has changed, so that the device's total is of both.
    const UNKNOWN: u32 = 3;

    pub(super) const fn from_unit(unit: Option<Unit>) -> u32 {
        match unit {
            Some(Unit::Segments) => 1,
            Some(Unit::Buffers) => 2,
            None => UNKNOWN,
        }
    }

    pub(super) const fn to_unit(number: u32) -> Option<Unit> {
        match number {
            1 => Some(Unit::Segments),
            2 => Some(Unit::Buffers),
            _ => None,
        }
    }

    /// What is recorded of a device that counted in `before` until now, and from now on in `unit`.
    pub(super) const fn change(before: u32, unit: Option<Unit>) -> u32 {
        let now = from_unit(unit);
        if before == NOTHING || before == now { now } else { UNKNOWN }
    }
}

fn name(record: &InterfaceRecord) -> String {
    let bytes = record.name.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}
