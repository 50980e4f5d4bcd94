"""What is the same to the bit for other numbers of threads, and what only nearly: a recipe's small run, several times.

python -m experiments.threads zoome --threads 1 1 2 4 --out runs/threads

Each run is compared with the first: equal weights (by the sidecars' digests), and the largest difference of a
probability that stands in `predictions/`. What was measured stands in docs/trust.md.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.storms import SMALL, calm_run, digests
from melano_tf.runs.predictions import scores


def probabilities(folder: Path) -> dict[str, np.ndarray]:
    """Those of each file of predictions that has any, cases in their order."""
    files = {path.name: pd.read_parquet(path) for path in sorted((folder / "predictions").glob("*.parquet"))}
    return {name: scores(rows.sort_values("case")) for name, rows in files.items() if len(rows)}


def main() -> None:
    """Print a line for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=SMALL)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 1, 2, 4])
    parser.add_argument("--out", type=Path, default=Path("runs/threads"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    first: Path | None = None
    for place, threads in enumerate(asked.threads):
        folder = asked.out / f"{asked.recipe}-{place}-{threads}"
        seconds = calm_run(asked.recipe, [*SMALL[asked.recipe], "--threads", str(threads)], folder)
        first = first or folder
        ours, theirs = ({n: d for n, d in digests(f).items() if n.startswith("models/")} for f in (first, folder))
        assert list(ours) == list(theirs), "other models"
        equal = sum(ours[name] == theirs[name] for name in ours)
        before, after = probabilities(first), probabilities(folder)
        apart = [np.abs(before[name] - after[name]).max() for name in before]
        print(
            f"{asked.recipe}, {threads} threads, {seconds:.0f} s: {equal} of {len(ours)} models' weights equal; "
            f"probabilities in {len(apart)} files differ by at most {max(apart):.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
