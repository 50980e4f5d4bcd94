"""Reading by physical resolution, on small pyramids that the tests write themselves."""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray

from melano_tf.errors import InputError
from melano_tf.slides import pixel_resampling
from melano_tf.slides.pyramid_levels import cell_size, scale_of
from melano_tf.slides.slide import Slide, SlideReadError

TILE = 64
WHITE = (255, 255, 255)


def pattern(width: int, height: int, mpp: tuple[float, float] = (0.25, 0.25), step: float = 1.0) -> NDArray[np.uint8]:
    """A smooth asymmetric picture, a function of µm alone; each pixel is `step` level-0 pixels wide."""
    x = ((np.arange(width) + 0.5) * step * mpp[0])[None, :]
    y = ((np.arange(height) + 0.5) * step * mpp[1])[:, None]
    waves = [x / 9 + y / 31, x / 23 - y / 11 + 1, np.sqrt((x - 60) ** 2 + (y - 40) ** 2) / 7]
    return np.rint(np.stack([130 + 90 * np.sin(wave) for wave in waves], axis=-1)).astype(np.uint8)


def jpeg_tiles(image: NDArray[np.uint8]) -> list[bytes]:
    """JPEG tiles (4:2:0, as TIFF expects by default) in row-major order, padded by repeating the edge."""
    rows, columns = -(-image.shape[0] // TILE), -(-image.shape[1] // TILE)
    padding = ((0, rows * TILE - image.shape[0]), (0, columns * TILE - image.shape[1]), (0, 0))
    padded = cv2.cvtColor(np.pad(image, padding, mode="edge"), cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, 98, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    return [
        cv2.imencode(".jpg", padded[r * TILE : (r + 1) * TILE, c * TILE : (c + 1) * TILE], options)[1].tobytes()
        for r in range(rows)
        for c in range(columns)
    ]


def write_pyramid(
    path: Path,
    levels: Sequence[NDArray[np.uint8]],
    mpp: tuple[float, float] | None = (0.25, 0.25),
    jpeg: bool = False,
) -> Path:
    with tifffile.TiffWriter(path) as file:
        for index, level in enumerate(levels):
            options: dict[str, Any] = {"tile": (TILE, TILE), "photometric": "rgb", "compression": "zlib"}
            if mpp is not None:
                options |= {"resolution": (1e4 / mpp[0], 1e4 / mpp[1]), "resolutionunit": "CENTIMETER"}
            data = iter(jpeg_tiles(level)) if jpeg else level
            file.write(data, shape=level.shape, dtype="uint8", metadata=None, subfiletype=int(index > 0), **options)
    if jpeg:
        # The tiles were encoded beforehand; only their name has to be put right.
        with tifffile.TiffFile(path, mode="r+") as file:
            for page in file.pages:
                page.tags["Compression"].overwrite(7)
                page.tags["PhotometricInterpretation"].overwrite(6)
    return path


def box_levels(width: int, height: int, factors: Sequence[int], **options: Any) -> list[NDArray[np.uint8]]:
    """Levels that a whole factor gives: the incomplete last pixel is left out."""
    return [pattern(width // factor, height // factor, step=factor, **options) for factor in factors]


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """0.25 µm/px, 1600x1200, levels 1, 4, 16."""
    return write_pyramid(tmp_path_factory.mktemp("wsi") / "exact.tiff", box_levels(1600, 1200, (1, 4, 16)))


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Adds properties to what OpenSlide tells of any slide."""

    def patch(extra: dict[str, str]) -> None:
        original = openslide.OpenSlide.properties.fget
        monkeypatch.setattr(openslide.OpenSlide, "properties", property(lambda s: {**original(s), **extra}))

    return patch


def truth(x: float, y: float, size: tuple[int, int], mpp: float, own: tuple[float, float]) -> NDArray[np.float64]:
    """The pattern at the output pixels' centres, from its formula."""
    u = (x * own[0] + (np.arange(size[0]) + 0.5) * mpp)[None, :]
    v = (y * own[1] + (np.arange(size[1]) + 0.5) * mpp)[:, None]
    waves = [u / 9 + v / 31, u / 23 - v / 11 + 1, np.sqrt((u - 60) ** 2 + (v - 40) ** 2) / 7]
    return np.stack([130 + 90 * np.sin(wave) for wave in waves], axis=-1)


def shift(seen: NDArray[Any], wanted: NDArray[Any]) -> tuple[float, float]:
    """(x, y) pixels by which `seen` lies off `wanted`: least squares over the gradient (Lucas-Kanade)."""
    wanted, seen = wanted.astype(np.float64), seen.astype(np.float64)
    along_y, along_x = np.gradient(wanted, axis=(0, 1))
    inner = (slice(1, -1), slice(1, -1))
    gradient = np.stack([along_x[inner].ravel(), along_y[inner].ravel()], axis=1)
    solution = np.linalg.lstsq(gradient, (wanted - seen)[inner].ravel(), rcond=None)[0]
    return float(solution[0]), float(solution[1])


def assert_in_place(seen: NDArray[np.uint8], wanted: NDArray[np.float64]) -> None:
    dx, dy = shift(seen, wanted)
    assert abs(dx) < 0.125 and abs(dy) < 0.125, (dx, dy)
    # A flat or wrong picture has no shift either.
    assert np.abs(seen - wanted)[1:-1, 1:-1].mean() < 8


def test_shift_is_measured_rightly() -> None:
    here, there = truth(100, 80, (60, 50), 1.0, (0.25, 0.25)), truth(101.2, 79, (60, 50), 1.0, (0.25, 0.25))
    assert shift(there, here) == pytest.approx((-0.3, 0.25), abs=0.03)


# --------------------------------------------------------------------------------------------------- what a slide is


def test_facts(exact: Path) -> None:
    with Slide(exact) as slide:
        assert slide.slide_id == "exact"
        assert slide.size == (1600, 1200)
        assert slide.mpp == pytest.approx((0.25, 0.25), rel=1e-6)
        assert slide.level_downsamples == (1.0, 4.0, 16.0)
        assert slide.objective_power is None
        assert slide.background == WHITE


@pytest.mark.parametrize(
    ("full", "level", "reported", "wanted"),
    [
        ((3995, 3995), (1000, 1000), 3.995, (3.995, 3.995)),
        ((46000, 32914), (11500, 8228), (4.0 + 32914 / 8228) / 2, (4.0, 4.0)),
        ((1000, 900), (300, 250), (1000 / 300 + 3.6) / 2, (1000 / 300, 3.6)),
        ((1000, 900), (260, 230), 4.0, (4.0, 4.0)),  # The vendor tells it: padded sizes do not count.
    ],
)
def test_true_downsample(
    full: tuple[int, int], level: tuple[int, int], reported: float, wanted: tuple[float, float]
) -> None:
    assert scale_of(full, level, reported) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("mpp", "index"), [(0.1, 0), (0.25, 0), (0.9, 0), (0.998, 1), (1.0, 1), (3.9, 1), (4.0, 2), (8.0, 2)]
)
def test_best_level(exact: Path, mpp: float, index: int) -> None:
    with Slide(exact) as slide:
        assert slide.best_level(mpp).index == index


def test_mpp_of_the_manifest_wins_and_nan_does_not(exact: Path) -> None:
    assert Slide(exact, mpp=0.5).mpp == (0.5, 0.5)
    assert Slide(exact, mpp=float("nan")).mpp == pytest.approx((0.25, 0.25), rel=1e-6)


@pytest.mark.parametrize(("given", "contradicts"), [(0.29, True), (0.28, False), (0.22, False), (0.21, True)])
def test_a_given_mpp_that_contradicts_the_file_is_noted(exact: Path, given: float, contradicts: bool) -> None:
    slide = Slide(exact, mpp=given)
    assert slide.mpp == (given, given)
    assert bool(slide.mpp_note) == contradicts
    if contradicts:
        assert f"the given {given} µm/px contradicts the file's own 0.25" in slide.mpp_note
    assert Slide(exact).mpp_note == ""


@pytest.mark.parametrize(("power", "mpp"), [("40", "0.25"), ("20", "0.5"), ("63", "0.159")])
def test_an_objective_without_mpp_suggests_one(
    tmp_path: Path, patched: Callable[[dict[str, str]], None], power: str, mpp: str
) -> None:
    path = write_pyramid(tmp_path / "power.tiff", box_levels(320, 240, (1,)), mpp=None)
    with pytest.raises(InputError) as caught:
        Slide(path)
    assert "its objective" not in str(caught.value)
    patched({"openslide.objective-power": power})
    with pytest.raises(
        InputError, match=f"its objective of {power}x suggests about {mpp} µm/px: .*`mpp` column, or --mpp"
    ):
        Slide(path)
    assert Slide(path, mpp=0.5).mpp_note == "", "an objective alone contradicts nothing"


@pytest.mark.parametrize(
    ("own", "power", "words"),
    [
        ((0.25, 0.25), "40", ""),
        ((0.25, 0.287), "40", ""),
        ((0.25, 0.29), "40", "tells 0.25 x 0.29 µm/px, but pixels are nearly always square"),
        ((2.5, 0.25), "7.5", "tells 2.5 x 0.25 µm/px, but pixels"),
        ((5.0, 5.0), "40", "5 µm/px with an objective of 40x, for which about 0.25 µm/px is usual"),
        ((0.62, 0.62), "40", ""),
        ((0.101, 0.101), "40", ""),
        ((0.099, 0.099), "40", "0.099 µm/px with an objective of 40x"),
        ((5.0, 5.0), None, ""),
    ],
)
def test_a_resolution_that_contradicts_itself_is_noted(
    exact: Path,
    patched: Callable[[dict[str, str]], None],
    own: tuple[float, float],
    power: str | None,
    words: str,
) -> None:
    told = {f"openslide.mpp-{axis}": str(value) for axis, value in zip("xy", own, strict=True)}
    patched(told | ({} if power is None else {"openslide.objective-power": power}))
    with Slide(exact) as slide:
        assert slide.mpp == own
        assert bool(slide.mpp_note) == bool(words) and words in slide.mpp_note
        if words:
            assert slide.mpp_note.endswith("into the manifest's `mpp` column, or --mpp")
    with Slide(exact, mpp=0.25) as slide:
        assert ("contradicts the file's own" in slide.mpp_note) == (max(own) > 0.2875 or min(own) < 0.2174)


def test_background_and_power_are_read(exact: Path, patched: Callable[[dict[str, str]], None]) -> None:
    patched({"openslide.background-color": "F0E1D2", "openslide.objective-power": "40"})
    with Slide(exact) as slide:
        assert slide.background == (0xF0, 0xE1, 0xD2)
        assert slide.objective_power == 40
        assert (slide.read(-5000, 0, 8, 1.0) == slide.background).all()


# ------------------------------------------------------------------------------------------------------- same place


@pytest.mark.parametrize("mpp", [0.2, 0.25, 0.31, 0.5, 0.73, 1.0, 1.087, 2.0, 2.7])
@pytest.mark.parametrize(("x", "y"), [(400, 320), (403, 317), (401.5, 333.25)])
def test_same_place_whatever_the_resolution(exact: Path, mpp: float, x: float, y: float) -> None:
    with Slide(exact) as slide:
        size = (int(160 / mpp), int(120 / mpp))
        assert_in_place(slide.read(x, y, size, mpp), truth(x, y, size, mpp, (0.25, 0.25)))


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(("x", "y"), [(400, 320), (401, 322), (403, 319)])
def test_same_place_at_every_level(exact: Path, monkeypatch: pytest.MonkeyPatch, index: int, x: int, y: int) -> None:
    with Slide(exact) as slide:
        level = slide.levels[index]
        monkeypatch.setattr(slide, "best_level", lambda mpp: level)
        size = (120, 100)
        assert_in_place(slide.read(x, y, size, 1.3), truth(x, y, size, 1.3, (0.25, 0.25)))


@pytest.mark.parametrize(("x", "y"), [(0, 0), (3, 1), (801, 602), (1049, 767)])
@pytest.mark.parametrize("mpp", [1.0, 1.5])
def test_downsample_of_3_995(tmp_path: Path, x: int, y: int, mpp: float) -> None:
    # Fitted: 400 pixels span the 1598 exactly (x 3.995), 300 the 1198 (y 3.9933). A whole 4 would leave 399 and 299.
    coarse = pattern(400, 300, mpp=(0.25 * 1598 / 400, 0.25 * 1198 / 300))
    path = write_pyramid(tmp_path / "odd.tiff", [pattern(1598, 1198), coarse])
    with Slide(path) as slide:
        assert slide.levels[1].scale == pytest.approx((3.995, 1198 / 300), rel=1e-12)
        assert slide.level_downsamples[1] == pytest.approx((3.995 + 1198 / 300) / 2)
        assert slide.best_level(mpp).index == 1
        size = (90, 70)
        assert_in_place(slide.read(x, y, size, mpp), truth(x, y, size, mpp, (0.25, 0.25)))


def test_truncated_pyramid_stays_in_place_at_the_far_end(tmp_path: Path) -> None:
    # 1203 / 4 leaves out three pixels; the ratio of the sizes (4.01) would be off by 0.75 pixels at the far edge.
    path = write_pyramid(tmp_path / "cut.tiff", box_levels(1203, 1203, (1, 4)))
    with Slide(path) as slide:
        assert slide.levels[1].reported == pytest.approx(4.01)
        assert_in_place(slide.read(995, 990, (50, 50), 1.0), truth(995, 990, (50, 50), 1.0, (0.25, 0.25)))


def test_anisotropic_pixels(tmp_path: Path) -> None:
    mpp = (0.25, 0.4)
    path = write_pyramid(tmp_path / "flat.tiff", box_levels(1600, 900, (1, 4), mpp=mpp), mpp=mpp)
    with Slide(path) as slide:
        assert slide.mpp == pytest.approx(mpp, rel=1e-6)
        assert slide.best_level(1.0).index == 0, "1.6 µm/px on the y axis is too coarse"
        assert slide.best_level(1.6).index == 1
        for wanted in (0.3, 1.0, 1.6):
            size = (60, 50)
            assert_in_place(slide.read(203, 101, size, wanted), truth(203, 101, size, wanted, mpp))


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0])
def test_bounds_shift_the_origin_and_end_the_slide(
    exact: Path, patched: Callable[[dict[str, str]], None], mpp: float
) -> None:
    bounds = {"x": "203", "y": "101", "width": "801", "height": "602"}
    patched({f"openslide.bounds-{name}": value for name, value in bounds.items()})
    with Slide(exact) as slide:
        assert slide.size == (801, 602)
        size = (64, 48)
        assert_in_place(slide.read(8, 4, size, mpp), truth(211, 105, size, mpp, (0.25, 0.25)))
        assert (slide.read(-500, 0, (400, 20), 0.25) == WHITE).all(), "left of the bounds, though the file has pixels"
        seen = slide.read(801 - 40, 100, (80, 20), 0.25)
        assert (seen[:, 40:] == WHITE).all() and (seen[:, :40] != WHITE).any(axis=-1).all()
        assert slide.thumbnail(1.0).shape == (151, 201, 3)


def test_bounds_beyond_the_files_end_are_cut_off_there(exact: Path, patched: Callable[[dict[str, str]], None]) -> None:
    bounds = {"x": "900", "y": "700", "width": "800", "height": "501"}
    patched({f"openslide.bounds-{name}": value for name, value in bounds.items()})
    with Slide(exact) as slide:
        assert (slide.origin, slide.size) == ((900, 700), (700, 500))


@pytest.mark.parametrize("axis", ["x", "y"])
def test_a_resolution_of_one_axis_is_that_of_both(
    exact: Path, patched: Callable[[dict[str, str]], None], axis: str
) -> None:
    patched({"openslide.mpp-x": "", "openslide.mpp-y": "", f"openslide.mpp-{axis}": "0.3"})
    with Slide(exact) as slide:
        assert slide.mpp == (0.3, 0.3)


def test_a_tile_of_the_file_that_is_too_large_to_decode_is_refused(
    exact: Path, patched: Callable[[dict[str, str]], None]
) -> None:
    patched({"openslide.level[1].tile-width": "16384", "openslide.level[1].tile-height": "8193"})
    with pytest.raises(InputError, match=r"a single tile of the file is 16,384 x 8,193 px"):
        Slide(exact)
    patched({"openslide.level[1].tile-width": "16384", "openslide.level[1].tile-height": "8192"})
    Slide(exact).close()


@pytest.mark.parametrize(("tile", "cell"), [("64", 512), ("240", 480), ("1000", 1000), ("2048", 2048), ("2049", 512)])
def test_cells_are_whole_tiles_of_the_file_unless_these_are_large(tile: str, cell: int) -> None:
    properties = {"openslide.level[0].tile-width": tile, "openslide.level[0].tile-height": "512"}
    assert cell_size(properties, 0) == (cell, 512)


def test_a_whole_slide_has_no_pixel_more_by_rounding(exact: Path) -> None:
    """1600 px of 0.07 µm at 0.7 µm/px are 160.00000000000003 pixels."""
    with Slide(exact, mpp=0.07) as slide:
        assert 1600 * 0.07 / 0.7 > 160
        assert slide.thumbnail(0.7).shape == (120, 160, 3)


# ------------------------------------------------------------------------------------------- size, edges, resampling


def test_exact_size_of_random_reads(exact: Path) -> None:
    random = np.random.default_rng(5)
    with Slide(exact) as slide:
        for _ in range(50):
            x, y = random.uniform(-600, 1800, 2)
            size = (int(random.integers(1, 200)), int(random.integers(1, 200)))
            image = slide.read(x, y, size, float(random.uniform(0.1, 9)))
            assert image.shape == (size[1], size[0], 3)
            assert image.dtype == np.uint8


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0, 4.0])
def test_beyond_the_edge_is_background(exact: Path, mpp: float) -> None:
    with Slide(exact) as slide:
        pixels = round(0.25 / mpp * 160)
        image = slide.read(1600 - 160, 1200 - 160, 2 * pixels, mpp)
        inside = image[:pixels, :pixels]
        assert (image[pixels:] == WHITE).all() and (image[:, pixels:] == WHITE).all()
        wanted = truth(1440, 1040, (pixels, pixels), mpp, (0.25, 0.25))
        assert np.abs(inside - wanted).mean() < (25 if mpp == 4 else 3), "the last row is whole, not half white"
        image = slide.read(-160, -160, 2 * pixels, mpp)
        assert (image[:pixels] == WHITE).all() and (image[:, :pixels] == WHITE).all()
        assert (image[pixels:, pixels:] != WHITE).any(axis=-1).all()


