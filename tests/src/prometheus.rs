//! A real Prometheus, from Debian's package, that scrapes the exporter.

use std::{fs, path::Path};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    command::{Process, output},
    exporter::ADDRESS,
    namespace::Namespace,
};

/// A Prometheus in a namespace. It is ended when this is dropped.
#[derive(Debug)]
pub struct Prometheus<'a> {
    namespace: &'a Namespace,
    _process: Process,
    _directory: TempDir,
}

impl<'a> Prometheus<'a> {
    /// Starts it with more `arguments`; it scrapes [`ADDRESS`] every second, at each of `paths`, which is the job's name.
    #[must_use]
    pub fn start(namespace: &'a Namespace, paths: &[&str], arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("prometheus.yml");
        let targets = format!("static_configs: [{{ targets: ['{ADDRESS}'] }}]");
        let jobs = paths.iter().map(|path| format!("{{ job_name: {path}, metrics_path: /{path}, {targets} }}"));
        let jobs: Vec<_> = jobs.collect();
        let scrape = format!("global: {{ scrape_interval: 1s }}\nscrape_configs: [{}]\n", jobs.join(", "));
        fs::write(&file, scrape).expect("can be written");
        let mut command = namespace.command("prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()));
        command.args(["--web.listen-address=127.0.0.1:9090", "--log.level=warn"]).args(arguments);
        Self { namespace, _process: Process::start(&mut command), _directory: directory }
    }

    /// What it answers to `expression` now: nothing while it does not listen yet.
    ///
    /// # Panics
    /// If it does not understand that.
    #[must_use]
    pub fn series(&self, expression: &str) -> Vec<Value> {
        let argument = format!("query={expression}");
        let curl = ["-s", "-G", "http://127.0.0.1:9090/api/v1/query", "--data-urlencode", &argument];
        let answer = self.namespace.command("curl").args(curl).output().expect("runs").stdout;
        let Ok(mut answer) = serde_json::from_slice::<Value>(&answer) else { return Vec::new() };
        assert!(answer["status"] == "success", "{expression}: {answer}");
        match answer["data"]["result"].take() {
            Value::Array(series) => series,
            other => panic!("{expression}: {other}"),
        }
    }

    /// The first value that `expression` has now.
    #[must_use]
    pub fn query(&self, expression: &str) -> Option<f64> {
        self.series(expression).first()?["value"][1].as_str()?.parse().ok()
    }
}

/// Has promtool read `expressions`, each as a rule: answers with what it prints, and panics if it does not take them.
#[allow(clippy::must_use_candidate, reason = "most often it is enough that it takes them")]
pub fn check(expressions: &[&str]) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("rules.json");
    write_rules(&file, expressions);
    output(std::process::Command::new("promtool").args(["check", "rules"]).arg(&file))
}

/// Rules are YAML, of which JSON is a part.
fn write_rules(file: &Path, expressions: &[&str]) {
    let rule = |(place, expression)| serde_json::json!({ "record": format!("dashboards:expression{place}"), "expr": expression });
    let rules: Vec<_> = expressions.iter().enumerate().map(rule).collect();
    let groups = serde_json::json!({ "groups": [{ "name": "expressions", "rules": rules }] });
    fs::write(file, groups.to_string()).expect("can be written");
}
