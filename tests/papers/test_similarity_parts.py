"""Parts of the similarity recipe: settings, counts by hand, the official tables, tables of results."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from melano_tf.dermoscopy.image_files import ImageHeader
from melano_tf.dermoscopy.isic_records import read_isic2019
from melano_tf.errors import InputError
from melano_tf.evaluation.multiclass_metrics import multiclass_intervals
from melano_tf.evaluation.retrieval import retrieve
from melano_tf.papers.plan import chosen_groups
from melano_tf.papers.similarity import data_set_counts, tables
from melano_tf.papers.similarity.partition import Parts, draw
from melano_tf.papers.similarity.settings import (
    COMBINATIONS,
    RECIPE,
    SOURCE_SHARES,
    STEPS,
    ClusterSettings,
    EdgeSettings,
    EvaluationSettings,
    PartitionSettings,
    SimilaritySettings,
    TransferSettings,
    preset,
)
from melano_tf.papers.similarity.students import Judged, Student
from melano_tf.papers.similarity.tables import OPTIMISTIC, accuracy, best_of, chance, highest, judged_part, result_table
from melano_tf.papers.zoome.settings import preset as zoome
from melano_tf.pipelines.augment import sample_seeds
from melano_tf.pipelines.image_batches import CachedImages
from melano_tf.pipelines.image_settings import ImageAugmentSettings
from melano_tf.reports.table_layout import markdown
from melano_tf.reports.tables import Table

CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")


def records() -> pd.DataFrame:
    rows = [
        ("a", "HAM", "MEL", "anterior torso"),
        ("b", "HAM", "NV", "Head/Neck"),
        ("c", "BCN", "NV", "palms/soles"),
        ("d", "unnamed", "NV", None),
        ("e", "MSK", "BKL", "unknown"),
    ]
    return pd.DataFrame(rows, columns=["image_id", "source", "label", "site_written"])


def cell(table: pd.DataFrame, row: str, column: str, what: str = "ours") -> float:
    [value] = table[(table["row"] == row) & (table["column"] == column)][what]
    return value


def test_the_papers_preset_is_the_paper_and_the_demo_says_what_it_changes() -> None:
    assert RECIPE.changes(preset("paper")) == []
    changed = {name: here for name, here, _ in RECIPE.changes(preset("demo"))}
    assert changed["network.student"] == "standin_residual" and changed["network.input_px"] == 48
    assert not any(name.startswith("phantom") for name in changed)
    assert list(COMBINATIONS.values()) == [(1,), (2,), (3,), (4,), (1, 2), (2, 3), (3, 4), (2, 3, 4), (1, 2, 3, 4)]


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"tables": (1, 4)}, "--tables 1,4: give numbers of 1, 2, 3, 5, 6"),
        ({"figures": (8,)}, "--figures 8: give numbers of 3, 5, 6, 7"),
        ({"steps": "wash"}, "no step 'wash'"),
        ({"transfer": TransferSettings(combinations="1+3")}, "no combination '1\\+3'"),
        ({"partition": PartitionSettings(splits="none")}, "at least one of cluster, lesion"),
    ],
)
def test_what_is_not_made_is_refused(wrong: dict, words: str) -> None:
    settings = dataclasses.replace(SimilaritySettings(), **wrong)
    with pytest.raises(InputError, match=words):
        settings.chosen_tables()
        settings.chosen_figures()
        chosen_groups(settings.steps, STEPS)
        settings.chosen_combinations()
        settings.chosen_splits()


FEWER = "at least 1, and fewer than the 16 clusters (--cluster.clusters)"
COMPARES = "--cluster.per-batch and --cluster.per-cluster: at least 2 (a metric loss compares)"
WARM = "temperature at least 1"


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"partition": PartitionSettings(test_clusters=16)}, "--partition.test-clusters 16: " + FEWER),
        ({"partition": PartitionSettings(test_clusters=0)}, "--partition.test-clusters 0: " + FEWER),
        (
            {"partition": PartitionSettings(sources=("MSK",))},
            "--partition.sources: only sources of --cluster.sources have clusters to divide by",
        ),
        *(
            ({part: make(sources=("ham",))}, f"--{part}.sources ham: some of {', '.join(SOURCE_SHARES)}")
            for part, make in (("cluster", ClusterSettings), ("partition", PartitionSettings), ("edges", EdgeSettings))
        ),
        ({"cluster": ClusterSettings(sources=())}, f"--cluster.sources nothing: some of {', '.join(SOURCE_SHARES)}"),
        ({"cluster": ClusterSettings(per_cluster=1)}, COMPARES),
        ({"cluster": ClusterSettings(per_batch=1)}, COMPARES),
        *(
            ({"partition": PartitionSettings(validation=share)}, f"--partition.validation {share}: between 0 and 1")
            for share in (0.0, 1.0)
        ),
        *(({"edges": EdgeSettings(share=share)}, f"--edges.share {share}: above 0, at most 1") for share in (0, 1.1)),
        *(
            ({"transfer": TransferSettings(**odd)}, "--transfer: weight above 0, distillation at least 0, " + WARM)
            for odd in ({"temperature": 0.5}, {"weight": 0.0}, {"distillation": -0.1})
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict, words: str) -> None:
    with pytest.raises(InputError) as refused:
        dataclasses.replace(SimilaritySettings(), **wrong)
    assert str(refused.value).splitlines() == ["similarity:", f"  - {words}"]


def test_a_table_without_images_is_refused_and_images_without_a_table() -> None:
    both = ": a data set needs both its CSV files and its images' folder"
    for wrong, words in (
        ({"table": (Path("a.csv"),)}, "--table without --images"),
        ({"images": (Path("i"),)}, "--images without --table"),
    ):
        with pytest.raises(InputError, match=f"^{words}{both}$"):
            SimilaritySettings(**wrong)


def test_the_least_settings_can_be() -> None:
    settings = SimilaritySettings(
        partition=PartitionSettings(test_clusters=1),
        cluster=ClusterSettings(per_batch=2, per_cluster=2),
        edges=EdgeSettings(share=1),
        transfer=TransferSettings(weight=1e-3, distillation=0, temperature=1),
    )
    assert dataclasses.replace(settings, partition=PartitionSettings(test_clusters=15)).partition.test_clusters == 15


def test_tables_1_and_2_count_by_hand() -> None:
    one = data_set_counts.source_table(records(), CLASSES)
    assert cell(one, "NV", "HAM") == 1 and cell(one, "NV", "unk") == 1 and cell(one, "all", "HAM") == 2
    assert cell(one, "SCC", "BCN") == 0 and one["ours"].notna().all()
    two = data_set_counts.site_table(records(), CLASSES)
    assert cell(two, "MEL", "A") == 1 and cell(two, "NV", "HN") == 1 and cell(two, "NV", "palms/soles") == 1
    assert cell(two, "all", "no site") == 2 and cell(two, "all", "no site", "published") == 2631
    assert two[two["row"] == "all"]["ours"].sum() == 5


def test_table_3_counts_sizes_and_joins_the_rare_ones() -> None:
    rows = pd.DataFrame({"image_id": list("abcd"), "source": ["HAM", "HAM", "BCN", "BCN"]})
    sizes = {"a": (600, 450), "b": (600, 450), "c": (1024, 1024), "d": (1022, 767)}
    headers = {name: ImageHeader("jpeg", *size, 3, 8) for name, size in sizes.items()}
    table = data_set_counts.resolution_table(rows, headers, most=1)
    assert cell(table, "600 x 450", "HAM") == 2 and cell(table, "2 others", "BCN") == 2
    assert cell(table, "all", "BCN") == 2 and set(table["column"]) == {"HAM", "BCN"}
    assert "2 others" not in set(data_set_counts.resolution_table(rows, headers, most=3)["row"])


def test_table_5_sets_both_partitions_side_by_side() -> None:
    labels = pd.Series(["MEL", "NV", "NV", "NV"])
    parts = {
        "": pd.Series(["training", "validation", "HAM test", "BCN test"]),
        ", by lesion": pd.Series(["HAM test", "training", None, "validation"], dtype=object),
    }
    table = data_set_counts.part_table(parts, labels, CLASSES)
    assert cell(table, "all", "HAM test", "published") == 3844 and cell(table, "all", "validation", "published") == 2443
    assert cell(table, "MEL", "training") == 1 and cell(table, "MEL", "HAM test, by lesion") == 1
    assert cell(table, "all", "training, by lesion") == 1
    names = list(dict.fromkeys(table["column"]))
    assert names[:4] == ["training", "validation", "HAM test", "BCN test"] and len(names) == 7


def test_the_official_tables_give_the_papers_counts(real_data) -> None:
    folder = real_data / "isic2019"
    found, _ = read_isic2019(
        ground_truth=folder / "ISIC_2019_Training_GroundTruth.csv",
        metadata=folder / "ISIC_2019_Training_Metadata.csv",
    )
    two = data_set_counts.site_table(found, CLASSES)
    compared = two[two["published"].notna()]
    assert len(compared) == 4 and (compared["published"] == compared["ours"]).all()
    one = data_set_counts.source_table(found, CLASSES)
    assert [cell(one, "all", name) for name in ("HAM", "BCN", "MSK", "unk")] == [10015, 12413, 819, 2084]


def predictions(right: int, wrong: int, part: str = "validation") -> pd.DataFrame:
    """Two classes in turn; the first `right` rows are right."""
    count = right + wrong
    target = np.arange(count) % 2
    sure = np.where(np.arange(count) < right, 0.9, 0.2)
    p1 = np.where(target == 1, sure, 1 - sure)
    return pd.DataFrame(
        {"target": target, "p_MEL": 1 - p1, "p_NV": p1, "part": part, "group": [f"l{i}" for i in range(count)]}
    )


def test_the_highest_is_chosen_on_the_validation_part_alone() -> None:
    def judged(validation: int, test: int) -> Judged:
        return Judged(pd.concat([predictions(validation, 10 - validation), predictions(test, 10 - test, "HAM test")]))

    results = {
        Student("baseline", (), "cluster"): judged(9, 9),
        Student("1", (1,), "cluster"): judged(5, 8),
        Student("4", (4,), "cluster"): judged(7, 2),
        Student("1", (1,), "lesion"): judged(1, 1),
    }
    assert highest(results, "cluster", "validation") == "4"
    assert highest(results, "lesion", "validation") == "1"
    assert accuracy(results[Student("1", (1,), "cluster")].of("HAM test")) == 0.8
    only = {Student("baseline", (), "cluster"): judged(9, 9)}
    assert highest(only, "cluster", "validation") is None


def test_the_combination_is_chosen_by_the_accuracy_of_the_table() -> None:
    """A tie is wrong in Table 6, also where the true class stands first."""
    rows = predictions(7, 3)
    tied = rows.copy()
    tied.loc[[2, 4], ["p_MEL", "p_NV"]] = 0.5  # both melanomas
    assert rows["target"][[2, 4]].tolist() == [0, 0]
    assert accuracy(tied) == 0.5
    found = multiclass_intervals(
        tied["target"].to_numpy(), tied[["p_MEL", "p_NV"]].to_numpy(), tied["group"].tolist(), ["MEL", "NV"], repeats=9
    )
    assert found.overall["Acc"].value == accuracy(tied)
    results = {
        Student("1", (1,), "cluster"): Judged(tied),
        Student("4", (4,), "cluster"): Judged(predictions(6, 4)),
    }
    assert highest(results, "cluster", "validation") == "4"


def test_the_best_of_the_combinations_on_a_test_stands_beside_and_is_marked() -> None:
    """The validation part chooses 4, this test would choose 1; of the classes' F1 each takes its own best."""
    parts = {"1": (5, 8), "4": (7, 2), "baseline": (9, 9)}
    results = {
        Student(name, (int(name),) if name.isdigit() else (), "cluster"): Judged(
            pd.concat([predictions(v, 10 - v), predictions(t, 10 - t, "HAM test")])
        )
        for name, (v, t) in parts.items()
    }
    settings = dataclasses.replace(preset("demo"), evaluation=EvaluationSettings(repeats=20))
    cohort = SimpleNamespace(classes=("MEL", "NV"))
    found = judged_part(settings, cohort, results, "HAM test", {"cluster": highest(results, "cluster", "validation")})
    accuracies = {name: one.overall["Acc"].value for name, one in found.items()}
    assert accuracies == {"1": 0.8, "4": 0.2, "baseline": 0.9, "highest": 0.2, OPTIMISTIC: 0.8}
    assert "optimistic" in OPTIMISTIC
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 60)
    three = [
        multiclass_intervals(y, rng.dirichlet(np.ones(3), 60), list(map(str, range(60))), list("abc"), repeats=20)
        for _ in range(3)
    ]
    best = best_of(three)
    by_class = {name: [one.by_class[name]["F1"].value for one in three] for name in "abc"}
    assert len({int(np.argmax(values)) for values in by_class.values()}) > 1  # no network is the best of all classes
    assert all(best.by_class[name]["F1"].value == max(values) for name, values in by_class.items())


