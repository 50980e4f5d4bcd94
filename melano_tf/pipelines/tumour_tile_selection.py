"""Which tiles of a slide make its bag."""

import numpy as np
import pandas as pd


def select_tumour_tiles(predictions: pd.DataFrame, threshold: float, fallback: int) -> pd.DataFrame:
    """The tiles that make a biopsy's bag: those called tumour, else its most probable ones.

    Args:
        predictions: one row a tile: slide_id, tile, probability (of tumour).
        threshold: probability from which on a tile is called tumour.
        fallback: tiles brought by a slide that has none above the threshold.

    Returns:
        The selected rows, slide by slide in their order, with `fallback` (bool): the slide had no tile called tumour.
    """
    parts = []
    for _, rows in predictions.groupby("slide_id", sort=False):
        # A network's float32 would have the threshold rounded to float32, and call what a table and a server do not.
        called = rows[rows["probability"].astype(np.float64) >= threshold]
        none = called.empty
        if none:
            best = np.argsort(-rows["probability"].to_numpy(), kind="stable")[:fallback]
            called = rows.iloc[np.sort(best)]
        parts.append(called.assign(fallback=none))
    if not parts:
        return predictions.assign(fallback=pd.Series(dtype=bool))
    return pd.concat(parts, ignore_index=True)
