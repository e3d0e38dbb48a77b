//! The table of clients' limits: how full it is, and who is forgotten in it. It may be large, so it is gone through some entries at
//! a time.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    os::fd::{AsFd as _, OwnedFd},
};

use aya::maps::{Array, Map, MapData, PerCpuArray};
use rustix::time::{ClockId, clock_gettime};
use tidewaiter_common::{
    clients::{BUSY, Client, Group, groups},
    guard::word,
};

use super::{
    Kernel, KernelError,
    system::{Cursor, lookup_batch},
    tables::{name, read, write},
};

/// How many groups are read at once.
const BATCH: usize = 4096;

/// How many are looked at to find out how many clients there are: some two milliseconds' worth.
const LOOKED_AT: usize = 4 * BATCH;

impl Kernel {
    /// How many clients there are whose limits are not whole.
    ///
    /// That is an estimate if there is room for more than 65,536 clients: so many groups of them are looked at, and who is in which of
    /// them is by chance.
    pub fn count_clients(&self) -> Result<u64, KernelError> {
        let now = clock_gettime(ClockId::Monotonic);
        let now = now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs();
        let (mut short, mut looked_at) = (0, 0);
        let mut cursor = Some(Cursor::default());
        while let Some(from) = cursor.filter(|_| looked_at < LOOKED_AT) {
            let batch = self.some_entries::<u32, Group>(name::CLIENT_LIMITS, from, BATCH)?;
            let places = batch.entries.iter().flat_map(|(_, group)| &group.places);
            short += places.filter(|client| client.is_short(now)).count();
            looked_at += batch.entries.len();
            cursor = batch.next;
        }
        Ok(short as u64 * u64::from(groups(self.guard.clients)) / looked_at.max(1) as u64)
    }

    /// How many clients who were short of something were ever forgotten for others.
    pub fn evicted_clients(&self) -> Result<u64, KernelError> {
        let evicted: PerCpuArray<_, u64> = self.map(name::CLIENTS_EVICTED)?;
        Ok(evicted.get(&0, 0).map_err(read(name::CLIENTS_EVICTED))?.iter().sum())
    }

    /// Makes sure that there is a random number by which clients find their places.
    pub(super) fn seed_clients(&mut self) -> Result<(), KernelError> {
        if self.guard_word(word::CLIENT_SEED)? == 0 {
            // The standard library's hashes begin with random numbers of the system's.
            let random = RandomState::new().build_hasher().finish();
            self.set_guard_word(word::CLIENT_SEED, random | 1)?;
        }
        Ok(())
    }

    /// The table by itself, for whoever goes through it while others have the kernel.
    pub fn client_limits(&self) -> Result<ClientLimits, KernelError> {
        let descriptor = self.map_descriptor(name::CLIENT_LIMITS)?.try_clone_to_owned();
        descriptor.map(ClientLimits).map_err(|source| KernelError::Batch { map: name::CLIENT_LIMITS, source })
    }
}

/// The table of clients' limits.
#[derive(Debug)]
pub struct ClientLimits(OwnedFd);

impl ClientLimits {
    /// Forgets what was left of the limits of all clients at these places of pairs. What others of the same groups are charged in that
    /// moment may be forgotten too: a packet of theirs, which then was free.
    pub fn forget(&self, pairs: &HashSet<u16>) -> Result<(), KernelError> {
        let map = name::CLIENT_LIMITS;
        let failed = |source| KernelError::Batch { map, source };
        let descriptor = self.0.try_clone().map_err(failed)?;
        let limits = MapData::from_fd(descriptor).and_then(|data| Array::try_from(Map::Array(data)));
        let mut limits: Array<_, Group> = limits.map_err(write(map))?;
        let is_of_them = |client: &Client| u16::try_from(client.owner).is_ok_and(|pair| pairs.contains(&pair));
        let mut cursor = Some(Cursor::default());
        while let Some(from) = cursor {
            let batch = lookup_batch::<u32, Group>(self.0.as_fd(), from, BATCH).map_err(failed)?;
            for (index, _) in batch.entries.into_iter().filter(|(_, group)| group.places.iter().any(is_of_them)) {
                // As it is now: it may have been a while.
                let now: Group = limits.get(&index, 0).map_err(read(map))?;
                let places = now.places.map(|client| {
                    let goes = is_of_them(&client) || client.owner == BUSY;
                    if goes { Client::default() } else { client }
                });
                limits.set(index, Group { places }, 0).map_err(write(map))?;
            }
            cursor = batch.next;
        }
        Ok(())
    }
}
