"""All benchmarks, one after another; rewrites the table of docs/performance.md. Exit code 1 when a goal is missed.

make demo && make bench                 (about half an hour on two cores)
python -m benchmarks embedded_step      one of them, same table; rows of the others stay
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from balcap.files import atomic_path

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
LIMIT_SECONDS = 3600.0
Line = dict[str, Any]


def main(chosen: list[str]) -> int:
    """Run the chosen benchmarks (all without a choice) and write their rows."""
    names = sorted(path.stem for path in HERE.glob("[a-z]*.py"))
    unknown = set(chosen) - set(names)
    if unknown:
        sys.exit(f"error: no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    held = True
    for name in chosen or names:
        lines = run(name)
        write(name, [row(line) for line in lines])
        held = held and all(line["holds"] for line in lines)
    return 0 if held else 1


def run(name: str) -> list[Line]:
    """One benchmark's lines; the last one sums up and is no row. What else it prints (progress) is passed on only."""
    print(f"== {name}", flush=True)
    done = subprocess.run(
        [sys.executable, HERE / f"{name}.py"], stdout=subprocess.PIPE, text=True, timeout=LIMIT_SECONDS
    )
    print(done.stdout, end="", flush=True)
    if done.returncode:
        sys.exit(f"error: benchmark {name} failed with exit status {done.returncode}; its rows stay as they were")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [line for line in lines if "ratio" in line]


def row(line: Line) -> str:
    """A row of the table: when and where it was measured stands in it, because rows may be of different days.

    Where is this machine's cores and versions, and before them what the line itself names as ``on``: a GPU.
    """
    low, high = line["interval"]
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {version('torch').split('+')[0]}"
    where = f"{line['on']}, {machine}" if "on" in line else machine
    cells = [
        line["benchmark"],
        f"{line['ratio']:.3g} [{low:.3g}, {high:.3g}]",
        str(line["goal"]),
        "yes" if line["holds"] else "**no**",
        f"{line['ours']:.3g} / {line['against']:.3g}",
        f"{datetime.now(UTC):%Y-%m-%d}, {where}",
    ]
    return f"| {' | '.join(cells)} |"


def write(name: str, rows: list[str], page: Path = PAGE) -> None:
    """Replace the rows of one benchmark between the page's two markers."""
    text = page.read_text(encoding="utf-8")
    found = re.search(r"(<!-- rows:begin -->\n)(.*?)(<!-- rows:end -->)", text, re.DOTALL)
    if found is None:
        sys.exit(f"error: {page.name} has lost its markers <!-- rows:begin --> and <!-- rows:end -->")
    header, rule, *old = found[2].splitlines()
    kept = [line for line in old if line[2:].split("/")[0] != name]
    table = "\n".join([header, rule, *sorted([*kept, *rows])]) + "\n"
    with atomic_path(page) as tmp:
        tmp.write_text(text[: found.start()] + found[1] + table + found[3] + text[found.end() :], encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
