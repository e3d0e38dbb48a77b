//! The programs: loading them, running one by itself, and what the kernel knows of them.

use std::{
    collections::HashMap,
    num::NonZero,
    os::fd::{AsFd as _, BorrowedFd},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::ProgramArray,
    programs::{Program, ProgramError, SchedClassifier, TestRun as _, TestRunOptions},
};
use rustix::time::{ClockId, clock_getres};
use tidewaiter_common::{BASELINE, CLOCK, direction::Direction};

use super::{
    Kernel, KernelError, program_name,
    tables::{name::PROGRAMS, write},
};

/// How often a program ran and for how long, while the kernel's BPF statistics are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramStatistics {
    /// The program's name.
    pub name: &'static str,
    /// How often it ran.
    pub runs: u64,
    /// How long it ran, added up over all CPUs.
    pub run_time: Duration,
}

/// The ticks of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticks {
    /// The last one.
    pub now: u64,
    /// Time from one to the next.
    pub length: Duration,
}

impl Ticks {
    /// The tick that comes so much later.
    #[must_use]
    pub fn after(&self, duration: Duration) -> u64 {
        let ticks = duration.as_nanos().checked_div(self.length.as_nanos()).unwrap_or_default();
        self.now.saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX))
    }

    /// The tick that was so long ago.
    #[must_use]
    pub fn ago(&self, duration: Duration) -> u64 {
        let ticks = duration.as_nanos().checked_div(self.length.as_nanos()).unwrap_or_default();
        self.now.saturating_sub(u64::try_from(ticks).unwrap_or(u64::MAX))
    }
}

/// The result of running a program by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// What it returned: -1 is "ask the next program".
    pub verdict: i32,
    /// Time of one run, on average; the kernel says it in whole nanoseconds.
    pub duration: Duration,
}

/// A packet of a capture, as the programs are run on it.
#[derive(Clone, Copy, Debug)]
pub struct CapturedPacket<'a> {
    /// Its bytes, as far as they were captured.
    pub data: &'a [u8],
    /// Its length on the wire in bytes, at least that of `data`.
    pub length: u32,
    /// When it passed, in nanoseconds since the epoch.
    pub time: u64,
    /// Index of the interface that it is said to pass; there need be none.
    pub interface: u32,
}

/// How much of a packet is given to a program in a replay: more than all headers, less than what the kernel takes (a page
/// without what it needs around it, `bpf_test_init` in `net/bpf/test_run.c`).
const REPLAYED_BYTES: usize = 2_048;

/// `struct __sk_buff` of `include/uapi/linux/bpf.h`, as far as it is set or read here.
pub(super) mod context {
    pub(super) const MARK: usize = 8;
    pub(super) const CB: usize = 48;
    pub(super) const TSTAMP: usize = 152;
    pub(in crate::kernel) const BYTES: usize = 192;

    /// The number that a program has left in the first two words of the control buffer.
    pub(in crate::kernel) fn number(context: &[u8; BYTES]) -> u64 {
        let word = |at: usize| u64::from(u32::from_ne_bytes([0, 1, 2, 3].map(|byte| context[at + byte])));
        word(CB) | word(CB + 4) << 32
    }
}

impl Kernel {
    /// Runs the program that accounts packets of `direction` on `packet`, once. The programs must have been loaded to replay.
    ///
    /// # Errors
    /// [`KernelError::TestRun`] if the kernel refuses the packet: one that is shorter than the headers that it says to have.
    pub fn replay(&mut self, direction: Direction, packet: CapturedPacket<'_>) -> Result<(), KernelError> {
        let CapturedPacket { data, length, time, interface } = packet;
        let data = data.get(..REPLAYED_BYTES).unwrap_or(data);
        let mut context = [0; context::BYTES];
        context[context::MARK..][..4].copy_from_slice(&interface.to_ne_bytes());
        context[context::TSTAMP..][..8].copy_from_slice(&time.to_ne_bytes());
        context[context::CB..][..4].copy_from_slice(&length.to_ne_bytes());
        let options = TestRunOptions { ctx_in: Some(&context), ..on(data, 1) };
        test_run(&mut self.ebpf, program_name(direction), options).map(|_| ())
    }

    /// Runs the program that accounts packets of `direction` on `frame`, `repeat` times, as if it passed `lo`.
    ///
    /// # Errors
    /// [`KernelError::TestRun`] if the kernel refuses the frame: one that is shorter than its headers say, or longer than
    /// about 3.7 KB.
    pub fn test_run(&mut self, direction: Direction, frame: &[u8], repeat: u32) -> Result<TestRun, KernelError> {
        test_run(&mut self.ebpf, program_name(direction), on(frame, repeat))
    }

