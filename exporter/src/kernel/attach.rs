//! Attaching the programs to interfaces.
//!
//! Programs share their hooks: ours is the first to see what is received and the last to see what is transmitted, and
//! always lets the next one run. Where a program of an exporter before us is attached, ours takes its place in one step, so
//! that no packet passes between the two.

use std::io;

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    links::{FdLink, LinkError, PinnedLink},
    tc::{self, NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcError, TcHandle},
};
use tidewaiter_common::direction::Direction;
use tracing::debug;

use super::{
    Kernel, KernelError,
    pins::{Pins, remove_filter},
    program_name,
    programs::classifier,
};
use crate::config::AttachMode;

/// The kind of hook that the programs of an interface are attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// TCX, Linux 6.6 and later: detached with the last user of the link, which is the pin if there is one.
    Tcx,
    /// Filters of a clsact qdisc: they stay until they are removed.
    Clsact,
}

impl Hook {
    /// All kinds.
    pub const ALL: [Self; 2] = [Self::Tcx, Self::Clsact];

    /// Its name: `tcx` or `clsact`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// What keeps the programs of one interface attached.
#[derive(Debug)]
pub(super) struct Attached {
    hook: Hook,
    /// The links of TCX, by direction.
    links: [Option<FdLink>; Direction::COUNT],
}

/// Where a program is to be attached.
#[derive(Clone, Copy)]
struct Place<'a> {
    index: u32,
    interface: &'a str,
    direction: Direction,
}

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
        self.attached.insert(index, Attached { hook, links: [None, None] });
        for direction in Direction::ALL {
            let place = Place { index, interface: name, direction };
            let attached = match hook {
                Hook::Tcx => self.attach_tcx(place).map(Some),
                Hook::Clsact => self.attach_filter(place).map(|()| None),
            };
            match attached {
                Ok(link) => {
                    if let Some(attached) = self.attached.get_mut(&index) {
                        attached.links[direction.index()] = link;
                    }
                }
                Err(error) => {
                    self.detach(index);
                    return Err(error);
                }
            }
        }
        // What was attached the other way before would count everything a second time.
        if let Some(pins) = &self.pins {
            for other in Hook::ALL.into_iter().filter(|other| *other != hook) {
                for direction in Direction::ALL {
                    pins.detach(other, index, direction);
                }
            }
        }
        Ok(hook)
    }

    fn attach_tcx(&mut self, place: Place<'_>) -> Result<FdLink, KernelError> {
        let Place { index, interface, direction } = place;
        let pin = self.pins.as_ref().map(|pins| pins.hook(Hook::Tcx, index, direction));
        let program = classifier(&mut self.ebpf, program_name(direction))?;
        let failed = |source: ProgramError| attach_error(place, source);

        if let Some(pin) = pin.as_ref().filter(|pin| pin.exists()) {
            match take_over(program, pin) {
                Ok(link) => return Ok(link),
                Err(error) => debug!(interface, %error, "cannot take over a link: its interface is gone"),
            }
            if let Some(pins) = &self.pins {
                pins.detach(Hook::Tcx, index, direction);
            }
        }
        let order = match direction {
            Direction::Receive => LinkOrder::first(),
            Direction::Transmit => LinkOrder::last(),
        };
        let options = TcAttachOptions::TcxOrder(order);
        let id = program.attach_with_options(interface, attach_type(direction), options).map_err(failed)?;
        let link = take(program, id).map_err(failed)?;
        match pin {
            Some(pin) => {
                let pinned = link.pin(&pin).map_err(|source| KernelError::Pin { path: pin, source })?;
                Ok(pinned.into())
            }
            None => Ok(link),
        }
    }

    fn attach_filter(&mut self, place: Place<'_>) -> Result<(), KernelError> {
        let Place { index, interface, direction } = place;
        let failed = |source: ProgramError| attach_error(place, source);
        let handle = self.filter_handle;
        let program = classifier(&mut self.ebpf, program_name(direction))?;
        attach_or_replace(program, interface, direction, handle).map_err(failed)?;

        let Some(pins) = &self.pins else { return Ok(()) };
        let pin = pins.hook(Hook::Clsact, index, direction);
        if !pin.exists() {
            program.pin(&pin).map_err(|source| KernelError::Pin { path: pin, source })?;
        }
        Ok(())
    }

    /// Detaches both programs from the interface with `index`; it may be gone already.
    pub fn detach(&mut self, index: u32) {
        let attached = self.attached.remove(&index);
        for direction in Direction::ALL {
            match &self.pins {
                Some(pins) => {
                    for hook in Hook::ALL {
                        pins.detach(hook, index, direction);
                    }
                }
                None if attached.as_ref().is_some_and(|attached| attached.hook == Hook::Clsact) => {
                    remove_filter(index, direction, self.filter_handle);
                }
                None => {}
            }
        }
        // Closing the last descriptor of an unpinned link detaches it.
        drop(attached);
    }

    /// Detaches all programs from all interfaces.
    pub fn detach_all(&mut self) {
        let indexes: Vec<_> = self.attached.keys().copied().collect();
        for index in indexes {
            self.detach(index);
        }
    }

    /// Indexes of the interfaces that a program is attached to although nobody asked for it: an exporter before us did.
    #[must_use]
    pub fn left_attached(&self) -> Vec<u32> {
        let hooks = self.pins.as_ref().map(Pins::hooks).unwrap_or_default();
        let mut indexes: Vec<_> = hooks.into_iter().map(|(_, index, _)| index).collect();
        indexes.sort_unstable();
        indexes.dedup();
        indexes.retain(|index| !self.attached.contains_key(index));
        indexes
    }
}

