//! From what was written to what is meant.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use figment::{Figment, Metadata, Source, value::Value};
use globset::{Glob, GlobSet, GlobSetBuilder};
use tidewaiter_common::api::{MAX_ADDRESS_ENTRIES, MAX_APIS};

use super::{
    ApiSource, Configuration, Discovery, Fingerprint, Flows, InterfacePattern, InterfacePatterns, InterfaceSelection,
    Log,
    error::{ConfigurationError, Place, Problem},
    file::File,
    one_or_many::OneOrMany,
    otlp::Variables,
    raw::{Address, ExpectedProtocol, RawApi, RawConfiguration, RawDiscovery, RawFlows},
    read_files::ReadFiles,
};
use crate::api::{Api, Role, Transport, reserved};

/// The most characters of an API's name: it is a label of many series.
const MAX_NAME: usize = 100;

/// The most APIs that a configuration may name: one slot is for unmapped traffic.
const MAX_CONFIGURED: usize = MAX_APIS as usize - 1;

/// The most APIs that may be made of listening sockets. Half of the slots, because those of APIs that went away are in
/// use until their last counts have been kept.
const MAX_DISCOVERED: usize = MAX_APIS as usize / 2;

/// How many flows a configuration may ask for: each takes some 330 bytes of the kernel's memory.
const FLOW_CAPACITY: RangeInclusive<u32> = 1024..=16_777_216;

/// The most clients that may be counted by themselves for each API: each of them is a series.
const MAX_CLIENTS: usize = 1000;

/// Validates `raw`; `file` and `figment` tell where each value was written. What is wrong with `variables` is told with the rest.
pub(super) fn validate(
    raw: RawConfiguration,
    file: Option<&File>,
    figment: &Figment,
    variables: &Variables,
    files: &mut ReadFiles,
) -> Result<Configuration, ConfigurationError> {
    let mut fingerprint = Fingerprint::of(&raw);
    let RawConfiguration {
        listen,
        web_config,
        api_token_file,
        interfaces,
        attach,
        pin_path,
        persist,
        watch,
        flows,
        discovery,
        anomalies,
        guard,
        otlp,
        audit,
        log,
        api,
        rule,
        response,
    } = raw;
    let mut check = Check { problems: Vec::new(), file, figment, variables, files, contents: Vec::new() };

    let listen = check.listen(&listen);
    let web_config = check.named("web_config", web_config);
    let api_token_file = check.named("api_token_file", api_token_file);
    let interfaces = match interfaces {
        None => InterfaceSelection::Default,
        Some(patterns) => check.interfaces(patterns.0),
    };
    check.pin_path(pin_path.as_deref());
    let flows = check.flows(&flows);
    check.expectations(flows, &api);
    let discovery = check.discovery(&discovery);
    let apis = if api.is_empty() { ApiSource::Discovered(discovery) } else { ApiSource::Configured(check.apis(api)) };
    let guard = check.guard(guard, rule, response, &apis, flows, listen);
    let anomalies = check.anomalies(&anomalies);
    check.responses(&guard.blocks.responses, &anomalies, flows, &apis);
    let otlp = check.otlp(otlp);
    let audit = check.audit(audit, flows.capacity > 0);
    check.problems.extend(variables.mistakes().cloned());

    if !check.problems.is_empty() {
        return Err(ConfigurationError::Invalid(check.problems));
    }
    for (key, content) in check.contents {
        fingerprint.note(key, content);
    }
    Ok(Configuration {
        file: file.map(|file| file.path.clone()),
        listen,
        web_config,
        api_token_file,
        interfaces,
        attach,
        pin_path,
        persist,
        watch,
        flows,
        apis,
        guard,
        anomalies,
        otlp,
        audit,
        fingerprint,
        log: Log { level: log.level, format: log.format },
    })
}

/// A validation under way. Each method answers with something usable even where it found a problem, so that one run
/// finds them all.
pub(super) struct Check<'a> {
    problems: Vec<Problem>,
    file: Option<&'a File>,
    figment: &'a Figment,
    pub(super) variables: &'a Variables,
    /// Files that were read, or that could not be.
    pub(super) files: &'a mut ReadFiles,
    /// What was in them, by the key that names them: as much as it takes to tell one from another.
    pub(super) contents: Vec<(String, String)>,
}

