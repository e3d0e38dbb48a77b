//! Captures of others, if there are any.

use std::{
    env,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// The variable that names the folder. It looks like one that sets a key of the configuration, and is none.
pub const VARIABLE: &str = "TIDEWAITER_CORPUS";

/// The folder of captures: what the environment names, or `../shared/corpus` beside this repository. If there is none, that
/// is said, where it is seen, and the test has nothing to do.
///
/// # Panics
/// If the environment names a folder that is none of captures.
#[must_use]
pub fn corpus() -> Option<PathBuf> {
    let is_corpus = |folder: &Path| folder.join("expected.tsv").is_file() && folder.join("pcap").is_dir();
    if let Some(folder) = env::var_os(VARIABLE).map(PathBuf::from) {
        assert!(is_corpus(&folder), "{VARIABLE} is {}, which has no expected.tsv and no pcap/", folder.display());
        return Some(folder);
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    if !is_corpus(&folder) {
        say(&format!("SKIP: {VARIABLE} is not set, and there are no captures in {}", folder.display()));
        return None;
    }
    Some(folder)
}

/// Writes a line that is seen also when the test passes.
pub fn say(line: &str) {
    // `println!` is kept back by the test harness.
    writeln!(io::stderr(), "{line}").expect("can be written");
}
