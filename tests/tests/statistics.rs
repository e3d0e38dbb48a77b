//! Metrics of the kernel's BPF statistics. Their switch is the whole machine's, so no other test runs beside this one.

#![allow(clippy::expect_used, reason = "a test panics for a stack trace")]

use std::fs;

use tidewaiter_tests::{exporter::Exporter, namespace::Namespace};

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// What the switch was before. It is turned back even on a panic.
struct Statistics(String);

impl Drop for Statistics {
    fn drop(&mut self) {
        fs::write(SWITCH, &self.0).expect("is root");
    }
}

#[test]
fn program_statistics_are_there_while_the_kernel_keeps_them() {
    let namespace = Namespace::new();
    let exporter = Exporter::start(&namespace, "interfaces = [\"lo\"]");
    let runs = |exporter: &Exporter<'_>| {
        exporter.metrics().get("tidewaiter_program_runs_total", &[("program", "account_receive")])
    };
    let switch = Statistics(fs::read_to_string(SWITCH).expect("is there"));
    if switch.0.trim() == "0" {
        assert_eq!(runs(&exporter), None);
    }
    fs::write(SWITCH, "1").expect("is root");
    assert!(runs(&exporter).is_some());
    assert!(runs(&exporter) > Some(5), "each scrape is some packets");
}
