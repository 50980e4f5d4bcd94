"""One slide cut into stored tiles: each pixel of a level is decoded once, and several threads share the work.

Decoded pixels are held in the order in which the tiles need them (`Slide` with `held_mib`); a slide whose rows of tiles
would need more than that is cut in columns of blocks. Tiles are encoded by any number of threads and written in the
one order of the table: the files are the same for each number.
"""

import shutil
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import pandas as pd

from melano_tf.errors import InputError
from melano_tf.pipelines.slide_outcome import SlideOutcome, failure, raise_if_store_unwritable, standing, write_outcome
from melano_tf.pipelines.tfrecords import PLACE, append_image, slide_files
from melano_tf.pipelines.tile_store_settings import Grid, StoreSettings, plain_row, slide_key
from melano_tf.pipelines.wanted_tiles import wanted_rows, wanted_too
from melano_tf.runs import journal
from melano_tf.runs.atomic_files import atomic
from melano_tf.slides.annotations import AS_DRAWN, AnnotationSettings, slide_outlines
from melano_tf.slides.magnifications import TileGrids, magnified_table, reading_order
from melano_tf.slides.pyramid_levels import CELL_PX
from melano_tf.slides.slide import Slide, SlideReadError
from melano_tf.slides.tiling import TileGrid, check_fine_enough, tile_table
from melano_tf.slides.tissue import tissue_mask

ATTEMPTS = 2
HELD_MIB = 256.0
"""Memory for decoded pixels of a slide, whatever its size."""
BLANK_TISSUE = 0.2  # a tile with this much tissue by the mask cannot be of one single colour
AHEAD = 8  # tiles a thread that are worked out before they are written
FEATURES: tuple[str, ...] = ("slide_id", "patient_id", "x", "y", "w0", "h0", "tissue", "tumour")
Item = TypeVar("Item")
Result = TypeVar("Result")


