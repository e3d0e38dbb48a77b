//! What is counted for a flow while it moves to the flow table, on many CPUs at once: nothing is lost, nothing counted
//! twice, and nothing stays behind.
//!
//! The steps are those of `track` and `track_new` in exporter-ebpf/src/flow.rs, one by one.

#![allow(clippy::expect_used, reason = "a test panics for a stack trace")]

use std::{
    cell::UnsafeCell,
    collections::HashSet,
    hint, iter,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use tidewaiter_common::{
    api::ApiSlot,
    counters::Counters,
    direction::Direction::{self, Receive, Transmit},
    flow::Flow,
    packet::{Packet, protocol, tcp_flag},
    wire::Wire,
};

/// What passes, and on which CPU.
#[derive(Clone, Copy, Debug)]
struct Sight {
    protocol: u8,
    direction: Direction,
    tcp_flags: u8,
    wire: Wire,
}

impl Sight {
    const fn new(protocol: u8, direction: Direction, tcp_flags: u8) -> Self {
        Self { protocol, direction, tcp_flags, wire: Wire { packets: 1, bytes: 100 } }
    }

    const fn bits(&self) -> u64 {
        let packet = Packet { protocol: self.protocol, tcp_flags: self.tcp_flags, ..Packet::UNREAD };
        Flow::bits(&packet, self.direction)
    }

    /// # Safety
    /// As for [`Flow::count`].
    unsafe fn count(&self, flow: *mut Flow) {
        // SAFETY: the caller's.
        unsafe { Flow::count(flow, self.direction, self.wire, self.bits(), 2) };
    }
}

const NEW: Flow = Flow::new(ApiSlot(3), 1, 1);

/// What must be in the tables after `sights`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Expected {
    counters: [Counters; 2],
    tcp_flags: [u8; 2],
    is_established: bool,
}

impl Expected {
    fn after(sights: &[Sight]) -> Self {
        let mut flow = NEW;
        for sight in sights {
            // SAFETY: nobody else has the flow.
            unsafe { sight.count(&raw mut flow) };
        }
        let is_established = flow.is_established(sights[0].protocol.into());
        Self { counters: flow.wire(), tcp_flags: flags(&flow), is_established }
    }

    /// Sees that all is in one of the tables: in that of the flows which are established, as soon as it is one.
    #[track_caller]
    fn assert_is(&self, new: &Flow, established: Option<&Flow>) {
        assert_eq!(established.is_some(), self.is_established, "{new:?} {established:?}");
        let place = established.unwrap_or(new);
        assert_eq!((place.wire(), flags(place)), (self.counters, self.tcp_flags), "{new:?} {established:?}");
        if established.is_some() {
            assert_eq!(new.wire(), [Counters::default(); 2], "{new:?} {established:?}");
        }
    }
}

fn flags(flow: &Flow) -> [u8; 2] {
    Direction::ALL.map(|direction| flow.tcp_flags(direction))
}

/// Packets that must end up in one flow, whoever comes first. What is established must not hang on what was counted
/// alone, nor on what was seen alone.
fn conversations() -> Vec<Vec<Sight>> {
    let (syn, ack) = (tcp_flag::SYN, tcp_flag::ACK);
    let tcp = |direction, flags| Sight::new(protocol::TCP, direction, flags);
    let udp = |direction| Sight::new(protocol::UDP, direction, 0);
    let segments = Sight { wire: Wire { packets: 7, bytes: 7000 }, ..udp(Receive) };
    vec![
        vec![udp(Receive), udp(Transmit)],
        vec![udp(Receive), udp(Transmit), udp(Receive)],
        vec![udp(Receive), udp(Transmit), udp(Receive), udp(Transmit)],
        vec![segments, udp(Receive), udp(Receive)],
        vec![tcp(Receive, syn), tcp(Transmit, syn | ack), tcp(Receive, ack)],
        vec![tcp(Receive, ack), tcp(Transmit, ack), tcp(Receive, ack | tcp_flag::FIN)],
        // None of these.
        vec![segments],
        vec![udp(Receive), udp(Receive), udp(Receive)],
        vec![tcp(Receive, syn), tcp(Transmit, syn | ack), tcp(Receive, tcp_flag::RST)],
    ]
}

/// Both tables, as far as one key is concerned.
struct Tables {
    new: UnsafeCell<Flow>,
    established: UnsafeCell<Flow>,
    /// Whether the second table has the key.
    is_inserted: AtomicBool,
}

