"""A model's errors: confusion matrix and curves as doors to their cases."""

import math
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from bokeh.layouts import column, row
from bokeh.models import (
    ColumnDataSource,
    CustomJS,
    Div,
    HoverTool,
    LabelSet,
    LinearColorMapper,
    Select,
    Slider,
    TapTool,
)
from bokeh.plotting import figure

from melano_tf.errors import InputError
from melano_tf.evaluation.binary_intervals import binary_intervals
from melano_tf.evaluation.binary_metrics import format_value
from melano_tf.evaluation.curves import counts_by_threshold, precision_recall, roc
from melano_tf.evaluation.interval import Interval, ends_text
from melano_tf.view.case_selection import EVERYTHING, TIED, first_model, values_of, with_answers
from melano_tf.view.colour_maps import PALETTES
from melano_tf.view.model_predictions import Judged
from melano_tf.view.page_style import text
from melano_tf.view.run_cases import Seen
from melano_tf.view.site import Page, on_change

SIDE = 380
SHOWN = 60
POINTS = 400  # of a curve that can be clicked


def curves(page: Page) -> None:
    """Build the page."""
    run = page.run()
    if not run.models:
        raise InputError(f"{run.name}: no model of its present settings has judged whole cases yet")
    CurvesPage(page, run).show()


