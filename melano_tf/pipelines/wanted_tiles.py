"""Which of a slide's tiles are wanted: by magnification, and inside its outlines or everywhere."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

OUTLINED, WHOLE = "outlined", "whole"  # tiles inside a slide's outlines, or all with enough tissue
Wanted = Mapping[str, str]
"""{magnification: OUTLINED or WHOLE} of one slide."""


def wanted_too(wanted: Wanted | None, earlier: Wanted | None) -> Wanted | None:
    """What is wanted of a slide now or was wanted of it earlier; None where no choice is made."""
    if wanted is None:
        return None
    earlier = earlier or {}
    names = {**earlier, **wanted}
    return {name: WHOLE if WHOLE in (wanted.get(name), earlier.get(name)) else OUTLINED for name in names}


def wanted_rows(table: pd.DataFrame, wanted: Wanted | None) -> np.ndarray:
    """Which tiles of a slide are wanted, bool (n,).

    Args:
        table: one row a tile: magnification, and outlined (bool).
        wanted: see `Wanted`; None: all of them.
    """
    if wanted is None:
        return np.ones(len(table), bool)
    how = table["magnification"].map(dict(wanted))
    return ((how == WHOLE) | ((how == OUTLINED) & table["outlined"])).to_numpy(bool)
