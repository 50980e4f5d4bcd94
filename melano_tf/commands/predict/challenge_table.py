"""The ISIC challenge's table: what is written of images whose most probable class is called."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from melano_tf.errors import InputError
from melano_tf.runs.atomic_files import write_csv
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.model_interface import Answer, Case


def check_stems(cases: Sequence[Case]) -> None:
    """Each row of the challenge's table is named by the file's name without suffix, so those must differ.

    Raises:
        InputError: names the files that share one.
    """
    by_stem: dict[str, list[str]] = {}
    for case in cases:
        by_stem.setdefault(case.path.stem, []).append(case.path.name)
    faults = [f"{stem}: {', '.join(names)}" for stem, names in by_stem.items() if len(names) > 1]
    if faults:
        folder = cases[0].path.parent
        raise InputError.of(
            f"{folder}: rows are named by the files' names without suffix; rename or remove one of:", faults
        )


def write_challenge(path: Path, answers: Sequence[Answer], records: Sequence[dict[str, Any]], sidecar: Sidecar) -> None:
    """The readable images as the ISIC challenge's scorer takes them: image (the file's name without suffix), then the
    probability of each class under its name, in the sidecar's order, with ten digits."""
    readable = {answer.case.path.stem: answer.probabilities for answer in answers if answer.probabilities is not None}
    values = np.array(list(readable.values())).reshape(-1, len(sidecar.classes))
    table = pd.DataFrame(values, columns=list(sidecar.classes))
    table.insert(0, "image", list(readable))
    write_csv(path, table, float_format="%.10f")


def class_words(record: dict[str, Any], sidecar: Sidecar) -> str:
    """The decision and the two classes after it."""
    ordered = sorted(record["probabilities"].items(), key=lambda pair: -pair[1])
    next_ones = ", ".join(f"{name} {p:.3f}" for name, p in ordered[1:3])
    called = record["decision"] or f"decision withheld: {ordered[0][0]}"
    return f"{called} {ordered[0][1]:.3f} (then {next_ones})"
