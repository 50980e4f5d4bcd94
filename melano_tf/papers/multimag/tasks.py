"""The four experiments as tasks: which tiles, which classes, how many (section 4.2)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from melano_tf.papers.multimag.settings import STEPS, MultimagSettings
from melano_tf.papers.plan import chosen_groups
from melano_tf.runs.settings_digest import seed_for
from melano_tf.splits.training_validation_test import PARTS

NEVI = ("IN", "CN", "JN")
MELANOMA = "MM"
FINEST = "40x"  # of experiments 3 and 4 (sections 4.2.3 and 4.2.4)


@dataclass(frozen=True)
class Task:
    """One classification of one experiment.

    Attributes:
        name: as files and steps call it, for example "melanoma-40x".
        table: number of the paper's table.
        title: as the tables call it.
        classes: (name, diagnoses) of each class, in the order of the outputs; of two classes melanoma is the second.
        magnifications: whose tiles are used.
        quota: most tiles of each (diagnosis, magnification), all parts together.
    """

    name: str
    table: int
    title: str
    classes: tuple[tuple[str, tuple[str, ...]], ...]
    magnifications: tuple[str, ...]
    quota: Mapping[tuple[str, str], int]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the outputs."""
        return tuple(name for name, _ in self.classes)

    @property
    def binary(self) -> bool:
        """Whether there are two classes, of which the second is positive."""
        return len(self.classes) == 2

    def targets(self) -> dict[str, int]:
        """Class index of each diagnosis."""
        return {label: index for index, (_, labels) in enumerate(self.classes) for label in labels}


def tasks_of(number: int, settings: MultimagSettings, tiles: pd.DataFrame) -> list[Task]:
    """The tasks of one table, in the paper's order.

    Args:
        number: of the table, which is that of the experiment.
        settings: caps and magnifications.
        tiles: all tiles, with label and magnification, from which the quotas are filled.
    """
    caps, names = settings.caps, settings.grid.names
    count: dict[tuple[str, str], int] = {
        (str(label), str(name)): len(rows) for (label, name), rows in tiles.groupby(["label", "magnification"])
    }
    against = (("nevus", NEVI), (MELANOMA, (MELANOMA,)))
    if number == 1:
        return [
            Task(f"melanoma-{name}", 1, name, against, (name,), _halves(count, name, most))
            for name, most in zip(names, caps.separate, strict=True)
        ]
    if number == 2:
        quota: dict[tuple[str, str], int] = {}
        for label, most in zip((MELANOMA, *NEVI), caps.mixed, strict=True):
            shares = fair_shares([count.get((label, name), 0) for name in names], most)
            quota |= {(label, name): share for name, share in zip(names, shares, strict=True)}
        return [Task("melanoma-mixed", 2, "", against, names, quota)]
    if number == 3:
        return [
            Task(
                f"melanoma-{label}",
                3,
                f"MM vs. {label}",
                ((label, (label,)), (MELANOMA, (MELANOMA,))),
                (FINEST,),
                {(MELANOMA, FINEST): caps.melanoma, (label, FINEST): caps.nevus},
            )
            for label in NEVI
        ]
    classes = tuple((label, (label,)) for label in NEVI)
    return [Task("nevi", 4, "", classes, (FINEST,), {(label, FINEST): caps.nevi for label in NEVI})]


def planned_tasks(number: int, settings: MultimagSettings) -> list[Task]:
    """The tasks of one table before there are tiles: their quotas are not filled."""
    return tasks_of(number, settings, pd.DataFrame({"label": [], "magnification": []}))


def wanted_magnifications(settings: MultimagSettings) -> dict[str, set[str]]:
    """{diagnosis: magnifications} whose tiles a table or figure that is asked for can use; all where none is asked for.

    Figure 1 shows tiles of every diagnosis at every magnification.
    """
    names, numbers = settings.grid.names, settings.trained_tables()
    samples = "figures" in chosen_groups(settings.steps, STEPS) and 1 in settings.chosen_figures()
    if samples or not numbers:
        return {label: set(names) for label in (MELANOMA, *NEVI)}
    tasks = [task for number in numbers for task in planned_tasks(number, settings)]
    return {
        label: {name for task in tasks if label in task.targets() for name in task.magnifications if name in names}
        for label in (MELANOMA, *NEVI)
    }


