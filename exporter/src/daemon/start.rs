//! The steps of a start.

use std::{path::Path, sync::Arc};

use tokio::sync::mpsc::Receiver;
use tracing::warn;

use super::{DaemonError, following::Following};
use crate::{
    accounting::{Accounting, guard::GuardError},
    capabilities,
    config::{ApiSource, InterfaceSelection, guard::Guard, otlp::Otlp},
    discovery::{self, Scan},
    event::Happening,
    guard::compile::prefix_capacity,
    http::Shared,
    interfaces::Links,
    kernel::{
        GuardCapacity, KernelError,
        pins::{PinError, Pins},
    },
    otlp::{self, Sources},
};

/// Has APIs and interfaces accounted, and gives up the capabilities that this took. Answers with where APIs are told of that
/// are found, and what has happened meanwhile: it is to be told after the start.
pub(super) fn start_accounting(
    shared: &Shared,
    apis: ApiSource,
    guard: Guard,
    following: &mut Following,
    links: &Links,
) -> Result<(Option<Receiver<Scan>>, Vec<Happening>), DaemonError> {
    let discovered = match apis {
        ApiSource::Configured(apis) => {
            shared.accounting().apply_apis(&apis)?;
            None
        }
        ApiSource::Discovered(discovery) => {
            shared.accounting().await_apis();
            Some(discovery::start(discovery, shared.accounting().inherited_apis())?)
        }
    };
    let blocks = shared.load_blocks();
    let mut accounting = shared.accounting();
    accounting.apply_guard(Arc::new(guard))?;
    let gone = accounting.restore_blocks(blocks)?;
    drop(accounting);
    if let InterfaceSelection::Default = following.selection
        && links.default_routes.is_empty()
    {
        warn!("there is no default route: only the loopback interface is accounted");
    }
    if let Some(failure) = following.apply(shared, links).pop() {
        return Err(failure.into());
    }
    capabilities::keep_only(&capabilities::KEPT)?;
    Ok((discovered, gone))
}

/// Leaves nothing behind of a start that has failed; but what was there before it goes on counting.
pub(super) fn give_up(shared: &Shared) {
    let mut accounting = shared.accounting();
    if !accounting.took_over()
        && let Err(error) = accounting.end()
    {
        warn!(%error, "cannot remove all that was pinned");
    }
}

/// The folder of pins. Without `persist` it is only there for an end that nobody asked for: then nothing that stands in the
/// way of pinning stands in the way of accounting.
pub(super) fn open_pins(path: &Path, persist: bool) -> Result<Option<Pins>, DaemonError> {
    match Pins::open(path) {
        Ok(pins) => Ok(Some(pins)),
        Err(error @ (PinError::Busy { .. } | PinError::Foreign { .. })) => Err(KernelError::from(error).into()),
        Err(error) if persist => Err(KernelError::from(error).into()),
        Err(error) => {
            warn!(%error, "nothing is pinned: should this process be killed, its counters are lost");
            Ok(None)
        }
    }
}

/// Where what is sent over OTLP comes from.
pub(super) fn sources(otlp: &Otlp, accounting: &mut Accounting) -> Sources {
    let events = otlp.logs.as_ref().map(|logs| accounting.add_event_sink(otlp::SINK, logs.batch.queue));
    let records = match (&otlp.traces, accounting.tracker()) {
        (Some(traces), Some(tracker)) => Some(tracker.add_sink(otlp::SINK, traces.batch.queue)),
        (Some(_), None) => {
            warn!("no spans are sent over OTLP, because flows.capacity is 0");
            None
        }
        (None, _) => None,
    };
    Sources { records, events }
}

/// How large the guard's maps have to be: there is to be room for some more prefixes after a change of the configuration, which may
/// bring the first rules.
pub(super) fn guard_capacity(guard: &Guard) -> Result<GuardCapacity, GuardError> {
    Ok(GuardCapacity { prefixes: prefix_capacity(guard)?, clients: guard.clients })
}
