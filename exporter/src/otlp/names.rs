//! What is called how: the metrics and labels of `/metrics`, and OpenTelemetry's names, units and attributes for them.
//!
//! A collector that turns these back into Prometheus' names ("Prometheus and `OpenMetrics` Compatibility") gets
//! those of `/metrics`, but for what the semantic conventions have names of their own for (`process.…`).

use opentelemetry_semantic_conventions::{
    attribute::{
        HOST_ARCH, HTTP_REQUEST_METHOD, HTTP_RESPONSE_STATUS_CODE, NETWORK_INTERFACE_NAME, NETWORK_IO_DIRECTION,
        NETWORK_PEER_ADDRESS, NETWORK_TRANSPORT, SERVICE_VERSION,
    },
    metric::{PROCESS_CPU_TIME, PROCESS_MEMORY_USAGE, PROCESS_UNIX_FILE_DESCRIPTOR_COUNT},
};

use super::attributes::{API, ROLE};

/// How a metric is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// What it is called on `/metrics`.
    pub prometheus: &'static str,
    /// What it is called by OpenTelemetry.
    pub name: &'static str,
    /// Its unit, as UCUM writes it.
    pub unit: &'static str,
    /// Whether values of a gauge add up, which makes it an `UpDownCounter`.
    pub adds_up: bool,
}

const fn name(prometheus: &'static str, name: &'static str, unit: &'static str) -> Name {
    Name { prometheus, name, unit, adds_up: false }
}

const fn adds_up(prometheus: &'static str, name: &'static str, unit: &'static str) -> Name {
    Name { prometheus, name, unit, adds_up: true }
}

/// What is not sent: when the exporter was started is since when `process.cpu.time` counts.
pub const UNSENT: &[&str] = &["process_start_time_seconds"];

/// Every other metric of `/metrics`, and how it is sent.
pub const METRICS: &[Name] = &[
    name("process_cpu_seconds_total", PROCESS_CPU_TIME, "s"),
    adds_up("process_resident_memory_bytes", PROCESS_MEMORY_USAGE, "By"),
    adds_up("process_open_fds", PROCESS_UNIX_FILE_DESCRIPTOR_COUNT, "{file_descriptor}"),
    name("tidewaiter_api_packets_total", "tidewaiter.api.packets", "{packet}"),
    name("tidewaiter_api_bytes_total", "tidewaiter.api.bytes", "By"),
    name("tidewaiter_api_untracked_packets_total", "tidewaiter.api.untracked_packets", "{packet}"),
    name("tidewaiter_api_info", "tidewaiter.api.info", "{api}"),
    name("tidewaiter_api_connection_attempts_total", "tidewaiter.api.connection.attempts", "{attempt}"),
    name("tidewaiter_api_connections_refused_total", "tidewaiter.api.connections.refused", "{connection}"),
    name("tidewaiter_api_connections_opened_total", "tidewaiter.api.connections.opened", "{connection}"),
    name("tidewaiter_api_connections_adopted_total", "tidewaiter.api.connections.adopted", "{connection}"),
    name("tidewaiter_api_connections_closed_total", "tidewaiter.api.connections.closed", "{connection}"),
    adds_up("tidewaiter_api_connections_active", "tidewaiter.api.connections.active", "{connection}"),
    name("tidewaiter_api_reset_packets_total", "tidewaiter.api.reset_packets", "{packet}"),
    name("tidewaiter_api_handshake_duration_seconds", "tidewaiter.api.handshake.duration", "s"),
    name("tidewaiter_api_response_duration_seconds", "tidewaiter.api.response.duration", "s"),
    name("tidewaiter_api_connection_duration_seconds", "tidewaiter.api.connection.duration", "s"),
    name("tidewaiter_api_protocol_flows_total", "tidewaiter.api.protocol.flows", "{flow}"),
    name("tidewaiter_api_requests_total", "tidewaiter.api.requests", "{request}"),
    name("tidewaiter_api_responses_total", "tidewaiter.api.responses", "{response}"),
    name("tidewaiter_api_retransmitted_packets_total", "tidewaiter.api.retransmitted_packets", "{packet}"),
    name("tidewaiter_api_dropped_packets_total", "tidewaiter.api.dropped_packets", "{packet}"),
    name("tidewaiter_api_clients", "tidewaiter.api.clients", "{client}"),
    name("tidewaiter_anomalies_total", "tidewaiter.anomalies", "{anomaly}"),
    name("tidewaiter_client_bytes_total", "tidewaiter.client.bytes", "By"),
    name("tidewaiter_flow_records_total", "tidewaiter.flow.records", "{record}"),
    name("tidewaiter_flow_records_dropped_total", "tidewaiter.flow.records_dropped", "{record}"),
    name("tidewaiter_interface_packets_total", "tidewaiter.interface.packets", "{packet}"),
    name("tidewaiter_interface_bytes_total", "tidewaiter.interface.bytes", "By"),
    name("tidewaiter_interface_buffers_total", "tidewaiter.interface.buffers", "{buffer}"),
    name("tidewaiter_interface_kernel_packets_total", "tidewaiter.interface.kernel_packets", "{packet}"),
    name("tidewaiter_coverage_ratio", "tidewaiter.coverage", "1"),
    name("tidewaiter_uncounted_packets_total", "tidewaiter.uncounted.packets", "{packet}"),
    name("tidewaiter_uncounted_bytes_total", "tidewaiter.uncounted.bytes", "By"),
    name("tidewaiter_guard_packets_total", "tidewaiter.guard.packets", "{packet}"),
    name("tidewaiter_interface_guard_packets_total", "tidewaiter.interface.guard.packets", "{packet}"),
    name("tidewaiter_guard_enforcing", "tidewaiter.guard.enforcing", "1"),
    name("tidewaiter_guard_generation", "tidewaiter.guard.generation", "{generation}"),
    name("tidewaiter_guard_clients_evicted_total", "tidewaiter.guard.clients_evicted", "{client}"),
    name("tidewaiter_blocks_refused_total", "tidewaiter.blocks.refused", "{block}"),
    name("tidewaiter_otlp_exports_total", "tidewaiter.otlp.exports", "{request}"),
    name("tidewaiter_otlp_exported_total", "tidewaiter.otlp.exported", "{item}"),
    name("tidewaiter_otlp_dropped_total", "tidewaiter.otlp.dropped", "{item}"),
    name("tidewaiter_otlp_unsampled_total", "tidewaiter.otlp.unsampled", "{span}"),
    adds_up("tidewaiter_otlp_queue_bytes", "tidewaiter.otlp.queue", "By"),
    adds_up("tidewaiter_otlp_queue_capacity_bytes", "tidewaiter.otlp.queue_capacity", "By"),
    name("tidewaiter_audit_records_total", "tidewaiter.audit.records", "{record}"),
    name("tidewaiter_audit_dropped_total", "tidewaiter.audit.dropped", "{event}"),
    name("tidewaiter_audit_bytes_total", "tidewaiter.audit.bytes", "By"),
    name("tidewaiter_audit_failures_total", "tidewaiter.audit.failures", "{failure}"),
    name("tidewaiter_audit_rotations_total", "tidewaiter.audit.rotations", "{file}"),
    name("tidewaiter_audit_writable", "tidewaiter.audit.writable", "1"),
    name("tidewaiter_audit_sequence", "tidewaiter.audit.sequence", "{record}"),
    name("tidewaiter_config_generation", "tidewaiter.config.generation", "{configuration}"),
    name("tidewaiter_config_last_reload_successful", "tidewaiter.config.last_reload_successful", "1"),
    name("tidewaiter_config_last_reload_success_timestamp_seconds", "tidewaiter.config.last_reload_success", "s"),
    name("tidewaiter_build_info", "tidewaiter.build.info", "{build}"),
    adds_up("tidewaiter_map_entries", "tidewaiter.map.entries", "{entry}"),
    adds_up("tidewaiter_map_capacity", "tidewaiter.map.capacity", "{entry}"),
    name("tidewaiter_events_lost_total", "tidewaiter.events.lost", "{event}"),
    name("tidewaiter_collector_success", "tidewaiter.collector.success", "{collector}"),
    name("tidewaiter_collector_duration_seconds", "tidewaiter.collector.duration", "s"),
    name("tidewaiter_program_runs_total", "tidewaiter.program.runs", "{run}"),
    name("tidewaiter_program_run_seconds_total", "tidewaiter.program.run", "s"),
];

