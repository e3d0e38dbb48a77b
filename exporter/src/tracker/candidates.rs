//! The clients that send or get most among very many, in a bounded table.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
};

use tidewaiter_common::address::Address;

/// What each of the clients without a name has sent and got of late.
///
/// A table that is full loses half of its entries: the median of all is taken off each, and those with nothing left go. So
/// a flood of clients costs a constant time each, and none that has more than a few parts in [`Candidates::capacity`] of
/// all bytes is lost in it. (That is the frequent-items sketch of Anderson and others, "A high-performance algorithm for
/// identifying frequent items in data streams", 2017.) A client's bytes in it are never too many.
#[derive(Debug)]
pub(super) struct Candidates {
    bytes: HashMap<Address, u64, RandomState>,
    capacity: usize,
}

impl Candidates {
    /// Room for `capacity` clients; memory is taken as they come.
    pub(super) const fn new(capacity: usize, hasher: RandomState) -> Self {
        Self { bytes: HashMap::with_hasher(hasher), capacity }
    }

    /// Adds `bytes` to what the client at `address` has sent and got.
    pub(super) fn add(&mut self, address: Address, bytes: u64) {
        if let Some(sum) = self.bytes.get_mut(&address) {
            *sum = sum.saturating_add(bytes);
            return;
        }
        let left = if self.bytes.len() < self.capacity { bytes } else { bytes.saturating_sub(self.purge()) };
        if left > 0 && self.bytes.len() < self.capacity {
            self.bytes.insert(address, left);
        }
    }

    /// Makes room; answers with what was taken off each.
    fn purge(&mut self) -> u64 {
        let mut all: Vec<u64> = self.bytes.values().copied().collect();
        let middle = all.len() / 2;
        if all.is_empty() {
            return 0;
        }
        let median = *all.select_nth_unstable(middle).1;
        self.change(|bytes| bytes.saturating_sub(median));
        median
    }

    /// Halves what each has, so that what was long ago weighs little.
    pub(super) fn decay(&mut self) {
        self.change(|bytes| bytes / 2);
    }

    fn change(&mut self, change: impl Fn(u64) -> u64) {
        self.bytes.retain(|_, bytes| {
            *bytes = change(*bytes);
            *bytes > 0
        });
    }

    /// The `count` clients that have most, the first of them first.
    pub(super) fn largest(&self, count: usize) -> Vec<(Address, u64)> {
        let mut all: Vec<_> = self.bytes.iter().map(|(address, bytes)| (*address, *bytes)).collect();
        all.sort_unstable_by_key(|(address, bytes)| (std::cmp::Reverse(*bytes), *address));
        all.truncate(count);
        all
    }

    /// Takes a client out.
    pub(super) fn remove(&mut self, address: &Address) {
        self.bytes.remove(address);
    }

    /// The hash of `address`, by the key that all tables here have.
    pub(super) fn hash(&self, address: Address) -> u64 {
        self.bytes.hasher().hash_one(address)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }
}
