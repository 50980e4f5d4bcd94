"""ZooME learns from the metadata what the phantoms put there, and nothing of another patient's."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from melano_tf.evaluation.binary_metrics import roc_auc
from melano_tf.papers.shell import Work, do
from melano_tf.papers.zoome.method import method
from melano_tf.papers.zoome.models import FoldTraining
from melano_tf.papers.zoome.models import trained as read_trained
from melano_tf.papers.zoome.networks import judge_name, proposed
from melano_tf.papers.zoome.settings import preset
from melano_tf.papers.zoome.tables import value_table
from melano_tf.phantoms.skin.patients import PhantomDermoscopySettings
from melano_tf.runs.run_folder import Run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> FoldTraining:
    """ZooME on phantoms whose pictures say nothing of the class (clarity 0) and whose metadata say much."""
    demo = preset("demo")
    settings = dataclasses.replace(
        demo,
        out=Path(tmp_path_factory.mktemp("learns") / "run"),
        workers=1,
        store=dataclasses.replace(demo.store, stored_px=40),
        folds=dataclasses.replace(demo.folds, count=2, near_copies=False),
        network=dataclasses.replace(demo.network, input_px=32),
        training=dataclasses.replace(demo.training, epochs=12, learning_rate=3e-3),
        phantom=PhantomDermoscopySettings(patients=300, height_px=64, clarity=0.0, signal=4.0, hair_share=0.0),
    )
    plan = method(settings)
    with Run(settings.out, "zoome", settings, 1, lambda line: None) as run:
        work = Work(run, settings, {})
        for name in plan.below([judge_name(proposed(settings), 1)]):
            do(work, plan.steps[name])
        return read_trained(work, proposed(settings), 1)


def test_metadata_help_and_those_of_another_patient_do_not(trained):
    rows = trained.predictions
    auc = {name: roc_auc(rows["target"], rows[name]) for name in ("probability", "blanked")}
    exchanged = np.mean([roc_auc(rows["target"], rows[f"permuted_{n}"]) for n in range(1, 6)])
    assert auc["probability"] > 0.68, auc
    assert 0.38 < auc["blanked"] < 0.62 and 0.4 < exchanged < 0.6, (auc, exchanged)


def test_the_effects_are_those_that_were_drawn(trained):
    """Age, men, and head/neck against the lower extremity raise the log-odds (`phantoms.skin.patients.SIGNAL`)."""
    effect = value_table([trained]).set_index(["field", "value"])["log_odds"]
    ages = [effect["age", age] for age in ("20", "50", "80")]
    assert ages == sorted(ages) and ages[2] - ages[0] > 0.3
    assert effect["sex", "male"] > effect["sex", "female"]
    assert effect["site", "head/neck"] > effect["site", "lower extremity"]
