"""The best cell: most of the network trained by cross-entropy, and the imbalance taken out of its decision."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from melano_tf.evaluation.multiclass import multiclass_metrics
from melano_tf.models.logits import logits_of
from melano_tf.models.squares import answering, prior_factors, shifted
from melano_tf.papers.checks import weights_key
from melano_tf.papers.ham10000.cohort import Ham10000Images, write_predictions
from melano_tf.papers.ham10000.settings import AUGMENT, CLASSES, COLOUR, STRATEGIES, Settings
from melano_tf.papers.ham10000.strategies import build
from melano_tf.papers.notebook import say
from melano_tf.pipelines.image_batches import ColouredBatches, ImageBatches, predict_image_batches
from melano_tf.pipelines.trunk_features import FLIPS, dihedral
from melano_tf.runs.files import atomic
from melano_tf.runs.plain import plain, seed_for
from melano_tf.runs.run import Run
from melano_tf.runs.sidecar import Sidecar
from melano_tf.splits.holdout import inner_holdout
from melano_tf.training.checkpoint import weights_sha256
from melano_tf.training.inference import predict
from melano_tf.training.loop import GradientStep, LoopSettings, Watch, train
from melano_tf.training.optimizers import cosine_schedule, make_optimizer
from melano_tf.training.progress import bar_over_epochs
from melano_tf.training.sample_weights import StrategyBatches, focal_loss, strategy_prior

POWERS = tuple(round(0.1 * step, 1) for step in range(11))


@dataclass(frozen=True)
class Part:
    """Who trains the best cell, and who judges it.

    Attributes:
        stem: name of its files.
        training, held, judged: rows that train it, that choose its power, and that are validated on.
        held_words: the lesions held out, in words.
        trained_on: the same of those that train it.
    """

    stem: str
    training: np.ndarray
    held: np.ndarray
    judged: np.ndarray
    held_words: str
    trained_on: str


def part_of(settings: Settings, cohort: Ham10000Images, split: int | None) -> Part:
    """A split's training part without the lesions held out; None: all images, nobody held out or judged."""
    everyone, none = np.arange(len(cohort.records)), np.zeros(0, np.int64)
    if split is None:
        return Part("ham10000", everyone, none, none, "the lesions held out for a split's model", "all images")
    stem = f"ham10000-split-{split}"
    fold = cohort.records["fold"].to_numpy()
    rows = np.flatnonzero(fold != split)
    groups, labels = (cohort.records[name].to_numpy()[rows].tolist() for name in ("group", "label"))
    hold_out = inner_holdout(groups, labels, settings.held_out, seed_for(settings.seed, "hold-out", stem))
    held = hold_out.mask(groups)
    judged = np.flatnonzero(fold == split)
    words = hold_out.words("lesions")
    return Part(stem, rows[~held], rows[held], judged, words, f"all folds but {split} (from 0), without {words}")


def fit(run: Run, settings: Settings, cohort: Ham10000Images, part: Part, scratch: Path) -> keras.Model:
    """Train the network from `deep_cut` on; a killed training goes on from its checkpoint."""
    seed = seed_for(settings.seed, part.stem)
    model = build(settings, settings.deep_cut, seed).whole
    names, targets = cohort.names(part.training), cohort.targets(part.training)
    pictures = ImageBatches(cohort.images, names, targets, settings.network_px, settings.batch, seed, augment=AUGMENT)
    batches = StrategyBatches(
        ColouredBatches(pictures, COLOUR), STRATEGIES["CEL"], cohort.counts(part.training), CLASSES
    )
    rate = cosine_schedule(settings.deep_learning_rate, settings.deep_epochs * batches.steps_per_epoch)
    optimizer = make_optimizer("adam", rate)
    step = GradientStep(logits_of(model), optimizer, focal_loss)
    prior = strategy_prior(STRATEGIES["CEL"], cohort.counts(part.training))
    loop = LoopSettings(settings.deep_epochs, checkpoint_seconds=60, watch=Watch(part.stem, prior, say))

    def show(epoch: int, record: Mapping[str, float]) -> None:
        say(f"  epoch {epoch + 1}: loss {record['loss']:.4f}, {record['seconds']:.0f} s")

    with bar_over_epochs(part.stem, settings.deep_epochs, batches.steps_per_epoch) as progress:
        history = train(step, batches, loop, scratch, model, optimizer, progress=progress, epoch_end=show)
    history.write(run.path("history", f"{part.stem}.csv"))
    run.keep_logs(scratch, part.stem)
    return model


