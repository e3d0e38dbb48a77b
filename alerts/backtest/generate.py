"""Writes three weeks of an exporter's metrics as OpenMetrics, one file for each API, with incidents in two of them.

    python3 generate.py DIRECTORY [DAYS]

The interval is 30 seconds, and 60 in the first week, which is there only to be looked back at. DAYS cuts it off earlier.
"""

import sys
from multiprocessing import Pool
from pathlib import Path
from typing import Protocol

from benign import events
from host import Host
from incidents import SEED, Incident, incidents
from profiles import DAY, DAYS, LEAD_DAYS, PROFILES, START
from traffic import Traffic

INTERVAL, LEAD_INTERVAL = 30, 60
TARGET = 'job="tidewaiter",instance="host-1:9473"'


class Source(Protocol):
    """Something with counters."""

    def step(self, time: int, step: int) -> dict[str, float]:
        """What they say at `time`, `step` seconds after the last."""


def source(name: str, everything: list[Incident], seed: int) -> Source:
    """An API by its name, or the "host"."""
    if name == "host":
        return Host([one for one in everything if one.api in ("unmapped", "exporter")], f"{seed} {name}")
    profile = next(profile for profile in PROFILES if profile.name == name)
    return Traffic(profile, [one for one in everything if one.api == name], events(profile, seed), f"{seed} {name}")


def write(name: str, directory: Path, days: int, seed: int) -> Path:
    """Writes the file of an API."""
    everything = incidents(seed)
    away = [(one.start, one.end) for one in everything if one.kind == "exporter_down"]
    made, path = source(name, everything, seed), directory / f"{name}.om"
    texts: dict[str, str] = {}
    time, judged, end = START, START + LEAD_DAYS * DAY, START + days * DAY
    with path.open("w", encoding="ascii") as file:
        while time < end:
            step = LEAD_INTERVAL if time < judged else INTERVAL
            time += step
            values = made.step(time, step)
            # The kernel counts on while the exporter is away, but nobody is told.
            is_away = any(start <= time < stop for start, stop in away)
            lines = []
            if name == "host":
                lines.append(f"up{{{TARGET}}} {0 if is_away else 1} {time}\n")
            if not is_away:
                for series, value in values.items():
                    text = texts.get(series)
                    if text is None:
                        bare, _, labels = series.partition("{")
                        texts[series] = text = f"{bare}{{{TARGET}{',' + labels if labels else '}'} "
                    lines.append(f"{text}{value} {time}\n")
            file.write("".join(lines))
        file.write("# EOF\n")
    return path


def generate(directory: Path, days: int = LEAD_DAYS + DAYS, seed: int = SEED) -> list[Path]:
    """Writes all files, as many at a time as there are CPUs."""
    directory.mkdir(parents=True, exist_ok=True)
    names = ["host", *(profile.name for profile in PROFILES)]
    with Pool() as pool:
        return pool.starmap(write, [(name, directory, days, seed) for name in names], chunksize=1)


if __name__ == "__main__":
    for made in generate(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else LEAD_DAYS + DAYS):
        print(made)
