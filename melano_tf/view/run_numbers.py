"""A run's headline numbers beside the paper's, for a page."""

from melano_tf.reports.run_contents import read_tables
from melano_tf.view.page_style import text
from melano_tf.view.run_cases import Seen

MOST = 8


def numbers(run: Seen) -> str:
    """The headline numbers with their intervals, and the paper's."""
    rows = "".join(
        f'<tr><td>{text(one.label)}</td><td class="n">{text(one.value)}</td><td>{text(one.interval)}</td>'
        f'<td class="n">{text(one.paper) or "–"}</td></tr>'
        for one in read_tables(run.standing).first[:MOST]
    )
    if not rows:
        return '<p class="soft">No headline number of the present settings stands yet.</p>'
    return f'<table><tr><th></th><th class="n">here</th><th></th><th class="n">paper</th></tr>{rows}</table>'


def folded_numbers(run: Seen) -> str:
    """The same where a page shows a single case: how good the models are that answer there, opened by a click."""
    return f"<details><summary>the run's numbers, and the paper's</summary>{numbers(run)}</details>"
