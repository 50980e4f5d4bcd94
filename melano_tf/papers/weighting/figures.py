"""Figures 1 to 4 of the paper, and the pace of SPL and OHEM.

Figures 1 and 2: recall of each class and strategy. Figures 3 and 4: what the hierarchical network's CBAM looks at when
it takes its last decision.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from melano_tf.evaluation.interval import Interval
from melano_tf.evaluation.multiclass_metrics import decide
from melano_tf.models.hierarchical_classifier import attention_model
from melano_tf.papers.shared_figures import saved
from melano_tf.papers.shell import Work
from melano_tf.papers.weighting.cohort import WeightingImages, split_name, splits_of
from melano_tf.papers.weighting.models import GridTraining, step_name, trained
from melano_tf.papers.weighting.settings import WeightingSettings
from melano_tf.papers.weighting.tables import (
    OPTIMIZERS,
    PRINTED_CLASSES,
    intervals_of,
    metrics_of,
    rows_of,
)
from melano_tf.papers.weighting.training_grid import TABLES, first_optimizer, shown_cells, weight_log
from melano_tf.pipelines.image_batches import predict_image_batches
from melano_tf.reports.attention_figures import Attended, AttendedImage, attended_sheet
from melano_tf.reports.figures import blank_figure
from melano_tf.runs.settings_digest import seed_for
from melano_tf.training.sample_weights import pace, taking_part

# Colours that the colour-blind tell apart (Wong, 2011), one a weighting; FL has the same, hatched.
COLOURS = ("#000000", "#0072b2", "#56b4e9", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#f0e442")
MELANOCYTIC = "melanocytic"


def draw_recalls(work: Work, name: str) -> list[Path]:
    """Figure 1 or 2 ("1", "2"): recall of the classes that are not melanocytic, or that are."""
    settings, cohort = work.settings, work.value("cohort")
    melanocytic, others = branches(cohort)
    classes, words = (others, "non-melanocytic") if name == "1" else (melanocytic, "melanocytic")
    if not classes:
        return []
    optimizer = first_optimizer(settings)
    shown = [number for number in settings.chosen_tables() if number in TABLES and TABLES[number][1] == optimizer]
    rows: dict[str, dict[str, list[GridTraining]]] = {}
    for number in shown:
        if there := {row: trained for row, trained in rows_of(work, number).items() if trained}:
            rows[TABLES[number][0]] = there
    if not rows:
        work.say(f"no Figure {name}: no row of the tables asked for was trained on every split")
        return []
    title = f"Figure {name}: recall of {words} lesions, {OPTIMIZERS[str(optimizer)]} ({whose(settings)})"
    return saved(work, f"figure{name}", recall_figure(work, rows, classes, title))


def draw_attention(work: Work, name: str) -> list[Path]:
    """Figure 3 or 4 ("3", "4"): what CBAM looks at, for hard classes or easy ones."""
    hard = name == "3"
    sheet = attention_rows(work, name)
    if not sheet:
        work.say(f"no Figure {name}: no hierarchical network of --show.rows was trained on split 1")
        return []
    what = f"CBAM of the hierarchical network at its last decision, {'hard' if hard else 'easy'} classes"
    title = f"Figure {name}: {what} ({whose(work.settings)})"
    return saved(work, f"figure{name}", attended_sheet(sheet, title, selection_note(hard)))


def draw_pace(work: Work, name: str) -> list[Path]:
    """The pace of SPL and OHEM."""
    return saved(work, name, pace_figure(work))


DRAWN = {"1": draw_recalls, "2": draw_recalls, "3": draw_attention, "4": draw_attention, "pace": draw_pace}


def whose(settings: WeightingSettings) -> str:
    """Whose images these are, for titles."""
    return over(settings) if settings.table else "PHANTOM images"


def over(settings: WeightingSettings) -> str:
    """What the bars are means over."""
    count, name = len(settings.split_numbers()), "split" if settings.transfer is None else "fold"
    return f"one {name}" if count == 1 else f"means over {count} {name}s"


def branches(cohort: WeightingImages) -> tuple[list[str], list[str]]:
    """Classes under "melanocytic" (or whichever branch holds melanoma), and all others, in the paper's order."""
    tax = cohort.taxonomy
    branch = {name: tax.decisions[path[0]] for name, path in zip(tax.classes, tax.paths, strict=True)}
    own = MELANOCYTIC if MELANOCYTIC in branch.values() else branch.get("MEL", "")
    ordered = [name for name in PRINTED_CLASSES if name in branch]
    return [name for name in ordered if branch[name] == own], [name for name in ordered if branch[name] != own]