def test_no_training_image_gets_black_corners() -> None:
    """Black edges are what the third step removes; ZooME's turns, filled as torchvision does, keep theirs."""
    pixels = np.full((200, 32, 32, 3), 180, np.uint8)
    aspects = np.tile([4 / 3, 1.0], 100).astype(np.float32)
    seeds = sample_seeds(0, 1, np.arange(200))
    cache: Any = SimpleNamespace(stored_px=32, image=lambda row: pixels[row])

    def black(augment: ImageAugmentSettings) -> float:
        """Share of images with a black pixel in a corner."""
        found = np.asarray(CachedImages(cache, 32, augment).tensor(np.arange(200), aspects, seeds))
        return float((found[:, [0, 0, -1, -1], [0, -1, 0, -1]].max(axis=-1) < 20).any(axis=1).mean())

    for name in ("paper", "demo"):
        assert preset(name).augment.rotation == 30.0  # it does turn
        assert black(preset(name).augment) == 0.0
    assert black(zoome("paper").augment) > 0.6


def test_result_tables_stand_beside_the_published_cells() -> None:
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 8, 80), rng.dirichlet(np.ones(8), 80)
    found = multiclass_intervals(y, p, [f"l{i // 2}" for i in range(80)], CLASSES, repeats=50)
    models = {"baseline": found, "highest": found, "baseline, by lesion": found}
    accuracies = result_table(models, 6, CLASSES)
    assert cell(accuracies, "Acc", "baseline", "published") == 0.6794
    assert cell(accuracies, "Acc", "highest", "published") == 0.7253
    assert cell(accuracies, "Acc", "baseline, by lesion") == pytest.approx(found.overall["Acc"].value)
    assert np.isnan(cell(accuracies, "Acc", "2+3"))  # not run
    by_class = result_table(models, 9, CLASSES)
    assert cell(by_class, "SCC", "highest", "published") == 0.2
    assert np.isnan(cell(by_class, "SCC", "baseline", "published"))
    text = markdown(Table("Table 9", by_class, models_down=True, unit="lesions", part="test"))
    assert "40 test lesions" in text and "| baseline, by lesion |" in text


