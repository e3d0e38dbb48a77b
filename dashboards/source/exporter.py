"""The exporter itself: does it see everything, what does it cost, is there room, does what it tells arrive."""

from . import colours as c
from . import expressions as e
from .grafana import (
    Json,
    Panel,
    Query,
    bars,
    better,
    called,
    column,
    dashboard,
    graph,
    lines,
    painted,
    stat,
    steps,
    table,
    values,
    variable,
    worse,
)

NAME = "exporter"
VARIABLES = [
    variable("job", "Job", "label_values(tidewaiter_build_info, job)"),
    variable("instance", "Instance", 'label_values(tidewaiter_build_info{job=~"$job"}, instance)'),
]
# A table that is so full will soon refuse, or forget.
FULL = (0.7, 0.9)
# Packets that the programs did not see: one in a thousand is worth a look, one in a hundred is a hole.
COVERAGE = (0.99, 0.999)
# A scrape that takes a second is one to look at; Prometheus gives up after ten.
SCRAPE = (1, 5)


def _per_host(metric: str, *more: str) -> str:
    return e.total("instance", e.series(metric, e.HOSTS, *more))


def _glance() -> list[Panel]:
    zero = steps((None, c.GOOD), (1, c.BAD))
    return [
        stat(
            "Do not answer",
            "Exporters that Prometheus could not scrape.",
            Query('count(up{job=~"$job",instance=~"$instance"} == 0) or vector(0)'),
            unit="none",
            decimals=0,
            width=3,
            thresholds=zero,
        ),
        stat(
            "Coverage",
            "Packets that the programs saw for each one that the kernel counted: the least of all interfaces of which it is known. 100 % is complete.",
            Query(e.or_unknown(f"min({e.series('tidewaiter_coverage_ratio', e.HOSTS)})", e.HOSTS)),
            unit="percentunit",
            decimals=2,
            width=3,
            thresholds=better(*COVERAGE),
            unknown="not known",
        ),
        stat(
            "Events lost",
            "What the kernel had no room to tell, in what is shown. Packets are counted all the same.",
            Query(f"round({e.increase('', 'tidewaiter_events_lost_total', e.HOSTS)})"),
            unit="short",
            decimals=0,
            width=3,
            thresholds=steps((None, c.GOOD), (1, c.LOOK)),
        ),
        stat(
            "Fullest table",
            "The largest share of a table that is in use.",
            Query(f"max({e.series('tidewaiter_map_entries', e.HOSTS)} / {e.series('tidewaiter_map_capacity', e.HOSTS)})"),
            unit="percentunit",
            decimals=0,
            width=3,
            thresholds=worse(*FULL),
        ),
        stat(
            "Last reload",
            "Whether the configuration could be taken when it was last read, on all hosts.",
            Query(f"min({e.series('tidewaiter_config_last_reload_successful', e.HOSTS)})"),
            unit="none",
            width=3,
            mappings=values(_0=("refused", c.BAD), _1=("taken", c.GOOD)),
        ),
        stat(
            "Memory",
            "Resident memory: the most of all hosts.",
            Query(f"max({e.series('process_resident_memory_bytes', e.HOSTS)})"),
            unit="bytes",
            decimals=1,
            width=3,
        ),
        stat(
            "CPU",
            "CPU that the daemon takes, of one: the most of all hosts. What the programs take of each packet is not in it.",
            Query(f"max({e.rate('instance', 'process_cpu_seconds_total', e.HOSTS)})"),
            unit="percentunit",
            decimals=1,
            width=3,
        ),
        stat(
            "Not delivered",
            "Data points, spans and log records that no collector got, in what is shown.",
            Query(e.or_unknown(f"round({e.increase('', 'tidewaiter_otlp_dropped_total', e.HOSTS)})", e.HOSTS)),
            unit="short",
            decimals=0,
            width=3,
            thresholds=steps((None, c.GOOD), (1, c.BAD)),
            unknown="no OTLP",
        ),
    ]


