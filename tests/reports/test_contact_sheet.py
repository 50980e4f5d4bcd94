from pathlib import Path

import cv2
import numpy as np
import pytest

from melano_tf.reports.contact_sheet import contact_sheet


def test_every_picture_stands_in_its_place(tmp_path: Path) -> None:
    colours = [(220, 30, 30), (30, 200, 30), (30, 30, 220), (220, 200, 20), (20, 200, 200)]
    images = [np.full((40, 40 + 10 * place, 3), colour, np.uint8) for place, colour in enumerate(colours)]
    path = contact_sheet(images, [f"picture {place}" for place in range(5)], 3, tmp_path / "s" / "a.png", "five")
    sheet = cv2.imread(str(path))[..., ::-1].astype(int)
    centres = []
    for colour in colours:
        y, x = np.nonzero(np.abs(sheet - colour).max(axis=2) < 3)
        assert len(y) > 500, colour
        centres.append((y.mean(), x.mean()))
    assert centres[0][0] == pytest.approx(centres[2][0], abs=8) and centres[0][1] < centres[1][1] < centres[2][1]
    assert centres[3][0] > centres[0][0] + 50 and centres[3][1] < centres[4][1]
    assert not list(path.parent.glob(".*")), "written atomically"


def test_a_file_name_with_two_dollars_is_no_maths(tmp_path: Path) -> None:
    image = np.zeros((8, 16, 3), np.uint8)
    sheet = contact_sheet([image, image], ["price$5_$.jpg", "a$b$c"], 2, tmp_path / "s.png", r"$5_$ of $\frac$")
    assert cv2.imread(str(sheet)) is not None


def test_one_picture_and_wrong_inputs(tmp_path: Path) -> None:
    image = np.zeros((8, 16, 3), np.uint8)
    assert contact_sheet([image], [""], 6, tmp_path / "one.png").stat().st_size > 0
    for images, labels, columns in (([], [], 3), ([image], [], 3), ([image], ["a"], 0)):
        with pytest.raises(ValueError, match="pictures"):
            contact_sheet(images, labels, columns, tmp_path / "b.png")
