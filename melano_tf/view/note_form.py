"""Notes on a page: what was written of a case, and the form for a new one."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from bokeh.models import Button, Column, CustomJS, Div, Row, TextAreaInput, TextInput

from melano_tf.errors import InputError
from melano_tf.runs.reader_notes import (
    BLIND,
    OPEN,
    VERDICTS,
    Note,
    append,
    case_contents,
    checked_reader,
    last_notes,
    now,
    of_cohort,
    read_notes,
)
from melano_tf.view.page_style import text
from melano_tf.view.site import Page

KEYS = {"agree": "a", "disagree": "d", "unsure": "u"}
REMEMBER = "document.cookie='reader='+encodeURIComponent(cb_obj.value)+';path=/;max-age=31536000;samesite=strict'"


# Behind a note's time.
OTHER, UNSAID = ", of another cohort's case of this name", ", does not say of which file"


def last_words(folder: Path) -> dict[str, str]:
    """{case: "reader: verdict; …"} of all open notes of a run."""
    found: dict[str, list[str]] = {}
    notes = last_notes(of_cohort(folder, read_notes(folder))[0])
    for row in notes[notes["mode"] == OPEN].to_dict("records"):
        words = ", ".join(part for part in (row["verdict"], row["text"][:60]) if part)
        found.setdefault(str(row["case"]), []).append(f"{row['reader']}: {words}")
    return {case: "; ".join(parts) for case, parts in found.items()}


def reader_input(page: Page) -> TextInput:
    """Who writes; the browser remembers it."""
    import urllib.parse

    reader = TextInput(title="reader", value=urllib.parse.unquote(page.cookies.get("reader", "")), width=140)
    reader.js_on_change("value", CustomJS(code=REMEMBER))
    return reader


def note_form(
    page: Page, folder: Path, case: str, answer: Callable[[], tuple[str, str]], after: Callable[[], None] = lambda: None
) -> Column:
    """Agree, disagree, unsure and free text on a case, appended at once; what was written stands below.

    Args:
        page: the page.
        folder: the run's.
        case: its name.
        answer: the model shown, and what it called.
        after: called when a note was kept.
    """
    reader, words = (
        reader_input(page),
        TextAreaInput(title="note", rows=2, sizing_mode="stretch_width", max_length=4000),
    )
    unsaid = UNSAID if case_contents(folder) else ""
    told, written = Div(sizing_mode="stretch_width"), Div(sizing_mode="stretch_width")

    def show() -> None:
        own, others = of_cohort(folder, read_notes(folder))
        written.text = "".join(
            f"<p><b>{text(row['reader'])}</b> {text(row['verdict'])} "
            f"<span class='soft'>{text(row['time'][:16])}{whose if row['content'] else unsaid}</span>"
            f"<br>{text(row['text'])}</p>"
            for notes, whose in ((own, ""), (others, OTHER))
            for row in notes[(notes["case"] == case) & (notes["mode"] != BLIND)].to_dict("records")[::-1][:20]
        )

    def write(verdict: str) -> None:
        model, called = answer()
        try:
            append(folder, Note(now(), checked_reader(reader.value), OPEN, case, verdict, words.value, model, called))
        except InputError as error:
            told.text = f'<p class="wrong" role="alert">{text(error)}</p>'
            return
        told.text = f'<p class="right" role="status">kept: {text(verdict or "note")}</p>'
        words.value = ""
        show()
        after()

    buttons = []
    for verdict in VERDICTS:
        button = Button(label=f"{verdict} ({KEYS[verdict]})", width=96, name=f"note-{verdict}")
        button.on_click(partial(write, verdict))
        page.key(KEYS[verdict], partial(write, verdict))
        buttons.append(button)
    only = Button(label="note only", width=80, name="note-only")
    only.on_click(partial(write, ""))
    show()
    return Column(Row(reader, only), words, Row(*buttons), told, written, sizing_mode="stretch_width")
