//! The kernel side as userspace sees it: load, attach, fill tables, read counters.
//!
//! Nothing outside this module names `aya`.

mod attach;
pub mod error;
pub mod features;
mod programs;
mod tables;

use std::collections::HashMap;

use aya::{Ebpf, EbpfLoader, util::nr_cpus};
use tidewaiter_common::{ACCOUNT_RECEIVE, ACCOUNT_TRANSMIT, direction::Direction};

use self::{attach::Attached, programs::load_program};
pub use self::{
    attach::Hook,
    error::KernelError,
    programs::{ProgramStatistics, TestRun},
};

/// The compiled kernel side; made from `exporter-ebpf` by its `build` script.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/tidewaiter.bpf.o");

/// The loaded kernel side. Dropping it detaches whatever is attached.
#[derive(Debug)]
pub struct Kernel {
    ebpf: Ebpf,
    cpus: usize,
    attached: HashMap<u32, Attached>,
}

impl Kernel {
    /// Creates the maps, all of them empty, and loads the programs.
    ///
    /// # Errors
    /// Mostly for lack of permission, or a kernel that is too old.
    pub fn load() -> Result<Self, KernelError> {
        let cpus = nr_cpus().map_err(|(file, source)| KernelError::Cpus { file, source })?;
        let mut ebpf = EbpfLoader::new().load(OBJECT).map_err(KernelError::Load)?;
        for direction in Direction::ALL {
            load_program(&mut ebpf, program_name(direction))?;
        }
        Ok(Self { ebpf, cpus, attached: HashMap::new() })
    }
}

/// The name of the program that accounts packets of `direction`.
const fn program_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Receive => ACCOUNT_RECEIVE,
        Direction::Transmit => ACCOUNT_TRANSMIT,
    }
}
