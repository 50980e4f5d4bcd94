"""The models of all folds: how one is trained, how it decides, and what it says of the fold left out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from melano_tf.evaluation.calibration import Calibration, fit_calibration, log_loss
from melano_tf.evaluation.thresholds import fit_decision
from melano_tf.papers.alike_trainings import train
from melano_tf.papers.bags.cohort import BagCohort
from melano_tf.papers.bags.settings import BASELINE, BagsSettings
from melano_tf.papers.shell import Work
from melano_tf.pipelines.bag_baseline import fit_baseline
from melano_tf.pipelines.bag_training import OPEN_AXES, bag_batches, bag_network
from melano_tf.pipelines.feature_bags import BagAnswers, answers, forward_of, shown_bags
from melano_tf.runs.atomic_files import atomic
from melano_tf.runs.judgements import JudgedModel
from melano_tf.runs.predictions import RAW, VALIDATION, predictions, probabilities, read_predictions
from melano_tf.runs.settings_digest import plain, seed_for
from melano_tf.runs.sidecar import Sidecar
from melano_tf.training.describe import describe
from melano_tf.training.early_stopping import EarlyStopping
from melano_tf.training.fed_cases import Fed, record_choice
from melano_tf.training.fit import Network, Training, by_gradient, write_judgement
from melano_tf.training.losses import prior_loss
from melano_tf.training.tensorflow_runtime import policy

KIND = "bags"
NO_IMAGE = 0  # a sidecar has the side of an input image; a bag model takes none
CLUSTERED = ("clam", "clam_multi")  # their loss has more terms than the bag's
USE = "bags"  # stem of the model for use


@dataclass(frozen=True)
class FoldTraining:
    """A finished model of one fold.

    Attributes:
        model: its file.
        card: its sidecar.
        predictions: of the judged bags (`runs.predictions`), calibrated; with fold, and raw_<class>, the model's own
            probabilities.
        attention: one row an instance of the judged bags: case, slide_id, tile (its place in the file), attention.
    """

    model: Path
    card: Sidecar
    predictions: pd.DataFrame
    attention: pd.DataFrame

    @property
    def truth(self) -> np.ndarray:
        """Class index of each judged bag."""
        return self.predictions["target"].to_numpy(np.int64)

    @property
    def calibrated(self) -> np.ndarray:
        """Probabilities (n, K), calibrated."""
        return probabilities(self.predictions)

    @property
    def raw(self) -> np.ndarray:
        """The model's own probabilities (n, K)."""
        return raw_probabilities(self.predictions, self.card.classes)


