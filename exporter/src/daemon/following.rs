//! Which interfaces are accounted, while they come and go.

use std::future::pending;

use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::DaemonError;
use crate::{
    config::InterfaceSelection,
    http::Shared,
    interfaces::{Follower, Interface, Links, Unit, Unknown},
    kernel::KernelError,
    slots::GRACE,
};

/// Keeps what is accounted in step with the interfaces that there are.
pub(super) struct Following {
    pub(super) follower: Follower,
    pub(super) selection: InterfaceSelection,
    /// Names of those that are selected but cannot be read, as they were last told.
    unreadable: Vec<String>,
    /// When to look again although nothing has changed, because the last look met a failure.
    retry: Option<Instant>,
}

impl Following {
    /// Those of `selection`; nothing is accounted yet.
    pub(super) const fn new(follower: Follower, selection: InterfaceSelection) -> Self {
        Self { follower, selection, unreadable: Vec::new(), retry: None }
    }

    /// Waits until it is time to look: something has changed, or something has failed a while ago.
    pub(super) async fn is_due(&mut self) {
        let retry = async {
            match self.retry {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = self.follower.changed() => {}
            () = retry => {}
        }
    }

    /// Looks at the interfaces, and has those accounted that are selected. What fails is logged, and tried again.
    pub(super) async fn look(&mut self, shared: &Shared) {
        self.retry = None;
        let failures: Vec<DaemonError> = match self.follower.links().await {
            Ok(links) => self.apply(shared, &links).into_iter().map(DaemonError::from).collect(),
            Err(error) => vec![error.into()],
        };
        for error in failures {
            warn!(%error, "cannot account an interface: trying again");
            // By then, slots that are not free now will be.
            self.retry = Some(Instant::now() + 2 * GRACE);
        }
    }

    /// Has those of `links` accounted that are selected; answers with what failed.
    pub(super) fn apply(&mut self, shared: &Shared, links: &Links) -> Vec<KernelError> {
        let unreadable: Vec<_> = links.unreadable(&self.selection).map(|interface| interface.name.clone()).collect();
        for interface in unreadable.iter().filter(|name| !self.unreadable.contains(name)) {
            warn!(interface, "its link layer is neither Ethernet nor IP, which cannot be read: not accounting it");
        }
        self.unreadable = unreadable;
        let selected = links.select(&self.selection);
        let units = selected.iter().map(|interface| (interface.index, links.units(interface)));
        // Where the kernel did not answer nothing is known, not even that nothing is known.
        let is_told = |units: &[Result<Unit, Unknown>; 2]| !units.contains(&Err(Unknown::Offload));
        let told = units.filter(|(_, units)| is_told(units));
        let units = told.map(|(index, units)| (index, units.map(Result::ok))).collect();
        let is_paired = |interface: &&Interface| links.device(interface).kind.as_deref() == Some("veth");
        let paired = selected.iter().filter(is_paired).map(|interface| interface.index).collect();
        let counts_frames = |interface: &&Interface| links.counts_frames(interface);
        let counting = selected.iter().filter(counts_frames).map(|interface| interface.index).collect();
        let mut accounting = shared.accounting();
        accounting.note_paired(paired);
        accounting.note_frame_counting(counting);
        let mut failures = accounting.apply_interfaces(&selected);
        failures.extend(accounting.note_units(&units).err());
        failures
    }
}
