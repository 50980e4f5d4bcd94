"""The parts of the multimag recipe that need no training: settings, tasks, quotas, choosing rules, published cells."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from melano_tf.errors import InputError
from melano_tf.papers.multimag import map_faithfulness
from melano_tf.papers.multimag.figures import chosen_tiles, sampled
from melano_tf.papers.multimag.models import STOPPING, TaskTraining, balanced_loss
from melano_tf.papers.multimag.settings import RECIPE, STEPS, preset
from melano_tf.papers.multimag.tables import fused_slides, fusion_table, how_judged, judged
from melano_tf.papers.multimag.tasks import (
    fair_shares,
    judged_tiles,
    missing_classes,
    task_tiles,
    tasks_of,
    wanted_magnifications,
)
from melano_tf.papers.plan import chosen_groups
from melano_tf.reports.published_numbers import load_published, table_of
from melano_tf.runs.predictions import predictions as in_form
from melano_tf.runs.predictions import write_predictions
from melano_tf.runs.settings_digest import plain
from melano_tf.view.case_selection import TIED, with_answers
from melano_tf.view.run_cases import read_run
from tests.view.made_run import write_run

PAPER = preset("paper")
changes = RECIPE.changes


def test_the_paper_preset_holds_the_papers_numbers():
    assert changes(PAPER) == []
    assert dict(zip(PAPER.grid.names, PAPER.grid.mpp, strict=True)) == {"4x": 5, "10x": 1, "20x": 0.5, "40x": 0.275}
    assert (PAPER.split.test_share, PAPER.split.validation_share) == (0.15, 0.15)
    assert PAPER.caps.separate == (49_533, 104_816, 101_070, 101_034)
    assert PAPER.caps.mixed == (69_020, 40_928, 48_284, 43_430)
    assert (PAPER.caps.melanoma, PAPER.caps.nevus, PAPER.caps.nevi) == (30_012, 70_003, 33_336)
    assert (PAPER.model.backbones, PAPER.model.weights) == (("resnet50", "vgg19"), "imagenet")
    assert (PAPER.store.stored_px, PAPER.model.input_px) == (256, 256)
    PAPER.check()


def test_every_change_of_the_demo_is_named():
    names = {name for name, _, _ in changes(preset("demo"))}
    assert {"model.backbones", "model.input_px", "model.epochs", "caps.separate", "store.stored_px"} <= names
    assert preset("demo").model.input_px <= 96
    preset("demo").check()


@pytest.mark.parametrize(
    "wrong, words",
    [
        (
            {"caps": dataclasses.replace(PAPER.caps, separate=(1, 2), mixed=(3, 4, 5))},
            [
                f"caps.separate has 2 numbers for {len(PAPER.grid.names)} magnifications",
                "caps.mixed has 3 numbers; it needs those of MM, IN, CN and JN",
            ],
        ),
        *(
            ({"caps": dataclasses.replace(PAPER.caps, **none)}, ["caps: every number must be at least 1"])
            for none in (
                {"nevi": 0},
                {"nevus": 0},
                {"melanoma": 0},
                {"mixed": (1, 0, 1, 1)},
                {"separate": (1, 1, 1, 0)},
            )
        ),
        *(
            (
                {"model": dataclasses.replace(PAPER.model, backbones=names)},
                [f"model.backbones {names}: one at least, each once"],
            )
            for names in (("vgg19", "vgg19"), ())
        ),
        (
            {"show": dataclasses.replace(PAPER.show, magnification="5x")},
            [f"show.magnification '5x' is none of {', '.join(PAPER.grid.names)}"],
        ),
        *(
            (
                {"evaluation": dataclasses.replace(PAPER.evaluation, **odd)},
                ["evaluation: threshold must lie between 0 and 1, top be at least 1"],
            )
            for odd in ({"threshold": 1.0}, {"threshold": 0.0}, {"top": 0})
        ),
        *(
            (
                {"show": dataclasses.replace(PAPER.show, **{name: 0})},
                ["show: samples, tiles, measured and steps must be at least 1"],
            )
            for name in ("samples", "tiles", "measured", "steps")
        ),
    ],
)
def test_settings_that_do_not_go_together(wrong, words):
    with pytest.raises(InputError) as refused:
        dataclasses.replace(PAPER, **wrong).check()
    assert str(refused.value).splitlines() == ["settings:", *(f"  - {line}" for line in words)]


def test_the_least_settings_go_together():
    ones = dict.fromkeys(("samples", "tiles", "measured", "steps"), 1)
    dataclasses.replace(
        PAPER,
        caps=dataclasses.replace(PAPER.caps, separate=(1,) * 4, mixed=(1,) * 4, melanoma=1, nevus=1, nevi=1),
        evaluation=dataclasses.replace(PAPER.evaluation, top=1),
        show=dataclasses.replace(PAPER.show, **ones),
    ).check()


def test_lists_come_in_order():
    assert dataclasses.replace(PAPER, tables=(4, 2)).chosen_tables() == (2, 4)
    assert chosen_groups("figures,tiles", STEPS) == ("tiles", "figures")
    assert chosen_groups(PAPER.steps, STEPS) == STEPS
    for wrong in ({"tables": (5,)}, {"figures": (3,)}, {"steps": "dance"}):
        settings = dataclasses.replace(PAPER, **wrong)
        with pytest.raises(InputError):
            (settings.chosen_tables(), settings.chosen_figures(), chosen_groups(settings.steps, STEPS))


def test_allow_upsampling_lifts_the_rule():
    assert PAPER.grids().most_enlargement == 0.1
    assert dataclasses.replace(PAPER, allow_upsampling=True).grids().most_enlargement is None


@pytest.mark.parametrize(
    "available, total, shares",
    [
        ([10, 10, 10], 6, [2, 2, 2]),
        ([10, 10, 10], 7, [3, 2, 2]),
        ([1, 10, 10], 9, [1, 4, 4]),
        ([1, 2, 10], 100, [1, 2, 10]),
        ([0, 0], 5, [0, 0]),
        ([5, 0, 9], 8, [4, 0, 4]),
    ],
)
def test_fair_shares(available, total, shares):
    assert fair_shares(available, total) == shares


def tiles_of(counts: dict[tuple[str, str], int], slides: int = 4) -> pd.DataFrame:
    """Tiles by (diagnosis, magnification), spread over that many slides of each diagnosis, one a patient."""
    parts = ["training", "training", "validation", "test"]
    rows = []
    for (label, name), count in counts.items():
        for number in range(count):
            slide = number % slides
            rows.append((f"{label}{slide}", f"p{label}{slide}", label, name, number, parts[slide]))
    return pd.DataFrame(rows, columns=["slide_id", "patient_id", "label", "magnification", "tile", "part"])


EVEN = tiles_of({(label, name): 40 for label in ("MM", "IN", "CN", "JN") for name in PAPER.grid.names})


def capped(**caps) -> object:
    return dataclasses.replace(PAPER, caps=dataclasses.replace(PAPER.caps, **caps))


def test_experiment_1_is_half_melanoma_and_a_third_of_the_rest_each_nevus():
    tasks = tasks_of(1, capped(separate=(24, 60, 1000, 7)), EVEN)
    assert [task.title for task in tasks] == list(PAPER.grid.names)
    counts = [task_tiles(task, EVEN, 0)["label"].value_counts().to_dict() for task in tasks]
    assert counts[0] == {"MM": 12, "IN": 4, "CN": 4, "JN": 4}
    assert counts[1] == {"MM": 30, "IN": 10, "CN": 10, "JN": 10}
    assert counts[2] == {"MM": 40, "IN": 40, "CN": 40, "JN": 40}  # all that there are
    assert sum(counts[3].values()) == 7 and counts[3]["MM"] == 4


def test_experiment_2_pools_all_magnifications_alike():
    [task] = tasks_of(2, capped(mixed=(20, 8, 9, 4000)), EVEN)
    tiles = task_tiles(task, EVEN, 0)
    found = {label: rows["magnification"].value_counts().to_dict() for label, rows in tiles.groupby("label")}
    assert found["MM"] == dict.fromkeys(PAPER.grid.names, 5)
    assert found["IN"] == dict.fromkeys(PAPER.grid.names, 2)
    assert sorted(found["CN"].values()) == [2, 2, 2, 3]
    assert found["JN"] == dict.fromkeys(PAPER.grid.names, 40)
    assert task.class_names == ("nevus", "MM")


def test_experiments_3_and_4_use_40x_alone():
    tasks = tasks_of(3, capped(melanoma=10, nevus=20), EVEN)
    assert [task.title for task in tasks] == ["MM vs. IN", "MM vs. CN", "MM vs. JN"]
    for task, label in zip(tasks, ("IN", "CN", "JN"), strict=True):
        tiles = task_tiles(task, EVEN, 0)
        assert set(tiles["magnification"]) == {"40x"}
        assert tiles["label"].value_counts().to_dict() == {"MM": 10, label: 20}
        assert set(tiles.loc[tiles["label"] == "MM", "target"]) == {1}
    [task] = tasks_of(4, capped(nevi=6), EVEN)
    assert task.class_names == ("IN", "CN", "JN")
    assert task_tiles(task, EVEN, 0)["target"].value_counts().to_dict() == {0: 6, 1: 6, 2: 6}


def test_thinning_takes_the_same_share_of_every_slide_and_only_the_seed_matters():
    [*_, task] = tasks_of(1, capped(separate=(9, 9, 9, 24)), EVEN)
    tiles = task_tiles(task, EVEN, 3)
    melanoma = tiles[tiles["label"] == "MM"]["slide_id"].value_counts()
    assert melanoma.to_dict() == {"MM0": 3, "MM1": 3, "MM2": 3, "MM3": 3}
    shuffled = EVEN.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(task_tiles(task, EVEN, 3), tiles)
    again = task_tiles(task, shuffled, 3)
    assert again["slide_id"].value_counts().to_dict() == tiles["slide_id"].value_counts().to_dict()
    assert not task_tiles(task, EVEN, 4).equals(tiles)


def test_what_a_task_lacks_is_said():
    [task] = tasks_of(4, PAPER, EVEN)
    assert missing_classes(task, task_tiles(task, EVEN, 0)) == ""
    fewer = EVEN[~((EVEN["label"] == "JN") & (EVEN["part"] == "test"))]
    assert missing_classes(task, task_tiles(task, fewer, 0)) == "no JN in the test part"
    coarse = EVEN[EVEN["magnification"] != "40x"]
    assert missing_classes(task, task_tiles(task, coarse, 0)) == "no slide has tiles at 40x"


def trained(number: int, rows: pd.DataFrame) -> TaskTraining:
    task = tasks_of(number, PAPER, EVEN)[-1]
    return TaskTraining(task, "resnet50", None, rows)


def predictions(p1: list[float], target: list[int], slides: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame({"slide_id": slides, "target": target, "p_nevus": 1 - np.array(p1), "p_MM": p1})
    frame = frame.assign(patient_id=frame["slide_id"], label="MM", part="test", magnification="40x", quota=True)
    return frame.assign(tile=range(len(p1)))


def test_figure_2_shows_the_surest_right_and_wrong_tiles_one_a_slide():
    rows = predictions([0.9, 0.95, 0.2, 0.7, 0.6, 0.1], [1, 1, 1, 0, 0, 0], ["a", "a", "b", "c", "d", "e"])
    one = trained(1, rows)
    right = chosen_tiles(one, 0.5, 2, right=True)
    assert right["tile"].tolist() == [1, 5]
    wrong = chosen_tiles(one, 0.5, 1, right=False)
    assert wrong["tile"].tolist() == [2, 3]
    assert wrong["sure"].tolist() == pytest.approx([0.8, 0.7])
    assert chosen_tiles(trained(1, rows.iloc[:2]), 0.5, 2, right=False).empty


def test_slides_are_judged_by_the_chosen_aggregation():
    rows = predictions([0.9, 0.2, 0.2, 0.6, 0.6, 0.1], [1, 1, 1, 0, 0, 0], list("aaabbb"))
    one = trained(1, rows)
    found = {}
    for how in ("mean", "majority", "top"):
        evaluation = dataclasses.replace(PAPER.evaluation, aggregation=how, top=1)
        found[how] = judged(one, dataclasses.replace(PAPER, evaluation=evaluation), "slides")[""]
    assert found["mean"]["score"].tolist() == pytest.approx([1.3 / 3, 1.3 / 3])
    assert found["majority"]["score"].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert found["majority"]["called"].tolist() == [0, 1]
    assert found["top"]["score"].tolist() == [0.9, 0.6]
    assert len(judged(one, PAPER, "tiles")[""]) == 6


def test_tiles_are_judged_by_quota_and_slides_by_all_their_tiles_each_magnification_alike():
    rows = predictions([0.9, 0.3, 0.5, 0.2, 0.1, 0.6], [1, 1, 1, 0, 0, 0], list("aaabbb"))
    rows = rows.assign(quota=[True, False, False, True, True, False], magnification=["40x", "40x", "4x", *["40x"] * 3])
    rows.loc[len(rows)] = {**rows.iloc[0], "part": "validation", "p_MM": 0.0}
    one = trained(2, rows)
    assert judged(one, PAPER, "tiles")[""]["score"].tolist() == [0.9, 0.2, 0.1]
    slides = judged(one, PAPER, "slides")[""]
    assert slides["patient_id"].tolist() == ["a", "b"]
    assert slides["score"].tolist() == pytest.approx([(0.6 + 0.5) / 2, 0.3])  # not 1.7 / 3
    assert fused_slides([one], PAPER)[""].tolist() == pytest.approx([0.55, 0.3])


def evaluated(**asked: object) -> object:
    return dataclasses.replace(PAPER, evaluation=dataclasses.replace(PAPER.evaluation, repeats=20, **asked))


def test_a_majority_is_a_half_of_the_tiles_also_after_fusion():
    rows = predictions([0.9, 0.2, 0.2, 0.1, 0.1, 0.6, 0.7], [1, 1, 1, 0, 0, 1, 1], list("aaabbcc"))
    one = trained(1, rows)  # a third of the tiles of melanoma a is called one: no majority
    settings = evaluated(aggregation="majority", threshold=0.3)
    settings = dataclasses.replace(settings, model=dataclasses.replace(PAPER.model, backbones=("resnet50",)))
    found = fusion_table([one], settings)
    sensitivity = found[found["row"].str.endswith("SN")].set_index("column")["ours"]
    assert sensitivity["mean of probabilities"] == sensitivity[one.task.title] == pytest.approx(0.5)


def test_another_way_than_the_mean_is_said():
    assert "A magnification's tiles make" not in how_judged(PAPER, "slides")
    majority = evaluated(aggregation="majority")
    assert "make its majority of tiles, here and in predict" in how_judged(majority, "slides")
    assert how_judged(majority, "tiles") == how_judged(PAPER, "tiles")


def tile_run(folder, settings: object, name: str, rows: pd.DataFrame, classes: tuple[str, ...]) -> object:
    """A run whose only model said this of tiles, as the atlas reads it."""
    (folder / "predictions").mkdir(parents=True)
    cases = rows["slide_id"] + "/" + rows["magnification"] + "/" + rows["tile"].astype(str)
    columns = [f"p_{label}" for label in classes]
    facts = rows.drop(columns=columns).assign(case=cases, group=rows["patient_id"])
    table = in_form(facts, rows[columns].to_numpy(), classes, threshold=settings.evaluation.threshold)
    write_predictions(folder / "predictions" / f"{name}.parquet", table)
    threshold = settings.evaluation.threshold if len(classes) == 2 else None
    write_run(folder, "multimag", plain(settings), {name: {"classes": classes, "threshold": threshold}})
    return read_run(folder)


@pytest.mark.parametrize("how", ["mean", "majority", "top"])
def test_the_atlas_judges_a_slide_by_all_magnifications_as_the_tables_do(tmp_path, how):
    rng, slides = np.random.default_rng(7), [f"s{number}" for number in range(12)]
    rows = predictions(rng.beta(0.6, 1.4, 120).tolist(), [0] * 120, [slides[place % 12] for place in range(120)])
    rows = rows.assign(
        target=(rows["slide_id"].str[1:].astype(int) % 3 == 0).astype(int),
        magnification=np.where(rng.random(120) < 0.25, "4x", "40x"),  # lopsided: most tiles are of 40x
    )
    settings = evaluated(aggregation=how, threshold=0.3, top=2)
    expected = judged(trained(2, rows), settings, "slides")[""].set_index("patient_id")
    assert 0 < expected["called"].sum() < 12 or how == "top"
    run = tile_run(tmp_path / how, settings, "melanoma-mixed-standin", rows, ("nevus", "MM"))
    model = run.models["melanoma-mixed-standin"]
    found = model.frame.set_index("group").loc[expected.index]
    assert found["p1"].to_numpy() == pytest.approx(expected["score"].to_numpy(), abs=1e-12)
    assert found["called"].tolist() == expected["called"].astype(int).tolist()
    assert found["tiles"].sum() == 120
    limit = 0.5 if how == "majority" else 0.3
    assert model.threshold == limit and set(found["threshold"]) == {limit}
    assert ("share of tiles at or above 0.3" in model.threshold_from) == (how == "majority")


@pytest.mark.parametrize("how", ["mean", "majority", "top"])
def test_the_atlas_judges_three_classes_as_the_tables_do_and_decides_no_tie(tmp_path, how):
    p = [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7], [0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]
    rows = predictions([0.0] * 5, [0, 0, 2, 0, 0], list("aabaa")).drop(columns=["p_nevus", "p_MM"])
    rows = rows.assign(**dict(zip(("p_IN", "p_CN", "p_JN"), np.array(p).T, strict=True)))
    settings = evaluated(aggregation=how, top=2)
    expected = judged(trained(4, rows), settings, "slides")
    run = tile_run(tmp_path / how, settings, "nevi-standin", rows, ("IN", "CN", "JN"))
    model = run.models["nevi-standin"]
    found = model.frame.set_index("group")
    for place, label in enumerate(("IN", "CN", "JN")):
        table = expected[label].set_index("patient_id")
        assert found[f"p{place}"].to_dict() == pytest.approx(table["score"].to_dict(), abs=1e-12)
        assert (found["called"] == place).astype(int).to_dict() == table["called"].astype(int).to_dict()
    shown = with_answers(run, model).set_index("case")
    if how == "majority":  # two tiles of a for each of two nevi: the table calls neither, which is wrong
        assert shown.loc["a", ["called", "called_name", "right", "p"]].tolist() == [-1, TIED, False, 0.5]
    assert shown.loc["b", "called_name"] == "JN" and shown.loc["b", "right"]


def test_every_tile_of_a_judged_slide_counts_and_the_quota_is_marked():
    [*_, task] = tasks_of(1, capped(separate=(9, 9, 9, 24)), EVEN)
    thinned = task_tiles(task, EVEN, 3)
    rows = judged_tiles(task, EVEN[EVEN["part"] != "training"], thinned)
    assert set(rows["part"]) == {"validation", "test"} and set(rows["magnification"]) == {"40x"}
    assert len(rows) == 4 * 40 // 2
    assert rows["quota"].sum() == (thinned["part"] != "training").sum() == 12
    assert (
        rows.loc[rows["label"] == "MM", "target"].eq(1).all() and rows.loc[rows["label"] == "IN", "target"].eq(0).all()
    )


@pytest.mark.parametrize(
    "tables, figures, wanted",
    [
        ((4,), (), {"MM": set(), "IN": {"40x"}, "CN": {"40x"}, "JN": {"40x"}}),
        ((3, 4), (), {label: {"40x"} for label in ("MM", "IN", "CN", "JN")}),
        ((2,), (), {label: set(PAPER.grid.names) for label in ("MM", "IN", "CN", "JN")}),
        ((4,), (1,), {label: set(PAPER.grid.names) for label in ("MM", "IN", "CN", "JN")}),
        ((4,), (2,), {label: set(PAPER.grid.names) for label in ("MM", "IN", "CN", "JN")}),
        ((), (), {label: set(PAPER.grid.names) for label in ("MM", "IN", "CN", "JN")}),
    ],
)
def test_only_what_is_asked_for_is_cut(tables, figures, wanted):
    assert wanted_magnifications(dataclasses.replace(PAPER, tables=tables, figures=figures)) == wanted


def test_what_the_paper_leaves_open_about_balance_is_a_named_setting():
    assert (PAPER.model.epoch_tiles, PAPER.model.stopping_loss) == ("balanced", "balanced")
    other = dataclasses.replace(PAPER.model, epoch_tiles="all", stopping_loss="plain")
    assert {name for name, *_ in changes(dataclasses.replace(PAPER, model=other))} == {
        "model.epoch_tiles",
        "model.stopping_loss",
    }
    probability = np.array([[0.9, 0.1]] * 99 + [[0.5, 0.5]])
    target = np.array([0] * 99 + [1])
    logits = np.log(probability) + 7.0  # what is added to all classes' logits does not count
    assert STOPPING["plain"](target, logits) == pytest.approx(-(99 * np.log(0.9) + np.log(0.5)) / 100)
    assert STOPPING["balanced"](target, logits) == pytest.approx(balanced_loss(target, logits))


def test_three_classes_are_judged_each_against_the_rest():
    rows = predictions([0.3, 0.5], [0, 2], ["a", "b"]).drop(columns=["p_nevus", "p_MM"])
    rows = rows.assign(p_IN=[0.6, 0.1], p_CN=[0.3, 0.5], p_JN=[0.1, 0.4])
    found = judged(trained(4, rows), PAPER, "tiles")
    assert list(found) == ["IN", "CN", "JN"]
    assert found["IN"]["called"].tolist() == [1, 0] and found["IN"]["truth"].tolist() == [1, 0]
    assert found["JN"]["called"].tolist() == [0, 0] and found["JN"]["truth"].tolist() == [0, 1]


def test_samples_come_from_several_slides_and_of_each_from_inside_the_outline():
    rows = EVEN[(EVEN["label"] == "MM") & (EVEN["magnification"] == "40x")].assign(tumour=0.3)
    rows.loc[rows["tile"].isin([4, 5, 6, 7]), "tumour"] = 1.0
    picked = sampled(rows, 3, np.random.default_rng(0))
    assert picked["slide_id"].nunique() == 3
    assert set(picked["tumour"]) == {1.0}
    assert len(sampled(rows, 99, np.random.default_rng(0))) == 40


def test_the_validation_loss_counts_each_class_alike():
    probability = np.array([[0.9, 0.1]] * 99 + [[0.5, 0.5]])
    loss = balanced_loss(np.array([0] * 99 + [1]), np.log(probability) + 3.0)  # any logits that give them
    assert loss == pytest.approx((-np.log(0.9) - np.log(0.5)) / 2)
    wrong = balanced_loss(np.array([0, 1]), np.array([[-30.0, 30.0], [-20.0, 30.0]], np.float32))
    assert wrong == pytest.approx(30, rel=1e-6), "60 logits wrong is worse than 17"


def test_the_published_cells():
    cells = load_published("multimag")
    assert cells["table"].value_counts().to_dict() == {1: 4, 2: 8, 3: 24, 4: 24}
    assert (cells["table"] > 1).sum() == 56  # the legible ones
    assert cells[cells["table"] == 1]["flag"].tolist() == ["inferred"] * 4
    for value, words in cells[["value", "words"]].itertuples(index=False):
        assert float(words.split()[-1]) == value
    suspect = cells[cells["flag"] == "suspect"]
    assert set(suspect["table"]) == {3} and set(suspect["row"]) == {"AUC"} and len(suspect) == 6
    for table in (2, 3, 4):
        found = table_of(cells, table)
        for column in dict.fromkeys(column for _, column in found):
            half = (found["Sensitivity", column].value + found["Specificity", column].value) / 2
            # The area below the straight lines through a point is the mean of its sensitivity and specificity.
            assert (found["AUC", column].value < half - 0.001) == (table == 3), column
    assert table_of(cells, 3)["F1", "MM vs. IN Vgg19"].value == 0.89  # section 4.2.3: the hardest
    assert table_of(cells, 3)["F1", "MM vs. JN ResNet50"].value == 0.98  # and the easiest


@pytest.mark.parametrize("figures", [(), (1,)])
def test_the_maps_are_measured_without_a_figure_where_none_is_asked_for(figures, tmp_path, monkeypatch):
    one = SimpleNamespace(backbone="vgg19", task=SimpleNamespace(title="40x"))
    settings = dataclasses.replace(PAPER, figures=figures, tables=(1,))
    stand_ins = {
        "explained_models": lambda work, words: [one],
        "measured_tiles": lambda *_: (pd.DataFrame({"tile": [3]}), []),
        "explained_maps": lambda *_: None,
        "faithfulness": lambda *_: (None, None),
        "notes_on": lambda *_: (),
        "reading_notes": lambda *_: (),
        "show": lambda work, name, table: [Path(f"{name}.md")],
        "curve_figure": lambda *_: None,
        "save_figure": lambda path, figure: path.relative_to(tmp_path),
    }
    for name, made in stand_ins.items():
        monkeypatch.setattr(map_faithfulness, name, made)
    work = SimpleNamespace(settings=settings, value=lambda step: None, run=SimpleNamespace(folder=tmp_path))
    drawn = [Path("figures/faithfulness-vgg19.png")] if figures else []
    assert map_faithfulness.measure_maps(work) == [Path("faithfulness-vgg19.md"), *drawn]
