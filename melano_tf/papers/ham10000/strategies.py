"""The strategies side by side: one frozen trunk, whose features are kept, and the same rest trained with each."""

import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from tqdm import tqdm

from melano_tf.evaluation.multiclass import multiclass_metrics
from melano_tf.models.backbones import build_backbone
from melano_tf.models.frozen import Halves, split_at
from melano_tf.models.logits import classify, logits_of
from melano_tf.papers.checks import weights_key
from melano_tf.papers.ham10000.cohort import Ham10000Images, scores, write_predictions
from melano_tf.papers.ham10000.settings import CLASSES, METRICS, STRATEGIES, Settings
from melano_tf.papers.notebook import say
from melano_tf.pipelines.trunk_features import FLIPS, FeatureBatches, FeatureCache, cache_features, predict_features
from melano_tf.runs.plain import seed_for
from melano_tf.runs.run import Run
from melano_tf.training.checkpoint import weights_sha256
from melano_tf.training.inference import predict
from melano_tf.training.loop import GradientStep, LoopSettings, Watch, train
from melano_tf.training.optimizers import make_optimizer, step_schedule
from melano_tf.training.progress import bar_over_epochs
from melano_tf.training.sample_weights import StrategyBatches, curriculum, focal_loss, strategy_prior


def build(settings: Settings, cut: str, seed: int) -> Halves:
    """MobileNet with a dense softmax on the mean of its last map; the weights are loaded before that is put on."""
    picture, features, report = build_backbone(
        settings.backbone, settings.network_px, weights=settings.weights, seed=seed, input_name="image"
    )
    keras.utils.set_random_seed(seed)
    x = keras.layers.GlobalAveragePooling2D(name="mean")(features)
    x = keras.layers.Dropout(settings.dropout, name="dropout")(x)
    x = classify(x, len(CLASSES), "softmax", "classes")
    if report.tensors_loaded:
        say(f"  {report.tensors_loaded} tensors from {Path(report.weights).name}")
    return split_at(keras.Model({"image": picture}, x, name=settings.backbone), cut)


def features_of(run: Run, settings: Settings, cohort: Ham10000Images) -> FeatureCache:
    """The trunk's features of every image."""
    trunk = build(settings, settings.cut, settings.seed).trunk
    names = cohort.names(np.arange(len(cohort.records)))
    began = time.monotonic()
    with tqdm(total=len(names), desc="features", unit="image", leave=False) as bar:
        found = cache_features(
            trunk, weights_sha256(trunk), cohort.images, names, run.folder / "features", FLIPS, bar.update
        )
    say(f"features  {found.shape} of {len(names):,} images in {len(FLIPS)} views, {time.monotonic() - began:.0f} s")
    return found


def train_strategy(
    run: Run, settings: Settings, cohort: Ham10000Images, cache: FeatureCache, name: str, split: int
) -> None:
    """Train the rest with one strategy on one split, and judge the validation fold (upright pictures alone)."""
    stem = f"{STRATEGIES[name].name}-split-{split}"
    table = run.path("predictions", f"{stem}.parquet")
    fold = cohort.records["fold"].to_numpy()
    rows, judged = np.flatnonzero(fold != split), np.flatnonzero(fold == split)
    seed = seed_for(settings.seed, "strategies", str(split))  # the same for all strategies

    def work(scratch: Path) -> list[Path]:
        rest = build(settings, settings.cut, seed).rest
        batches = FeatureBatches(cache, cohort.names(rows), cohort.targets(rows), settings.batch, seed)
        weighted = StrategyBatches(batches, STRATEGIES[name], cohort.counts(rows), CLASSES)
        rate = step_schedule(settings.learning_rate, settings.epochs * batches.steps_per_epoch)
        optimizer = make_optimizer("adam", rate)
        step = GradientStep(logits_of(rest), optimizer, focal_loss, weights_fn=curriculum)
        prior = strategy_prior(STRATEGIES[name], cohort.counts(rows))
        loop = LoopSettings(settings.epochs, watch=Watch(stem, prior, say))
        with bar_over_epochs(stem, settings.epochs, batches.steps_per_epoch) as progress:
            history = train(step, weighted, loop, scratch, rest, optimizer, progress=progress)
        history.write(run.path("history", f"{stem}.csv"))
        found = predict(rest, predict_features(cache, cohort.names(judged), 4 * settings.batch))
        write_predictions(cohort, judged, {"": found}, table)
        return [table, run.folder / "history" / f"{stem}.csv"]

    names = ("backbone", "network_px", "cut", "batch", "epochs", "learning_rate", "dropout")
    inputs = {"cohort": cohort.key, "strategy": STRATEGIES[name], "split": split, "seed": seed}
    inputs["weights"] = weights_key(settings.backbone, settings.weights)
    run.step(f"strategy/{stem}", inputs | {key: getattr(settings, key) for key in names}, work)
    found = pd.read_parquet(table)
    judge = multiclass_metrics(found["target"].to_numpy(), scores(found))
    say(f"{name:<15} split {split}: " + ", ".join(f"{key} {judge[key]:.3f}" for key in METRICS))
