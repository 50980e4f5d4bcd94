"""What every model of slides does first: the slide cut as the training's slides were, in a folder that goes again."""

import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from melano_tf.pipelines.processes import DIED, WorkerDied, spread
from melano_tf.pipelines.slide_cutting import write_slide
from melano_tf.pipelines.slide_outcome import SlideOutcome
from melano_tf.pipelines.tfrecords import slide_files
from melano_tf.pipelines.tile_store_settings import Grid, StoreSettings
from melano_tf.serving.model_interface import Answer, Case

CHUNK = 64  # tiles in memory at once; it changes memory and speed, not the answer


def answer_slides(
    cases: Sequence[Case], scratch: Path, progress: Callable[[int], object], judge: Callable[[Case, Path], Answer]
) -> list[Answer]:
    """One answer a slide by `judge`, which gets a folder for the slide's tiles."""
    answers = []
    for case in cases:
        with tempfile.TemporaryDirectory(prefix=".tiles-", dir=scratch) as folder:
            answers.append(judge(case, Path(folder)))
        progress(1)
    return answers


def cut_slide(case: Case, grid: Grid, store: StoreSettings, folder: Path) -> tuple[SlideOutcome, pd.DataFrame] | Answer:
    """What became of the slide and its stored tiles, one row each; or the answer where there are none.

    The file is opened in a process of its own: one that crashes the slide library costs its answer, not the program.
    """
    name = case.path.stem
    row = {"slide_id": name, "path": str(case.path), "patient_id": "unknown", "label": "unknown", "mpp": case.mpp}
    cut = functools.partial(write_slide, grid=grid, store=store, folder=folder)
    [(_, outcome)] = spread(cut, [row], workers=1)
    if isinstance(outcome, WorkerDied):
        return Answer(case, None, f"{case.path}: {DIED}")
    if outcome.status != "done":
        # Most errors of slides begin with the slide's name.
        named = outcome.reason.startswith((f"slide {name}", f"{name}:"))
        return Answer(case, None, outcome.reason if named else f"{case.path}: {outcome.reason}")
    return outcome, pd.read_parquet(slide_files(folder, name)[1])
