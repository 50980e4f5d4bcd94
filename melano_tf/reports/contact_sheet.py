"""Contact sheets: many small pictures with a line under each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from melano_tf.reports.figures import blank_figure, save_figure

WIDTH = 1.35  # inches of a square picture
LABEL = 0.22  # inches of a line under it


def contact_sheet(
    images: Sequence[NDArray[np.uint8]], labels: Sequence[str], columns: int, path: Path, title: str = ""
) -> Path:
    """Draw pictures in rows, in the order given, each with its label under it; a PNG, written atomically.

    Args:
        images: uint8 (h, w, 3) each; of any size, each keeps its shape. The widest sets the width of the columns.
        labels: one a picture; "" for none; may hold line breaks.
        columns: pictures a row; fewer pictures take fewer columns.
        path: of the PNG.
        title: above the sheet.

    Raises:
        ValueError: no pictures, labels of another number, or columns below 1.
    """
    if not len(images) or len(images) != len(labels) or columns < 1:
        raise ValueError(f"{len(images)} pictures, {len(labels)} labels and {columns} columns")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    aspect = min(4.0, max(1.0, max(image.shape[1] / image.shape[0] for image in images)))
    lines = max(label.count("\n") + 1 for label in labels) if any(labels) else 0
    height = rows * (WIDTH + LABEL * lines + 0.08) + (0.35 if title else 0.05)
    figure = blank_figure(columns * (WIDTH * aspect + 0.08), height)
    axes = np.asarray(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, image, label in zip(axes, images, labels, strict=False):
        axis.imshow(image, interpolation="antialiased")
        if label:
            axis.text(0.5, -0.03, label, transform=axis.transAxes, ha="center", va="top", fontsize=7)
    if title:
        figure.suptitle(title, fontsize=10)
    return save_figure(path, figure)
