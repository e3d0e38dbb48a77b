#!/usr/bin/env python3
"""Writes the dashboards from their source: `dashboards/generate.py`.

With `--check` it writes nothing, and fails if a file is not what the source says. It needs Python 3.9 or later, and nothing else.
"""

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True

from source import api, exporter, overview, security  # noqa: E402


def main() -> int:
    """Writes or checks each dashboard; 1 if one is not current."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not current")
    check = parser.parse_args().check
    stale = []
    for module in (overview, api, security, exporter):
        file = HERE / f"{module.NAME}.json"
        text = json.dumps(module.build(), indent=2, ensure_ascii=False) + "\n"
        if not check:
            file.write_text(text, encoding="utf-8")
        elif not file.exists() or file.read_text(encoding="utf-8") != text:
            stale.append(file.name)
    for name in stale:
        print(f"dashboards/{name} is not what its source says: run dashboards/generate.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
