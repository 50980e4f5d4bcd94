"""The experiment on HAM10000, on phantoms, as its notebook runs it; and how the best cell's shift is chosen."""

import runpy
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from melano_tf.evaluation.multiclass import multiclass_metrics
from melano_tf.models.squares import shifted
from melano_tf.papers.ham10000.best import best_power
from melano_tf.papers.ham10000.settings import CLASSES, STRATEGIES
from melano_tf.papers.ham10000.tables import Row, difference_lines, differences
from melano_tf.runs.files import read_json
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.answering import Case
from melano_tf.serving.opening import open_model
from melano_tf.specs import load_spec

NOTEBOOK = Path(__file__).parents[2] / "experiments" / "weighting_ham10000.py"
TINY = (
    *("--backbone", "standin", "--cut", "block2_pool", "--deep-cut", "block1_conv", "--stored-px", "40"),
    *("--network-px", "48", "--epochs", "2", "--deep-epochs", "1", "--folds", "2", "--repeats", "50", "--threads", "1"),
)


def notebook(folder: Path, parts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melano_tf.training.runtime.configure", lambda threads, mirror=False: threads or 1)
    monkeypatch.setattr(sys, "argv", [NOTEBOOK.name, "--out", str(folder), "--parts", parts, *TINY])
    runpy.run_path(str(NOTEBOOK), run_name="__main__")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ham10000") / "run"
    with pytest.MonkeyPatch.context() as patch:
        notebook(folder, "strategies,best,tables,final", patch)
    return folder


def test_the_table_holds_every_strategy_on_both_splits_and_the_best_cell(finished: Path) -> None:
    table = pd.read_csv(finished / "tables" / "ham10000.csv")
    found = table.groupby("split")["strategy"].unique()
    assert set(found[1]) == set(STRATEGIES)
    assert set(found[0]) > set(STRATEGIES) and len(found[0]) == len(STRATEGIES) + 3
    assert ((table["low"] <= table["high"]) & table["value"].between(0, 1)).all()
    cel = pd.read_parquet(finished / "predictions" / "cel-split-1.parquet")
    judge = multiclass_metrics(cel["target"].to_numpy(), cel[list(CLASSES)].to_numpy())
    row = table[(table["strategy"] == "CEL") & (table["split"] == 1)].set_index("metric")["value"]
    assert row["BAcc"] == pytest.approx(judge["BAcc"]) and row["Acc"] == pytest.approx(judge["Acc"])
    assert (finished / "tables" / "ham10000.md").read_text().count("| CB |") == 3  # two splits, and the difference
    compared = pd.read_csv(finished / "tables" / "differences.csv").set_index(["strategy", "metric"])["value"]
    by_split = table[table["metric"] == "BAcc"].groupby("strategy")["value"].mean()
    assert compared["CB", "BAcc"] == pytest.approx(by_split["CB"] - by_split["CEL"])


def test_differences_are_paired() -> None:
    """By hand: two lesions of each class; the other strategy is right where the first is, and once more."""
    predictions = pd.DataFrame({"group": list("abcd"), "target": [0, 0, 1, 1]})
    sure = np.eye(7)
    first = Row("CEL", 0, predictions, sure[[0, 0, 1, 0]])
    other = Row("CB", 0, predictions, sure[[0, 0, 1, 1]])
    table = differences([first, other, Row("CB", 1, predictions, sure[[0, 0, 0, 0]])], 200, 0).set_index("metric")
    assert set(table["strategy"]) == {"CB"} and set(table["splits"]) == {1}  # of split 1 there is nothing to compare
    assert table.loc["Acc", "value"] == 0.25 and table.loc["BAcc", "value"] == 0.25
    assert (table["low"] == 0.0).all() and (table["high"] <= 1.0).all()  # never worse, whichever lesions are drawn
    assert "| CB | +0.250 (+0.000" in difference_lines(table.reset_index())


def test_no_lesion_is_judged_that_trained_or_chose_the_shift(finished: Path) -> None:
    judged, held = (
        set(pd.read_parquet(finished / "predictions" / f"ham10000-split-0{part}.parquet")["group"])
        for part in ("", "-held-out")
    )
    other = set(pd.read_parquet(finished / "predictions" / "cel-split-1.parquet")["group"])
    assert judged and held and not judged & held and not judged & other
    assert held <= other  # of two folds, what does not validate trains


def test_the_final_models_answer_as_the_table_says(finished: Path) -> None:
    model = finished / "models" / "ham10000-split-0.keras"
    sidecar = Sidecar.read(model)
    assert (sidecar.kind, sidecar.classes, sidecar.input_px) == ("weighting", CLASSES, 40)
    assert sidecar.preprocessing["store"]["crop"] == "centre" and sidecar.preprocessing["metadata"] is None
    table = pd.read_parquet(finished / "predictions" / "ham10000-split-0.parquet").head(8)
    wanted = shifted(table[[f"mean_{name}" for name in CLASSES]].to_numpy(), np.array(sidecar.run["factors"]))
    files = [finished / "phantom" / "images" / f"{name}.jpg" for name in table["image_id"]]
    answers = open_model(model).answer([Case(file) for file in files], finished)
    np.testing.assert_allclose([answer.probabilities for answer in answers], wanted, atol=2e-3)
    # A picture of another size is brought to the training's pixels within the saved model, too.
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB"), np.float32)[:, 10:74] for file in files])
    large = np.repeat(np.repeat(pixels, 2, axis=1), 2, axis=2)
    network = keras.saving.load_model(model)
    np.testing.assert_allclose(network({"image": large}), network({"image": pixels}), atol=2e-3)
    final = Sidecar.read(finished / "models" / "ham10000.keras")
    assert final.run["trained_on"] == "all images" and final.run["power"] == sidecar.run["power"]


def test_the_same_command_again_trains_nothing(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def steps() -> dict[str, str]:
        return {str(path): read_json(path)["finished"] for path in sorted((finished / "steps").rglob("*.json"))}

    before = steps()
    assert len(before) == 2 * len(STRATEGIES) + 2
    monkeypatch.setattr("melano_tf.papers.ham10000.best.fit", lambda *_: pytest.fail("trained again"))
    notebook(finished, "best,strategies,final", monkeypatch)
    assert steps() == before


def test_the_classes_are_the_data_descriptions() -> None:
    assert tuple(load_spec("isic2018")["labels"]) == CLASSES


def test_the_power_is_where_accuracy_and_balanced_accuracy_together_are_best() -> None:
    targets = np.array([0] * 8 + [1] * 2)
    counts = np.array([80, 20])
    # The rare class is called once its probability is multiplied by more than 0.55 / 0.45 or 0.8 / 0.2, which needs
    # (80 / 20)^power: 0.2 for the one, a power above 1 for the other; a common one is lost from 0.6 / 0.4: 0.3.
    rare, common = [[0.55, 0.45], [0.82, 0.18]], [[0.6, 0.4]] + [[0.95, 0.05]] * 7
    probabilities = np.array(common + rare)
    assert best_power(targets, probabilities, counts) == 0.2
    assert best_power(targets, np.array(common + [[0.3, 0.7]] * 2), counts) == 0.0  # nothing to gain: the least
