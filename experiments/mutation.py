"""Mutation testing by mutmut: which small faults, put into the code one at a time, do its tests not see?

python experiments/mutation.py splits --out runs/mutation
python experiments/mutation.py training --sample 120 --seed 1 --out runs/mutation
python experiments/mutation.py slides/tiling slides/tissue --out runs/mutation
python experiments/mutation.py training --names left.txt --tests tests/training/test_losses.py --out runs/again

A copy of the checkout's committed files is mutated, below --out; the checkout stays as it is. Each mutant is asked of
the tests that call its function, the cheapest first (`experiments/mutation_tests.py`), for --seconds of work, in a
process forked from one that has imported TensorFlow and done nothing. With --sample a seeded draw of the mutants is
asked, the rest is not. Printed are the killed share with Wilson's interval, and every survivor with its change; what an
earlier call judged is kept as long as melano_tf is the same: --again asks its survivors once more, for example with new
tests. Needs the extra `mutation`. What was measured stands in docs/trust.md.
"""

import argparse
import contextlib
import io
import os
import random
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
sys.path.insert(0, str(CHECKOUT))

from melano_tf.evaluation.wilson_delong import wilson

SETTINGS = """[mutmut]
source_paths=melano_tf
only_mutate=
    {sources}
also_copy=
    data_specs
    docs
    experiments
    README.md
    setup.py
process_isolation=forkserver
forkserver_warmup=import
preload_modules_file=preload.txt
timeout_constant=100000
on_dependency_change=ignore
pytest_add_cli_args=
    -n0
    -p
    no:cacheprovider
    -p
    experiments.mutation_tests
    {deselected}
pytest_add_cli_args_test_selection=
    {tests}
"""
# Imported by the process from which the mutants' are forked: what begins no work (test modules may make tensors).
PRELOADED = "experiments.mutation_tests\ntests.forked_imports\nhypothesis\nscipy.optimize\nsklearn.covariance\n"
MAKE = """
import pathlib
from mutmut.__main__ import copy_also_copy_files, copy_src_dir, create_mutants
pathlib.Path("mutants").mkdir(exist_ok=True)
copy_src_dir()
copy_also_copy_files()
create_mutants(1)
"""
KILLED = {"killed", "timeout", "segfault", "caught by type check"}


