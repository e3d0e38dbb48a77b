//! Replaying captures: the packets of a file instead of those of an interface.

pub mod capture;
