"""The images of a run: filtered, sorted by how wrong the model was, drawn as far as they are in sight."""

from typing import Any

import numpy as np
import pandas as pd
from bokeh.models import (
    ColumnDataSource,
    CustomJS,
    DataTable,
    Div,
    HTMLTemplateFormatter,
    RangeSlider,
    Row,
    Select,
    TableColumn,
    TextInput,
)

from melano_tf.view import case_selection
from melano_tf.view.case_selection import (
    EVERYTHING,
    ORDERS,
    chosen_rows,
    confidence,
    first_model,
    ordered,
    values_of,
    with_answers,
)
from melano_tf.view.page_style import TABLES, WIDGETS, asset, redrawn, text
from melano_tf.view.pages.slides import errors, offer, threshold
from melano_tf.view.run_cases import Seen
from melano_tf.view.site import Page, on_change

KINDS = (EVERYTHING, case_selection.WRONG, case_selection.SURE, case_selection.RIGHT, case_selection.UNSURE)
FILTERS = {
    "truth_name": "true class",
    "called_name": "called",
    "part": "fold or part",
    "cluster": "cluster",
    "source": "source",
    "sex": "sex",
    "site": "site",
    "age_band": "age",
}
WHOLE = (0.0, 1.0)
ACROSS = 8
ROW_PX = 152
CELL = asset("cell.html")
BELOW = '<p class="soft">Below an image stand its label · what was called, and the probability of that.</p>'


def gallery(page: Page) -> None:
    """Build the page."""
    run = page.run()
    grid = Grid(page, run)
    page.show("images", *grid.parts(), run=run, here="cases")


