"""One API's traffic, step by step: what its counters would say, with what goes wrong in it."""

import math
import random
from dataclasses import dataclass, field

from benign import Event, ramp
from incidents import Incident
from latency import bounds, draw
from profiles import Profile, demand

ROUND_TRIP = 0.02
"""Median of handshakes with clients, in seconds."""
SEGMENT = 1_400
"""Bytes of a packet that is full."""


@dataclass
class Counters:
    """Name and labels, as they are written, and the value."""

    values: dict[str, float] = field(default_factory=dict)

    def add(self, series: str, amount: float) -> None:
        """Adds to a counter, which begins at zero."""
        self.values[series] = self.values.get(series, 0) + amount

    def set(self, series: str, value: float) -> None:
        """Sets a gauge."""
        self.values[series] = value


def poisson(chance: random.Random, mean: float) -> int:
    """A count of independent events."""
    if mean <= 0:
        return 0
    if mean > 50:
        return max(0, round(chance.gauss(mean, math.sqrt(mean))))
    limit, product, count = math.exp(-mean), chance.random(), 0
    while product > limit:
        product *= chance.random()
        count += 1
    return count


class Traffic:
    """An API, as the exporter sees it."""

    def __init__(self, profile: Profile, mishaps: list[Incident], ordinary: list[Event], seed: str) -> None:
        """`mishaps` and `ordinary` are those of this API."""
        self.profile, self.mishaps, self.ordinary = profile, mishaps, ordinary
        self.chance = random.Random(seed)
        self.counters = Counters()
        self.mood = {"demand": 0.0, "latency": 0.0, "clients": 0.0, "size": 0.0}
        self.active = 0.0
        self.limits, self.handshake_limits = bounds(profile.latency), bounds(ROUND_TRIP)
        self.at = f'api="{profile.name}",role="{profile.role}"'

    def wander(self, name: str, spread: float, step: int) -> float:
        """A factor that wanders about 1 within minutes."""
        keep = math.exp(-step / 600)
        self.mood[name] = self.mood[name] * keep + self.chance.gauss(0, spread * math.sqrt(1 - keep * keep))
        return math.exp(self.mood[name])

    def histogram(self, name: str, limits: tuple[float, ...], count: int, median: float, spread: float, slow: float) -> None:
        """Adds `count` times."""
        found = draw(self.chance, limits, count, median, spread, slow)
        for limit, number in zip([*limits, math.inf], found, strict=True):
            text = "+Inf" if limit == math.inf else str(int(limit)) if limit >= 1 else repr(limit)
            self.counters.add(f'tidewaiter_api_{name}_duration_seconds_bucket{{{self.at},le="{text}"}}', number)
        self.counters.add(f"tidewaiter_api_{name}_duration_seconds_sum{{{self.at}}}", count * median * math.exp(spread**2 / 2))
        self.counters.add(f"tidewaiter_api_{name}_duration_seconds_count{{{self.at}}}", count)

    def step(self, time: int, step: int) -> dict[str, float]:
        """The counters at `time`, `step` seconds after the last."""
        p, chance, counters, at = self.profile, self.chance, self.counters, self.at
        wrong = next((one for one in self.mishaps if one.start <= time < one.end), None)
        kind, strength = (wrong.kind, wrong.strength) if wrong else ("", 0.0)
        now = [event for event in self.ordinary if event.start < time and time - step < event.end]
        usual = demand(p, time)
        mean = usual * self.wander("demand", p.noise, step)
        slower = (1 + 0.3 * usual / p.peak) * self.wander("latency", 0.06, step)
        size, away = self.wander("size", 0.04, step), 0.0
        for event in now:
            overlap = min(event.end, time) - max(event.start, time - step)
            match event.kind:
                case "restart": away += overlap / step
                case "cold": slower *= event.strength
                case "size": size *= event.strength
                case "busy": mean *= 1 + (event.strength - 1) * ramp(event, time)
                case "hiccup": slower *= 1 + (event.strength - 1) * overlap / step
        if kind == "traffic_stop" or kind == "traffic_surge":
            mean *= strength
        elif kind == "client_surge":
            mean *= 1.5
        elif kind == "latency":
            slower *= strength

        asked = poisson(chance, mean * step)
        away = 1.0 if kind in ("refused", "unanswered") else min(1.0, away)
        served = 0 if away >= 1 else round(asked * (1 - away))
        answered = 0 if kind == "hung" else served
        # Clients that are refused, or wait in vain, come again.
        attempts = poisson(chance, asked / p.per_connection + (1.5 * asked / p.per_connection + 0.2 * mean) * away * step / 30)
        if p.per_connection >= 100 and away == 0 and kind != "hung":
            attempts = poisson(chance, asked / p.per_connection)
        refused = round(attempts * away) if kind != "unanswered" else 0
        unheard = attempts if kind == "unanswered" else 0
        flood = poisson(chance, strength * step) if kind.startswith("syn_flood") else 0
        opened = attempts - refused - unheard

        self.packets(asked, served, answered, attempts, refused, unheard, flood, size, kind, strength, step)
        self.clients(usual, kind, strength, mean)
        for name in ("unexpected_payload", "syn_flood") if p.tcp else ():
            counters.add(f'tidewaiter_anomalies_total{{{at},kind="{name}"}}', 0)
        # The exporter's own threshold: 500 in 5 seconds.
        if kind == "syn_flood" and strength >= 100:
            counters.add(f'tidewaiter_anomalies_total{{{at},kind="syn_flood"}}', step // 5)
        if p.tcp:
            odd = poisson(chance, strength / 60 * step) if kind == "unexpected_payload" else 0
            # Scanners of the internet come by all the time.
            counters.add(f'tidewaiter_anomalies_total{{{at},kind="unexpected_payload"}}', odd + poisson(chance, step / 7_200))
            self.connections(attempts + flood + odd, opened + odd, refused, kind, strength, mean, step)
        slow = strength if kind == "latency_of_some" else 0.0
        self.histogram("response", self.limits, answered, p.latency * slower, p.spread, slow)
        if p.http:
            share = strength if kind.startswith("errors") else p.errors * (1 + 20 * (chance.random() < 0.002))
            bad = min(answered, poisson(chance, answered * share))
            for code, number in (("200", answered - bad - answered // 50), ("404", answered // 50), ("503", bad)):
                counters.add(f'tidewaiter_api_responses_total{{{at},code="{code}"}}', max(0, number))
            counters.add(f'tidewaiter_api_requests_total{{{at},method="GET"}}', served)
        return counters.values

    def packets(self, asked: int, served: int, answered: int, attempts: int, refused: int, unheard: int, flood: int,
                size: float, kind: str, strength: float, step: int) -> None:
        """What passes the wire."""
        p, add, chance = self.profile, self.counters.add, self.chance
        request, answer = p.receive * size, p.transmit * size
        received = served * (1 + int(request / SEGMENT)) + attempts * 3 + unheard * 2 + flood
        transmitted = answered * (1 + int(answer / SEGMENT)) + (attempts - unheard) * 2 + flood
        acknowledged = round(transmitted / 2) if p.tcp else 0
        stolen = poisson(chance, strength * step / SEGMENT) if kind == "exfiltration" else 0
        again = poisson(chance, transmitted * (strength if kind == "loss" else 0.0008)) if p.tcp else 0
        bytes_in = served * request + (received + acknowledged) * 66 + stolen * 33
        bytes_out = answered * answer + (transmitted + received / 2) * 66 + stolen * (SEGMENT + 66) + again * SEGMENT
        for direction, packets, size_of in (
            ("receive", received + acknowledged + stolen // 2, bytes_in),
            ("transmit", transmitted + received // 2 + stolen + again, bytes_out),
        ):
            add(f'tidewaiter_api_packets_total{{{self.at},direction="{direction}"}}', packets)
            add(f'tidewaiter_api_bytes_total{{{self.at},direction="{direction}"}}', round(size_of))
        if p.tcp:
            add(f'tidewaiter_api_retransmitted_packets_total{{{self.at},direction="transmit"}}', again)
            broken = round(served * strength / p.per_connection) if kind == "resets" else poisson(chance, attempts * 0.01)
            add(f'tidewaiter_api_reset_packets_total{{{self.at},direction="transmit"}}', broken + refused)
            add(f'tidewaiter_api_connections_closed_total{{{self.at},reason="reset"}}', broken + poisson(chance, attempts * 0.02))
        add(f"tidewaiter_api_untracked_packets_total{{{self.at}}}", 0)

    def connections(self, attempts: int, opened: int, refused: int, kind: str, strength: float, mean: float, step: int) -> None:
        """What is opened, and how long that takes."""
        p, add = self.profile, self.counters.add
        for name, number in (("attempts", attempts), ("opened", opened), ("refused", refused)):
            series = "connection_attempts" if name == "attempts" else f"connections_{name}"
            add(f"tidewaiter_api_{series}_total{{{self.at}}}", number)
        usual = 0.0 if kind in ("refused", "unanswered") else mean / p.per_connection * p.lifetime
        if kind == "connection_leak":  # by so many times the usual in three hours
            self.active += usual * strength / 10_800 * step
        else:
            self.active += (usual - self.active) * min(1.0, step / p.lifetime * 2)
        self.counters.set(f"tidewaiter_api_connections_active{{{self.at}}}", round(self.active))
        longer = strength if kind == "handshakes_slow" else 1.0
        trip = ROUND_TRIP * longer * self.wander("latency", 0.06, step)
        self.histogram("handshake", self.handshake_limits, opened, trip, 0.6, 0.0)

    def clients(self, usual: float, kind: str, strength: float, mean: float) -> None:
        """How many there were of late."""
        p = self.profile
        there = p.clients * min(1.0, (usual / p.peak) ** 0.7 if usual else 0.0) * self.wander("clients", 0.05, 30)
        there *= strength if kind == "client_surge" else 1.0
        there *= 0.05 if kind == "traffic_stop" else 1.0
        if mean * 300 < there:  # no more than there are requests in five minutes
            there = mean * 300
        self.counters.set(f'tidewaiter_api_clients{{{self.at},window="5m"}}', round(there))
        if p.role == "client":
            self.hosts(mean, strength if kind == "beacon" else 0.0)

    def hosts(self, mean: float, beacon: float) -> None:
        """The bytes of each host that is called: some are called more than others. `beacon` is what one more gets in a minute."""
        for number, share in enumerate((0.4, 0.25, 0.2, 0.1, 0.05), 1):
            amount = poisson(self.chance, mean * share * 30) * (self.profile.receive + self.profile.transmit)
            self.counters.add(f'tidewaiter_client_bytes_total{{{self.at},client="192.0.2.{number}"}}', amount)
        if beacon:
            amount = round(beacon / 2 * self.chance.uniform(0.95, 1.05))
            self.counters.add(f'tidewaiter_client_bytes_total{{{self.at},client="203.0.113.66"}}', amount)
