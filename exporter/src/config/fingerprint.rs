//! What tells one configuration from another: a hash of all that it resolves to, and what is different. Secrets are left out.

use std::collections::BTreeMap;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::raw::RawConfiguration;
use crate::audit::Hash;

/// Tables of which there are several, each with a name: they are the same wherever they stand.
const NAMED: [&str; 2] = ["api", "rule"];

/// Keys whose values are URLs, in which there may be passwords.
const URLS: [&str; 4] = ["otlp.endpoint", "otlp.metrics.endpoint", "otlp.traces.endpoint", "otlp.logs.endpoint"];

/// All that a configuration resolves to, key by key, defaults included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    values: BTreeMap<String, String>,
    /// Keys of the rules, in their order.
    rules: Vec<String>,
}

impl Fingerprint {
    pub(super) fn of(raw: &RawConfiguration) -> Self {
        let mut values = BTreeMap::new();
        // Strings and numbers in tables and lists: all of it can be written.
        let value = serde_json::to_value(raw).unwrap_or_default();
        flatten(&mut values, String::new(), &value);
        let rules: Vec<_> = raw.rule.iter().map(|rule| named("rule", &rule.name)).collect();
        // The first one that matches decides, so their order is a part of what they are.
        for pair in rules.windows(2) {
            if let [before, rule] = pair {
                values.insert(format!("{rule}.after"), before.clone());
            }
        }
        Self { values, rules }
    }

    /// Takes note of what stands in a file that is named at `key`.
    pub(super) fn note(&mut self, key: String, content: String) {
        let of_rule = key.strip_prefix("rule.").and_then(|rest| rest.split_once('.'));
        let of_rule = of_rule.and_then(|(place, rest)| {
            let rule = self.rules.get(place.parse::<usize>().ok()?)?;
            Some(format!("{rule}.{rest}"))
        });
        self.values.insert(of_rule.unwrap_or(key), content);
    }

    /// The keys of which something is different in `other`.
    #[must_use]
    pub fn changed_keys<'a>(&'a self, other: &'a Self) -> Vec<&'a str> {
        let keys: std::collections::BTreeSet<_> = self.values.keys().chain(other.values.keys()).collect();
        keys.into_iter().filter(|key| self.values.get(*key) != other.values.get(*key)).map(String::as_str).collect()
    }

    /// SHA-256 of it, in hexadecimal digits.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        for (key, value) in &self.values {
            hasher.update(format!("{key} = {value}\n"));
        }
        Hash::from(hasher).to_string()
    }

    /// What is different in `other`: a line for each key, with its value here and there.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Vec<String> {
        let keys: std::collections::BTreeSet<_> = self.values.keys().chain(other.values.keys()).collect();
        let shown = |value: Option<&String>| value.map_or("none".to_owned(), Clone::clone);
        let line = |key: &&String| {
            let (before, now) = (self.values.get(*key), other.values.get(*key));
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
        Value::Array(list) if NAMED.contains(&key.as_str()) => {
            for table in list {
                let name = table.get("name").and_then(Value::as_str).unwrap_or_default();
                flatten(values, named(&key, name), table);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for (place, value) in list.iter().enumerate() {
                flatten(values, inner(&place.to_string()), value);
            }
        }
        Value::String(text) if URLS.contains(&key.as_str()) => {
            values.insert(key, without_secrets(text));
        }
        other => {
            values.insert(key, other.to_string());
        }
    }
}

/// The key of the one called `name` among several: bare if TOML could have it so.
fn named(key: &str, name: &str) -> String {
    let is_bare = !name.is_empty() && name.chars().all(|one| one.is_ascii_alphanumeric() || matches!(one, '_' | '-'));
    if is_bare { format!("{key}.{name}") } else { format!("{key}.{}", Value::from(name)) }
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
    fn rules_and_apis_are_told_by_their_names() {
        let raw = |text: &str| {
            let table: toml::Table = text.parse().expect("is TOML");
            let mut raw = RawConfiguration::default();
            for (name, list) in &table {
                match name.as_str() {
                    "api" => raw.api = list.clone().try_into().expect("are APIs"),
                    _ => raw.rule = list.clone().try_into().expect("are rules"),
                }
            }
            raw
        };
        let rule = |name: &str, action: &str| format!("[[rule]]\nname = {name:?}\naction = {action:?}\n");
        let api = "[[api]]\nname = \"a\"\nports = [1]\n";
        let [before, after] = [
            api.to_owned() + &rule("one", "drop") + &rule("two.a", "drop"),
            "[[api]]\nname = \"new\"\nports = [2]\n".to_owned()
                + api
                + &rule("zero", "drop")
                + &rule("one", "drop")
                + &rule("two.a", "reject"),
        ]
        .map(|text| Fingerprint::of(&raw(&text)));
        let difference = before.difference(&after);
        let about = |key: &str| difference.iter().filter(|line| line.starts_with(key)).count();
        assert_eq!((about("api.a."), about("rule.one.")), (0, 1), "{difference:?}");
        for line in ["rule.one.after: none -> rule.zero", "rule.\"two.a\".action: \"drop\" -> \"reject\""] {
            assert!(difference.iter().any(|one| one == line), "{difference:?}");
        }
        let [one, other] = [["one", "two"], ["two", "one"]]
            .map(|names| Fingerprint::of(&raw(&names.map(|name| rule(name, "drop")).concat())));
        assert_ne!(one, other, "their order counts");
        let mut noted = after.clone();
        noted.note("rule.2.from_file.0.prefixes".to_owned(), "3".to_owned());
        assert_eq!(after.difference(&noted), ["rule.\"two.a\".from_file.0.prefixes: none -> 3"]);
    }

    #[test]
    fn only_urls_are_taken_for_urls() {
        let interfaces = serde_json::from_str("[\"a://b?c\"]").expect("a list");
        let raw = RawConfiguration { interfaces, ..RawConfiguration::default() };
        assert!(format!("{:?}", Fingerprint::of(&raw)).contains("a://b?c"));
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
