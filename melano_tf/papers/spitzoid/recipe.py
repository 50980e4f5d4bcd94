"""The spitzoid paper's experiments, in the paper's order.

Tile the slides -> train the source model on each validation cohort -> select tumour tiles -> train the target model ->
refit both on all training patients and test -> tables -> maps.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from melano_tf.evaluation.intervals import ends_text
from melano_tf.evaluation.metrics import format_value
from melano_tf.papers.checks import check_folders, check_manifest, check_weights, given_weights
from melano_tf.papers.spitzoid.cohort import Cohort, check_annotated, check_regions, cut_tiles, prepare_slides
from melano_tf.papers.spitzoid.figures import draw_cams, draw_maps
from melano_tf.papers.spitzoid.settings import Aggregation, SpitzoidSettings, changes
from melano_tf.papers.spitzoid.source import (
    SourceModel,
    Trained,
    chosen,
    initial_weights,
    table_2,
    table_3,
    train_source,
)
from melano_tf.papers.spitzoid.tables import make_tables
from melano_tf.papers.spitzoid.target import train_target
from melano_tf.papers.terminal import announce, finish
from melano_tf.training.runtime import configure
from melano_tf.workspace import Run

ABOUT = "spitzoid: an attention-based weakly supervised framework for spitzoid melanocytic lesions"

AGGREGATIONS: tuple[Aggregation, ...] = ("bgmp", "bgap", "bgas")


@dataclass
class Results:
    """Finished models by configuration and validation cohort (None: refitted on all training patients)."""

    sources: dict[tuple[SourceModel, int | None], Trained] = field(default_factory=dict)
    targets: dict[tuple[str, int | None], Trained] = field(default_factory=dict)


def reproduce(settings: SpitzoidSettings, say: Callable[[str], None]) -> Path:
    """Do what the settings ask for, or what is missing of it; returns the run's folder.

    Raises:
        InputError: a setting or an input file is wrong.
    """
    tables, figures, steps = settings.chosen_tables(), settings.chosen_figures(), settings.chosen_steps()
    drawn = "slides" if settings.slides is None else None
    announce(ABOUT, drawn, settings, changes(settings), say)
    settings.check()
    check_folders(settings)
    manifest = check_manifest(settings, "spitzoid")
    needed = wanted_sources(settings, tables, figures)
    learns = bool(set(steps) & {"source", "target", "test", "tables", "maps"})
    if learns and needed and manifest is not None:
        check_annotated(settings, manifest)
    check_weights((which.backbone, initial_weights(settings, which)) for which in needed if learns)
    threads = configure(settings.threads, settings.mirror)
    with Run(settings.out, "spitzoid", settings, threads, say) as run:
        run.note(differs=changes(settings))
        manifest = prepare_slides(run, settings, say)
        if steps == ("slides",):
            return told(run, say, [])
        cohort = cut_tiles(run, settings, manifest, say)
        run.stands_on(cohort.key, *given_weights(settings))
        results = Results()
        folds = range(1, settings.split.folds + 1)
        if learns and needed:
            check_regions(cohort)
            for which in needed:
                for fold in folds:
                    results.sources[which, fold] = train_source(run, settings, cohort, which, fold)
        if set(steps) & {"target", "test", "tables", "maps"}:
            train_targets(run, settings, cohort, results, tables)
        written: list[Path] = []
        if set(steps) & {"test", "tables", "maps"} and (5 in tables or {8, 9} & set(figures)):
            test(run, settings, cohort, results)
        if "tables" in steps:
            written += make_tables(run, settings, cohort, results.sources, results.targets, tables, say)
        if "maps" in steps:
            written += draw_maps(run, settings, cohort, results.sources, results.targets, figures)
            written += draw_cams(run, settings, cohort, results.sources, figures)
        return told(run, say, written)


def wanted_sources(settings: SpitzoidSettings, tables: tuple[int, ...], figures: tuple[int, ...]) -> list[SourceModel]:
    """The source models that the tables and figures asked for need, each once, in the paper's order."""
    wanted: list[SourceModel] = []
    if 2 in tables:
        wanted += table_2(settings)
    elif {6, 7} & set(figures):
        wanted += table_2(settings)[:2]
    if 3 in tables:
        wanted += table_3(settings)
    if {4, 5} & set(tables) or {8, 9} & set(figures):
        wanted.append(chosen(settings))
    return list(dict.fromkeys(wanted))


def train_targets(
    run: Run, settings: SpitzoidSettings, cohort: Cohort, results: Results, tables: tuple[int, ...]
) -> None:
    """Table 4: each aggregation on each validation cohort, initialised by that cohort's own source model."""
    if 4 not in tables:
        return
    for aggregation in AGGREGATIONS:
        for fold in range(1, settings.split.folds + 1):
            source = results.sources[chosen(settings), fold]
            results.targets[aggregation, fold] = train_target(run, settings, cohort, source, aggregation, fold)


def test(run: Run, settings: SpitzoidSettings, cohort: Cohort, results: Results) -> None:
    """Refit the chosen source and target on all training patients, and predict the test patients (section 6)."""
    source = train_source(run, settings, cohort, chosen(settings), None)
    results.sources[chosen(settings), None] = source
    aggregation = settings.target.aggregation
    results.targets[aggregation, None] = train_target(run, settings, cohort, source, aggregation, None)


def told(run: Run, say: Callable[[str], None], written: list[Path]) -> Path:
    """Say what came out, and where it lies."""
    test = run.folder / "tables" / "table5.csv"
    final = (run.folder / "models" / "target.keras").exists()
    models = "the final ones: source.keras, target.keras" if final else ""
    return finish(run, say, written, found(pd.read_csv(test)) if test in written else (), models)


def found(table: pd.DataFrame) -> list[str]:
    """The test's ROC AUC of both models with their intervals, a line each, from Table 5."""
    lines = []
    for column, what in (("SM", "tumour tiles (source model)"), ("TM", "malignant biopsies (target model)")):
        [row] = table[(table["row"] == "AUC") & (table["column"] == column)].to_dict("records")
        interval = f"{row['level']:.0%} interval {ends_text(row['low'], row['high'])}"
        lines.append(
            f"test      {what}: ROC AUC {format_value(row['ours'])}, {interval}, {row['patients']:.0f} patients"
        )
    return lines
