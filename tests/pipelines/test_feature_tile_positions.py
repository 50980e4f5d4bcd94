"""Tiles of all formats lie where they were cut; what cannot lie on a slide is refused."""

from pathlib import Path

import numpy as np
import pytest

from melano_tf.errors import InputError
from melano_tf.features.feature_file import open_features
from melano_tf.pipelines.feature_tile_positions import tile_boxes
from melano_tf.slides.slide import Slide
from tests.features.files import numbers, write_clam, write_stamp, write_trident
from tests.pipelines.small_slides import MPP, write_slide_file

CORNERS = np.array([[0, 0], [512, 0], [512, 256]])  # level-0 px at 0.5 µm/px


def test_every_format_lies_at_the_same_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = numbers(3)[0]
    files = {
        "trident": open_features(write_trident(tmp_path / "a.h5", features, CORNERS)),
        "clam": open_features(write_clam(tmp_path / "b.h5", features, CORNERS)),
        "stamp": open_features(write_stamp(tmp_path / "c.h5", features, CORNERS * MPP, tile_size_um=256.0)),
    }
    side = {"trident": 512, "clam": 256, "stamp": 512}  # CLAM's file does not say: its smallest step
    with Slide(write_slide_file(tmp_path / "s.tiff", 1)) as slide:
        for origin in ((0, 0), (-7, 30)):
            monkeypatch.setattr(slide, "origin", origin)
            for name, file in files.items():
                boxes = tile_boxes(file, slide)
                np.testing.assert_allclose(boxes[["x", "y"]], CORNERS - origin)
                np.testing.assert_allclose(boxes[["w0", "h0"]], side[name])


def test_what_cannot_lie_on_the_slide(tmp_path: Path) -> None:
    features = numbers(3)[0]
    with Slide(write_slide_file(tmp_path / "s.tiff", 1)) as slide:
        far = open_features(write_trident(tmp_path / "far.h5", features, CORNERS + np.array([0, 700])))
        with pytest.raises(InputError, match="1 of 3 tiles lie outside of the slide"):
            tile_boxes(far, slide)
        unknown = write_stamp(tmp_path / "old.h5", features, CORNERS, tile_size_um=None, unit=None)
        with pytest.raises(InputError, match="in which unit"):
            tile_boxes(open_features(unknown), slide)
        one = write_clam(tmp_path / "one.h5", features[:1], CORNERS[:1])
        with pytest.raises(InputError, match="holds one only"):
            tile_boxes(open_features(one), slide)