def _coverage() -> list[Panel]:
    def packets(metric: str, *more: str, over: str = e.GRAPH) -> str:
        return e.rate("direction", f"tidewaiter_{metric}_total", e.HOSTS, *more, over=over)

    seen = packets("interface_packets")
    known = f"({packets('api_packets', over=e.NOW)} + ({packets('uncounted_packets', over=e.NOW)} or 0 * {packets('api_packets', over=e.NOW)}))"
    return [
        graph(
            "Is every packet seen?",
            "Packets that the programs saw for each one that the kernel counted, of interfaces of which it is known what they count: "
            "the least of all hosts.",
            [
                Query(
                    f"min by (interface, direction) ({e.series('tidewaiter_coverage_ratio', e.HOSTS)})",
                    "{{interface}} {{direction}}",
                )
            ],
            unit="percentunit",
            decimals=1,
            ground=0.95,
            reach=1,
        ),
        graph(
            "Do the sums prove it?",
            "Packets of all APIs and those that were counted for none, of those of all interfaces, in five minutes: 100 %, but for what "
            "arrived while it was read.",
            [Query(f"{known} / ({packets('interface_packets', over=e.NOW)} > 0)", "{{direction}}")],
            unit="percentunit",
            decimals=1,
            ground=0.95,
            reach=1,
            overrides=painted({"receive": c.RECEIVE, "transmit": c.TRANSMIT}),
        ),
        graph(
            "What is counted for no API, and why?",
            'Packets by the reason why they were counted for no API. "mirror" are those of lo that were counted at their other end.',
            [Query(e.named("tidewaiter_uncounted_packets_total", e.HOSTS, reason="none"), "{{reason}}")],
            unit="pps",
        ),
        graph(
            "How much passes?",
            "All packets on the wire that the programs saw, by interface.",
            [Query(e.rate("interface, direction", "tidewaiter_interface_packets_total", e.HOSTS), "{{interface}} {{direction}}")],
            unit="pps",
        ),
        graph(
            "How much of that has no API?",
            "Share of packets that belong to no API that is configured or discovered.",
            [Query(e.share(packets("api_packets", 'api="unmapped"'), packets("api_packets")), "{{direction}}")],
            unit="percentunit",
            overrides=painted({"receive": c.RECEIVE, "transmit": c.TRANSMIT}),
        ),
        graph(
            "How large are super-packets?",
            "Packets on the wire for each socket buffer: 1 without segmentation and receive offload. The programs run once for each buffer.",
            [Query(f"{seen} / ({packets('interface_buffers')} > 0)", "{{direction}}")],
            unit="none",
            decimals=1,
            overrides=painted({"receive": c.RECEIVE, "transmit": c.TRANSMIT}),
        ),
    ]


def _cost() -> list[Panel]:
    seen = e.rate("instance", "tidewaiter_interface_packets_total", e.HOSTS)
    cpu = e.rate("instance", "process_cpu_seconds_total", e.HOSTS)
    runs, seconds = (e.rate("program", f"tidewaiter_program_{name}_total", e.HOSTS) for name in ("runs", "run_seconds"))
    return [
        graph(
            "What does a packet cost in the kernel?",
            "Time that a program takes for each time that it runs. Only while kernel.bpf_stats_enabled is 1, which costs every BPF program of the host.",
            [Query(e.instead(f"{seconds} / ({runs} > 0)", e.HOSTS, program="BPF statistics are off"), "{{program}}")],
            unit="s",
            width=6,
        ),
        graph(
            "What does a packet cost the daemon?",
            "CPU time of the daemon for each packet that the programs saw. It does not grow with packets, so it falls as traffic grows.",
            [Query(f"{cpu} / ({seen} > 0)", "{{instance}}")],
            unit="s",
            width=6,
        ),
        graph(
            "CPU of the daemon",
            "Time that the daemon takes, of one CPU.",
            [Query(cpu, "{{instance}}")],
            unit="percentunit",
            width=6,
        ),
        graph(
            "Memory of the daemon",
            "Resident memory of each exporter.",
            [Query(_per_host("process_resident_memory_bytes"), "{{instance}}")],
            unit="bytes",
            width=6,
        ),
    ]


def _tables() -> list[Panel]:
    used = f"max by (map) ({e.series('tidewaiter_map_entries', e.HOSTS)} / {e.series('tidewaiter_map_capacity', e.HOSTS)})"
    return [
        bars(
            "How full are tables?",
            "Share that is in use now: the fullest of all hosts. new_flows forgets the oldest when it is full, all others refuse.",
            [Query(used, "{{map}}")],
            unit="percentunit",
            thresholds=worse(*FULL),
            most=1,
        ),
        graph(
            "How do they fill?",
            "Share that is in use: the fullest of all hosts.",
            [Query(used, "{{map}}")],
            unit="percentunit",
            most=1,
            thresholds=lines(FULL[1]),
        ),
        graph(
            "Does anything find no room?",
            "Packets of flows that found the table of flows full; and what the kernel had no room to tell, a second, by event.",
            [
                Query(e.rate("", "tidewaiter_api_untracked_packets_total", e.HOSTS), "untracked packets"),
                Query(e.rate("event", "tidewaiter_events_lost_total", e.HOSTS), "lost: {{event}}"),
            ],
            unit="ops",
            overrides=painted({"untracked packets": c.BAD}),
        ),
    ]


