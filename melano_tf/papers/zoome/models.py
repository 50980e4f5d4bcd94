"""The networks of both tables: which they are, and how one is trained and judged on one fold."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from melano_tf.evaluation.holdout import HoldOut, inner_holdout
from melano_tf.evaluation.thresholds import Decision, fit_decision
from melano_tf.models.logits import logits_of
from melano_tf.models.zoome import build_zoome
from melano_tf.papers.checks import weights_key
from melano_tf.papers.zoome.cohort import CODE, Cohort
from melano_tf.papers.zoome.metadata import GIVEN, Answers, answers, study
from melano_tf.papers.zoome.settings import ZoomeSettings
from melano_tf.pipelines.image_batches import ImageBatches
from melano_tf.training.checkpoint import weights_sha256
from melano_tf.training.loop import GradientStep, LoopSettings, Watch, train
from melano_tf.training.losses import binary_focal, prior_loss
from melano_tf.training.optimizers import make_optimizer
from melano_tf.training.progress import bar_over_epochs
from melano_tf.training.runtime import strategy
from melano_tf.workspace import Run, Sidecar, atomic, plain, seed_for

KIND = "zoome"


@dataclass(frozen=True)
class Network:
    """One configuration of Tables I and II."""

    backbone: str
    zoom_se: bool
    metadata: bool
    weights: str = "none"

    @property
    def name(self) -> str:
        """As files call it, for example "resnext50-zoom-metadata"."""
        return self.backbone + ("-zoom" if self.zoom_se else "") + ("-metadata" if self.metadata else "")


@dataclass(frozen=True)
class Trained:
    """A finished network of one fold.

    Attributes:
        key: of its step.
        model: its file.
        decision: calibration and threshold, from the inner hold-out.
        predictions: one row a judged image: image_id, group, fold, target, probability, calibrated, called (0 or 1);
            with metadata also blanked and permuted_1, … (probabilities of the same network).
        effects: with metadata, one row a value of a field: field, value, images, melanoma, probability (mean calibrated
            probability if every judged image had this value), log_odds (mean); else empty.
    """

    key: str
    model: Path
    decision: Decision
    predictions: pd.DataFrame
    effects: pd.DataFrame


def proposed(settings: ZoomeSettings) -> Network:
    """ZooME itself."""
    return Network(settings.network.backbone, True, True, settings.network.weights)


def table_1(settings: ZoomeSettings) -> dict[str, Network]:
    """The rows of Table I by their published names; the comparators only where they are wanted."""
    network = settings.network
    comparators = {
        "Maron et al.": Network(network.maron, False, False, network.maron_weights),
        "Kaur et al.": Network(network.kaur, False, False),
        "AlexNet": Network(network.alexnet, False, False, network.alexnet_weights),
    }
    own = {
        "ZooME": proposed(settings),
        "w/o Zoom-SE": Network(network.backbone, False, True, network.weights),
        "w/o Metadata": Network(network.backbone, True, False, network.weights),
    }
    return {**(comparators if settings.comparators else {}), **own}


def table_2(settings: ZoomeSettings) -> dict[str, Network]:
    """The rows of Table II by their published names."""
    network = settings.network
    return {
        "ResNet50": Network(network.maron, False, False, network.maron_weights),
        "ResNet50 + ZoomSE": Network(network.maron, True, False, network.maron_weights),
        "AlexNet": Network(network.alexnet, False, False, network.alexnet_weights),
        "AlexNet + Meta": Network(network.alexnet, False, True, network.alexnet_weights),
    }


def train_network(run: Run, settings: ZoomeSettings, cohort: Cohort, which: Network, fold: int | None) -> Trained:
    """Train one network on all folds but one, fit its decision on an inner hold-out, and judge the fold left out.

    Args:
        fold: the fold left out (1, 2, …), or None: trained on all of them, for use.
    """
    # The final model's files have one name whatever its configuration, so they are one step.
    name = "model/final" if fold is None else f"train/{which.name}/fold-{fold}"
    stem = "zoome" if fold is None else f"{which.name}-fold-{fold}"
    model_path, table = run.path("models", f"{stem}.keras"), run.path("predictions", f"{stem}.parquet")
    values_path = run.path("predictions", f"{stem}-values.csv")
    rows = cohort.places("train", fold)
    hold_out = draw_holdout(settings, cohort, rows, name)

    def work(scratch: Path) -> list[Path]:
        held = hold_out.mask(cohort.records["group"].to_numpy()[rows].tolist())
        model = fit_network(run, settings, cohort, which, rows[~held], seed_for(settings.seed, name), scratch, stem)
        with atomic(model_path) as temporary:
            model.save(temporary)
        return [model_path, run.folder / "history" / f"{stem}.csv"]

    def judging(_: Path) -> list[Path]:
        model = keras.saving.load_model(model_path)
        held = hold_out.mask(cohort.records["group"].to_numpy()[rows].tolist())
        decision = decide(settings, cohort, model, which, rows[held], hold_out)
        judged = cohort.places("judge", fold)
        found, values = judge(settings, cohort, model, which, judged, decision, seed_for(settings.seed, "permute"))
        with atomic(table) as temporary:
            found.to_parquet(temporary)
        with atomic(values_path) as temporary:
            values.to_csv(temporary, index=False)
        sidecar = network_sidecar(run, settings, cohort, which, fold, decision, weights_sha256(model)).write(model_path)
        return [sidecar, table, values_path]

    inputs = {
        "cohort": cohort.key,
        "fold": fold,
        "network": replace(which, weights=""),
        "weights": weights_key(which.backbone, which.weights),
        "layers": {name: getattr(settings.network, name) for name in ("input_px", "zoom", "ratio", "gate")}
        | ({"metadata_units": settings.network.metadata_units} if which.metadata else {}),
        "training": settings.training,
        "augment": settings.augment,
        "hold_out": settings.folds.hold_out,
        "seed": settings.seed,
    }
    trained = run.step(name, {key: plain(value) for key, value in inputs.items()}, work)
    asked = {
        "model": trained,
        "decision": settings.decision,
        "permutations": settings.evaluation.permutations if which.metadata else 0,
        "batch": settings.training.batch,
    }
    # A step of its own: how a decision is made, and what the network is asked, trains nothing again.
    key = run.step(f"judge/{stem}", {key: plain(value) for key, value in asked.items()}, judging)
    sidecar = Sidecar.read(model_path)
    decision = Decision.from_sidecar(sidecar.threshold, sidecar.threshold_from, sidecar.calibration)
    return Trained(key, model_path, decision, pd.read_parquet(table), pd.read_csv(values_path, dtype={"value": str}))


def draw_holdout(settings: ZoomeSettings, cohort: Cohort, rows: np.ndarray, name: str) -> HoldOut:
    """Training patients (or lesions) set aside for calibration and threshold."""
    records = cohort.records.iloc[rows]
    labels = [cohort.classes[target] for target in records["target"]]
    seed = seed_for(settings.seed, name, "hold-out")
    return inner_holdout(records["group"].tolist(), labels, settings.folds.hold_out, seed, cohort.classes[1])


def fit_network(
    run: Run,
    settings: ZoomeSettings,
    cohort: Cohort,
    which: Network,
    rows: np.ndarray,
    seed: int,
    scratch: Path,
    stem: str,
) -> keras.Model:
    """Build and train one network; a killed training goes on from its checkpoint in `scratch`."""
    chosen, training = settings.network, settings.training
    keras.utils.set_random_seed(seed)
    devices = strategy(settings.mirror)
    with devices.scope() if devices else contextlib.nullcontext():
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
        optimizer = make_optimizer(training.optimizer, training.learning_rate, epsilon=training.adam_epsilon)
    if report.tensors_loaded:
        run.say(f"{stem}: {report.tensors_loaded} tensors from {report.weights} ({report.kind})")
    batches = ImageBatches(
        cohort.cache,
        cohort.records["image_id"].to_numpy()[rows].tolist(),
        cohort.records["target"].to_numpy()[rows],
        chosen.input_px,
        training.batch,
        seed,
        metadata=cohort.metadata[rows] if which.metadata else None,
        augment=settings.augment,
    )
    step = GradientStep(logits_of(model), optimizer, focal_loss(training.alpha, training.gamma), strategy=devices)
    shown = np.bincount(cohort.records["target"].to_numpy()[rows], minlength=2)
    prior = prior_loss(
        shown, loss=lambda y, z: binary_focal(y, z[:, 1] - z[:, 0], alpha=training.alpha, gamma=training.gamma)
    )
    loop = LoopSettings(epochs=training.epochs, watch=Watch(stem, prior, run.say))
    with bar_over_epochs(stem, training.epochs, batches.steps_per_epoch) as progress:
        history = train(step, batches, loop, scratch, model, optimizer, progress=progress)
    history.write(run.path("history", f"{stem}.csv"))
    run.keep_logs(scratch, stem)
    return model


def focal_loss(alpha: float, gamma: float) -> Callable[[Mapping[str, Any], Any], Any]:
    """Equation 5 for each image."""

    def loss(batch: Mapping[str, Any], outputs: Any) -> Any:
        return binary_focal(batch["y"], outputs[:, 0], alpha, gamma)

    return loss


def decide(
    settings: ZoomeSettings,
    cohort: Cohort,
    model: keras.Model,
    which: Network,
    rows: np.ndarray,
    hold_out: HoldOut,
) -> Decision:
    """Calibration and threshold from the inner hold-out."""
    records = cohort.records.iloc[rows]
    metadata = {GIVEN: cohort.metadata[rows]} if which.metadata else {}
    found = ask(settings, cohort, model, rows, metadata)[GIVEN]
    words = hold_out.words(f"{cohort.unit}s")
    return fit_decision(
        records["target"].to_numpy(), found, records["group"].tolist(), settings.decision, hold_out=words
    )


def ask(
    settings: ZoomeSettings, cohort: Cohort, model: keras.Model, rows: np.ndarray, metadata: Mapping[str, np.ndarray]
) -> Answers:
    """The network's probabilities of images of the cohort, with each of several metadata."""
    names = cohort.records["image_id"].to_numpy()[rows].tolist()
    return answers(model, cohort.cache, names, settings.network.input_px, settings.training.batch, metadata)


