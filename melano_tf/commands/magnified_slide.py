"""`predict` with a multimag model: a slide at all its magnifications, a map of each, and its own Figure 2."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from melano_tf.errors import InputError
from melano_tf.workspace import Sidecar, atomic, write_json

if TYPE_CHECKING:
    from melano_tf.commands.predict import PredictSettings
    from melano_tf.commands.served import Opened
    from melano_tf.serving.magnifications import MagnifiedAnswer


def predict_magnified(settings: "PredictSettings", opened: "Opened", say: Callable[[str], None]) -> Path:
    """Write prediction.json, tiles.csv, tiles.geojson, figure2.png and a map for each magnification of one slide."""
    if not settings.input.is_file():
        raise InputError(f"{settings.input}: no such slide file")
    if opened.client is not None:
        raise InputError(
            "an exported multimag model judges tiles (signature serving_default); a slide is judged by the .keras "
            "files of the run, which know each other: --model runs/…/models/….keras without --server"
        )
    from melano_tf.commands.served import threshold_words
    from melano_tf.serving.magnifications import decided, judge_magnifications, magnified_record

    sidecar = opened.sidecar
    slide_id = settings.input.stem
    with tempfile.TemporaryDirectory(prefix=".tiles-", dir=settings.out) as scratch:
        answer = judge_magnifications(settings.model, sidecar, settings.input, slide_id, settings.mpp, Path(scratch))
    record = magnified_record(answer, sidecar, settings.model, settings.input) | {"measured": opened.measured}
    write_json(settings.out / "prediction.json", record)
    with atomic(settings.out / "tiles.csv") as temporary:
        answer.tiles.to_csv(temporary, index=False)
    # Of two classes the maps show the positive one, of more the one that was decided.
    shown = 1 if len(answer.classes) == 2 else decided(answer.fused, sidecar.threshold)
    files = _pictures(settings, sidecar, answer, shown, slide_id)
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
    for path in (settings.out / "prediction.json", settings.out / "tiles.csv", *files):
        say(f"wrote {path}")
    return settings.out


def _pictures(
    settings: "PredictSettings", sidecar: Sidecar, answer: "MagnifiedAnswer", shown: int, slide_id: str
) -> list[Path]:
    """A map for each magnification, Figure 2 of the slide, and the tiles as a GeoJSON that QuPath opens."""
    from melano_tf.explain.cam import maps_of
    from melano_tf.reports.explained import ExplainedTile, explained_sheet, thumbnail_box, write_magnification_maps
    from melano_tf.reports.figures import save_figure
    from melano_tf.reports.slide_maps import fitting_mpp
    from melano_tf.serving.magnifications import shown_tiles
    from melano_tf.slides.annotations import write_tiles_geojson
    from melano_tf.slides.slide import Slide

    positive = answer.classes[shown]
    tiles = answer.tiles.assign(probability=answer.tiles[f"p{shown}"])
    title = f"{slide_id}: {positive} {answer.fused[shown]:.3f}"
    with Slide(settings.input, slide_id=slide_id, mpp=settings.mpp) as slide:
        files = write_magnification_maps(settings.out, slide, tiles, positive, settings.thumbnail_mpp, title)
        mpp = settings.thumbnail_mpp or max(fitting_mpp(slide), 4.0)
        thumbnail = slide.thumbnail(mpp)
        rows: list[ExplainedTile] = []
        chosen: list[dict[str, Any]] = [
            {str(key): value for key, value in row.items()}
            for row in shown_tiles(answer, sidecar.threshold).to_dict("records")
        ]
        for row in chosen:
            image = answer.images[row["row"]]
            maps, captions = maps_of(answer.models[row["magnification"]], image, row["called"])
            words = f"{row['magnification']}, called {answer.classes[row['called']]} {row['sure']:.3f}"
            rows.append(ExplainedTile(words, thumbnail, thumbnail_box(slide, row, mpp), image, maps, captions))
    note = "Of each magnification and class the surest tile that was called it; maps are of that class"
    files.append(save_figure(settings.out / "figure2.png", explained_sheet(rows, f"Figure 2: {title}", note)))
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
