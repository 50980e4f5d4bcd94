"""How a network of the tables is trained and judged on one fold."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from melano_tf.evaluation.thresholds import Decision, fit_decision
from melano_tf.models.classifier_head import logits_of
from melano_tf.models.zoome_network import build_zoome
from melano_tf.papers.alike_trainings import train
from melano_tf.papers.image_steps import image_groups
from melano_tf.papers.plan import Load
from melano_tf.papers.shell import Work
from melano_tf.papers.zoome.cohort import CODE, ZoomeImages
from melano_tf.papers.zoome.metadata_study import GIVEN, Answers, Asked, study
from melano_tf.papers.zoome.networks import Network, draw_name, file_stem, judge_name
from melano_tf.papers.zoome.settings import ZoomeSettings
from melano_tf.pipelines.image_batches import ImageBatches, shown_images
from melano_tf.runs.predictions import VALIDATION, predictions, read_predictions
from melano_tf.runs.settings_digest import plain, seed_for
from melano_tf.runs.sidecar import Sidecar
from melano_tf.splits.disjoint_sides import Sides
from melano_tf.splits.inner_holdout import HoldOut, inner_holdout
from melano_tf.training.fed_cases import Fed, Noted, record_choice, unnoted
from melano_tf.training.fit import Network as Built
from melano_tf.training.fit import Training, by_gradient, write_judgement
from melano_tf.training.losses import binary_focal, prior_loss
from melano_tf.training.optimizers import make_optimizer

KIND = "zoome"


@dataclass(frozen=True)
class FoldTraining:
    """A finished network of one fold.

    Attributes:
        key: of its step.
        model: its file.
        decision: calibration and threshold, from the inner hold-out.
        predictions: of the judged images (`runs.predictions`), with image_id and fold; with metadata also blanked and
            permuted_1, … (probabilities of the same network).
        effects: with metadata, one row a value of a field: field, value, images, melanoma, probability (mean calibrated
            probability if every judged image had this value), log_odds (mean); else empty.
    """

    key: str
    model: Path
    decision: Decision
    predictions: pd.DataFrame
    effects: pd.DataFrame


def depends_on(settings: ZoomeSettings, which: Network, fold: int | None) -> dict[str, Any]:
    """All that a training's result depends on, beside the folds and the content of the initial weights."""
    layers = {name: getattr(settings.network, name) for name in ("input_px", "zoom", "ratio", "gate")}
    layers |= {"metadata_units": settings.network.metadata_units} if which.metadata else {}
    return {
        "fold": fold,
        "network": [which.backbone, which.zoom_se, which.metadata],
        "layers": layers,
        "training": settings.training,
        "augment": settings.augment,
        "hold_out": settings.folds.hold_out,
        "seed": settings.seed,
    }


def judging_depends_on(settings: ZoomeSettings, which: Network) -> dict[str, Any]:
    """All that a network's judgement depends on, beside the network."""
    permutations = settings.evaluation.permutations if which.metadata else 0
    return {"decision": settings.decision, "permutations": permutations, "batch": settings.training.batch}


def trained(work: Work, which: Network, fold: int | None) -> FoldTraining:
    """A finished network and its predictions, from its files."""
    name, stem = judge_name(which, fold), file_stem(which, fold)

    def read() -> FoldTraining:
        model = work.path("models", f"{stem}.keras")
        sidecar = Sidecar.read(model)
        decision = Decision.from_sidecar(sidecar.cut, sidecar.threshold_from, sidecar.calibration)
        table = read_predictions(work.path("predictions", f"{stem}.parquet"))
        values = pd.read_csv(work.path("predictions", f"{stem}-values.csv"), dtype={"value": str})
        return FoldTraining(work.identity(name), model, decision, table, values)

    return work.once(name, read)


def train_network(work: Work, which: Network, fold: int | None) -> list[Path]:
    """Train one network on all folds but one, less an inner hold-out.

    Args:
        which: the network.
        fold: the fold left out (1, 2, …), or None: trained on all of them, for use.
    """
    settings, cohort = work.settings, work.value("folds")
    seed = seed_for(settings.seed, draw_name(which, fold))
    rows, held, _ = divided(work, which, fold)
    training = Training(
        stem=file_stem(which, fold),
        seed=seed,
        epochs=settings.training.epochs,
        build=lambda: build(settings, which, seed),
        batches=training_batches(settings, cohort, which, rows[~held], seed),
        sides=sides(work, rows[~held], rows[held], cohort.places("judge", fold)),
        step=by_gradient(focal_loss(settings.training.alpha, settings.training.gamma)),
        prior=focal_prior(settings, cohort.records["target"].to_numpy()[rows[~held]]),
        alike=("network", which),
        shown=shown_images(
            cohort.cache,
            cohort.records["image_id"].to_numpy()[rows].tolist(),
            settings.network.input_px,
            settings.training.batch,
        ),
    )
    return train(work, training)


