//! Where a running exporter is found, read from a configuration that may be broken.

use std::path::{Path, PathBuf};

use figment::{Figment, providers::Env};

use super::{DEFAULT_PATH, ENVIRONMENT_PREFIX, file::File, otlp::Flattened};

/// What a configuration says of where an exporter is found, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// The folder of pins.
    pub pin_path: Option<PathBuf>,
    /// The control socket.
    pub socket: Option<PathBuf>,
}

impl Paths {
    /// Reads them from the environment and from `file`, whatever else is wrong with these.
    #[must_use]
    pub fn read(file: Option<&Path>) -> Self {
        let file = File::read(file.unwrap_or(Path::new(DEFAULT_PATH))).ok();
        let environment = Env::prefixed(ENVIRONMENT_PREFIX).split("__").global();
        let mut figment = Figment::new();
        if let Some(file) = &file {
            figment = figment.merge(Flattened(file));
        }
        let figment = figment.merge(Flattened(environment));
        let path = |key: &str| {
            let value = figment.find_value(key).ok()?.into_string()?;
            let path = PathBuf::from(value);
            path.is_absolute().then_some(path)
        };
        Self { pin_path: path("pin_path"), socket: path("guard.socket") }
    }
}
