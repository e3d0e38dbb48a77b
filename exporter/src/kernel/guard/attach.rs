//! Where frames are judged.

use std::path::Path;

use aya::programs::{
    ProgramError, Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    xdp::{XdpLink, XdpLinkId},
};
use tidewaiter_common::{BASELINE_FRAME, GUARD_FRAME};
use tracing::debug;

use super::programs::xdp;
use crate::{
    chain::chain,
    kernel::{Kernel, KernelError, attach::link_error, system::wait_for_programs},
};

impl Kernel {
    /// Has frames of the interface called `name` judged, in the place of a guard of an exporter before us if there is one; and
    /// `guarded` is what there is to be done for its buffers from then on, see
    /// [`guarded`](tidewaiter_common::interface::guarded). No packet is judged as both: for a moment, as neither.
    ///
    /// # Errors
    /// If the driver cannot do that, or somebody else's program is there. What there is to be done for buffers is then to be said
    /// again.
    pub fn attach_guard(&mut self, index: u32, name: &str, guarded: u8) -> Result<(), KernelError> {
        if self.guards.contains_key(&index) {
            return self.set_guarded(index, guarded);
        }
        let failed = |source: ProgramError| KernelError::Attach {
            program: GUARD_FRAME,
            interface: name.to_owned(),
            source: source.into(),
        };
        // One that the kernel did not take cannot come after what does nothing.
        xdp(&mut self.ebpf, GUARD_FRAME)?.fd().map_err(failed)?;
        let pin = self.pins.as_ref().map(|pins| pins.guard(index));
        if let Some(pin) = pin.as_ref().filter(|pin| pin.exists()) {
            self.set_guarded(index, guarded)?;
            match take_over(xdp(&mut self.ebpf, GUARD_FRAME)?, pin) {
                Ok(link) => {
                    self.guards.insert(index, link);
                    return Ok(());
                }
                Err(error) => {
                    debug!(interface = name, error = chain(&error), "cannot take over a guard: attaching anew");
                }
            }
            if let Some(pins) = &self.pins {
                pins.detach_guard(index);
            }
        }
        let link = self.attach_idle(index).map_err(failed)?;
        self.set_guarded(index, guarded)?;
        let link = replace(xdp(&mut self.ebpf, GUARD_FRAME)?, link).map_err(failed)?;
        let link = match pin {
            Some(pin) => link.pin(&pin).map_err(|source| KernelError::Pin { path: pin, source })?.into(),
            None => link,
        };
        self.guards.insert(index, link);
        Ok(())
    }

    /// Attaches what lets every frame pass, for the guard to take its place: by then it is known that the driver can do that.
    fn attach_idle(&mut self, index: u32) -> Result<FdLink, ProgramError> {
        let program: &mut Xdp = self.ebpf.program_mut(BASELINE_FRAME).ok_or(ProgramError::NotLoaded)?.try_into()?;
        if program.fd().is_err() {
            program.load()?;
        }
        let id = program.attach_to_if_index(index, XdpMode::Driver)?;
        take(program, id)
    }

    /// Has frames of the interface with `index` judged no more; it may be gone already.
    pub fn detach_guard(&mut self, index: u32) {
        let link = self.guards.remove(&index);
        if let Some(pins) = &self.pins {
            pins.detach_guard(index);
        }
        drop(link);
    }

    /// The same, and says what there is to be done for its buffers instead: after the last one that was judged as a frame has been
    /// handed on.
    pub fn replace_guard(&mut self, index: u32, guarded: u8) -> Result<(), KernelError> {
        if self.guarded().contains(&index) {
            self.detach_guard(index);
            wait_for_programs();
        }
        self.set_guarded(index, guarded)
    }

    /// Indexes of the interfaces whose frames are judged, by us or by an exporter before us.
    #[must_use]
    pub fn guarded(&self) -> Vec<u32> {
        let pinned = self.pins.as_ref().map(crate::kernel::pins::Pins::guards).unwrap_or_default();
        let mut all: Vec<_> = self.guards.keys().copied().chain(pinned).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

fn take_over(program: &mut Xdp, pin: &Path) -> Result<FdLink, ProgramError> {
    replace(program, FdLink::from(PinnedLink::from_pin(pin).map_err(link_error)?))
}

/// Has `program` in the place of the one that is attached by `link`.
fn replace(program: &mut Xdp, link: FdLink) -> Result<FdLink, ProgramError> {
    let id = program.attach_to_link(XdpLink::try_from(link).map_err(link_error)?)?;
    take(program, id)
}

fn take(program: &mut Xdp, id: XdpLinkId) -> Result<FdLink, ProgramError> {
    FdLink::try_from(program.take_link(id)?).map_err(link_error)
}
