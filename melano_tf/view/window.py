"""What of a slide a page shows at first: its window, and the tiles that stand there until Bokeh draws them."""

from dataclasses import dataclass

from melano_tf.view.deepzoom import TILE_PX, Pyramid
from melano_tf.view.picture_handlers import tile_work
from melano_tf.view.run_cases import Seen
from melano_tf.view.site import FirstPicture, Page

HEIGHT = 660
LIKELY = 900  # px of the frame's width, on a screen of 1280


@dataclass(frozen=True)
class Window:
    """What of the slide is shown: centre, width and least height in level-0 px (height 0: whatever the frame gives)."""

    x: float
    y: float
    width: float
    height: float = 0.0

    @classmethod
    def of(cls, page: Page, size: tuple[int, int]) -> "Window":
        """The window of the address, else the whole slide."""
        x, y, width = (page.number(name) for name in ("x", "y", "w"))
        if x is None or y is None or width is None or not width > 0:
            return cls(size[0] / 2, size[1] / 2, size[0] * 1.04, size[1] * 1.04)
        return cls(x, y, width)

    def tiles(self, size: tuple[int, int]) -> list[tuple[int, int, int]]:
        """The tiles that show it, most likely: how wide the frame will be only the browser knows."""
        width = max(self.width, self.height * LIKELY / HEIGHT)
        tall = width * HEIGHT / LIKELY
        return Pyramid(size).shown(self.x - width / 2, self.y - tall / 2, width, tall, LIKELY)


def first_picture(page: Page, run: Seen, place: int, size: tuple[int, int], window: Window) -> FirstPicture:
    """The tiles of a window for a page to show before Bokeh does; they are begun at once.

    Args:
        page: the page.
        run, place: the slide.
        size: (w, h) of it, level-0 px.
        window: what is shown at first.
    """
    site, pyramid, found = page.site, Pyramid(size), []
    for zoom, column, row in window.tiles(size):
        site.begin(*tile_work(site, run, place, (zoom, column, row)))
        side = TILE_PX * pyramid.step(zoom)
        address = site.tiles(run, place).format(Z=zoom, X=column, Y=row)
        found.append((address, column * side, row * side, side))
    height = window.height or 1.0
    box = (window.x - window.width / 2, window.y - height / 2, window.width, height)
    return FirstPicture(box, found, f"slide {run.cases['case'][place]}")
