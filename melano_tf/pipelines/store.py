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

import errno
import functools
import os
import shutil
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pandas as pd

from melano_tf.errors import InputError
from melano_tf.pipelines.processes import WorkerDied, spread
from melano_tf.pipelines.records import append_image, slide_files
from melano_tf.pipelines.records import read_jpegs as read_jpegs  # a store is written and read from here
from melano_tf.pipelines.wanted import OUTLINED, Wanted, wanted_rows, wanted_too
from melano_tf.runs import journal
from melano_tf.runs.files import atomic, read_json, write_json
from melano_tf.runs.plain import digest, plain
from melano_tf.slides.annotations import AS_DRAWN, AnnotationSettings, slide_outlines
from melano_tf.slides.magnifications import TileGrids, magnified_table, reading_order
from melano_tf.slides.slide import Slide, SlideReadError
from melano_tf.slides.tiling import TileGrid, tile_table
from melano_tf.slides.tissue import HEADROOM, tissue_mask

FORMAT = 2  # part of every key: change it when the files' content changes
ATTEMPTS = 2
BLANK_TISSUE = 0.2  # a tile with this much tissue by the mask cannot be of one single colour
ROW = ("slide_id", "path", "patient_id", "label", "annotation", "mpp")
FEATURES: tuple[str, ...] = ("slide_id", "patient_id", "x", "y", "w0", "h0", "tissue", "tumour")
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
}
MAGNIFICATION = {"magnification": "str"}
Grid = TileGrid | TileGrids


@dataclass(frozen=True)
class StoreSettings:
    """How tiles are stored.

    Raises:
        InputError: a value outside its range.
    """

    stored_px: int = 224
    """Side of a stored tile in pixels, at least the model's input (section 4.1: 224)."""
    jpeg_quality: int = 90
    """JPEG quality of stored tiles, 1 to 100 (not in the paper)."""
    mask_mpp: float = 8.0
    """Resolution of the tissue mask in µm/px (our reading)."""
    mask_headroom: float | None = HEADROOM
    """Otsu's threshold sees M = 255 - G only up to this much above the palest hundredth of the scan, so that pale
    dermis stays tissue beside much pigment (our reading; the paper says Otsu only). None: plain Otsu."""

    def __post_init__(self) -> None:
        faults = []
        if self.stored_px < 1:
            faults.append(f"stored_px must be at least 1, and is {self.stored_px}")
        if not 1 <= self.jpeg_quality <= 100:
            faults.append(f"jpeg_quality must lie between 1 and 100, and is {self.jpeg_quality}")
        if not self.mask_mpp > 0:
            faults.append(f"mask_mpp must be above 0, and is {self.mask_mpp}")
        if self.mask_headroom is not None and not 0 < self.mask_headroom <= 255:
            faults.append(f"mask_headroom must lie above 0, to 255 (or be None), and is {self.mask_headroom}")
        if faults:
            raise InputError.of("store:", faults)

    @classmethod
    def recorded(cls, content: Mapping[str, Any]) -> "StoreSettings":
        """From a model's sidecar; older ones also recorded how outlines were mended, which no prediction needs."""
        return cls(**{name: value for name, value in content.items() if name != "mend_outlines"})


@dataclass(frozen=True)
class SlideOutcome:
    """What became of one slide: a row of `slides.csv`.

    Attributes:
        slide_id: the slide.
        status: "done"; "empty" where no tile holds enough tissue; "failed" where none could be stored.
        reason: why it is empty or failed, else "".
        attempts: how often it was tried, each time with a new handle.
        grid_positions: positions of the grid before the tissue filter.
        tiles: tiles stored.
        bytes: size of the record file.
        seconds: time that the last attempt took.
        notes: what a person should know of it: a doubtful mpp, what was passed over in its annotation; else "".
        outlines: count and area of the outlines of each class, else "".
    """

    slide_id: str
    status: Literal["done", "empty", "failed"]
    reason: str = ""
    attempts: int = 1
    grid_positions: int = 0
    tiles: int = 0
    bytes: int = 0
    seconds: float = 0.0
    notes: str = ""
    outlines: str = ""


