//! Which API has which slot, and which ports lead to it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tidewaiter_common::{
    api::{API_NAME_BYTES, AddressKey, ApiCounters, ApiSlot, MAX_APIS, PortEntry, port_at, port_index},
    record::{ApiRecord, state},
    transmission::ApiTransmission,
};
use tracing::{error, info};

use super::{
    anomalies,
    ledger::{Ledger, Record},
};
use crate::{
    anomaly::thresholds::Thresholds,
    api::{Api, PortRange, Role, Transport, reserved},
    flow::ApiNames,
    kernel::{Drops, FlowCapacity, Kernel, KernelError, OTHER_REASON, from_nanoseconds, nanoseconds},
    slots::GRACE,
    snapshot::{ApiDetails, ApiSnapshot, TransmissionSnapshot},
    tracker::FlowTracker,
};

/// How long it takes until each flow was looked at: one walk over the table, and some more.
const WALK: Duration = Duration::from_secs(32);

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

/// A slot, and what is found by the API that has it; nothing is known of one that an exporter before us counted until it is
/// asked for again.
type Holder = (ApiSlot, Option<Arc<Api>>);

/// The APIs that are counted, and the kernel's tables as they were last written.
#[derive(Debug)]
pub(super) struct ApiRegistry {
    ledger: Ledger<ApiRecord>,
    current: BTreeMap<Identity, Holder>,
    ports: HashMap<u32, PortEntry>,
    addresses: HashMap<AddressKey, ApiSlot>,
}

impl ApiRegistry {
    /// What the exporter before this one has left in the kernel; nothing, if there was none.
    pub(super) fn restore(kernel: &mut Kernel, idle_timeout: Duration, now: Instant) -> Result<Self, KernelError> {
        // Flows know whose they are by slot, and may be quiet for long before they say or end something.
        let has_flows = kernel.flow_capacity() != FlowCapacity::NONE;
        let grace = if has_flows { idle_timeout.saturating_add(WALK) } else { GRACE };
        let mut ledger: Ledger<ApiRecord> = Ledger::restore(kernel, grace, now)?;
        if kernel.has_lost_flows() {
            let slots: Vec<_> = ledger.records().map(|(slot, _)| slot).collect();
            for slot in slots {
                let active = kernel.api_details(ApiSlot(slot))?.active();
                ledger.change(kernel, slot, |record| record.adrift = u32::try_from(active).unwrap_or(u32::MAX))?;
            }
        }
        let holders = ledger.records().filter(|(_, record)| record.state() == state::CURRENT);
        let current = holders.filter_map(|(slot, record)| Some((identity(record)?, (ApiSlot(slot), None)))).collect();
        let ports = kernel.ports()?.into_iter().collect();
        let addresses = kernel.addresses()?.into_iter().collect();
        Ok(Self { ledger, current, ports, addresses })
    }

    /// How many APIs there are.
    pub(super) fn len(&self) -> usize {
        self.current.len()
    }

    /// The APIs that there are, as far as more than their ports is known.
    fn known(&self) -> Vec<Api> {
        self.current.values().filter_map(|(_, api)| api.as_deref().cloned()).collect()
    }

    /// All APIs that there are: of those that were not asked for again yet, what the kernel's tables say.
    pub(super) fn all(&self) -> Vec<Api> {
        let mut all = self.known();
        all.extend(self.inherited());
        all
    }

    /// How many slots are taken, those of APIs that have just gone included.
    pub(super) fn slots_in_use(&self) -> usize {
        self.ledger.in_use()
    }

