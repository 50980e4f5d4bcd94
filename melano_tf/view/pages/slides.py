"""The list of slides: filtered and sorted; a click opens the slide."""

from typing import Any

import numpy as np
import pandas as pd
from bokeh.models import (
    ColumnDataSource,
    CustomJS,
    DataTable,
    Div,
    HTMLTemplateFormatter,
    NumberFormatter,
    Row,
    Select,
    StringFormatter,
    TableColumn,
    TextInput,
)

from melano_tf.view import case_selection
from melano_tf.view.case_selection import EVERYTHING, chosen_rows, first_model, p_words, values_of, with_answers
from melano_tf.view.note_form import last_words
from melano_tf.view.page_style import redrawn, text
from melano_tf.view.run_cases import Seen
from melano_tf.view.site import Page, on_change

KINDS = (
    EVERYTHING,
    case_selection.WRONG,
    case_selection.SURE,
    case_selection.RIGHT,
    case_selection.UNSURE,
    case_selection.NO_TUMOUR,
)
LINK = '<a href="<%- link %>"><%- value %></a>'
CALIBRATED = {True: "calibrated probability", False: "probability (not calibrated)", None: "probability"}
VERDICT = '<span style="color:<%- shade %>;font-weight:600"><%- value %></span>'


def slides(page: Page) -> None:
    """Build the page."""
    run = page.run()
    name = first_model(run, page.word("model"))
    model = Select(title="model", value=name, options=list(run.models) or [""], width=230)
    frame = with_answers(run, run.models.get(name))
    filters = {
        "kind": Select(title="answers", value=page.word("kind", EVERYTHING), options=list(KINDS), width=170),
        "label": chooser(page, frame, "label", "diagnosis"),
        "part": chooser(page, frame, "part", "part"),
        "truth_name": chooser(page, frame, "truth_name", "true class"),
        "called_name": chooser(page, frame, "called_name", "called"),
        "words": TextInput(title="slide or patient", value=page.word("words"), width=150),
    }
    source, count = ColumnDataSource(), Div(sizing_mode="stretch_width")
    table = slide_table(
        run, source, any("fallback" in one.frame and one.frame["fallback"].any() for one in run.models.values())
    )
    probability = next(one for one in table.columns if one.field == "p")

    def fill() -> None:
        judged = run.models.get(model.value)
        whole = with_answers(run, judged)
        equal = {column: filters[column].value for column in ("label", "part", "truth_name", "called_name")}
        binary = judged is None or len(judged.classes) == 2
        rows = chosen_rows(whole, equal, filters["kind"].value, filters["words"].value, binary)
        probability.title = text(p_words(judged))
        source.data = table_columns(page, run, rows, model.value)
        count.text = (
            f'<p role="status">{len(rows):,} of {len(whole):,} slides{errors(rows)}</p>{threshold(run, model.value)}'
        )

    def another_model() -> None:
        whole = with_answers(run, run.models.get(model.value))
        for column in ("label", "part", "truth_name", "called_name"):
            offer(filters[column], whole, column)
        fill()

    on_change(model, "value", another_model)
    for widget in filters.values():
        on_change(widget, "value", fill)
    source.js_on_change("data", CustomJS(args={"run": run.number}, code="atlas.listed(run, [...cb_obj.data.number])"))
    page.remember(model=model, **filters)
    fill()
    source.selected.js_on_change(
        "indices",
        CustomJS(
            args={"source": source}, code="const i=cb_obj.indices[0];if(i!=null)location.href=source.data.link[i]"
        ),
    )
    faults = [Div(text=f'<p class="wrong" role="alert">{text(fault)}</p>') for fault in run.faults]
    page.show(
        "slides",
        *faults,
        Row(model, *filters.values(), sizing_mode="stretch_width", styles={"flex-wrap": "wrap"}),
        count,
        table,
        run=run,
        here="cases",
    )


