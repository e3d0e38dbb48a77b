//! The table of clients' limits: how full it is, and who is forgotten in it. It may be large, so it is gone through some entries at
//! a time.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::maps::{HashMap, Map, MapData, PerCpuArray};
use tidewaiter_common::guard::ClientKey;

use super::{
    Kernel, KernelError,
    attach::has_kind,
    system::{Cursor, lookup_batch},
    tables::{name, read, write},
};

/// How many entries are read at once.
const BATCH: usize = 4096;

/// How many are counted at once, at most: some ten milliseconds' worth.
const COUNTED: u64 = 131_072;

/// How many clients limits are kept for, as far as that was counted.
#[derive(Debug, Default)]
pub struct ClientCount {
    cursor: Option<Cursor>,
    /// How many entries had ever been made when counting began.
    made: u64,
    counted: u64,
    there: u64,
    evicted: u64,
}

impl ClientCount {
    /// How many there were when they were last counted.
    #[must_use]
    pub const fn there(&self) -> u64 {
        self.there
    }

    /// How many were forgotten, ever. It only grows: entries that came while others were counted are not in the difference, which is
    /// too small by them for once.
    #[must_use]
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }

    fn begin(&mut self, made: u64) {
        (self.made, self.counted) = (made, 0);
    }

    fn add(&mut self, read: u64, is_over: bool) {
        self.counted += read;
        self.there = if is_over { self.counted } else { self.there.max(self.counted) };
        if is_over {
            self.evicted = self.evicted.max(self.made.saturating_sub(self.counted));
        }
    }
}

impl Kernel {
    /// Goes on counting the clients that limits are kept for: all of them, if there are not very many.
    pub fn count_client_limits(&self, count: &mut ClientCount) -> Result<(), KernelError> {
        let mut cursor = if let Some(cursor) = count.cursor.take() {
            cursor
        } else {
            count.begin(self.client_limits_made()?);
            Cursor::default()
        };
        let mut read = 0;
        while read < COUNTED {
            let batch = self.some_entries::<ClientKey, u64>(name::CLIENT_LIMITS, cursor, BATCH)?;
            read += batch.entries.len() as u64;
            let Some(next) = batch.next else {
                count.add(read, true);
                return Ok(());
            };
            cursor = next;
        }
        count.add(read, false);
        count.cursor = Some(cursor);
        Ok(())
    }

    /// How many entries there ever were.
    fn client_limits_made(&self) -> Result<u64, KernelError> {
        let made: PerCpuArray<_, u64> = self.map(name::CLIENT_LIMITS_MADE)?;
        Ok(made.get(&0, 0).map_err(read(name::CLIENT_LIMITS_MADE))?.iter().sum())
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
    /// Forgets what was left of the limits of all clients at these places of pairs.
    pub fn forget(&self, pairs: &HashSet<u16>) -> Result<(), KernelError> {
        let map = name::CLIENT_LIMITS;
        let failed = |source| KernelError::Batch { map, source };
        let descriptor = self.0.try_clone().map_err(failed)?;
        let limits = MapData::from_fd(descriptor).and_then(|data| HashMap::try_from(Map::LruHashMap(data)));
        let mut limits: HashMap<_, ClientKey, u64> = limits.map_err(write(map))?;
        let mut cursor = Some(Cursor::default());
        while let Some(from) = cursor {
            let batch = lookup_batch::<ClientKey, u64>(self.0.as_fd(), from, BATCH).map_err(failed)?;
            for (key, _) in batch.entries {
                if !u16::try_from(key.pair).is_ok_and(|pair| pairs.contains(&pair)) {
                    continue;
                }
                match limits.remove(&key) {
                    Err(error) if !has_kind(&error, io::ErrorKind::NotFound) => return Err(write(map)(error)),
                    _ => {}
                }
            }
            cursor = batch.next;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::ClientCount;

    #[test]
    fn who_was_forgotten_is_never_less() {
        let mut count = ClientCount::default();
        count.begin(150);
        count.add(60, false);
        assert_eq!((count.there(), count.evicted()), (60, 0));
        count.add(40, true);
        assert_eq!((count.there(), count.evicted()), (100, 50));
        // Ten have come while these were counted.
        count.begin(151);
        count.add(110, true);
        assert_eq!((count.there(), count.evicted()), (110, 50));
        count.begin(170);
        count.add(100, true);
        assert_eq!((count.there(), count.evicted()), (100, 70));
    }
}
