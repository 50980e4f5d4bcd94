# %% [markdown]
# # Real images, further: what each change of the best cell's training adds on HAM10000
#
# Paper: *How important is each dermoscopy image?*, whose question (which sample weights help) is asked here of a
# network that learns, beside what else is said to help: half precision, a running mean of the weights, label
# smoothing, mixup, pictures as other cameras show them, logit adjustment in the loss, deferred re-weighting, the whole
# picture instead of its central square, the patient's age and sex and the lesion's site, more views when it is asked,
# half and twice the epochs, an average of three networks distilled into one, another network, and the mean of both.
#
# No fold's judged images are looked at: the table is that of fold 1's training lesions alone, divided into five folds
# again, whose first one judges. Every road is one training of the same seed (128 px, 12 epochs), and is compared with
# the plain one on the same images: the difference, with a 95 % interval by lesion. It says what other lesions would
# change, not what another seed would.
#
# `python experiments/weighting_roads.py --table HAM10000_metadata.csv --images train_200x150 --weights
# mobilenet.weights.h5 --out runs/roads` (what is finished there is not done again; `--roads plain,mixup` does some of
# them, so that two of these commands may run side by side). Without data: phantoms, in minutes.
#
# What was measured: docs/papers/weighting.md.

# %%
import argparse
import dataclasses
import functools
import math
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from melano_tf.evaluation.interval import Interval
from melano_tf.evaluation.multiclass_metrics import multiclass_metrics
from melano_tf.evaluation.repeated_split_intervals import JudgedSplit, paired_auc_difference, paired_differences
from melano_tf.models.tta_and_prior_shift import shifted
from melano_tf.papers.notebook import say
from melano_tf.papers.shell import reproduce
from melano_tf.papers.weighting.cohort import class_names
from melano_tf.papers.weighting.settings import RECIPE, WeightingSettings
from melano_tf.papers.weighting.trunk_transfer_settings import RegularSettings
from melano_tf.pipelines.image_cache import decode_image
from melano_tf.pipelines.image_settings import ImageCacheSettings
from melano_tf.runs.atomic_files import read_json
from melano_tf.runs.predictions import probabilities
from melano_tf.runs.sidecar import Sidecar
from melano_tf.training.steps import traced

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--table", type=Path, help="HAM10000's metadata; none: phantoms")
parser.add_argument("--images", type=Path, help="folder of its images")
parser.add_argument("--weights", default="none", help="file of MobileNet's ImageNet weights")
parser.add_argument("--squeezenet", default="none", help="file of SqueezeNet's, for the road of that name")
parser.add_argument("--out", type=Path, default=Path("runs/roads"), help="folder of the runs, one a road")
parser.add_argument("--roads", default="all", help="roads to go, separated by commas")
parser.add_argument("--px", type=int, default=128, help="side of the network's input")
parser.add_argument("--epochs", type=int, default=12, help="epochs of each training")
parser.add_argument("--threads", type=int, default=0, help="threads of TensorFlow; 0: one a core")
given = parser.parse_known_args()[0]


@dataclass(frozen=True)
class Road:
    """What a road changes of the settings: of the run's own, `store`, `network`, `transfer` and `transfer.regular`."""

    run: dict[str, object] = field(default_factory=dict)
    store: dict[str, object] = field(default_factory=dict)
    network: dict[str, object] = field(default_factory=dict)
    transfer: dict[str, object] = field(default_factory=dict)
    regular: dict[str, object] = field(default_factory=dict)


