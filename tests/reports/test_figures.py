"""Figures: what is drawn lies where it should, files are whole PNGs."""

from pathlib import Path

import cv2
import matplotlib.pyplot
import numpy as np
import pytest
import shapely
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle

from melano_tf.reports.figures import CamRow, bar_length, blank_figure, cam_sheet, save_figure, slide_map_figure


def thumbnail(height: int = 40, width: int = 30) -> tuple[np.ndarray, np.ndarray]:
    values = np.full((height, width), np.nan)
    values[: height // 2] = 0.5
    return np.full((height, width, 3), 240, np.uint8), values


@pytest.mark.parametrize(
    ("width_um", "expected"), [(4000, 1000), (3999, 500), (2220 * 0.499, 200), (100, 20), (8, 2), (79_000, 10_000)]
)
def test_scale_bar_has_a_round_length(width_um: float, expected: float) -> None:
    assert bar_length(width_um) == expected


def test_slide_map_draws_outline_and_scale_bar_to_scale() -> None:
    image, values = thumbnail()
    outline = shapely.MultiPolygon(
        [shapely.Polygon([(0, 0), (320, 0), (320, 320), (0, 320)], [[(80, 80), (160, 80), (160, 160), (80, 160)]])]
    )
    figure = slide_map_figure(image, values, (8.0, 4.0), outline, "slide a", "tumour probability", scale=(32.0, 16.0))
    left, right, bar = figure.axes
    assert left.get_images()[0].get_array().shape == (40, 30, 3)
    assert left.get_aspect() == 0.5
    assert bar.get_ylabel() == "tumour probability"
    for axis in (left, right):
        (path,) = [patch.get_path() for patch in axis.patches if isinstance(patch, PathPatch)]
        # level-0 (0..320, 0..320) at 32 and 16 level-0 pixels per pixel; imshow's first pixel begins at -0.5
        np.testing.assert_allclose(path.get_extents().get_points(), [[-0.5, -0.5], [9.5, 19.5]])
        assert len(path.vertices) == 10  # the hole is drawn too
        (scale,) = [patch for patch in axis.patches if isinstance(patch, Rectangle)]
        assert scale.get_width() * 8.0 == pytest.approx(50)
    assert "50 µm" in [text.get_text() for text in left.texts]
    np.testing.assert_array_equal(left.get_images()[0].get_array(), image)
    assert (np.asarray(right.get_images()[0].get_array())[20:] == 240).all()


@pytest.mark.parametrize("shape", [(40, 30), (30, 200)])
def test_figures_are_written_whole(tmp_path: Path, shape: tuple[int, int]) -> None:
    image, values = thumbnail(*shape)
    for outline in (None, shapely.box(1, 1, 9, 9), shapely.MultiPolygon()):
        save_figure(tmp_path / "map.png", slide_map_figure(image, values, 8.0, outline, "a", "b"))
    written = cv2.imread(str(tmp_path / "map.png"))
    assert written is not None and min(written.shape[:2]) > 200
    assert [path.name for path in tmp_path.iterdir()] == ["map.png"]
    assert matplotlib.pyplot.get_fignums() == []


def drawn(figure: Figure) -> np.ndarray:
    """Its pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def test_text_is_drawn_as_it_stands_and_powers_of_ten_as_powers() -> None:
    pixels = []
    for figure in (blank_figure(4, 3), Figure(figsize=(4, 3), layout="constrained")):
        as_text = {"parse_math": False} if pixels else {}
        axis = figure.subplots()
        axis.plot([0, 1], [1, 1e5], label="$5_$")
        axis.set_yscale("symlog", linthresh=1)
        axis.set_xticks([0, 1], ["a$b$c", "$5_$"], **as_text)
        axis.set_title(r"slide $5_$, $\frac$", **as_text)
        axis.text(0.1, 10, "a$b$c\n$5_$", **as_text)
        for text in axis.legend().get_texts():
            text.set(**as_text)
        figure.suptitle("price$5_$.jpg", **as_text)
        pixels.append(drawn(figure))
    np.testing.assert_array_equal(*pixels)
    figure = blank_figure(4, 3)
    figure.subplots().bar(["$5_$", "b"], [1, 2])
    assert drawn(figure).min() < 255


def test_names_with_dollars_head_maps_and_sheets(tmp_path: Path) -> None:
    image, values = thumbnail()
    save_figure(tmp_path / "map.png", slide_map_figure(image, values, 8.0, None, "slide $5_$", "of $5_$"))
    save_figure(tmp_path / "cam.png", cam_sheet([CamRow("$5_$", image, {"$5_$": values}, {"$5_$": "$5_$"})], "$5_$"))
    assert all(cv2.imread(str(tmp_path / name)) is not None for name in ("map.png", "cam.png"))


def test_cam_sheet(tmp_path: Path) -> None:
    tile = np.zeros((16, 16, 3), np.uint8)
    rows = [
        CamRow(f"tile {i}", tile, {"VGG16": np.zeros((16, 16)), "SeaNet": np.ones((16, 16))}, {"SeaNet": "p = 0.9"})
        for i in range(2)
    ]
    figure = cam_sheet(rows, "Figure 6", "chosen so")
    titles = [axis.get_title() for axis in figure.axes[:6]]
    assert titles == ["tile 0", "VGG16", "SeaNet", "tile 1", "VGG16", "SeaNet"]
    assert figure.axes[2].get_xlabel() == "p = 0.9"
    save_figure(tmp_path / "cam.png", figure)
    assert cv2.imread(str(tmp_path / "cam.png")) is not None
    with pytest.raises(ValueError, match="every row needs"):
        cam_sheet([*rows, CamRow("x", tile, {"VGG16": np.zeros((16, 16))})], "t")
    with pytest.raises(ValueError, match="at least one"):
        cam_sheet([], "t")
