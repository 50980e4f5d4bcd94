"""Colours on the pages: colour maps of what lies over a picture, and colours of classes, models and answers."""

from collections.abc import Mapping, Sequence

from bokeh.palettes import Cividis256, Inferno256, Viridis256

PALETTES: Mapping[str, Sequence[str]] = {
    "viridis": Viridis256,
    "cividis (for colour-blind eyes)": Cividis256,
    "inferno": Inferno256,
}
"""Perceptually even colour maps."""
# Of classes and models; the colour-blind tell them apart (Wong, 2011).
RIGHT, WRONG = "#009e73", "#d55e00"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6fc8", "#999999")
