"""The picture of a slide in a page: deep-zoom tiles, a map, outlines, mask and grid over them, all in level-0 pixels.

Plot coordinates are level-0 pixels with y downwards negative, so that what is drawn in them lies where it should at
every zoom.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from bokeh.core.property.descriptors import UnsetValueError
from bokeh.events import DocumentReady
from bokeh.models import (
    ColorBar,
    ColumnDataSource,
    CustomJS,
    Div,
    HoverTool,
    LinearColorMapper,
    PanTool,
    Range1d,
    ResetTool,
    Slider,
    TapTool,
    WheelZoomTool,
    ZoomInTool,
    ZoomOutTool,
)
from bokeh.plotting import figure

from melano_tf.slides.slide import Slide
from melano_tf.view.colour_maps import COLOURS, PALETTES
from melano_tf.view.furniture import scale_bar, tile_source
from melano_tf.view.lattice import Lattice
from melano_tf.view.overlays import Outlines, Overlay, mask_map, outlines_of, overlay_map, slide_tiles, tiles_in
from melano_tf.view.picture_handlers import slide_of
from melano_tf.view.rasters import Draw, Raster
from melano_tf.view.run_cases import Seen
from melano_tf.view.site import Page, on_change
from melano_tf.view.window import HEIGHT, LIKELY, Window

LAYERS = ("outlines (b)", "tissue mask (t)", "tile grid (g)")
MOST_TILES = 3000  # rectangles drawn at once; of more, those in the window
# Both axes at one scale: y follows x and the frame's shape.
FIT = """
const f = main, x = f.x_range, y = f.y_range, w = f.inner_width, h = f.inner_height;
if (!(w > 0 && h > 0)) return;
const mid = (y.start + y.end) / 2, tall = (x.end - x.start) * h / w;
if (Math.abs((y.end - y.start) - tall) > 1e-6 * tall) y.setv({start: mid - tall / 2, end: mid + tall / 2});
"""
START = """
const f = main;
const place = () => {
  const w = f.inner_width, h = f.inner_height;
  if (!(w > 0 && h > 0)) { setTimeout(place, 30); return; }
  const span = Math.max(wanted[2], wanted[3] * w / h), tall = span * h / w;
  f.x_range.setv({start: wanted[0] - span / 2, end: wanted[0] + span / 2});
  f.y_range.setv({start: -wanted[1] - tall / 2, end: -wanted[1] + tall / 2});
};
place();
"""
READOUT = """
const w = main.inner_width, span = main.x_range.end - main.x_range.start;
if (!(w > 0 && span > 0)) return;
const mpp = span / w * own;
out.text = '<p class="soft">' + mpp.toPrecision(3) + ' µm/px · about ' + Number((10 / mpp).toPrecision(2)) + 'x'
  + (power ? ' · scanned at ' + power + 'x' : '') + ' · level 0: ' + own.toPrecision(4) + ' µm/px</p>';
