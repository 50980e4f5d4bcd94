"""An image of one colour is answered with a remark, the same in Python and in the graph."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from melano_tf.serving.image_remarks import ONE_COLOUR, remark_on, remarks_on
from tests.papers.tiny import Finished
from tests.serving.conftest import Models
from tests.serving.pictures import FILES, encoded


def test_the_remark_is_the_same_in_the_graph() -> None:
    rng = np.random.default_rng(11)
    images = []
    for share in np.linspace(0.0, 0.03, 40):  # around the 1 % that may differ
        for spread in (0, 7, 8, 9, 40):  # around the 8 grey levels
            image = np.full((13, 9, 3), rng.integers(0, 200), np.uint8)
            image[rng.random(image.shape) < share] += np.uint8(spread)
            images.append(image)
    expected = [remark_on(image) for image in images]
    found = [text.decode() for text in remarks_on(np.stack(images)).numpy()]
    assert found == expected
    assert 20 < expected.count(ONE_COLOUR) < len(images) - 20
    assert remark_on(np.zeros((5, 5, 3), np.uint8)) == ONE_COLOUR


def test_an_image_of_one_colour_is_answered_with_a_remark(
    models: Models, tmp_path: Path, inside: Callable[..., Finished]
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "black.png").write_bytes(encoded(np.zeros((60, 50, 3), np.uint8), "PNG"))
    (folder / "photo.jpg").write_bytes(FILES["photo.jpg"]())
    for name in ("zoome", "seven"):
        for way, model in {"file": models.files[name], "graph": models.exports[name].folder}.items():
            out = tmp_path / name / way
            done = inside("predict", "--model", str(model), "--input", str(folder), "--out", str(out))
            assert done.code == 0, done.errors
            black, photo = json.loads((out / "predictions.json").read_text())
            assert (black["remark"], photo["remark"]) == (ONE_COLOUR, "")
            assert black["decision"] is not None
            line = next(line for line in done.shown.splitlines() if line.startswith("black.png: "))
            assert line.endswith(f"; {ONE_COLOUR}")
