"""Tissue and ink on pictures with known contents, near 8 µm/px."""

from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from melano_tf.slides.slide import Overview, Slide
from melano_tf.slides.tissue import TissueMask, ink_mask, otsu, tissue_mask, tissue_of

MPP = 8.0
GLASS = (243, 241, 240)
HAEMATOXYLIN, EOSIN, MELANIN = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.5, 0.7, 1.0)
PENS = {"blue": (30, 70, 180), "light blue": (70, 120, 210), "green": (20, 140, 70), "black": (25, 24, 28)}


def stain(h: float = 0.0, e: float = 0.0, m: float = 0.0) -> NDArray[np.float64]:
    """Colour by Beer-Lambert from amounts of haematoxylin, eosin and melanin."""
    density = h * np.array(HAEMATOXYLIN) + e * np.array(EOSIN) + m * np.array(MELANIN)
    return 255 * 10**-density


def with_noise(image: NDArray[np.floating] | NDArray[np.uint8], sigma: float = 3.0, seed: int = 0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def glass(height: int = 200, width: int = 260) -> NDArray[np.float64]:
    return np.full((height, width, 3), GLASS, np.float64)


def disc(shape: tuple[int, ...], x: float, y: float, radius: float) -> NDArray[np.bool_]:
    v, u = np.mgrid[: shape[0], : shape[1]]
    return (u - x) ** 2 + (v - y) ** 2 < radius**2


def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union."""
    return float((a & b).sum() / (a | b).sum())


def section() -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """A pink section with epidermis, lymphocytes and pigment, and where it is."""
    image = glass()
    tissue = disc(image.shape, 100, 100, 70)
    image[tissue] = stain(0.08, 0.28)
    image[tissue & (np.mgrid[:200, :260][0] < 55)] = stain(0.5, 0.2)
    image[disc(image.shape, 70, 130, 10)] = stain(1.2, 0.1)
    image[disc(image.shape, 110, 95, 22)] = stain(0.2, 0.2, 0.8)
    image[disc(image.shape, 130, 130, 10)] = (26, 19, 15)
    image[disc(image.shape, 80, 90, 8)] = (15, 12, 12)
    return image, tissue


def test_section_with_pigment_is_whole() -> None:
    image, wanted = section()
    mask, threshold = tissue_of(with_noise(image), MPP)
    assert threshold is not None and 15 < threshold < 100
    assert overlap(mask, wanted) > 0.97
    assert mask[disc(image.shape, 100, 100, 66)].all(), "nothing inside is dropped, not the darkest pigment either"


def test_pale_dermis_stays_beside_much_melanin() -> None:
    # Plain Otsu would part pigment from the rest here.
    image = glass()
    pale, dark = np.zeros((2, *image.shape[:2]), bool)
    pale[20:180, 20:60], dark[20:180, 60:120] = True, True
    image[pale], image[dark] = stain(0.02, 0.14), stain(0.2, 0.2, 0.9)
    plain = otsu(255 - image[..., 1])
    assert plain > 255 - stain(0.02, 0.14)[1] + 10
    mask, _ = tissue_of(with_noise(image), MPP)
    assert overlap(mask, pale | dark) > 0.95


@pytest.mark.parametrize("name", PENS)
def test_pen_strokes_are_ink_and_not_tissue(name: str) -> None:
    image, wanted = section()
    drawn = image.astype(np.uint8)
    stroke = np.zeros(image.shape[:2], np.uint8)
    for begin, end in (((190, 10), (250, 180)), ((10, 190), (240, 192)), ((60, 8), (180, 14))):
        cv2.line(drawn, begin, end, PENS[name], 7, cv2.LINE_AA)
        cv2.line(stroke, begin, end, 1, 5)
    picture = with_noise(drawn)
    ink = ink_mask(picture)
    assert ink[stroke > 0].mean() > 0.97
    assert not ink[wanted & (stroke == 0)].any()
    mask, _ = tissue_of(picture, MPP)
    assert overlap(mask, wanted) > 0.96
    assert not mask[stroke > 0].any()


def test_pen_across_the_edge_of_the_tissue_is_ink() -> None:
    image, _ = section()
    drawn = image.astype(np.uint8)
    cv2.line(drawn, (120, 60), (250, 60), PENS["black"], 7)
    assert ink_mask(with_noise(drawn))[60, 125:248].all()


def test_ink_does_not_move_the_threshold() -> None:
    image, _ = section()
    drawn = image.astype(np.uint8)
    cv2.rectangle(drawn, (185, 5), (255, 195), PENS["blue"], -1)
    (_, with_ink), (_, without) = tissue_of(with_noise(drawn), MPP), tissue_of(with_noise(image), MPP)
    assert with_ink == pytest.approx(without, abs=3)


@pytest.mark.parametrize(
    "colour",
    [
        stain(0.2, 0.2, 0.8),
        stain(0, 0, 1.5),
        (18, 12, 10),
        (40, 28, 22),
        (60, 40, 35),
        (110, 80, 60),
        stain(1.0),
        stain(0.5, 0.1),
        stain(1.2, 0.5),
        stain(0, 0.5),
        (150, 20, 30),
    ],
)
def test_stain_melanin_and_blood_are_not_ink(colour: tuple[float, float, float]) -> None:
    assert not ink_mask(with_noise(np.full((40, 40, 3), colour, np.float64), 2)).any()


def test_glass_edges_are_not_tissue() -> None:
    image, wanted = section()
    drawn = image.astype(np.uint8)
    cv2.line(drawn, (12, 0), (12, 199), (150, 150, 152), 4, cv2.LINE_AA)
    cv2.line(drawn, (0, 188), (259, 184), (95, 97, 98), 3, cv2.LINE_AA)
    cv2.line(drawn, (245, 0), (245, 199), (185, 183, 181), 9, cv2.LINE_AA)
    drawn[:8] = 0
    mask, _ = tissue_of(with_noise(drawn), MPP)
    assert overlap(mask, wanted) > 0.96


def empty_pictures() -> dict[str, NDArray[np.uint8]]:
    plain = glass()
    v, u = np.mgrid[:200, :260]
    uneven = plain - (((u - 130) ** 2 + (v - 100) ** 2) / 2500)[..., None]
    dusty = plain.astype(np.uint8)
    random = np.random.default_rng(1)
    for _ in range(40):
        cv2.circle(dusty, (int(random.integers(260)), int(random.integers(200))), 2, (80, 75, 85), -1)
    pen = plain.astype(np.uint8)
    cv2.line(pen, (20, 20), (240, 180), PENS["blue"], 8)
    return {
        "noise": with_noise(plain, 6),
        "uniform": plain.astype(np.uint8),
        "white": np.full_like(plain, 255, np.uint8),
        "black": np.zeros_like(plain, np.uint8),
        "uneven": with_noise(uneven),
        "yellow": with_noise(np.full_like(plain, (246, 240, 222))),
        "dim": with_noise(np.full_like(plain, (190, 190, 190))),
        "dust": with_noise(dusty),
        "pen": with_noise(pen),
    }


@pytest.mark.parametrize("name", empty_pictures())
def test_no_tissue_is_invented(name: str) -> None:
    mask, threshold = tissue_of(empty_pictures()[name], MPP)
    assert not mask.any()
    if name != "dust":
        assert threshold is None


def test_slide_without_any_glass_is_all_tissue() -> None:
    image = np.empty((120, 160, 3))
    image[:, :80], image[:, 80:] = stain(0.3, 0.3), stain(0.03, 0.15)
    assert tissue_of(with_noise(image, 6), MPP)[0].all()


def test_otsu_against_a_loop() -> None:
    random = np.random.default_rng(3)
    values = np.concatenate([random.normal(20, 5, 900), random.normal(130, 20, 200)]).clip(0, 255).round()

    def within(threshold: float) -> float:
        low, high = values[values <= threshold], values[values > threshold]
        return float(sum(((part - part.mean()) ** 2).sum() for part in (low, high) if part.size))

    best = min(within(t) for t in range(256))
    assert within(otsu(values)) == pytest.approx(best)
    assert otsu(np.array([10.0, 10.0, 90.0])) == pytest.approx(50, abs=1), "the middle of an empty gap"


def test_otsus_threshold_parts_values_between_two_bins_as_it_parted_the_bins() -> None:
    """The upper class begins half a grey level above the last bin of the lower one, to which that is rounded."""
    random = np.random.default_rng(5)
    values = np.concatenate([random.uniform(10, 60, 400), random.uniform(61, 120, 300)])
    threshold = otsu(values)
    np.testing.assert_array_equal(values > threshold, np.rint(values) > threshold)
    assert ((values > threshold - 0.4) & (values < threshold)).any()


@pytest.mark.parametrize("mpp", [4.0, 8.0])
def test_a_speck_below_the_smallest_tissue_is_dropped_at_any_resolution(mpp: float) -> None:
    """10,000 and 2,500 µm2, where 5,000 are asked for; the section is large."""
    side = round(800 / mpp)
    image = glass(side, 2 * side)
    image[: side // 2] = stain(0.08, 0.28)
    large, small = round(100 / mpp), round(50 / mpp)
    row, kept, dropped = round(600 / mpp), round(300 / mpp), round(1000 / mpp)
    image[row : row + large, kept : kept + large] = stain(0.08, 0.28)
    image[row : row + small, dropped : dropped + small] = stain(0.08, 0.28)
    mask, _ = tissue_of(image.astype(np.uint8), mpp)
    assert mask[row + large // 2, kept + large // 2] and not mask[row : row + small, dropped : dropped + small].any()


def test_shares_against_sampling() -> None:
    random = np.random.default_rng(7)
    mask = TissueMask(random.random((30, 40)) < 0.4, (8.0, 6.0), 50.0)
    boxes = np.column_stack([random.uniform(-80, 330, (40, 2)), random.uniform(3, 250, (40, 2))])
    points = (np.arange(400) + 0.5) / 400
    for box, share in zip(boxes, mask.shares(boxes), strict=True):
        i, j = ((box[1] + points * box[3]) // 6).astype(int), ((box[0] + points * box[2]) // 8).astype(int)
        padded = np.zeros((400, 400), bool)
        padded[100:130, 100:140] = mask.mask
        assert share == pytest.approx(padded[np.ix_(i + 100, j + 100)].mean(), abs=0.01)
        assert mask.share(*box) == share


def test_shares_of_known_boxes() -> None:
    tissue = np.zeros((10, 20), bool)
    tissue[:, 10:] = True
    mask = TissueMask(tissue, (8.0, 8.0), 50.0)
    boxes = [(0, 0, 80, 80), (80, 0, 80, 80), (40, 0, 80, 80), (120, 40, 80, 80), (500, 500, 10, 10), (78, 10, 4, 4)]
    assert mask.shares(boxes) == pytest.approx([0, 1, 0.5, 0.25, 0, 0.5])
    assert mask.shares(np.empty((0, 4))).shape == (0,)
    assert not mask.empty
    with pytest.raises(ValueError, match="width"):
        mask.share(0, 0, 0, 8)


def write_slide(path: Path, level_0: NDArray[np.uint8], mpp: float = 1.0) -> Path:
    tifffile.imwrite(
        path,
        level_0,
        tile=(256, 256),
        photometric="rgb",
        compression="zlib",
        resolution=(1e4 / mpp, 1e4 / mpp),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    return path


def test_mask_of_a_slide_lies_in_place(tmp_path: Path) -> None:
    image, wanted = section()
    level_0 = cv2.resize(with_noise(image), None, fx=8, fy=8, interpolation=cv2.INTER_NEAREST)
    with Slide(write_slide(tmp_path / "slide.tiff", level_0)) as slide:
        found = tissue_mask(slide)
    assert found.mask.shape == (200, 260) and found.mpp == (8.0, 8.0)
    assert overlap(found.mask, wanted) > 0.97
    assert found.share(600, 600, 400, 400) == 1
    assert found.share(1600, 400, 400, 400) == 0


# ------------------------------------------------------------------------------------------------------- not scanned


class Scan:
    """A slide of which only `overview` is asked: a picture at the mask's resolution, framed by what was not scanned."""

    def __init__(
        self,
        rgb: NDArray[np.uint8],
        frame: tuple[int, int, int, int] = (0, 0, 0, 0),
        colour: tuple[int, int, int] = (255, 255, 255),
        transparent: bool = False,
        known: NDArray[np.bool_] | None = None,
    ) -> None:
        top, bottom, left, right = frame
        self.inner = (slice(top, top + rgb.shape[0]), slice(left, left + rgb.shape[1]))
        whole = np.empty((rgb.shape[0] + top + bottom, rgb.shape[1] + left + right, 3), np.uint8)
        whole[:] = colour
        whole[self.inner] = rgb
        scanned = np.full(whole.shape[:2], not transparent)
        scanned[self.inner] = True if known is None else known
        whole[~scanned] = colour
        self.whole, self.scanned, self.colour = whole, scanned, colour

    def overview(self, mpp: float) -> Overview:
        blank = (self.whole == self.colour).all(axis=2)
        return Overview(self.whole, self.scanned.astype(np.float32), blank.astype(np.float32), self.colour)

    def found(self) -> tuple[NDArray[np.bool_], float | None, NDArray[np.bool_]]:
        """Mask of the picture inside, threshold, mask of the frame."""
        tissue = tissue_mask(self, MPP)
        frame = np.ones(tissue.mask.shape, bool)
        frame[self.inner] = False
        return tissue.mask[self.inner], tissue.threshold, tissue.mask & frame


def drawn(seed: int) -> NDArray[np.uint8]:
    """Glass with pink, pale and pigmented parts, some of them cut off by the edge, and now and then a pen."""
    random = np.random.default_rng(seed)
    image = np.full((90, 120, 3), np.array(GLASS) - random.integers(0, 30), np.float64)
    for _ in range(5):
        place = disc(image.shape, random.integers(0, 120), random.integers(0, 90), random.integers(6, 26))
        image[place] = stain(random.uniform(0, 0.6), random.uniform(0.1, 0.4), random.choice([0.0, 0.0, 0.8, 1.6]))
    picture = image.astype(np.uint8)
    if seed % 2:
        cv2.line(picture, (100, 0), (119, 89), PENS[random.choice(list(PENS))], 6)
    return with_noise(picture, 3, seed)


SIDES = st.integers(0, 70)
BYTE = st.integers(0, 255)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 30),
    st.tuples(SIDES, SIDES, SIDES, SIDES),
    st.one_of(st.just((255, 255, 255)), st.just((0, 0, 0)), st.just(GLASS), st.tuples(BYTE, BYTE, BYTE)),
    st.booleans(),
    st.booleans(),
)
def test_what_was_not_scanned_changes_nothing_inside(
    seed: int, frame: tuple[int, int, int, int], colour: tuple[int, int, int], transparent: bool, gap: bool
) -> None:
    picture, known = drawn(seed), np.ones((90, 120), bool)
    if gap:  # between two scanned parts
        known[:, 70:85] = False
        known[40:60, :30] = False
    mask, threshold, _ = Scan(picture, colour=colour, known=known).found()
    framed, as_framed, outside = Scan(picture, frame, colour, transparent, known).found()
    assert as_framed == threshold
    np.testing.assert_array_equal(framed, mask)
    assert not outside.any() and not mask[~known].any()
    if not gap:
        plain, plain_threshold = tissue_of(picture, MPP)
        # A pixel of the picture's edge that by chance has the background's colour is the only exception.
        assert (plain != mask).sum() <= 2 and (plain_threshold is None) == (threshold is None)


