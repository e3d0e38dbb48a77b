"""A real Prometheus over the blocks that promtool has made."""

import json
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

POINTS = 10_000
"""Steps of one range query; Prometheus allows 11,000."""


@contextmanager
def prometheus(directory: Path, rules: tuple[Path, ...], port: int) -> Iterator[str]:
    """Runs one over `directory`/data with `rules` loaded, on loopback; gives its address.

    A scrape that fails ends series at once in real life, by markers that a file of OpenMetrics cannot hold; a look back of 90
    seconds, where the interval is 30, is the next best.
    """
    configuration = directory / "prometheus.yml"
    # Rules are read, but not run: it has the time of today.
    configuration.write_text(json.dumps({"global": {"evaluation_interval": "1d"}, "rule_files": [str(path) for path in rules]}))
    log = (directory / "prometheus.log").open("a", encoding="utf-8")
    process = subprocess.Popen(
        [
            "prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={directory / 'data'}",
            "--storage.tsdb.retention.time=100y", f"--web.listen-address=127.0.0.1:{port}", "--query.lookback-delta=90s",
            "--query.timeout=30m", "--query.max-samples=500000000", "--log.level=error",
        ],
        stderr=log,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                with urlopen(f"{url}/-/ready"):
                    break
            except URLError:
                if process.poll() is not None:
                    raise RuntimeError(f"Prometheus has ended: see {directory / 'prometheus.log'}") from None
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()
        log.close()


def query(url: str, expression: str, start: int, end: int, step: int) -> list[tuple[dict[str, str], list[int]]]:
    """Label sets of the result, and the times at which each was in it, for every `step` from `start` to `end`."""
    found: dict[str, tuple[dict[str, str], list[int]]] = {}
    for first in range(start, end, POINTS * step):
        last = min(end, first + (POINTS - 1) * step)
        body = urlencode({"query": expression, "start": first, "end": last, "step": step}).encode()
        with urlopen(f"{url}/api/v1/query_range", data=body) as answer:
            series: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        for one in series:
            labels = {name: value for name, value in one["metric"].items() if name != "__name__"}
            times = found.setdefault(json.dumps(labels, sort_keys=True), (labels, []))[1]
            times.extend(int(moment) for moment, _ in one["values"])
    # Both sides of an `or` may have a series that differs in its name alone.
    return [(labels, sorted(set(times))) for labels, times in found.values()]
