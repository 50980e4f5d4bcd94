"""Figures 1 to 4 of the paper, and the pace of SPL and OHEM.

Figures 1 and 2: recall of each class and strategy. Figures 3 and 4: what the hierarchical network's CBAM looks at when
it takes its last decision.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from melano_tf.evaluation.intervals import Interval
from melano_tf.evaluation.multiclass import decide
from melano_tf.models.hierarchical import attention_model
from melano_tf.papers.weighting.cohort import Cohort
from melano_tf.papers.weighting.grid import TABLES, weight_log
from melano_tf.papers.weighting.models import Trained
from melano_tf.papers.weighting.settings import WeightingSettings
from melano_tf.papers.weighting.tables import (
    OPTIMIZERS,
    PRINTED_CLASSES,
    Results,
    intervals_of,
    metrics_of,
    rows_of,
)
from melano_tf.pipelines.image_batches import predict_image_batches
from melano_tf.reports.attended import Attended, AttendedImage, attended_sheet
from melano_tf.reports.figures import blank_figure, save_figure
from melano_tf.training.weights import pace, taking_part
from melano_tf.workspace import Run, seed_for

Say = Callable[[str], None]
# Colours that the colour-blind tell apart (Wong, 2011), one a weighting; FL has the same, hatched.
COLOURS = ("#000000", "#0072b2", "#56b4e9", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#f0e442")
MELANOCYTIC = "melanocytic"


def draw_figures(
    run: Run,
    settings: WeightingSettings,
    cohort: Cohort,
    results: Results,
    tables: Sequence[int],
    figures: Sequence[str],
    say: Say,
) -> list[Path]:
    """Draw the figures asked for, of what the tables asked for trained; returns the files written."""
    written: list[Path] = []

    def save(name: str, figure: Figure) -> None:
        written.append(save_figure(run.folder / "figures" / f"{name}.png", figure))

    optimizer = next((TABLES[n][1] for n in tables if n in TABLES), None)
    shown = [n for n in tables if n in TABLES and TABLES[n][1] == optimizer]
    rows: dict[str, dict[str, list[Trained]]] = {}
    for number in shown:
        if found := {row: trained for row, trained in rows_of(settings, results, number).items() if trained}:
            rows[TABLES[number][0]] = found
    melanocytic, others = branches(cohort)
    for figure, classes, words in (("1", others, "non-melanocytic"), ("2", melanocytic, "melanocytic")):
        if figure in figures and classes:
            if not rows:
                say(f"no Figure {figure}: no row of the tables asked for was trained on every split")
                continue
            title = f"Figure {figure}: recall of {words} lesions, {OPTIMIZERS[str(optimizer)]}"
            save(f"figure{figure}", recall_figure(rows, classes, cohort, settings, f"{title} ({whose(settings)})"))
    for figure, chosen, words in (("3", settings.show.hard, "hard"), ("4", settings.show.easy, "easy")):
        if figure in figures:
            sheet = attention_rows(settings, cohort, results, optimizer, chosen, hard=figure == "3")
            if not sheet:
                say(f"no Figure {figure}: no hierarchical network of --show.rows was trained on split 1")
                continue
            title = f"Figure {figure}: CBAM of the hierarchical network at its last decision, {words} classes"
            save(f"figure{figure}", attended_sheet(sheet, f"{title} ({whose(settings)})", selection_note(figure)))
    if "pace" in figures:
        save("pace", pace_figure(run, settings, cohort, results))
    return written


def whose(settings: WeightingSettings) -> str:
    """Whose images these are, for titles."""
    return "PHANTOM images" if not settings.table else "means over splits" if settings.splits.count > 1 else "one split"


def branches(cohort: Cohort) -> tuple[list[str], list[str]]:
    """Classes under "melanocytic" (or whichever branch holds melanoma), and all others, in the paper's order."""
    tax = cohort.taxonomy
    branch = {name: tax.decisions[path[0]] for name, path in zip(tax.classes, tax.paths, strict=True)}
    own = MELANOCYTIC if MELANOCYTIC in branch.values() else branch.get("MEL", "")
    ordered = [name for name in PRINTED_CLASSES if name in branch]
    return [name for name in ordered if branch[name] == own], [name for name in ordered if branch[name] != own]