@pytest.mark.parametrize("transparent", [False, True])
def test_a_third_of_the_picture_unscanned(transparent: bool) -> None:
    """White that was never scanned beside glass of M = 27: it must not become the glass of the threshold."""
    image, wanted = glass() - 13, disc((200, 260), 100, 100, 35)
    image[wanted] = stain(0.08, 0.28)
    scan = Scan(with_noise(image), (0, 90, 0, 0), transparent=transparent)
    blind, mistaken = tissue_of(scan.whole, MPP)
    assert blind[:200].mean() > 0.7 and mistaken is not None and mistaken < 27, "the fault that this is about"
    mask, threshold, _ = scan.found()
    assert overlap(mask, wanted) > 0.94
    assert threshold is not None and 40 < threshold < 75


def test_nothing_scanned_is_no_tissue() -> None:
    assert Scan(np.full((40, 50, 3), 255, np.uint8)).found()[1] is None
    tissue = Scan(with_noise(section()[0]), known=np.zeros((200, 260), bool)).found()
    assert tissue[1] is None and not tissue[0].any()


def test_a_few_pixels_of_the_background_are_glass() -> None:
    image, wanted = section()
    picture = with_noise(image)
    picture[2:20, 200:218] = 255  # 144 µm
    covered = Scan(picture)
    mask, threshold, _ = covered.found()
    assert tissue_of(picture, MPP)[1] == threshold
    assert overlap(mask, wanted) > 0.97