def slide_key(
    row: Mapping[str, Any], grid: Grid, store: StoreSettings, annotation: AnnotationSettings = AS_DRAWN
) -> str:
    """The key of a slide's stored tiles: the settings, the manifest's row, size and date of the files it names.

    How outlines are read counts where the slide has any.

    Raises:
        OSError: a file of the row cannot be looked at.
    """
    values = _plain_row(row)
    stats = [Path(values[name]).stat() for name in ("path", "annotation") if values[name] is not None]
    dates = [(stat.st_size, stat.st_mtime_ns) for stat in stats]
    drawn = None if values["annotation"] is None else plain(annotation)
    facts = {"format": FORMAT, "grid": plain(grid), "store": plain(store), "annotation": drawn}
    return digest({**facts, "row": values, "files": dates})


def _plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row's values that matter here, missing ones as None."""
    values = {name: row.get(name) for name in ROW}
    return {name: None if pd.isna(value) or value == "" else value for name, value in values.items()}


def write_slide(
    row: Mapping[str, Any],
    grid: Grid,
    store: StoreSettings,
    folder: Path,
    annotation: AnnotationSettings = AS_DRAWN,
) -> SlideOutcome:
    """Cut one slide into stored tiles: a plain function of a manifest row, for any engine to spread.

    A slide that fails is tried once more with a new handle; then its outcome is "failed", with the reason, and it has
    no tiles at all. Neither a blank tile nor part of a slide is ever stored in place of what could not be read.

    Args:
        row: slide_id, path, patient_id, label, annotation (path or missing), mpp (µm/px or missing); with a
            `TileGrids` also wanted ({magnification: `OUTLINED` or `WHOLE`}; missing: all, inside the outlines).
        grid: the tile grid, or those of several magnifications.
        store: how tiles are stored.
        folder: the store.
        annotation: how outlines are read.

    Raises:
        InputError: the store itself cannot be written (disk full, read-only); no slide could succeed.
    """
    values = _plain_row(row)
    files = slide_files(folder, values["slide_id"])
    standing = _standing(row, grid, store, folder, annotation)
    before = None if standing is None or not row.get("wanted") else standing
    values["wanted"] = wanted_too(row.get("wanted"), before[1] if before else None)
    if files[2].exists():  # what is not whole any more must not be read as finished
        _write_outcome(files[2], "", _failure(values["slide_id"], "not finished", 0, 0.0))
    key, reason, started = "", "", 0.0
    for attempt in range(1, ATTEMPTS + 1):
        started = time.monotonic()
        try:
            key = slide_key(values, grid, store, annotation)
            listed = before[0] if before else None
            table, positions, notes, outlines = _write_tiles(values, grid, store, annotation, files, listed)
            tiles = int((table["length"] > 0).sum())
            outcome = SlideOutcome(
                slide_id=values["slide_id"],
                status="done" if tiles else "empty",
                reason="" if tiles else f"no tile with at least {grid.min_tissue:.0%} tissue",
                attempts=attempt,
                grid_positions=positions,
                tiles=tiles,
                bytes=files[0].stat().st_size,
                seconds=round(time.monotonic() - started, 3),
                notes=notes,
                outlines=outlines,
            )
            break
        except Exception as error:
            _raise_if_store_unwritable(error, Path(folder))
            reason = str(error) if isinstance(error, InputError | SlideReadError) else _named(error)
    else:
        outcome = _failure(values["slide_id"], reason, ATTEMPTS, time.monotonic() - started)
        for path in files[:2]:
            journal.remove(path)
    _write_outcome(files[2], key, outcome, values["wanted"])
    return outcome


def _failure(slide_id: str, reason: str, attempts: int, seconds: float) -> SlideOutcome:
    return SlideOutcome(slide_id, "failed", reason, attempts, seconds=round(seconds, 3))


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _raise_if_store_unwritable(error: Exception, folder: Path) -> None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        raise InputError(
            f"{folder}: tiles cannot be written ({os.strerror(error.errno)}); make room or choose another --out and "
            "give the same command again: finished slides are kept"
        ) from error


