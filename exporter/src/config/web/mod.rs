//! `web.config.yml`: TLS and authentication of all that is served over HTTP, in the format of Prometheus' exporter-toolkit.
//!
//! What it refuses beyond that: what rustls cannot do, and what says less than it seems to. Where a file that exporter-toolkit
//! takes is refused, the message says what is possible instead.

pub mod clients;
pub mod files;
mod raw;
pub mod tls;

use std::{collections::BTreeMap, path::Path, time::Duration};

use bcrypt::HashParts;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_saphyr::{Error, Spanned};

use self::{
    files::Files,
    raw::{RawHttp, RawRateLimit, RawWeb, Secret},
    tls::Tls,
};
use super::error::{Place, Problem};

/// The headers that may be added to answers, and what those may be that are not free.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

/// The most users: they are few by the nature of passwords in a file.
const MAX_USERS: usize = 1000;

/// The highest cost of bcrypt: some five seconds for each password that anybody tries. Each step above it doubles that, and one
/// is tried at a time.
const MAX_COST: u32 = 16;

/// The lowest one (`crypt(5)`).
const MIN_COST: u32 = 4;

/// TLS and authentication.
#[derive(Clone, Debug, Default)]
pub struct WebConfig {
    /// How TLS is served; in the clear if `None`.
    pub tls: Option<Tls>,
    /// Headers that are added to every answer.
    pub headers: HeaderMap,
    /// Hashes of the passwords of those who are let in; nobody is asked for one if there are none.
    pub users: BTreeMap<String, PasswordHash>,
    /// How many requests are answered.
    pub rate_limit: Option<RateLimit>,
}

/// The bcrypt hash of a password, as it was written, which nobody is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// The hash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    #[cfg(test)]
    pub(crate) fn for_test(hash: String) -> Self {
        Self(hash)
    }
}

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("<secret>")
    }
}

/// How many requests are answered, whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Time between two of them in the long run.
    pub interval: Duration,
    /// How many may come at once.
    pub burst: u32,
}

impl WebConfig {
    /// Reads the file at `path`, and the files that it names.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its key and its line where that is known.
    pub fn read(path: &Path, files: &mut Files) -> Result<Self, Vec<Problem>> {
        let mut check = Check { path, problems: Vec::new() };
        let text = files.read(path).map_err(|error| error.to_string());
        let text = text.and_then(|bytes| String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned()));
        let text = text.map_err(|error| vec![check.told("", None, format!("cannot read it: {error}"))])?;
        let raw: Option<RawWeb> = serde_saphyr::from_str(&text).map_err(|error| vec![check.malformed(&error)])?;
        let RawWeb { tls_server_config, http_server_config, basic_auth_users, rate_limit } = raw.unwrap_or_default();
        let RawHttp { http2, headers } = http_server_config.unwrap_or_default();
        let tls = tls_server_config.and_then(|tls| check.tls(&tls, http2.unwrap_or(true), files));
        let headers = check.headers(&headers.unwrap_or_default());
        let users = check.users(&basic_auth_users.unwrap_or_default());
        let rate_limit = rate_limit.and_then(|limit| check.rate_limit(&limit));
        if check.problems.is_empty() {
            Ok(Self { tls, headers, users, rate_limit })
        } else {
            Err(check.problems)
        }
    }

    /// Whether it can tell who somebody is: by a password, or by a certificate that an authority vouches for.
    #[must_use]
    pub fn authenticates(&self) -> bool {
        !self.users.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.clients.verifies())
    }

    /// Whether it may take the place of `before` while those are served who came by that.
    ///
    /// # Errors
    /// What it would take away. A file that is just being written looks like one that asks for less.
    pub fn replaces(&self, before: &Self) -> Result<(), &'static str> {
        let clients = |config: &Self| config.tls.as_ref().map(|tls| tls.clients).unwrap_or_default();
        let has_names = |config: &Self| config.tls.as_ref().is_some_and(|tls| tls.names);
        if self.tls.is_some() != before.tls.is_some() {
            Err("TLS is turned on and off by a restart alone")
        } else if self.users.is_empty() && !before.users.is_empty() {
            Err("to ask for no password any more takes a restart")
        } else if clients(before).verifies() && !clients(self).verifies()
            || clients(before).is_mandatory() && !clients(self).is_mandatory()
        {
            Err("to ask less of clients' certificates takes a restart")
        } else if has_names(before) && !has_names(self) {
            Err("to let in clients of any name takes a restart")
        } else {
            Ok(())
        }
    }

    /// What it comes to, in a line for people to read, without anything that is secret.
    #[must_use]
    pub fn describe(&self) -> String {
        let Self { tls, headers, users, rate_limit } = self;
        let mut parts = Vec::new();
        match tls {
            Some(Tls { config, clients, names, versions: [first, last] }) => {
                let versions = if first == last { (*first).to_owned() } else { format!("{first} to {last}") };
                parts.push(format!("TLS {versions}"));
                if config.alpn_protocols.len() > 1 {
                    parts.push("HTTP/2".to_owned());
                }
                parts.push(clients.as_str().to_owned() + if *names { " of certain names" } else { "" });
            }
            None => parts.push("without TLS".to_owned()),
        }
        match users.len() {
            0 => parts.push("no passwords".to_owned()),
            1 => parts.push("1 user".to_owned()),
            count => parts.push(format!("{count} users")),
        }
        if !headers.is_empty() {
            parts.push(format!("headers {}", crate::api::join(headers.keys())));
        }
        parts.extend(rate_limit.map(|RateLimit { interval, burst }| {
            format!("a request every {}, {burst} at once", humantime::format_duration(interval))
        }));
        parts.join(", ")
    }
}