impl Check<'_> {
    pub(super) fn problem(&mut self, key: impl AsRef<str>, message: String) {
        let key: Vec<_> = key.as_ref().split('.').collect();
        self.problem_at(&key, message);
    }

    /// Notes a problem with the value at `key`, whose parts may have dots in them; once, although it be found on several ways.
    pub(super) fn problem_at(&mut self, key: &[&str], message: String) {
        let problem = Problem { key: key.join("."), place: self.place(key), message };
        self.note(problem);
    }

    /// Whether nothing was found that is wrong.
    pub(super) fn is_fine(&self) -> bool {
        self.problems.is_empty()
    }

    /// Notes a problem, once.
    pub(super) fn note(&mut self, problem: Problem) {
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// Where the value at `key` was written.
    pub(super) fn place(&self, key: &[&str]) -> Place {
        let metadata = find(self.figment, key).and_then(|value| self.figment.get_metadata(value.tag()));
        match (metadata, self.file) {
            (Some(Metadata { source: Some(Source::Custom(variable)), .. }), _) => Place::Variable(variable.clone()),
            (Some(metadata), Some(file)) if matches!(metadata.source, Some(Source::File(_))) => {
                let key: Vec<_> = key.iter().map(|&part| part.to_owned()).collect();
                Place::File { path: file.path.clone(), line: file.line(&key) }
            }
            (Some(metadata), _) if metadata.name.contains("environment") => Place::Environment,
            _ => Place::CommandLine,
        }
    }

    fn listen(&mut self, text: &str) -> SocketAddr {
        text.parse().unwrap_or_else(|_| {
            let expected = "expected an address and a port such as \"0.0.0.0:9473\" or \"[::1]:9473\"";
            self.problem("listen", format!("found {text:?}, {expected}"));
            SocketAddr::from(([0, 0, 0, 0], 0))
        })
    }

    /// Files are read when something is to be served: who replays captures need not have them.
    fn named(&mut self, key: &str, path: Option<PathBuf>) -> Option<PathBuf> {
        let path = path?;
        if path.as_os_str().is_empty() {
            self.problem(key, "found \"\", expected the path of a file".to_owned());
        }
        Some(self.resolved(key, path))
    }

    /// The file that is meant by a path that was written at `key`: from where the configuration file is if it stands in that, else
    /// from where the program was started.
    pub(super) fn resolved(&self, key: &str, path: PathBuf) -> PathBuf {
        let key: Vec<_> = key.split('.').collect();
        match self.place(&key) {
            Place::File { path: file, .. } => file.parent().map(|folder| folder.join(&path)).unwrap_or(path),
            Place::Environment | Place::Variable(_) | Place::CommandLine => path,
        }
    }

    fn interfaces(&mut self, patterns: Vec<String>) -> InterfaceSelection {
        if patterns.is_empty() {
            self.problem("interfaces", "found an empty list, expected at least one name or glob".to_owned());
        }
        let mut globs = GlobSetBuilder::new();
        for (place, pattern) in patterns.iter().enumerate() {
            let key = format!("interfaces.{place}");
            match Glob::new(pattern) {
                _ if pattern.is_empty() => {
                    self.problem(key, "found \"\", expected the name of an interface, or a glob".to_owned());
                }
                Ok(glob) => {
                    globs.add(glob);
                }
                Err(error) => self.problem(key, format!("found {pattern:?}, not a glob: {}", error.kind())),
            }
        }
        let globs = globs.build().unwrap_or_else(|error| {
            self.problem("interfaces", format!("these globs are too much: {error}"));
            GlobSet::empty()
        });
        let pattern = |(position, text): (usize, _)| {
            let place = self.place(&["interfaces", &position.to_string()]);
            InterfacePattern { text, place }
        };
        let patterns = patterns.into_iter().enumerate().map(pattern).collect();
        InterfaceSelection::Matching(InterfacePatterns { patterns, globs })
    }

    fn pin_path(&mut self, path: Option<&Path>) {
        if let Some(path) = path
            && !path.is_absolute()
        {
            let expected = "expected an absolute path such as \"/sys/fs/bpf/tidewaiter/edge\"";
            self.problem("pin_path", format!("found {:?}, {expected}", path.display().to_string()));
        }
    }

    /// What flows are looked at for cannot be where none are kept.
    fn expectations(&mut self, flows: Flows, apis: &[RawApi]) {
        for (index, _) in apis.iter().enumerate().filter(|(_, api)| flows.capacity == 0 && api.expect.is_some()) {
            let expected = "expected none while flows.capacity is 0: payloads are looked at of flows that are kept";
            self.problem(format!("api.{index}.expect"), expected.to_owned());
        }
    }

    fn flows(&mut self, raw: &RawFlows) -> Flows {
        let RawFlows { capacity, idle_timeout, active_timeout, clients } = raw;
        let in_range =
            u32::try_from(*capacity).ok().filter(|capacity| *capacity == 0 || FLOW_CAPACITY.contains(capacity));
        let capacity = in_range.unwrap_or_else(|| {
            let (least, most) = (FLOW_CAPACITY.start(), FLOW_CAPACITY.end());
            self.problem("flows.capacity", format!("found {capacity}, expected {least} to {most}, or 0 for no flows"));
            *least
        });
        for (key, timeout) in [("flows.idle_timeout", idle_timeout), ("flows.active_timeout", active_timeout)] {
            if timeout.0 < Duration::from_secs(1) {
                let found = humantime::format_duration(timeout.0);
                self.problem(key, format!("found \"{found}\", expected at least \"1s\""));
            }
        }
        let in_range = usize::try_from(*clients).ok().filter(|clients| *clients <= MAX_CLIENTS);
        let clients = in_range.unwrap_or_else(|| {
            self.problem("flows.clients", format!("found {clients}, expected 0 to {MAX_CLIENTS}"));
            0
        });
        Flows { capacity, idle_timeout: idle_timeout.0, active_timeout: active_timeout.0, clients }
    }

    fn discovery(&mut self, raw: &RawDiscovery) -> Discovery {
        let RawDiscovery { interval, limit, forget_after } = raw;
        if interval.0 < Duration::from_secs(1) {
            let found = humantime::format_duration(interval.0);
            self.problem("discovery.interval", format!("found \"{found}\", expected at least \"1s\""));
        }
        let in_range = usize::try_from(*limit).ok().filter(|limit| (1..=MAX_DISCOVERED).contains(limit));
        let limit = in_range.unwrap_or_else(|| {
            self.problem("discovery.limit", format!("found {limit}, expected 1 to {MAX_DISCOVERED}"));
            MAX_DISCOVERED
        });
        Discovery { interval: interval.0, limit, forget_after: forget_after.0 }
    }

    fn apis(&mut self, raw: Vec<RawApi>) -> Vec<Api> {
        if raw.len() > MAX_CONFIGURED {
            self.problem("api", format!("found {} APIs, expected at most {MAX_CONFIGURED}", raw.len()));
        }
        self.addresses(&raw);
        self.expected(&raw);
        let apis: Vec<_> = raw.into_iter().map(Api::from).collect();
        self.names(&apis);
        self.claims(&apis);
        apis
    }

    fn addresses(&mut self, raw: &[RawApi]) {
        for (place, api) in raw.iter().enumerate() {
            let Some(OneOrMany(addresses)) = &api.address else { continue };
            let key = format!("api.{place}.address");
            if addresses.is_empty() {
                self.problem(&key, "found an empty list, expected at least one address, or no key at all".to_owned());
            }
            for Address(address) in addresses.iter().filter(|address| address.0.to_canonical().is_unspecified()) {
                let expected = "expected the address of one end, or no key at all for any address";
                self.problem(&key, format!("found \"{address}\", {expected}"));
            }
        }
    }

    fn expected(&mut self, raw: &[RawApi]) {
        let empty = |api: &RawApi| api.expect.as_ref().is_some_and(|OneOrMany(protocols)| protocols.is_empty());
        for (place, _) in raw.iter().enumerate().filter(|(_, api)| empty(api)) {
            let message = "found an empty list, expected at least one protocol, or no key at all".to_owned();
            self.problem(format!("api.{place}.expect"), message);
        }
    }

    fn names(&mut self, apis: &[Api]) {
        let mut names = HashSet::new();
        for (place, Api { name, .. }) in apis.iter().enumerate() {
            let complaint = if name.trim().is_empty() {
                "expected a name that is not empty".to_owned()
            } else if name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
                format!("expected at most {MAX_NAME} characters, none of them a control character")
            } else if reserved::NAMES.contains(&name.as_str()) {
                "this name is reserved, expected another".to_owned()
            } else if !names.insert(name) {
                "another API has this name, expected one of its own".to_owned()
            } else {
                continue;
            };
            self.problem(format!("api.{place}.name"), format!("found {name:?}, {complaint}"));
        }
    }

    /// Sees that every (transport, role, port, address) belongs to one API alone.
    fn claims(&mut self, apis: &[Api]) {
        let mut owners: HashMap<(Transport, Role, u16, Option<IpAddr>), usize> = HashMap::new();
        let mut by_address = 0;
        for (place, api) in apis.iter().enumerate() {
            if api.ports.is_empty() {
                self.problem(
                    format!("api.{place}.ports"),
                    "found an empty list, expected at least one port".to_owned(),
                );
            }
            if api.transports.is_empty() {
                let message = "found an empty list, expected \"tcp\", \"udp\" or others".to_owned();
                self.problem(format!("api.{place}.transport"), message);
            }
            by_address += api.claims().count() * api.addresses.len();
            let addresses = addresses_or_any(&api.addresses);
            let clash = api.claims().find_map(|(transport, port)| {
                addresses.iter().find_map(|&address| {
                    let owner = owners.insert((transport, api.role, port, address), place)?;
                    Some((transport, port, address, owner))
                })
            });
            if let Some((transport, port, address, owner)) = clash {
                let message = if owner == place {
                    format!("found port {port} twice, expected each port once")
                } else {
                    let (name, role) = (&apis[owner].name, api.role.as_str());
                    let transport = transport.as_str();
                    let at = address.map_or_else(String::new, |address| format!(" at {address}"));
                    format!(
                        "found {transport} port {port}{at}, which belongs to {name:?} already, expected ports that no other \
                         {transport} {role} API has at the same address"
                    )
                };
                self.problem(format!("api.{place}.ports"), message);
            }
        }
        if by_address > MAX_ADDRESS_ENTRIES as usize {
            let message = format!(
                "found {by_address} combinations of port, transport and address, expected at most {MAX_ADDRESS_ENTRIES}"
            );
            self.problem("api", message);
        }
    }
}

