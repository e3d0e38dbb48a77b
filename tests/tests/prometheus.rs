//! A real Prometheus scrapes the running exporter.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::fs;

use tidewaiter_common::direction::Direction;
use tidewaiter_tests::{
    command::Process,
    exporter::{ADDRESS, Exporter},
    namespace::Namespace,
    wait::wait_for,
};

const CONFIGURATION: &str = "
    interfaces = [\"lo\"]
    [[api]]
    name = \"exporter\"
    ports = [9473]
";

#[test]
fn prometheus_scrapes_and_answers() {
    let namespace = Namespace::new();
    let exporter = Exporter::start(&namespace, CONFIGURATION);
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("prometheus.yml");
    let scrape = format!(
        "global: {{ scrape_interval: 1s }}\nscrape_configs: [{{ job_name: tidewaiter, static_configs: [{{ targets: ['{ADDRESS}'] }}] }}]\n"
    );
    fs::write(&file, scrape).expect("can be written");
    let mut command = namespace.command("prometheus");
    command.arg(format!("--config.file={}", file.display()));
    command.arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()));
    command.args(["--web.listen-address=127.0.0.1:9090", "--log.level=warn"]);
    let _prometheus = Process::start(&mut command);

    let query = |expression: &str| -> Option<f64> {
        let argument = format!("query={expression}");
        let curl = ["-s", "-G", "http://127.0.0.1:9090/api/v1/query", "--data-urlencode", &argument];
        let answer = namespace.command("curl").args(curl).output().ok()?.stdout;
        let answer: serde_json::Value = serde_json::from_slice(&answer).ok()?;
        answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    };
    let expression = "rate(tidewaiter_api_packets_total{api=\"exporter\",direction=\"receive\"}[10s])";
    let rate = wait_for("Prometheus to have scraped for a while", || query(expression).filter(|rate| *rate > 1.0));
    // Each scrape is a few packets each way, once a second.
    assert!(rate < 100.0, "{rate} packets a second");
    assert_eq!(query("up"), Some(1.0));

    // What it has is what the exporter says: never more, and close behind.
    let total = "tidewaiter_api_packets_total{api=\"exporter\",direction=\"receive\"}";
    let scraped = query(total).expect("is there");
    let now = exporter.metrics().api("exporter", "server", Direction::Receive).packets;
    #[expect(clippy::cast_precision_loss, reason = "a few packets")]
    let now = now as f64;
    assert!(scraped <= now && scraped > 0.0, "{scraped} of {now}");
}
