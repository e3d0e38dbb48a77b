//! Rules that are worked out before they are put in force, which may take long.

use std::{collections::HashMap, sync::Arc};

use super::pairs::{Names, Taking};
use crate::{
    api::Api,
    config::guard::Guard,
    guard::compile::{CompileError, Tables, compile},
    kernel::{ClientLimits, KernelError},
};

/// Why rules could not be put in force.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// They cannot be worked out.
    #[error("cannot put the rules in force: {0}")]
    Compile(#[from] CompileError),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Others were put in force while these were worked out.
    #[error("the rules in force have changed while others were worked out: try again")]
    Outdated,
}

/// What is needed of the rules in force to work out others apart from them.
#[derive(Debug)]
pub struct Draft {
    pub(super) taking: Taking,
    pub(super) limits: ClientLimits,
    /// Entries of prefixes that there is room for.
    pub(super) capacity: usize,
    /// Which rules were in force.
    pub(super) generation: u64,
}

/// Rules that can be put in force.
#[derive(Debug)]
pub struct Compiled {
    pub(super) guard: Arc<Guard>,
    pub(super) tables: Tables,
    pub(super) taken: HashMap<Names, u16>,
    pub(super) new: Vec<(Names, u16)>,
    pub(super) generation: u64,
}

impl Draft {
    /// Works out `guard` while there are these APIs. It may take long, with many prefixes.
    ///
    /// # Errors
    /// [`GuardError::Compile`]; or [`GuardError::Kernel`], if what is left of others' limits cannot be forgotten.
    pub fn compile(self, guard: Arc<Guard>, apis: &[Api]) -> Result<Compiled, GuardError> {
        let Self { taking: mut first, limits, capacity, generation } = self;
        let mut again = first.clone();
        let mut tables = compile(&guard, apis, capacity, &mut first)?;
        let mut taking = first;
        if !taking.reused().is_empty() {
            again.reserve(taking.taken.keys());
            tables = compile(&guard, apis, capacity, &mut again)?;
            taking = again;
        }
        let reused = taking.reused();
        if !reused.is_empty() {
            limits.forget(&reused)?;
        }
        let Taking { taken, new, .. } = taking;
        Ok(Compiled { guard, tables, taken, new, generation })
    }
}
