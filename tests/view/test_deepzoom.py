"""Tiles lie where they should, at every zoom, and the cache keeps to its limit."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from melano_tf.slides.slide import Slide
from melano_tf.view.deepzoom import FINER, TILE_PX, ByteCache, OpenSlides, Pyramid, cut
from tests.pipelines.small_slides import SIZE, picture, write_slide_file


def decoded(content: bytes | None) -> np.ndarray:
    assert content is not None
    found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    return np.asarray(found)


def test_the_world_is_one_tile_at_zoom_0() -> None:
    for size in ((256, 200), (257, 10), (1024, 768), (100_000, 60_001)):
        pyramid = Pyramid(size)
        assert pyramid.place(0, 0, 0) == (0, 0)
        assert pyramid.place(0, 1, 0) is None and pyramid.place(0, 0, 1) is None
        assert pyramid.world >= max(size) and (pyramid.world < 2 * max(size) or pyramid.levels == 0)
        assert pyramid.step(pyramid.levels) == 1
    assert Pyramid((1000, 1000)).place(-1, 0, 0) is None
    assert Pyramid((1000, 1000)).place(2 + FINER + 1, 0, 0) is None
    assert Pyramid((1000, 600)).place(2, 3, 2) == (768, 512) and Pyramid((1000, 600)).place(2, 3, 3) is None


def test_tiles_of_full_resolution_are_the_slide(tmp_path: Path) -> None:
    path, whole = write_slide_file(tmp_path / "s.tiff", 4), picture(4)
    with Slide(path) as slide:
        zoom = Pyramid(slide.size).levels
        for column, row in ((0, 0), (1, 1), (3, 2)):
            tile = decoded(cut(slide, zoom, column, row))[:, :, :3][:, :, ::-1].astype(int)
            x, y = column * TILE_PX, row * TILE_PX
            wanted = whole[y : y + TILE_PX, x : x + TILE_PX].astype(int)
            assert np.abs(tile - wanted).mean() < 6  # JPEG of uneven stain
            moved = whole[y : y + TILE_PX, x + 8 : x + 8 + TILE_PX].astype(int)
            if moved.shape == wanted.shape and wanted.std() > 20:
                assert np.abs(tile - moved).mean() > 8


def test_beyond_the_slide_a_tile_is_transparent(tmp_path: Path) -> None:
    with Slide(write_slide_file(tmp_path / "s.tiff", 4)) as slide:
        tile = decoded(cut(slide, 0, 0, 0))
        step = Pyramid(slide.size).step(0)
        assert tile.shape == (TILE_PX, TILE_PX, 4)
        inside = np.zeros((TILE_PX, TILE_PX), bool)
        inside[: int(SIZE[1] / step), : int(SIZE[0] / step)] = True
        np.testing.assert_array_equal(tile[:, :, 3] == 255, inside)
        assert cut(slide, 5, 31, 31) is None


def test_a_tile_at_the_edge_is_read_as_far_as_the_slide_goes(tmp_path: Path, monkeypatch) -> None:
    with Slide(write_slide_file(tmp_path / "s.tiff", 4)) as slide:
        asked: list[tuple[int, int]] = []
        read = slide.read
        monkeypatch.setattr(slide, "read", lambda x, y, size, mpp: asked.append(size) or read(x, y, size, mpp))
        cut(slide, 0, 0, 0)
        cut(slide, 2, 3, 2)
        assert asked == [(256, 192), (256, 256)]


@pytest.mark.parametrize("size", [(100_000, 60_001), (1024, 768), (257, 4000)])
def test_the_tiles_of_a_window_are_those_that_the_browser_asks_for(size: tuple[int, int]) -> None:
    pyramid, rng = Pyramid(size), np.random.default_rng(0)
    for _ in range(50):
        width = float(size[0] * 2 ** rng.uniform(-8, 1))
        left, top, tall, px = *(rng.uniform(-0.2, 0.9, 2) * size), width * 0.7, rng.uniform(300, 1900)
        found = pyramid.shown(left, top, width, tall, px)
        for zoom, column, row in found:
            step = pyramid.step(zoom)
            finest, coarsest = zoom == pyramid.levels + FINER, zoom == 0
            # Bokeh's rule: the finest zoom whose pixels are not finer than the screen's.
            assert (step >= width / px or coarsest) and (step / 2 < width / px or finest)
            x, y = pyramid.place(zoom, column, row) or (-1.0, -1.0)
            assert x < left + width and x + 256 * step > left and y < top + tall and y + 256 * step > top
        seen = left < size[0] and left + width > 0 and top < size[1] and top + tall > 0
        assert bool(found) == seen


def test_the_cache_keeps_to_its_limit() -> None:
    cache = ByteCache(1000)
    for number in range(50):
        cache.put(number, bytes(90))
        assert cache.bytes <= 1000
    assert len(cache) == 11 and cache.get(0) is None and cache.get(49) is not None
    cache.get(40)
    for number in range(50, 60):
        cache.put(number, bytes(90))
    assert cache.get(40) is not None and cache.get(41) is None  # what was asked for stays
    cache.put("large", bytes(1001))
    assert cache.get("large") is None
    cache.put(40, bytes(10))
    assert cache.bytes == 10 * 90 + 10
    calls: list[int] = []
    for _ in range(2):
        assert cache.made("x", lambda: calls.append(1) or b"x") == b"x"
    assert calls == [1]


def test_the_cache_adds_up_with_several_threads() -> None:
    cache = ByteCache(5000)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(400):
            cache.put(int(rng.integers(40)), bytes(int(rng.integers(1, 400))))
            cache.get(int(rng.integers(40)))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert cache.bytes == sum(len(cache.get(key) or b"") for key in range(40)) <= 5000


def test_few_slides_stay_open(tmp_path: Path) -> None:
    slides = OpenSlides()
    paths = [write_slide_file(tmp_path / f"{number}.tiff", number) for number in range(3)]
    opened = [slides.get(path, None) for path in paths]
    for one in opened:
        one.read(0, 0, 16, 1.0)
    assert slides.get(paths[2], None) is opened[2]
    with ThreadPoolExecutor(3) as pool:  # one for all threads, with one cache
        assert {*pool.map(lambda _: slides.get(paths[2], None), range(6))} == {opened[2]}
    opened[0].read(0, 0, 16, 1.0)  # forgotten, and read on by who has it
    assert slides.get(paths[0], None) is not opened[0]
    paths[2].unlink()
    with pytest.raises(Exception, match="no such file"):
        slides.get(paths[2], None)