def copied(folder: Path, settings: str) -> None:
    """The committed files in `folder`, and mutmut's settings.

    A copy of a commit with the same melano_tf is kept with its results, and gets this one's tests.

    Raises:
        FileExistsError: it is of a commit with another melano_tf.
    """
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout
    note = folder / "commit"
    before = note.read_text() if note.is_file() else None
    if before != head:
        if before is not None:
            line = ["git", "diff", "--quiet", before.strip(), head.strip(), "--", "melano_tf"]
            if subprocess.run(line, cwd=CHECKOUT).returncode:
                raise FileExistsError(folder)
        folder.mkdir(parents=True, exist_ok=before is not None)
        what = [] if before is None else ["experiments", "tests"]
        line = ["git", "archive", "HEAD", *what]
        archive = subprocess.run(line, cwd=CHECKOUT, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        note.write_text(head)
    (folder / "setup.cfg").write_text(settings)
    (folder / "preload.txt").write_text(PRELOADED)


def pattern(target: str) -> str:
    """The files of melano_tf that `target` names: those of a folder, or one (without .py)."""
    if (CHECKOUT / "melano_tf" / target).is_dir():
        return f"melano_tf/{target}/*"
    if not (CHECKOUT / "melano_tf" / f"{target}.py").is_file():
        raise FileNotFoundError(f"there is neither melano_tf/{target}/ nor melano_tf/{target}.py")
    return f"melano_tf/{target}.py"


def tests_of(target: str) -> str:
    """The folder of tests of a room, or the file of tests of a file."""
    room, _, file = target.rpartition("/")
    return f"tests/{target}" if (CHECKOUT / "tests" / target).is_dir() else f"tests/{room}/test_{file}.py"


def states(folder: Path) -> dict[str, str]:
    """{mutant: "killed", "survived", "not checked", ...}."""
    line = [sys.executable, "-m", "mutmut", "results", "--all", "true"]
    told = subprocess.run(line, cwd=folder, check=True, capture_output=True, text=True).stdout
    rows = (row.strip().rsplit(": ", 1) for row in told.splitlines() if ": " in row)
    return {row[0]: row[1] for row in rows}


def listed(file: Path) -> list[str]:
    """The first word of each line."""
    return [row.split()[0] for row in file.read_text().splitlines() if row.strip()]


def change(folder: Path, mutant: str) -> list[str]:
    """The lines that differ."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant

    with contextlib.chdir(folder):
        lines = get_diff_for_mutant(mutant).splitlines()
    return [text for text in lines if text[:1] in "+-" and text[:3] not in ("+++", "---")]


def summary(name: str, found: dict[str, str], equivalent: set[str], every: int) -> str:
    """One line: of those that were asked, how many were killed, and the share with its interval (95 %)."""
    judged = {mutant: state for mutant, state in found.items() if state != "not checked"}
    killed = sum(state in KILLED for state in judged.values())
    counted = killed + sum(state not in KILLED and mutant not in equivalent for mutant, state in judged.items())
    low, high = wilson(killed / counted, counted, 0.95) if counted else (0.0, 1.0)
    share = f"{killed} of {counted} killed ({killed / max(1, counted):.1%}, {low:.1%} to {high:.1%})"
    others = f"{len(judged) - counted} equivalent; {dict(Counter(judged.values()))}"
    return f"{name}: {every} mutants, {len(found)} drawn, {len(judged)} asked: {share}; {others}"


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+", help="folders or files (without .py) of melano_tf, for example splits")
    parser.add_argument("--tests", nargs="+", help="files or folders of tests; by default tests/TARGET")
    parser.add_argument("--deselect", nargs="+", default=[], help="tests that are not asked")
    parser.add_argument("--sample", type=int, help="ask so many mutants, drawn with --seed; by default all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--names", type=Path, help="ask the mutants of this file instead, one a line")
    parser.add_argument("--again", action="store_true", help="ask the survivors of an earlier call once more")
    parser.add_argument("--equivalent", type=Path, help="mutants that change nothing: name and reason, one a line")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="of work, after which a mutant begins no more tests"
    )
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/mutation"))
    return parser


def main() -> int:
    """Mutate, ask the tests, and list what survived."""
    parser = arguments()
    asked = parser.parse_args()
    name = asked.targets[0].replace("/", "-") + ("-and-others" if asked.targets[1:] else "")
    folder = asked.out.resolve() / name
    if folder.exists() and not (folder / "commit").is_file():
        parser.error(f"{folder} was not made by this program; choose another --out")
    tests = asked.tests or [tests_of(target) for target in asked.targets]
    lines: dict[str, list[str]] = {
        "sources": [],
        "tests": tests,
        "deselected": [f"--deselect={test}" for test in asked.deselect],
    }
    try:
        lines["sources"] = [pattern(target) for target in asked.targets]
        copied(folder, SETTINGS.format(**{key: "\n    ".join(value) for key, value in lines.items()}))
    except FileNotFoundError as error:
        parser.error(str(error))
    except FileExistsError:
        parser.error(f"{folder} is of a commit with another melano_tf; remove it, or choose another --out")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment["MUTATION_SECONDS"] = str(asked.seconds)
    subprocess.run([sys.executable, "-c", MAKE], cwd=folder, check=True, env=environment, stdout=subprocess.DEVNULL)
    found = states(folder)
    every = sorted(found)
    drawn = every if asked.sample is None else random.Random(asked.seed).sample(every, min(asked.sample, len(every)))
    if asked.names:
        drawn = listed(asked.names)
        if unknown := [mutant for mutant in drawn if mutant not in found]:
            parser.error(f"{asked.names}: there is no mutant {unknown[0]}")
    left = {"not checked"} | ({"survived", "no tests"} if asked.again else set())
    if open_ones := [mutant for mutant in drawn if found[mutant] in left]:
        line = [sys.executable, "-m", "mutmut", "run", "--max-children", str(asked.workers), *open_ones]
        with (folder / "mutmut.log").open("a") as log:
            if subprocess.run(line, cwd=folder, env=environment, stdout=log, stderr=log).returncode:
                parser.exit(1, f"mutmut ended with an error: {folder}/mutmut.log, {folder}/mutants/failures.txt\n")
    found = states(folder)
    equivalent = (
        {row.split()[0] for row in asked.equivalent.read_text().splitlines() if row.strip()}
        if asked.equivalent
        else set()
    )
    for mutant in sorted(drawn):
        if found[mutant] not in KILLED | {"not checked"} and mutant not in equivalent:
            print("\n".join([f"{mutant}: {found[mutant]}", *(f"    {text}" for text in change(folder, mutant))]))
    print(summary(name, {mutant: found[mutant] for mutant in drawn}, equivalent, len(every)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
