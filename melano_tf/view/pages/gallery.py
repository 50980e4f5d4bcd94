"""The images of a run: filtered, sorted by how wrong the model was, drawn as far as they are in sight."""

import math
from typing import Any

import pandas as pd
from bokeh.models import ColumnDataSource, DataTable, Div, HTMLTemplateFormatter, Row, Select, TableColumn, TextInput

from melano_tf.view import case_selection
from melano_tf.view.case_selection import EVERYTHING, ORDERS, chosen_rows, first_model, ordered, values_of, with_answers
from melano_tf.view.page_style import TABLES, WIDGETS, asset, text
from melano_tf.view.pages.slides import errors, threshold
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
ACROSS = 8
ROW_PX = 152
CELL = asset("cell.html")


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
        self.count = Div(sizing_mode="stretch_width")
        self.source = ColumnDataSource()
        self.table = picture_table(self.source, tall, f"images of {run.name}")
        on_change(self.model, "value", self._another_model)
        for widget in (self.kind, self.order, self.words, *self.filters.values()):
            on_change(widget, "value", self.fill)
        self.fill()

    def _answers(self) -> pd.DataFrame:
        frame = with_answers(self.run, self.run.models.get(self.model.value))
        if "age" in frame:
            decade = (pd.to_numeric(frame["age"], errors="coerce") // 10 * 10).astype("Int64")
            frame["age_band"] = [f"{value} to {value + 9}" if pd.notna(value) else "unknown" for value in decade]
        return frame

    def _another_model(self) -> None:
        self.frame = self._answers()
        for column, widget in self.filters.items():
            widget.options = values_of(self.frame, column)
            if widget.value not in widget.options:
                widget.value = EVERYTHING
        self.fill()

    def parts(self) -> list[Any]:
        """What is shown, top to bottom."""
        faults = [Div(text=f'<p class="wrong" role="alert">{text(fault)}</p>') for fault in self.run.faults]
        bar = Row(
            self.model,
            self.kind,
            *self.filters.values(),
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
        if self.only is not None:
            rows = rows[rows["case"].isin(self.only)]
        rows = ordered(rows, self.order.value, binary)
        self.source.data = cells(self.page, self.run, rows, self.model.value)
        self.count.text = f'<p role="status">{len(rows):,} of {len(self.frame):,} images{errors(rows)}</p>' + threshold(
            self.run, self.model.value
        ).replace("whole slides", "images")


WRAP = {"flex-wrap": "wrap"}


def picture_table(source: ColumnDataSource, tall: int, name: str) -> DataTable:
    """A table whose cells are pictures; only the rows in sight are in the page."""
    columns = []
    for place in range(ACROSS):
        template = CELL
        for field in ("link", "shade", "picture", "words"):
            template = template.replace("{" + field + "}", f"{field}{place}")
        columns.append(
            TableColumn(
                field=f"case{place}", title="", formatter=HTMLTemplateFormatter(template=template), sortable=False
            )
        )
    return DataTable(
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
        html_attributes={"aria-label": name},
    )


def cells(page: Page, run: Seen, rows: pd.DataFrame, model: str) -> dict[str, list[str]]:
    """The columns behind `picture_table`, `ACROSS` images a row."""
    site = page.site
    height = math.ceil(len(rows) / ACROSS)
    pad = height * ACROSS - len(rows)
    columns = {
        "case": rows["case"].tolist(),
        "link": [site.href("image", run=run.number, case=place, model=model or None) for place in rows.index],
        "picture": [f"{site.prefix}/picture/{run.number}/thumb/{place}.jpg" for place in rows.index],
        "shade": [
            "transparent" if not judged else "var(--right)" if right else "var(--wrong)"
            for judged, right in zip(rows["judged"], rows["right"], strict=True)
        ],
        "words": [
            f"{label} · {called or 'not judged'}{f' {p:.2f}' if judged else ''}"
            for label, called, p, judged in zip(
                rows["label"], rows["called_name"], rows["p"], rows["judged"], strict=True
            )
        ],
    }
    padded = {name: [*values, *[""] * pad] for name, values in columns.items()}
    return {f"{name}{place}": values[place::ACROSS] for name, values in padded.items() for place in range(ACROSS)}
