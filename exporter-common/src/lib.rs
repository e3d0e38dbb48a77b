//! What both sides of the kernel boundary share.
//!
//! Everything here is a pure decision or a plain layout: it runs inside the BPF programs and, natively, in
//! userspace and in the tests. Nothing here knows of maps, hooks or sockets.
//!
//! * [`frame`] and [`packet`] read the headers of one packet;
//! * [`wire`] says how many packets and bytes a socket buffer was on the wire;
//! * [`api`] finds the API that a packet belongs to;
//! * [`interface`] and [`reason`] lay out what is counted for each interface.

#![cfg_attr(not(test), no_std)]

pub mod api;
pub mod counters;
pub mod direction;
pub mod frame;
pub mod interface;
pub mod packet;
pub mod reason;
pub mod role;
pub mod transport;
pub mod wire;

/// Name of the BPF program that accounts received packets.
pub const ACCOUNT_RECEIVE: &str = "account_receive";
/// Name of the BPF program that accounts transmitted packets.
pub const ACCOUNT_TRANSMIT: &str = "account_transmit";
/// Name of the BPF program that does nothing: the baseline of every benchmark, never attached.
pub const BASELINE: &str = "baseline";
