//! Attaching the programs to interfaces.
//!
//! Programs share their hooks: ours is the first to see what is received and the last to see what is transmitted, and
//! always lets the next one run.

use std::io;

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    tc::{self, NlOptions, SchedClassifierLinkId, TcAttachOptions, TcError},
};
use tidewaiter_common::direction::Direction;
use tracing::debug;

use super::{Kernel, KernelError, program_name, programs::classifier};
use crate::config::AttachMode;

/// The priority of our TC filters: the first to be asked. (The kernel numbers from 1; 0 would let it choose.)
const FIRST_PRIORITY: u16 = 1;
/// The priority of our TC filters where they are to come last.
const LAST_PRIORITY: u16 = u16::MAX;

/// The kind of hook that the programs of an interface are attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// TCX, Linux 6.6 and later: gone with the process, however that ends.
    Tcx,
    /// Filters of a clsact qdisc: they outlive a process that is killed, and the next one removes them.
    Clsact,
}

impl Hook {
    /// Its name: `tcx` or `clsact`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// The links of one interface, by direction.
#[derive(Debug)]
pub(super) struct Attached([Option<SchedClassifierLinkId>; Direction::COUNT]);

impl Kernel {
    /// Attaches both programs to the interface called `name`, which has `index`.
    ///
    /// # Errors
    /// [`KernelError::Attach`]; then neither program is attached.
    pub fn attach(&mut self, index: u32, name: &str, mode: AttachMode) -> Result<Hook, KernelError> {
        match mode {
            AttachMode::Tcx => self.attach_both(index, name, Hook::Tcx),
            AttachMode::Clsact => self.attach_both(index, name, Hook::Clsact),
            AttachMode::Auto => match self.attach_both(index, name, Hook::Tcx) {
                Err(error) if is_unknown_to_the_kernel(&error) => self.attach_both(index, name, Hook::Clsact),
                attached => attached,
            },
        }
    }

    fn attach_both(&mut self, index: u32, name: &str, hook: Hook) -> Result<Hook, KernelError> {
        self.attached.insert(index, Attached([None, None]));
        for direction in Direction::ALL {
            let program = program_name(direction);
            let attached = classifier(&mut self.ebpf, program)?.attach_to(hook, direction, name);
            match attached {
                Ok(link) => {
                    if let Some(Attached(links)) = self.attached.get_mut(&index) {
                        links[direction.index()] = Some(link);
                    }
                }
                Err(source) => {
                    self.detach(index);
                    return Err(KernelError::Attach { program, interface: name.to_owned(), source: source.into() });
                }
            }
        }
        Ok(hook)
    }

    /// Detaches both programs from the interface with `index`; it may be gone already.
    pub fn detach(&mut self, index: u32) {
        let Some(Attached(links)) = self.attached.remove(&index) else { return };
        for (direction, link) in Direction::ALL.into_iter().zip(links) {
            let Some(link) = link else { continue };
            let detached = classifier(&mut self.ebpf, program_name(direction)).map(|program| program.detach(link));
            if let Ok(Err(error)) = detached {
                debug!(index, direction = direction.as_str(), %error, "there was nothing left to detach");
            }
        }
    }

    /// Detaches all programs from all interfaces.
    pub fn detach_all(&mut self) {
        let indexes: Vec<_> = self.attached.keys().copied().collect();
        for index in indexes {
            self.detach(index);
        }
    }
}

/// What [`SchedClassifier`] lacks.
trait AttachTo {
    fn attach_to(
        &mut self,
        hook: Hook,
        direction: Direction,
        interface: &str,
    ) -> Result<SchedClassifierLinkId, ProgramError>;
}

impl AttachTo for SchedClassifier {
    fn attach_to(
        &mut self,
        hook: Hook,
        direction: Direction,
        interface: &str,
    ) -> Result<SchedClassifierLinkId, ProgramError> {
        let (attach_type, order, priority) = match direction {
            Direction::Receive => (TcAttachType::Ingress, LinkOrder::first(), FIRST_PRIORITY),
            Direction::Transmit => (TcAttachType::Egress, LinkOrder::last(), LAST_PRIORITY),
        };
        let options = match hook {
            Hook::Tcx => TcAttachOptions::TcxOrder(order),
            Hook::Clsact => {
                remove_filters_left_behind(interface, attach_type, program_name(direction))?;
                TcAttachOptions::Netlink(NlOptions { priority, ..NlOptions::default() })
            }
        };
        self.attach_with_options(interface, attach_type, options)
    }
}

/// Makes sure that the interface has a clsact qdisc without a filter of the program called `name`: one that was killed
/// leaves its filters.
fn remove_filters_left_behind(interface: &str, attach_type: TcAttachType, name: &str) -> Result<(), TcError> {
    match tc::qdisc_add_clsact(interface) {
        Ok(()) => return Ok(()),
        Err(error) if has_kind(&error, io::ErrorKind::AlreadyExists) => {}
        Err(error) => return Err(error),
    }
    match tc::qdisc_detach_program(interface, attach_type, name) {
        Err(error) if !has_kind(&error, io::ErrorKind::NotFound) => Err(error),
        _ => Ok(()),
    }
}

/// Whether the kernel has never heard of TCX: it answers "invalid argument" to an attach type that it does not know.
fn is_unknown_to_the_kernel(error: &KernelError) -> bool {
    has_kind(error, io::ErrorKind::InvalidInput)
}

/// Whether `error` was caused by an I/O error of `kind`.
pub(super) fn has_kind(error: &(dyn std::error::Error + 'static), kind: io::ErrorKind) -> bool {
    io_error(error).is_some_and(|error| error.kind() == kind)
}

/// The I/O error that caused `error`, if one did.
pub(super) fn io_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // This variant passes for the I/O error, and so leaves it out of the chain.
        if let Some(TcError::IoError(error)) = error.downcast_ref() {
            return Some(error);
        }
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}