ROADS = {
    "plain": Road(),
    "bfloat16": Road(run={"precision": "bfloat16"}),
    "averaging": Road(regular={"averaging": 0.999}),
    "smoothing": Road(regular={"smoothing": 0.1}),
    "mixup": Road(regular={"mixup": 0.2}),
    "cameras": Road(regular={"cameras": 0.5}),
    "adjustment": Road(regular={"adjustment": 1.0}),
    "deferred": Road(regular={"strategy": "cb", "strategy_from": 0.75}),
    "whole": Road(store={"crop": "whole"}),
    "metadata": Road(transfer={"metadata": True}),
    "half": Road(transfer={"best_epochs": -(-given.epochs // 2)}),
    "twice": Road(transfer={"best_epochs": 2 * given.epochs}),
    # Three teachers, each trained on two thirds of the images.
    "distil": Road(regular={"distil": 0.75}),
    # It has no batch normalisation, so that it takes half the rate.
    "squeezenet": Road(
        network={"backbone": "squeezenet", "weights": given.squeezenet},
        transfer={"cut": "pool5", "best_cut": "pool1", "best_rate": 2e-4},
    ),
}
BOTH = "mean of plain and squeezenet"  # no training either
EIGHT = "eight views"  # no training: the plain one is asked about each picture and its quarter turn
roads = list(ROADS) if given.roads == "all" else given.roads.split(",")
if unknown := [road for road in roads if road not in ROADS]:
    parser.error(f"--roads {unknown[0]}: none of {', '.join(ROADS)}")
if (given.table is None) != (given.images is None):
    parser.error("--table and --images belong together")
if given.table is not None and "squeezenet" in roads and given.squeezenet == "none":
    parser.error("--squeezenet: give the file of its ImageNet weights, or the other --roads")


# %%
def base(out: Path) -> WeightingSettings:
    """The preset's settings with this program's data, for a run in `out`."""
    settings = dataclasses.replace(
        RECIPE.default("ham10000", data=given.table is not None), out=out, threads=given.threads
    )
    if given.table is None:
        return settings
    network = dataclasses.replace(settings.network, weights=given.weights, input_px=given.px)
    return dataclasses.replace(settings, table=(given.table,), images=(given.images,), network=network)


def inner_table() -> Path | None:
    """The data set's table without fold 1's judged images; None of phantoms, which are divided once alone."""
    if given.table is None:
        return None
    path = given.out / "inner.csv"
    if not path.is_file():
        outer = dataclasses.replace(base(given.out / "outer"), steps="images")
        reproduce(RECIPE, outer, say)
        judged = set(read_json(given.out / "outer" / "run.json")["splits"]["1"])
        rows = pd.read_csv(given.table)
        rows[~rows["image_id"].isin(judged)].to_csv(path, index=False)
    return path


def settings_of(road: str, table: Path | None) -> WeightingSettings:
    """One road's settings."""
    change, settings = ROADS[road], base(given.out / road)
    assert settings.transfer is not None
    plain = {"best_epochs": given.epochs, "best_folds": (1,), "camera_images": 0}
    regular = dataclasses.replace(RegularSettings(), **change.regular)
    transfer = dataclasses.replace(settings.transfer, **(plain | change.transfer), regular=regular)
    return dataclasses.replace(
        settings,
        table=() if table is None else (table,),
        transfer=transfer,
        store=dataclasses.replace(settings.store, **change.store),
        network=dataclasses.replace(settings.network, **change.network),
        tables=(1,),
        figures="none",
        steps="tables",
        workers=1,
        **change.run,
    )


table = inner_table()
for road in roads:
    reproduce(RECIPE, settings_of(road, table), say)

# %% [markdown]
# Each road beside the plain one: of the mean of mirror images as it is (AUC and calibration do not depend on a shift of
# the classes, or are spoilt by it), and decided for Acc + BAcc (the power was chosen on lesions held out).


# %%
def judged(road: str, shifted_too: bool) -> JudgedSplit:
    """What a road's best cell says of the inner fold's judged images."""
    names = ("predictions", "best-fold-1") if shifted_too else ("unshifted", "best-fold-1-mirrored")
    frame = pd.read_parquet(given.out / road / names[0] / f"{names[1]}.parquet")
    return JudgedSplit(frame["target"].to_numpy(), probabilities(frame), frame["group"].tolist())


def eight_views() -> tuple[JudgedSplit, JudgedSplit]:
    """The plain best cell's mean over four mirror images of each picture and of its quarter turn; and shifted."""
    run = given.out / "plain"
    frame = pd.read_parquet(run / "predictions" / "best-fold-1.parquet")
    card = Sidecar.read(run / "models" / "best-fold-1.keras")
    model = keras.saving.load_model(run / "models" / "best-fold-1.keras", compile=False)
    forward = traced(functools.partial(model, training=False))
    factors, store = np.array(card.run["factors"]), ImageCacheSettings(**card.preprocessing["store"])
    found = []
    for start in range(0, len(frame), 64):
        files = [folder / f"{name}.jpg" for name in frame["image_id"][start : start + 64]]
        pictures = np.stack([decode_image(file, store).pixels for file in files]).astype(np.float32)
        views = pictures, np.rot90(pictures, axes=(1, 2))
        said = [np.asarray(forward({"image": each}), np.float64) for each in views]
        found.append(np.mean([shifted(one, 1 / factors) for one in said], axis=0))
    mean, truth = np.concatenate(found), frame["target"].to_numpy()
    groups = frame["group"].tolist()
    return JudgedSplit(truth, mean, groups), JudgedSplit(truth, shifted(mean, factors), groups)


def both() -> tuple[JudgedSplit, JudgedSplit]:
    """The mean of what plain and squeezenet say; and shifted by the mean of their powers."""
    stems = [given.out / road / "unshifted" / "best-fold-1-mirrored.parquet" for road in ("plain", "squeezenet")]
    first, other = (pd.read_parquet(stem) for stem in stems)
    if not first["image_id"].equals(other["image_id"]):
        raise SystemExit("plain and squeezenet judge other images; give the same --table to both")
    cards = [Sidecar.read(given.out / road / "models" / "best-fold-1.keras") for road in ("plain", "squeezenet")]
    factors = np.sqrt(np.prod([card.run["factors"] for card in cards], axis=0))
    mean = (probabilities(first) + probabilities(other)) / 2
    truth, groups = first["target"].to_numpy(), first["group"].tolist()
    return JudgedSplit(truth, mean, groups), JudgedSplit(truth, shifted(mean, factors), groups)


UNTRAINED = {EIGHT: eight_views, BOTH: both}


def beside(road: str) -> dict[str, object]:
    """A row of the table."""
    plain, plain_shifted = (judged("plain", which) for which in (False, True))
    if road in UNTRAINED:
        own, own_shifted = UNTRAINED[road]()
    else:
        own, own_shifted = (judged(road, which) for which in (False, True))
    metrics = multiclass_metrics(own_shifted.y, own_shifted.scores)
    row: dict[str, object] = {"road": road, "minutes": "none"}
    if road not in UNTRAINED:
        seconds = pd.read_csv(given.out / road / "history" / "best-fold-1.csv")["seconds"].sum()
        row["minutes"] = round(seconds / 60, 1)
    row |= {name: round(metrics[name], 3) for name in ("Acc", "BAcc")}
    row |= {"AUC": round(multiclass_metrics(own.y, own.scores)["mAUC"], 3)}
    if road != "plain":
        found = paired_differences([plain_shifted], [own_shifted], class_names())
        row |= {f"{name} minus plain": between(found[name]) for name in ("Acc", "BAcc")}
        row["AUC minus plain"] = between(paired_auc_difference([plain], [own]))
        unshifted = paired_differences([plain], [own], class_names())
        row |= {f"{name} unshifted, minus plain": between(unshifted[name]) for name in ("Acc", "BAcc")}
    return row


def between(found: Interval) -> str:
    """A difference with its interval, where it has one."""
    if math.isnan(found.low):
        return f"{found.value:+.3f}"
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


folder = given.images or next((given.out / "plain" / "phantoms").rglob("*.jpg")).parent
there = [road for road in ROADS if (given.out / road / "predictions" / "best-fold-1.parquet").is_file()]
if "plain" in there:
    asked = [EIGHT, BOTH] if "squeezenet" in there else [EIGHT]
    rows = pd.DataFrame([beside(road) for road in [*there, *asked]]).fillna("")
    rows.to_csv(given.out / "roads.csv", index=False)
    print(rows.to_string(index=False))