def recall_figure(
    work: Work, rows: Mapping[str, Mapping[str, Sequence[GridTraining]]], classes: Sequence[str], title: str
) -> Figure:
    """Bars of mean recall by class and strategy, a panel a network; lines: intervals by lesion.

    Args:
        work: of the recipe.
        rows: {network: {row of the table: trainings}}.
        classes: in the order of the bars.
        title: of the figure.
    """
    settings, cohort = work.settings, work.value("cohort")
    names = list(dict.fromkeys(row for found in rows.values() for row in found))
    losses = list(dict.fromkeys(name.partition("-")[0] for name in names))
    ordered = sorted(names, key=lambda name: (losses.index(name.partition("-")[0]), names.index(name)))
    figure = blank_figure(max(6.5, 1.9 * len(classes) + 3.0), 3.1 * len(rows) + 0.9)
    width = 0.84 / len(ordered)
    judged = np.concatenate([division.judge for division in splits_of(work)])
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
        f"{over(settings)}; grey lines: {settings.evaluation.level:.0%} intervals by lesion",
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
    trained: Sequence[GridTraining], classes: Sequence[str], cohort: WeightingImages, settings: WeightingSettings
) -> tuple[list[float], list[Interval]]:
    """Mean recall over splits of each class, and its interval."""
    metrics = [metrics_of(one, cohort) for one in trained]
    around = intervals_of(trained, cohort, settings)
    means = [float(np.mean([one[f"RE {name}"] for one in metrics])) for name in classes]
    return means, [around[f"RE {name}"] for name in classes]


def attention_rows(work: Work, figure: str) -> list[AttendedImage]:
    """Maps of one judged image of each class, by the hierarchical networks of `settings.show.rows` on split 1."""
    settings, cohort, hard = work.settings, work.value("cohort"), figure == "3"
    classes = settings.show.hard if hard else settings.show.easy
    wanted = [name.strip() for name in settings.show.rows.split(",")]
    there = {cell.row: cell for cell in shown_cells(settings, figure) if work.has(step_name(cell))}
    shown = {name: trained(work, there[name]) for name in wanted if name in there}
    if not shown:
        return []
    picked = {name: choose_image(shown, cohort.classes.index(name), settings.seed, hard) for name in classes}
    chosen = {name: image for name, image in picked.items() if image is not None}
    images = list(chosen.values())
    maps = {name: last_attention(one, settings, cohort, images) for name, one in shown.items()}
    pictures = pictures_of(settings, cohort, images)
    return [
        AttendedImage(
            f"{PRINTED_CLASSES.get(label, label)}\n{image}",
            pictures[place],
            {name: maps[name][place] for name in shown},
        )
        for place, (label, image) in enumerate(chosen.items())
    ]


def choose_image(shown: Mapping[str, GridTraining], target: int, seed: int, hard: bool) -> str | None:
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


def selection_note(hard: bool) -> str:
    """How the images of Figures 3 and 4 were chosen."""
    how = (
        "one image of each class by chance among those that some of the networks got right and some wrong, if any"
        if hard
        else "one image of each class by chance among those that most of the networks got right"
    )
    return (
        f"Judged images of split 1, {how}. Under the maps: what was called. Each map is stretched to its own range; a "
        "black one is 0 everywhere."
    )


def last_attention(
    trained: GridTraining, settings: WeightingSettings, cohort: WeightingImages, images: Sequence[str]
) -> list[Attended]:
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


def pictures_of(settings: WeightingSettings, cohort: WeightingImages, images: Sequence[str]) -> np.ndarray:
    """Images as the networks see them, uint8 (n, px, px, 3)."""
    batches = predict_image_batches(cohort.cache, images, settings.network.input_px, settings.training.batch)
    return np.concatenate([part["x"] for part in batches])


def pace_figure(work: Work) -> Figure:
    """How many samples of a batch take part in each epoch (equation 9), and where weights were logged, how many did."""
    settings, training = work.settings, work.settings.training
    lengths = {"flat": training.flat_epochs}
    if settings.transfer is None:
        lengths["hierarchical"] = training.hierarchical_epochs
    figure = blank_figure(5.2 * len(lengths), 3.6)
    for axis, (network, epochs) in zip(
        figure.subplots(1, len(lengths), squeeze=False)[0], lengths.items(), strict=True
    ):
        epoch = np.arange(epochs)
        m = np.asarray(taking_part(training.batch, pace(epoch, epochs, training.batch, settings.rules.full_from)))
        axis.step(epoch, m, where="post", color=COLOURS[1], label=f"m of a full batch, M = {training.batch}")
        axis.axhline(training.batch, color="0.6", linewidth=0.8, linestyle=(0, (4, 3)))
        counted = logged_counts(work, network)
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


def logged_counts(work: Work, network: str) -> pd.DataFrame:
    """Samples that took part in logged full batches of SPL and OHEM trainings: columns epoch, kept."""
    rows, batch = [], work.settings.training.batch
    for cell in shown_cells(work.settings, "pace"):
        if cell.network != network or not work.has(step_name(cell)):
            continue
        steps_per_epoch = -(-len(work.value(split_name(cell.split)).train) // batch)
        for path in sorted(weight_log(work.run.folder, cell.name).glob("step_*.csv")):
            weights = pd.read_csv(path)
            if len(weights) == batch:
                epoch = int(path.stem.partition("_")[2]) // steps_per_epoch
                rows.append({"epoch": epoch, "kept": float(weights["curriculum"].sum())})
    return pd.DataFrame(rows, columns=["epoch", "kept"])
