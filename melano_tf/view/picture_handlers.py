"""The pictures behind the pages: tiles of slides, overviews, images. Addresses hold numbers only, never a path."""

import asyncio
import contextlib
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tornado.web import RequestHandler

from melano_tf.dermoscopy.image_files import UnreadableImageError, read_image
from melano_tf.errors import InputError
from melano_tf.slides.slide import Slide
from melano_tf.view.deepzoom import TILE_PX, Pyramid, cut, encoded, told
from melano_tf.view.run_cases import Seen
from melano_tf.view.site import Site

OVERVIEW_PX = 300  # longer side of a slide's overview, at least
LARGE_PX = 1600  # longer side of an image shown large, at most
THUMB_PX = 160
CUTOUT_PX = 192
NOTHING = bytes.fromhex(  # a transparent pixel as PNG: where a world's tile holds nothing of the slide
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001a5f64540"
    "0000000049454e44ae426082"
)


class Pictures(RequestHandler):
    """Answers with a picture that is made aside and kept."""

    def initialize(self, site: Site) -> None:
        self.site = site

    def set_default_headers(self) -> None:
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "private, max-age=600")

    async def answer(
        self, key: tuple[Any, ...], make: Callable[[], bytes | None], pool: ThreadPoolExecutor | None = None
    ) -> None:
        """Send the picture, a transparent one where there is none, and one that says why where it cannot be read."""
        content = self.site.cache.get(key)
        if content is None:
            try:
                content = await asyncio.wrap_future(self.site.begin(key, make, pool))
            except (InputError, UnreadableImageError, OSError) as error:
                self.set_header("Cache-Control", "no-store")
                self.set_header("X-Unreadable", "1")
                self.set_header("Content-Type", "image/jpeg")
                self.finish(told(_why(error)))
                return
            if content is None:
                self.set_header("Content-Type", "image/png")
                self.finish(NOTHING)
                return
        self.set_header("Content-Type", "image/png" if content.startswith(b"\x89PNG") else "image/jpeg")
        self.finish(content)

    def seen(self, run: str) -> Seen | None:
        """The run of an address, or None, and then the answer is 404: there is no such run, or its cases are others now
        than those of the page that asks."""
        found = None
        with contextlib.suppress(InputError):
            found = self.site.runs.last(int(run))
        if found is None or self.get_query_argument("of", found.stamp) != found.stamp:
            self.set_status(404)
            self.set_header("Cache-Control", "no-store")
            return None
        return found


def _why(error: Exception) -> str:
    text = str(error).encode("ascii", "replace").decode()
    if "no such file" in text:
        return "the file is gone"
    return "cannot be read:\n" + "\n".join(text[start : start + 34] for start in range(0, min(len(text), 170), 34))


def slide_of(site: Site, run: Seen, case: int) -> Slide:
    """The open slide of a case, for this thread.

    Raises:
        InputError: its file is not known, or not there any more, or no slide.
    """
    path, mpp = run.cases["path"][case], float(run.cases["mpp"][case])
    if not isinstance(path, str):
        name = run.cases["case"][case]
        raise InputError(f"{name}: its slide file is not known; the run's manifest is not there any more")
    return site.slides.get(Path(path), None if np.isnan(mpp) else mpp)


def tile_work(
    site: Site, run: Seen, case: int, tile: tuple[int, int, int]
) -> tuple[tuple[Any, ...], Callable[[], bytes | None], ThreadPoolExecutor]:
    """What a slide's tile (zoom, column, row) is kept under, how it is made, and where."""
    key = ("tile", run.cases["path"][case], *tile)
    return key, lambda: cut(slide_of(site, run, case), *tile), site.tiles_pool


class Tile(Pictures):
    """A deep-zoom tile of a slide."""

    async def get(self, run: str, case: str, zoom: str, column: str, row: str) -> None:
        seen = self.seen(run)
        if seen is None or seen.judges != "slides" or int(case) >= len(seen.cases):
            self.set_status(404)
            return

        await self.answer(*tile_work(self.site, seen, int(case), (int(zoom), int(column), int(row))))