def test_chance_of_a_hit_leaves_the_own_lesion_out() -> None:
    labels, groups = np.array([0, 0, 0, 1]), np.array(["a", "a", "b", "c"])
    # First two: one of two others is of their class; third: two of three; fourth: none, and so it is no query.
    assert chance(labels, groups) == pytest.approx((0.5 + 0.5 + 2 / 3) / 3)
    assert np.isnan(chance(labels[[0, 1, 3]], groups[[0, 1, 3]])), "nobody has another lesion"


def test_chance_is_the_recall_of_embeddings_that_know_nothing() -> None:
    """Of the same queries: those of a lesion alone in its class are left out of both."""
    rng = np.random.default_rng(3)
    labels, groups = np.repeat([0, 0, 1, 1, 2, 3], [3, 2, 2, 4, 2, 1]), np.repeat(np.arange(6), [3, 2, 2, 4, 2, 1])
    found = [retrieve(rng.normal(size=(14, 6)), labels, groups, recalls=(1,))["Recall@1"] for _ in range(2000)]
    assert np.isnan(found[0]).sum() == 3
    assert chance(labels, groups) == pytest.approx(np.nanmean(found), abs=0.01)


def test_a_plain_draw_by_cluster_speaks_of_images() -> None:
    count = 40
    records = pd.DataFrame(
        {
            "source": "HAM",
            "label": ["MEL"] + ["NV"] * (count - 1),
            "cluster": np.arange(count) % 4,
            "image_id": [f"i{n}" for n in range(count)],
            "group": [f"L{n // 2}" for n in range(count)],
        }
    )
    settings = dataclasses.replace(SimilaritySettings(), partition=PartitionSettings(test_clusters=2, sources=("HAM",)))
    with pytest.raises(InputError, match="class MEL: 1 image outside the test, of 1 in all"):
        draw(settings, records, "cluster")
    with pytest.raises(InputError, match="class MEL: 1 lesion outside the test"):
        draw(settings, records, "lesion")


