"""The parts of the ZooME recipe that need no training: settings, networks of the tables, metadata, folds, leaks."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from melano_tf.dermoscopy.duplicates import same_content
from melano_tf.errors import InputError
from melano_tf.evaluation.calibration import fit_calibration
from melano_tf.evaluation.thresholds import Decision, DecisionSettings, ThresholdSettings, fixed_threshold
from melano_tf.models.zoome_network import build_zoome
from melano_tf.papers.notebook import restored
from melano_tf.papers.plan import chosen_groups
from melano_tf.papers.zoome.cohort import CODE, extent
from melano_tf.papers.zoome.metadata_study import BLANKED, GIVEN, exchanged, rest, study
from melano_tf.papers.zoome.method import method
from melano_tf.papers.zoome.models import FoldTraining, judge
from melano_tf.papers.zoome.networks import Network, proposed, table_1, table_2
from melano_tf.papers.zoome.settings import FIGURES, RECIPE, STEPS, ZoomeSettings, preset
from melano_tf.papers.zoome.tables import (
    decision_table,
    intervals_of,
    judged,
    notes_on,
    notes_on_decisions,
    notes_on_metadata,
    value_table,
)
from melano_tf.runs.settings_digest import plain

PAPER = preset("paper")


def test_the_paper_preset_holds_the_papers_numbers():
    assert RECIPE.changes(PAPER) == []
    assert (PAPER.folds.count, PAPER.network.input_px, PAPER.training.batch) == (10, 224, 64)
    assert (PAPER.training.optimizer, PAPER.training.learning_rate) == ("adam", 1e-4)
    assert (PAPER.training.alpha, PAPER.training.gamma) == (0.25, 2.0)
    assert (PAPER.augment.smallest_crop, PAPER.augment.rotation, PAPER.augment.flip) == (0.8, 30.0, 0.5)
    assert (PAPER.network.backbone, PAPER.network.zoom, PAPER.network.gate) == ("torchvision_resnext50", 4, "printed")
    # 0.8 of the stored image is what the network takes: the smallest crop is not enlarged.
    assert PAPER.store.stored_px * PAPER.augment.smallest_crop == PAPER.network.input_px


def test_every_change_of_the_demo_is_named():
    demo = preset("demo")
    names = {name for name, _, _ in RECIPE.changes(demo)}
    assert {"network.backbone", "network.input_px", "folds.count", "training.epochs", "store.stored_px"} <= names
    assert demo.network.input_px <= 96 and demo.folds.count == 3
    assert all(here != paper for _, here, paper in RECIPE.changes(demo))
    assert not any(name.startswith("phantom.") for name in names)


def test_choices_are_read_from_text():
    assert dataclasses.replace(PAPER, tables=(2,)).chosen_tables() == (2,)
    assert PAPER.chosen_figures() == FIGURES
    assert dataclasses.replace(PAPER, figures="pr, roc").chosen_figures() == ("roc", "pr")
    assert chosen_groups(PAPER.steps, STEPS) == STEPS
    for field, text, words in (
        ("tables", (3,), "--tables 3"),
        ("figures", "six", "no figure 'six'"),
        ("steps", "", "step"),
    ):
        with pytest.raises(InputError, match=words):
            changed = dataclasses.replace(PAPER, **{field: text})
            (changed.chosen_tables(), changed.chosen_figures(), chosen_groups(changed.steps, STEPS))


def test_a_table_without_images_is_refused(tmp_path):
    both = ": a data set needs both its CSV files and its images' folder"
    with pytest.raises(InputError, match=f"^--table without --images{both}$"):
        ZoomeSettings(table=(tmp_path / "train.csv",))
    with pytest.raises(InputError, match=f"^--images without --table{both}$"):
        ZoomeSettings(images=(tmp_path,))
    evaluation = dataclasses.replace(PAPER.evaluation, permutations=0)
    with pytest.raises(InputError, match=r"^--evaluation.permutations 0: at least 1$"):
        dataclasses.replace(PAPER, evaluation=evaluation)
    assert dataclasses.replace(PAPER, evaluation=dataclasses.replace(evaluation, permutations=1))


def test_the_rows_of_both_tables():
    one, two = table_1(PAPER), table_2(PAPER)
    assert list(one) == ["Maron et al.", "Kaur et al.", "AlexNet", "ZooME", "w/o Zoom-SE", "w/o Metadata"]
    assert one["ZooME"] == proposed(PAPER) == Network("torchvision_resnext50", True, True)
    assert one["w/o Zoom-SE"] == Network("torchvision_resnext50", False, True)
    assert one["w/o Metadata"] == Network("torchvision_resnext50", True, False)
    assert two["ResNet50 + ZoomSE"] == Network("torchvision_resnet50", True, False)
    assert two["AlexNet + Meta"] == Network("torchvision_alexnet", False, True)
    # One training fills both.
    assert one["Maron et al."] == two["ResNet50"] and one["AlexNet"] == two["AlexNet"]
    networks = {step.args[0] for step in method(PAPER).steps.values() if step.group == "train"}
    assert len(networks) == 8 and len({which.name for which in networks}) == 8
    assert list(table_1(preset("demo"))) == ["ZooME", "w/o Zoom-SE", "w/o Metadata"]
    nothing = method(dataclasses.replace(PAPER, tables=()))
    assert [name for name, step in nothing.steps.items() if step.group == "train"] == []


def test_settings_come_back_from_a_runs_record(tmp_path):
    settings = dataclasses.replace(
        preset("demo"), table=(tmp_path / "a.csv", tmp_path / "b.csv"), images=(tmp_path,), cache=tmp_path / "cache"
    )
    assert restored(ZoomeSettings(), plain(settings)) == settings
    assert restored(ZoomeSettings(), plain(preset("demo"))) == preset("demo")


def people(count: int = 30) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    return pd.DataFrame(
        {
            "age": np.where(rng.uniform(size=count) < 0.1, np.nan, rng.integers(3, 18, count) * 5.0),
            "sex": rng.choice(["female", "male", "unknown"], count),
            "site": rng.choice(["torso", "head/neck", "unknown"], count),
            "group": [f"P{n}" for n in rng.integers(0, 9, count)],
        }
    )


def test_exchanged_metadata_are_those_of_another_patient():
    groups = people()["group"].tolist()
    for seed in range(20):
        order = exchanged(groups, seed)
        taken = {}
        for mine, other in zip(groups, order, strict=True):
            assert groups[other] != mine
            taken.setdefault(mine, set()).add(groups[other])
        assert all(len(others) == 1 for others in taken.values())  # one patient takes from one
        assert len({next(iter(others)) for others in taken.values()}) == len(taken)
    assert (exchanged(groups, 1) != exchanged(groups, 2)).any()
    assert exchanged([], 0).shape == (0,)


def test_the_study_sets_one_field_and_leaves_the_others():
    records = people()
    metadata, values = study(records, permutations=2, seed=3)
    assert set(metadata) == {GIVEN, BLANKED, "permuted_1", "permuted_2"}
    given = CODE.encode({name: records[name] for name in ("age", "sex", "site")})
    np.testing.assert_array_equal(metadata[GIVEN], given)
    names = np.array(CODE.names)
    blank = dict(zip(names, metadata[BLANKED][0], strict=True))
    assert {name for name, value in blank.items() if value} == {"age unknown", "sex unknown", "site unknown"}
    for value in values:
        own = np.array([name.startswith(value.field) for name in names])
        np.testing.assert_array_equal(value.metadata[:, ~own], given[:, ~own])
        assert (value.metadata[:, own] == value.metadata[0, own]).all()
    sex = {value.value: value for value in values if value.field == "sex"}
    assert sex["male"].metadata[0, list(names).index("sex male")] == 1
    np.testing.assert_array_equal(sex["unknown"].held, records["sex"] == "unknown")
    ages = {value.value: value for value in values if value.field == "age"}
    assert ages["50"].metadata[0, 0] == np.float32(50 / 90)
    assert ages["50"].held[records["age"].eq(45)].all() and not ages["50"].held[records["age"].eq(60)].any()


@pytest.mark.parametrize("backbone", ["resnext_standin", "alexnet_standin", "kaur_standin"])
@pytest.mark.parametrize("metadata", [True, False])
def test_the_rest_of_a_network_after_its_last_map_is_the_network(backbone, metadata):
    model, _ = build_zoome(backbone, 32, CODE.width, zoom_se=backbone == "resnext_standin", metadata=metadata, seed=1)
    rng = np.random.default_rng(0)
    inputs = {"image": rng.uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)}
    numbers = rng.uniform(size=(2, CODE.width)).astype(np.float32) if metadata else None
    if metadata:
        inputs["metadata"] = numbers
    import keras

    features = keras.Model(model.inputs[0], model.get_layer("features").output)(inputs["image"])
    found = np.asarray(rest(model, features, numbers))
    np.testing.assert_allclose(found, np.asarray(model(inputs, training=False)), rtol=1e-5)
    assert found.std() > 0


def test_effects_are_weighted_by_the_folds_images():
    def fold(count: int, shift: float) -> FoldTraining:
        effects = pd.DataFrame(
            {
                "field": ["sex", "sex"],
                "value": ["male", "unknown"],
                "images": [count // 2, 1],
                "melanoma": [2, 0],
                "probability": [0.5, 0.4],
                "log_odds": [shift - 1.0, -1.0],
            }
        )
        return FoldTraining("", None, None, pd.DataFrame({"target": np.zeros(count)}), effects)

    table = value_table([fold(10, 1.0), fold(30, 2.0)]).set_index("value")
    assert table.loc["male", "against_unknown"] == pytest.approx((10 * 1 + 30 * 2) / 40)
    assert (table.loc["male", "lowest"], table.loc["male", "highest"]) == (1.0, 2.0)
    assert table.loc["male", "images"] == 20 and table.loc["unknown", "against_unknown"] == 0


def test_equal_files_are_copies():
    pairs = same_content(["a", "b", "c", "d"], {"a": "1", "b": "2", "c": "1", "d": "1"})
    assert pairs[["image_1", "image_2", "kind"]].to_numpy().tolist() == [
        ["a", "c", "exact"],
        ["a", "d", "exact"],
        ["c", "d", "exact"],
    ]
    assert len(same_content(["a", "b"], {"a": "1", "b": "2"})) == 0


def isic2018(folder: Path, images: int, melanomas: int, groupings: bool = True, told: bool = True) -> tuple[Path, ...]:
    """Official tables of ISIC 2018 of so many images, each of a lesion of its own."""
    names = [f"ISIC_{place:03d}" for place in range(images)]
    truth = pd.DataFrame(0.0, index=names, columns=["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"])
    truth["MEL"] = (np.arange(images) < melanomas) * 1.0
    truth["NV"] = 1 - truth["MEL"]
    truth.rename_axis("image").to_csv(folder / "GroundTruth.csv")
    lesions = pd.DataFrame({"image": names, "lesion_id": [f"HAM_{place // 2:03d}" for place in range(images)]})
    lesions["diagnosis_confirm_type"] = "histopathology"
    files = [folder / "GroundTruth.csv"]
    if groupings:
        lesions.to_csv(folder / "LesionGroupings.csv", index=False)
        files.append(folder / "LesionGroupings.csv")
    if told:
        rows = lesions.rename(columns={"image": "image_id", "diagnosis_confirm_type": "dx_type"})
        rows = rows.assign(dx=np.where(truth["MEL"] == 1, "mel", "nv"), age=50.0, sex="female", localization="back")
        rows.to_csv(folder / "metadata.csv", index=False)
        files.append(folder / "metadata.csv")
    return tuple(files)


@pytest.mark.parametrize(
    ("tables", "changed", "words"),
    [
        ({"groupings": False, "told": False}, {}, "names no lesions; give the lesion groupings or the metadata"),
        ({"told": False}, {}, "no image has any of age, sex, site"),
        ({"melanomas": 12}, {}, "class 'MEL': 6 patients or lesions"),
        ({}, {"hold_out": 1.0}, "the hold-out's share 1.0 must lie between 0 and 1"),
    ],
)
def test_what_the_tables_alone_tell_is_said_before_anything_is_measured(
    tmp_path: Path, tables: dict[str, int], changed: dict[str, float], words: str
) -> None:
    files = isic2018(tmp_path, **({"images": 80, "melanomas": 30} | tables))
    settings = dataclasses.replace(
        PAPER, table=files, images=(tmp_path,), folds=dataclasses.replace(PAPER.folds, **changed)
    )
    with pytest.raises(InputError, match=words):
        extent(settings)


def test_tables_that_tell_enough_are_counted(tmp_path: Path) -> None:
    files = isic2018(tmp_path, images=80, melanomas=30)
    assert extent(dataclasses.replace(PAPER, table=files, images=(tmp_path,))).counts == {"images": 80}


def test_log_odds_of_a_value_are_finite_where_a_probability_rounds_to_1() -> None:
    records = people(12).assign(image_id=[f"i{n}" for n in range(12)], fold=1, target=np.arange(12) % 2)
    cohort: Any = SimpleNamespace(records=records, cache=None)

    def asked(cache: Any, names: list[str], metadata: dict[str, np.ndarray], noted: Any) -> dict[str, np.ndarray]:
        return {name: np.linspace(0.9, 1.0, len(names)) for name in metadata}

    which, decision = Network("resnext_standin", True, True), Decision(None, fixed_threshold())
    _, effects = judge(PAPER, cohort, asked, which, np.arange(12), decision, seed=0)
    assert len(effects) > 10 and effects["probability"].to_numpy() == pytest.approx(0.95)
    odds = np.log(np.linspace(0.9, 1.0, 12)[:-1] / (1 - np.linspace(0.9, 1.0, 12)[:-1])).sum()
    assert effects["log_odds"].to_numpy() == pytest.approx((odds + np.log(1e7)) / 12, abs=1e-6)


def test_folds_that_share_patients_are_judged_by_their_patients() -> None:
    """`--folds.by plain --allow-leaks`: a patient in several folds was a new one in each."""
    rng = np.random.default_rng(6)
    group, fold = np.repeat(np.arange(15), 8), rng.permutation(120) % 5
    target = group % 2
    rows = pd.DataFrame({"target": target, "group": [f"P{n}" for n in group]})
    rows["calibrated"] = np.clip(0.4 * target + 0.6 * rng.random(120), 0, 1)
    decision = Decision(None, fixed_threshold())
    folds = [FoldTraining("", Path(), decision, rows[fold == k], pd.DataFrame()) for k in range(5)]
    for name, one in intervals_of([judged(one) for one in folds], preset("demo")).items():
        assert one.groups == 15, name


FIXED = DecisionSettings(calibrate=False, threshold=ThresholdSettings(rule="fixed", value=0.3))


def test_a_threshold_that_was_fixed_is_not_said_to_be_chosen() -> None:
    records = pd.DataFrame({"fold": [1, 1, 2, 2], "target": [0, 1, 0, 1], "group": ["a", "b", "c", "d"]})
    cohort: Any = SimpleNamespace(records=records, unit="lesion", classes=("benign", "malignant"), leaks=())

    def note(decision: DecisionSettings) -> str:
        [found] = [one for one in notes_on(2, dataclasses.replace(PAPER, decision=decision), cohort) if "ACC" in one]
        return found

    assert note(DecisionSettings()) == (
        "ACC, SN and SPC at a threshold chosen on an inner hold-out of training lesions (rule: youden), on "
        "probabilities calibrated there; the paper names none."
    )
    assert note(FIXED) == "ACC, SN and SPC at a threshold fixed beforehand (0.3); the paper names none."
    assert "(0.3), on probabilities calibrated on an inner hold-out of training lesions;" in note(
        dataclasses.replace(FIXED, calibrate=True)
    )


@pytest.mark.parametrize("calibrate", [True, False])
def test_there_is_no_error_after_a_temperature_where_none_was_fitted(calibrate: bool) -> None:
    rng = np.random.default_rng(4)
    target = np.arange(40) % 2
    p = np.clip(0.3 * target + 0.7 * rng.random(40), 0.01, 0.99)
    fitted = fit_calibration(target, p, [f"P{n}" for n in range(40)], hold_out="others") if calibrate else None
    decision = Decision(fitted, fixed_threshold(0.3))
    rows = pd.DataFrame({"target": target, "probability": p, "calibrated": decision.probability(p)})
    folds = {"ZooME": [FoldTraining("", Path(), decision, rows, pd.DataFrame())]}
    shown = decision_table(folds, calibrate)["row"].tolist()
    assert ("ECE" in shown, "ECE calibrated" in shown) == (True, calibrate)
    notes = " ".join(notes_on_decisions(folds, dataclasses.replace(FIXED, calibrate=calibrate)))
    assert ("before and after the hold-out's temperature" in notes) == calibrate
    assert "BACC at the fixed threshold" in notes


def test_metadata_are_exchanged_between_what_the_folds_keep_together() -> None:
    """Tables without patients (ISIC 2018, 2019) are divided by lesion; two of one patient may exchange theirs."""
    said = " ".join(notes_on_metadata(PAPER, "lesion"))
    assert "each lesion gets another lesion's metadata" in said and "patient" not in said
    assert said.startswith("Ours: PHANTOM images")  # as every table says whose numbers it holds