def overview(site: Site, run: Seen, case: int) -> NDArray[np.uint8]:
    """A whole slide, small, RGB uint8 (h, w, 3), from its deep-zoom tiles, most of which its page shows anyway: to read
    the slide once more for it takes as long as they do."""
    size = slide_of(site, run, case).size
    pyramid = Pyramid(size)
    zoom = next((z for z in range(pyramid.levels) if max(size) / pyramid.step(z) >= OVERVIEW_PX), pyramid.levels)
    step = pyramid.step(zoom)
    wide, high = (math.ceil(length / step) for length in size)
    whole = np.zeros((high, wide, 3), np.uint8)
    places = [(x, y) for y in range(0, high, TILE_PX) for x in range(0, wide, TILE_PX)]
    asked = [site.begin(*tile_work(site, run, case, (zoom, x // TILE_PX, y // TILE_PX))) for x, y in places]
    for (x, y), one in zip(places, asked, strict=True):
        part = whole[y : y + TILE_PX, x : x + TILE_PX]
        tile = cv2.imdecode(np.frombuffer(one.result() or b"", np.uint8), cv2.IMREAD_COLOR)
        if tile is not None:
            part[:] = tile[: part.shape[0], : part.shape[1], ::-1]
    return whole


class Overview(Pictures):
    """A whole slide, small."""

    async def get(self, run: str, case: str) -> None:
        seen = self.seen(run)
        if seen is None or seen.judges != "slides" or int(case) >= len(seen.cases):
            self.set_status(404)
            return

        def make() -> bytes:
            return encoded(overview(self.site, seen, int(case)))

        await self.answer(("overview", seen.cases["path"][int(case)]), make)


class Cutout(Pictures):
    """A square of a slide: level-0 px of its upper left corner and side."""

    async def get(self, run: str, case: str, x: str, y: str, side: str) -> None:
        seen = self.seen(run)
        if seen is None or seen.judges != "slides" or int(case) >= len(seen.cases) or not 0 < int(side) < 1 << 17:
            self.set_status(404)
            return

        def make() -> bytes:
            slide = slide_of(self.site, seen, int(case))
            return encoded(slide.read(int(x), int(y), CUTOUT_PX, int(side) * slide.mpp[0] / CUTOUT_PX))

        await self.answer(("cutout", seen.cases["path"][int(case)], x, y, side), make)


class ImageFile(Pictures):
    """An image of an image run, large or as a thumbnail."""

    async def get(self, run: str, size: str, case: str) -> None:
        seen = self.seen(run)
        if seen is None or seen.judges != "images" or int(case) >= len(seen.cases):
            self.set_status(404)
            return
        path = seen.cases["path"][int(case)]
        longest = THUMB_PX if size == "thumb" else LARGE_PX

        def make() -> bytes:
            if not isinstance(path, str):
                raise InputError("no such file")
            return encoded(shrunk(read_image(path, shrink_to=longest), longest))

        await self.answer((size, path), make)


def shrunk(image: np.ndarray, longest: int) -> np.ndarray:
    """An image whose longer side is at most so many pixels."""
    ratio = longest / max(image.shape[:2])
    if ratio >= 1:
        return image
    size = (max(1, round(image.shape[1] * ratio)), max(1, round(image.shape[0] * ratio)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def patterns(site: Site) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
    """The addresses of all pictures, below the site's prefix."""
    number, given = r"(\d{1,9})", {"site": site}
    return [
        (rf"/tile/{number}/{number}/{number}/{number}/{number}\.jpg", Tile, given),
        (rf"/overview/{number}/{number}\.jpg", Overview, given),
        (rf"/cutout/{number}/{number}/{number}/{number}/{number}\.jpg", Cutout, given),
        (rf"/picture/{number}/(thumb|large)/{number}\.jpg", ImageFile, given),
    ]
