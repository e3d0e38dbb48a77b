//! Reading `/metrics` as a test wants to.

use std::{collections::BTreeMap, fmt, ops};

use tidewaiter_common::direction::Direction;

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl ops::Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { packets: self.packets + other.packets, bytes: self.bytes + other.bytes }
    }
}

/// The samples of classic text, by series: `name{label="value",…}` with the labels sorted.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics(pub BTreeMap<String, f64>);

impl Metrics {
    /// Reads text whose label values hold no quotes.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a sample: {line}"));
            let series = match series.split_once('{') {
                Some((name, labels)) => {
                    // Commas stand in values too, but not behind a quote.
                    let labels = labels.strip_suffix("\"}").unwrap_or(labels).split("\",").map(series_label);
                    let labels: Vec<_> = labels.collect();
                    name_series(name, labels.iter().map(String::as_str))
                }
                None => series.to_owned(),
            };
            (series, value.parse().unwrap_or_else(|_| panic!("not a number: {line}")))
        });
        Self(samples.collect())
    }

    /// The value of the series called `name` with `labels`, if there is one.
    #[must_use]
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
        let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let series =
            if labels.is_empty() { name.to_owned() } else { name_series(name, labels.iter().map(String::as_str)) };
        #[expect(clippy::cast_sign_loss, reason = "counters are not negative")]
        self.0.get(&series).map(|value| *value as u64)
    }

    /// What was counted for `api` in `direction`; zero if there is no such API.
    #[must_use]
    pub fn api(&self, api: &str, role: &str, direction: Direction) -> Count {
        let labels = [("api", api), ("role", role), ("direction", direction.as_str())];
        self.count("api", &labels)
    }

    /// All that was seen on `interface` in `direction`.
    #[must_use]
    pub fn interface(&self, interface: &str, direction: Direction) -> Count {
        self.count("interface", &[("interface", interface), ("direction", direction.as_str())])
    }

    /// What was counted on `interface` in `direction` under `reason`.
    #[must_use]
    pub fn uncounted(&self, interface: &str, direction: Direction, reason: &str) -> Count {
        let labels = [("interface", interface), ("direction", direction.as_str()), ("reason", reason)];
        self.count("uncounted", &labels)
    }

    fn count(&self, family: &str, labels: &[(&str, &str)]) -> Count {
        let value = |unit| self.get(&format!("tidewaiter_{family}_{unit}_total"), labels).unwrap_or_default();
        Count { packets: value("packets"), bytes: value("bytes") }
    }

    /// Sees that, per direction, all that was seen is what was counted for APIs and what was counted for none.
    ///
    /// # Panics
    /// If it is not.
    pub fn assert_the_sums_prove_it(&self) {
        for direction in Direction::ALL {
            for unit in ["packets", "bytes"] {
                let sum = |family: &str| {
                    let name = format!("tidewaiter_{family}_{unit}_total{{");
                    let direction = format!("direction=\"{}\"", direction.as_str());
                    let samples = self.0.iter().filter(|(key, _)| key.starts_with(&name) && key.contains(&direction));
                    samples.map(|(_, value)| value).sum::<f64>()
                };
                let (seen, counted, uncounted) = (sum("interface"), sum("api"), sum("uncounted"));
                let what = format!("{unit}, {}: {seen} = {counted} + {uncounted}?\n{self}", direction.as_str());
                assert!((seen - counted - uncounted).abs() < 0.5, "{what}");
            }
        }
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .filter(|(_, value)| **value > 0.0)
            .try_for_each(|(key, value)| writeln!(formatter, "{key} {value}"))
    }
}

/// A label without the quote at its end as it is in a series: bounds of buckets, which are written differently in different
/// formats, as Rust writes them.
fn series_label(label: &str) -> String {
    match label.strip_prefix("le=\"").map(str::parse::<f64>) {
        Some(Ok(bound)) => format!("le=\"{bound}\""),
        _ => format!("{label}\""),
    }
}

fn name_series<'a>(name: &str, labels: impl Iterator<Item = &'a str>) -> String {
    let mut labels: Vec<_> = labels.collect();
    labels.sort_unstable();
    format!("{name}{{{}}}", labels.join(","))
}