def _write_outcome(path: Path, key: str, outcome: SlideOutcome, wanted: Wanted | None = None) -> None:
    try:
        write_json(path, {"key": key, **asdict(outcome), "wanted": wanted})
    except OSError as error:
        _raise_if_store_unwritable(error, path.parent)
        raise


def _write_tiles(
    row: dict[str, Any],
    grid: Grid,
    store: StoreSettings,
    drawn: AnnotationSettings,
    files: tuple[Path, Path, Path],
    before: SlideOutcome | None = None,
) -> tuple[pd.DataFrame, int, str, str]:
    """One attempt: open, table, tiles.

    Args:
        before: what stands of this slide under the same key, to which what is still wanted is added.

    Returns:
        The tiles' table, the count of positions, notes, and the outlines of each class in words.
    """
    with Slide(row["path"], slide_id=row["slide_id"], mpp=row["mpp"]) as slide:
        if before is None:
            table, positions, notes, outlines = _listed(slide, row, grid, store, drawn)
        else:
            table = pd.read_parquet(files[1])
            positions, notes, outlines = before.grid_positions, before.notes, before.outlines
        cut = (table["length"] == 0).to_numpy() & wanted_rows(table, row["wanted"])
        order, features = np.arange(len(table)), FEATURES
        if isinstance(grid, TileGrids):
            order, features = reading_order(table, grid.names), (*FEATURES, *MAGNIFICATION)
        tiles, places = table.to_dict("records"), table[["offset", "length"]].to_numpy(np.int64, copy=True)
        with atomic(files[0]) as temporary:
            if before is not None:
                shutil.copyfile(files[0], temporary)
            with temporary.open("wb" if before is None else "ab") as file:
                for index in order[cut[order]]:
                    tile = tiles[index]
                    one = grid.at(tile["magnification"]) if isinstance(grid, TileGrids) else grid
                    image = _encoded(read_tile(slide, tile, one, store), store.jpeg_quality)
                    places[index] = append_image(file, {name: tile[name] for name in features}, "jpeg", image)
    table = table.assign(offset=places[:, 0], length=places[:, 1])
    write_table(files[1], table)
    return table, positions, notes, outlines


def _listed(
    slide: Slide, row: Mapping[str, Any], grid: Grid, store: StoreSettings, drawn: AnnotationSettings
) -> tuple[pd.DataFrame, int, str, str]:
    """The table of a slide's tiles, none of them stored yet; the count of positions; notes; the outlines in words."""
    annotation = None if row["annotation"] is None else slide_outlines(slide, row["annotation"], drawn)
    mask = tissue_mask(slide, store.mask_mpp, store.mask_headroom)
    geometry = None if annotation is None else annotation.geometry
    whose = (row["patient_id"], row["label"])
    missing: list[str] = []
    if isinstance(grid, TileGrids):
        everywhere = row["wanted"] is not None
        table, positions, missing = magnified_table(slide, mask, geometry, grid, *whose, everywhere=everywhere)
    else:
        table, positions = tile_table(slide, mask, geometry, grid, *whose)
    places = np.zeros(len(table), np.int64)
    table = table.assign(offset=places, length=places)
    notes = [*([slide.mpp_note] if slide.mpp_note else []), *missing]
    if annotation is None:
        return table, positions, "; ".join(notes), ""
    return table, positions, "; ".join(notes + annotation.notes(slide.mpp)), annotation.words(slide.mpp)


def read_tile(slide: Slide, tile: Mapping[Hashable, Any], grid: TileGrid, store: StoreSettings) -> np.ndarray:
    """A tile of the grid at the stored size, uint8 (stored_px, stored_px, 3).

    Raises:
        SlideReadError: it cannot be read, or reads as blank where the mask has seen tissue.
    """
    image = slide.read(tile["x"], tile["y"], grid.tile_px, grid.mpp)
    if tile["tissue"] >= BLANK_TISSUE and (image == image[0, 0]).all():
        raise SlideReadError(
            f"{slide.slide_id}: the region at x={tile['x']}, y={tile['y']} reads as one colour "
            "although the slide's overview shows tissue there; the file is damaged or incomplete"
        )
    if store.stored_px == grid.tile_px:
        return image
    method = cv2.INTER_AREA if store.stored_px < grid.tile_px else cv2.INTER_LINEAR
    return cv2.resize(image, (store.stored_px, store.stored_px), interpolation=method)


