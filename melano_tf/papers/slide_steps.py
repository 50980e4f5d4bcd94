"""The steps on slides that recipes share: a manifest read or phantoms drawn, files looked at, slides cut into tiles."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from melano_tf.errors import InputError
from melano_tf.papers.audit_cases import CASES, write_cases
from melano_tf.papers.plan import Plan
from melano_tf.papers.shell import Looked, Work
from melano_tf.pipelines.tfrecords import slide_files
from melano_tf.pipelines.tile_store import COHORT_TABLES, write_cohort
from melano_tf.pipelines.tile_store_settings import FORMAT, Grid, StoreSettings
from melano_tf.pipelines.wanted_tiles import OUTLINED, WHOLE, Wanted, wanted_too
from melano_tf.runs import journal
from melano_tf.runs.file_integrity import read_frame, read_words
from melano_tf.runs.input_checksums import file_checksums
from melano_tf.runs.settings_digest import digest, plain, seed_for
from melano_tf.slides.annotations import AS_DRAWN, AnnotationSettings
from melano_tf.slides.magnifications import TileGrids
from melano_tf.slides.slide_manifest import read_manifest
from melano_tf.specs import load_spec
from melano_tf.splits.undivided_groups import alike_lines, case_groups
from melano_tf.training.fit import write_frame

Check = Callable[[Work, pd.DataFrame], None]
Choose = Callable[[Work, pd.DataFrame], Sequence[Wanted]]
# Columns of slides.csv that are text, whatever they look like.
WORDS = ("slide_id", "patient_id", "label", "reason", "notes", "outlines")
CHOICE = "wanted.csv"  # in the store; a slide's own files have other endings


@dataclass(frozen=True)
class Cutting:
    """How slides are cut into tiles."""

    grid: Grid
    store: StoreSettings
    annotation: AnnotationSettings = AS_DRAWN


def add_slide_steps(
    plan: Plan,
    spec: str,
    draw: Callable[..., Path],
    check: Check,
    cutting: Cutting,
    choose: Choose | None = None,
    asks: Sequence[str] = (),
) -> str:
    """Add the steps "slides", "files" and "tiles", and "wanted" where tiles are chosen; returns the last one's name.

    What stands on the tiles is known by `cut_identity`, and reads them by `cut_tiles`.

    Args:
        plan: where to; its groups hold "slides" and "tiles".
        spec: name of the data set's description.
        draw: (folder, settings, seed=, workers=, progress=) -> the manifest of phantom slides.
        check: says what was read, and raises InputError where the paper needs something else.
        cutting: how slides are cut.
        choose: (work, manifest) -> which tiles of each slide what is asked for can use, {magnification: `OUTLINED` or
            `WHOLE`}; None: all of them. A slide of which nothing is wanted is passed over, and what an earlier session
            of the run wanted stays.
        asks: with `choose`, the tiles that what is asked for can use, as `asked_tiles` names them.
    """
    slides = plan.step("slides", read_slides, spec, draw, check, always=True)
    plan.output("slides", "slides", [slides], None)
    files = plan.step("files", hash_files, cutting.annotation, needs=[slides], group="tiles", always=True)
    needs = [files]
    if choose is not None:
        looked: dict[str, Any] = {"group": "tiles", "always": True, "by_choice": True, "asks": tuple(asks)}
        needs += [plan.step("wanted", choose_tiles, choose, cutting, needs=[files], **looked)]
    facts = {"format": FORMAT, "grid": plain(cutting.grid), "store": plain(cutting.store)}
    return plan.step("tiles", cut_slides, cutting, needs=needs, depends=facts, here=True)


def read_slides(work: Work, spec: str, draw: Callable[..., Path], check: Check) -> Looked:
    """The manifest of the user's slides, or of phantom slides drawn now, as `slide_manifest.read_manifest` gives it.

    Raises:
        InputError: as `read_manifest`, or by `check`.
    """
    path = work.settings.slides
    manifest = read_manifest(draw_phantoms(work, draw) if path is None else path, load_spec(spec))
    for line in alike_lines({"patient": manifest["patient_id"]}):
        work.say(f"  note: {line}")
    check(work, manifest)
    return Looked(manifest, manifest.drop(columns=["path", "annotation"]).to_csv(index=False))


def draw_phantoms(work: Work, draw: Callable[..., Path]) -> Path:
    """Draw phantom slides into the run's folder, under a key of their settings; returns their manifest."""
    settings, seed = work.settings.phantom, seed_for(work.settings.seed, "phantoms")
    folder = work.run.only_folder("phantoms", digest([plain(settings), seed]))
    with tqdm(total=None, desc="drawing phantom slides", unit="slide", leave=False) as bar:
        return draw(folder, settings, seed=seed, workers=work.workers, progress=_shown_on(bar))