def test_the_edge_of_the_scan_may_lie_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transparent pixels that end within pixels of the mask: tissue goes on to the edge, glass stays glass."""
    image, _ = section()
    image[:, 150:] = stain(0.1, 0.3)
    level_0 = cv2.resize(with_noise(image), None, fx=8, fy=8, interpolation=cv2.INTER_NEAREST)
    path = write_slide(tmp_path / "slide.tiff", level_0)
    with Slide(path) as slide:
        whole = tissue_mask(slide)
    read = openslide.OpenSlide.read_region
    left, top = 243, 61  # 30 pixels and 3/8, 7 and 5/8

    def masked(self: object, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        rgba = np.array(read(self, location, level, size))
        across, down = location[0] + np.arange(size[0]), location[1] + np.arange(size[1])
        rgba[:, across < left] = (0, 0, 0, 0)
        rgba[down < top] = (0, 0, 0, 0)
        rgba[-1, 0] = (90, 0, 0, 128)
        return Image.fromarray(rgba)

    monkeypatch.setattr(openslide.OpenSlide, "read_region", masked)
    with Slide(path) as slide:
        part = tissue_mask(slide)
    assert part.threshold == pytest.approx(whole.threshold, abs=1.5)
    assert not part.mask[:, :30].any() and not part.mask[:7].any()
    inside = (slice(8, None), slice(31, None))
    assert (part.mask[inside] != whole.mask[inside]).mean() < 0.002
    assert part.mask[7, 155:255].all(), "3/8 of these pixels were scanned, all of it tissue"


def test_headroom_differs_from_plain_otsu_and_can_be_put_off() -> None:
    image = glass()
    image[20:180, 20:60], image[20:180, 60:120] = stain(0.02, 0.14), stain(0.2, 0.2, 0.9)
    picture = with_noise(image)
    with_cap, plain = (tissue_of(picture, MPP, headroom=headroom)[0] for headroom in (60, None))
    assert with_cap[30:170, 25:115].all()
    assert plain[30:170, 65:115].all() and not plain[30:170, 25:50].any(), "pale dermis is background to plain Otsu"


def test_real_slide(real_data: Path) -> None:
    with Slide(real_data / "wsi" / "CMU-1-Small-Region.svs") as slide:
        found = tissue_mask(slide)
    assert not found.empty
    assert 0.33 < found.mask.mean() < 0.45
    assert found.share(500, 1000, 50, 50) == 1, "the dermis, looked at"
    assert found.share(50, 700, 200, 300) == 0, "glass"
    assert found.share(1020, 286, 40, 40) == 0, "a speck on the glass"


def test_the_mask_is_sampled_at_the_centres_of_another_picture() -> None:
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True  # 8 to 24 µm down, 16 to 40 µm across
    tissue = TissueMask(mask, (8.0, 8.0), 20.0)
    found = tissue.sampled((16, 16), (3.0, 2.0))
    across = (np.arange(16) + 0.5) * 3
    down = (np.arange(16) + 0.5) * 2
    expected = np.outer((down >= 8) & (down < 24), (across >= 16) & (across < 40))
    np.testing.assert_array_equal(found, expected)
    assert tissue.sampled((5, 7), (8.0, 8.0)).shape == (5, 7)  # a row and a column beyond it


def test_a_part_of_another_picture_is_sampled_as_the_whole() -> None:
    mask = np.random.default_rng(1).random((9, 13)) < 0.5
    tissue = TissueMask(mask, (8.0, 8.0), 90.0)
    whole = tissue.sampled((24, 34), (3.0, 3.0))
    np.testing.assert_array_equal(tissue.sampled((10, 7), (3.0, 3.0), (12.0, 27.0)), whole[9:19, 4:11])
