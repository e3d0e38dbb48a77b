//! The kernel's BPF statistics. Their switch is the whole machine's: no two tests of one program should turn it.

use std::fs;

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// What the switch was before. It is turned back when this is dropped, also on a panic.
#[derive(Debug)]
pub struct Statistics(String);

impl Statistics {
    /// Remembers how it is.
    #[must_use]
    pub fn new() -> Self {
        Self(fs::read_to_string(SWITCH).expect("is there"))
    }

    /// Whether they were on.
    #[must_use]
    pub fn were_on(&self) -> bool {
        self.0.trim() != "0"
    }

    /// Has the kernel keep them until this is dropped.
    pub fn turn_on(&self) {
        fs::write(SWITCH, "1").expect("is root");
    }
}

impl Default for Statistics {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        fs::write(SWITCH, &self.0).expect("is root");
    }
}