class Grid:
    """Filters, and a table of pictures below them.

    Args:
        page: the page.
        run: the run.
        only: names of the cases among which is chosen; None: all.
        tall: height of the table in px.
    """

    def __init__(self, page: Page, run: Seen, only: set[str] | None = None, tall: int = 640) -> None:
        self.page, self.run, self.only = page, run, only
        name = first_model(run, page.word("model"))
        self.model = Select(title="model", value=name, options=list(run.models) or [""], width=230)
        self.frame = self._answers()
        self.filters = {
            column: Select(
                title=words, value=page.word(column, EVERYTHING), options=values_of(self.frame, column), width=118
            )
            for column, words in FILTERS.items()
            if column in self.frame and len(values_of(self.frame, column)) > 2
        }
        self.kind = Select(title="answers", value=page.word("kind", EVERYTHING), options=list(KINDS), width=130)
        self.order = Select(title="order", value=page.word("order", ORDERS[0]), options=list(ORDERS), width=165)
        self.words = TextInput(title="image or patient", value=page.word("words"), width=130)
        self.sure = RangeSlider(title="confidence", start=0, end=1, step=0.01, value=span(page.word("sure")), width=150)
        self.count = Div(sizing_mode="stretch_width")
        self.source = ColumnDataSource()
        self.table = picture_table(self.source, tall, f"images of {run.name}")
        on_change(self.model, "value", self._another_model)
        for widget in (self.kind, self.order, self.words, *self.filters.values()):
            on_change(widget, "value", self.fill)
        on_change(self.sure, "value_throttled", self.fill)
        self.source.js_on_change("data", CustomJS(args={"run": run.number, "across": ACROSS}, code=LISTED))
        page.remember(
            model=self.model, kind=self.kind, order=self.order, words=self.words, sure=self.sure, **self.filters
        )
        self.fill()

    def _answers(self) -> pd.DataFrame:
        frame = with_answers(self.run, self.run.models.get(self.model.value))
        if "age" in frame:
            decade = (pd.to_numeric(frame["age"], errors="coerce") // 10 * 10).astype("Int64")
            bands = {value: f"{value} to {value + 9}" for value in decade.dropna().unique()}
            frame["age_band"] = decade.map(bands).astype(object).fillna("unknown")
        return frame

    def _another_model(self) -> None:
        self.frame = self._answers()
        for column, widget in self.filters.items():
            offer(widget, self.frame, column)
        self.fill()

    def parts(self) -> list[Any]:
        """What is shown, top to bottom."""
        faults = [Div(text=f'<p class="wrong" role="alert">{text(fault)}</p>') for fault in self.run.faults]
        bar = Row(
            self.model,
            self.kind,
            *self.filters.values(),
            self.sure,
            self.order,
            self.words,
            sizing_mode="stretch_width",
            styles=WRAP,
        )
        return [*faults, bar, self.count, self.table]

    def fill(self) -> None:
        """Show what the filters leave."""
        judged = self.run.models.get(self.model.value)
        binary = judged is None or len(judged.classes) == 2
        equal = {column: widget.value for column, widget in self.filters.items()}
        rows = chosen_rows(self.frame, equal, self.kind.value, self.words.value, binary)
        if tuple(self.sure.value) != WHOLE:
            rows = rows[confidence(rows, binary).between(*self.sure.value)]
        if self.only is not None:
            rows = rows[rows["case"].isin(self.only)]
        rows = ordered(rows, self.order.value, binary)
        for place, column in enumerate(self.table.columns):
            column.formatter.template = template(self.page, self.run, self.model.value, place)
        self.source.data = cells(rows, binary)
        found = f'<p role="status">{len(rows):,} of {len(self.frame):,} images{errors(rows)}</p>'
        rule = threshold(self.run, self.model.value).replace("whole slides", "images")
        self.count.text = found + rule + (BELOW if judged is not None else "")


def span(words: str) -> tuple[float, float]:
    """Two shares of an address, "0.5,0.9", else from 0 to 1."""
    try:
        low, high = map(float, words.split(","))
    except ValueError:
        return WHOLE
    return (low, high) if 0 <= low <= high <= 1 else WHOLE


WRAP = {"flex-wrap": "wrap"}
LISTED = """
const all = [], d = cb_obj.data;
for (let i = 0; i < d.n0.length; i++) for (let k = 0; k < across; k++) if (d['n' + k][i] >= 0) all.push(d['n' + k][i]);
atlas.listed(run, all);
"""


def picture_table(source: ColumnDataSource, tall: int, name: str) -> DataTable:
    """A table whose cells are pictures; only the rows in sight are in the page."""
    columns = [
        TableColumn(field=f"n{place}", title="", formatter=HTMLTemplateFormatter(), sortable=False)
        for place in range(ACROSS)
    ]
    return redrawn(
        DataTable(
            source=source,
            columns=columns,
            sizing_mode="stretch_width",
            height=tall,
            row_height=ROW_PX,
            index_position=None,
            reorderable=False,
            header_row=False,
            stylesheets=[WIDGETS, TABLES, ".slick-header{display:none}"],
            selectable=False,
            html_attributes={"aria-label": name, "role": "region"},
        )
    )


def template(page: Page, run: Seen, model: str, place: int) -> str:
    """The HTML of a column's cells, but for what differs from cell to cell: the image's number, shade and words."""
    link = page.site.href("image", run=run.number, model=model or None) + "&case="
    parts = {"link": text(link), "picture": page.site.picture(run, "thumb", "<%- value %>")}
    cell = CELL
    for name, words in {**parts, "shade": f"s{place}", "words": f"w{place}"}.items():
        cell = cell.replace("{" + name + "}", words)
    return cell


def cells(rows: pd.DataFrame, binary: bool) -> dict[str, Any]:
    """The columns behind `picture_table`, `ACROSS` images a row: n, the number of the case (-1: none), s, its shade
    (not judged, right, wrong), w, its words: the label, what was called and the probability of that."""
    empty = -len(rows) % ACROSS
    answers = zip(rows["label"], rows["called_name"], confidence(rows, binary), rows["judged"], strict=True)
    words = [
        f"{label} · {called} {sure:.2f}" if judged else f"{label} · not judged"
        for label, called, sure, judged in answers
    ]
    shades = np.where(rows["judged"], np.where(rows["right"], 1, 2), 0)
    numbers = np.r_[rows.index.to_numpy(np.int32), np.full(empty, -1, np.int32)]
    whole = {"n": numbers, "s": np.r_[shades, np.zeros(empty)].astype(np.int8), "w": [*words, *[""] * empty]}
    return {f"{name}{place}": values[place::ACROSS] for name, values in whole.items() for place in range(ACROSS)}
