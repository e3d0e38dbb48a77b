//! Packets that are refused with an answer.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

mod answer;
mod clients;
mod connections;
mod shapes;
mod tun;
