//! Blocks, put in force; and whether the guard is on at all.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tracing::{debug, info, warn};

use super::{Accounting, guard::warn_all};
use crate::{
    blocks::{Admitted, BlockError, BlockRefusal, LONGEST, Now, Removed, SHORTEST, key, network_at},
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
        self.require_changes()?;
        let blocked = self.try_to_block(network, period, reason, by);
        if let Some(refusal) = blocked.as_ref().err().and_then(BlockRefusal::by) {
            self.note_refused(refusal, 1);
        }
        blocked
    }

    fn try_to_block(
        &mut self,
        network: IpNet,
        period: Duration,
        reason: String,
        by: BlockedBy,
    ) -> Result<Block, BlockError> {
        if !(SHORTEST..=LONGEST).contains(&period) {
            return Err(BlockError::Period(period));
        }
        let now = Now::take();
        let until = now.wall.checked_add(period).ok_or(BlockError::Period(period))?;
        let asked = Block { network, until, reason, by };
        let block = match self.blocks.admit(asked.clone(), now)? {
            Admitted::New(block) => block,
            Admitted::Same(block) => return Ok(block),
        };
        self.enforce(block.clone(), now)?;
        info!(%network, period = %humantime::format_duration(period), by = by.as_str(), reason = asked.reason, "blocked");
        // It is told who has asked for it, whoever's words stay with the block.
        self.pass_on(&Happening::Blocked(asked));
        Ok(block)
    }

    /// Takes note that there are `count` blocks less than were asked for.
    fn note_refused(&mut self, refusal: BlockRefusal, count: u64) {
        if let Some(count) = self.blocks.refusals.add(refusal, count, Instant::now()) {
            let reason = refusal.as_str();
            warn!(count, reason, "not blocked; the reason of the latest is told, at most once a minute");
        }
    }

    /// Has nothing blocked or unblocked any more: the end is about to be told, and nothing may come after that.
    pub const fn stop_changes(&mut self) {
        self.is_stopping = true;
    }

    /// Sees that something may still be changed.
    ///
    /// # Errors
    /// [`BlockError::Stopping`].
    pub const fn require_changes(&self) -> Result<(), BlockError> {
        if self.is_stopping { Err(BlockError::Stopping) } else { Ok(()) }
    }

    /// Blocks `network` no more.
    ///
    /// # Errors
    /// [`BlockError::NotBlocked`], or that of the kernel.
    pub fn unblock(&mut self, network: IpNet, why: Unblocked) -> Result<Removed, BlockError> {
        self.require_changes()?;
        let covering = self.blocks.covering(&network);
        if self.blocks.get(&network).is_none() {
            return Err(BlockError::NotBlocked { network, covering });
        }
        self.kernel.set_block(&key(&network), None)?;
        let block = self.blocks.remove(&network).ok_or(BlockError::NotBlocked { network, covering })?;
        if let Err(error) = self.note_lengths(matches!(network, IpNet::V4(_))) {
            // Where nobody is blocked any more nobody is found.
            warn!(error = chain(&error), "prefixes of a length are looked for that none is blocked of");
        }
        self.pass_on(&Happening::Unblocked { network, why });
        info!(%network, why = why.as_str(), "blocked no more");
        self.note_blocks();
        Ok(Removed { block, covering })
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

    /// Puts those of `blocks`, which are those of before a restart, in force that are not over, and what else is in the kernel out
    /// of force. What the kernel blocks stays as it is if it is not known what they are, `None`. Answers with what is blocked no
    /// more, which is to be told once the exporter has said that it has begun.
    pub fn restore_blocks(&mut self, blocks: Option<Vec<Block>>) -> Result<Vec<Happening>, KernelError> {
        let now = Now::take();
        let mut gone = Vec::new();
        let known = blocks.is_some();
        let blocks = match blocks {
            Some(blocks) => blocks,
            None => self.blocks_of_kernel(now)?,
        };
        for block in blocks {
            let network = block.network;
            if now.until(block.until).is_zero() {
                gone.push(Happening::Unblocked { network, why: Unblocked::Expired });
                continue;
            }
            let admitted = self.blocks.admit(block, now);
            let restored = admitted.and_then(|(Admitted::New(block) | Admitted::Same(block))| self.enforce(block, now));
            if let Err(error) = restored {
                warn!(%network, error = chain(&error), "a block of before is left out");
                let refusal = BlockRefusal::by(&error).unwrap_or(BlockRefusal::Invalid);
                self.note_refused(refusal, 1);
                gone.push(Happening::Unblocked { network, why: Unblocked::Restart(refusal) });
            }
        }
        let wanted: HashSet<_> = self.blocks.iter().map(|block| key(&block.network)).collect();
        for (there, _) in self.kernel.blocks()?.into_iter().filter(|(there, _)| !wanted.contains(there)) {
            self.kernel.set_block(&there, None)?;
        }
        self.note_lengths(true)?;
        self.note_lengths(false)?;
        if wanted.len() + gone.len() > 0 {
            info!(restored = wanted.len(), left_out = gone.len(), known, "blocks of before");
        }
        self.note_blocks();
        Ok(gone)
    }

    /// What the kernel blocks, and for how long: all that is known where the file that says more cannot be read.
    fn blocks_of_kernel(&mut self, now: Now) -> Result<Vec<Block>, KernelError> {
        let ticks = self.kernel.ticks()?;
        let blocks = self.kernel.blocks()?.into_iter().filter_map(|(there, until)| {
            let left = u32::try_from(until.saturating_sub(ticks.now)).unwrap_or(u32::MAX);
            let until = now.wall.checked_add(ticks.length.saturating_mul(left).min(LONGEST))?;
            let reason = "of before a restart".to_owned();
            Some(Block { network: network_at(&there)?, until, reason, by: BlockedBy::Unknown })
        });
        Ok(blocks.collect())
    }

    /// Ends blocks whose time is over, and takes note of whether somebody has switched the guard. To be called each second.
    pub fn look_after_blocks(&mut self) -> Result<(), KernelError> {
        let now = Now::take();
        self.blocks.correct_times(now);
        for network in self.blocks.expired(now.steady) {
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
        let left_out = self.anomalies.responder().take_left_out();
        if left_out > 0 {
            self.note_refused(BlockRefusal::Backlog, left_out);
        }
        for wanted in self.anomalies.responder().take() {
            let enough = wanted.period.saturating_sub(wanted.period / LEAST_PART);
            if self.blocks.left(&wanted.network, Instant::now()) >= enough {
                continue;
            }
            match self.block(wanted.network, wanted.period, wanted.reason, BlockedBy::Response(wanted.kind)) {
                Ok(_) => {}
                // It is counted, and told each minute. The kernel tells of few anomalies in a second, but of those for ever.
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
        self.kernel.is_guard_on()
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
    fn enforce(&mut self, block: Block, now: Now) -> Result<(), BlockError> {
        let ticks = self.kernel.ticks()?;
        let until = ticks.after(now.until(block.until));
        let (network, is_v4) = (block.network, matches!(block.network, IpNet::V4(_)));
        let before = self.blocks.get(&network).cloned();
        // The length comes last: before it, nobody looks for the entry.
        self.kernel.set_block(&key(&network), Some(until))?;
        self.blocks.insert(block, now);
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
