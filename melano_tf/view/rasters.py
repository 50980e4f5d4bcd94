"""Layers of a slide that are drawn as pictures (a map, the tissue mask), as fine as the screen where the window is."""

from collections.abc import Callable
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource
from numpy.typing import NDArray

from melano_tf.view.lattice import Lattice, Window, coarse, fine
from melano_tf.view.site import Page

Draw = Callable[[Lattice], NDArray[np.uint8]]
"""Draws part of a picture: uint8 of the lattice's shape, 0 where there is nothing."""


class Raster:
    """A layer that is drawn as a picture. Both pictures lie in one source; the coarse one has a hole under the fine.

    Args:
        page: the page.
        size: (w, h) of the slide, level-0 px.
        window: what the screen shows now, and level-0 px to a pixel of it.
    """

    def __init__(self, page: Page, size: tuple[int, int], window: Callable[[], tuple[Window, float]]) -> None:
        self.page, self.size, self.window = page, size, window
        self.source = ColumnDataSource({name: [] for name in ("image", "x", "y", "dw", "dh")})
        self._draw: Draw | None = None
        self._coarse: NDArray[np.uint8] | None = None
        self._fine: Lattice | None = None
        self._asked, self._busy = 0, False
        self._failed: Callable[[str], None] = lambda words: None

    def put(self, draw: Draw | None, drawn: Callable[[], None], failed: Callable[[str], None]) -> None:
        """Draw something else, aside, and then call `drawn`; None: nothing."""
        self._asked += 1
        self._draw, self._coarse, self._fine, self._failed = draw, None, None, failed
        if draw is not None:
            self._render(draw, drawn)

    def moved(self) -> None:
        """Draw anew what the window shows now, where that is not there yet."""
        if self._draw is None or self._coarse is None or self._busy:
            return  # what is under way looks again when it is done
        wanted = fine(self.size, *self.window())
        if wanted is not None and not (self._fine is not None and self._fine.holds(wanted)):
            self._render(self._draw, lambda: None)

    def _render(self, draw: Draw, drawn: Callable[[], None]) -> None:
        asked, whole, wanted, self._busy = self._asked, self._coarse, fine(self.size, *self.window()), True

        def work() -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
            first = draw(coarse(self.size)) if whole is None else whole
            return first, None if wanted is None else draw(wanted)

        def done(found: tuple[NDArray[np.uint8], NDArray[np.uint8] | None]) -> None:
            if asked != self._asked:
                return  # another one was asked for meanwhile
            self._busy, self._fine, (self._coarse, part) = False, wanted, found
            self.source.data = self._pictures(self._coarse, wanted, part)
            drawn()
            self.moved()

        def failed(words: str) -> None:
            if asked == self._asked:
                self._busy, self._draw = False, None
                self._failed(words)

        self.page.later(work, done, failed)

    def _pictures(
        self, whole: NDArray[np.uint8], where: Lattice | None, part: NDArray[np.uint8] | None
    ) -> dict[str, list[Any]]:
        everywhere = coarse(self.size)
        pictures = [(everywhere, whole)]
        if where is not None and part is not None:
            side = int(everywhere.step)
            left, top = where.x // side, where.y // side
            right, bottom = left + round(where.size[0] / side), top + round(where.size[1] / side)
            under = whole.copy()
            under[top:bottom, left:right] = 0
            pictures = [(everywhere, under), (where, part)]
        return {
            "image": [np.flipud(values) for _, values in pictures],
            "x": [float(one.x) for one, _ in pictures],
            "y": [-float(one.y + one.size[1]) for one, _ in pictures],
            "dw": [one.size[0] for one, _ in pictures],
            "dh": [one.size[1] for one, _ in pictures],
        }
