//! The guard: what its rules and limits let in, with real traffic.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

mod exempt;
mod limits;
mod restart;
mod rules;
