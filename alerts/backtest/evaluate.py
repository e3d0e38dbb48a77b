"""`for`, as Prometheus means it, and what came of it against the incidents."""

from dataclasses import dataclass, field

from incidents import KINDS, Incident
from rules import Rule

GRACE = 1_800
"""Seconds after an incident in which what still fires, or fires because it is over, is no false alarm."""
LOOKS_BACK = {"ApiErrorBudgetLeak": 21_600}
"""Of alerts whose shorter window is longer than that: what they say then is about the incident."""
MERGE = 900
"""Seconds: an alert that comes again sooner is the same one; Alertmanager does not tell of it anew."""
IN_TIME = 300
"""Seconds in which an incident is to be detected."""


@dataclass
class Episode:
    """An alert that fires."""

    alert: str
    api: str
    start: int
    end: int


def firing(rule: Rule, api: str, times: list[int], step: int) -> list[Episode]:
    """When `rule` fires for a label set that is in the result at `times`, evaluated every `step` seconds.

    As Prometheus' rules/alerting.go: active from the first evaluation that has it; firing at the first one that is `for` later
    and still has it without a gap; over at the first one that has it no more.
    """
    found: list[Episode] = []
    since = previous = None
    for time in times:
        if previous is None or time - previous > step:
            since = time
        previous = time
        if time - since >= rule.seconds:
            if found and time - found[-1].end <= max(step, MERGE):
                found[-1].end = time
            else:
                found.append(Episode(rule.name, api, time, time))
    return found


@dataclass
class Tally:
    """What an alert, or a kind of incident, has done."""

    expected: int = 0
    delays: list[int] = field(default_factory=list)
    beside: int = 0
    """Episodes in an incident that others were to tell of."""
    false: list[Episode] = field(default_factory=list)

    @property
    def in_time(self) -> int:
        """Detections within five minutes."""
        return sum(delay <= IN_TIME for delay in self.delays)


def belongs(episode: Episode, incident: Incident) -> bool:
    """Whether the episode began in the incident, or just after it. While the exporter is away no API is seen."""
    concerned = incident.api == episode.api or incident.kind == "exporter_down"
    grace = LOOKS_BACK.get(episode.alert, GRACE)
    return concerned and incident.start <= episode.start <= incident.end + grace


def judge(episodes: list[Episode], incidents: list[Incident], names: list[str]) -> tuple[dict[str, Tally], dict[str, Tally], list[Incident]]:
    """Tallies by alert and by kind of incident, and the incidents that nothing told of in time (slow kinds: at all)."""
    kinds = {kind.name: kind for kind in KINDS}
    alerts, by_kind = {name: Tally() for name in names}, {kind.name: Tally() for kind in KINDS}
    missed: list[Incident] = []
    for incident in incidents:
        kind, tally = kinds[incident.kind], by_kind[incident.kind]
        within = [
            episode for episode in episodes
            if episode.alert in kind.alerts and episode.api == incident.api and incident.start <= episode.start <= incident.end
        ]
        tally.expected += 1
        for name in kind.alerts:
            alerts[name].expected += 1
            first = min((episode.start for episode in within if episode.alert == name), default=None)
            if first is not None:
                alerts[name].delays.append(first - incident.start)
        if within:
            tally.delays.append(min(episode.start for episode in within) - incident.start)
        if not within or (not kind.slow and tally.delays[-1] > IN_TIME):
            missed.append(incident)
    for episode in episodes:
        around = [incident for incident in incidents if belongs(episode, incident)]
        if not around:
            alerts[episode.alert].false.append(episode)
        elif not any(episode.alert in kinds[incident.kind].alerts for incident in around):
            alerts[episode.alert].beside += 1
    return alerts, by_kind, missed
