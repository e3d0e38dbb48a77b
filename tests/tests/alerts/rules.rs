//! What can be said of the rules without any traffic.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
    thread,
};

use serde_json::Value;
use tidewaiter_tests::{command::output, namespace::Namespace, servers::are_installed};

use crate::{files, folder, prometheus::Prometheus};

/// What Prometheus has by itself, the series that people may write for themselves, and what the golden file has nothing of, because
/// its APIs have had no clients (`exporter/src/metrics/clients.rs` has those).
const OTHERS: [&str; 4] =
    ["up", "tidewaiter:error_budget:override", "tidewaiter_api_clients", "tidewaiter_client_bytes_total"];
/// Words of `PromQL` that stand where a metric could.
const WORDS: [&str; 5] = ["and", "bool", "offset", "or", "unless"];
/// Words behind which labels stand in parentheses.
const LISTS: [&str; 6] = ["by", "group_left", "group_right", "ignoring", "on", "without"];

/// All rules as Prometheus has read them.
fn rules() -> Vec<Value> {
    let namespace = Namespace::new();
    let prometheus = Prometheus::start(&namespace, &folder(), "");
    let groups = prometheus.ask("rules", &[]);
    let groups = groups["data"]["groups"].as_array().expect("groups");
    groups.iter().flat_map(|group| group["rules"].as_array().expect("rules")).cloned().collect()
}

/// The metrics that the exporter has.
fn golden() -> BTreeSet<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/metrics.txt");
    names_of_samples(&fs::read_to_string(path).expect("is there"))
}

fn names_of_samples(text: &str) -> BTreeSet<String> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.split(['{', ' ']).next().unwrap_or_default().to_owned()).collect()
}

fn text<'a>(rule: &'a Value, key: &str) -> &'a str {
    rule[key].as_str().unwrap_or_else(|| panic!("no {key} in {rule}"))
}

fn is_alert(rule: &Value) -> bool {
    rule["type"] == "alerting"
}

/// Names of metrics in `expression`: words that are no function, no label and no word of the language.
fn metrics(expression: &str) -> BTreeSet<String> {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    let (mut found, mut rest, mut is_list) = (BTreeSet::new(), expression, false);
    while let Some(first) = rest.chars().next() {
        let behind = |end: char| rest.split_once(end).map_or("", |(_, rest)| rest);
        match first {
            '"' => rest = behind_text(&rest[1..]),
            '[' => rest = behind(']'),
            '{' => {
                let mut inside = &rest[1..];
                while !inside.starts_with('}') {
                    inside = match inside.strip_prefix('"') {
                        Some(value) => behind_text(value),
                        None => &inside[1..],
                    };
                }
                rest = &inside[1..];
            }
            '(' if is_list => (rest, is_list) = (behind(')'), false),
            _ if is_word(first) => {
                let length = rest.find(|letter| !is_word(letter)).unwrap_or(rest.len());
                let (word, behind) = rest.split_at(length);
                rest = behind;
                is_list = LISTS.contains(&word);
                // Numbers and times begin with a digit; `inf` and the like are not used.
                let is_name = !first.is_ascii_digit() && !is_list && !WORDS.contains(&word);
                if is_name && !behind.trim_start().starts_with('(') && !has_labels_first(behind) {
                    found.insert(word.to_owned());
                }
            }
            _ => rest = &rest[first.len_utf8()..],
        }
    }
    found
}

/// Whether what is before `behind` is an aggregation whose labels come first: `sum by (…) (…)`.
fn has_labels_first(behind: &str) -> bool {
    let behind = behind.trim_start();
    let rest = behind.strip_prefix("by").or_else(|| behind.strip_prefix("without"));
    rest.is_some_and(|rest| rest.trim_start().starts_with('('))
}

/// What is behind a text whose opening quote was taken off.
fn behind_text(text: &str) -> &str {
    let mut is_escaped = false;
    let end = text.find(|letter| {
        let is_end = letter == '"' && !is_escaped;
        is_escaped = letter == '\\' && !is_escaped;
        is_end
    });
    end.map_or("", |end| &text[end + 1..])
}

#[test]
fn metrics_are_found_in_expressions() {
    let names = |expression| metrics(expression).into_iter().collect::<Vec<_>>();
    assert_eq!(
        names("sum by (a, b) (rate(x{l=\"y}\", m!~\"a|b\"}[2m])) / on (a) group_left () z:w5m > 3e2"),
        ["x", "z:w5m"]
    );
    assert_eq!(names("quantile by (a) (5 / 6, label_replace(y offset 7d, \"day\", \"1\", \"\", \"\"))"), ["y"]);
    assert_eq!(names("x unless max_over_time(v[1h:5m] offset 23h30m) and -u"), ["u", "v", "x"]);
}

