//! The variables that OpenTelemetry defines, as layers of the configuration (OpenTelemetry specification, "Environment Variable
//! Specification", "Protocol Exporter").
//!
//! They may be meant for other programs that have the same environment. So what is wrong with them is kept here, to be told only
//! if anything is sent.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    time::Duration,
};

use figment::{
    Error, Figment, Metadata, Profile, Provider,
    value::{Dict, Map, Value},
};
use percent_encoding::percent_decode_str;

use super::{
    headers::{NO_NAME, is_name},
    validate::LONGEST,
};
use crate::config::error::{Place, Problem};

/// The signals: as they are called within the names of variables, and in the configuration.
const SIGNALS: [(&str, &str); 3] = [("METRICS", "metrics"), ("TRACES", "traces"), ("LOGS", "logs")];

/// What the variables say. Values of headers are among it, so it cannot be shown.
#[derive(Default)]
pub(in crate::config) struct Variables {
    /// What they set; later ones go over earlier ones.
    settings: Vec<Setting>,
    /// What is wrong with them, each after the key that it would have set, if there is one that could be set otherwise.
    mistakes: Vec<(Vec<String>, Problem)>,
    /// The most that an attempt may take, by signal.
    limits: Vec<(&'static str, Duration)>,
}

/// What one variable sets.
struct Setting {
    /// The name of the variable.
    variable: String,
    /// The key that it sets.
    key: Vec<String>,
    /// To what.
    value: Value,
}

impl Variables {
    /// Reads those of `environment`.
    pub(in crate::config) fn read(environment: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let name_and_text = |(name, text): (OsString, OsString)| Some((name.into_string().ok()?, text));
        let environment: HashMap<_, _> =
            environment.into_iter().filter_map(name_and_text).filter(|(name, _)| name.starts_with("OTEL_")).collect();
        let mut reader = Reader { environment, variables: Self::default() };
        reader.targets();
        reader.signals();
        reader.metrics();
        reader.batches();
        reader.resource();
        // Last of all, because they switch off what others may have switched on.
        reader.sampler();
        reader.disabled();
        reader.variables
    }

    /// Forgets what is said about keys for which `is_set`, be it right or wrong.
    pub(in crate::config) fn forget(&mut self, is_set: impl Fn(&[String]) -> bool) {
        self.settings.retain(|setting| !is_set(&setting.key));
        self.mistakes.retain(|(key, _)| key.is_empty() || !is_set(key));
        self.limits.retain(|(signal, _)| !is_set(&["otlp", *signal, "timeout"].map(str::to_owned)));
    }

    /// `figment` with what is set over it.
    pub(in crate::config) fn over(&self, figment: Figment) -> Figment {
        self.settings.iter().fold(figment, |figment, setting| {
            // A variable holds headers as a whole: those of layers below are none of its endpoint's business.
            let figment = match &setting.value {
                Value::Dict(..) => figment.merge(&setting.to(Value::from(false))),
                _ => figment,
            };
            figment.merge(setting)
        })
    }

    /// What is wrong with them.
    pub(in crate::config) fn mistakes(&self) -> impl Iterator<Item = &Problem> {
        self.mistakes.iter().map(|(_, problem)| problem)
    }

    /// The most that an attempt of `signal` may take.
    pub(super) fn limit(&self, signal: &str) -> Option<Duration> {
        self.limits.iter().filter(|(limited, _)| *limited == signal).map(|(_, limit)| *limit).min()
    }
}

impl Setting {
    fn to(&self, value: Value) -> Self {
        Self { variable: self.variable.clone(), key: self.key.clone(), value }
    }
}

impl Provider for &Setting {
    fn metadata(&self) -> Metadata {
        Metadata::from("environment variable", self.variable.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let nest = |value, name: &String| Value::from(Dict::from([(name.clone(), value)]));
        let whole = self.key.iter().rev().fold(self.value.clone(), nest);
        Ok(Profile::Global.collect(whole.into_dict().unwrap_or_default()))
    }
}

/// Reads variables one after the other.
struct Reader {
    environment: HashMap<String, OsString>,
    variables: Variables,
}

impl Reader {
    /// What the variable about `key` holds; an empty one is as none.
    fn text(&mut self, variable: &str, key: &[&str]) -> Option<String> {
        match self.environment.get(variable)?.to_str().map(str::trim) {
            Some("") => None,
            Some(text) => Some(text.to_owned()),
            None => {
                self.mistake(variable, key, "found something that is not UTF-8, expected text".to_owned());
                None
            }
        }
    }

    fn mistake(&mut self, variable: &str, key: &[&str], message: String) {
        let place = Place::Variable(variable.to_owned());
        let key: Vec<_> = key.iter().map(|&part| part.to_owned()).collect();
        self.variables.mistakes.push((key.clone(), Problem { key: key.join("."), place, message }));
    }