def test_whole_factor_is_the_mean_of_the_pixels(exact: Path) -> None:
    own = pattern(1600, 1200)
    with Slide(exact) as slide:
        seen = slide.read(100, 60, (40, 30), 0.75)
        wanted = own[60 : 60 + 90, 100 : 100 + 120].reshape(30, 3, 40, 3, 3).mean(axis=(1, 3))
        assert np.abs(seen - wanted).max() <= 0.51
        assert np.array_equal(slide.read(100, 60, (40, 30), 0.25), own[60:90, 100:140])


@pytest.mark.parametrize(("start", "step", "count"), [(0.3, 2.004, 7), (1.75, 1.0, 9), (0.0, 5.5, 3), (2.2, 1.31, 8)])
def test_area_weights_against_a_loop(start: float, step: float, count: int) -> None:
    fine = 1000
    weights = pixel_resampling.Axis(start, step, count).weights(24).toarray()
    wanted = np.zeros((count, 24))
    for k in range(count):
        for i in range(fine):
            wanted[k, int(start + (k + (i + 0.5) / fine) * step)] += 1 / fine
    assert np.abs(weights - wanted).max() < 2e-3
    assert weights.sum(axis=1) == pytest.approx(np.ones(count), rel=1e-6)


def test_finer_than_level_0_is_bilinear() -> None:
    weights = pixel_resampling.Axis(1.0, 0.5, 4).weights(5).toarray()
    # Centres at 1.25, 1.75, 2.25, 2.75; pixel i has its centre at i + 0.5.
    wanted = [[0.25, 0.75, 0, 0, 0], [0, 0.75, 0.25, 0, 0], [0, 0.25, 0.75, 0, 0], [0, 0, 0.75, 0.25, 0]]
    assert weights == pytest.approx(np.array(wanted))


