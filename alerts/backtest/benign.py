"""What happens to healthy APIs, and should wake nobody: releases, busy hours, hiccups. (Holidays are in `profiles`.)"""

import random
from dataclasses import dataclass

from profiles import DAY, DAYS, HOUR, LEAD_DAYS, START, Profile


@dataclass(frozen=True)
class Event:
    """Something ordinary."""

    kind: str
    """"restart": a release restarts the service, which refuses meanwhile; "cold": it is slower after that; "size": its
    answers have another size from then on; "busy": a campaign or a crawler; "hiccup": all is slower for a moment."""
    start: int
    end: int
    strength: float


def events(profile: Profile, seed: int) -> list[Event]:
    """Those of an API, lead-in included."""
    chance = random.Random(f"{seed} {profile.name}")
    made: list[Event] = []
    for day in range(LEAD_DAYS + DAYS):
        midnight = START + day * DAY
        # Two releases in a week, on workdays, while people are there.
        if day % 7 < 5 and chance.random() < 0.4 and profile.role == "server":
            start = midnight + chance.randrange(9 * HOUR, 16 * HOUR, 30)
            away = chance.choice((5, 10, 20, 30))
            made.append(Event("restart", start, start + away, 1.0))
            made.append(Event("cold", start + away, start + away + chance.randrange(30, 120), chance.uniform(1.3, 2.5)))
            made.append(Event("size", start, START + (LEAD_DAYS + DAYS) * DAY, chance.uniform(0.92, 1.1)))
        if chance.random() < 0.12:
            start = midnight + chance.randrange(8 * HOUR, 20 * HOUR, 30)
            made.append(Event("busy", start, start + chance.randrange(HOUR, 4 * HOUR), chance.uniform(1.3, 1.9)))
        for _ in range(chance.choice((0, 0, 1, 1, 2))):
            start = midnight + chance.randrange(0, DAY, 30)
            made.append(Event("hiccup", start, start + chance.randrange(20, 70), chance.uniform(1.5, 6)))
    return made


def ramp(event: Event, time: int) -> float:
    """How much of a busy time is there: it comes and goes within a quarter of an hour."""
    return max(0.0, min(1.0, (time - event.start) / 900, (event.end - time) / 900))