class CurvesPage:
    """The widgets and what they do.

    Args:
        page: the page.
        run: a run with models.
    """

    def __init__(self, page: Page, run: Seen) -> None:
        self.page, self.run, self.line = page, run, "#56b4e9" if page.dark else "#0072b2"
        name = first_model(run, page.word("model"))
        self.model = Select(title="model", value=name, options=list(run.models), width=280)
        self.part = Select(title="part", width=180)
        self.against = Select(title="class against the others", width=180)
        self.threshold = Slider(title="threshold", start=0, end=1, step=0.001, value=0.5, width=300)
        self.words, self.listed = Div(sizing_mode="stretch_width"), Div(sizing_mode="stretch_width")
        self.at = ColumnDataSource({"fpr": [], "tpr": [], "recall": [], "precision": []})
        self.place = row(sizing_mode="stretch_width")
        page.remember(model=self.model, part=self.part, against=self.against, threshold=self.threshold)
        self.sent = page.word("part"), page.word("against"), page.number("threshold")
        self.drawn = 0
        self._choose_model()
        on_change(self.model, "value", self._choose_model)
        on_change(self.part, "value", self._draw)
        on_change(self.against, "value", self._draw)
        on_change(self.threshold, "value", self._at)

    @property
    def judged(self) -> Judged:
        """The chosen model's answers."""
        return self.run.models[self.model.value]

    def _choose_model(self) -> None:
        judged = self.judged
        self.whole = with_answers(self.run, judged)
        self.whole = self.whole[self.whole["judged"]]
        parts = values_of(self.whole, "part")
        (part, against, at), self.sent = self.sent, ("", "", None)
        own = judged.threshold if judged.threshold is not None else 0.5
        self.filling = True  # so that the page is drawn once
        self.part.options = parts
        tested = next((part for part in parts if part == "test"), EVERYTHING)
        self.part.value = part if part in parts else tested
        self.against.options = list(judged.classes)
        first = judged.classes[1] if len(judged.classes) == 2 else judged.classes[0]
        self.against.value = against if against in judged.classes else first
        self.against.visible = len(judged.classes) > 2
        self.threshold.value = own if at is None else min(1.0, max(0.0, at))
        self.filling = False
        self._draw()

    def _rows(self) -> pd.DataFrame:
        rows = self.whole
        return rows if self.part.value == EVERYTHING else rows[rows["part"] == self.part.value]

    def _scores(self, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Truth (0 or 1) and probability of the chosen class."""
        judged = self.judged
        frame = judged.frame.drop_duplicates("case").set_index("case").loc[rows["case"]]
        index = judged.classes.index(self.against.value)
        return (frame["target"] == index).to_numpy(int), frame[f"p{index}"].to_numpy(float)

    def _draw(self) -> None:
        if self.filling:
            return
        rows = self._rows()
        if not len(rows) or self.against.value not in self.judged.classes:
            self.place.children = [Div(text="<p>No case of this part.</p>")]
            return
        y, p = self._scores(rows)
        self.y, self.p, self.rows = y, p, rows
        self.place.children = [self._matrix(rows), self._roc(y, p), self._pr(y, p)]
        self._say(rows, y, p)
        self._at()

    def _say(self, rows: pd.DataFrame, y: np.ndarray, p: np.ndarray) -> None:
        """How many are wrong, and the area under the curve; its interval takes time, and comes when it is there."""
        wrong = int((~rows["right"]).sum())
        first = f"{len(rows):,} {self.run.judges}, {wrong:,} of them wrong"
        rule = ""
        if len(rows) and "threshold" in rows and rows["threshold"].min() < rows["threshold"].max():
            rule = "The matrix calls each case by its fold's own threshold, the curves all by one. "
        doors = rule + "A click on a cell opens its cases; one on a curve moves the threshold."
        self.words.text = f'<p role="status">{first}. {doors}</p>'
        self.drawn += 1
        drawn, name, groups = self.drawn, text(self.against.value), rows["group"].tolist()
        several = len(set(rows["stem"])) > 1
        pooled = "; all folds in one curve, of which tables give the folds' mean" if several else ""

        def done(found: Interval) -> None:
            area = (
                f"ROC AUC of {name} {format_value(found.value)} ({found.level:.0%} interval "
                f"{ends_text(found.low, found.high)}, {len(set(groups)):,} patients or lesions{pooled})"
            )
            if drawn == self.drawn:  # else another part or model was chosen meanwhile
                self.words.text = f'<p role="status">{first}; {area}. {doors}</p>'

        def failed(words: str) -> None:
            if drawn == self.drawn:
                self.words.text += f'<p class="wrong" role="alert">{text(words)}</p>'

        if 0 < y.sum() < len(y):
            work = partial(binary_intervals, y, p, groups, ["AUC"], repeats=500)
            self.page.later(lambda: work()["AUC"], done, failed)

    def _matrix(self, rows: pd.DataFrame) -> Any:
        names = list(self.judged.classes)
        answers = [*names, TIED] if (rows["called"] < 0).any() else names
        counts = pd.crosstab(rows["truth_name"], rows["called_name"])
        counts = counts.reindex(index=names, columns=answers, fill_value=0)
        part = None if self.part.value == EVERYTHING else self.part.value
        cells = []
        for truth, row_of in zip(names, counts.to_numpy(int), strict=True):
            for called, count in zip(answers, row_of.tolist(), strict=True):
                where = {"truth_name": truth, "called_name": called, "part": part}
                link = self.page.site.href("cases", run=self.run.number, model=self.model.value, **where)
                share = count / max(1, int(row_of.sum()))
                cells.append((truth, called, count, share, f"{count:,}", link))
        frame = pd.DataFrame(cells, columns=["truth", "called", "count", "share", "words", "link"])
        frame["ink"] = np.where(frame["share"] > 0.55, "#111111", "#f4f4f4")
        source = ColumnDataSource(frame)
        side = min(SIDE, max(260, 60 * len(names) + 90))
        plot = figure(
            x_range=answers,
            y_range=names[::-1],
            width=side + 40,
            height=side,
            tools="",
            toolbar_location=None,
            x_axis_label="called",
            y_axis_label="truth",
            title="confusion matrix",
            html_attributes={"aria-label": "confusion matrix", "role": "img"},
            name="matrix",
        )
        mapper = LinearColorMapper(palette=list(PALETTES["cividis (for colour-blind eyes)"]), low=0, high=1)
        boxes = plot.rect(
            "called",
            "truth",
            0.96,
            0.96,
            source=source,
            fill_color={"field": "share", "transform": mapper},
            line_color=None,
        )
        boxes.nonselection_glyph = boxes.glyph
        labels = LabelSet(
            x="called",
            y="truth",
            text="words",
            source=source,
            text_align="center",
            text_baseline="middle",
            text_color="ink",
            text_font_size="13px",
        )
        plot.add_layout(labels)
        plot.grid.visible = False
        hover = HoverTool(
            renderers=[boxes],
            tooltips=[("truth", "@truth"), ("called", "@called"), ("", "@count, @share{0 %} of the class")],
        )
        plot.add_tools(hover, TapTool(renderers=[boxes]))
        source.selected.js_on_change(
            "indices",
            CustomJS(
                args={"source": source}, code="const i=cb_obj.indices[0];if(i!=null)location.href=source.data.link[i]"
            ),
        )
        return plot

    def _clickable(self, plot: Any, source: ColumnDataSource, x: str, y: str) -> Any:
        """The plot with points that can be clicked, and the point of the threshold."""
        unseen = {"alpha": 0.0, "nonselection_alpha": 0.0, "selection_alpha": 0.0}
        dots = plot.scatter(x, y, source=source, size=9, color=self.line, hover_alpha=0.8, **unseen)
        plot.scatter(x, y, source=self.at, size=11, color="#d55e00", marker="diamond")
        hover = HoverTool(renderers=[dots], tooltips=[("threshold", "@threshold{0.000}")])
        plot.add_tools(hover, TapTool(renderers=[dots]))
        plot.toolbar_location = None

        def clicked(attribute: str, old: list[int], new: list[int]) -> None:
            if new:
                self.threshold.value = min(1.0, max(0.0, float(source.data["threshold"][new[0]])))

        source.selected.on_change("indices", clicked)
        return plot

    def _plot(self, title: str, x: str, y: str) -> Any:
        return figure(
            x_range=(-0.02, 1.02),
            y_range=(-0.02, 1.02),
            width=SIDE,
            height=SIDE,
            tools="",
            title=title,
            x_axis_label=x,
            y_axis_label=y,
            html_attributes={"aria-label": title, "role": "img"},
            name=title,
        )

    def _roc(self, y: np.ndarray, p: np.ndarray) -> Any:
        if not 0 < y.sum() < len(y):
            return Div(text="<p>No curves: only one of both stands in this part.</p>", width=SIDE)
        plot, curve = self._plot("ROC curve", "1 - specificity", "sensitivity"), roc(y, p)
        threshold = np.r_[1.0, np.unique(p)[::-1]]
        keep = thinned(len(curve.fpr))
        points = {"fpr": curve.fpr[keep], "tpr": curve.tpr[keep], "threshold": threshold[keep]}
        plot.line([0, 1], [0, 1], color="#999999", line_dash="dashed")
        plot.line(curve.fpr, curve.tpr, line_width=2, color=self.line)
        return self._clickable(plot, ColumnDataSource(points), "fpr", "tpr")

    def _pr(self, y: np.ndarray, p: np.ndarray) -> Any:
        if not 0 < y.sum() < len(y):
            return Div(text="", width=SIDE)
        plot, curve = self._plot("precision and recall", "recall", "precision"), precision_recall(y, p)
        plot.line(*curve.line(), line_width=2, color=self.line)
        counts = counts_by_threshold(y, p)
        tp, fp, threshold = counts.tp[1:], counts.fp[1:], counts.threshold[1:]
        keep = thinned(len(tp))
        points = {
            "recall": (tp / counts.positives)[keep],
            "precision": (tp / (tp + fp))[keep],
            "threshold": threshold[keep],
        }
        return self._clickable(plot, ColumnDataSource(points), "recall", "precision")

    def _at(self) -> None:
        """The point of the threshold, and which cases it gets wrong."""
        if self.filling or not hasattr(self, "p"):
            return
        y, called = self.y == 1, self.p >= self.threshold.value
        tp, fp, fn, tn = ((called & y).sum(), (called & ~y).sum(), (~called & y).sum(), (~called & ~y).sum())

        def share(a: int, b: int) -> float:
            return a / (a + b) if a + b else math.nan

        self.at.data = {
            "fpr": [share(fp, tn)],
            "tpr": [share(tp, fn)],
            "recall": [share(tp, fn)],
            "precision": [share(tp, fp)],
        }
        name = text(self.against.value)
        head = (
            f'<p role="status">At {self.threshold.value:.3f}: sensitivity {share(tp, fn):.3f}, '
            f"specificity {share(tn, fp):.3f}; {tp} called {name} rightly, {fp} wrongly; {fn} missed.</p>"
        )
        wrong = [("missed", ~called & y, 1), (f"called {name} wrongly", called & ~y, -1)]
        self.listed.text = head + "".join(self._cases(words, keep, sign) for words, keep, sign in wrong)

    def _cases(self, words: str, keep: np.ndarray, sign: int) -> str:
        places = np.flatnonzero(keep)
        places = places[np.argsort(sign * self.p[places], kind="stable")][:SHOWN]
        more = f", the {SHOWN} surest" if keep.sum() > SHOWN else ""
        page = "slide" if self.run.judges == "slides" else "image"
        links = []
        for place in places.tolist():
            number = int(self.rows.index[place])
            address = self.page.site.href(page, run=self.run.number, case=number, model=self.model.value)
            name = text(self.rows["case"].iloc[place])
            site = self.page.site
            slides = self.run.judges == "slides"
            picture = site.overview(self.run, number) if slides else site.picture(self.run, "thumb", number)
            inside = f'<img src="{picture}" alt="" loading="lazy">{name}<br>{self.p[place]:.3f}'
            links.append(f'<a href="{text(address)}">{inside}</a>')
        return f"<h3>{int(keep.sum())} {words}{more}</h3><div class='strip'>{''.join(links)}</div>"

    def show(self) -> None:
        """Put the page together."""
        bar = row(self.model, self.part, self.against, self.threshold, styles={"flex-wrap": "wrap"})
        self.place.styles = {"flex-wrap": "wrap"}
        body = column(bar, self.words, self.place, self.listed, sizing_mode="stretch_width")
        self.page.show("errors and curves", body, run=self.run, here="curves")


def thinned(count: int) -> np.ndarray:
    """At most `POINTS` places of so many, evenly spread, both ends among them."""
    return np.unique(np.linspace(0, count - 1, min(count, POINTS)).round().astype(int))