    /// The APIs of which nothing is known but what the kernel's tables say.
    pub(super) fn inherited(&self) -> Vec<Api> {
        let unknown = self.current.iter().filter(|(_, (_, api))| api.is_none());
        let apis = unknown.map(|(Identity { name, role }, (slot, _))| {
            let by_port = self.ports.iter().filter(|(_, entry)| entry.any_address(*role) == *slot);
            let claims = by_port.filter_map(|(index, _)| port_at(*index));
            let by_address: Vec<_> = self.addresses.iter().filter(|(_, claimed)| *claimed == slot).collect();
            let of_addresses = by_address.iter().filter_map(|(key, _)| {
                let transport = Transport::ALL.into_iter().find(|transport| *transport as u8 == key.transport)?;
                Some((transport, key.port))
            });
            let claims: BTreeSet<_> = claims.chain(of_addresses).collect();
            let transports: BTreeSet<_> = claims.iter().map(|(transport, _)| *transport).collect();
            let ports: BTreeSet<_> = claims.iter().map(|(_, port)| *port).collect();
            let addresses: BTreeSet<IpAddr> = by_address.iter().map(|(key, _)| key.address.into()).collect();
            Api {
                name: name.clone(),
                role: *role,
                transports: transports.into_iter().collect(),
                ports: ports.into_iter().map(PortRange::from).collect(),
                addresses: addresses.into_iter().collect(),
                expect: Vec::new(),
            }
        });
        // One that has lost its ports to others has none to claim.
        apis.filter(|api| !api.ports.is_empty()).collect()
    }

    /// Names and roles of the APIs, by slot.
    pub(super) fn names(&self) -> ApiNames {
        self.current.iter().map(|(Identity { name, role }, (slot, _))| (*slot, (name.as_str().into(), *role))).collect()
    }

    /// Name and role of the API that has `slot`.
    pub(super) fn holder(&self, slot: ApiSlot) -> Option<(Arc<str>, Role)> {
        let record = self.ledger.record(slot.0);
        (record.state() == state::CURRENT).then(|| identity(&record).map(|one| (one.name.into(), one.role)))?
    }

    /// The slots that APIs have.
    pub(super) fn slots(&self) -> impl Iterator<Item = ApiSlot> {
        self.current.values().map(|(slot, _)| *slot)
    }

    /// Packets and bytes of the API that has `slot`.
    pub(super) fn counters(&self, kernel: &Kernel, slot: ApiSlot) -> Result<ApiCounters, KernelError> {
        Ok(kernel.api_counters(slot)? - self.ledger.record(slot.0).base)
    }

    /// Makes `wanted` the APIs that are counted: those that were counted before go on from where they are.
    pub(super) fn apply(&mut self, kernel: &mut Kernel, wanted: &[Api], now: Instant) -> Result<(), KernelError> {
        self.ledger.recycle(kernel, now)?;

        let identities: HashSet<_> = wanted.iter().map(Identity::from).collect();
        for api in wanted {
            let identity = Identity::from(api);
            let slot = if let Some((slot, _)) = self.current.get(&identity) {
                *slot
            } else if let Some(slot) = self.take_slot(kernel, &identity)? {
                info!(api = api.name, role = api.role.as_str(), ports = api.ports_label(), "counting an API");
                slot
            } else {
                error!(api = api.name, "no room for one more API: its traffic stays unmapped");
                continue;
            };
            kernel.set_expectation(slot, api.expect_mask())?;
            self.current.insert(identity, (slot, Some(Arc::new(api.clone()))));
        }
        // Until the tables are written, all of them, what is to go is still there: a failure loses no count.
        self.write_tables(kernel, &identities)?;

        let gone: Vec<_> = self.current.extract_if(.., |identity, _| !identities.contains(identity)).collect();
        let mut written = Ok(());
        for (Identity { name, role }, (slot, _)) in gone {
            info!(api = name, role = role.as_str(), "an API is no more: its totals move to \"removed\"");
            written = written.and(self.ledger.retire(kernel, slot.0, now));
        }
        written
    }

    /// Sees that each of `wanted` has a slot, or can have one.
    ///
    /// # Errors
    /// [`KernelError::Full`], or what the kernel says.
    pub(super) fn require_room(
        &mut self,
        kernel: &mut Kernel,
        wanted: &[Api],
        now: Instant,
    ) -> Result<(), KernelError> {
        self.ledger.recycle(kernel, now)?;
        let limit = usize::from(MAX_APIS) - 1;
        let new = wanted.iter().filter(|api| !self.current.contains_key(&Identity::from(*api))).count();
        let free = limit.saturating_sub(self.ledger.in_use());
        if new <= free {
            return Ok(());
        }
        let what = format!("{new} new APIs beside {} that are there or have just gone", self.ledger.in_use());
        Err(KernelError::Full { what, limit })
    }

