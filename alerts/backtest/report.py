"""The tables that stand in alerts/README.md."""

from statistics import median
from time import gmtime, strftime

from evaluate import Tally
from incidents import KINDS, Incident
from profiles import PROFILES

APIS = len(PROFILES) + 2
"""With "unmapped", and the exporter itself."""


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}"


def _delays(tally: Tally) -> str:
    return f"{_minutes(median(tally.delays))} | {_minutes(max(tally.delays))}" if tally.delays else "– | –"


def show(alerts: dict[str, Tally], kinds: dict[str, Tally], missed: list[Incident], weeks: float) -> None:
    """Prints them."""
    print("| incident | number | detected | within 5 min | delay, median (min) | worst |\n|---|---|---|---|---|---|")
    slow = {kind.name for kind in KINDS if kind.slow}
    for name, tally in kinds.items():
        mark = " (slow)" if name in slow else ""
        print(f"| `{name}`{mark} | {tally.expected} | {len(tally.delays)} | {tally.in_time} | {_delays(tally)} |")
    quick = [tally for name, tally in kinds.items() if name not in slow]
    number, found = sum(tally.expected for tally in quick), sum(len(tally.delays) for tally in quick)
    in_time = sum(tally.in_time for tally in quick)
    print(f"\nIncidents that are not slow by nature: {number}; detected: {found} ({found / number:.1%}); within 5 minutes: {in_time} ({in_time / number:.1%}).\n")

    print("| alert | is to tell of | told | delay, median (min) | worst | beside others | false alarms |\n|---|---|---|---|---|---|---|")
    for name, tally in alerts.items():
        expected = f"{tally.expected} | {len(tally.delays)}" if tally.expected else "– | –"
        print(f"| `{name}` | {expected} | {_delays(tally)} | {tally.beside} | {len(tally.false)} |")
    false = [episode for tally in alerts.values() for episode in tally.false]
    by_api: dict[str, int] = {}
    for episode in false:
        by_api[episode.api] = by_api.get(episode.api, 0) + 1
    print(f"\nFalse alarms: {len(false)} in {weeks:g} weeks of {APIS} APIs: {len(false) / weeks / APIS:.2f} for each API a week.")
    for api, count in sorted(by_api.items()):
        print(f"- {api}: {count / weeks:.1f} a week")
    print("\nNot told of in time:\n")
    for one in missed:
        at = strftime("%a %d %H:%M", gmtime(one.start))
        print(f"- {one.kind} of {one.api}, {at} UTC, {(one.end - one.start) // 60} min, strength {one.strength:.3g}")
    print("\nFalse:\n")
    for episode in sorted(false, key=lambda episode: episode.start):
        at = strftime("%a %d %H:%M", gmtime(episode.start))
        print(f"- {episode.alert} of {episode.api}, {at} UTC, {(episode.end - episode.start) / 60:.1f} min")
