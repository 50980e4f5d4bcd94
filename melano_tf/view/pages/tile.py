"""A clicked tile of a slide: its picture, its numbers, and on demand what a model saw in it."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
from bokeh.models import Button, Column, Div, Select

from melano_tf.runs.predictions import TRAINING
from melano_tf.view.asked_models import Map, tile_maps
from melano_tf.view.model_predictions import TileModel
from melano_tf.view.page_style import text
from melano_tf.view.site import on_change


class SlideView(Protocol):
    """What the panel needs of the page that shows the slide: its run and case, its pane, and the map that is on."""

    run: Any
    page: Any
    pane: Any
    place: int
    case: str
    overlay: Any
    overlays: Any

    def say(self, words: str) -> None:
        """Tell the person at the page."""


def asked_first(models: Mapping[str, TileModel], case: str) -> str:
    """The tile model that is asked where no map of one is on: the last one that judged the slide, of those that were
    not trained on it if there are any."""
    judged = [name for name, model in models.items() if case in model.stem_of] or list(models)
    apart = [name for name in judged if models[name].part_of.get(case) != TRAINING]
    return (apart or judged)[-1]


class TilePanel:
    """The part of a slide's page that shows one tile.

    Args:
        slide: the page.
    """

    def __init__(self, slide: SlideView) -> None:
        self.slide = slide
        self.words = Div(sizing_mode="stretch_width")
        self.model = Select(title="model", options=list(slide.run.tile_models), sizing_mode="stretch_width")
        on_change(self.model, "value", self._forget)
        self.ask = Button(label="what did it see here? (c)", sizing_mode="stretch_width", name="ask-cam")
        self.ask.on_click(self._ask)
        self.maps: list[Map] = []
        self.shown = Select(title="seen", options=[], visible=False, sizing_mode="stretch_width")
        on_change(self.shown, "value", self._show)
        self.said = Div(sizing_mode="stretch_width")
        parts = self.words, self.model, self.ask, self.shown, self.said
        self.box = Column(*parts, visible=False, sizing_mode="stretch_width")
        self.row: dict[str, Any] = {}
        self.asked = 0
        slide.page.key("c", self._ask)

    def open(self, number: int) -> None:
        """Show a tile by its place among those of the map."""
        slide = self.slide
        self.row = {str(name): value for name, value in slide.pane.shown.iloc[number].items()}
        box = [int(self.row[name]) for name in ("x", "y", "w0", "h0")]
        picture = slide.page.site.cutout(slide.run, slide.place, box)
        drawn = slide.pane.shown_of
        value = "" if drawn is None else f"{text(drawn.name)}: {self.row['raw']:.4f}<br>"
        name = f"tile {self.row['tile']} {text(self.row['magnification'])}"
        self.words.text = (
            f'<h3>{name}</h3><img src="{picture}" alt="{name}" width="192">'
            f"<p>{value}tissue {self.row['tissue']:.0%}, x {box[0]:,}, y {box[1]:,}</p>"
        )
        overlay = slide.overlays.get(slide.overlay.value)
        if overlay is not None and overlay.model in slide.run.tile_models:
            self.model.value = overlay.model
        elif not self.model.value and self.model.options:
            self.model.value = asked_first(slide.run.tile_models, slide.case)
        self._forget()
        self.box.visible = True

    def _forget(self) -> None:
        """Show no map, also none that is still asked for: it is of another tile or model."""
        self.asked += 1
        self._ready()
        self.maps, self.shown.visible, self.said.text = [], False, ""
        source = self.slide.pane.cam_source
        source.data = {name: [] for name in source.data}

    def _ask(self) -> None:
        slide, model = self.slide, self.slide.run.tile_models.get(self.model.value)
        if self.ask.disabled or not self.row or model is None:
            return
        stem = model.stem_of.get(slide.case)
        if stem is None:
            slide.say(f"{model.name} has not judged {slide.case}")
            return
        self.ask.label, self.ask.disabled = "asking the model …", True
        overlay = slide.overlays.get(slide.overlay.value)
        wanted = overlay.class_index if overlay is not None and overlay.model == model.name else None
        at = (slide.case, int(self.row["tile"]), str(self.row["magnification"]), stem, wanted)
        slide.page.later(
            partial(tile_maps, slide.page.site.networks, slide.run, *at),
            partial(self._done, self.asked),
            partial(self._failed, self.asked),
            slide.page.site.models,
        )

    def _ready(self) -> None:
        self.ask.label, self.ask.disabled = "what did it see here? (c)", False

    def _failed(self, asked: int, words: str) -> None:
        if asked == self.asked:  # else another tile or model was chosen meanwhile
            self._ready()
            self.slide.say(words)

    def _done(self, asked: int, found: list[Map]) -> None:
        if asked != self.asked:
            return  # another tile or model was chosen meanwhile
        self._ready()
        self.slide.say("")
        self.maps = found
        self.shown.options = [one.name for one in found]
        self.shown.visible = True
        self.shown.value = found[0].name
        self._show()

    def _show(self) -> None:
        one = next((one for one in self.maps if one.name == self.shown.value), None)
        if one is None:
            return
        stood = self.slide.run.tile_models[self.model.value].stood(self.slide.case)
        self.said.text = f'<p class="soft" role="status">{text(one.words + stood)}</p>' if one.words else ""
        row = self.row
        self.slide.pane.cam_source.data = {
            "image": [np.flipud(one.values)],
            "x": [float(row["x"])],
            "y": [-float(row["y"] + row["h0"])],
            "dw": [float(row["w0"])],
            "dh": [float(row["h0"])],
        }