// SAFETY: the flows are written to by `Flow`'s methods alone.
unsafe impl Sync for Tables {}

impl Tables {
    fn new() -> Self {
        Self { new: NEW.into(), established: NEW.into(), is_inserted: false.into() }
    }

    /// `track` and `track_new`.
    fn track(&self, sight: &Sight) {
        let (new, established) = (self.new.get(), self.established.get());
        // SAFETY: flows that `Flow`'s methods alone write to, here and below; the copy may be of two moments.
        unsafe {
            if self.is_inserted.load(Ordering::Acquire) {
                return sight.count(established);
            }
            sight.count(new);
            if !Flow::has_moved(new) {
                let copy = new.read_volatile();
                if !copy.is_established(sight.protocol.into()) {
                    return;
                }
                // As an insertion, it is of use to the first alone, and all others see what that has done.
                self.is_inserted.store(true, Ordering::Release);
                Flow::set_moved(new);
            }
            if self.is_inserted.load(Ordering::Acquire) {
                Flow::move_counters(new, established);
            }
        }
    }
}

/// Rounds of the test with threads, each with tables of its own; and how long it may take, since on a busy machine threads
/// wait for each other.
const ROUNDS: usize = 200_000;
const LONGEST: Duration = Duration::from_secs(5);

#[test]
fn no_packet_is_lost_between_threads() {
    let conversations = conversations();
    // More than there are CPUs would wait for each other, and so never meet.
    let threads = thread::available_parallelism().map_or(2, |cpus| cpus.get().clamp(2, 4));
    let rounds: Vec<_> = iter::repeat_with(Tables::new).take(ROUNDS).collect();
    let (arrived, end) = (AtomicUsize::new(0), AtomicUsize::new(ROUNDS));
    let start = Instant::now();
    thread::scope(|scope| {
        for thread in 0..threads {
            let (rounds, conversations, arrived, end) = (&rounds, &conversations, &arrived, &end);
            scope.spawn(move || {
                for (round, tables) in rounds.iter().enumerate() {
                    if thread == 0 && start.elapsed() > LONGEST {
                        end.store(round, Ordering::SeqCst);
                    }
                    // All begin at once, or nearly so: by how much who is late differs from round to round.
                    arrived.fetch_add(1, Ordering::SeqCst);
                    let mut spins = 0;
                    while arrived.load(Ordering::SeqCst) < (round + 1) * threads {
                        spins += 1;
                        if spins % 1000 == 0 { thread::yield_now() } else { hint::spin_loop() }
                    }
                    if round == end.load(Ordering::SeqCst) {
                        return;
                    }
                    for _ in 0..(round * (2 * thread + 1)) % 16 {
                        hint::spin_loop();
                    }
                    let sights = &conversations[round % conversations.len()];
                    sights.iter().skip(thread).step_by(threads).for_each(|sight| tables.track(sight));
                }
            });
        }
    });
    for (mut tables, sights) in rounds.into_iter().take(end.into_inner()).zip(conversations.iter().cycle()) {
        let is_inserted = *tables.is_inserted.get_mut();
        let established = is_inserted.then_some(&*tables.established.get_mut());
        Expected::after(sights).assert_is(tables.new.get_mut(), established);
    }
}

/// Where a CPU is with its packet: what it does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Find,
    CountEstablished,
    CountNew,
    AskWhetherMoved,
    Copy,
    Insert,
    SetMoved,
    Move,
    Done,
}

/// Everything at one moment: both tables and all CPUs.
#[derive(Clone, Copy)]
struct Moment<const CPUS: usize> {
    new: Flow,
    established: Flow,
    is_inserted: bool,
    steps: [Step; CPUS],
}

impl<const CPUS: usize> Moment<CPUS> {
    /// What tells it from others.
    fn key(&self) -> impl Eq + std::hash::Hash + use<CPUS> {
        let numbers = |flow: &Flow| (flow.wire().map(|counters| (counters.packets, counters.bytes)), flow.seen);
        (numbers(&self.new), numbers(&self.established), self.is_inserted, self.steps)
    }