def _scrapes() -> list[Panel]:
    return [
        graph(
            "How long does a scrape take?",
            "As Prometheus measures it.",
            [Query('scrape_duration_seconds{job=~"$job",instance=~"$instance"}', "{{instance}}")],
            unit="s",
            width=6,
            thresholds=lines(SCRAPE[0]),
        ),
        graph(
            "How much does it bring?",
            "Samples that each scrape brings, of each exporter.",
            [Query('scrape_samples_scraped{job=~"$job",instance=~"$instance"}', "{{instance}}")],
            unit="short",
            decimals=0,
            width=6,
        ),
        graph(
            "What takes the time?",
            "How long it took to read each part of the metrics: the most of all hosts.",
            [Query(f"max by (collector) ({e.series('tidewaiter_collector_duration_seconds', e.HOSTS)})", "{{collector}}")],
            unit="s",
            width=6,
        ),
        table(
            "Can every part be read?",
            "Whether all of a part of the metrics could be read the last time, on all hosts.",
            [Query(f"min by (collector) ({e.series('tidewaiter_collector_success', e.HOSTS)})", column="Read")],
            key="collector",
            key_title="Part",
            sort="Read",
            width=6,
            overrides=[
                column(
                    "Read",
                    "none",
                    None,
                    80,
                    mappings=values(_0=("no", c.BAD), _1=("yes", c.GOOD)),
                    custom__cellOptions={"type": "color-text"},
                )
            ],
        ),
    ]


def _sinks() -> list[Panel]:
    return [
        graph(
            "Does the collector take it?",
            "Requests to the OpenTelemetry collector, by what became of them.",
            [
                Query(
                    e.instead(e.rate("outcome", "tidewaiter_otlp_exports_total", e.HOSTS), e.HOSTS, outcome="no OTLP"),
                    "{{outcome}}",
                )
            ],
            unit="reqps",
            width=6,
            overrides=painted(c.OUTCOMES),
        ),
        graph(
            "How much does it get?",
            "Data points, spans and log records that it has accepted, and those that were not delivered, a second.",
            [
                Query(
                    e.instead(e.rate("signal", "tidewaiter_otlp_exported_total", e.HOSTS), e.HOSTS, signal="no OTLP"),
                    "{{signal}}",
                ),
                Query(
                    e.named("tidewaiter_otlp_dropped_total", e.HOSTS, signal="nothing", reason="none"),
                    "{{signal}} lost: {{reason}}",
                ),
            ],
            unit="ops",
            width=6,
        ),
        graph(
            "How much waits?",
            "Share of the room for requests that wait to be sent.",
            [
                Query(
                    e.instead(
                        f"max by (signal) ({e.series('tidewaiter_otlp_queue_bytes', e.HOSTS)} / {e.series('tidewaiter_otlp_queue_capacity_bytes', e.HOSTS)})",
                        e.HOSTS,
                        signal="no OTLP",
                    ),
                    "{{signal}}",
                )
            ],
            unit="percentunit",
            width=6,
            thresholds=lines(FULL[1]),
        ),
        graph(
            "Are records of flows taken?",
            "Records of flows that were handed to whoever wants them, and those that he had no room for, a second.",
            [
                Query(e.instead(e.rate("sink", "tidewaiter_flow_records_total", e.HOSTS), e.HOSTS, sink="nobody"), "{{sink}}"),
                Query(e.named("tidewaiter_flow_records_dropped_total", e.HOSTS, sink="nothing"), "{{sink}} dropped"),
            ],
            unit="ops",
            width=6,
        ),
        graph(
            "What goes into the audit log?",
            "Lines a second, by event, and events that were not written, by the reason why.",
            [
                Query(
                    e.instead(e.rate("event", "tidewaiter_audit_records_total", e.HOSTS), e.HOSTS, event="no audit log"),
                    "{{event}}",
                ),
                Query(
                    e.instead(e.rate("reason", "tidewaiter_audit_dropped_total", e.HOSTS), e.HOSTS, reason="nothing"),
                    "dropped: {{reason}}",
                ),
            ],
            unit="ops",
            width=12,
            side=True,
        ),
        graph(
            "Which configuration is in force?",
            "Its number: one more after each change. Hosts that should have the same changes should step together.",
            [Query(_per_host("tidewaiter_config_generation"), "{{instance}}")],
            unit="none",
            decimals=0,
            width=6,
        ),
        table(
            "Which version runs?",
            "Each exporter, and since when it runs.",
            [
                Query(
                    f"max by (instance, version) ({e.series('tidewaiter_build_info', e.HOSTS)})",
                    column="Is",
                    labels={"version": "Version"},
                ),
                Query(
                    f"1000 * max by (instance) ({e.series('process_start_time_seconds', e.HOSTS)} and on (job, instance) tidewaiter_build_info)",
                    column="Since",
                ),
            ],
            key="instance",
            key_title="Instance",
            sort="Since",
            width=6,
            overrides=[
                called("Is", custom__hidden=True),
                called("Instance", custom__width=125),
                called("Version", custom__width=75),
                column("Since", "dateTimeAsIso", None, 165),
            ],
        ),
    ]


def build() -> Json:
    """The dashboard."""
    rows = [
        ("", _glance()),
        ("Does it see everything?", _coverage()),
        ("What does it cost?", _cost()),
        ("Is there room?", _tables()),
        ("Is it scraped in time?", _scrapes()),
        ("Does what it tells arrive?", _sinks()),
    ]
    text = "The exporter itself: coverage, cost, tables, scrapes, OpenTelemetry, audit log, configuration."
    return dashboard(NAME, "tidewaiter: exporter", text, VARIABLES, rows)