impl From<RawApi> for Api {
    fn from(raw: RawApi) -> Self {
        let RawApi { name, ports, transport, address, role, expect } = raw;
        let mut transports: Vec<_> = transport.0.into_iter().map(Transport::from).collect();
        transports.sort_unstable();
        transports.dedup();
        let mut addresses: Vec<_> =
            address.into_iter().flat_map(|some| some.0).map(|Address(address)| address.to_canonical()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let mut expect: Vec<_> =
            expect.into_iter().flat_map(|some| some.0).map(|ExpectedProtocol(protocol)| protocol).collect();
        expect.sort_unstable();
        expect.dedup();
        Self { name, role: role.into(), transports, ports, addresses, expect }
    }
}

/// The value at `key`, or the nearest thing around it that there is.
fn find(figment: &Figment, key: &[&str]) -> Option<Value> {
    let (root, rest) = key.split_first()?;
    let mut found = figment.find_value(root).ok()?;
    for part in rest {
        let inner = match &found {
            Value::Dict(_, table) => table.get(*part),
            Value::Array(_, list) => part.parse().ok().and_then(|place: usize| list.get(place)),
            _ => None,
        };
        let Some(inner) = inner.cloned() else { break };
        found = inner;
    }
    Some(found)
}

/// Each of `addresses`, or `None` once if any will do.
fn addresses_or_any(addresses: &[IpAddr]) -> Vec<Option<IpAddr>> {
    if addresses.is_empty() { vec![None] } else { addresses.iter().copied().map(Some).collect() }
}
