"""A slide: panned and zoomed to full resolution, with maps, outlines and tiles over it, and the tiles that decided."""

from functools import partial
from typing import Any

from bokeh.events import DocumentReady
from bokeh.layouts import column, row
from bokeh.models import CheckboxGroup, CustomJS, Div, Select, Slider
from bokeh.models.ui import UIElement

from melano_tf.errors import InputError
from melano_tf.view.case_selection import first_model, p_words, with_answers
from melano_tf.view.colour_maps import PALETTES
from melano_tf.view.furniture import overview_figure
from melano_tf.view.note_form import note_form
from melano_tf.view.overlays import Overlay, overlays_of
from melano_tf.view.page_style import keys_shown, text
from melano_tf.view.pages.tile import TilePanel
from melano_tf.view.picture_handlers import slide_of
from melano_tf.view.run_cases import Seen
from melano_tf.view.run_numbers import folded_numbers
from melano_tf.view.site import Page, on_change
from melano_tf.view.slide_canvas import LAYERS, Pane
from melano_tf.view.window import Window, first_picture

SIDE = 330
NONE = "no map"
KEYS = {
    "n": "next slide",
    "p": "previous",
    "l": "list",
    "o": "next map",
    "f": "fade",
    "b": "outlines",
    "t": "tissue",
    "g": "grid",
    "c": "what the model saw in the clicked tile",
    "a": "agree",
    "d": "disagree",
    "u": "unsure",
}
DECIDING = 10
# Where a second picture comes or goes, Bokeh's tiles keep the scale, a while later and each on its own, and a narrower
# frame shows less. The window is kept instead, until the page has settled or somebody moves it.
KEEP = """
const x = main.x_range, y = main.y_range, start = x.start, end = x.end, middle = (y.start + y.end) / 2;
const until = performance.now() + 10000; let free = false;
const acted = () => { free = true; };
for (const act of ['pointerdown', 'wheel', 'keydown']) addEventListener(act, acted, {once: true, capture: true});
const keep = () => {
  if (free || performance.now() > until) return;
  if (x.start !== start || x.end !== end) {
    const tall = (end - start) * main.inner_height / main.inner_width;
    x.setv({start, end}); y.setv({start: middle - tall / 2, end: middle + tall / 2});
  }
  setTimeout(keep, 60);
};
keep();
"""
PLACE = """
const r = main.x_range, q = main.y_range, w = r.end - r.start;
if (Number.isFinite(w)) atlas.remember({x: ((r.start + r.end) / 2).toFixed(1), y: (-(q.start + q.end) / 2).toFixed(1),
  w: w.toFixed(1)});
"""


def slide(page: Page) -> None:
    """Build the page."""
    run = page.run()
    if run.judges != "slides":
        raise InputError(f"{run.name} is a run on images; it has no slides")
    place = page.case(run)
    SlidePage(page, run, place).show()


