//! Which interface has which slot, and has the programs attached.

use std::{collections::BTreeMap, time::Instant};

use tidewaiter_common::interface::{InterfaceCounters, InterfaceSlot, MAX_INTERFACES};
use tracing::{info, warn};

use crate::{
    config::AttachMode,
    interfaces::Interface,
    kernel::{Kernel, KernelError},
    slots::Slots,
    snapshot::{GONE, InterfaceSnapshot},
};

/// The interfaces that are accounted, by index.
#[derive(Debug)]
pub(super) struct InterfaceRegistry {
    slots: Slots,
    mode: AttachMode,
    current: BTreeMap<u32, (InterfaceSlot, Interface)>,
    /// What recycled slots had counted.
    gone: InterfaceCounters,
}

impl InterfaceRegistry {
    pub(super) fn new(mode: AttachMode) -> Self {
        Self { slots: Slots::new(MAX_INTERFACES), mode, current: BTreeMap::new(), gone: InterfaceCounters::default() }
    }

    /// The interfaces that are accounted.
    pub(super) fn current(&self) -> impl ExactSizeIterator<Item = &Interface> {
        self.current.values().map(|(_, interface)| interface)
    }

    /// How many slots are taken, those of interfaces that have just gone included.
    pub(super) fn slots_in_use(&self) -> usize {
        self.slots.in_use()
    }

    /// Makes `wanted` the interfaces that are accounted; answers with what could not be attached to.
    ///
    /// An interface that was renamed ends under its old name and begins under the new one.
    pub(super) fn apply(&mut self, kernel: &mut Kernel, wanted: &[Interface], now: Instant) -> Vec<KernelError> {
        let mut failures = Vec::new();
        let gone: Vec<_> = self.current.extract_if(.., |_, (_, interface)| !wanted.contains(interface)).collect();
        for (index, (slot, interface)) in gone {
            kernel.detach(index);
            failures.extend(kernel.clear_interface(index).err());
            self.slots.retire(slot.0, now);
            info!(interface = interface.name, index, "no longer accounting an interface: its totals move to {GONE:?}");
        }
        failures.extend(self.recycle(kernel, now).err());
        for interface in wanted {
            if !self.current.contains_key(&interface.index) {
                failures.extend(self.add(kernel, interface, now).err());
            }
        }
        failures
    }

    fn add(&mut self, kernel: &mut Kernel, interface: &Interface, now: Instant) -> Result<(), KernelError> {
        let Interface { index, name, .. } = interface;
        let slot = self.slots.take().map(InterfaceSlot).ok_or_else(|| KernelError::Full {
            what: format!("the interface {name}"),
            limit: usize::from(MAX_INTERFACES) - 1,
        })?;
        let attached = kernel.set_interface(*index, slot).and_then(|()| kernel.attach(*index, name, self.mode));
        match attached {
            Ok(hook) => {
                info!(interface = name, index, hook = hook.as_str(), "accounting an interface");
                self.current.insert(*index, (slot, interface.clone()));
                Ok(())
            }
            Err(error) => {
                self.slots.retire(slot.0, now);
                if let Err(error) = kernel.clear_interface(*index) {
                    warn!(interface = name, %error, "cannot take an interface out of the table");
                }
                Err(error)
            }
        }
    }

    /// Keeps what retired slots have counted, and frees them.
    fn recycle(&mut self, kernel: &mut Kernel, now: Instant) -> Result<(), KernelError> {
        while let Some(slot) = self.slots.recyclable(now).map(InterfaceSlot) {
            let counters = kernel.interface_counters(slot)?;
            kernel.reset_interface(slot)?;
            self.gone += &counters;
            self.slots.recycle();
        }
        Ok(())
    }

    /// What was counted for each interface.
    pub(super) fn snapshot(&self, kernel: &Kernel) -> Result<Vec<InterfaceSnapshot>, KernelError> {
        let mut interfaces = Vec::new();
        for (slot, interface) in self.current.values() {
            let counters = kernel.interface_counters(*slot)?;
            interfaces.push(InterfaceSnapshot {
                name: interface.name.clone(),
                counters,
                kernel: None,
                coverage: [None; 2],
            });
        }
        let mut gone = self.gone;
        for slot in self.slots.retired().map(InterfaceSlot).chain([InterfaceSlot::GONE]) {
            gone += &kernel.interface_counters(slot)?;
        }
        if gone != InterfaceCounters::default() {
            interfaces.push(InterfaceSnapshot {
                name: GONE.to_owned(),
                counters: gone,
                kernel: None,
                coverage: [None; 2],
            });
        }
        Ok(interfaces)
    }
}
