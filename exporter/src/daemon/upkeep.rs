//! What is done again and again beside flows.

use std::path::Path;

use tokio::task::JoinHandle;
use tracing::{error, warn};

use crate::{control::server::ControlSocket, discovery::Scan, http::Shared};

/// Lets the kernel know that the exporter is there, and tells what rules have decided.
pub(super) fn look_after_guard(shared: &Shared) {
    let mut accounting = shared.accounting();
    if let Err(error) = accounting.beat().and_then(|()| accounting.tell_hits()) {
        warn!(%error, "cannot look after the guard");
    }
    if let Err(error) = accounting.look_after_blocks() {
        warn!(%error, "cannot look after blocks");
    }
}

/// Has the command line reach the exporter. Without, everything else goes on.
pub(super) fn open_control(socket: &Path, shared: &Shared) -> Option<JoinHandle<()>> {
    match ControlSocket::bind(socket) {
        Ok(control) => Some(tokio::spawn(control.serve(shared.clone()))),
        Err(error) => {
            warn!(%error, "the command line cannot ask this exporter for anything");
            None
        }
    }
}

/// Has blocks kept over a restart, unless that is still under way: a disk that is slow holds nothing else up.
pub(super) fn keep_blocks(shared: &Shared, keeping: &mut Option<JoinHandle<()>>) {
    if keeping.as_ref().is_none_or(JoinHandle::is_finished) {
        let shared = shared.clone();
        *keeping = Some(tokio::spawn(async move { shared.save_blocks().await }));
    }
}

/// Makes what was found the APIs that are counted.
pub(super) fn apply_scan(shared: &Shared, Scan { apis, collector }: Scan) {
    let mut accounting = shared.accounting();
    accounting.note_discovery(collector);
    if let Some(apis) = apis
        && let Err(error) = accounting.apply_apis(&apis)
    {
        error!(%error, "cannot change which APIs are counted: trying again after the next look at the sockets");
    }
    if let Err(error) = accounting.beat() {
        warn!(%error, "cannot look after the guard");
    }
}