    /// A slot for a new API, with its name on it; `None` if all are taken.
    fn take_slot(&mut self, kernel: &mut Kernel, identity: &Identity) -> Result<Option<ApiSlot>, KernelError> {
        let Identity { name, role } = identity;
        let bytes = name.as_bytes().get(..name.floor_char_boundary(API_NAME_BYTES)).unwrap_or_default();
        let slot = self.ledger.take(kernel, |record| {
            record.name = [0; API_NAME_BYTES];
            record.name[..bytes.len()].copy_from_slice(bytes);
            record.name_length = bytes.len() as u16;
            record.role = *role as u8;
            record.created = nanoseconds(SystemTime::now());
            record.adrift = 0;
        })?;
        Ok(slot.map(ApiSlot))
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
        for (slot, api) in current.filter_map(|(_, (slot, api))| Some((slot, api.as_ref()?))) {
            for (transport, port) in api.claims() {
                let entry = ports.entry(port_index(transport, port)).or_insert(PortEntry::UNMAPPED);
                if api.addresses.is_empty() {
                    entry.set_any_address(api.role, *slot);
                    continue;
                }
                entry.set_by_address(api.role);
                addresses.extend(api.addresses.iter().map(|&address| {
                    (
                        AddressKey {
                            address: address.to_canonical().into(),
                            port,
                            transport: transport as u8,
                            role: api.role as u8,
                        },
                        *slot,
                    )
                }));
            }
        }
        (ports, addresses)
    }

    /// What was counted for each API, and by `tracker` for its clients.
    pub(super) fn snapshot(
        &self,
        kernel: &Kernel,
        tracker: Option<&FlowTracker>,
        thresholds: &Thresholds,
    ) -> Result<Vec<ApiSnapshot>, KernelError> {
        let unmapped = reserved::UNMAPPED.to_owned();
        let counters = kernel.api_counters(ApiSlot::UNMAPPED)?;
        let drops = kernel.drops()?;
        let of_unmapped = details(kernel, ApiSlot::UNMAPPED)?;
        let mut apis = vec![ApiSnapshot {
            name: unmapped,
            role: None,
            api: None,
            counters,
            anomalies: anomalies::counts(kernel, ApiSlot::UNMAPPED, None, None, of_unmapped.as_deref(), thresholds)?,
            details: of_unmapped,
            clients: None,
            transmission: transmission(kernel, ApiSlot::UNMAPPED, None)?,
            created: kernel.created(),
        }];
        for (Identity { name, role }, (slot, api)) in &self.current {
            let created = self.ledger.record(slot.0).created;
            let counters = self.counters(kernel, *slot)?;
            let details = self.details(kernel, *slot)?;
            let (role_too, api_too) = (Some(*role), api.as_deref());
            apis.push(ApiSnapshot {
                anomalies: anomalies::counts(kernel, *slot, role_too, api_too, details.as_deref(), thresholds)?,
                name: name.clone(),
                role: Some(*role),
                api: api.clone(),
                counters,
                details,
                clients: tracker.and_then(|tracker| tracker.clients(*slot, untracked_bytes(&counters))),
                transmission: transmission(kernel, *slot, drops.as_ref())?,
                created: from_nanoseconds(created),
            });
        }
        apis.extend(self.removed(kernel)?.into_iter().map(|(role, counters)| ApiSnapshot {
            name: reserved::REMOVED.to_owned(),
            role: Some(role),
            api: None,
            counters,
            details: None,
            anomalies: Vec::new(),
            clients: None,
            transmission: TransmissionSnapshot::default(),
            created: kernel.created(),
        }));
        Ok(apis)
    }

    /// What was counted beside packets and bytes for the API that has `slot`.
    fn details(&self, kernel: &Kernel, slot: ApiSlot) -> Result<Option<Box<ApiDetails>>, KernelError> {
        let mut details = details(kernel, slot)?;
        if let Some(details) = &mut details {
            details.left += u64::from(self.ledger.record(slot.0).adrift);
        }
        Ok(details)
    }

