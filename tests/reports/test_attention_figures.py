import numpy as np
import pytest

from melano_tf.reports.attention_figures import Attended, AttendedImage, attended_sheet, enlarged
from melano_tf.reports.figures import save_figure


def line(names: tuple[str, ...]) -> AttendedImage:
    draw = np.random.default_rng(0)
    models = {n: Attended(draw.uniform(size=(3, 3)), draw.uniform(size=(3, 3)), "MEL 0.5") for n in names}
    return AttendedImage("Melanoma", draw.integers(0, 256, (24, 24, 3), np.uint8), models)


def test_a_map_is_stretched_and_enlarged() -> None:
    found = enlarged(np.array([[2.0, 4.0], [2.0, 6.0]]), (20, 30))
    assert found.shape == (20, 30)
    assert found.min() == 0 and found[-1, -1] == 1 and found[0, -1] == pytest.approx(0.5)
    assert (np.diff(found[-1]) >= 0).all(), "bilinear, without overshoot"
    assert (enlarged(np.full((3, 3), 7.0), (9, 9)) == 0).all()


def test_a_sheet_has_an_image_and_two_maps_of_each_model(tmp_path) -> None:
    figure = attended_sheet([line(("CEL", "FL")), line(("CEL", "FL"))], "CBAM", "chosen by chance")
    axes = [axis for axis in figure.axes if axis.get_images() and axis.get_label() != "<colorbar>"]
    assert len(axes) == 2 * 5
    titles = [axis.get_title() for axis in axes[:5]]
    assert titles == ["image", "CEL\nspatial", "strongest\nchannel", "FL\nspatial", "strongest\nchannel"]
    assert axes[1].get_xlabel() == "MEL 0.5"
    assert save_figure(tmp_path / "sheet.png", figure).stat().st_size > 10_000


def test_rows_of_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match="every row needs"):
        attended_sheet([line(("CEL",)), line(("FL",))], "")
    with pytest.raises(ValueError, match="at least one image"):
        attended_sheet([], "")