/// The label whose values are the names of protocols, which OpenTelemetry has in two attributes.
pub(super) const PROTOCOL: &str = "protocol";

/// Every other label, and the attribute that has its values.
pub const LABELS: &[(&str, &str)] = &[
    ("api", API),
    ("role", ROLE),
    ("direction", NETWORK_IO_DIRECTION),
    ("interface", NETWORK_INTERFACE_NAME),
    // The other end, which is the client of a server and the server of a client.
    ("client", NETWORK_PEER_ADDRESS),
    ("method", HTTP_REQUEST_METHOD),
    ("code", HTTP_RESPONSE_STATUS_CODE),
    ("transport", NETWORK_TRANSPORT),
    ("version", SERVICE_VERSION),
    ("arch", HOST_ARCH),
    ("ports", "tidewaiter.ports"),
    ("expect", "tidewaiter.expect"),
    ("reason", "tidewaiter.reason"),
    ("kind", "tidewaiter.anomaly.kind"),
    ("rule", "tidewaiter.rule"),
    ("verdict", "tidewaiter.verdict"),
    ("window", "tidewaiter.window"),
    ("map", "tidewaiter.map"),
    ("event", "tidewaiter.event"),
    ("collector", "tidewaiter.collector"),
    ("program", "tidewaiter.program"),
    ("sink", "tidewaiter.sink"),
    ("signal", "tidewaiter.otlp.signal"),
    ("outcome", "tidewaiter.otlp.outcome"),
];

/// Attributes whose values are numbers.
pub(super) const NUMBERS: &[&str] = &[HTTP_RESPONSE_STATUS_CODE];

/// Values that the semantic conventions write in another way than `/metrics`: for any other method, `_OTHER`.
pub(super) const VALUES: &[(&str, &str, &str)] = &[(HTTP_REQUEST_METHOD, "other", "_OTHER")];