class SlidePage:
    """The widgets of one slide's page and what they do.

    Args:
        page: the page.
        run: the run.
        place: the number of the slide.

    Raises:
        InputError: the slide's file is gone or is none.
    """

    def __init__(self, page: Page, run: Seen, place: int) -> None:
        self.page, self.run, self.place = page, run, place
        self.case = str(run.cases["case"][place])
        opened = slide_of(page.site, run, place)
        window = Window.of(page, opened.size)
        if not page.word("beside"):  # there Bokeh draws the slide half as wide
            page.first = first_picture(page, run, place, opened.size, window)
        self.overlays = overlays_of(run, self.case)
        self.pane = Pane(page, run, place, opened, window)
        self._widgets()
        self.beside_pane: Pane | None = None
        self.drawn: Overlay | None = None
        self.begun, self.sent = False, page.number("threshold")

    def _widgets(self) -> None:
        page, options = self.page, [NONE, *self.overlays]
        wanted = page.word("map")
        first = wanted if wanted in options else next(iter(self.overlays), NONE)
        self.overlay = Select(title="map (o: next)", value=first, options=options, sizing_mode="stretch_width")
        self.fade = Slider(
            title="opacity (f: fade)",
            start=0,
            end=1,
            step=0.05,
            value=page.number("fade", 0.5),
            sizing_mode="stretch_width",
        )
        self.colours = Select(
            title="colours",
            value=page.word("colours") if page.word("colours") in PALETTES else next(iter(PALETTES)),
            options=list(PALETTES),
            sizing_mode="stretch_width",
        )
        active = [int(digit) for digit in page.word("layers", "0") if digit.isdigit() and int(digit) < len(LAYERS)]
        self.layers = CheckboxGroup(labels=list(LAYERS), active=active, html_attributes={"aria-label": "layers"})
        self.threshold = Slider(
            title="threshold", start=0, end=1, step=0.01, value=0.5, sizing_mode="stretch_width", visible=False
        )
        self.counted, self.told = Div(sizing_mode="stretch_width"), Div(sizing_mode="stretch_width")
        others = self._others()
        chosen = page.word("beside")
        self.beside = Select(
            title="beside it",
            value=chosen if chosen in dict(others) else "",
            options=[("", "nothing"), *others],
            sizing_mode="stretch_width",
        )
        self.tile = TilePanel(self)
        self.deciding = Div(sizing_mode="stretch_width")

    def _others(self) -> list[tuple[str, str]]:
        """What can stand beside the slide: its other maps, and the same slide in other runs."""
        found = [(f"{self.run.number}:{name}", name) for name in (NONE, *self.overlays)]
        for number in range(len(self.page.site.runs)):
            other = self.page.site.runs.get(number)
            if number != self.run.number and other.judges == "slides" and other.place(self.case) is not None:
                found += [(f"{number}:{name}", f"{other.name}: {name}") for name in overlays_of(other, self.case)]
        return found

    def show(self) -> None:
        """Put the page together."""
        page, run = self.page, self.run
        self._answers()
        address, main = page.site.overview(run, self.place), self.pane.figure
        small, self.fetch_small = overview_figure(address, self.pane.size, main.x_range, main.y_range)
        side = column(
            *(
                self.answer,
                self.numbers,
                small,
                self.pane.readout,
                self.overlay,
                self.fade,
                self.threshold,
                self.counted,
                self.colours,
            ),
            *(self.layers, self.beside, self.told, self.tile.box),
            note_form(page, run.folder, self.case, self._shown_answer),
            width=SIDE,
        )
        stage: list[UIElement] = [self.pane.figure]
        self.stage = row(*stage, sizing_mode="stretch_width")
        left = column(self.stage, self.deciding, sizing_mode="stretch_width")
        self._wire()
        page.doc.on_event(DocumentReady, self._begin)  # what lies over the slide waits for its picture
        count = len(run.cases)
        keys = {
            "n": page.site.href("slide", run=run.number, case=(self.place + 1) % count, model=self.model or None),
            "p": page.site.href("slide", run=run.number, case=(self.place - 1) % count, model=self.model or None),
            "l": page.site.href("cases", run=run.number),
        }
        help_words = keys_shown(KEYS)
        body = row(left, side, sizing_mode="stretch_width")
        page.show(self.case, body, help_words, run=run, here="cases", **keys)

    def _answers(self) -> None:
        """What the models said of the whole slide."""
        self.model = first_model(self.run, self.page.word("model"))
        row_ = self.run.cases.loc[self.place]
        lines = []
        for name, judged in self.run.models.items():
            found = with_answers(self.run, judged, self.place).loc[self.place]
            if not found["judged"]:
                continue
            kind = "right" if found["right"] else "wrong"
            odd = "; no tumour tile found" if found["fallback"] else ""
            bold = "b" if name == self.model else "span"
            lines.append(
                f'<tr><td><{bold}>{text(name)}</{bold}></td><td class="n">{text(p_words(judged))} {found["p"]:.3f}</td>'
                f'<td class="{kind}">{text(found["called_name"])}{odd}</td></tr>'
            )
        facts = (row_["label"], f"patient {row_['patient']}", row_["part"])
        head = f"<h2>{text(self.case)}</h2><p>{' · '.join(text(fact) for fact in facts if fact)}</p>"
        table = (
            f"<table>{''.join(lines)}</table>"
            if lines
            else '<p class="soft">No model has judged this slide as a whole.</p>'
        )
        self.answer = Div(text=head + table, width=SIDE)
        self.numbers = Div(text="", width=SIDE)  # read from the tables once the picture is there

    def _shown_answer(self) -> tuple[str, str]:
        if self.model not in self.run.models:
            return "", ""
        return self.model, str(
            with_answers(self.run, self.run.models[self.model], self.place).loc[self.place, "called_name"]
        )

    def _wire(self) -> None:
        page = self.page
        on_change(self.overlay, "value", self._draw)
        on_change(self.colours, "value", self._colour)
        on_change(self.threshold, "value_throttled", self._count)
        on_change(self.threshold, "value", self._colour)
        on_change(self.layers, "active", self._layers)
        on_change(self.beside, "value", self._put_beside)
        self.pane.fade_with(self.fade)
        self.pane.on_tile(self.tile.open)
        place = CustomJS(args={"main": self.pane.figure}, code=PLACE)
        for axis in (self.pane.figure.x_range, self.pane.figure.y_range):
            axis.js_on_change("end", place)
        page.remember(map=self.overlay, fade=self.fade, layers=self.layers, colours=self.colours, beside=self.beside)
        page.remember(threshold=self.threshold)
        both = {"main": self.pane.figure, "beside": self.beside}
        self.beside.js_on_change("value", CustomJS(args=both, code=KEEP))
        page.doc.js_on_event(DocumentReady, CustomJS(args=both, code="if (!beside.value) return;" + KEEP))
        page.key("o", self._next_overlay)
        page.key("f", self._fade)
        for key, place in (("b", 0), ("t", 1), ("g", 2)):
            page.key(key, partial(self._toggle, place))
        page.hear("fly", self._fly)

    def _next_overlay(self) -> None:
        options = self.overlay.options
        self.overlay.value = options[(options.index(self.overlay.value) + 1) % len(options)]

    def _fade(self) -> None:
        self.fade.value = 0.0 if self.fade.value > 0 else 0.5

    def _toggle(self, place: int) -> None:
        active = set(self.layers.active) ^ {place}
        self.layers.active = sorted(active)

    def _fly(self, words: str) -> None:
        x, y, w, h = (float(part) for part in words.split(","))
        self.pane.fly(x + w / 2, y + h / 2, 3 * max(w, h))
        self.pane.mark(x, y, w, h)

    def _layers(self) -> None:
        for pane in (self.pane, self.beside_pane):
            if pane is not None:
                pane.layers(self.layers.active, self.say)

    def say(self, words: str) -> None:
        """Say what went wrong, or nothing."""
        self.told.text = f'<p class="wrong" role="alert">{text(words)}</p>' if words else ""

    def _begin(self, event: DocumentReady) -> None:
        if self.begun:
            return
        self.begun = True
        self.fetch_small()
        self._draw()
        self.numbers.text = folded_numbers(self.run)
        if self.beside.value:
            self._put_beside()

    def _draw(self) -> None:
        overlay = self.overlays.get(self.overlay.value)
        self.threshold.visible = overlay is not None and overlay.threshold is not None
        if overlay is not None and overlay.threshold is not None:
            self.threshold.value = overlay.threshold if self.sent is None else min(1.0, max(0.0, self.sent))
            self.sent = None
        self.drawn, self.deciding.text = None, ""
        self.pane.draw(overlay, partial(self._drawn, overlay), self.say)
        self._colour()
        self._layers()

    def _drawn(self, overlay: Overlay | None) -> None:
        self.drawn = overlay
        self._count()
        self._deciding()

    def _colour(self) -> None:
        at = self.threshold.value if self.threshold.visible else None
        self.pane.colour(PALETTES[self.colours.value], at)
        if self.beside_pane is not None:
            self.beside_pane.colour(PALETTES[self.colours.value], None)
        self._count()

    def _count(self) -> None:
        overlay = self.drawn
        if overlay is None or not self.threshold.visible:
            self.counted.text = ""
            return
        called, all_tiles = int((overlay.tiles["raw"] >= self.threshold.value).sum()), len(overlay.tiles)
        moved = (
            ""
            if abs(self.threshold.value - (overlay.threshold or 0)) < 1e-9
            else f" (the model's: {overlay.threshold:.3g})"
        )
        self.counted.text = (
            f'<p role="status">{called:,} of {all_tiles:,} tiles at or above {self.threshold.value:.2f}{moved}</p>'
        )

    def _deciding(self) -> None:
        """The ten tiles with the highest and lowest values, as buttons that fly there."""
        overlay = self.drawn
        if overlay is None:
            return
        ranked = overlay.tiles.sort_values("raw", ascending=False, kind="stable")
        parts = [("highest", ranked.head(DECIDING))]
        if overlay.threshold is not None:
            parts.append(("lowest", ranked.tail(DECIDING).iloc[::-1]))
        self.deciding.text = "".join(
            f"<h3>{text(overlay.name)}: the {len(rows)} {words}</h3><div class='strip'>{self._strip(rows)}</div>"
            for words, rows in parts
        )

    def _strip(self, rows: Any) -> str:
        buttons = []
        for tile in rows.to_dict("records"):
            box = [int(tile[name]) for name in ("x", "y", "w0", "h0")]
            picture = self.page.site.cutout(self.run, self.place, box)
            where = ",".join(map(str, box))
            buttons.append(
                f'<button data-say="fly:{where}" aria-label="fly to tile {tile["tile"]}, {tile["raw"]:.3f}">'
                f'<img src="{picture}" alt="">{tile["raw"]:.3f}</button>'
            )
        return "".join(buttons)

    def _put_beside(self) -> None:
        """A second slide or map beside the first, panned together."""
        wanted = self.beside.value
        if self.beside_pane is not None:
            self.beside_pane.close()
            self.beside_pane = None
            self.stage.children = [self.pane.figure]
        if not wanted:
            return
        number, _, name = wanted.partition(":")
        other = self.page.site.runs.get(int(number))
        place = other.place(self.case)
        if place is None:
            self.say(f"{other.name} has no slide {self.case}")
            return
        try:
            opened = slide_of(self.page.site, other, place)
        except InputError as error:
            self.say(str(error))
            return
        if opened.size != self.pane.size:
            self.say(f"{other.name}: its slide {self.case} is another one ({opened.size[0]} x {opened.size[1]} px)")
            return
        pane = Pane(self.page, other, place, opened, self.pane.window, follow=self.pane)
        pane.fade_with(self.fade)
        overlay = overlays_of(other, self.case).get(name)
        pane.draw(overlay, lambda: None, self.say)
        pane.layers(self.layers.active, self.say)
        self.beside_pane = pane
        self._colour()
        self.stage.children = [self.pane.figure, pane.figure]
