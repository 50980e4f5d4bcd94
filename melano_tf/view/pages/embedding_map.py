"""A map of a run's images by the teacher's embedding; a lasso fills the gallery below it."""

from collections.abc import Mapping, Sequence

import numpy as np
from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, Div, HoverTool, LassoSelectTool, Select
from bokeh.plotting import figure

from melano_tf.errors import InputError
from melano_tf.view.embedding import Embedding, has_umap, principal_plane, umap_plane
from melano_tf.view.page_style import COLOURS, RIGHT, WRONG, text
from melano_tf.view.pages.gallery import Grid
from melano_tf.view.site import Page, on_change

COLOURED = {"class": "label", "cluster": "cluster", "source": "source", "right or wrong": "verdict"}
MORE = ("#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499", "#777777")
TALL = 520


def embedding_map(page: Page) -> None:
    """Build the page."""
    run = page.run()
    embedding = Embedding.read(run)
    if embedding is None:
        raise InputError(
            f"{run.name} has no embedding of its images (clusters/embedding.npy); a similarity run makes one"
        )
    points, shares = principal_plane(embedding.vectors)
    grid = Grid(page, run, only=set(), tall=460)
    start = {"x": points[:, 0], "y": points[:, 1], "case": list(embedding.cases)}
    source = ColumnDataSource({**start, "words": [""] * len(points), "colour": ["#999999"] * len(points)})
    plot = figure(
        height=TALL,
        sizing_mode="stretch_width",
        output_backend="webgl",
        tools="pan,wheel_zoom,box_zoom,reset",
        active_scroll="wheel_zoom",
        title=f"first two principal axes: {shares[0]:.0%} and {shares[1]:.0%} of the variance",
        html_attributes={"aria-label": "map of the images by the embedding", "role": "img"},
        name="map",
    )
    plot.axis.visible = False
    plot.toolbar.logo = None
    dots = plot.scatter(
        "x",
        "y",
        source=source,
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
    by = Select(title="colours", value="class", options=list(COLOURED), width=150)
    how = Select(title="plane", value="PCA", options=["PCA", "UMAP"] if has_umap() else ["PCA"], width=100)
    told = Div(text="<p>Draw a line around points: their images stand below.</p>", sizing_mode="stretch_width")

    def paint() -> None:
        values = words_of(grid, embedding.cases, COLOURED[by.value])
        colour = colours_of(values, by.value)
        source.data = {**source.data, "words": values, "colour": [colour[value] for value in values]}

    def lassoed(attribute: str, old: list[int], new: list[int]) -> None:
        grid.only = {embedding.cases[place] for place in new}
        grid.fill()

    def plane() -> None:
        def done(found: np.ndarray) -> None:
            source.data = {**source.data, "x": found[:, 0], "y": found[:, 1]}

        work = (
            (lambda: umap_plane(embedding.vectors))
            if how.value == "UMAP"
            else (lambda: principal_plane(embedding.vectors)[0])
        )
        page.later(work, done, lambda words: setattr(told, "text", f'<p class="wrong">{text(words)}</p>'))

    paint()
    plot.legend.location, plot.legend.label_text_font_size = "top_right", "11px"
    on_change(by, "value", paint)
    on_change(how, "value", plane)
    on_change(grid.model, "value", paint)
    source.selected.on_change("indices", lassoed)
    page.show("map", row(by, how), plot, told, column(*grid.parts(), sizing_mode="stretch_width"), run=run, here="map")


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
