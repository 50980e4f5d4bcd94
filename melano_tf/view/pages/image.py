"""One image, large: what all models said, where a model looked, what if the patient were another, what is like it."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bokeh.layouts import column, row
from bokeh.models import Button, ColumnDataSource, Div, ImageURL, LinearColorMapper, Select, Slider
from bokeh.plotting import figure

from melano_tf.dermoscopy.image_files import UnreadableImageError, read_header
from melano_tf.errors import InputError
from melano_tf.view.asked_models import Map, image_maps
from melano_tf.view.case_selection import first_model, with_answers
from melano_tf.view.colour_maps import PALETTES
from melano_tf.view.embedding import Embedding
from melano_tf.view.model_predictions import Judged
from melano_tf.view.note_form import note_form
from melano_tf.view.page_style import keys_shown, text
from melano_tf.view.pages.what_if import UNKNOWN, WhatIf
from melano_tf.view.run_cases import Seen
from melano_tf.view.run_numbers import folded_numbers
from melano_tf.view.site import Page, on_change

HEIGHT = 640  # px, at most
LIKE_IT = 12
KEYS = {
    "n": "next",
    "p": "previous",
    "l": "gallery",
    "f": "fade",
    "c": "where it looked",
    "a": "agree",
    "d": "disagree",
    "u": "unsure",
}
SIDE = 400


def image(page: Page) -> None:
    """Build the page."""
    run = page.run()
    if run.judges != "images":
        raise InputError(f"{run.name} is a run on slides; its cases are slides")
    ImagePage(page, run, page.case(run)).show()


class ImagePage:
    """The widgets of one image's page and what they do.

    Args:
        page: the page.
        run: the run.
        place: the number of the image.
    """

    def __init__(self, page: Page, run: Seen, place: int) -> None:
        self.page, self.run, self.place = page, run, place
        self.case = str(run.cases["case"][place])
        self.path = run.cases["path"][place]
        self._answers: dict[str, Any] = {}
        self.judging = {name: one for name, one in run.models.items() if (one.frame["case"] == self.case).any()}
        name = first_model(run, page.word("model"))
        self.model = Select(
            title="model",
            value=name if name in self.judging else next(iter(self.judging), ""),
            options=list(self.judging) or [""],
            sizing_mode="stretch_width",
        )
        page.remember(model=self.model)
        self.told = Div(sizing_mode="stretch_width")
        self.fault = ""
        self._picture()
        self._looking()

    def answer(self, name: str) -> Any:
        """What a model said of this image: a row of `case_selection.with_answers`."""
        if name not in self._answers:
            self._answers[name] = with_answers(self.run, self.run.models[name], self.place).loc[self.place]
        return self._answers[name]

    def say(self, words: str) -> None:
        """Say what went wrong, or nothing."""
        self.told.text = f'<p class="wrong" role="alert">{text(words)}</p>' if words else ""

    def _picture(self) -> None:
        try:
            if not isinstance(self.path, str):
                raise UnreadableImageError("its file is missing")
            header = read_header(self.path)
            width, height = header.width, header.height
        except (UnreadableImageError, OSError) as error:
            self.fault = f"{self.case}: {error}"
            self.say(self.fault)
            width, height = 4, 3
        self.figure = figure(
            x_range=(0, width),
            y_range=(0, height),
            tools="pan,wheel_zoom,reset",
            active_scroll="wheel_zoom",
            sizing_mode="scale_width",
            aspect_ratio=width / height,
            max_width=round(HEIGHT * width / height),
            min_border=0,
            toolbar_inner=True,  # so that the frame has the image's shape
            html_attributes={"aria-label": f"image {self.case}", "role": "img"},
        )
        self.figure.axis.visible = self.figure.grid.visible = False
        self.figure.toolbar.logo, self.figure.toolbar.autohide = None, True
        address = self.page.site.picture(self.run, "large", self.place)
        picture = ImageURL(url={"value": address}, x=0, y=height, w=width, h=height, anchor="top_left")
        self.figure.add_glyph(ColumnDataSource({"one": [0]}), picture)
        self.map_source = ColumnDataSource({"image": [], "x": [], "y": [], "dw": [], "dh": []})
        self.extent = (float(width), float(height))
        self.map = self.figure.image(
            *("image", "x", "y", "dw", "dh"),
            source=self.map_source,
            color_mapper=LinearColorMapper(palette=list(PALETTES["viridis"]), low=0, high=1),
            alpha=0.45,
        )

    def _looking(self) -> None:
        """Where the model looked."""
        self.ask = Button(label="where did it look? (c)", name="ask-cam", sizing_mode="stretch_width")
        self.maps: list[Map] = []
        self.asked = 0
        self.shown = Select(title="map", options=[], visible=False, sizing_mode="stretch_width")
        self.fade = Slider(
            title="opacity (f)", start=0, end=1, step=0.05, value=0.45, visible=False, sizing_mode="stretch_width"
        )
        self.fade.js_link("value", self.map.glyph, "global_alpha")
        self.ask.on_click(self._ask)
        on_change(self.shown, "value", self._show_map)
        on_change(self.model, "value", self._forget)
        self.page.key("c", self._ask)
        self.page.key("f", self._fade)

    def _forget(self) -> None:
        """Show no map, also none that is still asked for: it is of another model."""
        self.asked += 1
        self._ready()
        self.maps, self.shown.visible, self.fade.visible = [], False, False
        self.map_source.data = {name: [] for name in self.map_source.data}
        self.say(self.fault)

    def _fade(self) -> None:
        self.fade.value = 0.0 if self.fade.value > 0 else 0.45

    def facts(self) -> dict[str, Any]:
        """What is known of the patient, as the model was told it."""
        known = self.run.cases.loc[self.place]
        return {
            "age": float(self.run.cases["age"][self.place]) if "age" in known else float("nan"),
            "sex": str(known.get("sex") or UNKNOWN),
            "site": str(known.get("site") or UNKNOWN),
        }

    def _stem(self) -> str | None:
        found = str(self.answer(self.model.value)["stem"]) if self.model.value in self.judging else ""
        return found or None

    def _ask(self) -> None:
        stem = self._stem()
        if stem is None or not isinstance(self.path, str) or self.ask.disabled:
            return
        self.ask.label, self.ask.disabled = "asking the model …", True
        called = int(self.answer(self.model.value)["likely"])
        work = partial(image_maps, self.page.site.networks, self.run, stem, Path(self.path), self.facts(), called)
        done, failed = partial(self._found_maps, self.asked), partial(self._failed, self.asked)
        self.page.later(work, done, failed, self.page.site.models)

    def _ready(self) -> None:
        self.ask.label, self.ask.disabled = "where did it look? (c)", False

    def _failed(self, asked: int, words: str) -> None:
        if asked == self.asked:  # else another model was chosen meanwhile
            self._ready()
            self.say(words)

    def _found_maps(self, asked: int, found: list[Map]) -> None:
        if asked != self.asked:
            return  # another model was chosen meanwhile
        self._ready()
        self.say("")
        self.maps = found
        self.shown.options = [one.name for one in found]
        self.shown.visible = self.fade.visible = True
        self.shown.value = found[0].name
        self._show_map()

    def _show_map(self) -> None:
        one = next((one for one in self.maps if one.name == self.shown.value), None)
        if one is not None:
            width, height = self.extent
            self.told.text = f'<p class="soft" role="status">{text(one.words)}</p>' if one.words else ""
            self.map_source.data = {
                "image": [np.flipud(one.values)],
                "x": [0.0],
                "y": [0.0],
                "dw": [width],
                "dh": [height],
            }

    def show(self) -> None:
        """Put the page together."""
        page, run = self.page, self.run
        known = run.cases.loc[self.place]
        facts = [
            (name, known[name])
            for name in ("patient", "lesion", "age", "sex", "site", "source", "cluster", "part")
            if name in known
        ]
        lines = "".join(
            f"<tr><td class='soft'>{name}</td><td>{text(f'{value:g}' if isinstance(value, float) else value)}</td></tr>"
            for name, value in facts
            if str(value) not in ("", "nan", "None")
        )
        head = Div(
            text=f"<h2>{text(self.case)}</h2><p><b>{text(known['label'])}</b></p><table>{lines}</table>", width=SIDE
        )
        what_if = WhatIf(self)
        side = column(
            *(head, self.model, self.ask, self.shown, self.fade, self.told, what_if.box),
            note_form(page, run.folder, self.case, self._shown_answer),
            width=SIDE,
        )
        table, numbers = Div(sizing_mode="stretch_width", styles={"overflow-x": "auto"}), folded_numbers(run)

        def fill() -> None:
            table.text = answers_table(self) + numbers

        fill()
        on_change(self.model, "value", fill)  # whose line stands out
        left = column(
            self.figure, table, Div(text=self._strips(), sizing_mode="stretch_width"), sizing_mode="stretch_width"
        )
        count = len(run.cases)
        keys = {
            "n": page.site.href("image", run=run.number, case=(self.place + 1) % count, model=self.model.value or None),
            "p": page.site.href("image", run=run.number, case=(self.place - 1) % count, model=self.model.value or None),
            "l": page.site.href("cases", run=run.number, model=self.model.value or None),
        }
        page.show(
            self.case, row(left, side, sizing_mode="stretch_width"), keys_shown(KEYS), run=run, here="cases", **keys
        )

    def _shown_answer(self) -> tuple[str, str]:
        if self.model.value not in self.judging:
            return "", ""
        return self.model.value, str(self.answer(self.model.value)["called_name"])

    def _strips(self) -> str:
        """Other images of the lesion and the patient, and what the teacher finds alike."""
        cases, parts = self.run.cases, []
        for name, words in (("lesion", "of the same lesion"), ("patient", "of the same patient")):
            value = cases[name][self.place] if name in cases else ""
            if value:
                rows = cases.index[(cases[name] == value) & (cases.index != self.place)]
                if len(rows):
                    parts.append(f"<h3>{len(rows)} other images {words}</h3>{self._strip(rows[:40].tolist(), {})}")
        embedding = Embedding.read(self.run)
        if embedding is not None and self.case in embedding.places:
            near = embedding.nearest(self.case, LIKE_IT)
            places = {self.run.place(case): distance for case, distance in near}
            shown = {place: distance for place, distance in places.items() if place is not None}
            parts.append(
                "<h3>most alike by the teacher's embedding (1 - cosine)</h3>"
                + self._strip(list(shown), {place: f"{distance:.3f}" for place, distance in shown.items()})
            )
        return "".join(parts)

    def _strip(self, places: list[int], words: dict[int, str]) -> str:
        links = []
        for place in places:
            address = self.page.site.href("image", run=self.run.number, case=place, model=self.model.value or None)
            picture = self.page.site.picture(self.run, "thumb", place)
            label = text(self.run.cases["label"][place])
            name = text(self.run.cases["case"][place])
            links.append(
                f'<a href="{text(address)}" aria-label="{name}, {label}"><img src="{picture}" alt="" loading="lazy">'
                f"{label} {text(words.get(place, ''))}</a>"
            )
        return f'<div class="strip">{"".join(links)}</div>'


def answers_table(page: ImagePage) -> str:
    """Probabilities of every class beside all models that judged the image."""
    if not page.judging:
        # It stood in their training, or has no part in the run, or is not reached yet: that is not known here.
        return '<p class="soft">No model of the present settings has judged this image.</p>'
    classes = list(dict.fromkeys(name for one in page.judging.values() for name in one.classes))
    head = "".join(f'<th class="n">{text(name)}</th>' for name in classes)
    lines = [line(page, name, one, classes) for name, one in page.judging.items()]
    table = f"<table><tr><th>model</th><th>part</th>{head}<th>called</th></tr>{''.join(lines)}</table>"
    return f'<div style="white-space:nowrap">{table}</div>'


def line(page: ImagePage, name: str, one: Judged, classes: list[str]) -> str:
    """One model's line of the table; the darker a cell, the more probable."""
    found = page.answer(name)
    own = one.frame[one.frame["case"] == page.case].iloc[0]
    cells = []
    for label in classes:
        if label not in one.classes:
            cells.append("<td></td>")
            continue
        p = float(own[f"p{one.classes.index(label)}"])
        shade = f"background:color-mix(in srgb, var(--accent) {round(45 * p)}%, transparent)"
        bold = "font-weight:600" if label == found["truth_name"] else ""
        cells.append(f'<td class="n" style="{shade};{bold}">{p:.3f}</td>')
    kind = "right" if found["right"] else "wrong"
    at = f" (at {own['threshold']:.3g})" if len(one.classes) == 2 else ""
    here = "<b>" if name == page.model.value else "<span>"
    return (
        f"<tr><td>{here}{text(name)}{here.replace('<', '</')}</td><td>{text(found['part'])}</td>{''.join(cells)}"
        f'<td class="{kind}">{text(found["called_name"])}{at}</td></tr>'
    )