    /// What tick of the kernel it is, in which flows say when they were last seen.
    pub fn ticks(&mut self) -> Result<Ticks, KernelError> {
        let mut context = [0; context::BYTES];
        // Any frame will do that is not too short.
        let options = TestRunOptions { ctx_out: Some(&mut context), ..on(&[0; 64], 1) };
        test_run(&mut self.ebpf, CLOCK, options)?;
        // The coarse clock goes on with each tick, so its resolution is the length of one.
        let length = clock_getres(ClockId::MonotonicCoarse);
        Ok(Ticks {
            now: context::number(&context),
            length: Duration::new(length.tv_sec.unsigned_abs(), length.tv_nsec.unsigned_abs() as u32),
        })
    }

    /// The program that accounts packets of `direction`, for other programs to end in.
    pub fn program(&mut self, direction: Direction) -> Result<BorrowedFd<'_>, KernelError> {
        let name = program_name(direction);
        let program = classifier(&mut self.ebpf, name)?.fd();
        program
            .map(|program| program.as_fd())
            .map_err(|source| KernelError::Refused { program: name, source: source.into() })
    }

    /// Runs a program that does nothing, for comparison; otherwise as [`Kernel::test_run`].
    pub fn test_run_baseline(&mut self, frame: &[u8], repeat: u32) -> Result<TestRun, KernelError> {
        let program = classifier(&mut self.ebpf, BASELINE)?;
        if program.fd().is_err() {
            program.load().map_err(|source| KernelError::Refused { program: BASELINE, source: source.into() })?;
        }
        test_run(&mut self.ebpf, BASELINE, on(frame, repeat))
    }

    /// How often each program ran and for how long; both are 0 while the kernel's BPF statistics are off.
    pub fn program_statistics(&mut self) -> Result<Vec<ProgramStatistics>, KernelError> {
        Direction::ALL
            .into_iter()
            .map(|direction| {
                let name = program_name(direction);
                let info = classifier(&mut self.ebpf, name)?
                    .info()
                    .map_err(|source| KernelError::Refused { program: name, source: source.into() })?;
                Ok(ProgramStatistics { name, runs: info.run_count(), run_time: info.run_time() })
            })
            .collect()
    }
}

/// Loads the programs that are called `names`. What the kernel's verifier takes for each is nearly all of the time that a start takes,
/// and it takes it for several at once: so each CPU loads some. Answers with what went wrong, and with which.
pub(super) fn load_programs(
    ebpf: &mut Ebpf,
    names: impl Iterator<Item = &'static str>,
) -> Vec<(&'static str, KernelError)> {
    let mut found: HashMap<_, _> = ebpf.programs_mut().collect();
    let (programs, missing): (Vec<_>, Vec<_>) =
        names.map(|name| (name, found.remove(name))).partition(|(_, program)| program.is_some());
    let mut failures: Vec<_> =
        missing.into_iter().map(|(name, _)| (name, KernelError::Missing { kind: "program", name })).collect();
    let workers = thread::available_parallelism().map_or(1, NonZero::get).min(programs.len());
    let queue = Mutex::new(programs.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let load_some = || {
        let mut failures = Vec::new();
        while let Some((name, Some(program))) = next() {
            if let Err(source) = load(program) {
                failures.push((name, KernelError::Refused { program: name, source: source.into() }));
            }
        }
        failures
    };
    thread::scope(|scope| {
        // A thread that there is no room for is one less.
        let others: Vec<_> =
            (1..workers).filter_map(|_| thread::Builder::new().spawn_scoped(scope, load_some).ok()).collect();
        failures.extend(load_some());
        for other in others {
            failures.extend(other.join().unwrap_or_default());
        }
    });
    failures
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Puts a loaded program among those that others end in.
pub(super) fn set_program(ebpf: &mut Ebpf, index: u32, name: &'static str) -> Result<(), KernelError> {
    let refused = |source: ProgramError| KernelError::Refused { program: name, source: source.into() };
    let program = classifier(ebpf, name)?.fd().map_err(refused)?;
    let program = program.try_clone().map_err(|source| refused(source.into()))?;
    let map = ebpf.map_mut(PROGRAMS).ok_or(KernelError::Missing { kind: "map", name: PROGRAMS })?;
    ProgramArray::try_from(map).and_then(|mut programs| programs.set(index, &program, 0)).map_err(write(PROGRAMS))
}

pub(super) fn classifier<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, KernelError> {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(KernelError::Missing { kind: "program", name })
}

/// To run a program on `frame`, `repeat` times.
fn on(frame: &[u8], repeat: u32) -> TestRunOptions<'_> {
    TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::new() }
}

pub(super) fn test_run(
    ebpf: &mut Ebpf,
    name: &'static str,
    options: TestRunOptions<'_>,
) -> Result<TestRun, KernelError> {
    let result = classifier(ebpf, name)?
        .test_run(options)
        .map_err(|source| KernelError::TestRun { program: name, source: source.into() })?;
    Ok(TestRun { verdict: result.return_value.cast_signed(), duration: result.duration })
}