def judge(
    settings: ZoomeSettings,
    cohort: Cohort,
    model: keras.Model,
    which: Network,
    rows: np.ndarray,
    decision: Decision,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions of the judged images, and what each value of the metadata does; see `Trained`."""
    records = cohort.records.iloc[rows]
    metadata, values = study(records, settings.evaluation.permutations, seed) if which.metadata else ({}, [])
    grid = {value.key: value.metadata for value in values}
    found = ask(settings, cohort, model, rows, {**metadata, **grid})
    table = records[["image_id", "group", "fold", "target"]].reset_index(drop=True)
    probability = found.pop(GIVEN)
    calibrated = decision.probability(probability)
    table = table.assign(probability=probability, calibrated=calibrated, called=decision.apply(probability).astype(int))
    for name in metadata:
        if name != GIVEN:
            table[name] = found[name]
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
                "log_odds": float(np.log(p / (1 - p)).mean()),
            }
        )
    columns = ["field", "value", "images", "melanoma", "probability", "log_odds"]
    return table, pd.DataFrame(lines, columns=columns)


def network_sidecar(
    run: Run,
    settings: ZoomeSettings,
    cohort: Cohort,
    which: Network,
    fold: int | None,
    decision: Decision,
    weights: str,
) -> Sidecar:
    """What predict needs to know of a network."""
    metadata = {"sites": list(CODE.sites), "sexes": list(CODE.sexes), "age_scale": CODE.age_scale}
    names = ("preset", "seed", "table")
    return Sidecar(
        kind=KIND,
        classes=cohort.classes,
        input_px=settings.network.input_px,
        preprocessing={
            "store": plain(settings.store),
            "colour": "RGB, 0 to 255",
            "metadata": metadata if which.metadata else None,
        },
        **decision.sidecar_fields(),
        run={
            "configuration": which.name,
            "trained_on": "all folds" if fold is None else f"all folds but {fold}",
            "weights_sha256": weights,
            "recipe": run.recipe,
            "folder": str(run.folder),
            **{name: run.settings[name] for name in names},
        },
    )