    /// What was counted for APIs that are no more, by role; nothing for a role that never lost any.
    fn removed(&self, kernel: &Kernel) -> Result<BTreeMap<Role, ApiCounters>, KernelError> {
        let current: HashSet<_> = self.current.values().map(|(slot, _)| *slot).collect();
        let mut removed = BTreeMap::new();
        for (slot, record) in self.ledger.records().map(|(slot, record)| (ApiSlot(slot), record)) {
            for (role, former) in Role::ALL.into_iter().zip(&record.removed) {
                if *former != ApiCounters::default() {
                    *removed.entry(role).or_default() += former;
                }
            }
            if !current.contains(&slot)
                && record.state != state::FREE
                && let Some(role) = role(record)
            {
                *removed.entry(role).or_default() += &(kernel.api_counters(slot)? - record.base);
            }
        }
        Ok(removed)
    }
}

impl Record for ApiRecord {
    const CAPACITY: u16 = MAX_APIS;

    fn read(kernel: &Kernel, slot: u16) -> Result<Self, KernelError> {
        kernel.api_record(ApiSlot(slot))
    }

    fn write(&self, kernel: &mut Kernel, slot: u16) -> Result<(), KernelError> {
        kernel.set_api_record(ApiSlot(slot), self)
    }

    fn state(&self) -> u8 {
        match self.state {
            // Nobody can ask for it again.
            state::CURRENT if identity(self).is_none() => state::RETIRED,
            state => state,
        }
    }

    fn set_state(&mut self, state: u8) {
        self.state = state;
    }

    fn prepare(kernel: &mut Kernel, slot: u16) -> Result<(), KernelError> {
        kernel.clear_api_details(ApiSlot(slot))?;
        kernel.clear_api_transmission(ApiSlot(slot))?;
        kernel.clear_api_anomalies(ApiSlot(slot))
    }

    fn keep_counters(&mut self, kernel: &Kernel, slot: u16) -> Result<(), KernelError> {
        let counters = kernel.api_counters(ApiSlot(slot))?;
        if let Some(removed) = self.removed.get_mut(usize::from(self.role)) {
            *removed += &(counters - self.base);
        }
        self.base = counters;
        Ok(())
    }
}

/// What was counted in `slot` beside packets and bytes; nothing while no flows are kept.
fn details(kernel: &Kernel, slot: ApiSlot) -> Result<Option<Box<ApiDetails>>, KernelError> {
    if kernel.flow_capacity() == FlowCapacity::NONE {
        return Ok(None);
    }
    kernel.api_details(slot).map(|details| Some(Box::new(details)))
}

/// Bytes of the packets that are part of no flow.
pub(super) const fn untracked_bytes(counters: &ApiCounters) -> u64 {
    counters.untracked.bytes
}

/// How the transmission of `slot` went, as far as that is counted; `drops` are those of all.
fn transmission(kernel: &Kernel, slot: ApiSlot, drops: Option<&Drops>) -> Result<TransmissionSnapshot, KernelError> {
    if !kernel.counts_retransmissions() && drops.is_none() {
        return Ok(TransmissionSnapshot::default());
    }
    let ApiTransmission { retransmitted, dropped_otherwise } = kernel.api_transmission(slot)?;
    let dropped = drops.map(|drops| {
        let mut by_reason = drops.get(&slot).cloned().unwrap_or_default();
        if dropped_otherwise > 0 {
            *by_reason.entry(OTHER_REASON.to_owned()).or_default() += dropped_otherwise;
        }
        by_reason
    });
    Ok(TransmissionSnapshot { retransmitted: kernel.counts_retransmissions().then_some(retransmitted), dropped })
}

fn identity(record: &ApiRecord) -> Option<Identity> {
    Some(Identity { name: name(record)?.to_owned(), role: role(record)? })
}

fn name(record: &ApiRecord) -> Option<&str> {
    str::from_utf8(record.name.get(..record.name_length.into())?).ok()
}

fn role(record: &ApiRecord) -> Option<Role> {
    Role::ALL.into_iter().find(|role| *role as u8 == record.role)
}
