//! The guard: what is allowed, and what is done about the rest.

pub mod prefix_file;
pub mod prefixes;
