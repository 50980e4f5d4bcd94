"""Storms over a recipe's small run: ended at random moments, and in the end the same bits as one that was left alone.

python -m experiments.storms zoome --storms 50 --jobs 2 --out runs/storms

The small run is the one that the tests share. It is made undisturbed first (or kept from before, where its arguments
are the same). Then, in another folder, the same command is given again and again, and ended at a random moment by
SIGKILL, SIGTERM or Ctrl-C, as often as asked for; a run that comes to its end is thrown away and begun anew. At last it
is left to end. Compared are the digests of all weights (as the sidecars hold them), and the bytes of tables,
predictions and audit records; that no finished step was done twice is seen from when each says that it was finished.

--disk MIB puts the disturbed run on a file system of that size (tmpfs, which needs the right to mount): it must end
with one line, and go on once there is room. --memory MIB bounds a session's address space. --clock LIBRARY
(libfaketime.so.1) gives each session a clock of its own, up to a week off in either direction. --read-errors NAME:
reads of the file whose path ends so fail in the first half of the sessions, after a random number (read_error.c, which
needs a C compiler). What was trained without a slide is then rightly done again with it: a step counts as done twice
only where it was finished twice under the same key.
"""

import argparse
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import psutil

from melano_tf.runs.atomic_files import file_sha256
from tests.papers import tiny, tiny_multimag
from tests.papers.bags_run import BAGS
from tests.papers.similarity_run import SIMILARITY
from tests.papers.weighting_run import WEIGHTING
from tests.papers.zoome_run import ALL_OF_ZOOME, ZOOME

SMALL = {
    "spitzoid": (*tiny.TINY, *tiny.EVERYTHING),
    "multimag": (*tiny_multimag.TINY, *tiny_multimag.EVERYTHING),
    "zoome": (*ZOOME, *ALL_OF_ZOOME),
    "weighting": WEIGHTING,
    "similarity": SIMILARITY,
    "bags": BAGS,
}
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
WEEK = 7 * 24 * 3600
Steps = dict[str, dict[str, str]]  # {step: {key: when it was finished under it}}


def digests(folder: Path) -> dict[str, str]:
    """What must not differ between two runs: weights, tables, predictions and audit records."""
    found = {}
    for path in sorted((folder / "models").glob("*.json")):
        found[f"models/{path.stem}"] = json.loads(path.read_text(encoding="utf-8"))["run"]["weights_sha256"]
    for name in ("tables", "predictions", "audit"):
        for path in sorted((folder / name).rglob("*")):
            if path.is_file():
                found[str(path.relative_to(folder))] = file_sha256(path)
    return found


def finished(folder: Path) -> Steps:
    """Under which key each step was finished, and when; a record that is just being replaced cannot be half there."""
    records = {p: json.loads(p.read_text(encoding="utf-8")) for p in (folder / "steps").rglob("*.json")}
    return {str(p.relative_to(folder)): {record["key"]: record["finished"]} for p, record in records.items()}


