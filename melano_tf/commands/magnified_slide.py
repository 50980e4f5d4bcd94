"""`predict` with a multimag model: a slide at all its magnifications, a map of each, and its own Figure 2."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from melano_tf.errors import InputError
from melano_tf.runs.files import atomic, write_json

if TYPE_CHECKING:
    from melano_tf.commands.predict import PredictSettings
    from melano_tf.commands.served import Opened
    from melano_tf.pipelines.store import StoreSettings
    from melano_tf.serving.magnified_slide import LocalTilesJudge, MagnifiedAnswer, TilesJudge
    from melano_tf.slides.slide import Slide

Seen = tuple[dict[str, Any], np.ndarray, dict[str, np.ndarray], dict[str, str]]
"""A tile of Figure 2: its row of `shown_tiles`, its picture uint8 (px, px, 3), its maps by method, their captions."""


def predict_magnified(settings: "PredictSettings", opened: "Opened", say: Callable[[str], None]) -> Path:
    """Write prediction.json, tiles.csv, tiles.geojson, a map for each magnification; locally also figure2.png."""
    if not settings.input.is_file():
        raise InputError(f"{settings.input}: no such slide file")
    from melano_tf.commands.served import named_files, threshold_words
    from melano_tf.pipelines.store import StoreSettings
    from melano_tf.serving.magnified_slide import LocalTilesJudge, decided, judge_magnifications, magnified_record

    sidecar = opened.sidecar
    slide_id = settings.input.stem
    judge: TilesJudge
    # The models themselves, whose gradients Figure 2 needs; a server has none to give.
    local: LocalTilesJudge | None = None
    if opened.client is not None and opened.card is not None:
        from melano_tf.serving.remote import ServedTilesJudge

        judge = ServedTilesJudge(opened.client, opened.card)
    else:
        judge = local = LocalTilesJudge(settings.model, sidecar)
    with tempfile.TemporaryDirectory(prefix=".tiles-", dir=settings.out) as scratch:
        answer = judge_magnifications(judge, sidecar, settings.input, slide_id, settings.mpp, Path(scratch))
        seen = [] if local is None else _seen(local, answer, Path(scratch))
    record = magnified_record(answer, sidecar, settings.model, settings.input) | {"measured": opened.measured}
    with atomic(settings.out / "tiles.csv") as temporary:
        answer.tiles.to_csv(temporary, index=False)
    # Of two classes the maps show the positive one, of more the one that was decided.
    shown = 1 if len(answer.classes) == 2 else decided(answer.fused, sidecar.threshold)
    files = [settings.out / "prediction.json", settings.out / "tiles.csv"]
    store = StoreSettings.recorded(sidecar.preprocessing["store"])
    files += _pictures(settings, answer, shown, slide_id, seen, store)
    write_json(files[0], record | named_files(files))
    for name, probability in answer.probabilities.items():
        count = int((answer.tiles["magnification"] == name).sum())
        say(f"{slide_id} at {name}: {answer.classes[shown]} {probability[shown]:.3f} ({count} tiles)")
    if answer.left_out:
        say(f"  {answer.left_out}")
    say(
        f"{slide_id}: {answer.classes[shown]} {answer.fused[shown]:.3f}, decision {record['decision']} "
        f"at {sidecar.threshold:g}"
    )
    say(f"  {threshold_words(opened)}")
    say(f"  {record['caveat']}")
    if local is None:
        say("  no figure2.png: its maps need the networks' gradients, which only the run's .keras files give")
    for path in files:
        say(f"wrote {path}")
    return settings.out


def _seen(local: "LocalTilesJudge", answer: "MagnifiedAnswer", scratch: Path) -> list[Seen]:
    """The surest tiles, read once more from where they were cut, with the maps of what their networks saw in them."""
    from melano_tf.explain.cam import maps_of
    from melano_tf.serving.magnified_slide import shown_tiles

    chosen = shown_tiles(answer, local.sidecar.threshold)
    rows = [{str(key): value for key, value in row.items()} for row in chosen.to_dict("records")]
    images = local.pictures(chosen, scratch)
    return [
        (row, image, *maps_of(local.network(row["magnification"]), image, row["called"]))
        for row, image in zip(rows, images, strict=True)
    ]


def _pictures(
    settings: "PredictSettings",
    answer: "MagnifiedAnswer",
    shown: int,
    slide_id: str,
    seen: Sequence[Seen],
    store: "StoreSettings",
) -> list[Path]:
    """A map for each magnification, Figure 2 of local models, and the tiles as a GeoJSON that QuPath opens."""
    from melano_tf.reports.explanation_figures import write_magnification_maps
    from melano_tf.slides.annotations import write_tiles_geojson
    from melano_tf.slides.slide import Slide
    from melano_tf.slides.tissue import tissue_mask

    positive = answer.classes[shown]
    tiles = answer.tiles.assign(probability=answer.tiles[f"p{shown}"])
    title = f"{slide_id}: {positive} {answer.fused[shown]:.3f}"
    with Slide(settings.input, slide_id=slide_id, mpp=settings.mpp) as slide:
        tissue = tissue_mask(slide, store.mask_mpp, store.mask_headroom)
        files = write_magnification_maps(settings.out, slide, tiles, positive, settings.thumbnail_mpp, title, tissue)
        if seen:
            files.append(_figure_2(settings, answer, title, slide, seen))
    geojson = settings.out / "tiles.geojson"
    called = np.array(answer.classes, dtype=object)[np.argmax(tiles[answer.columns].to_numpy(), axis=1)]
    write_tiles_geojson(
        geojson,
        tiles[["x", "y", "w0", "h0"]].to_numpy(float),
        {
            f"probability of {positive}": tiles["probability"].to_numpy(),
            "classification": np.array(
                [f"{c}, {m}" for c, m in zip(called, tiles["magnification"], strict=True)], object
            ),
        },
    )
    return [*files, geojson]


def _figure_2(
    settings: "PredictSettings", answer: "MagnifiedAnswer", title: str, slide: "Slide", seen: Sequence[Seen]
) -> Path:
    """The surest tiles with the maps of what their networks saw in them."""
    from melano_tf.reports.explanation_figures import ExplainedTile, explained_sheet, thumbnail_box
    from melano_tf.reports.figures import save_figure
    from melano_tf.reports.slide_maps import fitting_mpp

    mpp = settings.thumbnail_mpp or max(fitting_mpp(slide), 4.0)
    thumbnail = slide.thumbnail(mpp)
    rows: list[ExplainedTile] = []
    for row, image, maps, captions in seen:
        words = f"{row['magnification']}, called {answer.classes[row['called']]} {row['sure']:.3f}"
        rows.append(ExplainedTile(words, thumbnail, thumbnail_box(slide, row, mpp), image, maps, captions))
    note = "Of each magnification and class the surest tile that was called it; maps are of that class"
    return save_figure(settings.out / "figure2.png", explained_sheet(rows, f"Figure 2: {title}", note))