def raw_probabilities(table: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """The model's own probabilities (n, K) of a table of predictions."""
    return table[[f"{RAW}{name}" for name in classes]].to_numpy(float)


def judged_models(settings: BagsSettings) -> list[JudgedModel]:
    """Every model, its folds together: each bag judged by the one that did not see its patient."""
    folds = range(1, settings.folds.count + 1)
    return [
        JudgedModel(kind, tuple(f"{file_stem(kind, fold)}.parquet" for fold in folds), (), "bags", VALIDATION)
        for kind in settings.chosen_models()
    ]


def file_stem(kind: str, fold: int | None) -> str:
    """As a training's files are called."""
    return USE if fold is None else f"{kind}-fold-{fold}"


def step_name(kind: str, fold: int | None) -> str:
    """Name of a training's step; None: trained on all folds, for use."""
    return "model/final" if fold is None else f"train/{kind}/fold-{fold}"


def judge_name(kind: str, fold: int | None) -> str:
    """Name of the step that judges a training."""
    return f"judge/{file_stem(kind, fold)}"


def depends_on(settings: BagsSettings, kind: str, fold: int | None) -> dict[str, Any]:
    """All that a training's result depends on, beside the folds and the files."""
    shared = {"fold": fold, "kind": kind, "hold_out": settings.folds.hold_out, "seed": settings.seed}
    training = settings.training
    if kind == BASELINE:
        return {**shared, "strength": training.strength, "balanced": training.balanced}
    own = {name: value for name, value in plain(training).items() if name != "strength"}
    own["precision"] = policy(settings.precision)
    return {**shared, "network": settings.network, "training": own}


def trained(work: Work, kind: str, fold: int | None) -> FoldTraining:
    """A finished model and its predictions, from its files."""
    stem = file_stem(kind, fold)

    def read() -> FoldTraining:
        model = work.path("models", f"{stem}.keras")
        table = read_predictions(work.path("predictions", f"{stem}.parquet"))
        weights = pd.read_parquet(work.path("predictions", f"{stem}-attention.parquet"))
        return FoldTraining(model, Sidecar.read(model), table, weights)

    return work.once(judge_name(kind, fold), read)


def train_model(work: Work, kind: str, fold: int | None) -> list[Path]:
    """Train one model on all folds but one (None: on all of them), less an inner hold-out, which ends the training."""
    settings, cohort, stem = work.settings, work.value("folds"), file_stem(kind, fold)
    places, held, _ = cohort.divided(settings, fold)
    sides = cohort.sides(settings, places, held, cohort.places("judge", fold))
    bags, classes = cohort.bags, len(cohort.classes)
    dtype = "float32" if kind == BASELINE else settings.precision
    shown = shown_bags(bags, np.concatenate([places, held]), dtype)
    if kind == BASELINE:
        fed, used = Fed(stem, sides, None), settings.training
        model = fit_baseline(bags, classes, places, used.strength, used.balanced, fed.also)
        path = work.path("models", f"{stem}.keras")
        with atomic(path) as temporary:
            model.save(temporary)
        return [path, fed.write(work.run), *describe(work.run, fed, model, shown)]
    chosen, seed = settings.training_of(kind), seed_for(settings.seed, step_name(kind, fold))
    weights = class_weights(bags.labels[places], classes) if settings.training.balanced else None
    counted = kind not in CLUSTERED and weights is None
    training = Training(
        stem=stem,
        seed=seed,
        epochs=settings.training.epochs,
        build=lambda: bag_network(bags.width, classes, chosen, seed),
        batches=bag_batches(bags, places, chosen, seed, weights),
        sides=sides,
        step=by_gradient(open_axes=OPEN_AXES),
        prior=prior_loss(np.bincount(bags.labels[places], minlength=classes)) if counted else None,
        ending=ending(settings, cohort, held, chosen.precision),
        spread=False,
        alike=("network", kind),
        shown=shown,
    )
    return train(work, training)


def ending(settings: BagsSettings, cohort: BagCohort, held: np.ndarray, dtype: str) -> Callable[[Network, Fed], Any]:
    """Ends a training by the cross-entropy of the hold-out's bags, and gives the model its best weights back."""

    def early(network: Network, fed: Fed) -> EarlyStopping:
        forward = forward_of(network.saved)

        def loss() -> float:
            logits = answers(network.saved, cohort.bags, held, dtype, forward, fed.chose).logits
            return log_loss(cohort.bags.labels[held], logits[:, 0] if logits.shape[1] == 1 else logits)

        return EarlyStopping(network.trained, loss, settings.training.epochs, settings.training.patience)

    return early


def class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """Weights of bags by the inverse frequency of their class, mean 1, (n,)."""
    counts = np.bincount(labels, minlength=classes)
    return len(labels) / (np.count_nonzero(counts) * counts[labels])


def judge_model(work: Work, kind: str, fold: int | None) -> list[Path]:
    """Calibrate a model and fit its threshold on its hold-out, and judge the fold left out.

    A step of its own: how a decision is made trains nothing again.
    """
    settings, cohort, stem = work.settings, work.value("folds"), file_stem(kind, fold)
    dtype = "float32" if kind == BASELINE else settings.precision
    _, held, hold_out = cohort.divided(settings, fold)
    model = keras.saving.load_model(work.path("models", f"{stem}.keras"))
    forward = forward_of(model)
    places = cohort.places("judge", fold)
    # The hold-out chooses twice: the epoch, and the decision.
    choice = Fed(f"{stem}-decision", cohort.sides(settings, held[:0], held, places, {stem: ""}), None)
    known = answers(model, cohort.bags, held, dtype, forward, choice.chose)
    fields = decision_fields(settings, cohort, held, known, hold_out.words())
    card = sidecar(work, kind, fold, fields)
    record = record_choice(work.run, choice)
    found = answers(model, cohort.bags, places, dtype, forward)
    frames = {
        f"{stem}.parquet": judgement(cohort, places, found, card),
        f"{stem}-attention.parquet": attention(cohort, places, found),
    }
    return [*write_judgement(work.run, stem, model, frames, card), record]


def decision_fields(
    settings: BagsSettings, cohort: BagCohort, held: np.ndarray, known: BagAnswers, words: str
) -> dict[str, Any]:
    """The sidecar's fields of a decision: of two classes calibration and threshold, of several the calibration."""
    labels, groups = cohort.bags.labels[held], [cohort.groups[place] for place in held]
    if len(cohort.classes) == 2:
        return fit_decision(
            labels, known.probabilities[:, 1], groups, settings.decision, hold_out=words
        ).sidecar_fields()
    fitted = None
    if settings.decision.calibrate:
        fitted = fit_calibration(labels, known.probabilities, groups, hold_out=words)
    return {
        "threshold": None,
        "threshold_from": "none: the most probable class is called",
        "calibration": None if fitted is None else fitted.to_json(),
    }


def judgement(cohort: BagCohort, places: np.ndarray, found: BagAnswers, card: Sidecar) -> pd.DataFrame:
    """What a model says of bags, one row each; see `FoldTraining`."""
    raw = found.probabilities.astype(np.float64) if len(places) else np.zeros((0, len(cohort.classes)))
    rows = pd.DataFrame(
        {
            "case": [cohort.bags.ids[place] for place in places],
            "group": [cohort.groups[place] for place in places],
            "part": VALIDATION,
            "target": cohort.bags.labels[places],
            "fold": cohort.fold[places],
            **{f"{RAW}{name}": raw[:, place] for place, name in enumerate(cohort.classes)},
        }
    )
    return predictions(rows, calibrated(raw, card), cohort.classes, called=called(calibrated(raw, card), card))


def called(p: np.ndarray, card: Sidecar) -> np.ndarray:
    """Class index decided for, (n,): of two classes by the threshold on the second, else the most probable one."""
    return p[:, 1] >= card.cut if p.shape[1] == 2 else p.argmax(axis=1)


def calibrated(raw: np.ndarray, card: Sidecar) -> np.ndarray:
    """Calibrated probabilities (n, K) of a model's own, by its sidecar."""
    if card.calibration is None:
        return raw
    fitted = Calibration.from_json(card.calibration)
    if fitted.outputs > 1:
        return fitted.apply(raw)
    positive = fitted.apply(raw[:, 1])
    return np.stack([1 - positive, positive], axis=1)


def attention(cohort: BagCohort, places: np.ndarray, found: BagAnswers) -> pd.DataFrame:
    """One row an instance of these bags; see `FoldTraining`."""
    parts = []
    for place, weights in zip(places, found.attention, strict=True):
        for slide, own in cohort.bags.by_slide(int(place), weights).items():
            tiles = np.arange(len(own), dtype=np.int32)
            parts.append(
                pd.DataFrame({"case": cohort.bags.ids[place], "slide_id": slide, "tile": tiles, "attention": own})
            )
    columns = {"case": str, "slide_id": str, "tile": np.int32, "attention": np.float32}
    if not parts:
        return pd.DataFrame({name: np.zeros(0, dtype) for name, dtype in columns.items()})
    return pd.concat(parts, ignore_index=True)


def sidecar(work: Work, kind: str, fold: int | None, decision: dict[str, Any]) -> Sidecar:
    """What predict, export and the maps need to know of a model."""
    settings, cohort, read = work.settings, work.value("folds"), work.value("read").cohort
    encoder = next((file.encoder for file in read.files if file.encoder), None)
    return Sidecar(
        kind=KIND,
        classes=cohort.classes,
        input_px=NO_IMAGE,
        preprocessing={
            "features": {"width": cohort.bags.width, "encoder": encoder, "bag": settings.bag},
            "dtype": "float32" if kind == BASELINE else settings.precision,
        },
        **decision,
        run={"model": kind, "trained_on": "all folds" if fold is None else f"all folds but {fold}"},
    )
