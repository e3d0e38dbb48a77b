"""The APIs whose traffic is made, and how it goes through a day and a week.

Each stands for a kind that is met: what holds for one (a rhythm, a floor, a share of errors) is wrong for another.
"""

import math
from dataclasses import dataclass

DAY = 86_400
HOUR = 3_600
START = 1_780_272_000
"""Monday, 1 June 2026, 00:00 UTC: the first sample."""
LEAD_DAYS = 7
"""Days of history before anything is judged: rules that compare with the same hour of earlier days need a week."""
DAYS = 14
"""Days that are judged, after those."""
HOLIDAY = LEAD_DAYS + 10
"""A Thursday on which people do not work."""


@dataclass(frozen=True)
class Profile:
    """An API in ordinary times. Rates are of the busiest hour, times are medians in seconds, sizes are wire bytes."""

    name: str
    rhythm: str
    """"people", "office", "machines", "batch", "rare"."""
    peak: float
    """Requests a second."""
    latency: float
    """Response time; 0: it has none (nothing of it is understood)."""
    spread: float
    """Standard deviation of the response time's logarithm."""
    receive: float
    """Bytes of a request."""
    transmit: float
    """Bytes of an answer."""
    clients: float
    per_connection: float
    """Requests in a connection."""
    lifetime: float
    """Seconds that a connection lasts."""
    http: bool = False
    """Plain HTTP/1: answers have codes."""
    role: str = "server"
    tcp: bool = True
    errors: float = 0.0003
    """Share of answers 5xx."""
    noise: float = 0.06
    """Standard deviation of the demand's logarithm, beside chance."""


PROFILES = (
    Profile("shop", "people", 120, 0.030, 0.7, 900, 14_000, 900, 8, 30, http=True),
    Profile("payments", "office", 30, 0.120, 0.5, 2_200, 2_600, 60, 20, 120, http=True, errors=0.0005),
    Profile("telemetry", "machines", 400, 0.004, 0.5, 1_800, 250, 300, 500, 1_800, noise=0.03),
    Profile("reports", "batch", 25, 0.400, 0.8, 1_200, 60_000, 12, 5, 60, http=True, errors=0.001, noise=0.12),
    Profile("admin", "rare", 0.05, 0.080, 0.6, 1_000, 9_000, 3, 4, 60, http=True, noise=0.3),
    Profile("partners", "office", 15, 0.180, 0.5, 1_500, 4_000, 6, 10, 90, role="client"),
    Profile("names", "people", 250, 0.002, 0.9, 90, 180, 500, 1, 1, tcp=False),
)
"""`names` is DNS over UDP; `partners` are services that this host calls; all but `http` ones are encrypted or binary."""


def _bell(hour: float, middle: float, width: float) -> float:
    """1 at `middle` o'clock, less the further from it, around the clock."""
    distance = abs((hour - middle + 12) % 24 - 12)
    return math.exp(-((distance / width) ** 2) / 2)


def demand(profile: Profile, time: int) -> float:
    """Requests a second that are to be expected at `time`, seconds since the epoch, without noise."""
    day, hour = (time - START) // DAY, (time % DAY) / HOUR
    weekday = day % 7
    idle = weekday >= 5 or day == HOLIDAY
    match profile.rhythm:
        case "people":  # evenings more than mornings, weekends more than weekdays, nights a tenth
            share = 0.1 + 0.9 * max(_bell(hour, 20, 2.6), 0.6 * _bell(hour, 12.5, 3))
            share *= 1.25 if idle else 1.0
        case "office":  # work begins at eight and ends at six; next to nothing at other times
            share = 0.02 + 0.98 / (1 + math.exp(-4 * (hour - 8.5))) / (1 + math.exp(4 * (hour - 17.5)))
            share = 0.02 + 0.05 * _bell(hour, 13, 4) if idle else share
        case "machines":
            share = 0.95 + 0.05 * _bell(hour, 15, 5)
        case "batch":  # at 02:00 for 40 minutes all that it can, in office hours some, each full hour a little
            minute = (time % HOUR) / 60
            share = 1.0 if 2 <= hour < 2 + 40 / 60 else 0.04
            share = max(share, 0.12 if not idle and 8 <= hour < 18 else 0.0, 0.2 if minute < 4 else 0.0)
        case _:
            share = 0.1 if idle or not 7 <= hour < 19 else 1.0
    return profile.peak * share