def recall_figure(
    rows: Mapping[str, Mapping[str, Sequence[Trained]]],
    classes: Sequence[str],
    cohort: Cohort,
    settings: WeightingSettings,
    title: str,
) -> Figure:
    """Bars of mean recall by class and strategy, a panel a network; lines: intervals by lesion.

    Args:
        rows: {network: {row of the table: trainings}}.
        classes: in the order of the bars.
        cohort: for class names and counts.
        settings: for the intervals.
        title: of the figure.
    """
    names = list(dict.fromkeys(row for found in rows.values() for row in found))
    losses = list(dict.fromkeys(name.partition("-")[0] for name in names))
    ordered = sorted(names, key=lambda name: (losses.index(name.partition("-")[0]), names.index(name)))
    figure = blank_figure(max(6.5, 1.9 * len(classes) + 3.0), 3.1 * len(rows) + 0.9)
    width = 0.84 / len(ordered)
    judged = np.concatenate([division.judge for division in cohort.divisions])
    counts = dict(zip(cohort.classes, cohort.counts(judged), strict=True))
    for axis, (network, found) in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
        for place, name in enumerate(ordered):
            if name not in found:
                continue
            means, around = recalls(found[name], classes, cohort, settings)
            at = np.arange(len(classes)) + (place - (len(ordered) - 1) / 2) * width
            axis.bar(at, means, width, linewidth=0.3, **bar_style(name, names))
            low, high = ([getattr(one, end) for one in around] for end in ("low", "high"))
            axis.vlines(at, low, high, color="0.35", linewidth=0.8)
        axis.set_xticks(np.arange(len(classes)), [f"{PRINTED_CLASSES[c]}\n({counts[c]} judged)" for c in classes])
        axis.tick_params(axis="x", labelsize=8)
        axis.set_ylim(0, 1.02)
        axis.set_ylabel("recall")
        axis.set_title(f"{network} network", fontsize=10)
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
    handles = [Patch(label=name, **bar_style(name, names)) for name in ordered]
    figure.legend(handles=handles, loc="outside right center", fontsize=8)
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(
        f"{'one split' if settings.splits.count == 1 else f'means over {settings.splits.count} splits'}; "
        f"grey lines: {settings.evaluation.level:.0%} intervals by lesion",
        fontsize=8,
    )
    return figure


def bar_style(name: str, names: Sequence[str]) -> dict[str, Any]:
    """How a row's bars look: a colour for each weighting; the second loss lighter and hatched."""
    weightings = list(dict.fromkeys(other.partition("-")[2] for other in names))
    losses = list(dict.fromkeys(other.partition("-")[0] for other in names))
    loss, _, weighting = name.partition("-")
    second = losses.index(loss) > 0
    return {
        "facecolor": COLOURS[weightings.index(weighting) % len(COLOURS)],
        "edgecolor": "white",
        "alpha": 0.6 if second else 0.95,
        "hatch": "////" if second else "",
    }


def recalls(
    trained: Sequence[Trained], classes: Sequence[str], cohort: Cohort, settings: WeightingSettings
) -> tuple[list[float], list[Interval]]:
    """Mean recall over splits of each class, and its interval."""
    metrics = [metrics_of(one, cohort) for one in trained]
    around = intervals_of(trained, cohort, settings)
    means = [float(np.mean([one[f"RE {name}"] for one in metrics])) for name in classes]
    return means, [around[f"RE {name}"] for name in classes]


def attention_rows(
    settings: WeightingSettings,
    cohort: Cohort,
    results: Results,
    optimizer: str | None,
    classes: Sequence[str],
    hard: bool,
) -> list[AttendedImage]:
    """Maps of one judged image of each class, by the hierarchical networks of `settings.show.rows` on split 1."""
    wanted = [name.strip() for name in settings.show.rows.split(",")]
    trained = {
        one.cell.row: one
        for one in results.values()
        if (one.cell.network, one.cell.optimizer, one.cell.split) == ("hierarchical", optimizer, 1)
    }
    shown = {name: trained[name] for name in wanted if name in trained}
    if not shown:
        return []
    picked = {name: choose_image(shown, cohort.classes.index(name), settings.seed, hard) for name in classes}
    chosen = {name: image for name, image in picked.items() if image is not None}
    images = list(chosen.values())
    maps = {name: attended(one, settings, cohort, images) for name, one in shown.items()}
    pictures = pictures_of(settings, cohort, images)
    return [
        AttendedImage(
            f"{PRINTED_CLASSES.get(label, label)}\n{image}",
            pictures[place],
            {name: maps[name][place] for name in shown},
        )
        for place, (label, image) in enumerate(chosen.items())
    ]


