//! `web.config.yml`: TLS and authentication of all that is served over HTTP, in the format of Prometheus' exporter-toolkit.
//!
//! What it refuses beyond that: what rustls cannot do, and what says less than it seems to. Where a file that exporter-toolkit
//! takes is refused, the message says what is possible instead.

pub mod clients;
pub mod files;
mod pem;
mod raw;
pub mod tls;
mod validate;

use std::{collections::BTreeMap, fmt, path::Path, time::Duration};

use http::HeaderMap;

use self::{
    files::Files,
    raw::{RawHttp, RawWeb},
    tls::Tls,
    validate::Check,
};
use super::error::Problem;

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

impl fmt::Debug for PasswordHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
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
        if check.problems.is_empty() { Ok(Self { tls, headers, users, rate_limit }) } else { Err(check.problems) }
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