def test_blocks_change_nothing(exact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Slide(exact) as slide:
        jobs = [(13.0, 7.0, (300, 200), 0.33), (0.0, 0.0, (100, 90), 0.75), (3.0, 1.0, (311, 207), 1.27)]
        whole = [slide.read(*job) for job in jobs]
        monkeypatch.setattr(pixel_resampling, "BLOCK_PX", 100)
        for job, wanted in zip(jobs, whole, strict=True):
            assert np.abs(slide.read(*job).astype(int) - wanted).max() <= 1


def test_no_read_is_much_larger_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pyramid(tmp_path / "one.tiff", [pattern(1500, 700)])
    asked: list[tuple[int, int]] = []
    original = openslide.OpenSlide.read_region

    def read_region(handle: Any, location: tuple[int, int], level: int, size: tuple[int, int]) -> Any:
        asked.append(size)
        return original(handle, location, level, size)

    monkeypatch.setattr(openslide.OpenSlide, "read_region", read_region)
    monkeypatch.setattr(pixel_resampling, "BLOCK_PX", 200)
    with Slide(path) as slide:
        thumbnail = slide.thumbnail(8.0)
    assert thumbnail.shape == (22, 47, 3)
    assert max(max(size) for size in asked) <= 300
    assert len(asked) > 20
    wanted = cv2.resize(pattern(1500, 700)[:672, :1472], (46, 21), interpolation=cv2.INTER_AREA)
    assert np.abs(thumbnail[:21, :46].astype(int) - wanted).max() <= 1


def test_transparent_pixels_become_background(exact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    def read_region(handle: Any, location: tuple[int, int], level: int, size: tuple[int, int]) -> Any:
        rgba = np.zeros((size[1], size[0], 4), np.uint8)
        rgba[:, 1:] = (200, 100, 50, 255)
        rgba[0, 1] = (200, 100, 50, 51)
        return Image.fromarray(rgba, "RGBA")

    monkeypatch.setattr(openslide.OpenSlide, "read_region", read_region)
    with Slide(exact) as slide:
        image = slide.read(0, 0, 4, 0.25)
    assert (image[:, 0] == WHITE).all()
    assert image[1, 1].tolist() == [200, 100, 50]
    assert image[0, 1].tolist() == [244, 224, 214]


@pytest.mark.parametrize("arguments", [(0, 0, 0, 1.0), (0, 0, 8, 0.0), (float("nan"), 0, 8, 1.0), (0, 0, (8, -1), 1.0)])
def test_senseless_region(exact: Path, arguments: tuple[Any, ...]) -> None:
    with Slide(exact) as slide, pytest.raises(ValueError, match="exact"):
        slide.read(*arguments)


# ------------------------------------------------------------------------------------------- processes, bad files


def test_pickle_reads_the_same(exact: Path) -> None:
    with Slide(exact, slide_id="biopsy 7", mpp=0.3) as slide:
        wanted = slide.read(100, 100, 50, 1.0)
        copy = pickle.loads(pickle.dumps(slide))
    with copy:
        assert (copy.slide_id, copy.mpp, copy.size) == ("biopsy 7", (0.3, 0.3), (1600, 1200))
        assert np.array_equal(copy.read(100, 100, 50, 1.0), wanted)


def test_closed_slide_opens_again(exact: Path) -> None:
    slide = Slide(exact)
    wanted = slide.read(0, 0, 20, 1.0)
    slide.close()
    slide.close()
    assert np.array_equal(slide.read(0, 0, 20, 1.0), wanted)
    slide.close()


@pytest.mark.parametrize("jpeg", [False, True])
def test_slide_cut_within_its_tiles(tmp_path: Path, jpeg: bool) -> None:
    """The second half of level 0's tiles is gone: the first half is still readable, before and after the error."""
    # The coarse level stands first in the file, because OpenSlide reads it on opening (for its hash).
    path = write_pyramid(tmp_path / "cut.tiff", box_levels(640, 640, (4, 1)), jpeg=jpeg)
    with tifffile.TiffFile(path) as file:
        page = file.pages[1]
        end = page.dataoffsets[50] + page.databytecounts[50] // 2
        assert page.offset < page.dataoffsets[0], "the directory must survive the cut"
    path.write_bytes(path.read_bytes()[:end])
    with Slide(path) as slide:
        assert slide.level_downsamples == (1.0, 4.0)
        wanted = slide.read(0, 0, 64, 0.25)
        assert np.abs(wanted - truth(0, 0, (64, 64), 0.25, (0.25, 0.25))).mean() < 4
        for y in (320, 600):
            with pytest.raises(SlideReadError, match=r"slide cut .*level 0"):
                slide.read(0, y, 64, 0.25)
            assert slide._handle is None
        assert np.array_equal(slide.read(0, 0, 64, 0.25), wanted), "a new handle reads what is whole"


def test_slide_damaged_within_a_tile(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "hurt.tiff", box_levels(640, 640, (1, 4)), jpeg=True)
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages[0].dataoffsets[11], file.pages[0].databytecounts[11]
    content = bytearray(path.read_bytes())
    content[offset : offset + count] = bytes(count)
    path.write_bytes(content)
    with Slide(path) as slide:
        slide.read(0, 0, 64, 0.25)
        with pytest.raises(SlideReadError):
            slide.read(64, 64, 64, 0.25)
        slide.read(0, 0, 64, 0.25)


def test_slide_cut_before_its_directory(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "cut.tiff", box_levels(640, 640, (1, 4)))
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(InputError, match=r"slide cut: .*cut short"):
        Slide(path)


def test_file_lost_while_in_use(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "lost.tiff", [pattern(200, 200)])
    slide = Slide(path)
    slide.close()
    path.unlink()
    with pytest.raises(SlideReadError, match="slide lost"):
        slide.read(0, 0, 20, 1.0)


def test_jpeg_pyramid_opens(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "jpeg.tiff", box_levels(640, 512, (1, 4)), jpeg=True)
    with Slide(path) as slide:
        assert slide.level_downsamples == (1.0, 4.0)
        for mpp in (0.25, 1.0):
            assert_in_place(slide.read(130, 66, (60, 60), mpp), truth(130, 66, (60, 60), mpp, (0.25, 0.25)))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"slide s1: .*none\.svs: no such file"):
        Slide(tmp_path / "none.svs", slide_id="s1")


def test_text_named_svs(tmp_path: Path) -> None:
    path = tmp_path / "text.svs"
    path.write_text("not a slide")
    with pytest.raises(InputError, match=r"slide text: .*not a slide that OpenSlide can read"):
        Slide(path)


@pytest.mark.parametrize("given", [0.0, -0.25, 0.049, 20.1, 250.0, float("inf")])
def test_absurd_mpp_of_the_manifest(exact: Path, given: float) -> None:
    with pytest.raises(InputError, match=r"slide exact .*`mpp` column") as caught:
        Slide(exact, mpp=given)
    assert f"{given:g}" in str(caught.value)


def test_no_mpp(exact: Path, tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "bare.tiff", [pattern(200, 200)], mpp=None)
    with pytest.raises(InputError, match=r"slide bare .*`mpp` column"):
        Slide(path)
    assert Slide(path, mpp=0.25).mpp == (0.25, 0.25)


# ------------------------------------------------------------------------------------------------------- real files


def test_real_slide_of_one_level(real_data: Path) -> None:
    with Slide(real_data / "wsi" / "CMU-1-Small-Region.svs") as slide:
        assert slide.size == (2220, 2967)
        assert slide.mpp == pytest.approx((0.499, 0.499))
        assert slide.objective_power == 20
        assert slide.level_downsamples == (1.0,)
        tile = slide.read(500, 500, 512, 1.0)
        own = slide.read(500, 500, 1027, 0.499)
        wanted = cv2.warpAffine(
            cv2.blur(own, (2, 2), anchor=(0, 0)),
            np.array([[1 / 0.499, 0, 0.5 / 0.499 - 1], [0, 1 / 0.499, 0.5 / 0.499 - 1]]),
            (512, 512),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        dx, dy = shift(tile, wanted)
        assert abs(dx) < 0.05 and abs(dy) < 0.05
        assert slide.thumbnail(8.0).shape == (186, 139, 3)


def test_real_slide_with_absurd_metadata(real_data: Path) -> None:
    path = real_data / "wsi" / "small_HE_levels.tiff"
    with pytest.raises(InputError, match=r"slide small_HE_levels .*352\.858 µm/px .*`mpp` column"):
        Slide(path)
    with Slide(path, mpp=0.25) as slide:
        assert slide.levels[3].scale == (8.0, 8.0)
        for mpp in (0.5, 1.0):
            coarse = slide.read(40, 30, (round(60 / mpp), round(50 / mpp)), mpp)
            fine = slide.read(40, 30, (240, 200), 0.25)
            wanted = cv2.resize(fine, (coarse.shape[1], coarse.shape[0]), interpolation=cv2.INTER_AREA)
            dx, dy = shift(cv2.GaussianBlur(coarse, (0, 0), 2), cv2.GaussianBlur(wanted, (0, 0), 2))
            assert abs(dx) < 0.125 and abs(dy) < 0.125
