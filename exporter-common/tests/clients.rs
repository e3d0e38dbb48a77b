//! The table of clients: nobody is forgotten who is short of something, as long as there is room.

#![allow(clippy::expect_used, reason = "a test panics for a stack trace")]

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use proptest::{collection::vec, prelude::*};
use tidewaiter_common::{
    clients::{Client, EVICTED, Group, NOWHERE, PLACES, claim, find, group, groups},
    limiter::Limit,
};

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const MILLISECOND: u64 = 1_000_000;

/// A table as the kernel uses it.
struct Table {
    groups: Vec<Group>,
    limit: Limit,
    evicted: u64,
}

impl Table {
    fn new(clients: u32, limit: Limit) -> Self {
        Self { groups: vec![Group::default(); groups(clients) as usize], limit, evicted: 0 }
    }

    fn admit(&mut self, key: [u64; 2], owner: u64, now: u64) -> bool {
        let index = group(key, owner, SEED, self.groups.len() as u32);
        let group = &raw mut self.groups[index as usize];
        // SAFETY: the table is this test's own.
        unsafe {
            let mut place = find(group, key, owner);
            if place >= NOWHERE {
                let claimed = claim(group, key, owner, now);
                self.evicted += u64::from(claimed & EVICTED != 0);
                place = claimed & !EVICTED;
            }
            let word = &raw mut (*group).places[place as usize].word;
            self.limit.admit(word, 1, now, || now)
        }
    }
}

fn limit(per_second: u64, burst: u64) -> Limit {
    Limit::new(per_second, Duration::from_secs(1), burst).expect("a limit within the bounds")
}

proptest! {
    /// However many clients come and go, each is judged as if it had a word of its own, while no more are short of something than
    /// there are places for.
    #[test]
    fn each_has_a_limit_of_its_own(
        sent in vec((0_u64..12, 1_u64..3, 0_u64..400 * MILLISECOND), 1..400),
    ) {
        let limit = limit(10, 3);
        let mut table = Table::new(64, limit);
        let mut words: HashMap<_, u64> = HashMap::new();
        let mut now = MILLISECOND;
        for (number, (client, owner, after)) in (0_u64..).zip(sent) {
            now += after;
            // Others who come once, in between.
            for other in 0..4 {
                table.admit([1 << 40 | number, other], 7, now);
            }
            let key = [client, !client];
            let word = words.entry((key, owner)).or_default();
            // SAFETY: the word is this test's own.
            let expected = unsafe { limit.admit(word, 1, now, || now) };
            let evicted = table.evicted;
            let admitted = table.admit(key, owner, now);
            prop_assume!(evicted == 0);
            prop_assert_eq!(admitted, expected);
        }
    }

    /// Groups are taken alike, whatever clients have in common.
    #[test]
    fn neighbours_are_spread(first: u64, step in 1_u64..1 << 34, seed: u64) {
        const CLIENTS: u64 = 4096;
        let all = groups(CLIENTS as u32);
        let mut taken = vec![0; all as usize];
        for number in 0..CLIENTS {
            let low = first.wrapping_add(number.wrapping_mul(step));
            taken[group([0, low << 32 | 0xffff_0000], 1, seed | 1, all) as usize] += 1;
        }
        // Four of them on average; of random places one in 10,000 has more than 14.
        let most = taken.into_iter().max().expect("there are some");
        prop_assert!(most <= 24, "{most} in one group");
    }
}

#[test]
fn nobody_can_choose_addresses_that_meet() {
    // Those of a network of 56 bits that differ in bits that a product keeps where they are.
    let all = groups(65_536);
    for seed in [SEED, 1, u64::MAX, 0x1234_5678_9abc_def1] {
        let mut taken = vec![0_u32; all as usize];
        for number in 0..65_536_u64 {
            let (first, second) = (number & 0xff, number >> 8);
            let key = [0x2001_0db8 | first << 56, second << 56 | second << 24];
            taken[group(key, 1, seed, all) as usize] += 1;
        }
        // Four of them on average.
        let (most, used) =
            (taken.iter().max().expect("there are some"), taken.iter().filter(|taken| **taken > 0).count());
        assert!(*most <= 24 && used > 15_000, "{most} in one of {used}, seed {seed:#x}");
    }
}

#[test]
fn the_place_of_whoever_is_short_of_nothing_is_free() {
    let limit = limit(1000, 1);
    let mut table = Table::new(1, limit);
    assert_eq!(table.groups.len(), 1);
    // Ten times as many as there are places, each a millisecond after the one before: it is whole again by then.
    for number in 1..=10 * PLACES as u64 {
        assert!(table.admit([number, number], 1, number * MILLISECOND));
    }
    assert_eq!(table.evicted, 0);
    // All at once: one too many.
    let now = 1000 * MILLISECOND;
    for number in 0..=PLACES as u64 {
        assert!(table.admit([1 << 32, number], 1, now));
    }
    assert_eq!(table.evicted, 1);
}

#[test]
fn who_is_short_for_the_least_time_is_forgotten_first() {
    let limit = limit(1, 100);
    let mut table = Table::new(1, limit);
    let now = MILLISECOND;
    for client in 1..=PLACES as u64 {
        for _ in 0..client {
            table.admit([client, 0], 1, now);
        }
    }
    table.admit([99, 0], 1, now);
    let there: Vec<_> = table.groups[0].places.iter().map(|Client { address: [client, _], .. }| *client).collect();
    assert!(!there.contains(&1) && there.contains(&2) && there.contains(&99), "{there:?}");
    assert_eq!(table.evicted, 1);
    assert_eq!(table.groups[0].places.iter().filter(|client| client.is_short(now)).count(), PLACES);
    assert_eq!(table.groups[0].places.iter().filter(|client| client.is_short(now + 100_000 * MILLISECOND)).count(), 0);
}

#[test]
fn on_several_cpus_nobody_gets_more_than_the_burst_and_what_was_claimed_at_once() {
    const BURST: u64 = 1000;
    const CPUS: u64 = 4;
    const CLIENTS: u64 = 64;
    let limit = limit(1, BURST);
    let table: Vec<Group> = vec![Group::default(); groups(4096) as usize];
    let count = table.len() as u32;
    let shared = table.as_ptr() as usize;
    let passed: Vec<AtomicU64> = (0..CLIENTS).map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        for _ in 0..CPUS {
            scope.spawn(|| {
                for _ in 0..BURST {
                    for client in 0..CLIENTS {
                        let key = [client, 7];
                        let group = (shared as *mut Group).wrapping_add(group(key, 1, SEED, count) as usize);
                        // SAFETY: all of these threads write to it in this way alone.
                        let admitted = unsafe {
                            let mut place = find(group, key, 1);
                            if place >= NOWHERE {
                                place = claim(group, key, 1, MILLISECOND) & !EVICTED;
                            }
                            place >= NOWHERE || {
                                let word = (&raw mut (*group).places).cast::<Client>().add(place as usize);
                                limit.admit(&raw mut (*word).word, 1, MILLISECOND, || MILLISECOND)
                            }
                        };
                        passed[client as usize].fetch_add(admitted.into(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    for passed in passed {
        let passed = passed.into_inner();
        assert!((BURST..=BURST + 2 * CPUS).contains(&passed), "{passed} passed");
    }
}