def chooser(page: Page, frame: pd.DataFrame, column: str, words: str) -> Select:
    """A filter by the values of a column, set by the address."""
    return Select(title=words, value=page.word(column, EVERYTHING), options=values_of(frame, column), width=140)


def offer(filtering: Select, frame: pd.DataFrame, column: str) -> None:
    """Have a filter offer what stands in a column now; what was chosen stays where it is still there."""
    filtering.options = values_of(frame, column)
    if filtering.value not in filtering.options:
        filtering.value = EVERYTHING


def table_columns(page: Page, run: Seen, rows: pd.DataFrame, model: str) -> dict[str, Any]:
    """The columns of the table."""
    said = last_words(run.folder)
    links = [page.site.href("slide", run=run.number, case=place, model=model or None) for place in rows.index]
    verdict = [
        "" if not judged else "right" if right else "wrong"
        for judged, right in zip(rows["judged"], rows["right"], strict=True)
    ]
    return {
        "case": rows["case"].tolist(),
        "number": rows.index.to_numpy(np.int32),
        "link": links,
        "patient": rows["patient"].tolist(),
        "label": rows["label"].tolist(),
        "part": rows["part"].tolist(),
        "p": rows["p"].to_numpy(float),
        "called": rows["called_name"].tolist(),
        "verdict": verdict,
        "shade": [{"right": "var(--right)", "wrong": "var(--wrong)"}.get(word, "inherit") for word in verdict],
        "tiles": rows["tiles"].to_numpy(float) if "tiles" in rows else rows["p"].to_numpy(float) * float("nan"),
        "odd": ["no tumour tile found" if fallback else "" for fallback in rows["fallback"]],
        "notes": [said.get(case, "") for case in rows["case"]],
    }


def slide_table(run: Seen, source: ColumnDataSource, odd: bool) -> DataTable:
    """The table; every column can be sorted by a click on its head.

    Args:
        run: the run.
        source: its rows.
        odd: whether there is a column for slides in which no tumour tile was found.
    """
    number = NumberFormatter(format="0.000", nan_format="–")
    columns = [
        TableColumn(field="case", title="slide", formatter=HTMLTemplateFormatter(template=LINK), width=90),
        TableColumn(field="patient", title="patient", width=70),
        TableColumn(field="label", title="diagnosis", width=90),
        TableColumn(field="part", title="part", width=135),
        TableColumn(field="p", title="probability", formatter=number, width=95),
        TableColumn(field="called", title="called", width=90),
        TableColumn(field="verdict", title="", formatter=HTMLTemplateFormatter(template=VERDICT), width=70),
        TableColumn(field="tiles", title="tiles", formatter=NumberFormatter(format="0,0", nan_format="–"), width=50),
        *([TableColumn(field="odd", title="", formatter=StringFormatter(), width=150)] if odd else []),
        TableColumn(field="notes", title="notes", width=120),
    ]
    return redrawn(
        DataTable(
            source=source,
            columns=columns,
            sizing_mode="stretch_width",
            height=620,
            index_position=None,
            reorderable=False,
            row_height=28,
            html_attributes={"aria-label": f"slides of {run.name}", "role": "region"},
        )
    )


def errors(rows: pd.DataFrame) -> str:
    """How many of the judged rows are wrong."""
    judged = rows[rows["judged"]]
    return f"; {len(judged):,} judged, {int((~judged['right']).sum()):,} of them wrong" if len(judged) else ""


def threshold(run: Seen, name: str) -> str:
    """The model's threshold in words."""
    one = run.models.get(name)
    if one is None:
        return '<p class="soft">No model of the present settings has judged whole slides yet.</p>'
    fitted = CALIBRATED[one.calibrated]
    if one.threshold is None:
        classes = ", ".join(map(text, one.classes))
        return f'<p class="soft">{text(name)}: the most probable of {classes} is called; {fitted} of that class.</p>'
    return (
        f'<p class="soft">{text(name)}: {fitted} of {text(one.classes[1])}; threshold {one.threshold:.3g} '
        f"({text(one.threshold_from)}).</p>"
    )
