"""Parts of the bags recipe that need no run."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from melano_tf.errors import InputError
from melano_tf.evaluation.thresholds import DecisionSettings, ThresholdSettings
from melano_tf.models.bag_settings import BagNetworkSettings
from melano_tf.papers.bags import figures, tables
from melano_tf.papers.bags.models import class_weights
from melano_tf.papers.bags.settings import MODELS, BagsSettings, preset
from melano_tf.papers.bags.tables import intervals_of, notes_on
from tests.papers.tiny import CHECKOUT


def test_the_command_line_is_there_without_tensorflow() -> None:
    code = "import sys, melano_tf.papers.bags.settings, melano_tf.commands.features; print('keras' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT, check=True)
    assert done.stdout.strip() == "False"


def test_the_first_model_named_is_what_the_others_are_compared_with() -> None:
    assert BagsSettings(models="gated,mean,clam").chosen_models() == ("gated", "mean", "clam")
    assert BagsSettings(models="all").chosen_models() == MODELS and MODELS[0] == "mean"
    with pytest.raises(InputError, match=f"^--models mean,bst: no model 'bst'; there are {', '.join(MODELS)}, or all$"):
        BagsSettings(models="mean,bst").chosen_models()


def test_a_training_has_the_recipes_settings_and_its_own_kind() -> None:
    settings = BagsSettings(network=BagNetworkSettings(hidden=(9,), heads=3))
    found = settings.training_of("transformer")
    assert (found.model.kind, found.model.hidden, found.model.heads) == ("transformer", (9,), 3)
    assert found.epochs == settings.training.epochs and found.precision == "float32"
    assert replace(settings, precision="bfloat16").training_of("gated").precision == "bfloat16"
    with pytest.raises(InputError, match="do not divide"):
        BagsSettings(network=BagNetworkSettings(hidden=(9,), heads=4)).training_of("transformer")


BOTH = ": a cohort needs both its features and the table of its labels"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"table": "cases.csv"}, f"--table without --features{BOTH}"),
        ({"features": "folder"}, f"--features without --table{BOTH}"),
        ({"classes": ("a",)}, "--classes a: two or more different labels are needed"),
        ({"classes": ("a", "b", "a")}, "--classes a b a: two or more different labels are needed"),
        ({"final": "best"}, f"--final best: no model of this name; there are {', '.join(MODELS)}, or none"),
    ],
)
def test_settings_that_do_not_go_together(given: dict, words: str) -> None:
    with pytest.raises(InputError) as refused:
        BagsSettings(**given)
    assert str(refused.value) == words
    assert BagsSettings(classes=("b", "a"), final="none", features="folder", table="cases.csv").final == "none"


def test_weights_of_classes_have_a_mean_of_one() -> None:
    weights = class_weights(np.array([0, 0, 0, 2]), 3)
    np.testing.assert_allclose(weights, [2 / 3, 2 / 3, 2 / 3, 2])
    assert weights.mean() == pytest.approx(1)


def test_the_demo_is_a_change_of_the_default() -> None:
    default, demo = preset("default"), preset("demo")
    assert default == BagsSettings() and demo.preset == "demo"
    assert demo.folds.count < default.folds.count and demo.training.epochs < default.training.epochs


def test_folds_that_share_patients_are_judged_by_their_patients() -> None:
    """`--folds.by plain --allow-leaks`: a patient in several folds was a new one in each."""
    rng = np.random.default_rng(6)
    group, fold = np.repeat(np.arange(15), 8), rng.permutation(120) % 5
    truth = group % 2
    positive = np.clip(0.4 * truth + 0.6 * rng.random(120), 0, 1)
    card = SimpleNamespace(classes=("a", "b"), cut=0.5)
    folds: list[Any] = [
        SimpleNamespace(
            card=card,
            truth=truth[own],
            calibrated=np.column_stack([1 - positive[own], positive[own]]),
            predictions=pd.DataFrame({"group": [f"P{n}" for n in group[own]]}),
        )
        for own in (fold == k for k in range(5))
    ]
    for name, one in intervals_of(folds, preset("demo")).items():
        assert one.groups == 15, name


def test_a_threshold_that_was_fixed_is_not_said_to_be_chosen() -> None:
    cohort = SimpleNamespace(fold=np.array([1, 1, 2]), groups=("a", "b", "c"), classes=("benign", "bad"), leaks=())

    def note(decision: DecisionSettings) -> str:
        work: Any = SimpleNamespace(settings=replace(preset("default"), decision=decision), value=lambda _: cohort)
        [found] = [one for one in notes_on(work) if one.startswith("Positive")]
        return found

    fixed = DecisionSettings(threshold=ThresholdSettings(rule="fixed", value=0.3))
    assert note(DecisionSettings()).endswith(
        "ACC at a threshold chosen on an inner hold-out of training patients (rule: youden), on probabilities "
        "calibrated there."
    )
    assert note(fixed).endswith(
        "ACC at a threshold fixed beforehand (0.3), on probabilities calibrated on an inner hold-out of training "
        "patients."
    )


@pytest.mark.parametrize("calibrate", [True, False])
def test_nothing_is_called_calibrated_that_was_not(calibrate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    truth, p = np.arange(30) % 2, rng.dirichlet([2.0, 1.0], 30)
    rows = pd.DataFrame({"group": [f"P{n}" for n in range(30)], "target": truth, "p_a": p[:, 0], "p_b": p[:, 1]})
    rows = rows.assign(raw_a=p[:, 0], raw_b=p[:, 1])
    card = SimpleNamespace(threshold=0.5)
    fold = SimpleNamespace(truth=truth, raw=p, calibrated=p, predictions=rows, card=card)
    settings = replace(preset("default"), models="mean", decision=DecisionSettings(calibrate=calibrate))
    work: Any = SimpleNamespace(settings=settings, value=lambda _: SimpleNamespace(classes=("a", "b")))
    shown: list[Any] = []
    for module in (tables, figures):
        monkeypatch.setattr(module, "folds_of", lambda *_: [fold])
    monkeypatch.setattr(tables, "show", lambda work, name, table: shown.append(table))
    monkeypatch.setattr(figures, "saved", lambda work, name, figure: shown.append(figure))
    tables.calibration_table(work)
    figures.draw_calibration(work)
    table, drawn = shown
    assert ("ECE calibrated" in set(table.frame["row"])) == calibrate and "ECE" in set(table.frame["row"])
    legends = [legend for axis in drawn.axes if (legend := axis.get_legend()) is not None]
    words = " ".join(text.get_text() for legend in legends for text in legend.get_texts())
    assert ("not calibrated" in words) != calibrate
