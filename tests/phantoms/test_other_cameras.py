"""Pictures as another camera shows them: what changes, how strongly, and what does not."""

import dataclasses

import cv2
import numpy as np
import pytest

from melano_tf.phantoms.skin.other_cameras import CHANGES, changed, drawn_change


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


def test_a_training_picture_is_changed_as_often_as_asked_by_every_camera_and_by_its_seed_alone(
    picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = picture.copy()
    many = [drawn_change(picture, (9, place), 0.3) for place in range(400)]
    share = np.mean([(one != picture).any() for one in many])
    assert 0.23 < share < 0.37
    assert (drawn_change(picture, (9, 4), 1.0) == drawn_change(picture, (9, 4), 1.0)).all()
    assert all((drawn_change(picture, (9, place), 0.0) == picture).all() for place in range(20))
    np.testing.assert_array_equal(picture, kept)
    asked: dict[str, list[float]] = {}
    for name, one in CHANGES.items():

        def noted(shown: np.ndarray, strength: float, _: np.random.Generator, own: str = name) -> np.ndarray:
            asked.setdefault(own, []).append(strength)
            return shown

        monkeypatch.setitem(CHANGES, name, dataclasses.replace(one, change=noted))  # type: ignore[arg-type]
    for place in range(600):
        drawn_change(picture, (9, place), 1.0)
    assert asked.keys() == CHANGES.keys()
    for name, strengths in asked.items():
        low, high = min(CHANGES[name].strengths), max(CHANGES[name].strengths)
        assert low <= min(strengths) < low + 0.1 * (high - low) and high - 0.1 * (high - low) < max(strengths) <= high
        assert 80 < len(strengths) < 160
