"""The target model learns the diagnosis, and not something else: with the patients' labels shuffled it finds chance."""

from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from melano_tf.evaluation.binary_metrics import roc_auc
from melano_tf.models.biopsy_classifier import build_target, split_target
from melano_tf.models.classifier_head import logits_of
from melano_tf.models.seanet import build_source
from melano_tf.papers.spitzoid.source_model import region_loss
from melano_tf.papers.spitzoid.target_model import diagnosis_loss
from melano_tf.phantoms.slides.slide_drawing import PhantomSettings, draw_cohort
from melano_tf.pipelines.augment import AugmentSettings
from melano_tf.pipelines.slide_bags import Bag, BagBatches, bag_chunks
from melano_tf.pipelines.tile_batches import TileBatches, TileImages
from melano_tf.pipelines.tile_store import write_cohort
from melano_tf.pipelines.tile_store_settings import StoreSettings
from melano_tf.slides.slide_manifest import read_manifest
from melano_tf.slides.tiling import TileGrid
from melano_tf.specs import load_spec
from melano_tf.training.exact_bags import BagPredictor, BagStep
from melano_tf.training.fit import Network, Prepared
from melano_tf.training.loop import GradientStep, LoopSettings, train
from melano_tf.training.optimizers import make_optimizer

INPUT_PX = 96
EPOCHS = 12
SOURCE_EPOCHS = 5
AUGMENT = AugmentSettings(flip=True, rotate90=True)
COHORT = PhantomSettings(
    patients=24, malignant_share=0.5, second_slide_share=0, width_um=(1400, 1500), height_um=(1000, 1100)
)
Labels = dict[str, int]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """The tiles of 24 phantom patients, larger ones than the tiny run's: there is something to learn."""
    folder = tmp_path_factory.mktemp("learns")
    manifest = read_manifest(draw_cohort(folder / "slides", COHORT, seed=5, workers=1), load_spec("spitzoid"))
    write_cohort(manifest, TileGrid(tile_px=256), StoreSettings(stored_px=INPUT_PX), folder / "tiles", workers=0)
    return folder / "tiles"


@pytest.fixture(scope="module")
def bags(store) -> list[Bag]:
    """One bag a biopsy, of the tiles that lie in the tumour's outline."""
    tiles = pd.read_parquet(store / "tiles.parquet")
    return [
        Bag(slide, rows["patient_id"].iloc[0], int(rows["label"].iloc[0] == "malignant"), rows.reset_index(drop=True))
        for slide, rows in tiles[tiles["tumour"] >= 0.5].groupby("slide_id")
    ]


@pytest.fixture(scope="module")
def source(store, tmp_path_factory) -> keras.Model:
    """A source model that has learned where the tumour is, on all patients, and nothing of their diagnoses."""
    tiles = pd.read_parquet(store / "tiles.parquet")
    keras.utils.set_random_seed(0)
    model = build_source("standin", INPUT_PX, seanet=True, head="gmp", seed=0)
    optimizer = make_optimizer("adam", 0.001)
    region = (tiles["tumour"] >= 0.5).to_numpy().astype(int)
    batches = TileBatches(
        tiles, store, INPUT_PX, batch=32, seed=0, labels=region, instance_dropout="balance", augment=AUGMENT
    )
    train(
        GradientStep(logits_of(model), optimizer, region_loss),
        batches,
        LoopSettings(SOURCE_EPOCHS),
        tmp_path_factory.mktemp("source"),
        model,
        optimizer,
    )
    return model


@pytest.fixture(scope="module")
def halves(source) -> list[Prepared]:
    """A target model for each half of the patients, traced once and set back before each training."""
    made = []
    for half in (0, 1):
        keras.utils.set_random_seed(half)
        model = build_target(source, "bgas", seed=half)
        optimizer = make_optimizer("adam", 0.001)
        parts = split_target(model)
        network = Network(model, optimizer, model, predictor=BagPredictor(*parts))
        made.append(Prepared(network, BagStep(*parts, optimizer, diagnosis_loss, chunk=24), f"half-{half}"))
    return made


def cross_validated(bags: list[Bag], labels: Labels, halves: list[Prepared], store: Path, folder: Path) -> float:
    """Mean ROC AUC of two halves of the patients, each judged by a model that was trained on the other half."""
    images = TileImages(pd.concat([bag.tiles for bag in bags], ignore_index=True), store, INPUT_PX, cache_mib=256)
    # Halves with as many malignant patients each, by the labels at hand.
    patients = sorted(labels, key=lambda patient: (labels[patient], patient))
    aucs = []
    for half, shared in enumerate(halves):
        judged = set(patients[half::2])
        learned = [
            Bag(bag.slide_id, bag.patient_id, labels[bag.patient_id], bag.tiles)
            for bag in bags
            if bag.patient_id not in judged
        ]
        shared.reset()
        network = shared.network
        batches = BagBatches(learned, store, INPUT_PX, max_tiles=24, seed=half, augment=AUGMENT, images=images)
        train(shared.step, batches, LoopSettings(EPOCHS), folder / shared.stem, network.trained, network.optimizer)
        tested = [bag for bag in bags if bag.patient_id in judged]
        found = [network.predictor(bag_chunks(bag, store, INPUT_PX, 24, images)).probability for bag in tested]
        aucs.append(roc_auc([labels[bag.patient_id] for bag in tested], found))
    return float(np.mean(aucs))


def test_true_labels_are_learned_and_shuffled_ones_are_not(bags, halves, store, tmp_path):
    labels = {bag.patient_id: bag.label for bag in bags}
    learned = cross_validated(bags, labels, halves, store, tmp_path / "true")
    shuffled = []
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(len(labels))
        values = np.array(list(labels.values()))[order]
        guess = dict(zip(labels, values.tolist(), strict=True))
        shuffled.append(cross_validated(bags, guess, halves, store, tmp_path / f"shuffled-{seed}"))
    assert learned >= 0.85
    # A half of six against six has an AUC of standard deviation 0.17 by chance, the mean of two times two 0.085.
    assert 0.25 <= np.mean(shuffled) <= 0.75
