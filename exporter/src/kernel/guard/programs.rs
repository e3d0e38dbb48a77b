//! The programs that judge frames.

use aya::{
    maps::ProgramArray,
    programs::{ProgramError, TestRun as _, TestRunOptions, Xdp},
};
use tidewaiter_common::{ASK_FRAME, ASK_FRAME_INDEX, BASELINE_FRAME, GUARD_FRAME, REFUSE_FRAME, REFUSE_FRAME_INDEX};

use crate::kernel::{
    Kernel, KernelError, TestRun,
    tables::{name, write},
};

impl Kernel {
    /// Runs the program that judges frames on `frame`, `repeat` times, as if `lo` had received it.
    ///
    /// # Errors
    /// [`KernelError::TestRun`] if the kernel refuses the frame.
    pub fn test_run_guard(&mut self, frame: &[u8], repeat: u32) -> Result<TestRun, KernelError> {
        test_run_frame(&mut self.ebpf, GUARD_FRAME, frame, repeat)
    }

    /// Runs a program of XDP that does nothing, for comparison; otherwise as [`Kernel::test_run_guard`].
    pub fn test_run_guard_baseline(&mut self, frame: &[u8], repeat: u32) -> Result<TestRun, KernelError> {
        let program = xdp(&mut self.ebpf, BASELINE_FRAME)?;
        if program.fd().is_err() {
            program.load().map_err(|source| KernelError::Refused { program: BASELINE_FRAME, source: source.into() })?;
        }
        test_run_frame(&mut self.ebpf, BASELINE_FRAME, frame, repeat)
    }
}

fn test_run_frame(ebpf: &mut aya::Ebpf, name: &'static str, frame: &[u8], repeat: u32) -> Result<TestRun, KernelError> {
    let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::new() };
    let result = xdp(ebpf, name)?
        .test_run(options)
        .map_err(|source| KernelError::TestRun { program: name, source: source.into() })?;
    Ok(TestRun { verdict: result.return_value.cast_signed(), duration: result.duration })
}

/// The programs that judge frames. A kernel that does not take them judges buffers alone.
pub(in crate::kernel) const OF_FRAMES: [&str; 3] = [GUARD_FRAME, ASK_FRAME, REFUSE_FRAME];

/// Has the programs that judge frames end in those that were loaded.
pub(in crate::kernel) fn set_programs(ebpf: &mut aya::Ebpf) -> Result<(), KernelError> {
    set_frame_program(ebpf, REFUSE_FRAME_INDEX, REFUSE_FRAME)?;
    set_frame_program(ebpf, ASK_FRAME_INDEX, ASK_FRAME)
}

/// Puts a loaded program among those of XDP that others end in.
fn set_frame_program(ebpf: &mut aya::Ebpf, index: u32, name: &'static str) -> Result<(), KernelError> {
    let refused = |source: ProgramError| KernelError::Refused { program: name, source: source.into() };
    let program = xdp(ebpf, name)?.fd().map_err(refused)?;
    let program = program.try_clone().map_err(|source| refused(source.into()))?;
    let map =
        ebpf.map_mut(name::FRAME_PROGRAMS).ok_or(KernelError::Missing { kind: "map", name: name::FRAME_PROGRAMS })?;
    ProgramArray::try_from(map)
        .and_then(|mut programs| programs.set(index, &program, 0))
        .map_err(write(name::FRAME_PROGRAMS))
}

pub(super) fn xdp<'a>(ebpf: &'a mut aya::Ebpf, name: &'static str) -> Result<&'a mut Xdp, KernelError> {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(KernelError::Missing { kind: "program", name })
}
