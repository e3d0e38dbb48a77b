"""The shipped rules: read by promtool's own eyes, so that there is no second parser of YAML here."""

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

ALERTS = Path(__file__).resolve().parent.parent
OBJECTIVES = Path(__file__).resolve().parent / "objectives.yml"
FILES = (*sorted(ALERTS.glob("*.yml")), OBJECTIVES)
NAME = re.compile(r"tidewaiter:[a-z0-9_:]+")


@dataclass(frozen=True)
class Rule:
    """A rule as Prometheus has read it."""

    group: str
    name: str
    expression: str
    labels: dict[str, str]
    seconds: float
    """`for`, of an alert."""
    is_alert: bool


def read(url: str) -> list[Rule]:
    """All rules of the Prometheus at `url`."""
    with urlopen(f"{url}/api/v1/rules") as answer:
        groups = json.load(answer)["data"]["groups"]
    return [
        Rule(group["name"], rule["name"], rule["query"], rule.get("labels", {}), rule.get("duration", 0), rule["type"] == "alerting")
        for group in groups
        for rule in group["rules"]
    ]


def levels(rules: list[Rule]) -> list[list[Rule]]:
    """Recording rules by what they need: each level names series of those before alone. promtool makes what a file's rules record
    of what is stored, not of what they record."""
    left = [rule for rule in rules if not rule.is_alert]
    recorded = {rule.name for rule in left}
    found: list[list[Rule]] = []
    while left:
        missing = {rule.name for rule in left}
        level = [rule for rule in left if not set(NAME.findall(rule.expression)) & recorded & missing]
        if not level:
            raise RuntimeError(f"rules that need each other: {sorted(missing)}")
        found.append(level)
        left = [rule for rule in left if rule not in level]
    return found


def write(rules: list[Rule], path: Path, interval: int) -> None:
    """Writes recording rules for promtool; JSON is YAML too."""
    made = [{"record": rule.name, "expr": rule.expression, "labels": rule.labels} for rule in rules]
    path.write_text(json.dumps({"groups": [{"name": "level", "interval": f"{interval}s", "rules": made}]}))
    subprocess.run(["promtool", "check", "rules", path], check=True, stdout=subprocess.DEVNULL)
