"""The list of runs: what each is, its headline numbers beside the paper's, what of it is older or missing."""

from bokeh.models import Div

from melano_tf.reports.run_contents import is_phantom
from melano_tf.view.page_style import text
from melano_tf.view.run_cases import Seen
from melano_tf.view.run_numbers import MOST, numbers
from melano_tf.view.site import Page, pages_of


def index(page: Page) -> None:
    """Build the page."""
    runs = [page.site.runs.get(number) for number in range(len(page.site.runs))]
    cards = "".join(card(page, run) for run in runs)
    page.show("runs", Div(text=f'<div class="cards">{cards}</div>', sizing_mode="stretch_width"), here="all runs")


def card(page: Page, run: Seen) -> str:
    """One run."""
    title = text(run.facts.get("title", run.record["recipe"]))
    links = " · ".join(
        f'<a href="{text(page.site.href(name, run=run.number))}">{text(words)}</a>' for name, words in pages_of(run)
    )
    parts = [f"<h2>{text(run.name)}</h2><p>{title}</p><p>{links}</p>", f"<p>{count(run)}</p>", numbers(run)]
    parts += [f'<p class="wrong">{text(fault)}</p>' for fault in run.faults[:MOST]]
    older = run.standing.older()
    if older:
        shown = "".join(f"<li>{text(name)}</li>" for name in older[:MOST])
        more = f"<li>and {len(older) - MOST} more</li>" if len(older) > MOST else ""
        parts.append(
            f"<details><summary>{len(older)} files are older than the run's present settings, and not shown</summary>"
            f"<ul>{shown}{more}</ul></details>"
        )
    return f'<section class="card">{"".join(parts)}</section>'


def count(run: Seen) -> str:
    """How many cases there are, of how many classes, and whether they are phantoms."""
    classes = run.cases["label"].value_counts()
    words = ", ".join(f"{number} {text(name) or 'without a label'}" for name, number in classes.items())
    phantom = " <b>Phantoms</b>, drawn by this program." if is_phantom(run.record, run.facts) else ""
    models = f"{len(run.models)} models judged them." if run.models else "No model has judged them yet."
    return f"{len(run.cases):,} {run.judges}: {words}.{phantom} {models}"
