//! The guard: rules worked out into what the kernel can look up.

pub mod compile;
pub mod lookup;
pub mod prefix_file;
pub mod prefixes;

/// Names of what decides beside the rules.
pub mod reserved {
    /// Blocks: the value of the label `rule` for what they decide.
    pub const BLOCK: &str = "block";
    /// All of them.
    pub const NAMES: [&str; 1] = [BLOCK];
}
