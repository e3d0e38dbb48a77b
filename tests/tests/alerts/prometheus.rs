//! A Prometheus with rules, the Alertmanager that it tells, and the webhook that hears of it in the end.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use serde_json::Value;
use tempfile::TempDir;
use tidewaiter_tests::{
    command::{Process, output},
    namespace::Namespace,
    wait::wait_until,
};

/// Where Alertmanager listens in its namespace, and the webhook.
const ALERTMANAGER: &str = "127.0.0.1:9093";
const WEBHOOK: &str = "127.0.0.1:9099";
/// Where Prometheus does.
const PROMETHEUS: &str = "127.0.0.1:9090";

/// A Prometheus. It is ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Prometheus<'a> {
    namespace: &'a Namespace,
    _process: Process,
    _directory: TempDir,
}

impl<'a> Prometheus<'a> {
    /// Starts one that scrapes `targets` (a YAML list without its brackets) each second, with the rules in the folder `rules`, and tells
    /// the Alertmanager there may be.
    pub(crate) fn start(namespace: &'a Namespace, rules: &Path, targets: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("prometheus.yml");
        let configuration = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
             rule_files: ['{}/*.yml']\n\
             alerting: {{ alertmanagers: [{{ static_configs: [{{ targets: ['{ALERTMANAGER}'] }}] }}] }}\n\
             scrape_configs: [{{ job_name: tidewaiter, static_configs: [{{ targets: [{targets}] }}] }}]\n",
            rules.display()
        );
        fs::write(&file, configuration).expect("can be written");
        let mut command = namespace.command("prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()));
        command.arg(format!("--web.listen-address={PROMETHEUS}"));
        command.args(["--rules.alert.resend-delay=1s", "--log.level=error"]);
        let prometheus = Self { namespace, _process: Process::start(&mut command), _directory: directory };
        wait_until("Prometheus to answer", || prometheus.try_ask("rules", &[]).is_some());
        prometheus
    }

    fn try_ask(&self, path: &str, arguments: &[(&str, &str)]) -> Option<Value> {
        let mut curl = self.namespace.command("curl");
        curl.args(["-s", "-f", "-G"]).arg(format!("http://{PROMETHEUS}/api/v1/{path}"));
        for (name, value) in arguments {
            curl.arg("--data-urlencode").arg(format!("{name}={value}"));
        }
        let answer = curl.output().ok()?;
        serde_json::from_slice(&answer.stdout).ok()
    }

    /// Asks its API.
    pub(crate) fn ask(&self, path: &str, arguments: &[(&str, &str)]) -> Value {
        self.try_ask(path, arguments).unwrap_or_else(|| panic!("no answer from {path}"))
    }

    /// How many series `expression` has now.
    pub(crate) fn count(&self, expression: &str) -> usize {
        self.ask("query", &[("query", expression)])["data"]["result"].as_array().expect("a vector").len()
    }
}

/// An alert as the webhook has heard it: its name, its API, and whether it fires (or is over).
pub(crate) type Heard = (String, String, bool);

/// An Alertmanager and a webhook, in a namespace.
#[derive(Debug)]
pub(crate) struct Alertmanager {
    heard: Arc<Mutex<Vec<Heard>>>,
    _process: Process,
    _directory: TempDir,
}

impl Alertmanager {
    /// Starts both.
    pub(crate) fn start(namespace: &Namespace) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let listener = namespace.run(|| TcpListener::bind(WEBHOOK).expect("nobody listens there"));
        let copy = Arc::clone(&heard);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let mut reader = BufReader::new(&client);
                let mut length = 0;
                for line in reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()) {
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                        length = value.parse().expect("a number");
                    }
                }
                let mut body = vec![0; length];
                if reader.read_exact(&mut body).is_err() {
                    continue;
                }
                let message: Value = serde_json::from_slice(&body).expect("Alertmanager writes JSON");
                for alert in message["alerts"].as_array().expect("alerts") {
                    let label = |name: &str| alert["labels"][name].as_str().unwrap_or_default().to_owned();
                    assert!(alert["annotations"]["runbook_url"].is_string(), "{alert}");
                    let one = (label("alertname"), label("api"), alert["status"] == "firing");
                    eprintln!("webhook: {one:?}");
                    copy.lock().expect("nobody panics with it").push(one);
                }
                (&client).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok();
            }
        });

        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("alertmanager.yml");
        let configuration = format!(
            "route: {{ receiver: webhook, group_by: ['...'], group_wait: 0s, group_interval: 1s, repeat_interval: 1h }}\n\
             receivers: [{{ name: webhook, webhook_configs: [{{ url: 'http://{WEBHOOK}/', send_resolved: true }}] }}]\n"
        );
        fs::write(&file, configuration).expect("can be written");
        let mut command = namespace.command("prometheus-alertmanager");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.path={}", directory.path().join("data").display()));
        command.arg(format!("--web.listen-address={ALERTMANAGER}"));
        // It is alone.
        command.args(["--cluster.listen-address=", "--log.level=error"]);
        let process = Process::start(&mut command);
        wait_until("Alertmanager to answer", || {
            let url = format!("http://{ALERTMANAGER}/-/ready");
            namespace
                .command("curl")
                .args(["-s", "-f", "-o", "/dev/null", &url])
                .status()
                .is_ok_and(|status| status.success())
        });
        assert!(output(namespace.command("ss").arg("-Hlnt")).contains(WEBHOOK));
        Self { heard, _process: process, _directory: directory }
    }

    /// All that the webhook has heard so far.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().expect("nobody panics with it").clone()
    }
}
