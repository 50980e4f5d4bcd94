"""What a model of the grid says of images, and what predict needs to know of it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from melano_tf.papers.shell import Work
from melano_tf.papers.weighting.cohort import CODE, WeightingImages
from melano_tf.papers.weighting.settings import WeightingSettings
from melano_tf.papers.weighting.training_grid import Cell
from melano_tf.pipelines.image_batches import predict_image_batches
from melano_tf.runs.predictions import TEST, predictions
from melano_tf.runs.settings_digest import plain
from melano_tf.runs.sidecar import Sidecar
from melano_tf.training.fed_cases import Noted, unnoted
from melano_tf.training.sample_weights import Strategy

KIND = "weighting"


def judge(
    settings: WeightingSettings,
    cohort: WeightingImages,
    answer: Callable[[Any], Any],
    places: np.ndarray,
    noted: Noted = unnoted,
) -> pd.DataFrame:
    """What a model, {"image"} -> (B, C), says of images, whole and upright; see `models.GridTraining`.

    Args:
        settings, cohort: whose images.
        answer: the model.
        places: of the images.
        noted: what their batches go through, for example `training.fed_cases.Fed.chose`.
    """
    px, batch = settings.network.input_px, settings.training.batch
    shown = noted(predict_image_batches(cohort.cache, cohort.names(places), px, batch))
    found = np.concatenate([np.asarray(answer({"image": one["x"].astype(np.float32)}), np.float64) for one in shown])
    return answers_frame(cohort, places, found)


def with_metadata(pictures: Any, told: np.ndarray | None, rows: np.ndarray) -> dict[str, Any]:
    """What a best cell is asked with: pictures, and what is told of them where it takes that.

    Args:
        pictures: (B, px, px, 3).
        told: float32 (n, M), or None.
        rows: of the pictures, (B,).
    """
    return {"image": pictures} if told is None else {"image": pictures, "metadata": told[rows]}


def answers_frame(cohort: WeightingImages, places: np.ndarray, found: np.ndarray) -> pd.DataFrame:
    """What is said of images, (n, C), as `models.GridTraining` holds it."""
    rows = cohort.records[["image_id", "group", "target"]].iloc[places].reset_index(drop=True)
    return predictions(rows.assign(case=rows["image_id"], part=TEST), found, cohort.classes)


def sidecar_of(work: Work, cell: Cell, strategy: Strategy) -> Sidecar:
    """What predict needs to know of a model of the grid."""
    cohort = work.value("cohort")
    facts = {"configuration": cell.name, "strategy": plain(strategy)}
    facts["trained_on"] = f"training part of split {cell.split}"
    return image_sidecar(work, facts, tree_of(cohort) if cell.network == "hierarchical" else None)


def image_sidecar(
    work: Work, facts: Mapping[str, Any], taxonomy: Mapping[str, Any] | None = None, told: bool = False
) -> Sidecar:
    """What predict needs to know of a model.

    Args:
        facts: of this model.
        taxonomy: of a hierarchical one.
        told: it takes age, sex and site.
    """
    cohort, transfer = work.value("cohort"), work.settings.transfer
    return Sidecar(
        kind=KIND,
        classes=cohort.classes,
        # A part of a pretrained network brings squares of any size to what it was trained on: `answering`.
        input_px=work.settings.network.input_px if transfer is None else work.settings.store.stored_px,
        preprocessing={
            "store": plain(cohort.store),
            "colour": "RGB, 0 to 255",
            "metadata": CODE.to_json() if told else None,
        },
        threshold=None,
        threshold_from="none: the most probable class is called",
        taxonomy=taxonomy,
        run=facts,
    )


def tree_of(cohort: WeightingImages) -> dict[str, Any]:
    """The taxonomy as nested mappings; a leaf's value is its class, as `Taxonomy.from_mapping` reads it."""
    tree: dict[str, Any] = {}
    tax = cohort.taxonomy
    for name, path in zip(tax.classes, tax.paths, strict=True):
        node = tree
        *above, last = tax.decisions[path[-1]].split("/")
        for part in above:
            node = node.setdefault(part, {})
        node[last] = name
    return tree
