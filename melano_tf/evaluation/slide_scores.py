"""From a slide's tiles to the slide, and from a slide's magnifications to one answer.

Section 3 of the multimag paper: "the per-patch results were aggregated on one slide"; it does not say how.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

How = Literal["mean", "majority", "top"]
Fusion = Literal["mean", "log-odds"]
AGGREGATIONS: tuple[How, ...] = ("mean", "majority", "top")
FUSIONS: tuple[Fusion, ...] = ("mean", "log-odds")
EPSILON = 1e-6


def slide_score(probability: ArrayLike, how: How, top: int = 10, threshold: float = 0.5) -> float:
    """One slide's score for a class, from its tiles' probabilities of that class.

    Args:
        probability: of each tile, (n,), n >= 1.
        how: "mean" probability; "majority": the share of tiles called it; "top": the mean of the `top` most probable
            tiles (of all where there are fewer).
        top: tiles behind "top".
        threshold: probability from which on a tile is called it, for "majority".

    Raises:
        ValueError: no tiles, or an unknown way.
    """
    values = np.asarray(probability, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"tiles' probabilities have shape {values.shape}; a slide needs one tile at least")
    if how == "mean":
        return float(values.mean())
    if how == "majority":
        return float((values >= threshold).mean())
    if how == "top":
        return float(np.sort(values)[::-1][:top].mean())
    raise ValueError(f"aggregation {how!r}: choose one of {', '.join(AGGREGATIONS)}")


def slide_scores(
    tiles: pd.DataFrame, columns: Sequence[str], how: How, top: int = 10, threshold: float = 0.5
) -> pd.DataFrame:
    """Scores of all slides.

    Args:
        tiles: one row a tile: slide_id and the probability columns; other columns are the slide's own (those of its
            first tile are kept).
        columns: probabilities of classes.
        how, top, threshold: as for `slide_score`; several classes are called by the highest probability instead of the
            threshold.

    Returns:
        One row a slide, in the order of first appearance: the tiles' other columns, the scores under `columns`, and
        `tiles`, their number.
    """
    values = tiles[list(columns)].to_numpy(np.float64)
    if how == "majority" and len(columns) > 1:
        values = (values == values.max(axis=1, keepdims=True)).astype(np.float64)
        values /= values.sum(axis=1, keepdims=True)
        rows = tiles.assign(**dict(zip(columns, values.T, strict=True)))
        return slide_scores(rows, columns, "mean")
    groups = tiles.groupby("slide_id", sort=False)
    result = groups.first().reset_index()
    for column in columns:
        scores = groups[column].apply(lambda p: slide_score(p.to_numpy(), how, top, threshold))
        result[column] = result["slide_id"].map(scores).astype(np.float64)
    return result.assign(tiles=result["slide_id"].map(groups.size()).astype(np.int64))


def magnified_slide_scores(
    tiles: pd.DataFrame, columns: Sequence[str], how: How, top: int = 10, threshold: float = 0.5
) -> pd.DataFrame:
    """Scores of all slides from their tiles at all magnifications: the mean over these, so that each counts alike.

    Tables, predict and the atlas all judge a slide by this one rule.

    Args:
        tiles: one row a tile, one at least: slide_id, magnification and the probability columns; see `slide_scores`.
        columns, how, top, threshold: as for `slide_scores`, at each magnification.

    Returns:
        One row a slide, in the order of first appearance: the columns of `slide_scores`, `tiles` of all magnifications.
    """
    parts = [slide_scores(rows, columns, how, top, threshold) for _, rows in tiles.groupby("magnification", sort=False)]
    groups = pd.concat(parts, ignore_index=True).groupby("slide_id", sort=False)
    slides = groups.first().reset_index()
    means = {name: slides["slide_id"].map(groups[name].mean()) for name in columns}
    return slides.assign(**means, tiles=slides["slide_id"].map(groups["tiles"].sum()).astype(np.int64))


def class_scores(
    tiles: pd.DataFrame, columns: Sequence[str], how: How, top: int = 10, threshold: float = 0.5
) -> pd.DataFrame:
    """`magnified_slide_scores` of every class: of two the second is judged, and the first has what that leaves.

    Args:
        tiles, how, top, threshold: as there.
        columns: of all classes, two at least. Of more than two each class has a score of its own: means of the top
            tiles do not add up to 1.
    """
    if len(columns) != 2:
        return magnified_slide_scores(tiles, columns, how, top, threshold)
    slides = magnified_slide_scores(tiles, columns[1:], how, top, threshold)
    return slides.assign(**{columns[0]: 1.0 - slides[columns[1]]})


def aggregation_words(how: How, top: int) -> str:
    """What a class's score at a magnification is."""
    ways = {
        "mean": "the mean over its tiles",
        "majority": "the share of its tiles that are called it",
        "top": f"the mean of its {top} tiles that are most probable of it",
    }
    return ways[how]


def slide_threshold(how: How, threshold: float) -> float:
    """From which score of a slide on one of two classes is called: that of tiles, but a half of a majority's share.

    Args:
        how: the tiles were aggregated.
        threshold: from which probability on a tile is called it.
    """
    return 0.5 if how == "majority" else threshold


def fuse(scores: ArrayLike, how: Fusion) -> NDArray[np.float64]:
    """One score a slide from its scores at several magnifications (late fusion); (n, m) -> (n,).

    Args:
        scores: probabilities, NaN where a slide has no tiles at a magnification; such are left out.
        how: "mean" of the probabilities; "log-odds": the mean of their log-odds, as a probability again, which counts
            a sure magnification for more.
    """
    values = np.asarray(scores, dtype=np.float64)
    if how == "mean":
        return np.asarray(np.nanmean(values, axis=1))
    if how == "log-odds":
        clipped = np.clip(values, EPSILON, 1 - EPSILON)
        return np.asarray(1 / (1 + np.exp(-np.nanmean(np.log(clipped / (1 - clipped)), axis=1))))
    raise ValueError(f"fusion {how!r}: choose one of {', '.join(FUSIONS)}")
