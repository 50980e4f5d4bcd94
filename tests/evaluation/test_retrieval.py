import math

import numpy as np
import pytest

from melano_tf.evaluation import retrieval
from melano_tf.evaluation.bootstrap import group_draws, mean_interval
from melano_tf.evaluation.retrieval import nearest, retrieval_intervals, retrieve

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # what is undefined is told by NaN alone


def _naive(x: np.ndarray, labels: list[str], groups: list[str], recalls: tuple[int, ...]) -> dict[str, list[float]]:
    """One query after the other."""
    found: dict[str, list[float]] = {name: [] for name in (*(f"Recall@{k}" for k in recalls), "mAP@R")}
    for query in range(len(x)):
        others = [i for i in range(len(x)) if groups[i] != groups[query]]
        cosine = {i: x[query] @ x[i] / math.sqrt((x[query] @ x[query]) * (x[i] @ x[i])) for i in others}
        others.sort(key=lambda i: (-cosine[i], i))
        hits = [labels[i] == labels[query] for i in others]
        relevant = sum(hits)
        for k in recalls:
            found[f"Recall@{k}"].append(float(any(hits[:k])) if relevant else math.nan)
        precisions = [sum(hits[: place + 1]) / (place + 1) for place in range(relevant) if hits[place]]
        found["mAP@R"].append(sum(precisions) / relevant if relevant else math.nan)
    return found


def test_by_hand() -> None:
    angles = np.radians([0, 10, 25, 60, 70])
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.array([[1], [2], [3], [4], [5]])
    found = retrieve(x, ["a", "b", "a", "a", "b"], recalls=(1, 2))
    # Neighbours in order: 0: b a a b; 1: a a a b (its b is last); 2: b a a b; 3: b a b a; 4: a a b a.
    np.testing.assert_array_equal(found["Recall@1"], [0, 0, 0, 0, 0])
    np.testing.assert_array_equal(found["Recall@2"], [1, 0, 1, 1, 0])
    # R = 2 for a, 1 for b: (0 + 1/2) / 2 for each a; 0 for each b.
    np.testing.assert_allclose(found["mAP@R"], [0.25, 0, 0.25, 0.25, 0])


@pytest.mark.parametrize("grouped", [False, True])
def test_against_loops(grouped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melano_tf.evaluation.retrieval.CHUNK_CELLS", 200)  # several chunks
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5))
    labels = rng.choice(["a", "b", "c", "once"], 60, p=[0.5, 0.3, 0.18, 0.02]).tolist()
    labels[7] = "alone"
    groups = [f"g{g}" for g in rng.integers(0, 25, 60)] if grouped else [str(i) for i in range(60)]
    found = retrieve(x, labels, groups if grouped else None, recalls=(1, 5))
    for name, values in _naive(x, labels, groups, (1, 5)).items():
        np.testing.assert_allclose(found[name], values, err_msg=name)
    assert np.isnan(found["mAP@R"][7])


def test_a_second_picture_of_the_lesion_is_no_hit() -> None:
    x = np.array([[1, 0], [1, 0.01], [0, 1], [0.1, 1], [0.6, 0.8]])
    labels, groups = ["a", "a", "b", "b", "a"], ["l1", "l1", "l2", "l2", "l3"]
    assert retrieve(x, labels)["Recall@1"].tolist() == [1, 1, 1, 1, 0]
    found = retrieve(x, labels, groups)
    assert found["Recall@1"][:2].tolist() == [1, 1], "the third picture of the class is the nearest of the others"
    assert np.isnan(found["Recall@1"][2:4]).all(), "no other lesion of this class"
    assert found["Recall@1"][4] == 0


def test_one_image_identical_points_and_zero_vectors() -> None:
    assert np.isnan(retrieve(np.ones((1, 3)), ["a"])["mAP@R"]).all()
    # All alike: those that come first are first.
    found = retrieve(np.ones((4, 3)), ["a", "b", "b", "a"])
    assert found["Recall@1"].tolist() == [0, 0, 0, 1]
    assert np.isfinite(retrieve(np.zeros((4, 3)), ["a", "b", "b", "a"])["mAP@R"]).all()
    many = ["a", *"b" * 19, *"a" * 19, "b"]
    assert retrieve(np.ones((40, 3)), many)["Recall@1"].tolist() == [0] * 20 + [1] * 19 + [0]


