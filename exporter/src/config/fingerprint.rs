//! What tells one configuration from another: a hash of all that it resolves to, and what is different. Secrets are left out.

use std::collections::BTreeMap;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::raw::RawConfiguration;
use crate::audit::Hash;

/// All that a configuration resolves to, key by key, defaults included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(BTreeMap<String, String>);

impl Fingerprint {
    pub(super) fn of(raw: &RawConfiguration) -> Self {
        let mut values = BTreeMap::new();
        // Strings and numbers in tables and lists: all of it can be written.
        let value = serde_json::to_value(raw).unwrap_or_default();
        flatten(&mut values, String::new(), &value);
        Self(values)
    }

    /// Takes note of what stands in a file that is named at `key`.
    pub(super) fn note(&mut self, key: String, content: String) {
        self.0.insert(key, content);
    }

    /// The keys of which something is different in `other`.
    #[must_use]
    pub fn changed_keys<'a>(&'a self, other: &'a Self) -> Vec<&'a str> {
        let keys: std::collections::BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        keys.into_iter().filter(|key| self.0.get(*key) != other.0.get(*key)).map(String::as_str).collect()
    }

    /// SHA-256 of it, in hexadecimal digits.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        for (key, value) in &self.0 {
            hasher.update(format!("{key} = {value}\n"));
        }
        Hash::from(hasher).to_string()
    }

    /// What is different in `other`: a line for each key, with its value here and there.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Vec<String> {
        let keys: std::collections::BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        let shown = |value: Option<&String>| value.map_or("none".to_owned(), Clone::clone);
        let line = |key: &&String| {
            let (before, now) = (self.0.get(*key), other.0.get(*key));
            (before != now).then(|| format!("{key}: {} -> {}", shown(before), shown(now)))
        };
        keys.iter().filter_map(line).collect()
    }
}

/// Adds what is in `value` under `key`, one by one.
fn flatten(values: &mut BTreeMap<String, String>, key: String, value: &Value) {
    let inner = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
    match value {
        Value::Object(table) => {
            for (name, value) in table {
                flatten(values, inner(name), value);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for (place, value) in list.iter().enumerate() {
                flatten(values, inner(&place.to_string()), value);
            }
        }
        Value::String(text) if text.contains("://") => {
            values.insert(key, without_secrets(text));
        }
        other => {
            values.insert(key, other.to_string());
        }
    }
}

/// A URL without what may be a password or a key in it.
fn without_secrets(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.find('/').map_or((rest, ""), |place| rest.split_at(place));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("\"{scheme}://{host}{path}\"")
}

#[cfg(test)]
mod tests {
    use super::{Fingerprint, RawConfiguration, without_secrets};

    #[test]
    fn what_is_different_is_told_by_its_key() {
        let before = RawConfiguration::default();
        let mut after = before.clone();
        after.flows.clients = 30;
        after.interfaces = serde_json::from_str("[\"lo\"]").expect("a list");
        let [before, after] = [before, after].map(|raw| Fingerprint::of(&raw));
        assert_eq!(before.difference(&after), ["flows.clients: 20 -> 30", "interfaces.0: none -> \"lo\""]);
        assert_ne!(before.hash(), after.hash());
        assert_eq!((before.difference(&before), before.hash().len()), (Vec::new(), 64));
    }

    #[test]
    fn secrets_are_left_out() {
        for (url, shown) in [
            ("https://user:hush@c:4318/v1?key=hush", "\"https://c:4318/v1\""),
            ("http://c", "\"http://c\""),
            ("://hush@c#hush", "\"://c\""),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
        let mut raw = RawConfiguration::default();
        raw.otlp.headers = serde_json::from_str(r#"{"authorization":"hush"}"#).expect("headers");
        raw.otlp.endpoint = Some("http://c/?key=hush".to_owned());
        assert!(!format!("{:?}", Fingerprint::of(&raw)).contains("hush"));
    }
}
