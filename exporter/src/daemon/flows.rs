//! Flows that have ended are finished, and told of.

use std::time::Duration;

use tokio::{task::yield_now, time::sleep};
use tracing::warn;

use crate::{accounting::Accounting, http::Shared, kernel::KernelError};

/// How long those who want records of flows are told of those that go on, before the end.
const LAST_FLOWS: Duration = Duration::from_secs(3);

/// For how long nobody else gets at the accounting, or the thread, while flows are looked after.
const SLICE: Duration = Duration::from_millis(5);

/// Has flows finished that have ended, or looks at some of all, and lets others do something in between.
pub(super) async fn look_after_flows(
    shared: &Shared,
    mut look: impl FnMut(&mut Accounting, std::time::Instant) -> Result<bool, KernelError>,
) {
    loop {
        let looked = look(&mut shared.accounting(), std::time::Instant::now() + SLICE);
        match looked {
            Ok(true) => yield_now().await,
            Ok(false) => return,
            Err(error) => return warn!(%error, "cannot look after the flows"),
        }
    }
}

/// Has all flows told to those who want records, because they go with the exporter, and lets others do something in between.
pub(super) async fn finish_flows(shared: &Shared) {
    let deadline = std::time::Instant::now() + LAST_FLOWS;
    loop {
        let now = std::time::Instant::now();
        let finished = shared.accounting().finish_all_flows(deadline.min(now + SLICE));
        match finished {
            Ok(0) => return,
            Ok(left) if now >= deadline => return warn!(flows = left, "there was no time to tell of all flows"),
            // Here there is time to wait for those who read the records.
            Ok(_) if !has_room(shared) => sleep(SLICE).await,
            Ok(_) => yield_now().await,
            Err(error) => return warn!(%error, "cannot tell of the flows that go on"),
        }
    }
}

/// Whether those who want records of flows have room for many more.
fn has_room(shared: &Shared) -> bool {
    shared.accounting().tracker().is_none_or(|tracker| tracker.has_room())
}
