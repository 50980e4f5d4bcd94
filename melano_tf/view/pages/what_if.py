"""What if the patient were another: the model of an image's page asked again, told something else."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from bokeh.layouts import column, row
from bokeh.models import Div, Select, Slider

from melano_tf.evaluation.multiclass_metrics import decide
from melano_tf.training.familiarity import is_unlike
from melano_tf.view.asked_models import Asked, ask, far_words
from melano_tf.view.case_selection import TIED
from melano_tf.view.model_predictions import Judged, sidecar_of
from melano_tf.view.page_style import text
from melano_tf.view.site import on_change

if TYPE_CHECKING:
    from melano_tf.view.pages.image import ImagePage

UNKNOWN = "unknown"


class WhatIf:
    """Age, sex and site moved by hand, and the model asked again; only where it was told them in its training.

    Args:
        image: the page.
    """

    def __init__(self, image: "ImagePage") -> None:
        self.image = image
        facts = image.facts()
        cases = image.run.cases
        age = facts["age"]
        self.known_age = Select(
            title="age", value="known" if age == age else UNKNOWN, options=["known", UNKNOWN], width=90
        )
        self.age = Slider(title="years", start=0, end=90, step=5, value=age if age == age else 50, width=130)
        self.sex = Select(title="sex", value=facts["sex"], options=self._words(cases, "sex", facts["sex"]), width=90)
        self.site = Select(
            title="site", value=facts["site"], options=self._words(cases, "site", facts["site"]), width=150
        )
        self.said = Div(sizing_mode="stretch_width")
        head = Div(text="<h3>what if</h3>", sizing_mode="stretch_width")
        parts = row(self.known_age, self.age), row(self.sex, self.site)
        self.box = column(head, *parts, self.said, sizing_mode="stretch_width", visible=False)
        self.asked = 0
        for widget in (self.known_age, self.sex, self.site):
            on_change(widget, "value", self._ask)
        on_change(self.age, "value_throttled", self._ask)
        on_change(image.model, "value", self._fit)
        self._fit()

    @staticmethod
    def _words(cases: pd.DataFrame, name: str, own: str) -> list[str]:
        return sorted({*(cases[name].astype(str) if name in cases else ()), own, UNKNOWN} - {"", "nan"})

    def _fit(self) -> None:
        """Offer it where the model takes metadata."""
        stem = self.image._stem()
        card = sidecar_of(self.image.run.standing, stem) if stem else {}
        self.box.visible = bool((card.get("preprocessing") or {}).get("metadata"))
        self.asked += 1  # an answer under way is of another model
        self.said.text = ""

    def _ask(self) -> None:
        image, stem = self.image, self.image._stem()
        if stem is None or not self.box.visible or not isinstance(image.path, str):
            return
        self.asked += 1
        number = self.asked
        self.age.disabled = self.known_age.value == UNKNOWN
        age = float("nan") if self.age.disabled else float(self.age.value)
        facts = {"age": age, "sex": self.sex.value, "site": self.site.value}
        self.said.text = '<p class="soft" role="status">asking the model …</p>'
        judged = image.run.models[image.model.value]
        own = judged.frame[judged.frame["case"] == image.case].iloc[0]

        def done(found: Asked) -> None:
            if number == self.asked:  # else something else was asked meanwhile
                self.said.text = f'<p role="status">{text(answer_words(judged, own, found))}</p>'

        def failed(words: str) -> None:
            if number == self.asked:
                self.said.text = ""
                image.say(words)

        work = partial(ask, image.page.site.networks, image.run, stem, Path(image.path), facts)
        image.page.later(work, done, failed, image.page.site.models)


def answer_words(judged: Judged, own: pd.Series, found: Asked) -> str:
    """A model's answer beside the recorded one: of two classes the positive and what is called, else the most probable.

    Args:
        judged: the model.
        own: its row of the image.
        found: what it says now.
    """
    two = len(judged.classes) == 2
    place = 1 if two else int(np.argmax(found.probabilities))
    p = float(found.probabilities[place])
    called, at = judged.classes[place] if decide(found.probabilities[None])[0] >= 0 else TIED, ""
    if two:
        called, at = judged.classes[int(p >= own["threshold"])], f" at {own['threshold']:.3g}"
    decision = "decision withheld" if is_unlike(found.distance) else f"called {called}"
    shown = f"{judged.classes[place]} {p:.3f} (as recorded: {own[f'p{place}']:.3f})"
    return f"{shown}; {decision}{at}; {far_words(found.distance)}"
