"""Pixels that stay: the same as without, each decoded once, whoever decodes them."""

import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile

from melano_tf.phantoms.slides.pyramidal_tiff import write_pyramid as write_phantom
from melano_tf.slides.decoded_cells import Cell, Cells, Layout
from melano_tf.slides.jpeg_tiles import JpegTiles
from melano_tf.slides.slide import Slide, SlideReadError
from tests.slides.test_slide import box_levels, pattern, write_pyramid

REGIONS = [(0, 0, 64, 1.0), (37, 61, (90, 50), 0.25), (-30, -20, 80, 0.5), (13, 7, (77, 40), 0.61), (500, 400, 90, 0.3)]


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pyramid(tmp_path_factory.mktemp("wsi") / "jpeg.tiff", box_levels(640, 512, (1, 4)), jpeg=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pyramid(tmp_path_factory.mktemp("wsi") / "plain.tiff", box_levels(640, 512, (1, 4)))


@pytest.mark.parametrize(("name", "reader"), [("jpeg", "tifffile"), ("plain", "OpenSlide")])
def test_held_pixels_are_those_of_openslide(name: str, reader: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(name)
    with Slide(path) as now, Slide(path, held_mib=4) as held:
        assert (now.reader, held.reader) == ("OpenSlide", reader)
        for region in REGIONS:
            assert np.array_equal(now.read(*region), held.read(*region)), region
        one, other = now.overview(2.0), held.overview(2.0)
        assert np.array_equal(one.rgb, other.rgb) and np.array_equal(one.scanned, other.scanned)


def test_each_tile_is_decoded_once(jpeg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[tuple[int, int, int]] = []
    read = JpegTiles.read

    def noted(self: JpegTiles, *place: int) -> Any:
        decoded.append(place)
        return read(self, *place)

    with Slide(jpeg, held_mib=4) as slide:
        monkeypatch.setattr(JpegTiles, "read", noted)
        for y in range(0, 256, 32):
            for x in range(0, 320, 32):
                slide.read(x, y, 64, 0.25)
    # Level-0 pixels 0 to 352 and 0 to 288 lie in 6 columns and 5 rows of tiles of 64 px.
    assert sorted(decoded) == [(0, column, row) for column in range(6) for row in range(5)]


def test_openslide_reads_what_the_jpeg_tiles_do_not_give(jpeg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Slide(jpeg) as now, Slide(jpeg, held_mib=4) as held:
        assert held.reader == "tifffile"
        monkeypatch.setattr(JpegTiles, "read", lambda *_: None)
        assert np.array_equal(now.read(*REGIONS[1]), held.read(*REGIONS[1]))


def test_a_decoder_that_disagrees_is_not_used(jpeg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = JpegTiles.read
    for change, reader in ((1, "tifffile"), (2, "OpenSlide")):

        def off(self: JpegTiles, *place: int, by: int = change) -> Any:
            image = read(self, *place)
            return None if image is None else np.where(image < 128, image + by, image - by).astype(np.uint8)

        monkeypatch.setattr(JpegTiles, "read", off)
        with Slide(jpeg, held_mib=4) as slide:
            assert slide.reader == reader
    monkeypatch.undo()


def test_a_level_whose_downsample_is_no_whole_number(tmp_path: Path) -> None:
    """OpenSlide interpolates there, and is compared with what it does; the tiles are read as they are."""
    path = write_pyramid(tmp_path / "odd.tiff", [pattern(1603, 1202), pattern(400, 300, step=4)], jpeg=True)
    with tifffile.TiffFile(path) as file:
        own = file.pages[1].asarray()
    with Slide(path) as now, Slide(path, held_mib=4) as held:
        assert not float(held.levels[1].reported).is_integer() and held.levels[1].scale == (4.0, 4.0)
        assert held.reader == "tifffile"
        assert np.array_equal(held.read(400, 320, 100, 1.0), own[80:180, 100:200])
        assert np.abs(now.read(400, 320, 100, 1.0).astype(int) - own[80:180, 100:200]).mean() < 4


def test_damage_is_said_in_the_same_words(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "hurt.tiff", box_levels(640, 640, (1, 4)), jpeg=True)
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages[0].dataoffsets[11], file.pages[0].databytecounts[11]
    content = bytearray(path.read_bytes())
    content[offset : offset + count] = bytes(count)
    path.write_bytes(content)
    with Slide(path, held_mib=4) as slide:
        wanted = slide.read(0, 0, 64, 0.25)
        for _ in range(2):
            with pytest.raises(SlideReadError, match=r"slide hurt .*level 0"):
                slide.read(64, 64, 64, 0.25)
        assert np.array_equal(slide.read(0, 0, 64, 0.25), wanted)


def half(tile: bytes) -> int:
    """Where the second half of a tile's picture begins."""
    start = tile.index(b"\xff\xda") + 14
    return start + (len(tile) - start) // 2


END = b"\xff\xd9"
NOISE = np.random.default_rng(4).integers(0, 255, 1 << 16, np.uint8).tobytes()  # without 0xFF
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "zeros": lambda rest: bytes(len(rest)),
    "zeros, then an end marker": lambda rest: bytes(len(rest) - 2) + END,
    "an end marker, then zeros": lambda rest: END + bytes(len(rest) - 2),
    "an end marker within": lambda rest: END + rest[2:],
    "ones": lambda rest: b"\xff" * len(rest),
    "noise, then zeros": lambda rest: NOISE[: len(rest) // 2] + bytes(len(rest) - len(rest) // 2),
    "a marker of another kind": lambda rest: b"\xff\xda" + rest[2:],
    "one byte over and over": lambda rest: b"\xaa" * (len(rest) - 2) + END,
}


def half_damaged(path: Path, content: bytes, place: int, name: str) -> Path:
    """A copy of a slide in which the second half of a tile of level 0 is damaged."""
    path.write_bytes(content)
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages[0].dataoffsets[place], file.pages[0].databytecounts[place]
    tile = content[offset : offset + count]
    hurt = tile[: half(tile)] + DAMAGES[name](tile[half(tile) :])
    assert len(hurt) == count and hurt != tile
    path.write_bytes(content[:offset] + hurt + content[offset + count :])
    return path


def refused(path: Path, held_mib: float, *region: Any) -> str:
    """What is said of a region that cannot be read, by the reader for JPEG tiles where pixels are held."""
    with Slide(path, held_mib=held_mib) as slide:
        assert slide.reader == ("tifffile" if held_mib else "OpenSlide")
        with pytest.raises(SlideReadError) as error:
            slide.read(*region)
    return str(error.value)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_tile_half_of_which_is_damaged_is_refused_in_the_same_words(tmp_path: Path, jpeg: Path, name: str) -> None:
    path = half_damaged(tmp_path / "hurt.tiff", jpeg.read_bytes(), 3 * 10 + 3, name)
    region = (3 * 64, 3 * 64, 64, 0.25)
    assert refused(path, 4, *region) == refused(path, 0, *region)
    with Slide(path) as now, Slide(path, held_mib=4) as held:
        for x, y in ((2, 3), (3, 2), (4, 3), (3, 4)):
            assert np.array_equal(now.read(x * 64, y * 64, 64, 0.25), held.read(x * 64, y * 64, 64, 0.25))


@pytest.mark.parametrize("name", DAMAGES)
def test_a_real_tile_half_of_which_is_damaged(tmp_path: Path, real_data: Path, name: str) -> None:
    content = (real_data / "wsi" / "CMU-1-Small-Region.svs").read_bytes()
    path = half_damaged(tmp_path / "hurt.svs", content, 3 * 10 + 3, name)
    with Slide(path) as slide:
        region = (3 * 240, 3 * 240, 240, slide.mpp[0])
    assert refused(path, 64, *region) == refused(path, 0, *region)


def level_0(path: Path) -> JpegTiles:
    with tifffile.TiffFile(path) as file:
        return JpegTiles(path, file.pages[:1])


def test_no_whole_tile_counts_as_damaged(jpeg: Path, tmp_path: Path) -> None:
    path, picture = tmp_path / "phantom.tiff", pattern(1536, 1280)
    write_phantom(path, (1536, 1280), lambda top, bottom: picture[top:bottom], 0.25, 90)
    for file, columns, rows in ((jpeg, 10, 8), (path, 6, 5)):
        tiles = level_0(file)
        assert all(tiles.read(0, column, row) is not None for row in range(rows) for column in range(columns))
        tiles.close()


def test_no_whole_tile_of_a_real_slide_counts_as_damaged(real_data: Path) -> None:
    tiles = level_0(real_data / "wsi" / "CMU-1-Small-Region.svs")
    assert all(tiles.read(0, column, row) is not None for row in range(13) for column in range(10))
    tiles.close()


def test_a_tile_that_is_grey_by_nature_is_read(tmp_path: Path) -> None:
    levels = box_levels(640, 512, (1, 4))
    levels[0][192:256, 192:256] = 128
    path = write_pyramid(tmp_path / "grey.tiff", levels, jpeg=True)
    tiles = level_0(path)
    assert tiles.read(0, 3, 3) is None and tiles.read(0, 3, 4) is not None
    tiles.close()
    with Slide(path, held_mib=4) as slide:
        assert slide.reader == "tifffile"
        assert (slide.read(192, 192, 64, 0.25) == 128).all()


def test_a_copy_for_another_process_reads_the_same(jpeg: Path) -> None:
    with Slide(jpeg, held_mib=4) as slide:
        copy = pickle.loads(pickle.dumps(slide))
        with copy:
            assert copy.reader == slide.reader == "tifffile"
            assert np.array_equal(copy.read(*REGIONS[0]), slide.read(*REGIONS[0]))


def test_threads_read_what_one_reads(plain: Path) -> None:
    jobs = [(x, y, 40, 0.25) for x in range(0, 560, 70) for y in range(0, 450, 90)]
    with Slide(plain) as slide:
        wanted = [slide.read(*job) for job in jobs]
        one = slide.overview(2.0).rgb
    with Slide(plain, held_mib=1, threads=4) as slide, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda job: slide.read(*job), jobs))
        assert np.array_equal(slide.overview(2.0).rgb, one)
    assert all(np.array_equal(*pair) for pair in zip(wanted, found, strict=True))


def test_memory_stays_within_its_bound() -> None:
    made: list[tuple[int, int]] = []

    def decode(layout: Layout, column: int, row: int) -> Cell:
        made.append((column, row))
        return Cell(np.full((8, 8, 3), column, np.uint8))

    layout = Layout(0, (80, 8), (8, 8))
    cells = Cells(decode, capacity=3 * 8 * 8 * 3)
    for x in (0, 8, 16, 0, 24, 8):
        image, scanned = cells.read(layout, (x, 0), (8, 8), (255, 255, 255))
        assert (image == x // 8).all() and scanned.all()
    # The fourth cell lets go of 1, which was not used for longest, and not of 0, used again since.
    assert made == [(0, 0), (1, 0), (2, 0), (3, 0), (1, 0)]


def test_a_cell_that_two_threads_want_is_decoded_once() -> None:
    made, both = [], threading.Barrier(2)

    def decode(layout: Layout, column: int, row: int) -> Cell:
        made.append(column)
        return Cell(np.zeros((8, 8, 3), np.uint8))

    cells = Cells(decode, capacity=1 << 20)

    def read(_: int) -> None:
        both.wait()
        for column in range(50):
            cells.read(Layout(0, (400, 8), (8, 8)), (8 * column, 0), (8, 8), (0, 0, 0))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(read, range(2)))
    assert sorted(made) == list(range(50))


def test_a_cell_that_fails_is_tried_again() -> None:
    tries = []

    def decode(layout: Layout, column: int, row: int) -> Cell:
        tries.append(column)
        if len(tries) == 1:
            raise openslide.OpenSlideError("away")
        return Cell(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), bool))

    cells, layout = Cells(decode, 1 << 20), Layout(0, (8, 8), (8, 8))
    with pytest.raises(openslide.OpenSlideError):
        cells.read(layout, (0, 0), (8, 8), (0, 0, 0))
    image, scanned = cells.read(layout, (-4, 0), (8, 8), (9, 9, 9))
    assert (image[:, :4] == 9).all() and (image[:, 4:] == 0).all() and not scanned.any()
