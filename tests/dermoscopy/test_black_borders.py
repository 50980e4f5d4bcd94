from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from melano_tf.dermoscopy.black_borders import Border, BorderSettings, find_border
from melano_tf.errors import InputError
from melano_tf.phantoms.skin.isic_data_sets import PhantomDermoscopy, draw_dermoscopy
from melano_tf.phantoms.skin.patients import PhantomDermoscopySettings

SKIN, DARK_SKIN, PIGMENT = (226, 176, 155), (98, 66, 52), (96, 60, 45)


def _picture(height: int = 150, width: int = 200, skin: tuple[int, int, int] = SKIN, seed: int = 0) -> np.ndarray:
    """Skin with a little noise; the caller draws on it."""
    noise = np.random.default_rng(seed).normal(0, 3, (height, width, 3))
    return np.clip(np.array(skin) + noise, 0, 255).astype(np.uint8)


def _rimmed(picture: np.ndarray, centre: tuple[int, int], radius: int, black: int = 8) -> np.ndarray:
    mask = np.zeros(picture.shape[:2], np.uint8)
    cv2.circle(mask, centre, radius, 1, -1)
    return np.where(mask[..., None] > 0, picture, np.uint8(black))


def _overlap(box: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    sides = [min(box[2 + i], other[2 + i]) - max(box[i], other[i]) for i in (0, 1)]
    both = max(sides[0], 0) * max(sides[1], 0)
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return both / (areas - both)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> tuple[PhantomDermoscopy, pd.DataFrame]:
    drawn = draw_dermoscopy(
        tmp_path_factory.mktemp("phantoms"),
        PhantomDermoscopySettings(layout="isic2019", patients=60, masks=True),
        seed=3,
    )
    return drawn, pd.read_csv(drawn.truth)


def test_phantoms_with_known_fields_of_view(phantoms: tuple[PhantomDermoscopy, pd.DataFrame]) -> None:
    drawn, truth = phantoms
    overlaps, without, lost = [], 0, []
    for row in truth.itertuples():
        image = cv2.imread(str(drawn.images / f"{row.image_id}.jpg"))[..., ::-1]
        height, width = image.shape[:2]
        found = find_border(np.ascontiguousarray(image))
        assert drawn.masks is not None
        lesion = cv2.imread(str(drawn.masks / f"{row.image_id}_segmentation.png"), cv2.IMREAD_GRAYSCALE) > 0
        left, top, right, bottom = found.box
        lost.append(lesion.sum() - lesion[top:bottom, left:right].sum())
        if np.isnan(row.field_radius):
            assert not found.found, (row.image_id, found)
            assert found.box == (0, 0, width, height)
            without += 1
            continue
        assert found.found, (row.image_id, found)
        x, y, r = row.field_x, row.field_y, row.field_radius
        overlaps.append(_overlap(found.box, (max(x - r, 0), max(y - r, 0), min(x + r, width), min(y + r, height))))
        assert found.ratio < 0.2
    assert len(overlaps) > 30 and without > 60
    assert min(overlaps) > 0.9 and np.mean(overlaps) > 0.95
    assert max(lost) == 0, "nothing of any lesion is cut off"


def without_border(image: np.ndarray) -> tuple[np.ndarray, Border]:
    found = find_border(image)
    left, top, right, bottom = found.box
    return image[top:bottom, left:right], found


def test_a_field_of_view_by_hand() -> None:
    image = _rimmed(_picture(200, 200), (90, 110), 70)
    cropped, found = without_border(image)
    assert found.found and "dark rim" in found.reason
    assert _overlap(found.box, (20, 40, 161, 181)) > 0.95
    left, top, right, bottom = found.box
    np.testing.assert_array_equal(cropped, image[top:bottom, left:right])
    # Ten times as large: the same place.
    large = cv2.resize(image, (2000, 2000), interpolation=cv2.INTER_NEAREST)
    assert _overlap(find_border(large).box, tuple(10 * side for side in found.box)) > 0.95
    # Nothing is left to cut; the second time changes nothing much.
    assert _overlap(find_border(cropped).box, (0, 0, cropped.shape[1], cropped.shape[0])) > 0.95


def test_black_bars_are_cut() -> None:
    image = _picture(150, 200)
    image[:, :20], image[140:] = 5, 5
    found = find_border(image)
    assert found.found and _overlap(found.box, (20, 0, 200, 140)) > 0.97


@pytest.mark.parametrize("skin", [SKIN, DARK_SKIN])
@pytest.mark.parametrize("case", ["plain", "corners", "lesion at the border", "lesion over an edge", "hair", "dim"])
def test_what_has_no_rim_stays_whole(skin: tuple[int, int, int], case: str) -> None:
    image = _picture(skin=skin)
    pigment = tuple(int(0.45 * value) for value in skin)
    if case == "corners":  # a field of view that leaves only the corners dark
        image = _rimmed(image, (100, 75), 110)
    if case == "lesion at the border":
        cv2.circle(image, (5, 60), 50, pigment, -1)
    if case == "lesion over an edge":
        image[:, :70] = pigment
    if case == "hair":
        for x in range(0, 200, 9):
            cv2.line(image, (x, 0), (x + 30, 150), (30, 22, 20), 2)
    if case == "dim":  # an uneven lamp
        image = (image * np.linspace(0.35, 1, 200)[None, :, None]).astype(np.uint8)
    cropped, found = without_border(image)
    assert not found.found and found.box == (0, 0, 200, 150), found
    np.testing.assert_array_equal(cropped, image)


@pytest.mark.parametrize("skin", [SKIN, DARK_SKIN])
def test_a_lesion_at_the_rim_is_not_cut(skin: tuple[int, int, int]) -> None:
    """Dark pigment where the field meets the rim: the box still holds all of the field."""
    image = _picture(200, 200, skin=skin)
    cv2.circle(image, (45, 100), 30, tuple(int(0.45 * value) for value in skin), -1)
    image = _rimmed(image, (100, 100), 80, black=4)
    found = find_border(image)
    assert found.found and found.box[0] <= 22 and found.box[2] >= 179, found


@pytest.mark.parametrize("skin", [SKIN, (205, 160, 140), DARK_SKIN])
@pytest.mark.parametrize("lesion", [(110, 225), (490, 215), (300, 60), (150, 330)])
def test_a_lesion_as_dark_as_the_rim_is_kept_whole(skin: tuple[int, int, int], lesion: tuple[int, int]) -> None:
    """It covers a large part of the rim, at the left, right, top (where the picture cuts the field) and lower left."""
    image = _picture(450, 600, skin)
    shown = np.zeros((450, 600), np.uint8)
    cv2.ellipse(shown, lesion, (140, 180) if lesion[0] != 300 else (190, 130), 0, 0, 360, 1, -1)
    image[shown > 0] = tuple(int(0.35 * value) for value in skin)
    image = _rimmed(image, (300, 225), 260, black=4)
    cv2.circle(field := np.zeros((450, 600), np.uint8), (300, 225), 260, 1, -1)
    found = find_border(image)
    left, top, right, bottom = found.box
    whole = int((shown & field).sum())
    assert found.found and int((shown & field)[top:bottom, left:right].sum()) == whole, (found, whole)
    assert _overlap(found.box, (40, 0, 561, 450)) > 0.96


@pytest.mark.parametrize("case", ["bars", "ellipse", "segment", "flat", "speck"])
def test_what_is_not_bitten_out_of_a_round_field_keeps_its_own_box(case: str) -> None:
    """The circle around it goes far beyond it, into the dark."""
    image = _picture(240, 320)
    field = np.zeros((240, 320), np.uint8)
    if case == "bars":
        field[30:200, 50:290] = 1
    if case == "ellipse":  # a round one in a picture that was squeezed
        cv2.ellipse(field, (150, 118), (140, 95), 0, 0, 360, 1, -1)
    if case == "segment":  # far less than half of a disc
        cv2.circle(field, (160, 300), 180, 1, -1)
    if case == "flat":  # cut off straight, above a black bar
        cv2.circle(field, (150, 120), 110, 1, -1)
        field[190:] = 0
    if case == "speck":  # light that reaches into the rim
        cv2.circle(field, (150, 120), 100, 1, -1)
        cv2.ellipse(field, (255, 60), (26, 18), 0, 0, 360, 1, -1)
        cv2.ellipse(field, (232, 84), (30, 24), 0, 0, 360, 1, -1)
    rows, columns = np.flatnonzero(field.any(axis=1)), np.flatnonzero(field.any(axis=0))
    found = find_border(np.where(field[..., None] > 0, image, np.uint8(5)))
    own = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert found.found and np.abs(np.subtract(found.box, own)).max() <= 6, (found, own)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((60, 80, 3), np.uint8), "the picture is black"),
        (np.full((60, 80, 3), 12, np.uint8), "the picture is black"),
        (np.full((60, 80, 3), 255, np.uint8), "fills the picture"),
        (np.full((1, 1, 3), 255, np.uint8), "fills the picture"),
        (_rimmed(_picture(200, 200), (100, 100), 30), "too small for a field of view"),
    ],
)
def test_clear_answers_for_odd_pictures(image: np.ndarray, reason: str) -> None:
    cropped, found = without_border(image)
    assert not found.found and reason in found.reason
    np.testing.assert_array_equal(cropped, image)


def test_wrong_inputs() -> None:
    for image in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="expected uint8"):
            find_border(image)
    with pytest.raises(InputError, match=r"sigma must lie between 0.1 and 50, and is 0\n.*max_ratio must lie"):
        BorderSettings(sigma=0.0, max_ratio=3.0)


def test_real_pictures(real_data: Path) -> None:
    """Few of HAM's pictures have a rim; of those that are cropped, what is cut off is dark."""
    files = sorted((real_data / "isic2018" / "train_200x150").glob("*.jpg"))[::20]
    found = []
    for file in files:
        image = np.ascontiguousarray(cv2.imread(str(file))[..., ::-1])
        border = find_border(image)
        if border.found:
            left, top, right, bottom = border.box
            cut = np.ones(image.shape[:2], bool)
            cut[top:bottom, left:right] = False
            assert np.median(image[cut].max(axis=1)) < 60, file.name
            found.append(border)
    assert 0 < len(found) < 0.03 * len(files)
