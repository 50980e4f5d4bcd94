# %% [markdown]
# # All benchmarks beside their peers, and the table of docs/benchmarks.md
#
# Runs each benchmark that has a peer (growth's is a straight line), one after the other, prints one table of ratios
# with the machine, and writes it into `docs/benchmarks.md` in the place of the last one. A ratio is this project's rate
# over the peer's of the same minutes; absolute rates are of a machine that others may use.
#
# Run: `experiments/benchmarks/peers.sh peers` once, then
# `python experiments/benchmarks/run.py --peer peers/bin/python`
# %%
import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from melano_tf.environment import cores, environment

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- table of experiments/benchmarks/run.py -->", "<!-- end of the table -->"
# Script, and what it is given beside --json; those with a peer in another environment take --peer.
BENCHMARKS: dict[str, tuple[str, ...]] = {"cutting": (), "feed": ("--peer",), "step": ("--peer",), "growth": ()}


# %%
def measured(name: str, arguments: list[str]) -> list[dict[str, Any]]:
    """The rows that a benchmark prints: one JSON object a line, the rest is for people."""
    command = [sys.executable, str(HERE / f"{name}.py"), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown; a ratio where there is a peer."""
    lines = ["| work | unit | here | beside it | | ratio | wanted |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        peer, ratio = row.get("peer"), row["own"] / row["peer"] if row.get("peer") else None
        shown = [row["work"], row["unit"], f"{row['own']:,.3g}" if row["own"] < 100 else f"{row['own']:,.0f}"]
        shown += ["" if peer is None else f"{peer:,.3g}" if peer < 100 else f"{peer:,.0f}", row["beside"]]
        shown += ["" if ratio is None else f"{ratio:.2f}", row["wanted"] if row.get("wanted") else ""]
        lines.append("| " + " | ".join(map(str, shown)) + " |")
    return "\n".join(lines)


def machine() -> str:
    """Which one, and how busy it was."""
    facts = environment(0)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    packages = ", ".join(f"{name} {facts['packages'][name]}" for name in ("tensorflow", "keras"))
    day = time.strftime("%Y-%m-%d")
    return f"{facts['processor']}, {cores()} cores, {platform.system()}, {packages}; {day}, load {load}"


def write(page: Path, text: str, marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Put a text between two marks of a page."""
    begin, end = marks
    content = page.read_text(encoding="utf-8")
    before, _, rest = content.partition(begin)
    _, mark, after = rest.partition(end)
    if not mark:
        raise SystemExit(f"{page}: has not the lines {begin} and {end}")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


# %%
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="All benchmarks beside their peers.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}; none: all")
    parser.add_argument("--peer", type=Path, help="python of the environment that peers.sh made; without it no peers")
    parser.add_argument("--page", type=Path, default=PAGE, help="that the table is written into")
    given = parser.parse_args()
    found: list[dict[str, Any]] = []
    for each in given.names or BENCHMARKS:
        peer = ["--peer", str(given.peer)] if given.peer and "--peer" in BENCHMARKS[each] else []
        found += measured(each, ["--json", *peer])
    shown = f"{table(found)}\n\n{machine()}."
    sys.stdout.write(shown + "\n")
    write(given.page, shown)
