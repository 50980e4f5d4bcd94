"""Figures of curves: what is drawn is the data, nothing undefined breaks them, files are whole PNGs."""

from pathlib import Path

import cv2
import matplotlib.pyplot
import numpy as np
import pytest

from melano_tf.evaluation.calibration import reliability
from melano_tf.evaluation.curves import pr_band, precision_recall, roc, roc_band
from melano_tf.evaluation.interval import Interval
from melano_tf.reports.curve_figures import Drawn, pr_figure, reliability_figure, roc_figure
from melano_tf.reports.figures import save_figure

RNG = np.random.default_rng(0)
Y = RNG.integers(0, 2, 60)
P = np.round(np.clip(0.3 * Y + 0.7 * RNG.random(60), 0, 1), 2)
GROUPS = np.arange(60) // 3


def legend(axis: matplotlib.axes.Axes) -> list[str]:
    return [text.get_text() for text in axis.get_legend().get_texts()]


def test_roc(tmp_path: Path) -> None:
    curve = roc(Y, P)
    area = Interval(curve.area, 0.5, 0.9, 0, 10, 20, 0.95)
    drawn = Drawn(curve, roc_band(Y, P, GROUPS, repeats=30), area, (0.2, 0.7))
    figure = roc_figure({"fold 1": {"ours": drawn, "baseline": Drawn(roc(Y, 1 - P))}}, "ROC")
    (axis,) = figure.axes
    assert legend(axis)[1] == f"ours: AUC {curve.area:.3f} (0.500 to 0.900)"
    chance, ours, circle, other = axis.lines
    np.testing.assert_array_equal(ours.get_xydata(), np.c_[curve.fpr, curve.tpr])
    np.testing.assert_array_equal(circle.get_xydata(), [[0.2, 0.7]])
    np.testing.assert_array_equal(chance.get_xydata(), [[0, 0], [1, 1]])
    assert other.get_color() != ours.get_color()
    assert "95% bootstrap of 20 groups" in figure.get_supxlabel() and "circles" in figure.get_supxlabel()
    save_figure(tmp_path / "roc.png", figure)
    written = cv2.imread(str(tmp_path / "roc.png"))
    assert written is not None and min(written.shape[:2]) > 300
    assert matplotlib.pyplot.get_fignums() == []


def test_pr_is_drawn_interpolated() -> None:
    curve = precision_recall(Y, P)
    figure = pr_figure({"MEL": {"ours": Drawn(curve, pr_band(Y, P, GROUPS, repeats=30))}}, "PR")
    (axis,) = figure.axes
    line, chance = axis.lines
    x, y = line.get_xydata().T
    np.testing.assert_array_equal((x, y), curve.line())
    assert len(x) > 1000  # hyperbolas, not chords between the thresholds
    assert chance.get_ydata()[0] == pytest.approx(Y.mean(), abs=1e-5)
    assert legend(axis) == [f"ours: AP {curve.average_precision:.3f}", f"chance: {Y.mean():.3g}"]


def test_nine_panels_and_an_absent_class(tmp_path: Path) -> None:
    none = precision_recall(np.zeros(60), P)
    panels = {f"panel {i}": {"ours": Drawn(precision_recall(Y, P) if i else none)} for i in range(8)}
    figure = pr_figure(panels, "eight of nine")
    assert len(figure.axes) == 9 and not figure.axes[8].axison
    assert [axis.get_title() for axis in figure.axes[:8]] == list(panels)
    assert legend(figure.axes[0]) == ["ours: AP n/a"]
    save_figure(tmp_path / "pr.png", figure)
    undefined = roc_figure({"one class": {"ours": Drawn(roc(np.zeros(60), P))}}, "ROC")
    assert legend(undefined.axes[0]) == ["chance", "ours: AUC n/a"]
    save_figure(tmp_path / "roc.png", undefined)


def test_reliability(tmp_path: Path) -> None:
    before, after = reliability(Y, P, GROUPS, bins=10), reliability(Y, P**2, bins=10)
    figure = reliability_figure({"ZooME": {"before": before, "after": after}}, "reliability")
    upper, lower = figure.axes
    np.testing.assert_array_equal(upper.lines[1].get_xydata(), np.c_[before.predicted, before.observed])
    wanted = {"before": before, "after": after}
    assert legend(upper)[1:] == [
        f"{stage}: ECE of these {len(bins.count)} bins {bins.expected_error:.4f}" for stage, bins in wanted.items()
    ], "not the tables' ECE, which is of 15 bins of equal width"
    bars = upper.collections[0].get_segments()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], np.c_[before.low, before.high])
    counts, edges, _ = lower.patches[0].get_data()
    assert counts.sum() == 60 and set(before.low_edge) <= set(edges)
    assert upper.get_xlim() == lower.get_xlim()
    figure.canvas.draw()
    assert upper.get_position().x0 == pytest.approx(lower.get_position().x0, abs=1e-3)
    assert upper.get_position().width == pytest.approx(lower.get_position().width, abs=1e-3)
    save_figure(tmp_path / "reliability.png", figure)


def test_reliability_of_a_rare_class_is_zoomed(tmp_path: Path) -> None:
    rare = reliability(np.r_[np.zeros(98), 1, 1], np.linspace(0, 0.12, 100), by="mass", bins=4)
    figure = reliability_figure({"rare": {"after": rare}}, "t")
    assert figure.axes[0].get_xlim() == (0, pytest.approx(0.2))
    empty = reliability([], [])
    save_figure(tmp_path / "empty.png", reliability_figure({"empty": {"after": empty}}, "t"))
    # empty bins between full ones count 0
    gap = reliability_figure({"gap": {"x": reliability([0, 1], [0.05, 0.95], bins=10)}}, "t").axes[1]
    assert gap.patches[0].get_data().values.tolist() == [1, 0, 1]


def test_bad_input_is_refused() -> None:
    for draw in (roc_figure, pr_figure, reliability_figure):
        with pytest.raises(ValueError, match="at least one panel"):
            draw({}, "t")
    with pytest.raises(ValueError, match="needs a PrCurve"):
        pr_figure({"a": {"x": Drawn(roc(Y, P))}}, "t")
    with pytest.raises(ValueError, match="needs a RocCurve"):
        roc_figure({"a": {"x": Drawn(precision_recall(Y, P))}}, "t")