/// Puts `program` in the place of the one that the link pinned at `pin` attaches.
fn take_over(program: &mut SchedClassifier, pin: &std::path::Path) -> Result<FdLink, ProgramError> {
    let link = FdLink::from(PinnedLink::from_pin(pin).map_err(link_error)?);
    let id = program.attach_to_link(SchedClassifierLink::try_from(link).map_err(link_error)?)?;
    take(program, id)
}

/// Takes a link out of the keeping of `program`.
fn take(program: &mut SchedClassifier, id: SchedClassifierLinkId) -> Result<FdLink, ProgramError> {
    FdLink::try_from(program.take_link(id)?).map_err(link_error)
}

fn link_error(error: LinkError) -> ProgramError {
    match error {
        LinkError::SyscallError(error) => error.into(),
        LinkError::InvalidLink | LinkError::UnknownLinkType(_) => ProgramError::UnexpectedProgramType,
    }
}

/// Makes `program` the TC filter with `handle`, in the place of the one that is there.
fn attach_or_replace(
    program: &mut SchedClassifier,
    interface: &str,
    direction: Direction,
    handle: TcHandle,
) -> Result<(), ProgramError> {
    let (attach_type, priority) = (attach_type(direction), priority(direction));
    match tc::qdisc_add_clsact(interface) {
        Err(error) if !has_kind(&error, io::ErrorKind::AlreadyExists) => return Err(error.into()),
        _ => {}
    }
    let there =
        SchedClassifierLink::attached(interface, attach_type, priority, handle, None).map_err(TcError::IoError)?;
    let id = match program.attach_to_link(there) {
        Err(error) if has_kind(&error, io::ErrorKind::NotFound) => {
            let options = NlOptions { priority, handle, ..NlOptions::default() };
            program.attach_with_options(interface, attach_type, TcAttachOptions::Netlink(options))?
        }
        attached => attached?,
    };
    // In the keeping of the program it would be removed with that; a filter is to stay until it is removed by name.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// Where programs of `direction` are attached.
pub(super) const fn attach_type(direction: Direction) -> TcAttachType {
    match direction {
        Direction::Receive => TcAttachType::Ingress,
        Direction::Transmit => TcAttachType::Egress,
    }
}

/// The priority of our TC filters: first to be asked, or last. (The kernel numbers from 1; 0 would let it choose.)
pub(super) const fn priority(direction: Direction) -> u16 {
    match direction {
        Direction::Receive => 1,
        Direction::Transmit => u16::MAX,
    }
}

fn attach_error(place: Place<'_>, source: ProgramError) -> KernelError {
    let Place { index: _, interface, direction } = place;
    KernelError::Attach { program: program_name(direction), interface: interface.to_owned(), source: source.into() }
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
