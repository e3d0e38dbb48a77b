//! From what was written in `web.config.yml` to what is meant; of TLS see [`super::tls`].

use std::{collections::BTreeMap, path::Path};

use bcrypt::HashParts;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_saphyr::{Error, Spanned};

use super::{
    PasswordHash, RateLimit,
    raw::{RawRateLimit, Secret},
};
use crate::config::error::{Place, Problem};

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

/// A validation under way: one run finds all that is wrong.
pub(super) struct Check<'a> {
    pub(super) path: &'a Path,
    pub(super) problems: Vec<Problem>,
}

impl Check<'_> {
    pub(super) fn problem(&mut self, key: impl Into<String>, line: Option<usize>, message: String) {
        let problem = self.told(key, line, message);
        self.problems.push(problem);
    }

    pub(super) fn told(&self, key: impl Into<String>, line: Option<usize>, message: String) -> Problem {
        Problem { key: key.into(), place: Place::File { path: self.path.to_owned(), line }, message }
    }

    /// Puts what is wrong with the whole into words, without showing a part of it: there are secrets in it.
    pub(super) fn malformed(&self, error: &Error) -> Problem {
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

    pub(super) fn headers(&mut self, raw: &BTreeMap<String, Spanned<String>>) -> HeaderMap {
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

    pub(super) fn users(&mut self, raw: &BTreeMap<String, Spanned<Secret>>) -> BTreeMap<String, PasswordHash> {
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

    pub(super) fn rate_limit(&mut self, raw: &Spanned<RawRateLimit>) -> Option<RateLimit> {
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
pub(super) trait Line {
    /// Its line, counted from 1, where it is known.
    fn line(&self) -> Option<usize>;
}

impl<T> Line for Spanned<T> {
    fn line(&self) -> Option<usize> {
        usize::try_from(self.referenced.line()).ok().filter(|line| *line > 0)
    }
}
