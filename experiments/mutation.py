"""Mutation testing of a room by mutmut: which small faults, put into its code one at a time, do its tests not see?

python experiments/mutation.py splits --out runs/mutation
python experiments/mutation.py evaluation --only wilson_delong --out runs/mutation

A copy of the checkout's committed files is mutated, below --out; the checkout stays as it is. The room's own tests are
asked (tests/ROOM). Printed are how many mutants were killed, and every survivor with its change; those that an earlier
call judged are kept. Needs the extra `mutation`. What was measured stands in docs/trust.md.
"""

import argparse
import io
import os
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
SETTINGS = """[mutmut]
source_paths=melano_tf
only_mutate=melano_tf/{room}/*
also_copy=
    data_specs
    docs
    experiments
    README.md
    setup.py
pytest_add_cli_args=
    -n0
    -p
    no:cacheprovider
pytest_add_cli_args_test_selection=
    {tests}
"""
KILLED = {"killed", "timeout", "segfault", "caught by type check"}


def copied(folder: Path, room: str, tests: list[str]) -> None:
    """The committed files in `folder`, and mutmut's settings; a copy of the same commit is kept with its results."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout
    note = folder / "commit"
    if not (note.is_file() and note.read_text() == head):
        folder.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=CHECKOUT, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        note.write_text(head)
    (folder / "setup.cfg").write_text(SETTINGS.format(room=room, tests="\n    ".join(tests)))


def main() -> int:
    """Mutate, ask the tests, and list what survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("room", help="a folder of melano_tf, for example splits")
    parser.add_argument("--only", help="a file of it, without .py")
    parser.add_argument("--tests", nargs="+", help="files or folders of tests; by default tests/ROOM")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/mutation"))
    asked = parser.parse_args()
    if not (CHECKOUT / "melano_tf" / asked.room).is_dir():
        parser.error(f"there is no room melano_tf/{asked.room}")
    folder = asked.out.resolve() / asked.room
    if folder.exists() and not (folder / "commit").is_file():
        parser.error(f"{folder} was not made by this program; choose another --out")
    try:
        copied(folder, asked.room, asked.tests or [f"tests/{asked.room}"])
    except FileExistsError:
        parser.error(f"{folder} is of another commit; remove it, or choose another --out")
    mutmut = [sys.executable, "-m", "mutmut"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    name = f"melano_tf.{asked.room.replace('/', '.')}.{asked.only or ''}*"
    line = [*mutmut, "run", "--max-children", str(asked.workers), name]
    subprocess.run(line, cwd=folder, check=True, env=environment, stdout=sys.stderr)
    told = subprocess.run([*mutmut, "results", "--all", "true"], cwd=folder, check=True, capture_output=True, text=True)
    rows = [row.strip().rsplit(": ", 1) for row in told.stdout.splitlines() if ": " in row]
    states = {mutant: state for mutant, state in rows if mutant.startswith(name[:-1])}
    counted = Counter(states.values())
    judged = sum(count for state, count in counted.items() if state != "not checked")
    killed = sum(counted[state] for state in KILLED)
    for mutant, state in states.items():
        if state not in KILLED | {"not checked"}:
            shown = subprocess.run([*mutmut, "show", mutant], cwd=folder, check=True, capture_output=True, text=True)
            changed = [
                text for text in shown.stdout.splitlines() if text[:1] in "+-" and text[:3] not in ("+++", "---")
            ]
            print("\n".join([f"{mutant}: {state}", *(f"    {text}" for text in changed)]))
    print(f"{name}: {judged} mutants, {killed} killed ({killed / max(1, judged):.1%}); {dict(counted)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
