//! Running a program on frames that differ from run to run: `BPF_PROG_TEST_RUN` repeats the very same frame.
//!
//! A small program changes the frame, and ends in the one that is to be measured; the frame keeps the change until the next
//! run. What this costs by itself is known from another one that does the same and ends in a program that does nothing.

use std::{
    os::fd::{AsFd as _, AsRawFd as _},
    sync::Arc,
};

use tidewaiter::kernel::Kernel;
use tidewaiter_common::direction::Direction;

use super::{
    Map, Program,
    assembler::{
        add, add_word, call, constant, constant_word, copy, exit, load_word, map, multiply_word, skip_if_above,
        skip_unless_word, store_word, swap_word,
    },
    uapi,
};

/// How a number of 4 bytes in network byte order changes from frame to frame. `at` is its offset in the frame.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// It grows.
    Grow {
        /// Which one.
        at: usize,
        /// By how much.
        by: u32,
    },
    /// It goes through `count` numbers from `from` on, over and over.
    Rotate {
        /// Which one.
        at: usize,
        /// The first.
        from: u32,
        /// How many.
        count: u32,
    },
    /// It goes through all numbers in an order that looks random, and is none twice within 2^32 frames.
    Scatter {
        /// Which one.
        at: usize,
    },
}

impl Change {
    const fn at(self) -> usize {
        match self {
            Self::Grow { at, .. } | Self::Rotate { at, .. } | Self::Scatter { at } => at,
        }
    }

    /// Instructions that change the frame that register 2 points to; they use register 5.
    fn instructions(self) -> Vec<u64> {
        let at = i16::try_from(self.at()).expect("is within a frame");
        let mut code = vec![load_word(5, 2, at), swap_word(5)];
        match self {
            Self::Grow { by, .. } => code.push(add_word(5, by)),
            Self::Rotate { from, count, .. } => {
                code.extend([add_word(5, 1), skip_unless_word(5, from.wrapping_add(count), 1), constant_word(5, from)]);
            }
            // Its period is all of 2^32 (Knuth, "The Art of Computer Programming", 3.2.1.2, theorem A).
            Self::Scatter { .. } => code.extend([multiply_word(5, 1_664_525), add_word(5, 1_013_904_223)]),
        }
        code.extend([swap_word(5), store_word(2, at, 5)]);
        code
    }
}

/// What a frame is given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The program that does nothing.
    Nothing,
    /// The one that accounts packets of a direction.
    Account(Direction),
}

impl Target {
    const fn place(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Account(direction) => 1 + direction.index(),
        }
    }
}

/// The programs that can be measured.
#[derive(Debug)]
pub struct Targets(Arc<Map>);

impl Targets {
    /// Those of `kernel`.
    pub fn of(kernel: &mut Kernel) -> Self {
        let nothing = Program::nothing();
        let [receive, transmit] = Direction::ALL.map(|direction| {
            kernel.program(direction).expect("is loaded").try_clone_to_owned().expect("a descriptor is free")
        });
        Self(Arc::new(Map::of_programs(&[nothing.0.as_fd(), receive.as_fd(), transmit.as_fd()])))
    }

    /// What gives frames with `changes` to each of them.
    #[must_use]
    pub fn drive(&self, changes: &[Change]) -> Drive {
        let load = |target: Target| {
            let least = changes.iter().map(|change| change.at() + 4).max().unwrap_or_default();
            let changes: Vec<u64> = changes.iter().flat_map(|change| change.instructions()).collect();
            // A frame that is too short is not changed.
            let end = i16::try_from(changes.len()).expect("a few");
            let mut code = vec![copy(6, 1), load_word(2, 6, 76), load_word(3, 6, 80)];
            code.extend([copy(4, 2), add(4, small(least)), skip_if_above(4, 3, end)]);
            code.extend(changes);
            code.push(copy(1, 6));
            code.extend(map(2, self.0.0.as_raw_fd()));
            code.extend([constant(3, small(target.place())), call(uapi::TAIL_CALL)]);
            code.extend([constant(0, uapi::TCX_NEXT), exit()]);
            Program::load(uapi::SCHED_CLS, &code)
        };
        let [receive, transmit] = Direction::ALL.map(Target::Account);
        Drive { programs: [Target::Nothing, receive, transmit].map(load), _targets: Arc::clone(&self.0) }
    }
}

fn small(number: usize) -> i32 {
    number.try_into().expect("is small")
}

/// Gives changed frames to programs.
#[derive(Debug)]
pub struct Drive {
    programs: [Program; 3],
    /// The kernel empties such a map when nobody has it open any more.
    _targets: Arc<Map>,
}

impl Drive {
    /// Changes `frame` and has it dealt with, `times` over; `frame` is then the last of them. Answers with nanoseconds for
    /// each, on average.
    pub fn run(&self, target: Target, frame: &mut [u8], times: u32) -> f64 {
        self.programs[target.place()].run(frame, times).as_secs_f64() * 1e9
    }
}
