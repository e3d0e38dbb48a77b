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
use tracing::info;

use super::{
    Kernel, KernelError,
    pins::{Pins, remove_filter},
    program_name,
    programs::classifier,
};
use crate::{chain::chain, config::AttachMode};

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

    /// The kind that this is not.
    const fn other(self) -> Self {
        match self {
            Self::Tcx => Self::Clsact,
            Self::Clsact => Self::Tcx,
        }
    }

    /// Its name: `tcx` or `clsact`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// How the programs of an interface were attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The kind of hook.
    pub hook: Hook,
    /// Whether both go on from where those of an exporter before us were.
    pub took_over: bool,
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
    /// Attaches both programs to the interface called `name`, which has `index`: in the place of those of an exporter before
    /// us, if there are any.
    ///
    /// # Errors
    /// [`KernelError::Attach`]; then what was attached before is as it was, as far as it was not taken over.
    pub fn attach(&mut self, index: u32, name: &str, mode: AttachMode) -> Result<Attachment, KernelError> {
        match mode {
            AttachMode::Tcx => self.attach_both(index, name, Hook::Tcx),
            AttachMode::Clsact => self.attach_both(index, name, Hook::Clsact),
            AttachMode::Auto => match self.attach_both(index, name, Hook::Tcx) {
                Err(error) if is_unknown_to_the_kernel(&error) => self.attach_both(index, name, Hook::Clsact),
                attached => attached,
            },
        }
    }

    fn attach_both(&mut self, index: u32, name: &str, hook: Hook) -> Result<Attachment, KernelError> {
        let mut attached = Attached { hook, links: [None, None] };
        let mut took_over = [false; Direction::COUNT];
        for direction in Direction::ALL {
            let place = Place { index, interface: name, direction };
            let succeeds_other = self.is_pinned_otherwise(place, hook);
            let result = match hook {
                Hook::Tcx => self.attach_tcx(place).map(|(link, took_over)| (Some(link), took_over)),
                Hook::Clsact => self.attach_filter(place).map(|took_over| (None, took_over)),
            };
            match result {
                Ok((link, taken)) => {
                    attached.links[direction.index()] = link;
                    took_over[direction.index()] = taken || succeeds_other;
                }
                Err(error) => {
                    // What was taken over goes on counting, for the next who tries.
                    for undone in Direction::ALL.into_iter().take(direction.index()) {
                        if !took_over[undone.index()] {
                            self.detach_one(hook, index, undone);
                        }
                    }
                    return Err(error);
                }
            }
        }
        self.attached.insert(index, attached);
        Ok(Attachment { hook, took_over: took_over == [true; Direction::COUNT] })
    }

    /// Whether an exporter before us has attached its program the other way.
    fn is_pinned_otherwise(&self, Place { index, direction, .. }: Place<'_>, hook: Hook) -> bool {
        self.pins.as_ref().is_some_and(|pins| pins.hook(hook.other(), index, direction).exists())
    }

    /// Detaches what is attached the other way: both would count everything twice.
    fn detach_other(&self, Place { index, direction, .. }: Place<'_>, hook: Hook) {
        if let Some(pins) = &self.pins {
            pins.detach(hook.other(), index, direction);
        }
    }

    fn attach_tcx(&mut self, place: Place<'_>) -> Result<(FdLink, bool), KernelError> {
        let Place { index, interface, direction } = place;
        let pin = self.pins.as_ref().map(|pins| pins.hook(Hook::Tcx, index, direction));
        let program = classifier(&mut self.ebpf, program_name(direction))?;
        let failed = |source: ProgramError| attach_error(place, source);

        if let Some(pin) = pin.as_ref().filter(|pin| pin.exists()) {
            match take_over(program, pin) {
                Ok(link) => return Ok((link, true)),
                Err(error) => {
                    let error = chain(&error);
                    info!(interface, error, "cannot take over a link, its interface is gone: attaching anew");
                }
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
        // Only now is it known that the kernel has this hook. What passes meanwhile is counted twice, rather than not at all.
        self.detach_other(place, Hook::Tcx);
        match pin {
            Some(pin) => {
                let pinned = link.pin(&pin).map_err(|source| KernelError::Pin { path: pin, source })?;
                Ok((pinned.into(), false))
            }
            None => Ok((link, false)),
        }
    }

    fn attach_filter(&mut self, place: Place<'_>) -> Result<bool, KernelError> {
        let Place { index, interface, direction } = place;
        let failed = |source: ProgramError| attach_error(place, source);
        let handle = self.filter_handle;
        let program = classifier(&mut self.ebpf, program_name(direction))?;
        // First the pin: a filter that nothing tells of would stay for ever.
        if let Some(pins) = &self.pins {
            let pin = pins.hook(Hook::Clsact, index, direction);
            if !pin.exists() {
                program.pin(&pin).map_err(|source| KernelError::Pin { path: pin, source })?;
            }
        }
        let took_over = attach_or_replace(program, interface, direction, handle).map_err(failed)?;
        if direction == Direction::Transmit && is_in_ingress_block(program, interface, handle) {
            self.detach_one(Hook::Clsact, index, direction);
            return Err(KernelError::IngressQdisc { interface: interface.to_owned() });
        }
        self.detach_other(place, Hook::Clsact);
        Ok(took_over)
    }

    /// Whether both programs are still attached to the interface called `name`, as far as that can be found out: a link is
    /// dead when its interface is gone, or when somebody has detached it.
    pub fn is_attached(&mut self, index: u32, name: &str) -> bool {
        match self.attached.get(&index) {
            Some(Attached { hook: Hook::Tcx, .. }) => {}
            attached => return attached.is_some(),
        }
        Direction::ALL.into_iter().all(|direction| {
            let id = classifier(&mut self.ebpf, program_name(direction)).ok().and_then(|program| program.info().ok());
            match (id, SchedClassifier::query_tcx(name, attach_type(direction))) {
                (Some(ours), Ok((_, programs))) => programs.iter().any(|program| program.id() == ours.id()),
                _ => true,
            }
        })
    }

    fn detach_one(&self, hook: Hook, index: u32, direction: Direction) {
        match &self.pins {
            Some(pins) => pins.detach(hook, index, direction),
            None if hook == Hook::Clsact => remove_filter(index, direction, self.filter_handle),
            // Closing the last descriptor of an unpinned link detaches it.
            None => {}
        }
    }

    /// Detaches both programs from the interface with `index`; it may be gone already.
    pub fn detach(&mut self, index: u32) {
        let attached = self.attached.remove(&index);
        let hook = attached.as_ref().map(|attached| attached.hook);
        for direction in Direction::ALL {
            for one in Hook::ALL.into_iter().filter(|one| self.pins.is_some() || hook == Some(*one)) {
                self.detach_one(one, index, direction);
            }
        }
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

pub(super) fn link_error(error: LinkError) -> ProgramError {
    match error {
        LinkError::SyscallError(error) => error.into(),
        LinkError::InvalidLink | LinkError::UnknownLinkType(_) => ProgramError::UnexpectedProgramType,
    }
}

/// Makes `program` the TC filter with `handle`, in the place of the one that is there. Says whether there was one.
fn attach_or_replace(
    program: &mut SchedClassifier,
    interface: &str,
    direction: Direction,
    handle: TcHandle,
) -> Result<bool, ProgramError> {
    let (attach_type, priority) = (attach_type(direction), priority(direction));
    match tc::qdisc_add_clsact(interface) {
        Err(error) if !has_kind(&error, io::ErrorKind::AlreadyExists) => return Err(error.into()),
        _ => {}
    }
    let there =
        SchedClassifierLink::attached(interface, attach_type, priority, handle, None).map_err(TcError::IoError)?;
    let (id, took_over) = match program.attach_to_link(there) {
        Err(error) if has_kind(&error, io::ErrorKind::NotFound) => {
            let options = NlOptions { priority, handle, ..NlOptions::default() };
            (program.attach_with_options(interface, attach_type, TcAttachOptions::Netlink(options))?, false)
        }
        attached => (attached?, true),
    };
    // In the keeping of the program it would be removed with that; a filter is to stay until it is removed by name.
    std::mem::forget(program.take_link(id)?);
    Ok(took_over)
}

/// Whether the filter for what is transmitted is one for what is received: the older qdisc `ingress` has but one list of
/// filters, and takes any for that (`ingress_tcf_block`, `net/sched/sch_ingress.c`). In the qdisc `clsact` each direction has
/// its own, and there is nothing to replace at this priority among what is received.
fn is_in_ingress_block(program: &mut SchedClassifier, interface: &str, handle: TcHandle) -> bool {
    let priority = priority(Direction::Transmit);
    SchedClassifierLink::attached(interface, TcAttachType::Ingress, priority, handle, None)
        .map_err(|error| ProgramError::from(TcError::IoError(error)))
        .and_then(|there| program.attach_to_link(there))
        .and_then(|id| program.take_link(id))
        .map(std::mem::forget)
        .is_ok()
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