@pytest.mark.parametrize(
    ("part", "number", "words"), [("validation", 6, "20 judged lesions"), ("HAM test", 8, "20 test lesions")]
)
def test_tables_say_whose_lesions_they_count(
    monkeypatch: pytest.MonkeyPatch, part: str, number: int, words: str
) -> None:
    """The validation part's were called test lesions."""
    rows = pd.concat([predictions(14, 6), predictions(12, 8, "HAM test")], ignore_index=True)
    demo = preset("demo")
    settings = dataclasses.replace(
        demo,
        partition=dataclasses.replace(demo.partition, splits="cluster"),
        evaluation=EvaluationSettings(repeats=20),
    )
    sides = pd.DataFrame({"source": "HAM", "side_cluster": ["validation", "test"]})
    shown: list[Table] = []
    monkeypatch.setattr(tables, "show", lambda work, name, table: shown.append(table) or [])
    monkeypatch.setattr(tables, "parts_of", lambda work: Parts(sides, {"cluster": ()}, {"cluster": ()}))
    monkeypatch.setattr(tables, "results_of", lambda work: {Student("baseline", (), "cluster"): Judged(rows)})
    cohort = SimpleNamespace(classes=("MEL", "NV"))
    work: Any = SimpleNamespace(settings=settings, value=lambda name: cohort)
    tables.result_tables(work, part, [number])
    [table] = shown
    assert words in markdown(table)
