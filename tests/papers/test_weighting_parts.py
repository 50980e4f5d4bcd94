"""The parts of the weighting recipe that need no training: settings, the grid, the taxonomy, the figures' parts."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from melano_tf.errors import InputError
from melano_tf.papers.notebook import restored
from melano_tf.papers.plan import chosen_groups
from melano_tf.papers.weighting.cohort import cache_settings, check_classes, class_names, read_taxonomy
from melano_tf.papers.weighting.figures import choose_image
from melano_tf.papers.weighting.method import method
from melano_tf.papers.weighting.models import GridTraining
from melano_tf.papers.weighting.settings import (
    FIGURES,
    RECIPE,
    STEPS,
    EvaluationSettings,
    SplitSettings,
    WeightingSettings,
    preset,
)
from melano_tf.papers.weighting.tables import headlines
from melano_tf.papers.weighting.training_grid import Cell, cells_of
from melano_tf.runs.settings_digest import plain
from melano_tf.training.sample_weights import Strategy

PAPER = preset("paper")
CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")


def test_the_paper_preset_holds_the_papers_numbers():
    assert RECIPE.changes(PAPER) == []
    training, network = PAPER.training, PAPER.network
    assert (training.batch, training.flat_epochs, training.hierarchical_epochs) == (20, 150, 250)
    assert (training.sgd_rate, training.adam_rate, training.decay_at, training.decay) == (1e-4, 1e-5, (0.5, 0.75), 0.1)
    assert (network.backbone, network.weights, network.input_px, network.dropout) == ("vgg16", "imagenet", 299, 0.5)
    assert (PAPER.splits.count, PAPER.splits.share, PAPER.gamma) == (2, 0.2, 1.0)
    # 0.8 of the stored image is what the network takes: the smallest crop is not enlarged.
    assert PAPER.store.stored_px * PAPER.augment.smallest_crop >= network.input_px
    assert cache_settings(PAPER.store).colour.method == "shades_of_gray"
    assert cache_settings(dataclasses.replace(PAPER.store, colour="none")).colour is None


def test_every_change_of_the_demo_is_named():
    demo = preset("demo")
    names = {name for name, _, _ in RECIPE.changes(demo)}
    assert {"network.backbone", "network.input_px", "training.flat_epochs", "training.adam_rate"} <= names
    assert demo.network.input_px <= 96 and demo.chosen_tables() == (1, 2, 3)
    assert all(here != paper for _, here, paper in RECIPE.changes(demo))
    assert restored(WeightingSettings(), plain(demo)) == demo


def test_the_papers_eighty_trainings():
    cells = cells_of(PAPER, PAPER.chosen_tables())
    assert len(cells) == 80 == len({cell.name for cell in cells})
    by_table = {number: cells_of(PAPER, (number,)) for number in (1, 2, 3, 4, 5)}
    assert [len(found) for found in by_table.values()] == [0, 20, 20, 20, 20]
    assert {(c.network, c.optimizer) for c in by_table[4]} == {("flat", "sgd")}
    assert [c.row for c in by_table[3] if c.split == 2] == [
        *("CEL", "CEL-CB", "CEL-ES", "CEL-SPL", "CEL-OHEM"),
        *("FL", "FL-CB", "FL-ES", "FL-SPL", "FL-OHEM"),
    ]
    assert by_table[2][0].name == "flat-adam-cel-split-1"


def trainings(settings: WeightingSettings, taken: bool = False) -> list[str]:
    """Names of the steps of a plan that train, or of those that are only taken."""
    steps, _ = method(settings).wanted(STEPS)
    return [step.name for step in steps if step.group == "train" and step.taken == taken]


def test_the_plan_trains_what_is_asked_for():
    assert len(trainings(PAPER)) == 80 and trainings(dataclasses.replace(PAPER, tables=(1,))) == []
    demo = dataclasses.replace(preset("demo"), tables=(4,), strategies="none,ohem", splits=SplitSettings(count=2))
    starts = ["warm/flat-split-1", "warm/flat-split-2"]
    assert trainings(demo)[:2] == starts, "before all others, so that the network is built once with each optimiser"
    assert len(trainings(demo)) == 2 + 2 * 2 * 2
    one = dataclasses.replace(demo, cells="flat-sgd-*-ohem-split-2")
    assert trainings(one) == ["warm/flat-split-2", "train/flat-sgd-cel-ohem-split-2", "train/flat-sgd-fl-ohem-split-2"]
    assert "warm/flat-split-1" in trainings(one, taken=True) and len(trainings(one, taken=True)) == 1 + 6


def test_a_figure_alone_needs_what_it_shows():
    settings = dataclasses.replace(PAPER, tables=(2, 3, 4), steps="figures")

    def shown(figure: str) -> list[str]:
        steps, _ = method(dataclasses.replace(settings, figures=figure)).wanted(("figures",))
        return [step.name for step in steps if step.group == "train"]

    assert len(shown("1")) == 40 and not [name for name in shown("1") if "sgd" in name]
    rows = ("cel", "cel-es", "cel-spl", "cel-ohem", "fl")
    assert shown("3") == [f"train/hierarchical-adam-{row}-split-1" for row in rows]
    assert len(shown("pace")) == 3 * 2 * 2 * 2


def test_gamma_is_chosen_before_the_focal_trainings_and_without_what_chooses_it():
    auto = dataclasses.replace(preset("demo"), tables=(2, 4), strategies="none", gamma="auto")
    plan = method(auto)
    assert plan.steps["train/flat-adam-cel-split-1"].needs == ("split/1", "warm/flat-split-1")
    assert plan.steps["train/flat-sgd-fl-split-1"].needs == ("split/1", "warm/flat-split-1", "gamma/flat-sgd-split-1")
    # Each optimiser has its own inner hold-out, and so its own start: they shared one file, each doing it anew.
    for optimizer in ("adam", "sgd"):
        start = f"warm/flat-{optimizer}-split-1-gamma"
        assert plan.steps[f"gamma/flat-{optimizer}-split-1"].needs == ("split/1", start)
    assert not [name for name in method(dataclasses.replace(auto, gamma=2.0)).steps if "gamma" in name]


def test_a_training_depends_on_its_own_strategy_and_split_alone():
    def facts(name: str, **changed: object) -> tuple[object, object]:
        step = method(dataclasses.replace(PAPER, **changed)).steps[name]
        return plain(step.depends), step.needs

    cel, tree = "train/flat-adam-cel-split-1", "train/hierarchical-sgd-fl-split-1"
    slower = dataclasses.replace(PAPER.training, sgd_rate=1e-3, momentum=0.5)
    for name, changed in (
        (cel, {"training": slower}),
        (cel, {"splits": SplitSettings(count=3)}),
        (cel, {"gamma": 2.0}),
        (cel, {"evaluation": EvaluationSettings(repeats=7), "figures": "none", "log_weights": 5}),
        (cel, {"network": dataclasses.replace(PAPER.network, lstm_units=9)}),
    ):
        assert facts(name, **changed) == facts(name), changed
    for changed in (
        {"training": slower},
        {"gamma": 2.0},
        {"network": dataclasses.replace(PAPER.network, lstm_units=9)},
    ):
        assert facts(tree, **changed) != facts(tree), changed


def test_a_cell_is_a_strategy():
    cell = Cell("flat", "adam", "fl", "es+ohem_per_class", 1)
    assert cell.strategy(PAPER, 2.0) == Strategy("es", "ohem_per_class", 2.0)
    assert (cell.row, cell.name) == ("FL-ES+OHEM per class", "flat-adam-fl-es-ohem_per_class-split-1")
    assert Cell("flat", "sgd", "cel", "none", 2).strategy(PAPER, 2.0) == Strategy()


def test_cells_are_picked_by_patterns():
    names = [cell.name for cell in cells_of(PAPER, (2, 3))]
    assert PAPER.picked(names) == set(names)
    chosen = dataclasses.replace(PAPER, cells="flat-*-ohem-*, hierarchical-adam-cel-split-1")
    assert chosen.picked(names) == {
        *(f"flat-adam-{loss}-ohem-split-{n}" for loss in ("cel", "fl") for n in (1, 2)),
        "hierarchical-adam-cel-split-1",
    }
    with pytest.raises(
        InputError,
        match=r"^--cells flat-sgd-\*: fits none of the 40 trainings, such as flat-adam-cel-split-1; \* stands",
    ):
        dataclasses.replace(PAPER, cells="flat-sgd-*").picked(names)


ABOVE = "give a number above 0 (0 would be the cross-entropy, which is trained anyway), or auto"
WEIGHTINGS = "give none, or one of cb, es, or one of spl, ohem, ohem_per_class, or one of each joined by +"


def test_choices_are_read_from_text():
    assert PAPER.chosen_strategies() == ("none", "cb", "es", "spl", "ohem")
    assert dataclasses.replace(PAPER, strategies="ohem+cb, none").chosen_strategies() == ("cb+ohem", "none")
    assert PAPER.chosen_figures() == FIGURES and chosen_groups(PAPER.steps, STEPS) == STEPS
    assert PAPER.chosen_gamma() == 1.0 and dataclasses.replace(PAPER, gamma="auto").chosen_gamma() is None
    for field, text, words in (
        ("figures", "six", f"--figures six: no figure 'six'; there are {', '.join(FIGURES)}, or all"),
        ("strategies", "cb+es", f"--strategies cb+es: {WEIGHTINGS}"),
        ("strategies", "spl+ohem", f"--strategies spl+ohem: {WEIGHTINGS}"),
        ("strategies", "hard", f"--strategies hard: {WEIGHTINGS}"),
        ("strategies", "cb+hard", f"--strategies cb+hard: {WEIGHTINGS}"),
        ("strategies", " ", "--strategies: none is named; give none,cb,es,spl,ohem or some of them"),
        ("gamma", -1.0, f"--gamma -1: {ABOVE}"),
        ("gamma", 0.0, f"--gamma 0: {ABOVE}"),
        ("gamma", math.nan, f"--gamma nan: {ABOVE}"),
        ("gamma", math.inf, f"--gamma inf: {ABOVE}"),
    ):
        changed = dataclasses.replace(PAPER, **{field: text})
        with pytest.raises(InputError) as refused:
            (changed.chosen_figures(), changed.chosen_strategies(), changed.chosen_gamma())
        assert str(refused.value) == words
    with pytest.raises(InputError, match="--tables 6"):
        dataclasses.replace(PAPER, tables=(6,)).chosen_tables()


def test_settings_that_cannot_be_are_refused(tmp_path):
    both = ": a data set needs both its CSV files and its images' folder"
    with pytest.raises(InputError, match=f"^--table without --images{both}$"):
        WeightingSettings(table=(tmp_path / "truth.csv",))
    with pytest.raises(InputError, match=f"^--images without --table{both}$"):
        WeightingSettings(images=(tmp_path,))
    with pytest.raises(InputError, match=r"--network.input-px 500 above --store.stored-px 374"):
        dataclasses.replace(PAPER, network=dataclasses.replace(PAPER.network, input_px=500))
    assert dataclasses.replace(PAPER, network=dataclasses.replace(PAPER.network, input_px=374)).network.input_px == 374
    with pytest.raises(InputError, match=r"^--splits.share 1: between 0 and 1$"):
        dataclasses.replace(PAPER, splits=dataclasses.replace(PAPER.splits, share=1.0))
    with pytest.raises(InputError) as refused:
        dataclasses.replace(PAPER, splits=dataclasses.replace(PAPER.splits, count=0, hold_out=0.0), log_weights=-1)
    assert str(refused.value).splitlines() == [
        "settings:",
        "  - --splits.count 0: at least 1",
        "  - --splits.hold-out 0: between 0 and 1",
        "  - --log-weights -1: a number of batches, or 0 for none",
    ]
    assert dataclasses.replace(PAPER, splits=dataclasses.replace(PAPER.splits, count=1)).splits.count == 1


def test_a_training_that_cannot_be_is_refused():
    rates = "adam_rate, adam_epsilon, sgd_rate, decay and warm_rate must be above 0, warm_epochs 0 or more"
    lines = {
        "batch and epochs must be at least 1": [{name: 0} for name in ("flat_epochs", "hierarchical_epochs", "batch")],
        rates: [{name: 0.0} for name in ("adam_rate", "adam_epsilon", "sgd_rate", "decay", "warm_rate")],
        "momentum is 1, and must be at least 0 and below 1": [{"momentum": 1.0}],
        "momentum is -0.1, and must be at least 0 and below 1": [{"momentum": -0.1}],
        "decay_at: (0.5, 0.5) are not ascending numbers between 0 and 1": [{"decay_at": (0.5, 0.5)}],
        "decay_at: (0.75, 0.5) are not ascending numbers between 0 and 1": [{"decay_at": (0.75, 0.5)}],
        "decay_at: (0.0, 0.5) are not ascending numbers between 0 and 1": [{"decay_at": (0.0, 0.5)}],
        "decay_at: (0.5, 1.0) are not ascending numbers between 0 and 1": [{"decay_at": (0.5, 1.0)}],
    }
    for line, odd in [(line, one) for line, those in lines.items() for one in those] + [(rates, {"warm_epochs": -1})]:
        with pytest.raises(InputError) as refused:
            dataclasses.replace(PAPER.training, **odd)
        assert str(refused.value).splitlines() == ["training:", f"  - {line}"], odd
    least = {"flat_epochs": 1, "hierarchical_epochs": 1, "batch": 1, "warm_epochs": 0, "momentum": 0.0}
    assert dataclasses.replace(PAPER.training, **least, decay_at=()).momentum == 0


def test_the_papers_tree():
    tree = read_taxonomy(None, class_names())
    assert tree.classes == CLASSES and tree.depth == 3
    levels = {name: len(path) for name, path in zip(CLASSES, tree.paths, strict=True)}
    assert levels == {"MEL": 2, "NV": 2, "BCC": 3, "AKIEC": 3, "BKL": 3, "DF": 3, "VASC": 3}


TREE = "melanocytic: [NV, MEL]\nother: {benign: [BKL, DF, VASC], malignant: [BCC, AKIEC]}\n"


def test_a_taxonomy_may_stand_under_its_key_as_in_the_data_description(tmp_path):
    tree = "a: [NV, MEL]\nb: {c: [BKL, DF, VASC], d: [BCC, AKIEC]}\n"
    bare, keyed = tmp_path / "bare.yaml", tmp_path / "keyed.yaml"
    bare.write_text(tree)
    keyed.write_text("taxonomy:\n" + "".join(f"  {line}\n" for line in tree.splitlines()))
    assert read_taxonomy(keyed, CLASSES) == read_taxonomy(bare, CLASSES)
    assert len(read_taxonomy(bare, CLASSES).nodes) == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TREE.replace("VASC", "DF"), "class 'VASC': is no leaf"),
        (TREE.replace("VASC", "wart"), "'wart' is no class"),
        (TREE.replace("other: {", "other: &a {again: *a, "), "is its own ancestor"),
        (TREE.replace(", DF, VASC", ""), "child"),
        ("a: [b", "is not YAML"),
    ],
)
def test_a_bad_taxonomy_is_one_clear_message(tmp_path, inside, text, words):
    file = tmp_path / "tree.yaml"
    file.write_text(text)
    done = inside("weighting", "--taxonomy", str(file), "--out", str(tmp_path / "run"))
    assert done.code == 2 and words in done.errors and str(file) in done.errors and "Traceback" not in done.errors
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gamma", "-0.5"), "--gamma -0.5: give a number above 0"),
        (("--strategies", "cb+hard"), "--strategies cb+hard"),
        (("--cells", "nothing-*"), "--cells nothing-*: fits none of the 20 trainings"),
        (("--taxonomy", "/nowhere/tree.yaml"), "/nowhere/tree.yaml: cannot be read"),
        (("--network.backbone", "vgg99"), "'vgg99': unknown"),
        (("--rules.full-from", "0"), "full_from is 0.0"),
        (("--show.hard", "MEL", "wart"), "--show: 'wart' is no class"),
        (("--training.decay-at", "0.7", "0.3"), "are not ascending numbers"),
    ],
)
def test_a_bad_setting_is_found_before_any_work(tmp_path, inside, arguments, words):
    done = inside("weighting", "--out", str(tmp_path / "run"), *arguments)
    assert done.code == 2 and words in done.errors and "Traceback" not in done.errors
    assert not (tmp_path / "run").exists()


def test_a_class_without_an_image_is_named():
    records = pd.DataFrame({"label": [*CLASSES[:-1], *CLASSES[:-1]], "lesion": [f"L{n}" for n in range(12)]})
    with pytest.raises(InputError, match="class VASC: no image") as caught:
        check_classes(records, CLASSES, PAPER)
    assert len(str(caught.value).splitlines()) == 2
    one = pd.concat([records, pd.DataFrame({"label": ["VASC", "VASC"], "lesion": ["L99", "L99"]})])
    with pytest.raises(InputError, match="class VASC: one lesion"):
        check_classes(one, CLASSES, PAPER)


def test_hard_images_divide_the_networks_and_easy_ones_do_not():
    def says(called: list[int]) -> GridTraining:
        frame = pd.DataFrame({"image_id": list("abcd"), "target": [0, 0, 0, 1]})
        frame[["p_a", "p_b"]] = np.eye(2)[called]
        return GridTraining(Cell("hierarchical", "adam", "cel", "none", 1), None, 0.0, frame)

    shown = {"one": says([0, 0, 1, 1]), "two": says([0, 1, 1, 1])}
    assert choose_image(shown, 0, 0, hard=True) == "b"
    assert choose_image(shown, 0, 0, hard=False) == "a"
    assert choose_image(shown, 1, 0, hard=True) == "d"  # none divides them: any
    assert choose_image({"one": says([0, 0, 0, 0])}, 2, 0, hard=True) is None


def test_the_first_numbers_of_weighting_are_the_plain_loss_and_the_highest_row():
    metrics = {"CEL": [{"BAcc": 0.41}], "CEL-CB": [{"BAcc": math.nan}], "FL-ES": [{"BAcc": 0.50}, {"BAcc": 0.54}]}
    plain, highest = headlines(3, metrics)
    assert (plain.row, plain.column) == ("BAcc", "CEL") and (highest.row, highest.column) == ("BAcc", "FL-ES")
    assert plain.words == "hierarchical network, Adam, plain cross-entropy: balanced accuracy"
    assert highest.words == "hierarchical network, Adam, FL-ES: the highest of 2, so too good for a new set"
    assert headlines(5, {"CEL": [{"BAcc": math.nan}]}) == (), "all failed"
