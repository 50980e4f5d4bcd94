"""The parts in which a region of a slide is read, each from the pixels of one level."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melano_tf.slides.pixel_resampling import Axis, Image, Run
from melano_tf.slides.pyramid_levels import Level


@dataclass(frozen=True)
class Block:
    """A part of a region: its rows and columns there, the level's pixels behind it, its axes in these pixels."""

    level: Level
    rows: slice
    columns: slice
    runs: tuple[Run, Run]
    axes: tuple[Axis, Axis]


def is_of(image: Image, colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Whether each pixel has exactly a colour; channel by channel, which is ten times as fast as `all(axis=2)`."""
    red, green, blue = (image[:, :, channel] == part for channel, part in enumerate(colour))
    return np.asarray(red & green & blue)


def each_block(function: Callable[[Block], None], blocks: Iterable[Block], threads: int) -> None:
    """Call a function with every block, in several threads."""
    if threads <= 1:
        for block in blocks:
            function(block)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(function, blocks))


def outside_bounds(run: Run, scale: float, origin: int, size: int) -> NDArray[np.bool_]:
    """Which of the run's pixels have their centre outside the slide's bounds, (count,)."""
    centres = (run.first + np.arange(run.count) + 0.5) * scale - origin
    return (centres < 0) | (centres > size)
