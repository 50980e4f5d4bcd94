"""Blind reading: cases in a seeded order, without labels or predictions; every answer is kept at once."""

from functools import partial
from typing import Any

from bokeh.layouts import column, row
from bokeh.models import Button, Div, NumericInput, TextAreaInput

from melano_tf.errors import InputError
from melano_tf.runs.reader_notes import BLIND, Note, append, checked_reader, now, of_cohort, read_notes
from melano_tf.runs.settings_digest import seed_for
from melano_tf.view.case_selection import first_model
from melano_tf.view.note_form import reader_input
from melano_tf.view.page_style import text
from melano_tf.view.picture_handlers import slide_of
from melano_tf.view.run_cases import Seen
from melano_tf.view.site import Page
from melano_tf.view.slide_canvas import Pane
from melano_tf.view.window import Window

UNSURE = "unsure"
SIDE = 300


def blind(page: Page) -> None:
    """Build the page."""
    run = page.run()
    if not len(run.cases):
        raise InputError(f"{run.name} has no cases")
    Reading(page, run).show()


def blind_order(names: list[str], seed: int, reader: str) -> list[str]:
    """The cases of a reading, in an order that follows from the seed and the reader alone."""
    return sorted(names, key=lambda name: (seed_for(seed, "blind", reader, name), name))


def classes_of(run: Seen) -> tuple[str, ...]:
    """What a reader chooses from: the classes of the run's final (or first) model, else the labels."""
    name = first_model(run)
    return run.models[name].classes if name else tuple(sorted(set(run.cases["label"]) - {""}))


class Reading:
    """One reader's blind reading of a run: the cases that a model judged, or all where none has.

    Args:
        page: the page.
        run: the run.
    """

    def __init__(self, page: Page, run: Seen) -> None:
        self.page, self.run = page, run
        name = first_model(run)
        self.names = list(dict.fromkeys(run.models[name].frame["case"])) if name else run.cases["case"].tolist()
        self.reader = reader_input(page)
        if page.word("reader"):
            self.reader.value = page.word("reader")
        self.seed = NumericInput(
            title="seed of the order", value=int(page.number("seed", 0) or 0), low=0, width=120, mode="int"
        )
        self.begin = Button(label="begin, or go on", button_type="primary", width=140, name="begin")
        self.begin.on_click(self._next)
        self.head, self.told = Div(sizing_mode="stretch_width"), Div(sizing_mode="stretch_width")
        self.words = TextAreaInput(title="note", rows=2, width=SIDE)
        self.picture = column(Div(text="<p>Say who reads, and begin.</p>"), sizing_mode="stretch_width")
        self.case: str | None = None
        answers = [*classes_of(run), UNSURE]
        self.buttons = [
            Button(
                label=f"{answer} ({number})" if number < 10 else answer,
                width=SIDE,
                name=f"blind-{answer}",
                disabled=True,
            )
            for number, answer in enumerate(answers, start=1)
        ]
        for number, (button, answer) in enumerate(zip(self.buttons, answers, strict=True), start=1):
            button.on_click(partial(self._answer, answer))
            if number < 10:
                page.key(str(number), partial(self._answer, answer))

    def show(self) -> None:
        """Put the page together."""
        side = column(self.reader, self.seed, self.begin, self.head, *self.buttons, self.words, self.told, width=SIDE)
        intro = Div(
            text="<p>Neither labels nor predictions are shown. The order follows from the seed and the reader's name; "
            "what this reader has answered is passed over. Each answer is kept at once in <code>notes/</code>.</p>",
            sizing_mode="stretch_width",
        )
        body = row(self.picture, side, sizing_mode="stretch_width")
        self.page.show("blind reading", intro, body, run=self.run, here="blind")

    def _next(self) -> None:
        try:
            reader = checked_reader(self.reader.value)
        except InputError as error:
            self.told.text = f'<p class="wrong" role="alert">{text(error)}</p>'
            return
        self.told.text = ""
        notes, _ = of_cohort(self.run.folder, read_notes(self.run.folder))
        done = set(notes[(notes["reader"] == reader) & (notes["mode"] == BLIND)]["case"])
        left = [name for name in blind_order(self.names, int(self.seed.value or 0), reader) if name not in done]
        self.head.text = f'<p role="status">{len(self.names) - len(left)} of {len(self.names)} read</p>'
        for button in self.buttons:
            button.disabled = not left
        self.case = left[0] if left else None
        self.reader.disabled = self.seed.disabled = True
        if self.case is None:
            self.picture.children = [Div(text="<h2>All cases are read. Thank you.</h2>")]
            return
        self.picture.children = [self._shown(self.case)]

    def _shown(self, case: str) -> Any:
        place = self.run.place(case)
        if place is None:
            return Div(text="<p class='wrong'>This case is not there any more.</p>")
        if self.run.judges == "images":
            address = self.page.site.picture(self.run, "large", place)
            return Div(
                text=f'<img src="{address}" alt="the image to be read" '
                'style="display:block;width:100%;height:75vh;object-fit:contain">',
                sizing_mode="stretch_width",
            )
        try:
            opened = slide_of(self.page.site, self.run, place)
        except InputError as error:
            return Div(text=f'<p class="wrong" role="alert">{text(error)}</p>')
        pane = Pane(
            self.page,
            self.run,
            place,
            opened,
            Window(opened.size[0] / 2, opened.size[1] / 2, opened.size[0] * 1.04, opened.size[1] * 1.04),
            bare=True,
        )
        return pane.figure

    def _answer(self, answer: str) -> None:
        if self.case is None:
            return
        try:
            reader = checked_reader(self.reader.value)
            append(
                self.run.folder,
                Note(now(), reader, BLIND, self.case, answer, self.words.value, seed=str(self.seed.value)),
            )
        except InputError as error:
            self.told.text = f'<p class="wrong" role="alert">{text(error)}</p>'
            return
        self.words.value = ""
        self._next()