"""


class Pane:
    """One picture of a slide with what lies over it.

    Args:
        page: the page it stands in.
        run, place: the slide.
        opened: it, open.
        window: what is shown at first.
        follow: another pane whose window this one shares.
        bare: nothing but the picture, without the slide's name, for a blind reading.
    """

    def __init__(
        self,
        page: Page,
        run: Seen,
        place: int,
        opened: Slide,
        window: Window,
        follow: "Pane | None" = None,
        bare: bool = False,
    ) -> None:
        self.page, self.run, self.place, self.window = page, run, place, window
        self.size, self.mpp, self.origin = opened.size, opened.mpp, opened.origin
        self.power = opened.objective_power
        self.bare = bare
        self.shown = pd.DataFrame(columns=["tile", "magnification", "x", "y", "w0", "h0", "tissue"])
        self.shown_of: Overlay | None = None  # whose values stand there; another one may have been asked for
        self.figure: Any = self._make_figure(follow)
        self._asked, self._active = 0, set[int]()
        self._listed: tuple[pd.DataFrame, pd.Index] | None = None
        if not bare:
            self._make_layers()

    def _make_figure(self, follow: "Pane | None") -> Any:
        half = self.window.width / 2
        tall = self.window.height / 2 or half
        x_range = follow.figure.x_range if follow else Range1d(self.window.x - half, self.window.x + half)
        y_range = follow.figure.y_range if follow else Range1d(-self.window.y - tall, -self.window.y + tall)
        case = "to be read" if self.bare else str(self.run.cases["case"][self.place])
        fig = figure(
            x_range=x_range,
            y_range=y_range,
            tools="",
            height=HEIGHT,
            sizing_mode="stretch_width",
            title=f"{self.run.name}: {case}" if follow else None,
            name="beside" if follow else "stage",
            html_attributes={"aria-label": f"slide {case}", "role": "img"},
        )
        fig.axis.visible = False
        fig.grid.visible = False
        fig.toolbar.logo = None
        wheel = WheelZoomTool(zoom_on_axis=False, speed=1 / 500)
        fig.add_tools(PanTool(), wheel, ZoomInTool(factor=0.5), ZoomOutTool(factor=1.0), ResetTool())
        fig.toolbar.active_scroll = wheel
        fig.add_tile(tile_source(self.page.site.tiles(self.run, self.place), self.size), smoothing=True)
        fig.add_layout(scale_bar(fig.x_range, self.mpp[0]))
        self.readout = Div(text="", sizing_mode="stretch_width")
        sides = ("inner_width", "inner_height")
        for change in sides:
            fig.js_on_change(change, CustomJS(args={"main": fig}, code=FIT))
        if follow is None:  # nothing that stays on the page may hold a picture that goes
            shown = {"main": fig, "out": self.readout, "own": self.mpp[0], "power": self.power or 0}
            read = CustomJS(args=shown, code=READOUT)
            for change in sides:
                fig.js_on_change(change, read)
            fig.x_range.js_on_change("end", read)
            wanted = [self.window.x, self.window.y, self.window.width, self.window.height]
            self.page.doc.js_on_event(DocumentReady, CustomJS(args={"main": fig, "wanted": wanted}, code=START))
        return fig

    def _make_layers(self) -> None:
        fig = self.figure
        clear, colours = (0, 0, 0, 0), list(PALETTES["viridis"])
        self.mapper = LinearColorMapper(palette=colours, low=1, high=255, low_color=clear)
        self.legend_mapper = LinearColorMapper(palette=colours, low=0, high=1)
        place = ("image", "x", "y", "dw", "dh")
        self.map_raster, self.mask_raster = (Raster(self.page, self.size, self._seen) for _ in range(2))
        self.map = fig.image(*place, source=self.map_raster.source, color_mapper=self.mapper, alpha=0.5, name="map")
        self.bar = ColorBar(color_mapper=self.legend_mapper, title="", height=8, title_standoff=4, visible=False)
        fig.add_layout(self.bar, "below")
        tissue = LinearColorMapper(palette=["#e69f00"], low=1, high=2, low_color=clear)
        self.mask = fig.image(
            *place, source=self.mask_raster.source, color_mapper=tissue, alpha=0.35, visible=False, name="mask"
        )
        self.tile_source = ColumnDataSource(
            {name: [] for name in ("left", "right", "top", "bottom", "tile", "value", "at")}
        )
        self.grid = fig.quad(
            *("left", "right", "top", "bottom"),
            source=self.tile_source,
            fill_alpha=0.0,
            line_color="#202020",
            line_alpha=0.0,
            line_width=1,
            selection_line_color="#d55e00",
            selection_line_alpha=1.0,
            selection_line_width=3,
            nonselection_fill_alpha=0.0,
            nonselection_line_alpha=0.0,
            hover_line_color="#d55e00",
            hover_line_alpha=1.0,
            name="grid",
        )
        self.hover = HoverTool(
            renderers=[self.grid], tooltips=[("tile", "@tile"), ("value", "@value{0.0000}"), ("", "@at")]
        )
        self.tap = TapTool(renderers=[self.grid])
        fig.add_tools(self.hover, self.tap)
        self.marked = ColumnDataSource({name: [] for name in ("left", "right", "top", "bottom")})
        fig.quad(
            *("left", "right", "top", "bottom"), source=self.marked, fill_alpha=0, line_color="#d55e00", line_width=3
        )
        self.cam_source = ColumnDataSource({"image": [], "x": [], "y": [], "dw": [], "dh": []})
        self.cam = fig.image(
            *place,
            source=self.cam_source,
            color_mapper=LinearColorMapper(palette=list(PALETTES["inferno"]), low=0, high=1),
            alpha=0.55,
            name="cam",
        )
        self.outlines: list[Any] | None = None
        for axis in (fig.x_range, fig.y_range):
            on_change(axis, "end", self._moved)

    def _draw_outlines(self, found: Outlines) -> None:
        self.outlines = []
        for colour, (name, polygons) in zip(COLOURS * 9, found.rings.items(), strict=False):
            xs = [[[ring[:, 0].tolist() for ring in parts]] for parts in polygons]
            ys = [[[(-ring[:, 1]).tolist() for ring in parts]] for parts in polygons]
            drawn = self.figure.multi_polygons(
                xs, ys, fill_alpha=0.0, line_color=colour, line_width=2, legend_label=name, name=f"outline {name}"
            )
            drawn.visible = 0 in self._active
            self.outlines.append(drawn)
        if self.outlines:
            self.figure.legend.location = "top_left"
            self.figure.legend.background_fill_alpha = 0.8

    def fade_with(self, slider: Slider) -> None:
        """Let a slider set how opaque the map is."""
        self.map.glyph.global_alpha = slider.value
        slider.js_link("value", self.map.glyph, "global_alpha")

    def draw(self, overlay: Overlay | None, drawn: Callable[[], None], failed: Callable[[str], None]) -> None:
        """Read and draw a map aside, and then call `drawn`; None: none, and the tiles are all that there are."""
        site, run, place = self.page.site, self.run, self.place
        case, size, mpp = str(run.cases["case"][place]), self.size, self.mpp
        self._asked += 1
        asked = self._asked
        self.map_raster.put(None, drawn, failed)  # what is under way would come under another map's name
        if overlay is None:
            self.map.visible = self.bar.visible = False

        def work() -> tuple[pd.DataFrame, Draw | None]:
            if overlay is None:
                return slide_tiles(run, case), None
            tissue = site.masks.get(run, slide_of(site, run, place))
            return overlay.tiles, partial(overlay_map, overlay, size, mpp, tissue)

        def read(found: tuple[pd.DataFrame, Draw | None]) -> None:
            if asked != self._asked:
                return  # another one was asked for meanwhile
            self.shown, draw = found
            self.shown_of = overlay
            self._list_tiles()
            if overlay is None or draw is None:
                drawn()
                return
            self.bar.title = overlay.words
            self.map_raster.put(draw, there, fault)

        def there() -> None:
            self.map.visible = self.bar.visible = True
            drawn()

        def fault(words: str) -> None:
            if asked == self._asked:
                self.map.visible = self.bar.visible = False  # the one before
                failed(f"the map cannot be drawn: {words}")

        self.page.later(work, read, fault)

    def colour(self, palette: Sequence[str], threshold: float | None) -> None:
        """The colours of the map; below a threshold they are pale."""
        count = len(palette)
        low = 0 if threshold is None else min(count, math.ceil(threshold * count))
        colours = [shade + "38" if place < low else shade for place, shade in enumerate(palette)]
        self.mapper.palette = self.legend_mapper.palette = colours

    def layers(self, active: Sequence[int], failed: Callable[[str], None]) -> None:
        """Show outlines, tissue mask and grid, or not; what was not yet drawn is read aside."""
        self._active = set(active)
        if 0 in active and self.outlines is None:
            self.outlines = []
            path, origin = self.run.cases["annotation"][self.place], self.origin

            def read(found: Outlines) -> None:
                self._draw_outlines(found)
                if found.fault:
                    failed(found.fault)

            self.page.later(lambda: outlines_of(path, origin), read, failed)
        for drawn in self.outlines or ():
            drawn.visible = 0 in active
        if (1 in active) != self.mask.visible:
            self._show_mask(1 in active, failed)
        alpha = 0.55 if 2 in active else 0.0
        self.grid.glyph.line_alpha = alpha
        self.grid.nonselection_glyph.line_alpha = alpha

    def _show_mask(self, wanted: bool, failed: Callable[[str], None]) -> None:
        site, run, place, size, mpp = self.page.site, self.run, self.place, self.size, self.mpp

        def draw(on: Lattice) -> np.ndarray:
            return mask_map(site.masks.get(run, slide_of(site, run, place)), size, mpp, on)

        self.mask.visible = wanted
        fault = "the tissue mask cannot be drawn: {}".format
        self.mask_raster.put(draw if wanted else None, lambda: None, lambda words: failed(fault(words)))

    def _seen(self) -> tuple[tuple[float, float, float, float], float]:
        """Left, top, right and bottom of what the screen shows, level-0 px, and level-0 px to its pixel."""
        x, y = self.figure.x_range, self.figure.y_range
        return (x.start, -y.end, x.end, -y.start), (x.end - x.start) / self._frame()[0]

    def _frame(self) -> tuple[float, float]:
        """(w, h) of the picture on the screen, px; what is likely, until the browser has said it."""
        try:
            return self.figure.inner_width or LIKELY, self.figure.inner_height or HEIGHT
        except UnsetValueError:
            return LIKELY, HEIGHT

    def close(self) -> None:
        """Draw nothing more: the picture was taken from the page."""
        self._asked += 1
        self.shown = self.shown.iloc[:0]
        for raster in (self.map_raster, self.mask_raster):
            raster.put(None, lambda: None, lambda words: None)

    def _moved(self) -> None:
        self._list_tiles()
        self.map_raster.moved()
        self.mask_raster.moved()

    def _list_tiles(self) -> None:
        """The tiles to be pointed at: all, or those of the window, where there are too many for all."""
        rows = self.shown
        if len(rows) > MOST_TILES:
            rows = tiles_in(rows, *self._seen()[0])
            if len(rows) > MOST_TILES:
                rows = rows.iloc[:0]
        listed = (self.shown, rows.index)
        if self._listed is not None and self._listed[0] is listed[0] and self._listed[1].equals(listed[1]):
            return
        self._listed = listed
        values = rows["raw"].to_numpy(float) if "raw" in rows else np.full(len(rows), np.nan)
        self.tile_source.data = {
            "left": rows["x"].to_numpy(float),
            "right": (rows["x"] + rows["w0"]).to_numpy(float),
            "top": -rows["y"].to_numpy(float),
            "bottom": -(rows["y"] + rows["h0"]).to_numpy(float),
            "tile": rows["tile"].tolist(),
            "value": values,
            "at": rows["magnification"].tolist(),
        }

    def fly(self, x: float, y: float, width: float) -> None:
        """Show a place: centre and width in level-0 px."""
        wide, high = self._frame()
        shape = high / wide
        self.figure.x_range.update(start=x - width / 2, end=x + width / 2)
        self.figure.y_range.update(start=-y - width * shape / 2, end=-y + width * shape / 2)

    def mark(self, x: float, y: float, w: float, h: float) -> None:
        """Draw a frame around a tile."""
        self.marked.data = {"left": [x], "right": [x + w], "top": [-y], "bottom": [-(y + h)]}

    def on_tile(self, then: Callable[[int], None]) -> None:
        """Do something with a clicked tile: its place in `shown`."""

        def clicked(name: str, old: list[int], new: list[int]) -> None:
            if new:
                number = self.tile_source.data["tile"][new[0]]
                at = self.tile_source.data["at"][new[0]]
                rows = self.shown
                found = np.flatnonzero((rows["tile"] == number) & (rows["magnification"] == at))
                then(int(found[0]))

        self.tile_source.selected.on_change("indices", clicked)
