//! `tidewaiter check`, for every test of what it says.

use std::{
    ffi::OsStr,
    fs,
    process::{Command, Output},
};

use tempfile::TempDir;

/// What `tidewaiter check` said.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `tidewaiter check FILE arguments`, with nothing in its environment but `variables`.
pub(crate) fn check(contents: &str, variables: &[(&str, impl AsRef<OsStr>)], arguments: &[&str]) -> Checked {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("tidewaiter.toml");
    fs::write(&path, contents).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidewaiter"));
    let variables = variables.iter().map(|(name, value)| (name, value.as_ref()));
    command.env_clear().envs(variables).arg("check").arg(&path).args(arguments);
    let Output { status, stdout, stderr } = command.output().unwrap();
    let [stdout, stderr] =
        [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap().replace(&path.display().to_string(), "FILE"));
    Checked { code: status.code(), stdout, stderr }
}

/// No variables.
pub(crate) const NONE: &[(&str, &str)] = &[];