def _halves(count: Mapping[tuple[str, str], int], name: str, most: int) -> dict[tuple[str, str], int]:
    """Half melanoma and half nevi, of each nevus as many as of the others; what one side lacks goes to the other."""
    nevi = [count.get((label, name), 0) for label in NEVI]
    melanoma, nevus = fair_shares([count.get((MELANOMA, name), 0), sum(nevi)], most)
    shares = fair_shares(nevi, nevus)
    return {(MELANOMA, name): melanoma} | {(label, name): n for label, n in zip(NEVI, shares, strict=True)}


def fair_shares(available: Sequence[int], total: int) -> list[int]:
    """Shares of a total, as even as what is available allows; what one cannot give, the others do (the first ones the
    remainder)."""
    shares = [0] * len(available)
    left = min(total, sum(available))
    while left:
        open_ones = [i for i, most in enumerate(available) if shares[i] < most]
        each, remainder = divmod(left, len(open_ones))
        for place, i in enumerate(open_ones):
            given = min(each + (place < remainder), available[i] - shares[i])
            shares[i] += given
            left -= given
    return shares


def task_tiles(task: Task, tiles: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The tiles of a task, with `target` (class index), thinned to the quotas.

    Where a diagnosis has more tiles at a magnification than its quota, every slide gives the same share of its own:
    the tiles are lined up slide by slide, in each slide by chance, and taken at even distances.
    """
    targets = task.targets()
    chosen = tiles[tiles["label"].isin(targets) & tiles["magnification"].isin(task.magnifications)]
    parts = []
    for (label, name), rows in chosen.groupby(["label", "magnification"], sort=True):
        most = task.quota[str(label), str(name)]
        rng = np.random.default_rng(seed_for(seed, "quota", task.name, str(label), str(name)))
        luck = rng.permutation(len(rows))
        lined_up = rows.iloc[np.lexsort((luck, rows["slide_id"].to_numpy(str)))]
        start = rng.random()
        if len(rows) > most:
            places = np.floor((np.arange(most) + start) * len(rows) / most).astype(int)
            lined_up = lined_up.iloc[places]
        parts.append(lined_up)
    result = pd.concat(parts) if parts else chosen
    result = result.sort_index()
    return result.assign(target=result["label"].map(targets).astype("int64"))


def judged_tiles(task: Task, tiles: pd.DataFrame, thinned: pd.DataFrame) -> pd.DataFrame:
    """All tiles of a task's slides that are judged, with `target` and `quota` (bool: among the task's thinned tiles).

    Args:
        tiles: every tile of the validation and test slides, also outside their outlines.
        thinned: the task's tiles from `task_tiles`.
    """
    targets = task.targets()
    chosen = tiles[tiles["label"].isin(targets) & tiles["magnification"].isin(task.magnifications)]
    keys = ["slide_id", "tile"]
    quota = pd.MultiIndex.from_frame(chosen[keys]).isin(pd.MultiIndex.from_frame(thinned[keys]))
    return chosen.assign(target=chosen["label"].map(targets).astype("int64"), quota=quota).reset_index(drop=True)


def missing_classes(task: Task, tiles: pd.DataFrame) -> str:
    """What a task lacks to be trained and tested, in words, or "": classes missing from a part.

    Args:
        tiles: from `task_tiles`, with `part`.
    """
    if not len(tiles):
        return f"no slide has tiles at {', '.join(task.magnifications)}"
    lacking = [
        f"no {name} in the {part} part"
        for part in PARTS
        for index, name in enumerate(task.class_names)
        if not ((tiles["part"] == part) & (tiles["target"] == index)).any()
    ]
    return "; ".join(lacking)
