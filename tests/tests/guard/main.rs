//! The guard: what its rules and limits let in, with real traffic.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]
#![allow(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "packets and bytes of some seconds")]

mod exempt;
mod limits;
mod places;
mod requests;
mod restart;
mod rules;