    /// What it is after `cpu` has done one thing more.
    fn after(mut self, cpu: usize, sight: &Sight) -> Self {
        let (new, established) = (&raw mut self.new, &raw mut self.established);
        // SAFETY: nobody else has the flows.
        self.steps[cpu] = unsafe {
            match self.steps[cpu] {
                Step::Find if self.is_inserted => Step::CountEstablished,
                Step::Find => Step::CountNew,
                Step::CountEstablished => {
                    sight.count(established);
                    Step::Done
                }
                Step::CountNew => {
                    sight.count(new);
                    Step::AskWhetherMoved
                }
                Step::AskWhetherMoved if Flow::has_moved(new) => Step::Move,
                Step::AskWhetherMoved => Step::Copy,
                Step::Copy if self.new.is_established(sight.protocol.into()) => Step::Insert,
                Step::Copy | Step::Done => Step::Done,
                Step::Insert => {
                    self.is_inserted = true;
                    Step::SetMoved
                }
                Step::SetMoved => {
                    Flow::set_moved(new);
                    Step::Move
                }
                Step::Move => {
                    assert!(self.is_inserted, "moved, but not there");
                    Flow::move_counters(new, established);
                    Step::Done
                }
            }
        };
        self
    }
}

/// Goes through every order in which the CPUs can do what they do, and answers with how many moments there are.
fn explore<const CPUS: usize>(sights: [Sight; CPUS]) -> usize {
    let expected = Expected::after(&sights);
    let mut moments = vec![Moment { new: NEW, established: NEW, is_inserted: false, steps: [Step::Find; CPUS] }];
    let mut seen = HashSet::new();
    while let Some(moment) = moments.pop() {
        if !seen.insert(moment.key()) {
            continue;
        }
        if moment.steps == [Step::Done; CPUS] {
            expected.assert_is(&moment.new, moment.is_inserted.then_some(&moment.established));
            continue;
        }
        let running = (0..CPUS).filter(|&cpu| moment.steps[cpu] != Step::Done);
        moments.extend(running.map(|cpu| moment.after(cpu, &sights[cpu])));
    }
    seen.len()
}

#[test]
fn no_packet_is_lost_in_whatever_order() {
    for sights in conversations() {
        let moments = match *sights.as_slice() {
            [first] => explore([first]),
            [first, second] => explore([first, second]),
            [first, second, third] => explore([first, second, third]),
            [first, second, third, fourth] => explore([first, second, third, fourth]),
            _ => panic!("more CPUs than are explored"),
        };
        assert!(moments >= 5_usize.pow(sights.len().try_into().expect("few")), "{moments} moments");
    }
}

#[test]
fn what_is_taken_out_of_a_flow_while_others_count_is_all_there_was() {
    const PACKETS: u64 = 300_000;
    /// So many that what was counted last is settled now and then: see `Flow::counters`.
    const BYTES: u64 = 1 << 32;
    let flow = UnsafeCell::new(NEW);
    let flow = &Shared(flow);
    let (counting, taken) = (AtomicUsize::new(2), UnsafeCell::new(NEW));
    thread::scope(|scope| {
        for direction in Direction::ALL {
            let counting = &counting;
            scope.spawn(move || {
                let sight = Sight {
                    wire: Wire { packets: 3, bytes: BYTES },
                    ..Sight::new(protocol::TCP, direction, tcp_flag::ACK)
                };
                for _ in 0..PACKETS {
                    // SAFETY: a flow that `Flow`'s methods alone write to.
                    unsafe { sight.count(flow.get()) };
                }
                counting.fetch_sub(1, Ordering::SeqCst);
            });
        }
        // As when the ends open another connection, again and again; and at last, when it is taken out of its table.
        let mut is_over = false;
        while !is_over {
            is_over = counting.load(Ordering::SeqCst) == 0;
            let mut copy = NEW;
            // SAFETY: as above; nobody else has the copies.
            unsafe {
                Flow::take(flow.get(), &raw mut copy);
                (*taken.get()).merge(&copy);
                if !is_over {
                    Flow::begin_anew(flow.get(), 0, 2);
                }
            }
        }
    });
    let (taken, left) = (taken.into_inner(), flow.0.get());
    assert_eq!(taken.wire(), [Counters { packets: 3 * PACKETS, bytes: BYTES * PACKETS }; 2]);
    assert_eq!(flags(&taken), [tcp_flag::ACK; 2]);
    // SAFETY: nobody else has it any more.
    assert_eq!(unsafe { &*left }.wire(), [Counters::default(); 2]);
}

/// A flow that several threads write to.
struct Shared(UnsafeCell<Flow>);

// SAFETY: the flow is written to by `Flow`'s methods alone.
unsafe impl Sync for Shared {}

impl Shared {
    const fn get(&self) -> *mut Flow {
        self.0.get()
    }
}