    fn set(&mut self, variable: &str, key: &[&str], value: impl Into<Value>) {
        let key = key.iter().map(|&part| part.to_owned()).collect();
        self.variables.settings.push(Setting { variable: variable.to_owned(), key, value: value.into() });
    }

    /// Has `key` set to what `parse` makes of the variable.
    fn read<V: Into<Value>>(&mut self, variable: &str, key: &[&str], parse: impl Fn(&str) -> Result<V, String>) {
        match self.text(variable, key).map(|text| parse(&text)) {
            Some(Ok(value)) => self.set(variable, key, value),
            Some(Err(message)) => self.mistake(variable, key, message),
            None => {}
        }
    }

    /// Where to send: of all signals, and of each.
    fn targets(&mut self) {
        let each = SIGNALS.map(|(infix, signal)| (format!("{infix}_"), Some(signal)));
        for (infix, signal) in [(String::new(), None)].into_iter().chain(each) {
            let variable = |suffix| format!("OTEL_EXPORTER_OTLP_{infix}{suffix}");
            let key = |name| [Some("otlp"), signal, Some(name)].into_iter().flatten().collect::<Vec<_>>();
            let any = |text: &str| Ok(text.to_owned());
            self.read(&variable("ENDPOINT"), &key("endpoint"), any);
            self.read(
                &variable("PROTOCOL"),
                &key("protocol"),
                one_of(&[("http/protobuf", "http/protobuf"), ("grpc", "grpc")]),
            );
            self.read(&variable("INSECURE"), &key("insecure"), |text| Ok(is_true(text)));
            self.read(&variable("HEADERS"), &key("headers"), headers);
            self.read(&variable("TIMEOUT"), &key("timeout"), interval);
            self.read(&variable("COMPRESSION"), &key("compression"), one_of(&[("gzip", "gzip"), ("none", "none")]));
            self.read(&variable("CERTIFICATE"), &key("certificate"), any);
            self.read(&variable("CLIENT_CERTIFICATE"), &key("client_certificate"), any);
            self.read(&variable("CLIENT_KEY"), &key("client_key"), any);
        }
    }

    /// Which signals are sent by OTLP; names of other exporters are not ours.
    fn signals(&mut self) {
        for (infix, signal) in SIGNALS {
            let has_otlp = |text: &str| Ok(text.split(',').any(|name| name.trim() == "otlp"));
            self.read(&format!("OTEL_{infix}_EXPORTER"), &["otlp", signal, "enabled"], has_otlp);
        }
    }

    fn metrics(&mut self) {
        self.read("OTEL_METRIC_EXPORT_INTERVAL", &["otlp", "metrics", "interval"], interval);
        self.limit("OTEL_METRIC_EXPORT_TIMEOUT", "metrics");
        let aggregation =
            one_of(&[("base2_exponential_bucket_histogram", "exponential"), ("explicit_bucket_histogram", "explicit")]);
        let key = ["otlp", "metrics", "histograms"];
        self.read("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", &key, aggregation);

        // There is no key of ours that could say otherwise.
        let temporality = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        if let Some(text) = self.text(temporality, &[]).filter(|text| !text.eq_ignore_ascii_case("cumulative")) {
            let why = "counters are cumulative; the collector's processor cumulativetodelta converts them";
            self.mistake(temporality, &[], format!("found {text:?}, expected \"cumulative\": {why}"));
        }
    }

    fn batches(&mut self) {
        for (prefix, signal) in [("OTEL_BSP", "traces"), ("OTEL_BLRP", "logs")] {
            self.read(&format!("{prefix}_SCHEDULE_DELAY"), &["otlp", signal, "batch_delay"], interval);
            self.read(&format!("{prefix}_MAX_EXPORT_BATCH_SIZE"), &["otlp", signal, "batch_size"], integer);
            self.read(&format!("{prefix}_MAX_QUEUE_SIZE"), &["otlp", signal, "queue_size"], integer);
            self.limit(&format!("{prefix}_EXPORT_TIMEOUT"), signal);
        }
    }

    /// How long an attempt may take at most, whatever else says how long it may take.
    fn limit(&mut self, variable: &str, signal: &'static str) {
        let key = ["otlp", signal, "timeout"];
        match self.text(variable, &key).map(|text| milliseconds(&text)) {
            // None, as the specification has it of timeouts.
            Some(Ok(0)) | None => {}
            Some(Ok(limit)) => self.variables.limits.push((signal, Duration::from_millis(limit))),
            Some(Err(message)) => self.mistake(variable, &key, message),
        }
    }

