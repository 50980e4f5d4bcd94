"""Turns, crops and flips of images as projective transforms, so that an image is resampled once for all of them.

A transform (8 numbers a0 a1 a2 b0 b1 b2 c0 c1, as TensorFlow's and Keras's image operations take them) leads from an
output pixel to the input pixel: x' = a0 x + a1 y + a2 and y' = b0 x + b1 y + b2, both over c0 x + c1 y + 1; x is the
column, y the row, and (0, 0) the centre of the first pixel.
"""

import math
from collections.abc import Iterable
from typing import Any, Literal

import cv2
import numpy as np
import tensorflow as tf

Fill = Literal["constant", "nearest", "reflect", "wrap"]
BORDERS: dict[Fill, int] = {
    "constant": cv2.BORDER_CONSTANT,
    "nearest": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT,
}
FLIPS = {(True, False): 0, (False, True): 1, (True, True): -1}  # (up for down, left for right), as OpenCV calls them


def views(degrees: Any, zoom: Any, mirrored: Any, aspect: Any, source: tuple[int, int], output: tuple[int, int]) -> Any:
    """Crop from the centre, turn and flip of pictures that were squeezed to one size, as one transform each.

    The picture is cropped, turned (anticlockwise) and mirrored in its own proportions, and only then brought to the
    output's: without `aspect` a turn of a squeezed picture would shear what it shows.

    Args:
        degrees: angles, (n,).
        zoom: share of the picture's height and width that is seen, (n,); 1: all of it.
        mirrored: bool (n,): left for right.
        aspect: width / height of each picture before it was squeezed, (n,).
        source: height and width of the stored pictures, px.
        output: height and width of the result, px.

    Returns:
        float32 (n, 8).
    """
    angle = tf.cast(degrees, tf.float64) * (math.pi / 180)
    zoom, aspect = tf.cast(zoom, tf.float64), tf.cast(aspect, tf.float64)
    sign = 1 - 2 * tf.cast(mirrored, tf.float64)
    cos, sin = zoom * tf.cos(angle), zoom * tf.sin(angle)
    # In units of half a side, from the centre: u' = (cos a s u - sin v) / a, v' = sin a s u + cos v (s: mirrored).
    matrix = ((cos * sign, -sin / aspect), (sin * aspect * sign, cos))
    (height, width), (rows, columns) = source, output
    halves = (width / 2, height / 2)
    numbers = []
    for axis, (by_x, by_y) in enumerate(matrix):
        # Edges of pictures lie half a pixel outside of their first and last pixels' centres.
        x = by_x * (halves[axis] * 2 / columns)
        y = by_y * (halves[axis] * 2 / rows)
        offset = halves[axis] * (1 - by_x - by_y) - 0.5 + (x + y) / 2
        numbers += [x, y, offset]
    zero = tf.zeros_like(angle)
    return tf.cast(tf.stack([*numbers, zero, zero], axis=1), tf.float32)


def transformed(images: Any, transforms: Any, output: tuple[int, int], fill: Fill = "constant") -> Any:
    """Images float32 (n, h, w, C) seen through transforms (n, 8), bilinearly, float32 (n, *output, C).

    Args:
        fill: what stands outside of the image: black ("constant"), its edge ("nearest"), its mirror image ("reflect"),
            or its other side ("wrap").
    """
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        output_shape=np.asarray(output, np.int32),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode=fill.upper(),
    )


def warped(images: Iterable[np.ndarray], transforms: np.ndarray, output: tuple[int, int], fill: Fill) -> np.ndarray:
    """As `transformed`, by OpenCV: several times as fast, rounded to whole grey levels, its places to 1/32 pixel.

    Args:
        images: uint8 (h, w, 3) each, of any sizes.
        transforms: float32 (n, 8) without perspective.
        output: height and width of the result, px.
        fill: what stands outside of an image; not "wrap".

    Returns:
        uint8 (n, *output, 3).
    """
    result = np.empty((len(transforms), *output, 3), np.uint8)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for place, (image, transform) in enumerate(zip(images, transforms, strict=True)):
        matrix = transform[:6].reshape(2, 3).astype(np.float64)
        cv2.warpAffine(image, matrix, output[::-1], dst=result[place], flags=flags, borderMode=BORDERS[fill])
    return result


def turned(images: np.ndarray, quarters: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Images turned by quarters and then mirrored; no pixel is changed.

    Args:
        images: uint8 (n, h, w, 3); square, where one is turned.
        quarters: anticlockwise turns by 90 degrees, int (n,).
        rows, columns: bool (n,): up for down, and left for right.

    Returns:
        uint8 of the same shape.
    """
    if (quarters % 2).any() and images.shape[1] != images.shape[2]:
        raise ValueError(f"images of {images.shape[2]} x {images.shape[1]} px cannot be turned by a quarter")
    result = np.empty_like(images)
    for image, into, quarter, up_down, left_right in zip(images, result, quarters, rows, columns, strict=True):
        # A turn is an exchange of the axes and flips: by 1 (anticlockwise) of the rows, by 3 of the columns, by 2 of
        # both.
        source = cv2.transpose(image) if quarter % 2 else image
        flipped = (up_down != (quarter in (1, 2)), left_right != (quarter >= 2))
        if any(flipped):
            cv2.flip(source, FLIPS[flipped], dst=into)
        else:
            into[...] = source
    return result
