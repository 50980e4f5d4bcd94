"""Figures of what attention looks at: an image, then for each model its spatial attention and its strongest channel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from melano_tf.explain.heat_maps import overlay
from melano_tf.reports.figures import entitled, shared_columns, sheet_grid


@dataclass(frozen=True)
class Attended:
    """What one model attended to in one image.

    Attributes:
        spatial: spatial attention (h, w), any range.
        channel: the features of the strongest channel (h, w), any range.
        caption: under the maps: what the model called it.
    """

    spatial: NDArray[np.floating]
    channel: NDArray[np.floating]
    caption: str


@dataclass(frozen=True)
class AttendedImage:
    """One line of the figure.

    Attributes:
        title: what the image is.
        image: uint8 (H, W, 3).
        models: {model: what it attended to}, in the order of the columns.
    """

    title: str
    image: NDArray[np.uint8]
    models: Mapping[str, Attended]


def attended_sheet(rows: Sequence[AttendedImage], title: str, note: str = "") -> Figure:
    """Images (first column), then spatial attention over the image and strongest channel of each model.

    Every map is stretched to its own 0..1, so that one compares where models look, and not how much.

    Args:
        rows: at least one; the first one's models are the columns.
        title: of the figure.
        note: a line under it: how the images were chosen.

    Raises:
        ValueError: no rows, or rows with other models than the first.
    """
    models = shared_columns([row.models for row in rows])
    count = 1 + 2 * len(models)
    figure, grid = sheet_grid((1.75 * count + 0.8, 2.05 * len(rows) + 1.1), len(rows), count)
    for line, row in zip(grid, rows, strict=True):
        line[0].imshow(row.image)
        line[0].set_ylabel(row.title, fontsize=9)
        for place, name in enumerate(models):
            found = row.models[name]
            left, right = line[1 + 2 * place], line[2 + 2 * place]
            left.imshow(overlay(row.image, enlarged(found.spatial, row.image.shape[:2]), opacity=0.5))
            right.imshow(enlarged(found.channel, row.image.shape[:2]), cmap="gray", vmin=0, vmax=1)
            left.set_xlabel(found.caption, fontsize=8, loc="left")
    grid[0][0].set_title("image", fontsize=9)
    for place, name in enumerate(models):
        grid[0][1 + 2 * place].set_title(f"{name}\nspatial", fontsize=9)
        grid[0][2 + 2 * place].set_title("strongest\nchannel", fontsize=9)
    return entitled(figure, title, note, "spatial attention, lowest to highest of its map")


def enlarged(values: NDArray[np.floating], shape: tuple[int, int]) -> NDArray[np.float64]:
    """A map (h, w) stretched to 0..1 and enlarged bilinearly to (H, W); a map of one value is 0 everywhere."""
    values = np.asarray(values, np.float64)
    spread = values.max() - values.min()
    scaled = (values - values.min()) / spread if spread > 0 else np.zeros_like(values)
    return np.clip(cv2.resize(scaled, shape[::-1], interpolation=cv2.INTER_LINEAR), 0.0, 1.0)
