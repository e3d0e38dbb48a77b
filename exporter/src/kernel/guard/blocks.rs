//! Who is blocked, as the kernel knows it.

use std::io;

use aya::maps::HashMap;
use tidewaiter_common::guard::{BLOCKED_LENGTHS, BlockKey, BlockedLength, MAX_BLOCKS, word};

use crate::kernel::{
    Kernel, KernelError,
    attach::has_kind,
    system::wait_for_programs,
    tables::{name, read, write},
};

impl Kernel {
    /// Blocks `key` until a tick, or not at all.
    ///
    /// # Errors
    /// [`KernelError::Full`] if there are too many.
    pub fn set_block(&mut self, key: &BlockKey, until: Option<u64>) -> Result<(), KernelError> {
        let mut blocks: HashMap<_, BlockKey, u64> = self.map_mut(name::BLOCKS)?;
        let result = match until {
            Some(until) => blocks.insert(key, until, 0),
            None => match blocks.remove(key) {
                Err(error) if has_kind(&error, io::ErrorKind::NotFound) => Ok(()),
                removed => removed,
            },
        };
        result.map_err(|error| {
            if has_kind(&error, io::ErrorKind::ArgumentListTooLong) {
                KernelError::Full { what: "one more block".to_owned(), limit: MAX_BLOCKS as usize }
            } else {
                write(name::BLOCKS)(error)
            }
        })
    }

    /// Says which lengths of prefixes are blocked, of one version of IP. Where lengths go that others come after, these are not
    /// looked at for a moment: what they block passes rather than that anybody else is blocked.
    ///
    /// # Errors
    /// [`KernelError::Full`] if there are too many: then it is as it was.
    pub fn set_blocked_lengths(&mut self, is_v4: bool, lengths: &[u8]) -> Result<(), KernelError> {
        if lengths.len() > BLOCKED_LENGTHS {
            let what = format!("the {} different lengths of blocked prefixes", lengths.len());
            return Err(KernelError::Full { what, limit: BLOCKED_LENGTHS });
        }
        let (first, count) = if is_v4 { (0, word::BLOCKED_IPV4) } else { (BLOCKED_LENGTHS, word::BLOCKED_IPV6) };
        let wanted: Vec<_> = lengths.iter().map(|length| BlockedLength::new(*length, is_v4)).collect();
        let before = self.guard_word(count)?;
        let mut same = 0;
        for (place, length) in wanted.iter().enumerate().take(before as usize) {
            if self.get::<BlockedLength>(name::BLOCKED, (first + place) as u16)? != *length {
                break;
            }
            same = place + 1;
        }
        if same as u64 != before {
            self.set_guard_word(count, same as u64)?;
            // An entry is not written in one step: nobody may read it by then.
            wait_for_programs();
        }
        for (place, length) in wanted.iter().enumerate().skip(same) {
            self.set(name::BLOCKED, (first + place) as u16, length)?;
        }
        self.set_guard_word(count, wanted.len() as u64)
    }

    /// All that is blocked, and until which tick.
    pub fn blocks(&self) -> Result<Vec<(BlockKey, u64)>, KernelError> {
        let blocks: HashMap<_, BlockKey, u64> = self.map(name::BLOCKS)?;
        blocks.iter().collect::<Result<_, _>>().map_err(read(name::BLOCKS))
    }
}
