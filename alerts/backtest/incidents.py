"""What goes wrong in the traffic that is made, when, and which alerts ought to say so.

Drawn from a seed. Nothing here was chosen after a threshold: what is missed shows in the table.
"""

import random
from dataclasses import dataclass

from profiles import DAY, DAYS, HOUR, LEAD_DAYS, PROFILES, START, Profile, demand

SEED = 20_260_608
LEAST_DEMAND = 1.0
"""Requests a second below which nothing of an API is broken: nobody would notice, people included."""
APART = HOUR
"""Between the end of one incident of an API and the next, so that each alert belongs to one."""


@dataclass(frozen=True)
class Incident:
    """Something that goes wrong."""

    kind: str
    api: str
    start: int
    end: int
    strength: float


@dataclass(frozen=True)
class Kind:
    """Of incidents: how many of them, how long in minutes, how strong (uniform in the logarithm), of which APIs."""

    name: str
    count: int
    minutes: tuple[int, int]
    strength: tuple[float, float]
    apis: tuple[str, ...]
    alerts: tuple[str, ...]
    """Any of them is a detection."""
    slow: bool = False
    """Whether it is in its nature that minutes do not tell it: it is listed, but not held against the five minutes."""


HTTP = tuple(p.name for p in PROFILES if p.http and p.rhythm != "rare")
TCP = tuple(p.name for p in PROFILES if p.tcp and p.rhythm != "rare")
TIMED = tuple(p.name for p in PROFILES if p.latency > 0 and p.rhythm != "rare")
SERVERS = tuple(p.name for p in PROFILES if p.tcp and p.role == "server" and p.rhythm != "rare")
ALL = tuple(p.name for p in PROFILES if p.rhythm != "rare")

KINDS = (
    Kind("exporter_down", 3, (8, 20), (1, 1), ("exporter",), ("TidewaiterDown",)),
    Kind("refused", 10, (8, 40), (1, 1), TCP, ("ApiRefusesConnections", "ApiDoesNotAnswer")),
    Kind("unanswered", 10, (8, 40), (1, 1), TCP, ("ApiDoesNotAnswer", "ApiHandshakesFail")),
    Kind("hung", 8, (8, 40), (1, 1), TCP, ("ApiDoesNotAnswer",)),
    Kind("traffic_stop", 12, (10, 60), (0.01, 0.05), ALL, ("ApiTrafficDrop", "ApiSilent")),
    Kind("traffic_surge", 12, (10, 60), (4, 10), ALL, ("ApiTrafficSurge",)),
    Kind("latency", 14, (10, 60), (3, 10), TIMED, ("ApiSlow",)),
    Kind("latency_of_some", 10, (10, 60), (0.12, 0.4), TIMED, ("ApiSlow",)),
    Kind("errors", 12, (10, 40), (0.15, 1), HTTP, ("ApiErrorsSudden", "ApiErrorBudgetFast")),
    Kind("errors_few", 5, (240, 400), (0.008, 0.02), HTTP, ("ApiErrorBudgetFast", "ApiErrorBudgetSlow"), slow=True),
    Kind("loss", 8, (10, 60), (0.05, 0.15), SERVERS, ("ApiRetransmissions",)),
    Kind("handshakes_slow", 6, (10, 60), (5, 30), SERVERS, ("ApiHandshakeSlow",)),
    Kind("resets", 6, (10, 40), (0.3, 0.9), SERVERS, ("ApiResetsConnections",)),
    Kind("syn_flood", 10, (6, 30), (150, 5000), SERVERS, ("SynFlood",)),
    Kind("syn_flood_weak", 6, (10, 40), (40, 90), SERVERS, ("SynFlood", "ApiHandshakesFail")),
    Kind("port_scan", 12, (5, 30), (1, 4), ("unmapped",), ("PortScan",)),
    Kind("unexpected_payload", 10, (6, 40), (5, 60), SERVERS, ("UnexpectedPayload",)),
    Kind("client_surge", 8, (15, 60), (5, 20), ("shop", "payments", "telemetry", "names"), ("ClientSurge",)),
    Kind("exfiltration", 10, (15, 60), (2e6, 2e7), (*SERVERS, "unmapped"), ("Exfiltration",)),
    Kind("connection_leak", 4, (180, 300), (10, 20), SERVERS, ("ApiConnectionsGrow",), slow=True),
    Kind("beacon", 2, (300, 420), (300, 900), ("partners",), ("ClientBeacon",), slow=True),
    Kind("uncovered", 3, (20, 60), (0.2, 0.8), ("exporter",), ("TidewaiterCoverageShort",), slow=True),
    Kind("table_full", 2, (20, 60), (0.9, 0.99), ("exporter",), ("TidewaiterTableNearFull",)),
    Kind("events_lost", 3, (10, 30), (10, 1000), ("exporter",), ("TidewaiterEventsLost",)),
)


def _enough(profile: Profile | None, start: int, end: int) -> bool:
    """Whether the API is asked throughout: `None` has no demand of its own."""
    return profile is None or all(demand(profile, time) >= LEAST_DEMAND for time in range(start, end + 600, 600))


def incidents(seed: int = SEED) -> list[Incident]:
    """All of them, by their start."""
    chance = random.Random(seed)
    profiles = {profile.name: profile for profile in PROFILES}
    first, last = START + (LEAD_DAYS * DAY), START + (LEAD_DAYS + DAYS) * DAY
    made: list[Incident] = []
    for kind in KINDS:
        for number in range(kind.count):
            api = kind.apis[number % len(kind.apis)]
            for _ in range(100_000):
                start = chance.randrange(first, last - 12 * HOUR, 30)
                end = start + chance.randint(*kind.minutes) * 60
                low, high = kind.strength
                strength = low * (high / low) ** chance.random()
                # While the exporter is away nothing of any API is seen.
                rivals = [one for one in made if one.api == api or one.kind == "exporter_down"]
                free = all(end + APART < one.start or one.end + APART < start for one in rivals)
                if free and _enough(profiles.get(api), start - HOUR, end):
                    made.append(Incident(kind.name, api, start, end, strength))
                    break
            else:
                raise RuntimeError(f"no room for {kind.name} of {api}")
    return sorted(made, key=lambda one: one.start)
