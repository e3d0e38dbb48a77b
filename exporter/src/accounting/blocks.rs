//! Blocks, put in force; and whether the guard is on at all.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use tracing::{debug, info, warn};

use super::{Accounting, guard::warn_all};
use crate::{
    blocks::{BlockError, LONGEST, SHORTEST, key},
    chain::chain,
    config::guard::BlockSettings,
    event::{Block, BlockedBy, Happening, Unblocked},
    kernel::KernelError,
};

/// A block is not made longer by less than this part of it, so that one who goes on is not told of each time.
const LEAST_PART: u32 = 10;

impl Accounting {
    /// Says how blocks are kept, and what is responded to.
    pub(super) fn configure_blocks(&mut self) {
        let Some(guard) = self.guard.settings() else { return };
        self.blocks.configure(guard.blocks.capacity as usize, &guard.protect);
        self.anomalies.responder().configure(&guard.blocks.responses);
        self.note_blocks();
    }

    /// Blocks `network` for `period`; for no less than it already is. Answers with the block there is then.
    ///
    /// # Errors
    /// [`BlockError`]; then nothing has changed.
    pub fn block(
        &mut self,
        network: IpNet,
        period: Duration,
        reason: String,
        by: BlockedBy,
    ) -> Result<Block, BlockError> {
        if !(SHORTEST..=LONGEST).contains(&period) {
            return Err(BlockError::Period(period));
        }
        let now = SystemTime::now();
        let until = now.checked_add(period).ok_or(BlockError::Period(period))?;
        let block = self.blocks.admit(Block { network, until, reason, by }, now)?;
        self.enforce(block.clone(), now)?;
        self.pass_on(&Happening::Blocked(block.clone()));
        info!(network = %block.network, period = %humantime::format_duration(period), by = by.as_str(), reason = block.reason, "blocked");
        Ok(block)
    }

    /// Blocks `network` no more.
    ///
    /// # Errors
    /// [`BlockError::NotBlocked`], or that of the kernel.
    pub fn unblock(&mut self, network: IpNet, why: Unblocked) -> Result<Block, BlockError> {
        if self.blocks.get(&network).is_none() {
            return Err(BlockError::NotBlocked(network));
        }
        self.kernel.set_block(&key(&network), None)?;
        let removed = self.blocks.remove(&network).ok_or(BlockError::NotBlocked(network))?;
        if let Err(error) = self.note_lengths(matches!(network, IpNet::V4(_))) {
            // Where nobody is blocked any more nobody is found.
            warn!(error = chain(&error), "prefixes of a length are looked for that none is blocked of");
        }
        self.pass_on(&Happening::Unblocked { network, why });
        info!(%network, why = why.as_str(), "blocked no more");
        self.note_blocks();
        Ok(removed)
    }

    /// How blocks are kept, once that is known.
    #[must_use]
    pub fn block_settings(&self) -> Option<BlockSettings> {
        self.guard.settings().map(|guard| guard.blocks.clone())
    }

    /// The blocks that there are, by network.
    #[must_use]
    pub fn blocks(&self) -> Vec<Block> {
        self.blocks.iter().cloned().collect()
    }

    /// The same, if they have changed since this was last asked.
    pub fn changed_blocks(&mut self) -> Option<Vec<Block>> {
        self.blocks.take_changed().then(|| self.blocks())
    }

    /// Takes note that blocks could not be kept: they are to be asked for again.
    pub const fn blocks_not_kept(&mut self) {
        self.blocks.set_changed();
    }

    /// Puts those of `blocks` in force that are not over, and what else is in the kernel out of force. Nobody is told: they are those
    /// of before a restart.
    pub fn restore_blocks(&mut self, blocks: Vec<Block>) -> Result<(), KernelError> {
        let now = SystemTime::now();
        let (mut restored, mut left_out) = (0, 0);
        for block in blocks.into_iter().filter(|block| block.until > now) {
            let network = block.network;
            match self.blocks.admit(block, now).and_then(|block| self.enforce(block, now)) {
                Ok(()) => restored += 1,
                Err(error) => {
                    debug!(%network, error = chain(&error), "a block of before is left out");
                    left_out += 1;
                }
            }
        }
        let wanted: HashSet<_> = self.blocks.iter().map(|block| key(&block.network)).collect();
        for (there, _) in self.kernel.blocks()?.into_iter().filter(|(there, _)| !wanted.contains(there)) {
            self.kernel.set_block(&there, None)?;
        }
        self.note_lengths(true)?;
        self.note_lengths(false)?;
        if restored + left_out > 0 {
            info!(restored, left_out, "blocks of before");
        }
        self.note_blocks();
        Ok(())
    }

