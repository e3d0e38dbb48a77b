//! Connections that an API is asked for, and what becomes of them: too many that are never complete are a flood of SYN.

use crate::atomic;

/// Connections of one API that others have begun in the window under way. Every CPU writes to it, by atomic instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Openings {
    /// When the window began, in nanoseconds of the kernel's monotonic clock.
    since: u64,
    /// Connections that were begun.
    attempts: u64,
    /// Those that were complete.
    completed: u64,
    /// Those that this host has refused.
    refused: u64,
}

#[cfg(feature = "user")]
// SAFETY: made of `u64` alone, no padding, every bit pattern is valid.
unsafe impl aya::Pod for Openings {}

const _: () = assert!(size_of::<Openings>() == 32);

impl Openings {
    /// Counts a connection that was begun at `now`. Says whether a window is over, of which [`Openings::take`] then says what there
    /// was in it: that is asked of one caller alone.
    ///
    /// # Safety
    /// `openings` may be written to, and whoever else writes to it does so by these functions.
    #[inline(always)]
    pub unsafe fn attempt(openings: *mut Self, now: u64, window: u64) -> bool {
        // SAFETY: the caller's; the fields are aligned.
        unsafe {
            let is_over = super::source::is_over(&raw mut (*openings).since, now, window);
            if !is_over {
                atomic::add(&raw mut (*openings).attempts, 1);
            }
            is_over
        }
    }

    /// Takes out what there was in the window that is over; the connection that has shown it to be is the first of the next.
    ///
    /// # Safety
    /// As for [`Openings::attempt`].
    #[inline(always)]
    pub unsafe fn take(openings: *mut Self, to: &mut Judged) {
        // SAFETY: the caller's.
        unsafe {
            to.attempts = atomic::swap(&raw mut (*openings).attempts, 1);
            to.completed = atomic::swap(&raw mut (*openings).completed, 0);
            to.refused = atomic::swap(&raw mut (*openings).refused, 0);
        }
    }

    /// Counts a connection that is complete.
    ///
    /// # Safety
    /// As for [`Openings::attempt`].
    #[inline(always)]
    pub unsafe fn complete(openings: *mut Self) {
        // SAFETY: the caller's.
        unsafe { atomic::add(&raw mut (*openings).completed, 1) };
    }

    /// Counts a connection that this host has refused.
    ///
    /// # Safety
    /// As for [`Openings::attempt`].
    #[inline(always)]
    pub unsafe fn refuse(openings: *mut Self) {
        // SAFETY: the caller's.
        unsafe { atomic::add(&raw mut (*openings).refused, 1) };
    }
}

/// What there was in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Judged {
    /// Connections that were begun.
    pub attempts: u64,
    /// Those that were complete.
    pub completed: u64,
    /// Those that this host has refused.
    pub refused: u64,
}

impl Judged {
    /// Connections that were begun, and are neither complete nor refused.
    #[inline(always)]
    #[must_use]
    pub const fn half_open(&self) -> u64 {
        // Those of the window before may have been complete in this one.
        self.attempts.saturating_sub(self.completed.saturating_add(self.refused))
    }

    /// Whether that is a flood: at least `half_open` of them, and of a hundred that were begun no more than `completed` complete.
    ///
    /// The second condition is what tells it from many connections over long ways, of which some are always half open.
    #[inline(always)]
    #[must_use]
    pub const fn is_flood(&self, half_open: u64, completed: u64) -> bool {
        // (Plain products: no window has so many connections that they would not fit, and BPF has no wider ones to check.)
        self.half_open() >= half_open && self.completed.wrapping_mul(100) <= self.attempts.wrapping_mul(completed)
    }
}