def answers(settings: Settings, cohort: Ham10000Images, model: keras.Model, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Probabilities (n, 7) of upright pictures ("one_"), and the mean over their mirror images ("mean_")."""
    batches = list(predict_image_batches(cohort.images, cohort.names(rows), settings.network_px, settings.batch))
    views = [predict(model, ({"x": {"image": dihedral(b["x"], view)}} for b in batches)) for view in FLIPS]
    return {"one_": views[0], "mean_": np.mean(views, axis=0)}


def best_power(targets: np.ndarray, probabilities: np.ndarray, counts: np.ndarray) -> float:
    """The power of the class shares for which accuracy and balanced accuracy together are largest; ties: the least."""
    sums = []
    for power in POWERS:
        found = multiclass_metrics(targets, shifted(probabilities, prior_factors(counts, power)))
        sums.append(round(found["Acc"] + found["BAcc"], 6))
    return POWERS[int(np.argmax(sums))]


def train_best(
    run: Run, settings: Settings, cohort: Ham10000Images, split: int | None, power: float | None = None
) -> float:
    """Train the best cell on a split's training part (None: all images, with the `power` given); returns the power.

    Writes `models/ham10000-split-<split>.keras` or `models/ham10000.keras`, with sidecar, and the predictions of the
    validation fold and of the lesions held out.
    """
    part = part_of(settings, cohort, split)
    model_path = run.path("models", f"{part.stem}.keras")

    def work(scratch: Path) -> list[Path]:
        model = fit(run, settings, cohort, part, scratch)
        counts, files = cohort.counts(part.training), [model_path, run.folder / "history" / f"{part.stem}.csv"]
        chosen = power or 0.0
        for name, rows in (("", part.judged), ("-held-out", part.held)):
            if len(rows):
                found = answers(settings, cohort, model, rows)
                files.append(run.path("predictions", f"{part.stem}{name}.parquet"))
                write_predictions(cohort, rows, found, files[-1])
                chosen = best_power(cohort.targets(rows), found["mean_"], counts) if name else chosen
        factors = prior_factors(counts, chosen).tolist()
        with atomic(model_path) as temporary:
            answering(model, settings.stored_px, len(FLIPS), factors).save(temporary)
        facts: dict[str, Any] = {"trained_on": part.trained_on, "weights_sha256": weights_sha256(model)}
        facts |= {"power": chosen, "power_from": part.held_words, "factors": factors, "views": len(FLIPS)}
        return [*files, sidecar_of(run, settings, facts).write(model_path)]

    names = ("backbone", "network_px", "deep_cut", "batch", "deep_epochs", "deep_learning_rate", "dropout")
    seed = seed_for(settings.seed, "hold-out", part.stem)
    inputs: dict[str, Any] = {"cohort": cohort.key, "split": split, "power": power, "seed": seed}
    inputs["weights"] = weights_key(settings.backbone, settings.weights)
    inputs |= {"held_out": settings.held_out, "augment": AUGMENT, "colour": COLOUR}
    inputs |= {key: getattr(settings, key) for key in names}
    run.step(f"deep/{part.stem}", inputs, work)
    return float(Sidecar.read(model_path).run["power"])


def sidecar_of(run: Run, settings: Settings, facts: Mapping[str, Any]) -> Sidecar:
    """What predict needs to know of the saved model."""
    return Sidecar(
        kind="weighting",
        classes=CLASSES,
        input_px=settings.stored_px,
        preprocessing={"store": plain(settings.store), "colour": "RGB, 0 to 255", "metadata": None},
        threshold=0.0,
        threshold_from="none: the most probable class is called",
        run={
            "recipe": run.recipe,
            "folder": str(run.folder),
            "seed": settings.seed,
            "table": "HAM10000" if settings.data else None,
            **facts,
        },
    )
