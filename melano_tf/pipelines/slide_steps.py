"""The steps on slides that recipes share: phantoms drawn, and a cohort cut into tiles, as steps of a run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from melano_tf.errors import InputError
from melano_tf.pipelines.records import slide_files
from melano_tf.pipelines.store import COHORT_TABLES, FORMAT, Grid, StoreSettings, write_cohort
from melano_tf.pipelines.wanted import wanted_too
from melano_tf.slides.annotations import AnnotationSettings
from melano_tf.workspace import Run, digest, plain, read_json

Say = Callable[[str], None]
WORDS = ("slide_id", "reason", "notes", "outlines")  # columns of slides.csv that are text whatever stands in them


def draw_phantoms(run: Run, draw: Callable[..., Path], settings: Any, seed: int, workers: int) -> Path:
    """Draw phantom slides into the run's folder, under a key of their settings; returns their manifest.

    Args:
        draw: (folder, settings, seed=, workers=, progress=) -> manifest.
        settings: the phantoms' settings.
        seed: of the drawing.
        workers: processes.
    """
    folder = run.only_folder("phantoms", digest([plain(settings), seed]))
    with tqdm(total=None, desc="drawing phantom slides", unit="slide", leave=False) as bar:
        return draw(folder, settings, seed=seed, workers=workers, progress=_shown_on(bar))


def cut_slides(
    run: Run,
    manifest: pd.DataFrame,
    grid: Grid,
    store: StoreSettings,
    annotation: AnnotationSettings,
    workers: int,
    say: Say,
) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Cut every slide of a manifest into tiles, as the step "tiles" of a run, and say what was left out and why.

    With a column `wanted` (see `pipelines.store`) slides of which nothing is wanted are passed over, and what an
    earlier session of the run wanted stays.

    Returns:
        (tiles, outcomes) as `pipelines.store.write_cohort` gives them, and the key of the slides and of how they are
        cut, whatever is wanted of them.

    Raises:
        InputError: no slide brought any tile.
    """
    folder = run.folder / "tiles"
    files = [Path(path) for path in [*manifest["path"], *manifest["annotation"].dropna()]]
    size = sum(file.stat().st_size for file in files)
    with tqdm(total=size, desc="checksums", unit="B", unit_scale=True, leave=False) as bar:
        sums = run.checksums(files, bar.update)
    # By content, not by place: slides that were moved are not cut again.
    rows = [
        {str(name): value for name, value in row.items()}
        | {"path": sums[row["path"]], "annotation": sums.get(row["annotation"] or "")}
        for row in manifest.to_dict("records")
    ]

    drawn = plain(annotation) if manifest["annotation"].notna().any() else None
    facts = {"format": FORMAT, "slides": rows, "grid": plain(grid), "store": plain(store), "annotation": drawn}
    if "wanted" in manifest:
        rows = _with_earlier(run, facts)
        manifest = manifest.assign(wanted=[row["wanted"] for row in rows])
        manifest = manifest[manifest["wanted"].map(bool)].reset_index(drop=True)

    def work(_: Path) -> list[Path]:
        with tqdm(total=len(manifest), desc="cutting tiles", unit="slide", leave=False) as bar:
            write_cohort(manifest, grid, store, folder, workers, _shown_on(bar), annotation)
        files = [path for slide_id in manifest["slide_id"] for path in slide_files(folder, slide_id)[:2]]
        return [path for path in (*files, *(folder / name for name in COHORT_TABLES)) if path.is_file()]

    run.step("tiles", {**facts, "slides": rows}, work)
    key = run.key("tiles", {**facts, "slides": [_without_choice(row) for row in rows]})
    tiles = pd.read_parquet(folder / "tiles.parquet")
    outcomes = pd.read_csv(folder / "slides.csv", dtype=dict.fromkeys(WORDS, str))
    report_outcomes(outcomes, say)
    return tiles, outcomes, key


def _with_earlier(run: Run, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows with what the finished step "tiles" of the same slides, grid and store wanted besides."""
    state = run.folder / "steps" / "tiles.json"
    earlier = read_json(state)["inputs"] if state.is_file() else {}
    known: dict[str, Any] = {}
    if digest([earlier.get(name) for name in ("grid", "store")]) == digest([facts["grid"], facts["store"]]):
        known = {digest(_without_choice(row)): row.get("wanted") for row in earlier["slides"]}
    return [
        {**row, "wanted": wanted_too(row["wanted"], known.get(digest(_without_choice(row))))} for row in facts["slides"]
    ]


def _without_choice(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "wanted"}


def report_outcomes(outcomes: pd.DataFrame, say: Say) -> None:
    """Say what was left out and why, and what was noted of the rest; stop if nothing is left."""
    for row in outcomes[outcomes["notes"].notna() & (outcomes["notes"] != "")].to_dict("records"):
        say(f"  note: {row['slide_id']}: {row['notes']}")
    for row in outcomes[outcomes["status"] != "done"].to_dict("records"):
        say(f"  left out: {row['slide_id']}: {row['reason']}")
    if not (outcomes["status"] == "done").any():
        raise InputError("no slide brought any tile; see the reasons above")


def _shown_on(bar: Any) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return show
