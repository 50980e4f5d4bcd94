"""What a slide file says of itself: the part that was scanned, its background, its resolution."""

import contextlib
import math
from collections.abc import Mapping

from melano_tf.errors import InputError

MPP_RANGE = (0.05, 20.0)
# Share by which a given µm/px may differ from the file's own before it is said.
MPP_TOLERANCE = 0.15
# µm/px of a scan times the power of its objective, near enough: 40x is about 0.25 µm/px, 20x about 0.5.
MPP_TIMES_POWER = 10.0
# Outside of this they contradict each other: 40x with less than 0.1 µm/px, or more than 0.625.
POWER_RANGE = (4.0, 25.0)


def bounds(properties: Mapping[str, str], full: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """((x, y), (w, h)) of the scanned part in level-0 pixels; the whole file where it does not tell."""
    names = [f"openslide.bounds-{name}" for name in ("x", "y", "width", "height")]
    if any(name not in properties for name in names):
        return (0, 0), (int(full[0]), int(full[1]))
    x, y, width, height = (int(properties[name]) for name in names)
    return (x, y), (min(width, full[0] - x), min(height, full[1] - y))


def positive(text: str | None) -> float | None:
    """A number above zero, or None where there is none."""
    with contextlib.suppress(TypeError, ValueError):
        value = float(text)  # type: ignore[arg-type]
        if math.isfinite(value) and value > 0:
            return value
    return None


def colour(text: str | None) -> tuple[int, int, int]:
    """The colour of "RRGGBB", white without one."""
    number = int(text.lstrip("#"), 16) if text else 0xFFFFFF
    return number >> 16 & 255, number >> 8 & 255, number & 255


def resolution(name: str, properties: Mapping[str, str], given: float | None) -> tuple[tuple[float, float], str]:
    """(x, y) µm per level-0 pixel: the given value, else the file's, checked against MPP_RANGE; and a note, or "".

    The note says where a given value contradicts the file's own; or, where none is given, how the file contradicts
    itself: pixels that are not square, µm/px that do not go with its objective.
    """
    column = "into the manifest's `mpp` column, or --mpp"
    advice = f"put µm per pixel at full resolution (for example 0.25) {column}"
    x, y = (positive(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
    own = None if x is None and y is None else (x or y or 0.0, y or x or 0.0)
    power = positive(properties.get("openslide.objective-power"))
    note = ""
    if given is not None and not math.isnan(given):
        mpp, origin = (float(given), float(given)), "the `mpp` that was given"
        if own is not None and given > 0 and max(max(given / o, o / given) for o in own) > 1 + MPP_TOLERANCE:
            note = f"the given {given:g} µm/px contradicts the file's own {_stated(own)} µm/px; the given one was taken"
    elif own is not None:
        mpp, origin = own, "the file's metadata"
        if doubts := _doubts(own, power):
            note = f"{'; '.join(doubts)}; if the µm/px are wrong, {advice}"
    else:
        if power is not None:
            advice = (
                f"its objective of {power:g}x suggests about {MPP_TIMES_POWER / power:.3g} µm/px: put that, or better "
                f"the scanner's own value, {column}"
            )
        raise InputError(f"{name}: the file does not tell its resolution; {advice}")
    if not all(MPP_RANGE[0] <= value <= MPP_RANGE[1] for value in mpp):
        raise InputError(
            f"{name}: {_stated(mpp)} µm/px in {origin} cannot be right "
            f"(allowed: {MPP_RANGE[0]:g} to {MPP_RANGE[1]:g}); {advice}"
        )
    return mpp, note


def _doubts(own: tuple[float, float], power: float | None) -> list[str]:
    """What contradicts itself in the resolution that a file tells."""
    doubts = []
    if max(own) / min(own) > 1 + MPP_TOLERANCE:
        doubts.append(f"the file tells {_stated(own)} µm/px, but pixels are nearly always square")
    if power is not None and not POWER_RANGE[0] <= sum(own) / 2 * power <= POWER_RANGE[1]:
        usual = f"about {MPP_TIMES_POWER / power:.3g} µm/px is usual"
        doubts.append(f"the file tells {_stated(own)} µm/px with an objective of {power:g}x, for which {usual}")
    return doubts


def _stated(mpp: tuple[float, float]) -> str:
    return f"{mpp[0]:g}" if mpp[0] == mpp[1] else f"{mpp[0]:g} x {mpp[1]:g}"