def test_equal_similarities_among_others_keep_their_order() -> None:
    x, labels = np.eye(2)[np.arange(60) % 2], np.random.default_rng(4).choice(["a", "b", "c"], 60).tolist()
    for name, values in _naive(x, labels, [str(i) for i in range(60)], (1, 3)).items():
        np.testing.assert_allclose(retrieve(x, labels, recalls=(1, 3))[name], values, err_msg=name)


def test_similarities_are_of_double_precision() -> None:
    """1 - 2e-10 and 1 - 5e-11, which single precision takes for equal."""
    x = np.array([[1, 0], [1, 2e-5], [1, 1e-5]], np.float32)
    assert retrieve(x, ["a", "b", "a"])["Recall@1"][0] == 1


@pytest.mark.parametrize(("cells", "queries"), [(1, [1] * 7), (14, [2, 2, 2, 1]), (27, [3, 3, 1]), (49, [7])])
def test_so_many_queries_at_a_time_as_the_limit_lets(
    monkeypatch: pytest.MonkeyPatch, cells: int, queries: list[int]
) -> None:
    seen = []

    def counted(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
        seen.append(len(hits))
        return np.zeros(len(hits))

    monkeypatch.setattr(retrieval, "CHUNK_CELLS", cells)
    monkeypatch.setattr(retrieval, "_average_precision", counted)
    retrieve(np.eye(7), list("aabbbcc"))
    assert seen == queries


def test_wrong_inputs() -> None:
    each = "one of each an image"
    for x, labels, arguments, said in (
        (np.ones((3, 2)), ["a", "b"], {}, f"embeddings (3, 2), 2 labels and 2 groups: {each}"),
        (np.array([[1.0, np.nan], [0, 1]]), ["a", "b"], {}, "embeddings hold values that are not finite"),
        (np.ones((2, 2)), ["a", "b"], {"recalls": (5, 0)}, "recalls (5, 0): at least 1"),
        (np.ones(2), ["a", "b"], {}, f"embeddings (2,), 2 labels and 2 groups: {each}"),
        (np.ones((2, 2)), ["a", "b"], {"groups": ["a"]}, f"embeddings (2, 2), 2 labels and 1 groups: {each}"),
    ):
        with pytest.raises(ValueError) as caught:
            retrieve(x, labels, **arguments)
        assert str(caught.value) == said
    assert list(retrieve(np.ones((2, 2)), ["a", "b"], recalls=())) == ["mAP@R"]


def test_the_gallery_by_its_distance_from_a_point() -> None:
    angles = np.radians([90, 10, 180, -10, 0])
    order, distances = nearest(np.array([1.0, 0.0]), np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert order.tolist() == [4, 1, 3, 0, 2]
    assert distances == pytest.approx([0, 1 - math.cos(angles[1]), 1 - math.cos(angles[1]), 1, 2])


def test_distances_lie_in_0_to_2_in_double_precision_and_equal_ones_keep_their_order() -> None:
    along = np.array([[1.0 + 1e-12, 0.0], [-1.0 - 1e-12, 0.0]] * 20)
    order, distances = nearest(np.array([1.0, 0.0]), along)
    assert order.tolist() == [*range(0, 40, 2), *range(1, 40, 2)]
    assert distances.tolist() == [0.0] * 20 + [2.0] * 20
    rng = np.random.default_rng(0)
    vectors, point = rng.normal(size=(5, 9)).astype(np.float32), rng.normal(size=9).astype(np.float32)
    point /= 10 * np.linalg.norm(point)
    found = nearest(point, vectors)[1]
    exact = sorted(1 - sum(float(a) * float(b) for a, b in zip(row, point, strict=True)) for row in vectors)
    assert found.dtype == np.float64 and found.tolist() == pytest.approx(exact, rel=1e-12)


def test_what_is_not_said() -> None:
    rng = np.random.default_rng(2)
    labels, groups = np.array([*"aaaaaa", *"bcdefg"]), np.repeat(np.arange(6), 2)
    x = rng.normal(size=(12, 3))
    plain = retrieval_intervals(x, labels, groups)  # without an answer where none of the first three groups is drawn
    said = {"exclude_groups": True, "recalls": (1, 5), "repeats": 2000, "level": 0.95, "seed": 0}
    assert plain == retrieval_intervals(x, labels, groups, **said)
    assert 0 < plain["mAP@R"].undefined != retrieval_intervals(x, labels, groups, seed=1)["mAP@R"].undefined
    other = retrieval_intervals(x, labels, groups, exclude_groups=False, recalls=(2,), repeats=50, level=0.8)
    assert list(other) == ["Recall@2", "mAP@R"] and {one.level for one in other.values()} == {0.8}
    assert other["mAP@R"].value == pytest.approx(np.nanmean(retrieve(x, labels)["mAP@R"])) != plain["mAP@R"].value


def test_intervals_resample_groups() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat(rng.choice(["a", "b"], 40), 3)
    groups = np.repeat([f"g{g}" for g in range(40)], 3)
    x = rng.normal(size=(120, 4)) + 0.8 * (labels == "a")[:, None]
    found = retrieval_intervals(x, labels, groups, repeats=400, seed=5)
    values = retrieve(x, labels, groups)
    for name, interval in found.items():
        assert interval.value == pytest.approx(np.nanmean(values[name]))
        assert interval.low < interval.value < interval.high
        assert (interval.groups, interval.undefined) == (40, 0)
    # A naive bootstrap of the same draws.
    draws = np.random.default_rng(5).multinomial(40, np.full(40, 1 / 40), size=400)
    order = np.unique(groups, return_inverse=True)[1]
    naive = [np.average(values["mAP@R"], weights=draw[order]) for draw in draws]
    low, high = np.quantile(naive, [0.025, 0.975])
    assert low - 0.1 < found["mAP@R"].low <= low and high <= found["mAP@R"].high < high + 0.1
    assert (found["mAP@R"].method, found["Recall@1"].method) == ("wider", "Wilson")
    kept = retrieval_intervals(x, labels, groups, exclude_groups=False, repeats=10)
    assert kept["Recall@1"].value == pytest.approx(retrieve(x, labels)["Recall@1"].mean())


def test_queries_without_an_answer_are_left_out_of_the_intervals() -> None:
    """The same as of the others alone: what the resamples draw of a patient of nothing else changes no mean."""
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(12), rng.integers(1, 6, 12))
    values = rng.random(len(groups)).round(1)
    index, draws = group_draws(groups, 300, 7)
    gone = rng.random(len(groups)) < 0.3
    gone[(groups == 4) | (groups == 11)] = True
    for share in (False, True):
        scores = np.where(values < 0.5, 0.0, 1.0) if share else values
        found = mean_interval(np.where(gone, np.nan, scores), index, draws, 0.9, share=share)
        wanted = mean_interval(scores[~gone], index[~gone], draws, 0.9, share=share)
        assert found == wanted and found.value == pytest.approx(scores[~gone].mean())
        assert found.groups == 12
    naive = [np.average(values[~gone], weights=draw[groups[~gone]]) for draw in draws]
    low, high = np.quantile(naive, [0.05, 0.95])
    found = mean_interval(np.where(gone, np.nan, values), index, draws, 0.9, share=False)
    assert found.low <= low + 1e-12 and high - 1e-12 <= found.high
    # Nothing at all, or a resample of those who have no answer alone.
    nothing = mean_interval(np.full(len(groups), np.nan), index, draws, 0.9, share=False)
    assert math.isnan(nothing.value) and nothing.method == "none" and nothing.repeats == 0
    one = mean_interval(np.array([0.2, 0.7, np.nan]), *group_draws(list("abc"), 400, 1), 0.9, share=False)
    assert one.undefined / 400 == pytest.approx(1 / 27, abs=0.03) and one.undefined > 0
