//! Configuration: defaults, then the file, then the environment, then the command line, validated before anything is
//! touched.
//!
//! [`raw`] is what a user may write, `validate` turns it into the model that the rest of the program works with, and
//! [`error`] says what was wrong, where, and what was expected.

pub mod anomalies;
mod audit;
pub mod error;
mod file;
mod fingerprint;
pub mod guard;
mod one_or_many;
pub mod otlp;
mod paths;
pub mod raw;
pub mod read_files;
pub mod token;
mod validate;
pub mod web;

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use figment::{
    Error, Figment, Metadata, Profile, Provider,
    providers::{Env, Serialized},
    value::{Dict, Map},
};
use globset::GlobSet;

pub(crate) use self::audit::shown;
pub use self::audit::{Audit, AuditSync};
pub use self::fingerprint::Fingerprint;
pub use self::paths::Paths;
pub use self::raw::{AttachMode, LogFormat, LogLevel};
use self::{
    error::{ConfigurationError, Place},
    file::File,
    guard::Guard,
    otlp::{Flattened, Otlp, Variables},
    raw::RawConfiguration,
    read_files::ReadFiles,
};
use crate::{anomaly::thresholds::Thresholds, api::Api, cli::Overrides};

/// Where a configuration is looked for when none is named; it need not be there.
pub const DEFAULT_PATH: &str = "/etc/tidewaiter/tidewaiter.toml";

/// Prefix of the environment variables that set keys of the configuration; `__` stands between the parts of a key.
pub const ENVIRONMENT_PREFIX: &str = "TIDEWAITER_";

/// The validated configuration.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The file it came from, if one was read.
    pub file: Option<PathBuf>,
    /// Where HTTP is served.
    pub listen: SocketAddr,
    /// The file that says how TLS and passwords are served, see [`web`]; neither is if `None`.
    pub web_config: Option<PathBuf>,
    /// The file with the token that lets programs change something over HTTP, see [`token`].
    pub api_token_file: Option<PathBuf>,
    /// Which interfaces are accounted.
    pub interfaces: InterfaceSelection,
    /// How the programs are attached.
    pub attach: AttachMode,
    /// The folder where maps and hooks are pinned; that of the network namespace if `None`.
    pub pin_path: Option<PathBuf>,
    /// Whether accounting goes on when the exporter is asked to end.
    pub persist: bool,
    /// Whether it is read anew when its file, or one that it names, has changed.
    pub watch: bool,
    /// How flows are kept.
    pub flows: Flows,
    /// Where the APIs come from.
    pub apis: ApiSource,
    /// What is let in.
    pub guard: Guard,
    /// What is an anomaly.
    pub anomalies: Thresholds,
    /// What is sent to OpenTelemetry collectors.
    pub otlp: Otlp,
    /// The audit log, if there is to be one.
    pub audit: Option<Audit>,
    /// How the log is written.
    pub log: Log,
    /// What tells it from others.
    pub fingerprint: Fingerprint,
}

/// Which interfaces are accounted.
#[derive(Clone, Debug)]
pub enum InterfaceSelection {
    /// Those of the default routes, and `lo`.
    Default,
    /// Those that match a pattern.
    Matching(InterfacePatterns),
}

/// Patterns of interface names, each of them a name or a glob.
#[derive(Clone, Debug)]
pub struct InterfacePatterns {
    /// As they were written.
    pub patterns: Vec<InterfacePattern>,
    /// The same, ready to match; in the same order.
    pub globs: GlobSet,
}

/// A pattern of interface names.
#[derive(Clone, Debug)]
pub struct InterfacePattern {
    /// As it was written.
    pub text: String,
    /// Where it was written.
    pub place: Place,
}

/// Where the APIs come from.
#[derive(Clone, Debug)]
pub enum ApiSource {
    /// The configuration names them.
    Configured(Vec<Api>),
    /// They are the listening sockets.
    Discovered(Discovery),
}

