//! Slots of the kernel's tables, given out to things that come and go.
//!
//! A slot that is given back may still be counted in: a program that looked it up before it left the tables has yet to
//! run to its end. So it is first *retired*: out of the tables, but its counters are kept and read. Only after
//! a while, [`GRACE`] at least, is it *recycled*: what it has counted is kept elsewhere, and it may be given out again.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How long a program may go on counting in a slot that has left the tables. They run for less than a microsecond with
/// preemption off; this is many times the longest that a CPU can be kept from one by interrupts.
pub const GRACE: Duration = Duration::from_secs(1);

/// The slots of one table. Slot 0 is never given out.
#[derive(Debug)]
pub struct Slots {
    capacity: u16,
    next: u16,
    free: Vec<u16>,
    grace: Duration,
    retired: VecDeque<(u16, Instant)>,
}

impl Slots {
    /// All of a table of `capacity` slots but the first. Retired ones are recycled after `grace`.
    #[must_use]
    pub const fn new(capacity: u16, grace: Duration) -> Self {
        Self { capacity, next: 1, free: Vec::new(), grace, retired: VecDeque::new() }
    }

    /// A slot that nobody has; `None` if all are taken.
    pub fn take(&mut self) -> Option<u16> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        if self.next == self.capacity {
            return None;
        }
        self.next += 1;
        Some(self.next - 1)
    }

    /// Takes note that `slot` was given out before this was made. Slots are restored in rising order, before any is taken.
    pub fn restore(&mut self, slot: u16) {
        self.free.extend(self.next..slot);
        self.next = slot + 1;
    }

    /// Takes note that `slot` is free, although it was given out once.
    pub fn restore_free(&mut self, slot: u16) {
        self.restore(slot);
        self.free.push(slot);
    }

    /// How many slots are not to be had: given out, or retired and not recycled yet.
    #[must_use]
    pub fn in_use(&self) -> usize {
        usize::from(self.next) - 1 - self.free.len()
    }

    /// Gives back `slot`, which has just left the tables.
    pub fn retire(&mut self, slot: u16, now: Instant) {
        self.retired.push_back((slot, now));
    }

    /// The retired slot whose turn it is to be recycled, if the time of any is over.
    #[must_use]
    pub fn recyclable(&self, now: Instant) -> Option<u16> {
        let &(slot, since) = self.retired.front()?;
        (now.saturating_duration_since(since) >= self.grace).then_some(slot)
    }

    /// Takes back [`Slots::recyclable`], whose counters were kept.
    pub fn recycle(&mut self) {
        self.free.extend(self.retired.pop_front().map(|(slot, _)| slot));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{GRACE, Slots};

    #[test]
    fn a_slot_is_given_out_again_only_after_it_was_recycled() {
        let mut slots = Slots::new(3, GRACE);
        assert_eq!((slots.take(), slots.take(), slots.take()), (Some(1), Some(2), None));

        let now = Instant::now();
        slots.retire(2, now);
        assert_eq!((slots.take(), slots.in_use()), (None, 2), "a retired slot is still counted in");
        assert_eq!(slots.recyclable(now), None, "before its time");

        assert_eq!(slots.recyclable(now + GRACE), Some(2));
        slots.recycle();
        assert_eq!(slots.in_use(), 1);
        assert_eq!((slots.take(), slots.recyclable(now + GRACE)), (Some(2), None));
    }

    #[test]
    fn restored_slots_are_not_given_out() {
        let mut slots = Slots::new(8, GRACE);
        slots.restore(2);
        slots.restore_free(4);
        slots.restore(5);
        assert_eq!(slots.in_use(), 2);
        let mut taken: Vec<_> = std::iter::from_fn(|| slots.take()).collect();
        taken.sort_unstable();
        assert_eq!(taken, [1, 3, 4, 6, 7]);
    }
}
