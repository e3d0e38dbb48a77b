//! What this kernel can do, found out without changing anything.

use std::{io, path::Path};

use aya::{
    maps::MapType,
    programs::{ProgramType, SchedClassifier, TcAttachType},
    sys::{is_map_supported, is_program_supported},
};
use rustix::{fs::statfs, io::Errno};

pub use super::tracepoints::transmission;
use super::{btf::KERNEL_BTF, pins::BPF_FILE_SYSTEM};
use crate::chain::chain;

/// `BPF_FS_MAGIC`, `include/uapi/linux/magic.h`.
pub(super) const BPF_FILE_SYSTEM_MAGIC: i64 = 0xcafe_4a11;

/// Whether the kernel has something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    /// It has.
    Yes,
    /// It has not.
    No,
    /// It would not say, and why.
    Unknown(String),
}

impl<E: std::error::Error + 'static> From<Result<bool, E>> for Support {
    fn from(result: Result<bool, E>) -> Self {
        match result {
            Ok(true) => Self::Yes,
            Ok(false) => Self::No,
            Err(error) => Self::Unknown(chain(&error)),
        }
    }
}

/// BTF, the kernel's own type information.
#[must_use]
pub fn btf() -> Support {
    if Path::new(KERNEL_BTF).exists() { Support::Yes } else { Support::No }
}

/// TC programs.
#[must_use]
pub fn tc() -> Support {
    is_program_supported(ProgramType::SchedClassifier).into()
}

/// TCX, by asking what is attached to `lo` that way: a kernel without it does not know the question.
#[must_use]
pub fn tcx() -> Support {
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => Support::Yes,
        Err(error) => match super::attach::io_error(&error).map(io::Error::kind) {
            Some(io::ErrorKind::InvalidInput) => Support::No,
            _ => Support::Unknown(chain(&error)),
        },
    }
}

/// XDP programs.
#[must_use]
pub fn xdp() -> Support {
    is_program_supported(ProgramType::Xdp).into()
}

/// Ring buffers.
#[must_use]
pub fn ring_buffer() -> Support {
    is_map_supported(MapType::RingBuf).into()
}

/// The BPF file system, mounted.
#[must_use]
pub fn bpf_file_system() -> Support {
    match statfs(BPF_FILE_SYSTEM) {
        Ok(stat) if stat.f_type == BPF_FILE_SYSTEM_MAGIC => Support::Yes,
        Ok(_) | Err(Errno::NOENT) => Support::No,
        Err(error) => Support::Unknown(error.to_string()),
    }
}