/// How flows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flows {
    /// How many established flows there can be; memory for them is taken at the start.
    pub capacity: u32,
    /// How long a flow is kept after its last packet.
    pub idle_timeout: Duration,
    /// How long a flow goes on until it is told in parts, to those who want records of flows.
    pub active_timeout: Duration,
    /// How many clients of each API are counted by themselves; nothing is counted by client if 0.
    pub clients: usize,
}

/// How listening sockets become APIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// Time between two looks at the sockets.
    pub interval: Duration,
    /// The most APIs that are made of them.
    pub limit: usize,
    /// How long an API stays after its last socket was closed.
    pub forget_after: Duration,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least important messages that are written.
    pub level: LogLevel,
    /// Text or JSON.
    pub format: LogFormat,
}

impl Configuration {
    /// Loads and validates the configuration: defaults < file < environment < `overrides`.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its key, its place and what was expected.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigurationError> {
        Self::load_with_files(file, overrides, &mut ReadFiles::default())
    }

    /// As [`Configuration::load`]. Says in `files` which ones it has read, or tried to, also where it is refused: it may be as it should
    /// once one of them has changed.
    ///
    /// # Errors
    /// The same.
    pub fn load_with_files(
        file: Option<&Path>,
        overrides: &Overrides,
        files: &mut ReadFiles,
    ) -> Result<Self, ConfigurationError> {
        files.note(file.unwrap_or(Path::new(DEFAULT_PATH)));
        let file = match file {
            Some(path) => Some(File::read(path)?),
            None => File::read_if_present(Path::new(DEFAULT_PATH))?,
        };
        let environment = Env::prefixed(ENVIRONMENT_PREFIX)
            .ignore(&["config"])
            .filter(|key| !is_service_link(key.as_str()))
            .split("__")
            .global();
        let ours = Figment::from(Flattened(environment)).merge(overrides);
        let mut variables = Variables::read(env::vars_os());
        variables.forget(|key| is_set(&ours, key));

        let layers = |variables: &Variables| {
            let mut figment = Figment::from(Serialized::defaults(RawConfiguration::default()));
            if let Some(file) = &file {
                figment = figment.merge(Flattened(file));
            }
            variables.over(figment).merge(&ours)
        };
        let extract = |figment: &Figment| {
            let raw = figment.extract::<RawConfiguration>();
            raw.map_err(|error| ConfigurationError::from_figment(error, file.as_ref()))
        };
        let mut figment = layers(&variables);
        let mut raw = extract(&figment)?;
        let is_on = raw.otlp.is_on();
        if !is_on {
            // OpenTelemetry's variables are not about us then, and nothing that is in them can be wrong.
            variables = Variables::default();
            figment = layers(&variables);
            raw = extract(&figment)?;
        }
        let configuration = validate::validate(raw, file.as_ref(), &figment, &variables, files)?;
        Ok(if is_on { configuration } else { configuration.without_otlp() })
    }

    fn without_otlp(mut self) -> Self {
        self.otlp = Otlp { metrics: None, traces: None, logs: None, ..self.otlp };
        self
    }
}

/// Whether `figment` says anything at `key`, whose parts may have dots in them.
fn is_set(figment: &Figment, key: &[String]) -> bool {
    let Some((root, rest)) = key.split_first() else { return false };
    let root = figment.find_value(root).ok();
    rest.iter().fold(root, |value, part| value?.into_dict()?.remove(part)).is_some()
}

/// Whether a variable, of which `key` is left without the prefix, is not a user's but one that Kubernetes sets in every
/// container beside a service called "tidewaiter": `TIDEWAITER_SERVICE_HOST`, `TIDEWAITER_PORT_9473_TCP` and others.
fn is_service_link(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key.starts_with("service_") || key == "port" || key.starts_with("port_")
}

impl Provider for &Overrides {
    fn metadata(&self) -> Metadata {
        Metadata::named("command line")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let mut profiles = Serialized::globals(*self).data()?;
        // A table that the command line sets nothing of would hide that the file has something else in its place.
        for set in profiles.values_mut() {
            set.retain(|_, value| value.as_dict().is_none_or(|table| !table.is_empty()));
        }
        Ok(profiles)
    }
}
