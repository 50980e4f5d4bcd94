"""What the tables of all recipes have in common: whose numbers they are, how they are shown and written."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from melano_tf.evaluation.thresholds import DecisionSettings
from melano_tf.papers.plan import Recipe
from melano_tf.papers.shell import Work
from melano_tf.reports.run_contents import headlines
from melano_tf.reports.table_files import read_table, write_table
from melano_tf.reports.table_layout import markdown
from melano_tf.reports.tables import Table


def show(work: Work, name: str, table: Table, aloud: bool = True) -> list[Path]:
    """Show a table (unless it is only written) and write it; returns its files."""
    if aloud:
        work.say("")
        work.say(markdown(table))
    return write_table(work.run.folder / "tables", name, table)


def whose(recipe: Recipe, settings: Any) -> str:
    """On what data."""
    given = getattr(settings, recipe.data)
    if not given:
        return f"Ours: PHANTOM {recipe.drawn} drawn by this program; their numbers say nothing of real skin."
    return f"Ours: {', '.join(map(str, given)) if isinstance(given, tuple) else given}."


def differing(recipe: Recipe, settings: Any) -> list[str]:
    """How many settings are not the paper's (of a recipe without one, the default's), if any."""
    count = len(recipe.changes(settings))
    return [f"{count} settings differ from the {recipe.base}'s; run.json and the start of the run list them."] * bool(
        count
    )


def decided_at(decision: DecisionSettings, unit: str) -> str:
    """At which threshold decisions are made, and on which probabilities, behind the names of what is decided by it.

    Args:
        decision: of the run.
        unit: whose hold-out it is, for example "patients".
    """
    rule, held = decision.threshold, f"an inner hold-out of training {unit}"
    fixed = rule.rule == "fixed"
    at = f"fixed beforehand ({rule.value:g})" if fixed else f"chosen on {held} (rule: {rule.rule})"
    where = f"on {held}" if fixed else "there"
    return f"at a threshold {at}" + f", on probabilities calibrated {where}" * decision.calibrate


def in_place_of(networks: Iterable[tuple[str, str, str]]) -> list[str]:
    """Which networks stand in the place of the paper's: of (its name in the paper, the one that it means, the used)."""
    return [f"In the place of the paper's {name} stands {used!r}." for name, meant, used in networks if used != meant]


def first_numbers(work: Work, *names: str, of: str = "test", most: int | None = None) -> list[str]:
    """The numbers that stand first (`most` of each) of these tables, a line each, of those that the session has made.

    Args:
        work: of the recipe.
        names: of the tables' files.
        of: whose numbers they are, the first word of each line.
        most: None: all.
    """
    paths = [work.run.folder / "tables" / f"{name}.json" for name in names]
    first = [one for path in paths if path in work.written for one in headlines(read_table(path))[:most]]
    return [f"{of:<9} {one.label} {one.value}, {one.interval}" for one in first]