def write_slide(
    row: Mapping[str, Any],
    grid: Grid,
    store: StoreSettings,
    folder: Path,
    annotation: AnnotationSettings = AS_DRAWN,
    threads: int = 1,
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
        threads: that share the work; the files are the same for each number.

    Raises:
        InputError: the store itself cannot be written (disk full, read-only); no slide could succeed.
    """
    values = plain_row(row)
    files = slide_files(folder, values["slide_id"])
    before = standing(row, grid, store, folder, annotation) if row.get("wanted") else None
    values["wanted"] = wanted_too(row.get("wanted"), before[1] if before else None)
    if files[2].exists():  # what is not whole any more must not be read as finished
        write_outcome(files[2], "", failure(values["slide_id"], "not finished", 0, 0.0))
    key, reason, started = "", "", 0.0
    for attempt in range(1, ATTEMPTS + 1):
        started = time.monotonic()
        try:
            key = slide_key(values, grid, store, annotation)
            with Slide(values["path"], values["slide_id"], values["mpp"], HELD_MIB, threads) as slide:
                if before is None:
                    listing = _listed(slide, values, grid, store, annotation)
                else:
                    facts = (before[0].grid_positions, before[0].notes, before[0].outlines)
                    listing = _Listing(pd.read_parquet(files[1]), *facts)
                rows = (listing.table["length"] == 0).to_numpy() & wanted_rows(listing.table, values["wanted"])
                table = _store_tiles(slide, listing.table, rows, grid, store, files, append=before is not None)
                reader = slide.reader
            tiles = int((table["length"] > 0).sum())
            outcome = SlideOutcome(
                slide_id=values["slide_id"],
                status="done" if tiles else "empty",
                reason="" if tiles else f"no tile with at least {grid.min_tissue:.0%} tissue",
                attempts=attempt,
                grid_positions=listing.positions,
                tiles=tiles,
                bytes=files[0].stat().st_size,
                seconds=round(time.monotonic() - started, 3),
                notes=listing.notes,
                outlines=listing.outlines,
                reader=reader,
            )
            break
        except Exception as error:
            raise_if_store_unwritable(error, Path(folder))
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    else:
        outcome = failure(values["slide_id"], reason, ATTEMPTS, time.monotonic() - started)
        for path in files[:2]:
            journal.remove(path)
    write_outcome(files[2], key, outcome, values["wanted"])
    return outcome


@dataclass(frozen=True)
class _Listing:
    """A slide's tiles before they are stored: their table, the count of positions, notes, the outlines in words."""

    table: pd.DataFrame
    positions: int
    notes: str
    outlines: str


def _store_tiles(
    slide: Slide,
    table: pd.DataFrame,
    rows: np.ndarray,
    grid: Grid,
    store: StoreSettings,
    files: tuple[Path, Path, Path],
    append: bool,
) -> pd.DataFrame:
    """Write the tiles of some rows, after those that stand where `append`; returns the table with their places."""
    if isinstance(grid, TileGrids):
        order, features = reading_order(table, grid.names), (*FEATURES, "magnification")
    else:
        order, features = cutting_order(slide, table, grid), FEATURES
    order = order[rows[order]]
    tiles, places = table.to_dict("records"), table[list(PLACE)].to_numpy(np.int64, copy=True)

    def encoded(index: int) -> bytes:
        tile = tiles[index]
        one = grid.at(tile["magnification"]) if isinstance(grid, TileGrids) else grid
        return _encoded(read_tile(slide, tile, one, store), store.jpeg_quality)

    with atomic(files[0]) as temporary:
        if append:
            shutil.copyfile(files[0], temporary)
        with temporary.open("ab" if append else "wb") as file:
            for index, image in zip(order, in_order(encoded, order.tolist(), slide.threads), strict=True):
                names = {name: tiles[index][name] for name in features}
                places[index] = append_image(file, names, "jpeg", image)
    table = table.assign(**dict(zip(PLACE, places.T, strict=True)))
    write_table(files[1], table)
    return table


def in_order(function: Callable[[Item], Result], items: Sequence[Item], threads: int) -> Iterator[Result]:
    """What a function gives for each item, in their order, worked out by several threads a little ahead.

    Raises:
        Exception: what the function raises, of the first item in the order that fails.
    """
    if threads <= 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[Result]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) >= AHEAD * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def cutting_order(slide: Slide, table: pd.DataFrame, grid: TileGrid) -> np.ndarray:
    """The order in which tiles are cut, int64 (n,): row by row, in columns that fit into what is held of the slide.

    Most slides are one column; a wider one is cut so that the pixels that two rows of tiles share are still held.
    """
    scale = slide.best_level(grid.mpp).scale
    # A row of tiles, what the next one adds, and the whole tiles of the file that both cut through.
    height = 2 * grid.tile_px * grid.mpp / slide.mpp[1] / scale[1] + 2 * CELL_PX
    width = max(slide.held_mib * 2**20 / (3 * height), CELL_PX) * scale[0]
    x, y = table["x"].to_numpy(), table["y"].to_numpy()
    return np.lexsort((x, y, x // width)).astype(np.int64)


def _listed(
    slide: Slide, row: Mapping[str, Any], grid: Grid, store: StoreSettings, drawn: AnnotationSettings
) -> _Listing:
    """The tiles of a slide, none of them stored yet.

    Raises:
        InputError: the slide is too coarse for the grid (for each of several), or its outlines cannot be used.
    """
    if isinstance(grid, TileGrid):
        check_fine_enough(slide, grid)
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
    table = table.assign(**dict.fromkeys(PLACE, np.zeros(len(table), np.int64)))
    notes = [*([slide.mpp_note] if slide.mpp_note else []), *missing]
    if annotation is None:
        return _Listing(table, positions, "; ".join(notes), "")
    return _Listing(table, positions, "; ".join(notes + annotation.notes(slide.mpp)), annotation.words(slide.mpp))


def read_tile(slide: Slide, tile: Mapping[Hashable, Any], grid: TileGrid, store: StoreSettings) -> np.ndarray:
    """A tile of the grid at the stored size, uint8 (stored_px, stored_px, 3).

    Raises:
        SlideReadError: it cannot be read, or reads as blank where the mask has seen tissue.
    """
    image = slide.read(tile["x"], tile["y"], grid.tile_px, grid.mpp)
    # A few pixels first, because nearly every tile differs in them.
    blank = (image[::32, ::32] == image[0, 0]).all() and (image == image[0, 0]).all()
    if tile["tissue"] >= BLANK_TISSUE and blank:
        raise SlideReadError(
            f"{slide.slide_id}: the region at x={tile['x']}, y={tile['y']} reads as one colour "
            "although the slide's overview shows tissue there; the file is damaged or incomplete"
        )
    if store.stored_px == grid.tile_px:
        return image
    method = cv2.INTER_AREA if store.stored_px < grid.tile_px else cv2.INTER_LINEAR
    return cv2.resize(image, (store.stored_px, store.stored_px), interpolation=method)


def _encoded(image: np.ndarray, quality: int) -> bytes:
    whole, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not whole:
        raise SlideReadError("a tile could not be encoded as JPEG")
    return encoded.tobytes()


def write_table(path: Path, table: pd.DataFrame) -> None:
    """A table as Parquet, atomically; equal content gives equal bytes."""
    with atomic(path) as temporary:
        table.to_parquet(temporary, index=False)
