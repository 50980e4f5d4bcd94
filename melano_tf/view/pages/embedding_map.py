"""A map of a run's images by the teacher's embedding; a lasso fills the gallery below it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, Div, HoverTool, LassoSelectTool, Select
from bokeh.plotting import figure

from melano_tf.errors import InputError
from melano_tf.view.colour_maps import COLOURS, RIGHT, WRONG
from melano_tf.view.embedding import Embedding, has_umap, principal_plane, umap_plane
from melano_tf.view.page_style import text
from melano_tf.view.pages.gallery import Grid
from melano_tf.view.run_cases import Seen
from melano_tf.view.site import Page, on_change

COLOURED = {"class": "label", "cluster": "cluster", "source": "source", "right or wrong": "verdict"}
MORE = ("#44aa99", "#999933", "#cc6677", "#88ccee", "#aa4499", "#b08c3a", "#777777")  # seen on dark and on light
TALL = 520
TOLD = "<p>Draw a line around points: their images stand below.</p>"


def embedding_map(page: Page) -> None:
    """Build the page."""
    run = page.run()
    embedding = Embedding.read(run)
    if embedding is None:
        raise InputError(
            f"{run.name} has no embedding of its images (clusters/embedding.npy) under its present settings; a "
            "similarity run makes one"
        )
    EmbeddingMap(page, run, embedding).show()


class EmbeddingMap:
    """The points, how they are placed and coloured, and the gallery of those within the lasso.

    Args:
        page: the page.
        run: the run.
        embedding: its images'.
    """

    def __init__(self, page: Page, run: Seen, embedding: Embedding) -> None:
        self.page, self.run, self.embedding = page, run, embedding
        self.points, shares = principal_plane(embedding.vectors)
        self.principal = f"first two principal axes: {shares[0]:.0%} and {shares[1]:.0%} of the variance"
        self.grid = Grid(page, run, only=set(), tall=460)
        start = {"x": self.points[:, 0], "y": self.points[:, 1], "case": list(embedding.cases)}
        empty = {"words": [""] * len(self.points), "colour": ["#999999"] * len(self.points)}
        self.source = ColumnDataSource({**start, **empty})
        self.plot = self._figure()
        self.by = chosen(page, "by", Select(title="colours", value="class", options=list(COLOURED), width=150))
        planes = ["PCA", "UMAP"] if has_umap() else ["PCA"]
        self.how = chosen(page, "plane", Select(title="plane", value="PCA", options=planes, width=100))
        self.told = Div(text=TOLD, sizing_mode="stretch_width")

    def _figure(self) -> Any:
        plot = figure(
            height=TALL,
            sizing_mode="stretch_width",
            output_backend="webgl",
            tools="pan,wheel_zoom,box_zoom,reset",
            active_scroll="wheel_zoom",
            title=self.principal,
            html_attributes={"aria-label": "map of the images by the embedding", "role": "img"},
            name="map",
        )
        plot.axis.visible = False
        plot.toolbar.logo = None
        dots = plot.scatter(
            "x",
            "y",
            source=self.source,
            size=6,
            alpha=0.75,
            color="colour",
            line_color=None,
            nonselection_alpha=0.12,
            legend_field="words",
        )
        lasso = LassoSelectTool(continuous=False)
        plot.add_tools(lasso, HoverTool(renderers=[dots], tooltips=[("image", "@case"), ("", "@words")]))
        plot.toolbar.active_drag = lasso
        plot.legend.label_text_font_size = "11px"
        plot.add_layout(plot.legend[0], "right")  # not over the points
        return plot

    def show(self) -> None:
        """Put the page together."""
        self._paint()
        if self.how.value != "PCA":
            self._place()
        self.page.remember(by=self.by, plane=self.how)
        on_change(self.by, "value", self._paint)
        on_change(self.how, "value", self._place)
        on_change(self.grid.model, "value", self._paint)
        self.source.selected.on_change("indices", self._lassoed)
        below = column(*self.grid.parts(), sizing_mode="stretch_width")
        self.page.show("map", row(self.by, self.how), self.plot, self.told, below, run=self.run, here="map")

    def _paint(self) -> None:
        values = words_of(self.grid, self.embedding.cases, COLOURED[self.by.value])
        colour = colours_of(values, self.by.value)
        self.source.data = {**self.source.data, "words": values, "colour": [colour[value] for value in values]}

    def _lassoed(self, attribute: str, old: list[int], new: list[int]) -> None:
        self.grid.only = {self.embedding.cases[place] for place in new}
        self.grid.fill()

    def _place(self) -> None:
        """Place the points: at once by PCA, aside by UMAP."""
        if self.how.value == "PCA":
            self._placed("PCA", self.points)
            return
        self.told.text = "<p role='status'>UMAP is fitted; of tens of thousands of images that takes minutes …</p>"
        self.page.later(
            partial(umap_plane, self.embedding.vectors),
            partial(self._placed, "UMAP"),
            self._failed,
        )

    def _failed(self, words: str) -> None:
        if self.how.value == "UMAP":  # else the plane that stands there was asked for meanwhile
            self.told.text = f'<p class="wrong" role="alert">{text(words)}</p>'

    def _placed(self, name: str, points: np.ndarray) -> None:
        if self.how.value != name:
            return  # another one was asked for meanwhile
        self.source.data = {**self.source.data, "x": points[:, 0], "y": points[:, 1]}
        self.plot.title.text, self.told.text = self.principal if name == "PCA" else "UMAP, by cosine", TOLD


def chosen(page: Page, name: str, widget: Select) -> Select:
    """A widget at what the address says, where that is one of its options."""
    if page.word(name) in widget.options:
        widget.value = page.word(name)
    return widget


def words_of(grid: Grid, cases: Sequence[str], name: str) -> list[str]:
    """What each image is called by: its class, cluster, source or whether the model was right."""
    frame = grid.frame.drop_duplicates("case").set_index("case").reindex(list(cases))
    if name == "verdict":
        judged = frame["judged"].fillna(False).astype(bool)
        right = frame["right"].fillna(False).astype(bool)
        return list(np.where(~judged, "not judged", np.where(right, "right", "wrong")))
    if name not in frame:
        return ["unknown"] * len(cases)
    return [str(value) or "unknown" for value in frame[name].fillna("unknown")]


def colours_of(values: Sequence[str], what: str) -> Mapping[str, str]:
    """A colour for each word."""
    if what == "right or wrong":
        return {"right": RIGHT, "wrong": WRONG, "not judged": "#999999"}
    palette = (*COLOURS[:7], *MORE)
    return {word: palette[place % len(palette)] for place, word in enumerate(sorted(set(values)))}
