//! Metrics of the kernel's BPF statistics. Their switch is the whole machine's, so no other test runs beside this one.

use tidewaiter_tests::{exporter::Exporter, namespace::Namespace, statistics::Statistics};

#[test]
fn program_statistics_are_there_while_the_kernel_keeps_them() {
    let namespace = Namespace::new();
    let exporter = Exporter::start(&namespace, "interfaces = [\"lo\"]");
    let runs = |exporter: &Exporter<'_>| {
        exporter.metrics().get("tidewaiter_program_runs_total", &[("program", "account_receive")])
    };
    let statistics = Statistics::new();
    if !statistics.were_on() {
        assert_eq!(runs(&exporter), None);
    }
    statistics.turn_on();
    assert!(runs(&exporter).is_some());
    assert!(runs(&exporter) > Some(5), "each scrape is some packets");
}
