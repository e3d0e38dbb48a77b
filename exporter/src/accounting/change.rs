//! Another configuration in the place of the one in force, while traffic passes: all of it or nothing.

use std::{sync::Arc, time::Instant};

use thiserror::Error;
use tracing::{error, warn};

use super::{
    Accounting,
    guard::{Compiled, Draft, GuardError, warn_all},
};
use crate::{anomaly::thresholds::Thresholds, api::Api, chain::chain, config::guard::Guard, kernel::KernelError};

/// What is to be in force.
#[derive(Debug)]
pub struct Change {
    /// The APIs; those that there are, if `None`.
    pub apis: Option<Vec<Api>>,
    /// The rules, worked out for these APIs.
    pub rules: Compiled,
    /// What is an anomaly.
    pub thresholds: Thresholds,
}

/// Why nothing was changed.
#[derive(Debug, Error)]
pub enum ChangeError {
    /// The rules cannot be put in force.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// There is no room, or the kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl ChangeError {
    /// Whether it would do to work the rules out again.
    #[must_use]
    pub const fn is_outdated(&self) -> bool {
        matches!(self, Self::Guard(GuardError::Outdated))
    }
}

/// What was in force.
struct Before {
    apis: Vec<Api>,
    guard: Option<Arc<Guard>>,
    thresholds: Thresholds,
}

impl Accounting {
    /// What is needed to work out rules apart from the accounting, and the APIs that there are now.
    pub fn draft(&self) -> Result<(Draft, Vec<Api>), KernelError> {
        Ok((self.guard.draft(&self.kernel)?, self.apis.all()))
    }

    /// Makes `change` what is in force. APIs, rules and limits that keep their names go on from where they are.
    ///
    /// The rules change for all packets at once, and they know ports by themselves: so they come first, and no packet of an API
    /// is without those that are about it.
    ///
    /// # Errors
    /// [`ChangeError`]; then what was in force still is.
    pub fn apply(&mut self, change: Change) -> Result<(), ChangeError> {
        if let Some(apis) = &change.apis {
            self.apis.require_room(&mut self.kernel, apis, Instant::now())?;
        }
        let before =
            Before { apis: self.apis.all(), guard: self.guard.in_force(), thresholds: self.thresholds.clone() };
        let has_apis = change.apis.is_some();
        if let Err(error) = self.try_to_apply(change) {
            self.restore(before, has_apis);
            return Err(error);
        }
        self.configure_blocks();
        if has_apis {
            // Nobody looks for them any more.
            self.discovery = None;
            self.awaits_apis = false;
        }
        if let Err(error) = self.beat() {
            warn!(error = chain(&error), "cannot look after the guard");
        }
        warn_all(&self.place_guard());
        Ok(())
    }

    fn try_to_apply(&mut self, change: Change) -> Result<(), ChangeError> {
        let Change { apis, rules, thresholds } = change;
        self.guard.commit(&mut self.kernel, rules)?;
        self.set_anomaly_thresholds(&thresholds)?;
        if let Some(apis) = apis {
            let before = self.before_apis_change()?;
            let applied = self.apis.apply(&mut self.kernel, &apis, Instant::now());
            // What has failed may have changed some all the same.
            self.apis_changed(&before);
            applied?;
        }
        Ok(())
    }

    /// Goes back to what was in force. What the kernel refuses then, it has let be written a moment ago.
    fn restore(&mut self, before: Before, has_apis: bool) {
        let Before { apis, guard, thresholds } = before;
        let thresholds = self.set_anomaly_thresholds(&thresholds).err().map(ChangeError::from);
        let rules = guard.and_then(|guard| self.restore_guard(guard, &apis).err()).map(ChangeError::from);
        let apis = has_apis.then(|| self.apply_apis(&apis).err()).flatten().map(ChangeError::from);
        for error in [thresholds, rules, apis].into_iter().flatten() {
            error!(error = chain(&error), "cannot go back to all that was in force");
        }
    }

    fn restore_guard(&mut self, guard: Arc<Guard>, apis: &[Api]) -> Result<(), GuardError> {
        let is_in_force = self.guard.in_force().is_some_and(|now| Arc::ptr_eq(&now, &guard));
        if is_in_force {
            return Ok(());
        }
        self.guard.set(guard);
        self.guard.apply(&mut self.kernel, apis)
    }
}
