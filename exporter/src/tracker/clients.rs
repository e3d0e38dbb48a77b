//! Bytes by client, for those that have most of them.

use std::{collections::HashMap, hash::RandomState, ops::RangeInclusive, time::SystemTime};

use tidewaiter_common::address::Address;

use super::candidates::Candidates;
use crate::snapshot::ClientSnapshot;

/// How many clients without a name are watched for one with it.
const WATCHED: RangeInclusive<usize> = 64..=1024;
/// The same for each name.
const WATCHED_PER_NAME: usize = 8;
/// How many times the bytes of the named client that has least another one must have to take its name.
const CLEARLY_MORE: u64 = 2;
/// And how many parts of all bytes, where 1 is what each name would have if all had the same: so that nobody's name changes
/// hands where very many clients have little each.
const WORTH_A_NAME: u64 = 16;
/// A part of the names, and one at least, may change hands each minute.
const CHANGES: usize = 4;

/// Bytes by client: exact for clients while they have a name, the rest exact as a whole.
#[derive(Debug)]
pub(super) struct Clients {
    budget: usize,
    named: HashMap<Address, Named, RandomState>,
    candidates: Candidates,
    other: u64,
    /// Bytes of all of them of late.
    recent: u64,
}

#[derive(Debug)]
struct Named {
    /// Bytes since it has its name.
    bytes: u64,
    /// Bytes of late: halved each minute.
    recent: u64,
    created: SystemTime,
}

impl Named {
    fn new(recent: u64) -> Self {
        Self { bytes: 0, recent, created: SystemTime::now() }
    }
}

impl Clients {
    /// For at most `budget` names.
    pub(super) fn new(budget: usize, hasher: &RandomState) -> Self {
        let watched = (budget * WATCHED_PER_NAME).clamp(*WATCHED.start(), *WATCHED.end());
        Self {
            budget,
            named: HashMap::with_hasher(hasher.clone()),
            candidates: Candidates::new(watched, hasher.clone()),
            other: 0,
            recent: 0,
        }
    }

    /// Counts `bytes` of the client at `address`. One that comes while a name is free gets it, if there are any in `free`,
    /// which all APIs share.
    pub(super) fn count(&mut self, address: Address, bytes: u64, free: &mut usize) {
        if bytes == 0 || self.budget == 0 {
            return;
        }
        self.recent = self.recent.saturating_add(bytes);
        if let Some(named) = self.named.get_mut(&address) {
            named.bytes += bytes;
            named.recent = named.recent.saturating_add(bytes);
        } else if self.named.len() < self.budget && *free > 0 {
            *free -= 1;
            self.named.insert(address, Named { bytes, ..Named::new(bytes) });
        } else {
            self.other += bytes;
            self.candidates.add(address, bytes);
        }
    }

    /// To be called each minute: gives names of those that have little to those that have clearly more.
    pub(super) fn review(&mut self) {
        let changes = (self.budget / CHANGES).max(1);
        let worth = self.recent / (WORTH_A_NAME * self.budget.max(1) as u64);
        let mut least: Vec<_> = self.named.iter().map(|(address, named)| (named.recent, *address)).collect();
        least.sort_unstable();
        for ((challenger, theirs), (mine, holder)) in self.candidates.largest(changes).into_iter().zip(least) {
            if theirs <= worth || theirs / CLEARLY_MORE <= mine {
                break;
            }
            if let Some(Named { bytes, recent, created: _ }) = self.named.remove(&holder) {
                self.other += bytes;
                self.candidates.remove(&challenger);
                self.named.insert(challenger, Named::new(theirs));
                self.candidates.add(holder, recent);
            }
        }
        self.named.values_mut().for_each(|named| named.recent /= 2);
        self.candidates.decay();
        self.recent /= 2;
    }

    /// How many clients have a name.
    pub(super) fn names(&self) -> usize {
        self.named.len()
    }

    /// Clients with a name, in the order of their addresses.
    pub(super) fn named(&self) -> Vec<ClientSnapshot> {
        let clients =
            self.named.iter().map(|(address, Named { bytes, recent: _, created })| (*address, *bytes, *created));
        let mut clients: Vec<_> = clients
            .map(|(address, bytes, created)| ClientSnapshot { address: address.into(), bytes, created })
            .collect();
        clients.sort_unstable_by_key(|client| client.address);
        clients
    }

    /// Bytes of all others; `None` if nothing is counted by client.
    pub(super) fn other(&self) -> Option<u64> {
        (self.budget > 0).then_some(self.other)
    }

    /// The hash of `address`, by the key that all tables here have.
    pub(super) fn hash(&self, address: Address) -> u64 {
        self.candidates.hash(address)
    }

    #[cfg(test)]
    pub(super) fn watched(&self) -> usize {
        self.candidates.len()
    }
}
