//! Which API has which slot, and which ports lead to it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use tidewaiter_common::{
    api::{AddressKey, ApiSlot, MAX_APIS, PortEntry, port_index},
    counters::Counters,
    direction::Direction,
    packet::map_ipv4,
};
use tracing::{error, info};

use crate::{
    api::{Api, Role, reserved},
    kernel::{Kernel, KernelError},
    slots::Slots,
    snapshot::ApiSnapshot,
};

/// An API keeps its counters as long as it keeps its name and role.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Identity {
    name: String,
    role: Role,
}

impl From<&Api> for Identity {
    fn from(api: &Api) -> Self {
        Self { name: api.name.clone(), role: api.role }
    }
}

/// The APIs that are counted, and the kernel's tables as they were last written.
#[derive(Debug)]
pub(super) struct ApiRegistry {
    slots: Slots,
    current: BTreeMap<Identity, (ApiSlot, Arc<Api>)>,
    /// The role that each retired slot was counted in.
    retired_roles: HashMap<ApiSlot, Role>,
    /// What recycled slots had counted.
    removed: BTreeMap<Role, [Counters; Direction::COUNT]>,
    ports: HashMap<u32, PortEntry>,
    addresses: HashMap<AddressKey, ApiSlot>,
}

impl ApiRegistry {
    pub(super) fn new() -> Self {
        Self {
            slots: Slots::new(MAX_APIS),
            current: BTreeMap::new(),
            retired_roles: HashMap::new(),
            removed: BTreeMap::new(),
            ports: HashMap::new(),
            addresses: HashMap::new(),
        }
    }

    /// How many APIs there are.
    pub(super) fn len(&self) -> usize {
        self.current.len()
    }

    /// How many slots are taken, those of APIs that have just gone included.
    pub(super) fn slots_in_use(&self) -> usize {
        self.slots.in_use()
    }

    /// Makes `wanted` the APIs that are counted: those that were counted before go on from where they are.
    pub(super) fn apply(&mut self, kernel: &mut Kernel, wanted: &[Api], now: Instant) -> Result<(), KernelError> {
        self.recycle(kernel, now)?;

        let identities: HashSet<_> = wanted.iter().map(Identity::from).collect();
        for api in wanted {
            let identity = Identity::from(api);
            let slot = if let Some((slot, _)) = self.current.get(&identity) {
                *slot
            } else if let Some(slot) = self.slots.take() {
                info!(api = api.name, role = api.role.as_str(), ports = api.ports_label(), "counting an API");
                ApiSlot(slot)
            } else {
                error!(api = api.name, "no room for one more API: its traffic stays unmapped");
                continue;
            };
            self.current.insert(identity, (slot, Arc::new(api.clone())));
        }
        // Until the tables are written, all of them, what is to go is still there: a failure loses no count.
        self.write_tables(kernel, &identities)?;

        let gone: Vec<_> = self.current.extract_if(.., |identity, _| !identities.contains(identity)).collect();
        for (Identity { name, role }, (slot, _)) in gone {
            info!(api = name, role = role.as_str(), "an API is no more: its totals move to \"removed\"");
            self.slots.retire(slot.0, now);
            self.retired_roles.insert(slot, role);
        }
        Ok(())
    }

    /// Keeps what retired slots have counted, and frees them.
    fn recycle(&mut self, kernel: &mut Kernel, now: Instant) -> Result<(), KernelError> {
        while let Some(slot) = self.slots.recyclable(now).map(ApiSlot) {
            let counters = kernel.api_counters(slot)?;
            kernel.reset_api(slot)?;
            if let Some(role) = self.retired_roles.remove(&slot) {
                add(self.removed.entry(role).or_default(), counters);
            }
            self.slots.recycle();
        }
        Ok(())
    }

    /// Writes what differs between the kernel's tables and what the APIs with `identities` would have them say.
    ///
    /// What is new or changed is written before what is old is cleared, so a port that stays mapped is never unmapped.
    fn write_tables(&mut self, kernel: &mut Kernel, identities: &HashSet<Identity>) -> Result<(), KernelError> {
        let (ports, addresses) = self.tables(identities);
        for (key, &slot) in &addresses {
            if self.addresses.get(key) != Some(&slot) {
                kernel.set_address(key, Some(slot))?;
                self.addresses.insert(*key, slot);
            }
        }
        for (&index, &entry) in &ports {
            if self.ports.get(&index) != Some(&entry) {
                kernel.set_port(index, entry)?;
                self.ports.insert(index, entry);
            }
        }
        let old: Vec<_> = self.ports.keys().filter(|index| !ports.contains_key(index)).copied().collect();
        for index in old {
            kernel.set_port(index, PortEntry::UNMAPPED)?;
            self.ports.remove(&index);
        }
        let old: Vec<_> = self.addresses.keys().filter(|key| !addresses.contains_key(key)).copied().collect();
        for key in old {
            kernel.set_address(&key, None)?;
            self.addresses.remove(&key);
        }
        Ok(())
    }

    /// The kernel's tables as the APIs with `identities` would have them.
    fn tables(&self, identities: &HashSet<Identity>) -> (HashMap<u32, PortEntry>, HashMap<AddressKey, ApiSlot>) {
        let mut ports = HashMap::new();
        let mut addresses = HashMap::new();
        let current = self.current.iter().filter(|(identity, _)| identities.contains(identity));
        for (slot, api) in current.map(|(_, api)| api) {
            for (transport, port) in api.claims() {
                let entry = ports.entry(port_index(transport, port)).or_insert(PortEntry::UNMAPPED);
                if api.addresses.is_empty() {
                    entry.set_any_address(api.role, *slot);
                    continue;
                }
                entry.set_by_address(api.role);
                addresses.extend(api.addresses.iter().map(|&address| {
                    let address = match address.to_canonical() {
                        IpAddr::V4(address) => map_ipv4(address.octets()),
                        IpAddr::V6(address) => address.octets(),
                    };
                    (AddressKey { address, port, transport: transport as u8, role: api.role as u8 }, *slot)
                }));
            }
        }
        (ports, addresses)
    }

    /// What was counted for each API.
    pub(super) fn snapshot(&self, kernel: &Kernel) -> Result<Vec<ApiSnapshot>, KernelError> {
        let mut apis = vec![ApiSnapshot {
            name: reserved::UNMAPPED.to_owned(),
            role: None,
            api: None,
            counters: kernel.api_counters(ApiSlot::UNMAPPED)?,
        }];
        for (slot, api) in self.current.values() {
            apis.push(ApiSnapshot {
                name: api.name.clone(),
                role: Some(api.role),
                api: Some(Arc::clone(api)),
                counters: kernel.api_counters(*slot)?,
            });
        }
        let mut removed = self.removed.clone();
        for (slot, &role) in &self.retired_roles {
            add(removed.entry(role).or_default(), kernel.api_counters(*slot)?);
        }
        apis.extend(removed.into_iter().map(|(role, counters)| ApiSnapshot {
            name: reserved::REMOVED.to_owned(),
            role: Some(role),
            api: None,
            counters,
        }));
        Ok(apis)
    }
}

fn add(total: &mut [Counters; Direction::COUNT], counters: [Counters; Direction::COUNT]) {
    total.iter_mut().zip(counters).for_each(|(total, counters)| *total += counters);
}
