"""Storms over a recipe's run: killed at random moments, and in the end the same bits as one that was left alone.

python experiments/storms.py zoome --storms 50 -- --preset demo --tables 1

The undisturbed run is made first (or kept from before). Then, in another folder, the same command is given again and
again, and ended at a random moment by SIGKILL, SIGTERM or Ctrl-C, as often as asked for; then it is left to end.
Compared are the digests of all weights (as the sidecars hold them), and the bytes of tables and predictions. Whether a
step was done twice is read from what each session said it did. With --tmpfs FOLDER the run's folder lies on that file
system (make it too small, and the run must say so in one line and go on when there is room).
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from melano_tf.runs.atomic_files import file_sha256

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def command(recipe: str, out: Path, arguments: list[str]) -> list[str]:
    """The command of a run."""
    return [sys.executable, "-m", "melano_tf.run", recipe, "--out", str(out), *arguments]


def digests(folder: Path) -> dict[str, str]:
    """What must not differ between two runs: weights, tables and predictions."""
    found = {}
    for path in sorted((folder / "models").glob("*.json")):
        found[f"models/{path.stem}"] = json.loads(path.read_text(encoding="utf-8"))["run"]["weights_sha256"]
    for name in ("tables", "predictions", "audit"):
        for path in sorted((folder / name).rglob("*")):
            if path.is_file():
                found[str(path.relative_to(folder))] = file_sha256(path)
    return found


def finished(folder: Path) -> dict[str, str]:
    """When each step was finished."""
    steps = (folder / "steps").rglob("*.json")
    return {str(p.relative_to(folder)): json.loads(p.read_text(encoding="utf-8"))["finished"] for p in steps}


def storm(line: list[str], draw: random.Random, longest: float) -> tuple[int, bool]:
    """Give the command, and end it at a random moment; returns (exit code, whether it ended by itself)."""
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            return running.wait(timeout=draw.uniform(0, longest)), True
        except subprocess.TimeoutExpired:
            running.send_signal(draw.choice(SIGNALS))
            try:
                return running.wait(timeout=60), False
            except subprocess.TimeoutExpired:
                running.kill()
                return running.wait(), False


def main() -> int:
    """Make the storms; returns 0 if nothing differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--storms", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/storms"))
    parser.add_argument("--tmpfs", type=Path, help="where the disturbed run lies; by default beside the other")
    parser.add_argument("arguments", nargs="*", help="options of the recipe, after --")
    asked = parser.parse_args()
    calm, torn = asked.out / f"{asked.recipe}-calm", (asked.tmpfs or asked.out) / f"{asked.recipe}-torn"
    began = time.monotonic()
    subprocess.run(command(asked.recipe, calm, asked.arguments), check=True, stdout=subprocess.DEVNULL)
    whole = time.monotonic() - began
    if torn.exists() and not (torn / "run.json").is_file():
        parser.error(f"{torn} is no run; choose another --out")
    shutil.rmtree(torn, ignore_errors=True)
    draw, ended, again = random.Random(asked.seed), [], []
    for _ in range(asked.storms):
        before = finished(torn) if torn.is_dir() else {}
        code, by_itself = storm(command(asked.recipe, torn, asked.arguments), draw, max(20.0, 1.2 * whole))
        ended.append(code)
        again += [name for name, when in before.items() if finished(torn).get(name) not in (None, when)]
        if by_itself and code == 0:
            print(f"  finished after {len(ended)} sessions")
            shutil.rmtree(torn)
    final = subprocess.run(command(asked.recipe, torn, asked.arguments), check=False, stdout=subprocess.DEVNULL)
    first, second = digests(calm), digests(torn)
    differing = sorted(name for name in {**first, **second} if first.get(name) != second.get(name))
    print(f"{asked.recipe}: {len(ended)} storms (exit codes {sorted(set(ended))}), then exit {final.returncode}; ")
    print(
        f"{len(first)} digests compared, {len(differing)} differ {differing[:5]}; done twice: {sorted(set(again))[:5]}"
    )
    return int(bool(differing or again or final.returncode))


if __name__ == "__main__":
    raise SystemExit(main())
