"""From tiles to slides, and from magnifications to one answer, by hand-computed values."""

import numpy as np
import pandas as pd
import pytest

from melano_tf.evaluation.slide_scores import (
    How,
    aggregation_words,
    class_scores,
    fuse,
    magnified_slide_scores,
    slide_score,
    slide_scores,
    slide_threshold,
)

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # what is undefined is told by NaN alone

P = [0.9, 0.5, 0.1, 0.4]


def test_three_ways_to_a_slides_score() -> None:
    assert slide_score(P, "mean") == pytest.approx(0.475)
    assert slide_score(P, "majority") == 0.5  # 0.5 itself counts
    assert slide_score(P, "majority", threshold=0.45) == 0.5
    assert slide_score(P, "top", top=2) == pytest.approx(0.7)
    assert slide_score(P, "top", top=99) == pytest.approx(0.475)
    for wrong, said in (
        (([], "mean"), "tiles' probabilities have shape (0,); a slide needs one tile at least"),
        (([[0.1]], "mean"), "tiles' probabilities have shape (1, 1); a slide needs one tile at least"),
        ((P, "median"), "aggregation 'median': choose one of mean, majority, top"),
    ):
        with pytest.raises(ValueError) as caught:
            slide_score(*wrong)
        assert str(caught.value) == said


def test_a_slides_score_is_in_double_precision_and_what_is_not_said() -> None:
    single = np.array([0.1, 0.2, 0.4], np.float32)
    assert slide_score(single, "mean") == sum(float(p) for p in single) / 3
    assert slide_score(single, "majority", threshold=float(single[2]) + 1e-9) == 0
    p = np.arange(12) / 12
    many = pd.DataFrame({"slide_id": "a", "magnification": "4x", "p0": 1 - p, "p1": p})
    for how, wanted in (("top", 6.5 / 12), ("majority", 0.5)):
        assert magnified_slide_scores(many, ["p1"], how)["p1"][0] == pytest.approx(wanted)
        assert class_scores(many, ["p0", "p1"], how)["p1"][0] == pytest.approx(wanted)
    assert class_scores(many, ["p0", "p1"], "majority", threshold=0.8)["p1"][0] == pytest.approx(2 / 12)
    assert all(fuse(single[None], how).dtype == np.float64 for how in ("mean", "log-odds"))


def test_slides_keep_their_order_and_facts() -> None:
    tiles = pd.DataFrame({"slide_id": list("bbaab"), "patient_id": list("qqppq"), "p1": [0.0, 1.0, 0.2, 0.4, 0.5]})
    found = slide_scores(tiles, ["p1"], "mean")
    assert found["slide_id"].tolist() == ["b", "a"]
    assert found["patient_id"].tolist() == ["q", "p"]
    assert found["p1"].tolist() == pytest.approx([0.5, 0.3])
    assert found["tiles"].tolist() == [3, 2] and found["tiles"].dtype == np.int64


def test_every_way_reaches_the_slides() -> None:
    tiles = pd.DataFrame({"slide_id": list("aaabb"), "p1": [0.9, 0.6, 0.1, 0.5, 0.2]})

    def found(*how) -> list[float]:
        return slide_scores(tiles, ["p1"], *how)["p1"].tolist()

    assert found("majority") == pytest.approx([2 / 3, 1 / 2])
    assert found("majority", 10, 0.7) == pytest.approx([1 / 3, 0])
    assert found("top", 2) == pytest.approx([0.75, 0.35])
    both = slide_scores(tiles.assign(p0=1 - tiles["p1"]), ["p0", "p1"], "top", 1)
    assert both[["p0", "p1"]].to_numpy() == pytest.approx(np.array([[0.9, 0.9], [0.8, 0.5]]))
    many = pd.DataFrame({"slide_id": ["a"] * 12, "p1": np.arange(12) / 12})
    assert slide_scores(many, ["p1"], "top")["p1"][0] == slide_score(many["p1"], "top") == pytest.approx(6.5 / 12)


def test_a_majority_of_several_classes_is_a_vote() -> None:
    tiles = pd.DataFrame({"slide_id": ["a"] * 3, "p0": [0.5, 0.4, 0.2], "p1": [0.3, 0.4, 0.7], "p2": [0.2, 0.2, 0.1]})
    two = slide_scores(tiles, ["p0", "p1"], "majority").iloc[0]
    assert [two["p0"], two["p1"]] == pytest.approx([0.5, 0.5])
    found = slide_scores(tiles, ["p0", "p1", "p2"], "majority").iloc[0]
    assert [found[name] for name in ("p0", "p1", "p2")] == pytest.approx([0.5, 0.5, 0.0])  # a tie is shared


