//! The capabilities that are needed, and giving up all the others.

use caps::{CapSet, Capability, errors::CapsError, runtime};
use thiserror::Error;

/// The capabilities that the daemon needs at its start.
///
/// Without `CAP_PERFMON` the kernel guards programs against speculation, and refuses address arithmetic that these do.
pub const REQUIRED: [Capability; 3] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON];

/// Those of them that it keeps: interfaces come and go as long as it runs. Programs are loaded only once.
pub const KEPT: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN];

/// What each capability of [`REQUIRED`] is for.
#[must_use]
pub const fn purpose(capability: Capability) -> &'static str {
    match capability {
        Capability::CAP_BPF => "loads the programs, reads their maps",
        Capability::CAP_NET_ADMIN => "attaches the programs to interfaces",
        Capability::CAP_PERFMON => "loads programs that do arithmetic with addresses, or trace; given up afterwards",
        Capability::CAP_SYS_PTRACE => "names the processes behind listening sockets, where no API is configured",
        Capability::CAP_DAC_READ_SEARCH => "looks into processes of other users, where no API is configured",
        _ => "not needed",
    }
}

/// What can go wrong with capabilities.
#[derive(Debug, Error)]
pub enum CapabilityError {
    /// Some that are needed are not there.
    #[error("missing {}: run as root, or grant it: {}", names(.0), grant(.0))]
    Missing(Vec<Capability>),
    /// The kernel would not say, or not let go.
    #[error("cannot {action} the capabilities of this process: {source}")]
    Failed {
        /// "read" or "drop".
        action: &'static str,
        /// Why.
        source: CapsError,
    },
    /// The kernel would not promise that no program that is executed gains any.
    #[error("cannot set no_new_privs: {0}")]
    NoNewPrivileges(rustix::io::Errno),
}

/// Sees that every capability of [`REQUIRED`] is in effect.
///
/// # Errors
/// [`CapabilityError::Missing`] names those that are not, and the command that grants them.
pub fn require() -> Result<(), CapabilityError> {
    let mut missing = Vec::new();
    for capability in REQUIRED {
        if !is_effective(capability)? {
            missing.push(capability);
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(CapabilityError::Missing(missing)) }
}

/// Whether `capability` is in effect.
pub fn is_effective(capability: Capability) -> Result<bool, CapabilityError> {
    caps::has_cap(None, CapSet::Effective, capability)
        .map_err(|source| CapabilityError::Failed { action: "read", source })
}

/// Gives up every capability but `kept`, for good: this thread, and whatever it starts, cannot get them back.
///
/// Capabilities belong to threads, so this must come before any other thread is started.
pub fn keep_only(kept: &[Capability]) -> Result<(), CapabilityError> {
    drop_all_but(kept).map_err(|source| CapabilityError::Failed { action: "drop", source })?;
    rustix::thread::set_no_new_privs(true).map_err(CapabilityError::NoNewPrivileges)
}

/// Does something as it would be done by one who has `kept` alone, of the capabilities that are in effect; those come back
/// afterwards.
pub fn with_only<T>(kept: &[Capability], act: impl FnOnce() -> T) -> Result<T, CapabilityError> {
    let before =
        caps::read(None, CapSet::Effective).map_err(|source| CapabilityError::Failed { action: "read", source })?;
    let fewer = before.intersection(&kept.iter().copied().collect()).copied().collect();
    let set = |wanted| {
        caps::set(None, CapSet::Effective, wanted)
            .map_err(|source| CapabilityError::Failed { action: "put away", source })
    };
    set(&fewer)?;
    let done = act();
    set(&before)?;
    Ok(done)
}

fn drop_all_but(kept: &[Capability]) -> Result<(), CapsError> {
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in runtime::thread_all_supported() {
            if !kept.contains(&capability) && caps::has_cap(None, CapSet::Bounding, capability)? {
                caps::drop(None, CapSet::Bounding, capability)?;
            }
        }
    }
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept = permitted.intersection(&kept.iter().copied().collect()).copied().collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Inheritable, &caps::CapsHashSet::new())?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}

fn names(capabilities: &[Capability]) -> String {
    let names: Vec<_> = capabilities.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// How to grant `capability` to this program.
#[must_use]
pub fn how_to_grant(capability: Capability) -> String {
    format!("run as root, or grant it: {}", grant(&[capability]))
}

/// The command that grants `capabilities` to this program, along with what is needed in any case: `setcap` replaces what
/// was granted before.
fn grant(capabilities: &[Capability]) -> String {
    let program = std::env::current_exe().map_or_else(|_| "tidewaiter".into(), |path| path.display().to_string());
    let others = capabilities.iter().filter(|capability| !REQUIRED.contains(capability));
    let all: Vec<_> = REQUIRED.iter().chain(others).collect();
    let names: Vec<_> = all.iter().map(|capability| capability.to_string().to_lowercase()).collect();
    format!("setcap {}+ep {program}", names.join(","))
}