def _encoded(image: np.ndarray, quality: int) -> bytes:
    whole, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not whole:
        raise SlideReadError("a tile could not be encoded as JPEG")
    return encoded.tobytes()


def write_table(path: Path, table: pd.DataFrame) -> None:
    """A table as Parquet, atomically; equal content gives equal bytes."""
    with atomic(path) as temporary:
        table.to_parquet(temporary, index=False)


def finished(
    row: Mapping[str, Any],
    grid: Grid,
    store: StoreSettings,
    folder: Path,
    annotation: AnnotationSettings = AS_DRAWN,
) -> SlideOutcome | None:
    """The outcome of a slide of which all that is wanted stands under the same key, its files whole; else None.

    A failed slide counts as unfinished, so that the next command tries it again.
    """
    standing = _standing(row, grid, store, folder, annotation)
    if standing is None:
        return None
    outcome, stored = standing
    return outcome if wanted_too(row.get("wanted"), stored) == stored else None


def _standing(
    row: Mapping[str, Any], grid: Grid, store: StoreSettings, folder: Path, annotation: AnnotationSettings
) -> tuple[SlideOutcome, Wanted | None] | None:
    """The outcome of a slide that stands under the same key, its files whole, and what was wanted of it; else None."""
    record, table, state = slide_files(folder, str(row["slide_id"]))
    try:
        content = read_json(state)
        key, stored = content.pop("key"), content.pop("wanted", None)
        outcome = SlideOutcome(**content)
        whole = table.is_file() and record.stat().st_size == outcome.bytes
        fits = whole and outcome.status != "failed" and (stored is None) == (row.get("wanted") is None)
        return (outcome, stored) if fits and key == slide_key(row, grid, store, annotation) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_cohort(
    manifest: pd.DataFrame,
    grid: Grid,
    store: StoreSettings,
    folder: Path,
    workers: int = 2,
    progress: Callable[[int, int], object] | None = None,
    annotation: AnnotationSettings = AS_DRAWN,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cut a cohort's slides into stored tiles, several slides at a time.

    Slides that stand finished under the same key are not repeated. The files are the same, byte for byte, for any
    number of workers. Only one process may write a store at a time.

    Args:
        manifest: rows as `slides.cohort.read_manifest` gives them, with wanted if not all is; see `write_slide`.
        grid: the tile grid, or those of several magnifications.
        store: how tiles are stored.
        folder: the store; made if missing.
        workers: processes; 1 means this one.
        progress: called with (slides done, slides in all), first with what was finished before.
        annotation: how outlines are read.

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
    cut = functools.partial(write_slide, grid=grid, store=store, folder=folder, annotation=annotation)
    for index, result in spread(cut, todo, workers):
        slide_id = todo[index]["slide_id"]
        if isinstance(result, WorkerDied):
            reason = "the process that read it was killed twice (out of memory, or a crash in the slide library)"
            result = _failure(slide_id, reason, ATTEMPTS, 0.0)
            for path in slide_files(folder, slide_id)[:2]:
                journal.remove(path)
            _write_outcome(slide_files(folder, slide_id)[2], "", result)
        outcomes[slide_id] = result
        report(sum(outcome is not None for outcome in outcomes.values()), len(rows))
    return _write_tables(manifest, [outcome for outcome in outcomes.values() if outcome is not None], folder)


def _write_tables(
    manifest: pd.DataFrame, outcomes: list[SlideOutcome], folder: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """tiles.parquet and slides.csv from what the slides left, in the manifest's order."""
    parts = [pd.read_parquet(slide_files(folder, outcome.slide_id)[1]) for outcome in outcomes if outcome.tiles]
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
        _raise_if_store_unwritable(error, folder)
        raise
    return tiles, slides