def judge_network(work: Work, which: Network, fold: int | None) -> list[Path]:
    """Fit a network's decision on its inner hold-out, and judge the fold left out.

    A step of its own: how a decision is made, and what the network is asked, trains nothing again.
    """
    settings, cohort, stem = work.settings, work.value("folds"), file_stem(which, fold)
    rows, held, hold_out = divided(work, which, fold)
    model = keras.saving.load_model(work.path("models", f"{stem}.keras"))
    choosing, places = rows[held], cohort.places("judge", fold)
    asked = Asked(model, settings.network.input_px, settings.training.batch)
    choice = Fed(f"{stem}-decision", sides(work, rows[:0], choosing, places, after={stem: ""}), None)
    decision = decide(settings, cohort, asked, which, choosing, hold_out, choice.chose)
    record = record_choice(work.run, choice)
    found = judge(settings, cohort, asked, which, places, decision, seed_for(settings.seed, "permute"))
    frames = dict(zip((f"{stem}.parquet", f"{stem}-values.csv"), found, strict=True))
    card = network_sidecar(settings, cohort, which, fold, decision)
    return [*write_judgement(work.run, stem, model, frames, card), record]


def sides(
    work: Work, trains: np.ndarray, held: np.ndarray, judged: np.ndarray, after: Mapping[str, str] | None = None
) -> Sides:
    """Who has which part, from rows of the cohort."""
    names = work.value("folds").records["image_id"].to_numpy()
    divided = "--allow-leaks" if work.settings.allow_leaks else ""
    cases = [names[rows].tolist() for rows in (trains, held, judged)]
    return Sides(image_groups(work), cases[0], cases[1], cases[2], after or {}, divided)


def divided(work: Work, which: Network, fold: int | None) -> tuple[np.ndarray, np.ndarray, HoldOut]:
    """Rows that a network learns from, which of them (bool) are its inner hold-out, and how that was drawn."""
    cohort = work.value("folds")
    rows = cohort.places("train", fold)
    hold_out = draw_holdout(work.settings, cohort, rows, draw_name(which, fold))
    return rows, hold_out.mask(cohort.records["group"].to_numpy()[rows].tolist()), hold_out


def draw_holdout(settings: ZoomeSettings, cohort: ZoomeImages, rows: np.ndarray, name: str) -> HoldOut:
    """Training patients (or lesions) set aside for calibration and threshold."""
    records = cohort.records.iloc[rows]
    labels = [cohort.classes[target] for target in records["target"]]
    seed = seed_for(settings.seed, name, "hold-out")
    return inner_holdout(records["group"].tolist(), labels, settings.folds.hold_out, seed, cohort.classes[1])


def build(settings: ZoomeSettings, which: Network, seed: int) -> Built:
    """One network with its initial weights, and its optimiser."""
    chosen, training = settings.network, settings.training
    model, report = build_zoome(
        which.backbone,
        chosen.input_px,
        CODE.width,
        zoom_se=which.zoom_se,
        metadata=which.metadata,
        ratio=chosen.ratio,
        zoom=chosen.zoom,
        gate=chosen.gate,
        units=chosen.metadata_units,
        weights=which.weights,
        seed=seed,
    )
    loaded = f"{report.tensors_loaded} tensors from {report.weights} ({report.kind})" if report.tensors_loaded else ""
    optimizer = make_optimizer(training.optimizer, training.learning_rate, epsilon=training.adam_epsilon)
    return Built(logits_of(model), optimizer, model, loaded)


def training_load(settings: ZoomeSettings, which: Network, fold: int | None) -> Load:
    """What a training costs; of random weights, for nothing is fetched to know it."""
    used, blank = settings.training, replace(which, weights="none")
    share = (1 - settings.folds.hold_out) * (1.0 if fold is None else 1 - 1 / settings.folds.count)
    added = [word for word, on in (("Zoom-SE", which.zoom_se), ("metadata", which.metadata)) if on]
    name = " with ".join([which.backbone, *([" and ".join(added)] if added else [])])
    return Load(name, functools.partial(build, settings, blank, 0), used.epochs, used.batch, "images", share)