    fn resource(&mut self) {
        // Attributes are gathered from all layers: none that we are told makes up for these, so there is no key.
        let variable = "OTEL_RESOURCE_ATTRIBUTES";
        if let Some(text) = self.text(variable, &[]) {
            // Refused as a whole: the specification has the whole discarded.
            match attributes(&text) {
                Some(attributes) => {
                    for (name, value) in attributes {
                        self.set(variable, &["otlp", "resource", &name], value);
                    }
                }
                None => self.mistake(variable, &[], format!("found {text:?}, {PAIRS}")),
            }
        }
        self.read("OTEL_SERVICE_NAME", &["otlp", "resource", "service.name"], |text| Ok(text.to_owned()));
    }

    /// Flows have no parents, so samplers that go by those are as their roots.
    fn sampler(&mut self) {
        let variable = "OTEL_TRACES_SAMPLER";
        let (enabled, ratio) = (["otlp", "traces", "enabled"], ["otlp", "traces", "sample_ratio"]);
        let Some(text) = self.text(variable, &ratio) else { return };
        let name = text.to_ascii_lowercase();
        match name.strip_prefix("parentbased_").unwrap_or(&name) {
            "always_on" => self.set(variable, &ratio, 1.0),
            "always_off" => self.set(variable, &enabled, false),
            "traceidratio" => {
                self.set(variable, &ratio, 1.0);
                self.read("OTEL_TRACES_SAMPLER_ARG", &ratio, share);
            }
            _ => {
                let expected =
                    "expected \"always_on\", \"always_off\" or \"traceidratio\", or \"parentbased_\" with one of them";
                self.mistake(variable, &ratio, format!("found {text:?}, {expected}"));
            }
        }
    }

    fn disabled(&mut self) {
        let variable = "OTEL_SDK_DISABLED";
        if self.text(variable, &[]).is_some_and(|text| is_true(&text)) {
            for (_, signal) in SIGNALS {
                self.set(variable, &["otlp", signal, "enabled"], false);
            }
        }
    }
}

/// What is expected of a list of pairs.
const PAIRS: &str = "expected name=value pairs with commas between them, percent-encoded";

/// Anything else than true is false, as the specification has it.
const fn is_true(text: &str) -> bool {
    text.eq_ignore_ascii_case("true")
}

/// Reads one of the names before what each is called in the configuration.
fn one_of(names: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Result<&'static str, String> {
    move |text| {
        let meant = names.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, meant)| *meant);
        meant.ok_or_else(|| {
            let names: Vec<_> = names.iter().map(|(name, _)| format!("{name:?}")).collect();
            format!("found {text:?}, expected {}", names.join(" or "))
        })
    }
}

fn milliseconds(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("found {text:?}, expected a whole number of milliseconds"))
}

/// Milliseconds, as the configuration has spans of time. Some are too long to be written so.
fn interval(text: &str) -> Result<String, String> {
    match milliseconds(text)? {
        number if Duration::from_millis(number) > LONGEST => {
            Err(format!("found {number}, expected at most {}, in milliseconds", LONGEST.as_millis()))
        }
        number => Ok(format!("{number}ms")),
    }
}

fn integer(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| format!("found {text:?}, expected a whole number"))
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("found {text:?}, expected a number from 0 to 1"))
}

/// Attributes by their names, both decoded.
fn attributes(text: &str) -> Option<Vec<(String, String)>> {
    let decoded = |(name, value)| Some((decode(name).filter(|name| !name.is_empty())?, value));
    pairs(text)?.into_iter().map(decoded).collect()
}

/// Headers by their names, in lower case. What is wrong with them is told without their values, and without what is no name:
/// base64 ends in `=`, before which there is then a value.
fn headers(text: &str) -> Result<Dict, String> {
    let pairs = pairs(text).ok_or(PAIRS)?;
    let mut headers = BTreeMap::new();
    for (name, value) in pairs {
        if !is_name(name) {
            return Err(format!("found something before a \"=\" {NO_NAME}"));
        }
        let name = name.to_ascii_lowercase();
        if headers.insert(name.clone(), Value::from(value)).is_some() {
            return Err(format!("found the header {name:?} twice, expected each once"));
        }
    }
    Ok(headers)
}

/// The pairs of `text`, their values decoded; `None` if a part of it is none.
fn pairs(text: &str) -> Option<Vec<(&str, String)>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=')?;
            Some((name.trim_end(), decode(value.trim_start())?))
        })
        .collect()
}

/// What the percent-encoded `text` means.
fn decode(text: &str) -> Option<String> {
    let is_encoded = |after: &str| after.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    let is_whole = text.split('%').skip(1).all(is_encoded);
    is_whole.then(|| percent_decode_str(text).decode_utf8().ok().map(Cow::into_owned)).flatten()
}