@dataclass
class Weather:
    """How sessions of one command are disturbed.

    Attributes:
        line: the command.
        draw: of all moments, signals and clocks.
        longest: after at most how many seconds of processor time a session is ended: the clock's would say nothing of
            how far it has come on a machine that has other work.
        memory: bytes of address space that a session has; None: not bounded.
        clock: libfaketime's path; None: the machine's clock.
        bad_disk: (library, how the path ends of the file that cannot be read); None: all files can.
        lines: what sessions that ended by themselves and not well said last, counted.
        codes: exit codes, counted; negative ones are signals.
    """

    line: list[str]
    draw: random.Random
    longest: float
    memory: int | None = None
    clock: str | None = None
    bad_disk: tuple[str, str] | None = None
    lines: Counter[str] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)

    def session(self, left_alone: bool = False, disk_is_bad: bool = False) -> tuple[int, bool]:
        """Give the command; returns (exit code, whether it ended by itself)."""
        environment = self._environment(disk_is_bad)
        with (
            tempfile.TemporaryFile("w+") as said_there,
            subprocess.Popen(
                self.line, stdout=subprocess.DEVNULL, stderr=said_there, env=environment, preexec_fn=self._begin
            ) as running,
        ):
            allowed = math.inf if left_alone else self.draw.uniform(0, self.longest)
            while running.poll() is None and processor_time(running.pid) < allowed:
                time.sleep(0.05)
            by_itself = running.poll() is not None
            if not by_itself:
                running.send_signal(self.draw.choice(SIGNALS))
                try:
                    running.wait(timeout=60)
                except subprocess.TimeoutExpired:
                    running.kill()
                    self.lines["(did not end within 60 s of the signal)"] += 1
            code = running.wait()
            said_there.seek(0)
            errors = said_there.read()
        self.codes[code] += 1
        if code not in (0, -signal.SIGKILL):
            said = [text for text in errors.splitlines() if text.strip()] or ["(nothing)"]
            self.lines[f"exit {code}: {said[-1][:160]}"] += 1
            if any(text.startswith("Traceback") for text in said):
                self.lines[f"(a traceback; {[text.strip() for text in said if text.startswith('  File')][-1:]})"] += 1
        return code, by_itself

    def _environment(self, disk_is_bad: bool) -> dict[str, str]:
        libraries, added = [], {}
        if self.clock is not None:
            libraries.append(self.clock)
            shift = self.draw.randint(-WEEK, WEEK)
            added = {"FAKETIME": f"{shift:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        if self.bad_disk is not None and disk_is_bad:
            libraries.append(self.bad_disk[0])
            after = int(10 ** self.draw.uniform(0, 2)) - 1  # of few reads as often as of many
            added |= {"READ_ERROR_FILE": self.bad_disk[1], "READ_ERROR_AFTER": str(after)}
        return {**os.environ, **added} | ({"LD_PRELOAD": ":".join(libraries)} if libraries else {})

    def _begin(self) -> None:
        """In the session's own process, before its command."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's job in the background would pass Ctrl-C over
        if self.memory is not None:
            resource.setrlimit(resource.RLIMIT_AS, (self.memory, self.memory))


def processor_time(pid: int) -> float:
    """Seconds of processor time that a process and those that it started have taken; 0 once it has ended."""
    try:
        process = psutil.Process(pid)
        times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return 0.0
    return float(sum(one.user + one.system + one.children_user + one.children_system for one in times))


def calm_run(recipe: str, arguments: list[str], folder: Path) -> float:
    """The undisturbed run in `folder`, made or kept; returns how many seconds it took."""
    note = folder.with_suffix(".json")
    if note.is_file():
        kept = json.loads(note.read_text(encoding="utf-8"))
        if kept["arguments"] == arguments:
            return float(kept["seconds"])
    if folder.exists():
        shutil.rmtree(folder)
    began = time.monotonic()
    line = [sys.executable, "-m", "melano_tf.run", recipe, "--out", str(folder), *arguments]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    note.write_text(json.dumps({"arguments": arguments, "seconds": seconds}), encoding="utf-8")
    return seconds


def throw_away(torn: Path) -> None:
    """Empty the disturbed run's folder, which this program made."""
    for path in torn.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def blow(weather: Weather, torn: Path, storms: int) -> tuple[int, list[str], Steps]:
    """Disturb sessions; returns (runs that came to an end between, the steps done twice, those finished at the end)."""
    ended, again, known = 0, [], finished(torn)
    for number in range(storms):
        code, by_itself = weather.session(disk_is_bad=number < storms / 2)
        known, twice = counted(known, finished(torn), weather.bad_disk is not None)
        again += twice
        weather.lines["(a slide could not be read)"] += failed(torn)
        if by_itself and code == 0 and not failed(torn):
            ended, known = ended + 1, {}
            throw_away(torn)
    return ended, again, known


def failed(folder: Path) -> bool:
    """Whether a slide could not be read, so that the same command has something left to do."""
    table = folder / "tiles" / "slides.csv"
    return table.is_file() and bool((pd.read_csv(table)["status"] == "failed").any())


def counted(known: Steps, now: Steps, keys_change: bool = False) -> tuple[Steps, list[str]]:
    """All steps that a run ever finished, and which of them were begun anew: a step's record is taken away when it
    begins, so that one which has no record any more was begun again, as was one that says another moment. Where keys
    may change, only the latter tells, of the same key."""
    twice = [
        name for name, keys in now.items() for key, when in keys.items() if known.get(name, {}).get(key, when) != when
    ]
    if keys_change:
        return {name: {**known.get(name, {}), **now.get(name, {})} for name in {**known, **now}}, twice
    return now, [*twice, *(name for name in known if name not in now)]


def built(folder: Path) -> str:
    """The library of `read_error.c`, compiled in `folder`."""
    library = (folder / "read_error.so").resolve()
    source = Path(__file__).with_name("read_error.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return str(library)


def main() -> int:
    """Make the storms; returns 0 if nothing differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=SMALL)
    parser.add_argument("--storms", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/storms"))
    parser.add_argument(
        "--longest",
        type=float,
        help="processor seconds of a session; by default 10 and a quarter of the undisturbed run's",
    )
    parser.add_argument("--disk", type=int, help="MiB of the file system of the disturbed run")
    parser.add_argument("--memory", type=int, help="MiB of a session's address space")
    parser.add_argument("--clock", help="path of libfaketime.so.1")
    parser.add_argument("--read-errors", help="how the path ends of a file that sometimes cannot be read")
    asked = parser.parse_args()
    # One thread: the bits of a training do not depend on how many trainings run beside it.
    arguments = [*SMALL[asked.recipe], "--threads", "1", "--jobs", str(asked.jobs)]
    asked.out.mkdir(parents=True, exist_ok=True)
    calm, torn = asked.out / f"{asked.recipe}-calm", asked.out / f"{asked.recipe}-torn-{asked.jobs}"
    whole = calm_run(asked.recipe, [*SMALL[asked.recipe], "--threads", "1"], calm)
    if torn.exists():
        parser.error(f"{torn} is there already; remove it, or choose another --out")
    torn.mkdir()
    if asked.disk:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={asked.disk}m", "tmpfs", str(torn)], check=True)
    weather = Weather(
        [sys.executable, "-m", "melano_tf.run", asked.recipe, "--out", str(torn), *arguments],
        random.Random(f"{asked.recipe} {asked.seed}"),
        asked.longest or 10 + whole / 4,
        asked.memory * 2**20 if asked.memory else None,
        asked.clock,
        (built(asked.out), asked.read_errors) if asked.read_errors else None,
    )
    ended, again, known = blow(weather, torn, asked.storms)
    if asked.disk:
        subprocess.run(["mount", "-o", "remount,size=8g", str(torn)], check=True)
    weather.memory = None
    final, _ = weather.session(left_alone=True)
    again += counted(known, finished(torn), weather.bad_disk is not None)[1]
    first, second = digests(calm), digests(torn)
    differing = sorted(name for name in {**first, **second} if first.get(name) != second.get(name))
    if asked.disk:
        subprocess.run(["umount", str(torn)], check=True)
    codes = ", ".join(f"{count} x {code}" for code, count in sorted(weather.codes.items()))
    print(f"{asked.recipe} --jobs {asked.jobs}: {asked.storms} storms, {ended} ends between, exit codes {codes}")
    print(f"  last exit {final}; {len(first)} digests, {len(differing)} differ {differing[:5]}", end="; ")
    print(f"steps done twice: {len(again)} {sorted(set(again))[:5]}", flush=True)
    for text, count in (+weather.lines).most_common():
        print(f"  {count} x {text}", flush=True)
    if not (differing or again or final):
        shutil.rmtree(torn)
    return int(bool(differing or again or final))


if __name__ == "__main__":
    raise SystemExit(main())
