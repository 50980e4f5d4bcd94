"""The tile store: each slide's tiles as one TFRecord file of JPEGs, with a table that finds each of them.

For each slide the folder holds `<slide_id>.tfrecord`, `<slide_id>.tiles.parquet` (the tile table with the place of
every JPEG in the record file) and `<slide_id>.json` (what came out, under which key). The JSON file is written last:
without it, or under another key, the other two count as unfinished. `tiles.parquet` and `slides.csv` cover the cohort;
no slide's file can have their names.

With a `TileGrids` a slide's tiles of several magnifications stand in the same files, from one pass over the slide; the
tables then have the column magnification too. A manifest's column `wanted` chooses of them ({magnification: `OUTLINED`
or `WHOLE`}): the slide's own table then lists every tile, those that are not stored with a length of 0, and what is
wanted later is cut into the same files while the rest stays as it is.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from melano_tf.pipelines.processes import DIED, Engine, WorkerDied, on_this_machine
from melano_tf.pipelines.slide_cutting import ATTEMPTS, write_slide, write_table
from melano_tf.pipelines.slide_outcome import SlideOutcome, failure, finished, raise_if_store_unwritable, write_outcome
from melano_tf.pipelines.tfrecords import slide_files
from melano_tf.pipelines.tile_store_settings import Grid, StoreSettings
from melano_tf.pipelines.wanted_tiles import OUTLINED
from melano_tf.runs import journal
from melano_tf.runs.atomic_files import atomic
from melano_tf.runs.file_integrity import read_frame
from melano_tf.slides.annotations import AS_DRAWN, AnnotationSettings

COHORT_TABLES = ("tiles.parquet", "slides.csv")
TABLE = {
    "slide_id": "str",
    "patient_id": "str",
    "label": "str",
    "tile": "int64",
    "x": "int64",
    "y": "int64",
    "w0": "float64",
    "h0": "float64",
    "tissue": "float64",
    "tumour": "float64",
    "offset": "int64",
    "length": "int64",
    "crc": "int64",
}
MAGNIFICATION = {"magnification": "str"}


def write_cohort(
    manifest: pd.DataFrame,
    grid: Grid,
    store: StoreSettings,
    folder: Path,
    workers: int = 2,
    progress: Callable[[int, int], object] | None = None,
    annotation: AnnotationSettings = AS_DRAWN,
    engine: Engine | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cut a cohort's slides into stored tiles, several slides at a time; fewer slides than workers share them.

    Slides that stand finished under the same key are not repeated. The files are the same, byte for byte, for any
    number of workers. Only one process may write a store at a time.

    Args:
        manifest: rows as `slide_manifest.read_manifest` gives them, with wanted if not all is; see `write_slide`.
        grid: the tile grid, or those of several magnifications.
        store: how tiles are stored.
        folder: the store; made if missing.
        workers: processes, and threads of the last slides; 0 means this process alone.
        progress: called with (slides done, slides in all), first with what was finished before.
        annotation: how outlines are read.
        engine: what cuts the slides, which must see `folder` and them under the same paths; None: `workers`.

    Returns:
        (tiles, outcomes): the tables of all stored tiles (`TABLE`'s columns, with a `TileGrids` also magnification,
        where the manifest has `wanted` also outlined (bool); in the manifest's order) and of all slides (patient,
        label, then `SlideOutcome`), as written to tiles.parquet and slides.csv.

    Raises:
        InputError: the store cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    journal.sweep(folder)
    rows = [{str(name): value for name, value in row.items()} for row in manifest.to_dict("records")]
    outcomes = {str(row["slide_id"]): finished(row, grid, store, folder, annotation) for row in rows}
    todo = [row for row in rows if outcomes[row["slide_id"]] is None]
    if todo:  # the cohort's tables do not fit any more
        for name in COHORT_TABLES:
            journal.remove(folder / name)
    report = progress or (lambda done, total: None)
    report(len(rows) - len(todo), len(rows))
    cut = functools.partial(_cut, grid=grid, store=store, folder=folder, annotation=annotation)
    engine = engine or on_this_machine(workers)
    for index, result in engine.spread(cut, list(zip(todo, engine.threads(len(todo)), strict=True))):
        slide_id = todo[index]["slide_id"]
        if isinstance(result, WorkerDied):
            result = failure(slide_id, DIED, ATTEMPTS, 0.0)
            for path in slide_files(folder, slide_id)[:2]:
                journal.remove(path)
            write_outcome(slide_files(folder, slide_id)[2], "", result)
        outcomes[slide_id] = result
        report(sum(outcome is not None for outcome in outcomes.values()), len(rows))
    return _write_tables(manifest, [outcome for outcome in outcomes.values() if outcome is not None], folder)


def _cut(slide: tuple[Mapping[str, Any], int], **how: Any) -> SlideOutcome:
    """`write_slide` of a row with its threads, as one item for an engine."""
    row, threads = slide
    return write_slide(row, threads=threads, **how)


def _write_tables(
    manifest: pd.DataFrame, outcomes: list[SlideOutcome], folder: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """tiles.parquet and slides.csv from what the slides left, in the manifest's order."""
    parts = [read_frame(slide_files(folder, outcome.slide_id)[1]) for outcome in outcomes if outcome.tiles]
    tiles = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(TABLE))
    tiles = tiles[tiles["length"] > 0].reset_index(drop=True)
    more = {**MAGNIFICATION, OUTLINED: "bool"}
    columns = TABLE | {name: kind for name, kind in more.items() if name in tiles}
    tiles = tiles[list(columns)].astype(columns)
    people = manifest[["slide_id", "patient_id", "label"]]
    slides = people.merge(pd.DataFrame([asdict(outcome) for outcome in outcomes]), on="slide_id", validate="1:1")
    try:
        write_table(folder / COHORT_TABLES[0], tiles)
        with atomic(folder / COHORT_TABLES[1]) as temporary:
            slides.to_csv(temporary, index=False)
    except OSError as error:
        raise_if_store_unwritable(error, folder)
        raise
    return tiles, slides