def hash_files(work: Work, annotation: AnnotationSettings) -> Looked:
    """Each slide's row of the manifest with the content of its files in the place of their paths.

    So that slides that were moved are not cut again. How outlines are read counts where any slide has some.
    """
    manifest: pd.DataFrame = work.value("slides")
    files = [Path(path) for path in [*manifest["path"], *manifest["annotation"].dropna()]]
    size = sum(file.stat().st_size for file in files)
    with tqdm(total=size, desc="checksums", unit="B", unit_scale=True, leave=False) as bar:
        sums = file_checksums(work.run.folder, files, bar.update)
    rows = [
        {str(name): value for name, value in row.items()}
        | {"path": sums[row["path"]], "annotation": sums.get(row["annotation"] or "")}
        for row in manifest.to_dict("records")
    ]
    drawn = plain(annotation) if manifest["annotation"].notna().any() else None
    if work.decides:
        try_failed_again(work)
    write_cases(work, _cases(rows))
    return Looked(rows, {"slides": rows, "annotation": drawn})


def _cases(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The slides as `write_cases` wants them."""
    cases = [(row["slide_id"], row["patient_id"], None, row["path"]) for row in rows]
    return pd.DataFrame(cases, columns=CASES, dtype=object)


def slide_groups(work: Work) -> dict[str, str]:
    """{slide: what must not be divided from it}: its patient, joined with those of the same file."""
    return work.once("files", lambda: case_groups(_cases(work.value("files"))))


def try_failed_again(work: Work) -> None:
    """Where a slide failed, "tiles" counts as not finished: a share that was away is there again. The rest is kept."""
    if ("failed",) in _cells(work.run.folder / "tiles" / COHORT_TABLES[1], "status"):
        journal.remove(work.run.folder / "steps" / "tiles.json")


def _cells(table: Path, *columns: str) -> list[tuple[str, ...]]:
    """Columns of a table of the step "tiles", row by row; none where it is not there, or damaged: by its checksum the
    step is then not finished, and done again."""
    try:
        return list(read_words(table)[list(columns)].itertuples(index=False, name=None))
    except (InputError, KeyError):
        return []


def choose_tiles(work: Work, choose: Choose, cutting: Cutting) -> Looked:
    """Which tiles of each slide are wanted now, or were wanted of the same slide, cut in the same way, earlier."""
    earlier: dict[str, dict[str, str]] = {}
    names = cutting.grid.names if isinstance(cutting.grid, TileGrids) else ()
    for key, name, how in _cells(work.path("tiles", CHOICE), "key", "magnification", "tiles"):
        if name in names and how in (OUTLINED, WHOLE):
            earlier.setdefault(key, {})[name] = how
    manifest: pd.DataFrame = work.value("slides")
    chosen = choose(work, manifest)
    wanted = [wanted_too(now, earlier.get(key)) for now, key in zip(chosen, _slide_keys(work, cutting), strict=True)]
    every = [asked_tiles({label: list(names or ())}) for label, names in zip(manifest["label"], wanted, strict=True)]
    return Looked(wanted, wanted, asked={one for names in every for one in names})


def asked_tiles(magnifications: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """Names of {label: magnifications that its slides are wanted at}, for `Step.asks`."""
    return tuple(sorted(f"{label} at {name}" for label, names in magnifications.items() for name in names))


def cut_slides(work: Work, cutting: Cutting) -> list[Path]:
    """Cut every slide into tiles; where there is a choice, those of which anything is wanted."""
    manifest, folder, written = work.value("slides"), work.run.folder / "tiles", []
    wanted = work.value("wanted") if work.has("wanted") else None
    if wanted is not None:
        choice = _choice_table(manifest["slide_id"], _slide_keys(work, cutting), wanted)
        manifest = manifest.assign(wanted=pd.Series(wanted, index=manifest.index, dtype=object))
        manifest = manifest[manifest["wanted"].map(bool)].reset_index(drop=True)
    how = (cutting.grid, cutting.store, folder, work.workers)
    with tqdm(total=len(manifest), desc="cutting tiles", unit="slide", leave=False) as bar:
        write_cohort(manifest, *how, _shown_on(bar), cutting.annotation, work.engine)
    if wanted is not None:
        written = [write_frame(folder / CHOICE, choice)]
    files = [path for slide_id in manifest["slide_id"] for path in slide_files(folder, slide_id)[:2]]
    return [*written, *(path for path in (*files, *(folder / name for name in COHORT_TABLES)) if path.is_file())]


def _slide_keys(work: Work, cutting: Cutting) -> list[str]:
    """What each slide is known by, and how it is cut."""
    return [digest([row, plain(cutting.grid), plain(cutting.store)]) for row in work.value("files")]


def _choice_table(slide_ids: Sequence[str], keys: Sequence[str], wanted: Sequence[Wanted]) -> pd.DataFrame:
    """What is wanted, one row a slide and magnification."""
    rows = [
        (slide_id, key, name, how)
        for slide_id, key, choice in zip(slide_ids, keys, wanted, strict=True)
        for name, how in choice.items()
    ]
    return pd.DataFrame(rows, columns=["slide_id", "key", "magnification", "tiles"])


def cut_tiles(work: Work) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tiles of all slides and what became of each slide, as `pipelines.tile_store.write_cohort` gives them.

    What was left out and why, and what was noted of the rest, is said, once.

    Raises:
        InputError: no slide brought any tile.
    """
    return work.once("tiles", lambda: _read_tiles(work))


def _read_tiles(work: Work) -> tuple[pd.DataFrame, pd.DataFrame]:
    folder = work.run.folder / "tiles"
    tiles = read_frame(folder / "tiles.parquet")
    outcomes = pd.read_csv(folder / "slides.csv", dtype=dict.fromkeys(WORDS, str), keep_default_na=False)
    left_out = outcomes[outcomes["status"] != "done"].to_dict("records")
    for row in outcomes[outcomes["notes"] != ""].to_dict("records"):
        work.say(f"  note: {row['slide_id']}: {row['notes']}")
    for row in left_out:
        work.say(f"  left out: {row['slide_id']}: {row['reason']}")
    work.run.note(excluded=left_out)
    if len(left_out) == len(outcomes):
        raise InputError("no slide brought any tile; see the reasons above")
    return tiles, outcomes


def cut_identity(work: Work, cutting: Cutting) -> list[Any]:
    """What the slides and how they are cut is known by, whatever is wanted of them; for `Looked.content`.

    The identity of the step "tiles" is none of what trainings depend on where tiles are chosen: it changes when more
    are wanted. Slides that failed are named, for what is trained without them is done again once they are read.
    """
    outcomes = cut_tiles(work)[1]
    failed = outcomes.loc[outcomes["status"] == "failed", "slide_id"].tolist()
    named = [{"without": failed}] if failed else []
    return [work.identity("files"), FORMAT, plain(cutting.grid), plain(cutting.store), *named]


def _shown_on(bar: Any) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return show