def test_each_magnification_of_a_slide_counts_alike() -> None:
    """Three tiles at 40x and one at 4x: the mean of both, not of four tiles."""
    facts = {"slide_id": list("baabbb"), "magnification": ["4x", "40x", "40x", "40x", "40x", "40x"]}
    tiles = pd.DataFrame({**facts, "p1": [1.0, 0.6, 0.2, 0.1, 0.2, 0.6], "p0": [0.0, 0.4, 0.8, 0.9, 0.8, 0.4]})
    slides = magnified_slide_scores(tiles, ["p0", "p1"], "mean")
    assert slides["slide_id"].tolist() == ["b", "a"] and slides["tiles"].dtype == np.int64
    found = slides.set_index("slide_id")
    assert found["p1"].to_dict() == pytest.approx({"a": 0.4, "b": (1.0 + 0.3) / 2})
    assert (found["p0"] + found["p1"]).tolist() == pytest.approx([1.0, 1.0])
    assert found["tiles"].to_dict() == {"a": 2, "b": 4}
    shares = magnified_slide_scores(tiles, ["p1"], "majority", threshold=0.2).set_index("slide_id")["p1"]
    assert shares.to_dict() == pytest.approx({"a": 1.0, "b": (1.0 + 2 / 3) / 2})
    tops = magnified_slide_scores(tiles, ["p1"], "top", 1).set_index("slide_id")["p1"]
    assert tops.to_dict() == pytest.approx({"a": 0.6, "b": 0.8})


@pytest.mark.parametrize(
    ("how", "second_of_two", "of_three"),
    [
        ("mean", 0.4, [0.35, 0.35, 0.3]),
        ("majority", 0.75, [0.25, 0.5, 0.25]),  # of two classes by the threshold, of three by the highest
        ("top", 0.5, [0.5, 0.45, 0.35]),  # each class by its own tile: they do not add up to one
    ],
)
def test_every_class_has_its_score(how: How, second_of_two: float, of_three: list[float]) -> None:
    facts = {"slide_id": ["a"] * 3, "magnification": ["4x", "40x", "40x"]}
    two = pd.DataFrame({**facts, "p0": [0.5, 0.5, 0.9], "p1": [0.5, 0.5, 0.1]})
    found = class_scores(two, ["p0", "p1"], how, 1, 0.4)
    assert found[["p0", "p1"]].to_numpy()[0] == pytest.approx([1 - second_of_two, second_of_two])
    three = pd.DataFrame({**facts, "p0": [0.2, 0.8, 0.2], "p1": [0.4, 0.1, 0.5], "p2": [0.4, 0.1, 0.3]})
    found = class_scores(three, ["p0", "p1", "p2"], how, 1)
    assert found[["p0", "p1", "p2"]].to_numpy()[0] == pytest.approx(of_three)


def test_a_majority_is_more_than_a_half_whatever_a_tile_is_called_by() -> None:
    assert [slide_threshold(how, 0.3) for how in ("mean", "majority", "top")] == [0.3, 0.5, 0.3]


def test_a_way_is_said_in_words() -> None:
    assert [aggregation_words(how, 7) for how in ("mean", "majority", "top")] == [
        "the mean over its tiles",
        "the share of its tiles that are called it",
        "the mean of its 7 tiles that are most probable of it",
    ]


def test_late_fusion_leaves_out_what_a_slide_has_not() -> None:
    scores = [[0.2, 0.8, np.nan], [0.5, 0.5, 0.5]]
    assert fuse(scores, "mean") == pytest.approx([0.5, 0.5])
    assert fuse(scores, "log-odds") == pytest.approx([0.5, 0.5])
    sure = fuse([[0.999, 0.4, 0.4]], "log-odds")[0]
    assert sure == pytest.approx(1 / (1 + np.exp(-(np.log(999) + 2 * np.log(2 / 3)) / 3)))
    assert sure > fuse([[0.999, 0.4, 0.4]], "mean")[0]  # the sure magnification counts for more
    # 0 and 1 are taken for a millionth from them.
    assert fuse([[0.0, 1.0], [0.0, 0.5], [1.0, 0.5]], "log-odds") == pytest.approx(
        [0.5, 1 / (1 + 999_999**0.5), 1 - 1 / (1 + 999_999**0.5)], rel=1e-6
    )
    with pytest.raises(ValueError, match=r"^fusion 'vote': choose one of mean, log-odds$"):
        fuse(scores, "vote")