def choose_image(shown: Mapping[str, Trained], target: int, seed: int, hard: bool) -> str | None:
    """A judged image of a class, by chance among the most fitting ones.

    Hard: those that some networks got right and some wrong, else any. Easy: those that most networks got right.
    """
    tables = [one.predictions for one in shown.values()]
    own = (tables[0]["target"] == target).to_numpy()
    if not own.any():
        return None
    right = np.mean([decide(one.probabilities[own]) == target for one in shown.values()], axis=0)
    fitting = (right > 0) & (right < 1) if hard else right == right.max()
    names = tables[0]["image_id"].to_numpy()[own]
    candidates = names[fitting] if fitting.any() else names
    rng = np.random.default_rng(seed_for(seed, "show", str(target)))
    return str(sorted(candidates)[rng.integers(len(candidates))])


def selection_note(figure: str) -> str:
    """How the images of Figures 3 and 4 were chosen."""
    how = (
        "one image of each class by chance among those that some of the networks got right and some wrong, if any"
        if figure == "3"
        else "one image of each class by chance among those that most of the networks got right"
    )
    return (
        f"Judged images of split 1, {how}. Under the maps: what was called. Each map is stretched to its own range; a "
        "black one is 0 everywhere."
    )


def attended(trained: Trained, settings: WeightingSettings, cohort: Cohort, images: Sequence[str]) -> list[Attended]:
    """CBAM of one network at the node that took its last decision for each image."""
    looks = attention_model(keras.saving.load_model(trained.model))
    pixels = pictures_of(settings, cohort, images)
    found = {name: np.asarray(value) for name, value in looks({"image": pixels.astype(np.float32)}).items()}
    called = found["probabilities"].argmax(axis=1)
    nodes = cohort.taxonomy.last_nodes(called)
    return [
        Attended(
            found["spatial"][place, node],
            found["strongest_map"][place, node],
            f"{cohort.classes[called[place]]} {found['probabilities'][place, called[place]]:.2f}, "
            f"channel {found['strongest'][place, node]}",
        )
        for place, node in enumerate(nodes)
    ]


def pictures_of(settings: WeightingSettings, cohort: Cohort, images: Sequence[str]) -> np.ndarray:
    """Images as the networks see them, uint8 (n, px, px, 3)."""
    batches = predict_image_batches(cohort.cache, images, settings.network.input_px, settings.training.batch)
    return np.concatenate([part["x"] for part in batches])


def pace_figure(run: Run, settings: WeightingSettings, cohort: Cohort, results: Results) -> Figure:
    """How many samples of a batch take part in each epoch (equation 9), and where weights were logged, how many did."""
    training = settings.training
    lengths = {"flat": training.flat_epochs, "hierarchical": training.hierarchical_epochs}
    figure = blank_figure(5.2 * len(lengths), 3.6)
    for axis, (network, epochs) in zip(figure.subplots(1, 2, squeeze=False)[0], lengths.items(), strict=True):
        epoch = np.arange(epochs)
        m = np.asarray(taking_part(training.batch, pace(epoch, epochs, training.batch, settings.rules.full_from)))
        axis.step(epoch, m, where="post", color=COLOURS[1], label=f"m of a full batch, M = {training.batch}")
        axis.axhline(training.batch, color="0.6", linewidth=0.8, linestyle=(0, (4, 3)))
        counted = logged_counts(run, cohort, network, results, training.batch)
        if len(counted):
            axis.plot(counted["epoch"], counted["kept"], ".", color=COLOURS[3], label="logged in full batches")
        axis.set_ylim(0, training.batch * 1.08)
        axis.set_xlabel("epoch e")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_ylabel("samples that take part")
        axis.set_title(f"{network} network, {epochs} epochs", fontsize=10)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="lower right")
    figure.suptitle("The pace of SPL and OHEM, equation (9)", fontsize=11)
    return figure


def logged_counts(run: Run, cohort: Cohort, network: str, results: Results, batch: int) -> pd.DataFrame:
    """Samples that took part in logged full batches of SPL and OHEM trainings: columns epoch, kept."""
    rows = []
    for cell in results:
        if cell.network != network or not {"spl", "ohem"} & set(cell.weights.split("+")):
            continue
        steps_per_epoch = -(-len(cohort.divisions[cell.split - 1].train) // batch)
        for path in sorted(weight_log(run.folder, cell.name).glob("step_*.csv")):
            weights = pd.read_csv(path)
            if len(weights) == batch:
                epoch = int(path.stem.partition("_")[2]) // steps_per_epoch
                rows.append({"epoch": epoch, "kept": float(weights["curriculum"].sum())})
    return pd.DataFrame(rows, columns=["epoch", "kept"])