/// A validation under way: one run finds all that is wrong.
struct Check<'a> {
    path: &'a Path,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn problem(&mut self, key: impl Into<String>, line: Option<usize>, message: String) {
        let problem = self.told(key, line, message);
        self.problems.push(problem);
    }

    fn told(&self, key: impl Into<String>, line: Option<usize>, message: String) -> Problem {
        Problem { key: key.into(), place: Place::File { path: self.path.to_owned(), line }, message }
    }

    /// Puts what is wrong with the whole into words, without showing a part of it: there are secrets in it.
    fn malformed(&self, error: &Error) -> Problem {
        let error = error.without_snippet();
        let line = error.location().and_then(|place| usize::try_from(place.line()).ok()).filter(|line| *line > 0);
        let message = match error {
            Error::SerdeUnknownField { field, expected, .. } => {
                format!("unknown key {field:?}, expected one of {}", expected.join(", "))
            }
            Error::DuplicateMappingKey { key: Some(key), .. } => format!("the key {key:?} is there twice"),
            other => {
                // It says the place too.
                let text = other.to_string();
                let text = text.lines().next().unwrap_or_default();
                format!("not what was expected: {text}")
            }
        };
        self.told("", line, message)
    }

    fn headers(&mut self, raw: &BTreeMap<String, Spanned<String>>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in raw {
            let key = format!("http_server_config.headers.{name}");
            let Some((known, values)) = HEADERS.iter().find(|(known, _)| known == name) else {
                let names = HEADERS.map(|(name, _)| name).join(", ");
                self.problem(key, value.line(), format!("this header cannot be set, expected one of {names}"));
                continue;
            };
            if value.value.is_empty() {
                continue;
            }
            if !values.is_empty() && !values.contains(&value.value.as_str()) {
                let message = format!("found {:?}, expected {}", value.value, values.join(" or "));
                self.problem(key, value.line(), message);
                continue;
            }
            match (HeaderName::try_from(*known), HeaderValue::try_from(value.value.as_str())) {
                (Ok(name), Ok(value)) => drop(headers.insert(name, value)),
                _ => self.problem(key, value.line(), format!("found {:?}, which no header may be", value.value)),
            }
        }
        headers
    }

    fn users(&mut self, raw: &BTreeMap<String, Spanned<Secret>>) -> BTreeMap<String, PasswordHash> {
        if raw.len() > MAX_USERS {
            self.problem("basic_auth_users", None, format!("found {} users, expected at most {MAX_USERS}", raw.len()));
        }
        let mut users = BTreeMap::new();
        for (name, hash) in raw {
            let key = format!("basic_auth_users.{name}");
            if name.contains(':') || name.chars().any(char::is_control) {
                let message = "found a colon or a control character in the name, expected none (RFC 7617 section 2)";
                self.problem(&key, hash.line(), message.to_owned());
            }
            match hash.value.reveal().parse::<HashParts>().map(|parts| parts.get_cost()) {
                Ok(cost) if (MIN_COST..=MAX_COST).contains(&cost) => {
                    users.insert(name.clone(), PasswordHash(hash.value.reveal().to_owned()));
                }
                Ok(cost) => {
                    let message = format!("found a hash of cost {cost}, expected {MIN_COST} to {MAX_COST}");
                    self.problem(&key, hash.line(), message);
                }
                Err(_) => {
                    let message = "found no bcrypt hash, expected one such as htpasswd -nBC 10 \"\" prints: $2y$10$…";
                    self.problem(&key, hash.line(), message.to_owned());
                }
            }
        }
        users
    }

    fn rate_limit(&mut self, raw: &Spanned<RawRateLimit>) -> Option<RateLimit> {
        let RawRateLimit { interval, burst } = &raw.value;
        let interval = interval.as_ref().filter(|interval| !matches!(interval.value.as_str(), "" | "0"))?;
        let Ok(time) = humantime::parse_duration(&interval.value) else {
            let message = format!("found {:?}, expected a time such as 100ms or 1s, or 0 for no limit", interval.value);
            self.problem("rate_limit.interval", interval.line(), message);
            return None;
        };
        if time.is_zero() {
            return None;
        }
        let count = burst.as_ref().map_or(0, |burst| burst.value);
        if count == 0 {
            let line = burst.as_ref().map_or(raw.line(), Spanned::line);
            let message = "found 0, expected at least 1: no request would be answered".to_owned();
            self.problem("rate_limit.burst", line, message);
        }
        Some(RateLimit { interval: time, burst: count })
    }
}

/// Where something was written.
trait Line {
    /// Its line, counted from 1, where it is known.
    fn line(&self) -> Option<usize>;
}

impl<T> Line for Spanned<T> {
    fn line(&self) -> Option<usize> {
        usize::try_from(self.referenced.line()).ok().filter(|line| *line > 0)
    }
}