def training_batches(
    settings: ZoomeSettings, cohort: ZoomeImages, which: Network, rows: np.ndarray, seed: int
) -> ImageBatches:
    """Batches of these rows of the cohort, augmented."""
    return ImageBatches(
        cohort.cache,
        cohort.records["image_id"].to_numpy()[rows].tolist(),
        cohort.records["target"].to_numpy()[rows],
        settings.network.input_px,
        settings.training.batch,
        seed,
        metadata=cohort.metadata[rows] if which.metadata else None,
        augment=settings.augment,
    )


def focal_prior(settings: ZoomeSettings, targets: np.ndarray) -> float:
    """Equation 5's mean for a network that gives the best constant answer, whatever it is shown."""
    alpha, gamma = settings.training.alpha, settings.training.gamma
    shares = np.bincount(targets, minlength=2)
    return prior_loss(shares, loss=lambda y, z: binary_focal(y, z[:, 1] - z[:, 0], alpha=alpha, gamma=gamma))


def focal_loss(alpha: float, gamma: float) -> Callable[[Mapping[str, Any], Any], Any]:
    """Equation 5 for each image."""

    def loss(batch: Mapping[str, Any], outputs: Any) -> Any:
        return binary_focal(batch["y"], outputs[:, 0], alpha, gamma)

    return loss


def decide(
    settings: ZoomeSettings,
    cohort: ZoomeImages,
    asked: Asked,
    which: Network,
    rows: np.ndarray,
    hold_out: HoldOut,
    noted: Noted,
) -> Decision:
    """Calibration and threshold from the inner hold-out, whose batches go through `noted`."""
    records = cohort.records.iloc[rows]
    metadata = {GIVEN: cohort.metadata[rows]} if which.metadata else {}
    found = ask(cohort, asked, rows, metadata, noted)[GIVEN]
    words = hold_out.words(f"{cohort.unit}s")
    return fit_decision(
        records["target"].to_numpy(), found, records["group"].tolist(), settings.decision, hold_out=words
    )


def ask(
    cohort: ZoomeImages, asked: Asked, rows: np.ndarray, metadata: Mapping[str, np.ndarray], noted: Noted = unnoted
) -> Answers:
    """The network's probabilities of images of the cohort, with each of several metadata."""
    names = cohort.records["image_id"].to_numpy()[rows].tolist()
    return asked(cohort.cache, names, metadata, noted)


def judge(
    settings: ZoomeSettings,
    cohort: ZoomeImages,
    asked: Asked,
    which: Network,
    rows: np.ndarray,
    decision: Decision,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions of the judged images, and what each value of the metadata does; see `FoldTraining`."""
    records = cohort.records.iloc[rows]
    metadata, values = study(records, settings.evaluation.permutations, seed) if which.metadata else ({}, [])
    grid = {value.key: value.metadata for value in values}
    found = ask(cohort, asked, rows, {**metadata, **grid})
    judged = records[["image_id", "group", "fold", "target"]].reset_index(drop=True)
    judged = judged.assign(case=judged["image_id"], part=VALIDATION)
    judged = judged.assign(**{name: found[name] for name in metadata if name != GIVEN})
    table = predictions(
        judged, found[GIVEN], calibrated=decision.probability(found[GIVEN]), called=decision.apply(found[GIVEN])
    )
    lines = []
    for value in values if len(rows) else []:
        p = decision.probability(found[value.key])
        held = value.held
        lines.append(
            {
                "field": value.field,
                "value": value.value,
                "images": int(held.sum()),
                "melanoma": int(records["target"].to_numpy()[held].sum()),
                "probability": float(p.mean()),
                "log_odds": float(decision.log_odds(found[value.key]).mean()),
            }
        )
    columns = ["field", "value", "images", "melanoma", "probability", "log_odds"]
    return table, pd.DataFrame(lines, columns=columns)


def network_sidecar(
    settings: ZoomeSettings, cohort: ZoomeImages, which: Network, fold: int | None, decision: Decision
) -> Sidecar:
    """What predict needs to know of a network."""
    return Sidecar(
        kind=KIND,
        classes=cohort.classes,
        input_px=settings.network.input_px,
        preprocessing={
            "store": plain(settings.store),
            "colour": "RGB, 0 to 255",
            "metadata": CODE.to_json() if which.metadata else None,
        },
        **decision.sidecar_fields(),
        run={
            "configuration": which.name,
            "trained_on": "all folds" if fold is None else f"all folds but {fold}",
        },
    )
