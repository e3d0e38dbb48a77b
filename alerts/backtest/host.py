"""What is of no API: unmapped traffic, and the exporter's own metrics."""

import random

from incidents import Incident
from profiles import DAY, HOUR
from traffic import Counters, poisson


class Host:
    """The host and its exporter."""

    def __init__(self, mishaps: list[Incident], seed: str) -> None:
        """`mishaps` are those of "unmapped" and "exporter"."""
        self.mishaps, self.chance, self.counters = mishaps, random.Random(seed), Counters()
        self.seen = {"receive": 0, "transmit": 0}
        self.time_of_day = 0

    def step(self, time: int, step: int) -> dict[str, float]:
        """The counters at `time`, `step` seconds after the last."""
        now = {one.kind: one.strength for one in self.mishaps if one.start <= time < one.end}
        self.time_of_day = time % DAY
        self.unmapped(now, step)
        self.exporter(now, step)
        return self.counters.values

    def unmapped(self, now: dict[str, float], step: int) -> None:
        """Whoever knocks at ports that nobody has named, and what this host asks elsewhere."""
        at, add, chance = 'api="unmapped",role="none"', self.counters.add, self.chance
        stolen = poisson(chance, now["exfiltration"] * step / 1_466) if "exfiltration" in now else 0
        asked, knocks = poisson(chance, 12 * step), poisson(chance, 0.3 * step)
        scan = poisson(chance, 40 * now["port_scan"] * step) if "port_scan" in now else 0
        backup = poisson(chance, 900 * step) if 3 * HOUR <= self.time_of_day < 4 * HOUR else 0
        tried, sent = knocks + scan, stolen + backup
        for direction, packets, size in (
            ("receive", asked + tried + sent // 2, asked * 300 + tried * 60 + sent * 33),
            ("transmit", asked + tried + sent, asked * 200 + tried * 54 + sent * 1_466),
        ):
            add(f'tidewaiter_api_packets_total{{{at},direction="{direction}"}}', packets)
            add(f'tidewaiter_api_bytes_total{{{at},direction="{direction}"}}', size)
        add(f"tidewaiter_api_connection_attempts_total{{{at}}}", knocks + scan)
        add(f"tidewaiter_api_connections_refused_total{{{at}}}", knocks + scan)
        # Counted once in a minute for each source; a few come by in an hour on any host that the internet sees.
        found = poisson(chance, now["port_scan"] * step / 60) if "port_scan" in now else 0
        add(f'tidewaiter_anomalies_total{{{at},kind="port_scan"}}', found + poisson(chance, 2 * step / HOUR))

    def exporter(self, now: dict[str, float], step: int) -> None:
        """Itself."""
        add, gauge, chance = self.counters.add, self.counters.set, self.chance
        for direction in ("receive", "transmit"):
            passed = poisson(chance, 2_500 * step)
            missed = round(passed * now.get("uncovered", 0)) if direction == "receive" else 0
            kernel = f'{{interface="eth0",direction="{direction}"}}'
            add(f"tidewaiter_interface_kernel_packets_total{kernel}", passed)
            self.seen[direction] += passed - missed
            total = self.counters.values[f"tidewaiter_interface_kernel_packets_total{kernel}"]
            # A few packets pass between the two readings.
            ratio = (self.seen[direction] + chance.randrange(-3, 4)) / max(1, total)
            gauge(f"tidewaiter_coverage_ratio{kernel}", min(1.0, ratio))
        full = now.get("table_full", 0.0)
        gauge('tidewaiter_map_entries{map="flows"}', round(262_144 * (full or 0.05 + 0.03 * chance.random())))
        gauge('tidewaiter_map_capacity{map="flows"}', 262_144)
        lost = poisson(chance, now.get("events_lost", 0) * step / 60)
        for event in ("flow_ended", "flow_finished", "sample", "anomaly"):
            # Of samples a few are lost now and then.
            ordinary = poisson(chance, 0.3) if event == "sample" and chance.random() < 0.001 else 0
            number = lost + ordinary if event in ("sample", "flow_finished") else 0
            add(f'tidewaiter_events_lost_total{{event="{event}"}}', number)
        gauge('tidewaiter_build_info{version="0.1.0",arch="x86_64"}', 1)
        gauge("tidewaiter_config_last_reload_successful", 1)
        gauge('tidewaiter_collector_success{collector="apis"}', 1)
        gauge("tidewaiter_audit_writable", 1)
        gauge("process_start_time_seconds", 1_780_000_000)
