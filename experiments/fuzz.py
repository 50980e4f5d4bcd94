"""Damaged inputs of every kind, by the hundred: each is read, or refused in one line, within a minute and 2 GiB.

python -m experiments.fuzz slides --out runs/fuzz       (from the repository's folder; no kind: all of them)

The damaged files are drawn from seeds: the kind's name and the case's number. Each kind is judged in a process of its
own, which is watched: a case that raises, ends the process, takes longer than 60 s or more than 2 GiB besides what the
process had is a fault. Its folder is kept in --out, beside what was said, and the line that repeats it is shown. Exit
code 1 if there was any.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import sys
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

LONGEST = 60.0  # seconds of a case
MOST_BYTES = 2 * 2**30  # besides what the process and those below it had before it
PAGE = os.sysconf("SC_PAGE_SIZE")
FAULT = "FAULT"


def kinds() -> dict[str, Any]:
    """All kinds by name."""
    from tests.fuzz import kinds_of_models
    from tests.fuzz.kinds import FILES

    return FILES | kinds_of_models.MODELS


def work(kind: str, folder: str, pipe: Connection) -> None:
    """In a process: make the whole files, then judge the cases whose numbers come through the pipe."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    one = kinds()[kind]
    whole = one.prepare(Path(folder) / "whole")
    pipe.send("ready")
    while True:
        number = pipe.recv()
        case = Path(folder) / "case"
        shutil.rmtree(case, ignore_errors=True)
        case.mkdir()
        try:
            pipe.send(one.judge(whole, random.Random(f"{kind} {number}"), case))
        except BaseException:
            pipe.send(f"{FAULT}\n{traceback.format_exc()}")


class Watched:
    """The process of a kind, begun again after a case that ended it.

    Attributes:
        peak: bytes that a case took at most besides what was there before it.
        slowest: seconds of the slowest case.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.peak, self.slowest = 0, 0.0
        self._process: Any = None

    def begin(self) -> None:
        """Make the process, and wait until its whole files are there."""
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=work, args=(self.kind, str(self.folder), other))
        self._process.start()
        other.close()
        self._pipe.recv()

    def end(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = None

    def judge(self, number: int) -> str:
        """What became of a case."""
        if self._process is None:
            self.begin()
        before, began = memory(self._process.pid), time.monotonic()
        self._pipe.send(number)
        while not self._pipe.poll(0.02):
            taken, seconds = memory(self._process.pid) - before, time.monotonic() - began
            self.peak, self.slowest = max(self.peak, taken), max(self.slowest, seconds)
            if taken > MOST_BYTES or seconds > LONGEST:
                self.end()
                return f"{FAULT}\n{taken / 2**20:,.0f} MiB and {seconds:.0f} s, and not ended"
        try:
            return str(self._pipe.recv())
        except EOFError:
            code = self._process.exitcode
            self.end()
            return f"{FAULT}\nthe process was ended (exit code {code})"
        finally:
            self.slowest = max(self.slowest, time.monotonic() - began)


def memory(pid: int) -> int:
    """Bytes that a process and those below it hold, those that several share counted in each."""
    found = 0
    try:
        found = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += sum(memory(int(child)) for child in (task / "children").read_text().split())
    except (OSError, IndexError):
        pass
    return found


def fuzz(kind: str, first: int, count: int, out: Path) -> int:
    """Judge the cases of a kind; returns the number of faults."""
    scratch = out / "work" / kind
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    watched, outcomes, began = Watched(kind, scratch), Counter[str](), time.monotonic()
    try:
        for number in range(first, first + count):
            said = watched.judge(number)
            outcome, _, words = said.partition("\n")
            outcomes[outcome] += 1
            if outcome == FAULT:
                kept = out / f"{kind}-{number}"
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(scratch / "case", kept)
                (kept / "said.txt").write_text(words, encoding="utf-8")
                last = words.strip().splitlines()[-1][:200]
                print(f"  fault: {last}", flush=True)
                print(f"    python -m experiments.fuzz {kind} --first {number} --count 1 --out {out}", flush=True)
    finally:
        watched.end()
        shutil.rmtree(scratch, ignore_errors=True)
    words = ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))
    print(
        f"{kind}: cases {first} to {first + count - 1}: {words}; slowest {watched.slowest:.1f} s, most memory "
        f"{watched.peak / 2**20:,.0f} MiB, {time.monotonic() - began:.0f} s in all",
        flush=True,
    )
    return outcomes[FAULT]


def main() -> int:
    """Parse, run the kinds, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = kinds()
    parser.add_argument("kind", nargs="*", help=f"of {', '.join(known)}; none: all")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--count", type=int, default=None, help="cases of each kind; not given: as promised")
    parser.add_argument("--out", type=Path, required=True, help="folder for the cases that are faults")
    asked = parser.parse_args()
    if strange := set(asked.kind) - set(known):
        parser.error(f"no kind {sorted(strange)[0]!r}")
    faults = 0
    for kind in asked.kind or known:
        faults += fuzz(kind, asked.first, asked.count or known[kind].count, asked.out)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
