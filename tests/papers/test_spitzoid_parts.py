"""The parts of the spitzoid recipe that need no training: settings, what is needed for which table, choosing rules."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tifffile

from melano_tf.errors import InputError
from melano_tf.papers.notebook import restored
from melano_tf.papers.plan import chosen_groups
from melano_tf.papers.spitzoid import figures
from melano_tf.papers.spitzoid.figures import chosen_tiles, shown_slides
from melano_tf.papers.spitzoid.method import method
from melano_tf.papers.spitzoid.settings import AGGREGATIONS, RECIPE, STEPS, SpitzoidSettings, preset
from melano_tf.run import _parse
from melano_tf.runs.settings_digest import plain
from melano_tf.slides.annotations import AnnotationSettings

PAPER = preset("paper")


def test_the_paper_preset_holds_the_papers_numbers():
    assert RECIPE.changes(PAPER) == []
    assert (PAPER.grid.tile_px, PAPER.grid.mpp, PAPER.grid.overlap, PAPER.grid.min_tissue) == (512, 1.0, 0.5, 0.2)
    assert (PAPER.split.test_share, PAPER.split.folds) == (0.3, 4)
    source = PAPER.source
    assert (source.backbone, source.input_px, source.epochs, source.batch) == ("vgg16", 224, 120, 64)
    assert (source.optimizer, source.learning_rate, source.momentum) == ("sgd", 0.001, 0.0)
    target = PAPER.target
    assert (target.aggregation, target.epochs, target.learning_rate, target.max_tiles) == ("bgas", 100, 0.001, 300)


def test_every_change_of_the_demo_is_named():
    names = {name for name, _, _ in RECIPE.changes(preset("demo"))}
    assert {"source.backbone", "source.input_px", "source.epochs", "grid.tile_px", "target.max_tiles"} <= names
    assert preset("demo").source.input_px <= 96
    for name, here, paper in RECIPE.changes(preset("demo")):
        assert here != paper, name


@pytest.mark.parametrize(
    "words, numbers",
    [
        *((["1,4,5"], (1, 4, 5)), (["5, 1"], (1, 5)), (["2"], (2,)), (["none"], ())),
        *((["1", "4"], (1, 4)), (["all"], (1, 2, 3, 4, 5))),
    ],
)
def test_tables_are_read_from_the_command_line(words, numbers):
    assert _parse(type(PAPER), ["--tables", *words], "spitzoid", PAPER).tables == numbers
    assert restored(PAPER, {"tables": " ".join(words)}).tables == numbers  # of a run that recorded the text


@pytest.mark.parametrize("words", [["6"], ["0"], [], ["one"], ["1;2"], ["1", "x"]])
def test_tables_that_are_not_there_are_refused(words):
    with pytest.raises(InputError, match=r"--tables .*: give numbers from 1 to 5, such as 4,5, or none"):
        _parse(type(PAPER), ["--tables", *words], "spitzoid", PAPER)
    with pytest.raises(InputError, match="--tables 6: give numbers from 1 to 5"):
        dataclasses.replace(PAPER, tables=(6,)).chosen_tables()


def test_steps_come_in_the_recipes_order():
    assert chosen_groups("target,tiles", STEPS) == ("tiles", "target")
    assert chosen_groups(PAPER.steps, STEPS) == STEPS
    with pytest.raises(
        InputError, match=f"^--steps tiles,train: no step 'train'; there are {', '.join(STEPS)}, or all$"
    ):
        chosen_groups("tiles,train", STEPS)


def test_numbers_that_no_run_could_go_on_with_are_all_named():
    def with_numbers(low: int, share: float, mpp: float | None) -> object:
        """Each number so far from its least, or at it (0); each share this one."""
        return dataclasses.replace(
            PAPER,
            workers=low,
            threads=low,
            source=dataclasses.replace(PAPER.source, epochs=1 + low, batch=1 + low, input_px=16 + low),
            target=dataclasses.replace(
                *(PAPER.target,),
                epochs=1 + low,
                max_tiles=1 + low,
                fallback_tiles=1 + low,
                chunk=1 + low,
                tile_threshold=share,
            ),
            split=dataclasses.replace(PAPER.split, folds=2 + low, test_share=share),
            evaluation=dataclasses.replace(PAPER.evaluation, repeats=1 + low, threshold=share),
            maps=dataclasses.replace(PAPER.maps, thumbnail_mpp=mpp),
        )

    with_numbers(0, 0.5, None).check()
    with_numbers(0, 0.01, 0.1).check()
    for share, mpp in ((0.0, 0.0), (1.0, float("inf"))):
        with pytest.raises(InputError) as refused:
            with_numbers(-1, share, mpp).check()
        assert str(refused.value).splitlines() == [
            "settings that cannot be:",
            *(f"  - {name} is 0: at least 1" for name in ("source.epochs", "source.batch")),
            "  - source.input_px is 15: at least 16",
            *(f"  - target.{name} is 0: at least 1" for name in ("epochs", "max_tiles", "fallback_tiles", "chunk")),
            "  - split.folds is 1: at least 2",
            "  - evaluation.repeats is 0: at least 1",
            *(f"  - {name} is -1: at least 0" for name in ("workers", "threads")),
            *(
                f"  - {name} is {share}: between 0 and 1"
                for name in ("split.test_share", "evaluation.threshold", "target.tile_threshold")
            ),
            f"  - maps.thumbnail_mpp is {mpp}: µm/px, above 0",
        ]


CHOSEN = "seanet-vgg16-gmp"
ALL_FOLDS = range(1, 5)


def trainings(tables: str, figures: str = "none", steps: str = "all") -> set[str]:
    """What these settings would train."""
    settings = restored(PAPER, {"tables": tables, "figures": figures, "steps": steps})
    found, _ = method(settings).wanted(chosen_groups(steps, STEPS))
    return {step.name for step in found if step.group in ("source", "target", "test")}


def sources(*names: str) -> set[str]:
    return {f"source/{name}/cohort-{fold}" for name in names for fold in ALL_FOLDS}


def test_each_table_trains_only_what_it_needs():
    table2 = sources("vgg16-gap", "seanet-vgg16-gap", "resnet50-gap", "seanet-resnet50-gap")
    targets = {f"target/{name}/cohort-{fold}" for name in AGGREGATIONS for fold in ALL_FOLDS}
    final = {"source/final", "target/final"}
    assert trainings("1") == set()
    assert trainings("4") == sources(CHOSEN) | targets
    assert trainings("5") == trainings("none", "8") == trainings("5", "8,9") == final  # and no cohort's models
    assert trainings("2") == table2
    assert trainings("3") == sources("seanet-vgg16-mlp", CHOSEN, "seanet-vgg16-gap")
    assert trainings("none", "7") == {"source/vgg16-gap/cohort-1", "source/seanet-vgg16-gap/cohort-1"}
    assert trainings("2", "6") == table2
    everything = trainings("1,2,3,4,5", "6,7,8,9")
    assert len(everything) == 6 * 4 + 3 * 4 + 2  # SeaNet-VGG16 with GAP serves Tables 2 and 3


def test_the_words_of_steps_train_what_their_tables_need():
    assert trainings("4,5", steps="tiles") == set()
    assert trainings("4,5", steps="source") == sources(CHOSEN)
    assert trainings("4,5", steps="test") == trainings("5", steps="tables") == {"source/final", "target/final"}


def test_a_target_model_stands_on_its_own_cohorts_source_model():
    plan = method(PAPER)
    for aggregation in AGGREGATIONS:
        for fold in ALL_FOLDS:
            below = plan.below([f"target/{aggregation}/cohort-{fold}"])
            assert [name for name in below if name.startswith("source/")] == [f"source/{CHOSEN}/cohort-{fold}"]
    assert "source/final" in plan.below(["target/final"])


@pytest.mark.parametrize("change", [{"threshold": 0.3}, {"repeats": 7}, {"level": 0.9}])
def test_no_training_depends_on_how_it_is_judged_or_on_memory(change):
    other = dataclasses.replace(
        PAPER,
        evaluation=dataclasses.replace(PAPER.evaluation, **change),
        target=dataclasses.replace(PAPER.target, chunk=3),
        cache_mib=7,
    )
    assert {name: step.depends for name, step in method(other).steps.items()} == {
        name: step.depends for name, step in method(PAPER).steps.items()
    }


def test_another_choice_of_models_changes_the_final_ones_alone():
    other = dataclasses.replace(
        PAPER,
        source=dataclasses.replace(PAPER.source, rival="mobilenetv2"),
        target=dataclasses.replace(PAPER.target, aggregation="bgap"),
    )
    before, after = method(PAPER).steps, method(other).steps
    assert {name for name in before if name in after and before[name].depends != after[name].depends} == {
        "target/final"
    }


def test_slides_are_shown_alternately_by_diagnosis():
    test = pd.DataFrame({"slide_id": list("abcdef"), "malignant": [0, 0, 0, 1, 1, 0]})
    assert [row["slide_id"] for row in shown_slides(test, 5)] == ["d", "a", "e", "b", "c"]
    assert len(shown_slides(test, 99)) == 6


def tile_predictions(values: list[float]) -> pd.DataFrame:
    truth = [1, 1, 1, 0, 0, 0]
    rows = list(zip("AABAAB", range(6), truth, values, strict=True))
    return pd.DataFrame(rows, columns=["slide_id", "tile", "region", "probability"])


def test_figure_6_takes_the_surest_that_both_got_right_at_most_one_a_slide():
    plain_model = tile_predictions([0.9, 0.8, 0.6, 0.1, 0.3, 0.9])
    refined = tile_predictions([0.7, 0.9, 0.6, 0.2, 0.1, 0.1])
    rows = chosen_tiles(plain_model, refined, 0.5, count=2, wrong=False)
    assert list(rows["tile"]) == [1, 2, 3]  # tile 1 before 0 (same slide), 5 was wrong, 3 before 4
    assert list(rows["region"]) == [1, 1, 0]
    assert rows["plain"].tolist() == [0.8, 0.6, 0.1]


def test_figure_7_takes_where_the_plain_model_was_most_surely_wrong():
    plain_model = tile_predictions([0.1, 0.3, 0.4, 0.9, 0.6, 0.2])
    refined = tile_predictions([0.9, 0.9, 0.3, 0.1, 0.1, 0.1])
    rows = chosen_tiles(plain_model, refined, 0.5, count=2, wrong=True)
    assert list(rows["tile"]) == [0, 3]  # tile 2 is wrong for both, 5 right for both


def test_settings_come_back_from_a_runs_record():
    settings = dataclasses.replace(
        preset("demo"), source=dataclasses.replace(preset("demo").source, extra_backbones=("mobilenetv2",))
    )
    assert restored(SpitzoidSettings(), plain(settings)) == settings


def test_figure_8_reads_outlines_as_the_tiles_were_cut(tmp_path, monkeypatch):
    """With mending on, an outline that crosses itself is drawn, and only the tumour's classes are."""
    tifffile.imwrite(
        tmp_path / "s.tiff",
        np.full((512, 512, 3), 240, np.uint8),
        tile=(256, 256),
        photometric="rgb",
        resolution=(1e4, 1e4),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    lines = {
        "Tumor": [(0, 0), (200, 200), (200, 0), (0, 200), (0, 0)],
        "Tissue": [(0, 0), (500, 0), (500, 500), (0, 0)],
    }
    features = [
        {
            "type": "Feature",
            "properties": {"classification": {"name": name}},
            "geometry": {"type": "Polygon", "coordinates": [line]},
        }
        for name, line in lines.items()
    ]
    (tmp_path / "s.geojson").write_text(json.dumps(features))
    tile = {"slide_id": ["s"], "tile": [0]}
    row = {"slide_id": "s", "label": "benign", "malignant": 0, "mpp": np.nan, "path": str(tmp_path / "s.tiff")}
    rows = pd.DataFrame([{**row, "annotation": str(tmp_path / "s.geojson"), "patient_id": "p"}])
    cohort = SimpleNamespace(
        tiles=pd.DataFrame(tile), manifest=rows, rows=lambda frame, _: frame, split=SimpleNamespace(test=("p",))
    )
    settings = dataclasses.replace(PAPER, annotation=AnnotationSettings(("tumor",), mend=True))
    tumour = SimpleNamespace(predictions=pd.DataFrame({**tile, "probability": [0.4]}))
    biopsies = SimpleNamespace(predictions=pd.DataFrame({"slide_id": ["s"], "probability": [0.3]}))
    drawn = []
    monkeypatch.setattr(figures, "write_slide_maps", lambda *given: drawn.append(given[3]) or [])
    monkeypatch.setattr(figures, "source_of", lambda *which: tumour)
    monkeypatch.setattr(figures, "target_of", lambda *which: biopsies)
    work = SimpleNamespace(run=SimpleNamespace(folder=tmp_path), settings=settings, value=lambda name: cohort)
    figures.draw_maps(work, (8,))
    assert drawn[0].area == pytest.approx(200 * 200 / 2)
