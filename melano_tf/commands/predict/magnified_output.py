"""What is written and said of a slide at all its magnifications: a map of each, its own Figure 2, tiles for QuPath."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from melano_tf.commands.predict.biopsy_output import cut_tissue
from melano_tf.pipelines.slide_apart import SlideApart
from melano_tf.reports.explanation_figures import (
    ExplainedTile,
    explained_sheet,
    thumbnail_box,
)
from melano_tf.reports.figures import save_figure
from melano_tf.reports.slide_maps import fitting_mpp, magnification_maps, write_slide_maps
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.magnified_models import decided, judged_by
from melano_tf.serving.model_interface import Answer, Card
from melano_tf.slides.annotations import write_tiles_geojson
from melano_tf.slides.slide import Slide


def pictures(slide_id: str, card: Card) -> list[str]:
    """The files that `write_pictures` may write: of a magnification without tissue there is no map."""
    maps = [f"{slide_id}-{name}.png" for name in judged_by(card.sidecar, card.companions)]
    return [*maps, *(["figure2.png"] if card.model.suffix == ".keras" else []), "tiles.geojson"]


def write_pictures(answer: Answer, sidecar: Sidecar, out: Path, thumbnail_mpp: float | None) -> list[Path]:
    """A map for each magnification, figure2.png where the networks were at hand, and `tiles.geojson`."""
    assert answer.probabilities is not None and answer.tiles is not None
    case, shown = answer.case, _shown(answer, sidecar)
    positive = sidecar.classes[shown]
    tiles = answer.tiles.assign(probability=answer.tiles[f"p{shown}"])
    title = f"{case.path.stem}: {positive} {answer.probabilities[shown]:.3f}"
    with SlideApart(case.path, slide_id=case.path.stem, mpp=case.mpp) as slide:
        tissue = cut_tissue(slide, sidecar)
        maps = magnification_maps(tiles, positive, title)
        files = write_slide_maps(out, slide, maps, None, thumbnail_mpp, tissue)
        if answer.seen:
            files.append(_write_figure_2(answer, sidecar, out, slide, thumbnail_mpp, title))
    return [*files, _write_tiles(out / "tiles.geojson", tiles, positive)]


def _shown(answer: Answer, sidecar: Sidecar) -> int:
    """Of two classes the maps show the positive one, of more the one that was decided."""
    assert answer.probabilities is not None
    return 1 if len(sidecar.classes) == 2 else decided(answer.probabilities, sidecar.threshold)


def _write_tiles(path: Path, tiles: pd.DataFrame, positive: str) -> Path:
    names = [f"{name}, {at}" for name, at in zip(tiles["called"], tiles["magnification"], strict=True)]
    write_tiles_geojson(
        path,
        tiles[["x", "y", "w0", "h0"]].to_numpy(float),
        {
            f"probability of {positive}": tiles["probability"].to_numpy(),
            "classification": np.array(names, object),
        },
    )
    return path


def _write_figure_2(
    answer: Answer, sidecar: Sidecar, out: Path, slide: Slide, thumbnail_mpp: float | None, title: str
) -> Path:
    """The surest tiles with the maps of what their networks saw in them."""
    mpp = thumbnail_mpp or max(fitting_mpp(slide), 4.0)
    thumbnail = slide.thumbnail(mpp)
    tiles: list[ExplainedTile] = []
    for tile in answer.seen:
        row = dict(tile.row)
        words = f"{row['magnification']}, called {sidecar.classes[row['called']]} {row['sure']:.3f}"
        box = thumbnail_box(slide, row, mpp)
        tiles.append(ExplainedTile(words, thumbnail, box, tile.image, dict(tile.maps), dict(tile.captions)))
    note = "Of each magnification and class the surest tile that was called it; maps are of that class"
    return save_figure(out / "figure2.png", explained_sheet(tiles, f"Figure 2: {title}", note))


def words(answer: Answer, record: dict[str, Any], sidecar: Sidecar) -> list[str]:
    """Each magnification, what has none, and the decision."""
    assert answer.probabilities is not None
    name, shown = answer.case.path.stem, _shown(answer, sidecar)
    positive = sidecar.classes[shown]
    lines = [
        f"{name} at {magnification}: {positive} {one['probabilities'][positive]:.3f} ({one['tiles']} tiles)"
        for magnification, one in record["evidence"]["magnifications"].items()
    ]
    lines += [f"  {answer.notes}"] if answer.notes else []
    limit = "" if record["threshold"] is None else f" at {record['threshold']:g}"
    decision = f"decision {record['decision'] or 'withheld'}{limit}"
    return [*lines, f"{name}: {positive} {answer.probabilities[shown]:.3f}, {decision}"]


def last_words(answer: Answer) -> list[str]:
    """What is not there, and why."""
    if answer.seen:
        return []
    return ["  no figure2.png: its maps need the networks' gradients, which only the run's .keras files give"]
