"""The kinds of models that answer: one registry, which `predict`, `export` and the client go by.

A sidecar that cannot be what its kind says (damaged, of another program, written by hand) is refused here, before a
slide is cut or a graph is made.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from melano_tf.errors import InputError
from melano_tf.evaluation.calibration import Calibration
from melano_tf.evaluation.slide_scores import AGGREGATIONS
from melano_tf.evaluation.thresholds import Threshold
from melano_tf.models.metadata_layer import MetadataCode
from melano_tf.models.taxonomy import Taxonomy
from melano_tf.pipelines.image_settings import ImageCacheSettings
from melano_tf.runs.files_of_plan import Standing
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.measured_metrics import measured_there, measured_words

LARGEST_INPUT = 4096  # px


@dataclass(frozen=True)
class ModelKind:
    """What a model of one kind takes and needs.

    Attributes:
        judges: slides, images, or files of features.
        check: reads what the sidecar says of the preprocessing; raises what its reader raises.
        called_by: how a class is called: of two by a threshold on the second one, or the most probable of all.
        classes: how many it must have; None: two or more.
        companions: roles that must be there.
        companion_kind: the kind of the models that it needs.
    """

    judges: Literal["slide", "image", "features"]
    check: Callable[[Mapping[str, Any]], object]
    called_by: Literal["threshold", "most probable"] = "threshold"
    classes: int | None = None
    companions: tuple[str, ...] = ()
    companion_kind: str = ""


def _tiles(made: Mapping[str, Any]) -> None:
    from melano_tf.pipelines.tile_store_settings import StoreSettings
    from melano_tf.slides.tiling import TileGrid

    TileGrid(**made["grid"])
    StoreSettings.recorded(made["store"])


def _biopsies(made: Mapping[str, Any]) -> None:
    _tiles(made)
    if int(made["fallback_tiles"]) < 1:
        raise ValueError(f"fallback_tiles {made['fallback_tiles']}")


def _magnified_tiles(made: Mapping[str, Any]) -> None:
    from melano_tf.pipelines.tile_store_settings import StoreSettings
    from melano_tf.slides.magnifications import TileGrids

    grid = made["grid"]
    TileGrids(**{**grid, "names": tuple(grid["names"]), "mpp": tuple(grid["mpp"])})
    StoreSettings.recorded(made["store"])
    if not made["magnifications"] or not set(made["magnifications"]) <= set(grid["names"]):
        raise ValueError(f"magnifications {made['magnifications']!r} are not of its grid")
    how, top = made.get("aggregation", "mean"), made.get("top", 1)  # earlier runs wrote no way
    if how not in AGGREGATIONS or not isinstance(top, int) or top < 1:
        raise ValueError(f"aggregation {how!r} of {top!r} top tiles")


def _image(made: Mapping[str, Any]) -> None:
    ImageCacheSettings(**made["store"])
    if (code := made["metadata"]) is not None:
        MetadataCode.from_json(code)


def _features(made: Mapping[str, Any]) -> None:
    width, bag = made["features"]["width"], made["features"]["bag"]
    if not isinstance(width, int) or width < 1 or bag not in ("slide", "patient"):
        raise ValueError(f"features of width {width!r}, a bag a {bag!r}")
    made["features"]["encoder"]


ANSWERING: Mapping[str, ModelKind] = {
    "spitzoid-target": ModelKind(
        "slide", _biopsies, classes=2, companions=("source",), companion_kind="spitzoid-source"
    ),
    "multimag": ModelKind("slide", _magnified_tiles, companion_kind="multimag"),
    "zoome": ModelKind("image", _image, classes=2),
    "weighting": ModelKind("image", _image, "most probable"),
    "similarity": ModelKind("image", _image, "most probable"),
    "bags": ModelKind("features", _features),
}
# Models that stand beside others and answer nothing alone.
COMPANIONS: Mapping[str, ModelKind] = {"spitzoid-source": ModelKind("slide", _tiles, classes=2)}


def checked_kind(sidecar: Sidecar, where: Path | str) -> ModelKind:
    """The kind of a model that answers.

    Args:
        sidecar: of the model.
        where: the model, for messages.

    Raises:
        InputError: another kind, or a sidecar that is damaged.
    """
    kind = ANSWERING.get(sidecar.kind) if isinstance(sidecar.kind, str) else None
    if kind is None:
        raise InputError(
            f"{where}: a model of kind {sidecar.kind!r}; a slide is judged by a spitzoid-target model "
            "(models/target.keras of a spitzoid run) or a multimag model, an image by a zoome model "
            "(models/zoome.keras of a zoome run) or a model of a weighting or similarity run, a file of features by a "
            "bags model (models/bags.keras of a bags run)"
        )
    _check(sidecar, kind, where)
    return kind


def read_companion(model: Path, sidecar: Sidecar, role: str, together: Standing | None = None) -> tuple[Path, Sidecar]:
    """The file and the sidecar of a model that another one needs.

    Args:
        model: the other one's file.
        sidecar: its sidecar, of a kind that answers.
        role: of the model that is needed.
        together: what was made with the other one, where it lies in its run (`run_of_model.made_together`): by that it
            is known which companion is meant if the sidecar, of an earlier run, does not say its weights.

    Raises:
        InputError: it is missing, damaged, of another kind, or not the one that the other was judged with.
    """
    path = model.parent / sidecar.companions[role]
    found = Sidecar.read(path)
    check_companion(found, sidecar, path, model.name)
    meant = sidecar.companion_weights.get(role)
    if meant is not None:
        same = found.run.get("weights_sha256") == meant
    else:
        same = together is None or together.holds(path.absolute())
    if not same:
        raise InputError(
            f"{path}: is not the model that {model.name} was made with: one of them was trained anew since; let the "
            "run's command end, or take both from one run"
        )
    return path, found


def check_companion(found: Sidecar, of: Sidecar, where: Path | str, model: str) -> None:
    """A model that another one needs is of the kind that this takes, and whole.

    Args:
        found: its sidecar.
        of: the other one's, of a kind that answers.
        where: its file, for messages.
        model: the other one, for messages.

    Raises:
        InputError: it is damaged, or of another kind.
    """
    wanted = ANSWERING[of.kind].companion_kind
    if not wanted or found.kind != wanted:
        needs = f"needs one of kind {wanted!r}" if wanted else "needs none"
        raise InputError(f"{where}: a model of kind {found.kind!r}, where {model} {needs}")
    _check(found, {**ANSWERING, **COMPANIONS}[wanted], where)


def _check(sidecar: Sidecar, kind: ModelKind, where: Path | str) -> None:
    try:
        _check_outputs(sidecar, kind)
        kind.check(sidecar.preprocessing)
        _check_decision(sidecar, kind)
        if missing := [role for role in kind.companions if role not in sidecar.companions]:
            raise ValueError(f"it names no {missing[0]} model")
        if not all(isinstance(part, str) and Path(part).name == part for part in sidecar.companions.values()):
            raise ValueError(f"companions {dict(sidecar.companions)!r} are no files beside it")
    except (InputError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        words = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise InputError(
            f"{where}: its sidecar is damaged, or of another program ({words[:200]}); take the run's files again"
        ) from None


def _check_outputs(sidecar: Sidecar, kind: ModelKind) -> None:
    names = sidecar.classes
    if not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
        raise ValueError(f"classes {names!r} are no different names")
    if len(names) < 2 or (kind.classes is not None and len(names) != kind.classes):
        raise ValueError(f"{len(names)} classes, where its kind has {kind.classes or 'two or more'}")
    px = sidecar.input_px
    least, most = (0, 0) if kind.judges == "features" else (1, LARGEST_INPUT)  # 0: it takes no image
    if not isinstance(px, int) or isinstance(px, bool) or not least <= px <= most:
        raise ValueError(f"input_px {px!r}")
    for mapping in (sidecar.run, sidecar.companions, sidecar.companion_weights):
        if not isinstance(mapping, Mapping):
            raise TypeError("run, companions and companion_weights must be mappings")
    if not isinstance(sidecar.run.get("folder"), str | None):
        raise TypeError(f"run.folder {sidecar.run['folder']!r}")


def _check_decision(sidecar: Sidecar, kind: ModelKind) -> None:
    # Of more than two classes the most probable one is called, and there is no threshold (older runs wrote a number).
    optional = len(sidecar.classes) > 2 and sidecar.threshold is None
    if not optional and (isinstance(sidecar.threshold, bool | None) or not math.isfinite(sidecar.threshold)):
        raise ValueError(f"threshold {sidecar.threshold!r}")
    if not isinstance(sidecar.threshold_from, str):
        raise TypeError(f"threshold_from {sidecar.threshold_from!r}")
    if sidecar.calibration is not None:
        fitted, classes = Calibration.from_json(sidecar.calibration), len(sidecar.classes)
        if fitted.outputs != (1 if kind.called_by == "threshold" and classes == 2 else classes):
            raise ValueError(f"a calibration of {fitted.outputs} outputs for {classes} classes")
        if not all(isinstance(one, int | float) for one in (fitted.log_loss_before, fitted.log_loss_after)):
            raise TypeError("a calibration whose log losses are no numbers")
    if sidecar.threshold_measured is not None:
        measured = Threshold.from_json(sidecar.threshold_measured)
        if measured.sensitivity is None or measured.specificity is None:
            raise ValueError("threshold_measured without what was measured")
        measured_words(measured_there(sidecar.threshold_measured))
    if sidecar.taxonomy is not None:
        Taxonomy.from_mapping(sidecar.taxonomy, sidecar.classes)