#[test]
fn every_expression_names_metrics_that_there_are() {
    if !are_installed(&["prometheus"]) {
        return;
    }
    let mut known = golden();
    known.extend(OTHERS.map(str::to_owned));
    let rules = rules();
    known.extend(rules.iter().filter(|rule| !is_alert(rule)).map(|rule| text(rule, "name").to_owned()));
    assert!(known.len() > 100, "{known:?}");
    for rule in &rules {
        let named = metrics(text(rule, "query"));
        let unknown: Vec<_> = named.difference(&known).collect();
        assert!(unknown.is_empty(), "{}: {unknown:?}", text(rule, "name"));
        // Constants are of none.
        assert!(!named.is_empty() || text(rule, "query").starts_with("vector("), "{rule}");
    }
}

#[test]
fn the_backtest_speaks_as_the_exporter_does() {
    let directory = tempfile::tempdir().expect("a directory");
    let script = folder().join("backtest/generate.py");
    output(Command::new("python3").arg("-B").arg(script).arg(directory.path()).arg("1"));
    let made: String =
        files(directory.path(), ".om").iter().map(|file| fs::read_to_string(file).expect("is text")).collect();
    let names = names_of_samples(&made);
    let known = golden();
    let unknown: Vec<_> = names.difference(&known).filter(|name| !OTHERS.contains(&name.as_str())).collect();
    assert!(unknown.is_empty() && names.len() > 30, "{unknown:?} of {}", names.len());
}

#[test]
fn every_alert_is_complete() {
    if !are_installed(&["prometheus"]) {
        return;
    }
    let rules = rules();
    let tests: String =
        files(&folder().join("tests"), ".yml").iter().map(|file| fs::read_to_string(file).expect("is text")).collect();
    let alerts: Vec<_> = rules.iter().filter(|rule| is_alert(rule)).collect();
    assert!(alerts.len() > 30, "{}", alerts.len());
    let mut pages = BTreeSet::new();
    for alert in alerts {
        let name = text(alert, "name");
        assert!(["critical", "warning", "info"].contains(&text(&alert["labels"], "severity")), "{name}");
        for annotation in ["summary", "description"] {
            assert!(text(&alert["annotations"], annotation).len() > 10, "{name}: {annotation}");
        }
        assert_eq!(text(&alert["annotations"], "runbook_url"), format!("alerts/runbooks/{name}.md"));
        let page = folder().join(format!("runbooks/{name}.md"));
        let text = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{name}: {error}"));
        for part in ["# ", "## What it means\n\n", "## How to look\n\n", "## What to do\n\n"] {
            assert!(text.contains(part), "{name}: no {part:?}");
        }
        pages.insert(page);
        // Silent, close to it, firing with all that it says, and over.
        let is_silent = |when: &str| tests.contains(&format!("alertname: {name}}} # {when}\n"));
        assert!(["silent", "near", "over"].into_iter().all(is_silent), "{name} is not tested to be silent");
        assert!(
            tests.contains(&format!(
                "# firing\n        alertname: {name}\n        exp_alerts:\n          - exp_labels:"
            )),
            "{name}"
        );
    }
    let there: BTreeSet<_> = files(&folder().join("runbooks"), ".md").into_iter().collect();
    assert_eq!(there, pages, "pages of no alert");
}

#[test]
fn every_threshold_is_there_and_used() {
    if !are_installed(&["prometheus"]) {
        return;
    }
    let mut used: BTreeMap<String, usize> = BTreeMap::new();
    for rule in rules() {
        if rule["name"] == "tidewaiter:threshold" {
            used.entry(text(&rule["labels"], "name").to_owned()).or_default();
            continue;
        }
        let query = text(&rule, "query").to_owned();
        for part in query.split("tidewaiter:threshold{name=\"").skip(1) {
            *used.entry(part.split('"').next().expect("a name").to_owned()).or_default() += 1;
        }
    }
    let file = fs::read_to_string(folder().join("thresholds.yml")).expect("is there");
    for (name, times) in used {
        assert!(times > 0, "{name} is used by nothing");
        assert!(file.contains(&format!("{{name: {name}}}")), "{name} is nowhere");
    }
}

#[test]
fn promtool_finds_nothing_wrong() {
    if !are_installed(&["promtool"]) {
        return;
    }
    output(Command::new("promtool").args(["check", "rules"]).args(files(&folder(), ".yml")));
    let tests = folder().join("tests");
    // Some have a week of history: each by itself, all at once.
    thread::scope(|scope| {
        for file in files(&tests, ".yml") {
            let mut command = Command::new("promtool");
            command.current_dir(&tests).args(["test", "rules"]).arg(file);
            scope.spawn(move || output(&mut command));
        }
    });
}