    /// Ends blocks whose time is over, and takes note of whether somebody has switched the guard. To be called each second.
    pub fn look_after_blocks(&mut self) -> Result<(), KernelError> {
        for network in self.blocks.expired(SystemTime::now()) {
            // The kernel sees by itself that the time is over. It is tried again each second, and told once.
            if let Err(error) = self.unblock(network, Unblocked::Expired)
                && self.blocks.note_stuck(&network)
            {
                warn!(%network, error = chain(&error), "cannot remove a block whose time is over: it blocks no more");
            }
        }
        self.notice_switch()
    }

    /// Blocks those who have made anomalies that are responded to.
    pub(super) fn respond(&mut self) {
        for wanted in self.anomalies.responder().take() {
            let enough = wanted.period.saturating_sub(wanted.period / LEAST_PART);
            let enough = SystemTime::now().checked_add(enough);
            if self.blocks.get(&wanted.network).is_some_and(|block| Some(block.until) >= enough) {
                continue;
            }
            match self.block(wanted.network, wanted.period, wanted.reason, BlockedBy::Response(wanted.kind)) {
                Ok(_) => {}
                // The kernel tells of few anomalies in a second, whatever is sent, but of those for ever.
                Err(error) => debug!(network = %wanted.network, error = chain(&error), "no response to an anomaly"),
            }
        }
    }

    /// Has the guard judge packets, or let all pass.
    pub fn switch_guard(&mut self, on: bool) -> Result<(), KernelError> {
        self.kernel.switch_guard(on)?;
        self.notice_switch()
    }

    /// Whether the guard is on, as far as anybody has switched it.
    pub fn is_guard_on(&self) -> Result<bool, KernelError> {
        Ok(self.kernel.is_guard_on()?)
    }

    /// Tells if somebody has switched the guard.
    fn notice_switch(&mut self) -> Result<(), KernelError> {
        let on = self.is_guard_on()?;
        if self.was_guard_on == on {
            return Ok(());
        }
        self.was_guard_on = on;
        if on {
            info!("the guard was switched on");
        } else {
            warn!("the guard was switched off: everything passes");
        }
        self.pass_on(&Happening::GuardSwitched { on });
        Ok(())
    }

    /// Has the kernel block, and keeps in mind that it does.
    fn enforce(&mut self, block: Block, now: SystemTime) -> Result<(), BlockError> {
        let ticks = self.kernel.ticks()?;
        let until = ticks.after(block.until.duration_since(now).unwrap_or_default());
        let (network, is_v4) = (block.network, matches!(block.network, IpNet::V4(_)));
        let before = self.blocks.get(&network).cloned();
        // The length comes last: before it, nobody looks for the entry.
        self.kernel.set_block(&key(&network), Some(until))?;
        self.blocks.insert(block);
        if let Err(error) = self.note_lengths(is_v4) {
            if before.is_none() {
                self.blocks.remove(&network);
                if let Err(error) = self.kernel.set_block(&key(&network), None) {
                    warn!(error = chain(&error), "cannot take a block back");
                }
            }
            return Err(error.into());
        }
        self.note_blocks();
        Ok(())
    }

    fn note_lengths(&mut self, is_v4: bool) -> Result<(), KernelError> {
        self.kernel.set_blocked_lengths(is_v4, self.blocks.lengths(is_v4))
    }

    /// Has the guard where it is needed: wherever anything is blocked, or may be at any time.
    fn note_blocks(&mut self) {
        let may_block = !self.blocks.is_empty() || self.anomalies.responder().is_on();
        if self.guard.set_blocks(may_block) {
            warn_all(&self.place_guard());
        }
    }
}
