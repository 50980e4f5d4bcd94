"""Pictures as another camera shows them: what changes, how strongly, and what does not."""

import cv2
import numpy as np
import pytest

from melano_tf.phantoms.skin.other_cameras import CHANGES, changed


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """A lopsided picture of smooth skin with an edge, uint8 (60, 90, 3)."""
    rng = np.random.default_rng(3)
    smooth = cv2.resize(rng.uniform(110, 190, (6, 9, 3)), (90, 60), interpolation=cv2.INTER_CUBIC)
    smooth[20:45, 25:70] *= 0.5
    return np.clip(smooth, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", CHANGES)
def test_a_stronger_change_changes_more_and_the_same_seed_the_same(name: str, picture: np.ndarray) -> None:
    kept = picture.copy()
    seen = [changed(picture, name, strength, (5, 1)) for strength in CHANGES[name].strengths]
    far = [float(np.abs(one.astype(int) - picture).mean()) for one in seen]
    assert 0 < far[0] < far[1] < far[2], far
    for one, strength in zip(seen, CHANGES[name].strengths, strict=True):
        assert one.shape == picture.shape and one.dtype == np.uint8
        np.testing.assert_array_equal(one, changed(picture, name, strength, (5, 1)))
    np.testing.assert_array_equal(picture, kept)


def test_each_change_is_what_it_is_called(picture: np.ndarray) -> None:
    grey = np.full((40, 70, 3), 100, np.uint8)
    casts = [changed(grey, "cast", 20, (0, image))[0, 0].tolist() for image in range(20)]
    assert {tuple(one) for one in casts} == {(120, 100, 80), (80, 100, 120)}
    dark = changed(grey, "vignette", 50, (0, 0))
    assert dark[0, 0].tolist() == dark[-1, -1].tolist() == [50, 50, 50] and abs(int(dark[20, 35, 0]) - 100) <= 1
    assert changed(grey, "blur", 2, (0, 0)).tolist() == grey.tolist()  # nothing to blur
    edge = np.zeros((40, 70, 3), np.uint8)
    edge[:, 35:] = 200
    row = changed(edge, "blur", 2.5, (0, 0))[20, :, 0].astype(float)  # a standard deviation of 1 px
    wanted = cv2.GaussianBlur(edge, (0, 0), 1.0)[20, :, 0]
    np.testing.assert_array_equal(row, wanted)
    few, many = ((changed(picture, "hair", count, (7, 2)) != picture).any(axis=2).mean() for count in (5, 25))
    assert 0 < few < many < 0.5
    _, coded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 20])
    again = cv2.cvtColor(cv2.imdecode(coded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(changed(picture, "jpeg", 20, (0, 0)), again)
