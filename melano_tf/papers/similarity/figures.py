"""Figures 5 to 7 of the paper, and a picture of what each of the four steps did."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from melano_tf.dermoscopy.image_files import read_image
from melano_tf.evaluation.curves import precision_recall
from melano_tf.papers.shared_figures import saved
from melano_tf.papers.shell import Work
from melano_tf.papers.similarity import data_set_counts
from melano_tf.papers.similarity.black_edges import BOX, edges_of
from melano_tf.papers.similarity.clusters import clusters_of
from melano_tf.papers.similarity.partition import WORDS, parts_of
from melano_tf.papers.similarity.settings import BASELINE, SimilaritySettings
from melano_tf.papers.similarity.students import results_of
from melano_tf.reports.contact_sheet import contact_sheet
from melano_tf.reports.curve_figures import COLOURS
from melano_tf.reports.figures import blank_figure
from melano_tf.runs.predictions import probabilities
from melano_tf.runs.settings_digest import seed_for

CURVES = {"BCC": "#d62728", "SCC": "#2ca02c", "MEL": "#1f77b4", "NV": "#000000"}  # Figures 6 and 7: the paper's colours
TESTS = {6: "HAM test", 7: "BCN test"}
SHOWN = 4  # pictures of a source
MOST_UPRIGHT = 18  # labels of clusters that fit side by side


def title(what: str, settings: SimilaritySettings) -> str:
    """Of a figure, with the word PHANTOM where it belongs."""
    return what if settings.table else f"{what} (PHANTOM images)"


def draw_distribution(work: Work) -> list[Path]:
    """Figure 3: classes, sites and sources."""
    cohort, heading = work.value("cohort"), title("Figure 3: what the data set holds", work.settings)
    return saved(work, "figure3", data_set_counts.distribution_figure(cohort.everything, cohort.classes, heading))


def draw_resize(work: Work) -> list[Path]:
    """Step 1: files as they are, and as every later step sees them."""
    cohort = work.value("cohort")
    sources = [source for source in dict.fromkeys(cohort.records["source"]) if len(cohort.of((source,)))]
    figure = blank_figure(2.1 * 2 * SHOWN, 2.3 * len(sources) + 0.6)
    grid = figure.subplots(len(sources), 2 * SHOWN, squeeze=False)
    for line, source in zip(grid, sources, strict=True):
        places = cohort.of((source,))[:SHOWN]
        pixels = cohort.cache.pixels(cohort.cache.rows(cohort.names(places)))
        for column, axis in enumerate(line):
            axis.set_axis_off()
            place = column // 2
            if place >= len(places):
                continue
            picture = pixels[place]
            if column % 2 == 0:
                picture = read_image(cohort.records["path"].iloc[places[place]])
            axis.imshow(picture)
            axis.set_title(f"{source} {picture.shape[1]} x {picture.shape[0]}", fontsize=8)
    figure.suptitle(title("Step 1: resize, before and after", work.settings), fontsize=11)
    return saved(work, "step1-resize", figure)


def draw_rounds(work: Work) -> list[Path]:
    """Step 2: how much the assignments of successive epochs agree, and the clusters' sizes."""
    rounds = clusters_of(work).rounds
    figure = blank_figure(10, 3.8)
    left, right = figure.subplots(1, 2)
    left.plot(rounds["epoch"], rounds["nmi"], ".-", color=COLOURS[1])
    left.set_ylabel("NMI with the epoch before")
    left.set_ylim(0, 1)
    sizes = np.sort(rounds[[name for name in rounds if str(name).startswith("size_")]].to_numpy(float), axis=1)
    for column in range(sizes.shape[1]):
        right.plot(rounds["epoch"], sizes[:, column], color=COLOURS[1], alpha=0.5, linewidth=1)
    right.set_ylabel("images in a cluster (sorted)")
    right.set_ylim(0)
    for axis in (left, right):
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title("Step 2: similarity clustering", work.settings), fontsize=11)
    return saved(work, "step2-clusters", figure)


def draw_sheets(work: Work) -> list[Path]:
    """Figure 5: of each source a sheet, a line a cluster, its images drawn at random."""
    settings, cohort, clusters = work.settings, work.value("cohort"), clusters_of(work)
    written = []
    sources = cohort.records["source"].to_numpy()[clusters.places]
    for source in settings.cluster.sources:
        own = np.flatnonzero(sources == source)
        if not len(own):
            continue
        rng = np.random.default_rng(seed_for(settings.seed, "sheet", source))
        images: list[np.ndarray] = []
        words: list[str] = []
        for number in sorted(set(clusters.cluster[own])):
            members = own[clusters.cluster[own] == number]
            drawn = np.sort(rng.choice(members, min(settings.evaluation.sheet, len(members)), replace=False))
            pixels = cohort.cache.pixels(cohort.cache.rows(cohort.names(clusters.places[drawn])))
            blank = np.full_like(pixels[0], 255)
            images += [*pixels, *[blank] * (settings.evaluation.sheet - len(drawn))]
            labels = cohort.records["label"].to_numpy()[clusters.places[drawn]]
            words += [f"{number}: {len(members)} | {labels[0]}", *labels[1:]]
            words += [""] * (settings.evaluation.sheet - len(drawn))
        path = work.path("figures", f"figure5-{source}.png")
        what = f"Figure 5: clusters of {source}, a line each: number: images | class"
        written.append(contact_sheet(images, words, settings.evaluation.sheet, path, title(what, settings)))
    return written


def draw_edges(work: Work) -> list[Path]:
    """Step 3: images with the box that is kept, and what is left; and the share with edges of each cluster."""
    settings, cohort, edges = work.settings, work.value("cohort"), edges_of(work)
    found = edges.found
    removed = found[found["removed"]].iloc[: 2 * SHOWN]
    figure = blank_figure(2.0 * 2 * SHOWN, 5.6 if len(removed) else 3.4)
    grid = figure.add_gridspec(2, 2 * SHOWN, height_ratios=(2, 1.6 if len(removed) else 12))
    for column, (_, row) in enumerate(removed.iloc[:SHOWN].iterrows()):
        place = np.array([row["row"]])
        for side, cache in enumerate((cohort.cache, edges.cache)):
            axis = figure.add_subplot(grid[0, 2 * column + side])
            axis.imshow(cache.pixels(place)[0])
            axis.set_axis_off()
            axis.set_title(("before", "after")[side], fontsize=8)
            if side == 0:
                left, top, right, bottom = (row[name] for name in BOX)
                box = Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor="#00a651")
                axis.add_patch(box)
    axis = figure.add_subplot(grid[1, :])
    shares = found.groupby(["source", "cluster"])["found"].agg(["mean", "size"]).reset_index() if len(found) else found
    if len(shares):
        names = [f"{source} {number}\n{size}" for source, number, _, size in shares.itertuples(index=False)]
        colours = [COLOURS[2] if share >= settings.edges.share else COLOURS[6] for share in shares["mean"]]
        axis.bar(np.arange(len(shares)), shares["mean"], color=colours)
        axis.set_xticks(np.arange(len(shares)), names, fontsize=7, rotation=90 if len(shares) > MOST_UPRIGHT else 0)
        axis.axhline(settings.edges.share, color="0.4", linewidth=1, linestyle="--")
        axis.set_ylim(0, 1)
    axis.set_ylabel("share with black edge")
    axis.set_xlabel("cluster, and its images", fontsize=8)
    figure.suptitle(title("Step 3: black-edge removal", settings), fontsize=11)
    return saved(work, "step3-edges", figure)


def draw_parts(work: Work) -> list[Path]:
    """Step 4: the share of each class in every part, and the parts' sizes, of each partition."""
    settings, cohort, parts = work.settings, work.value("cohort"), parts_of(work)
    splits = settings.chosen_splits()
    figure = blank_figure(6.6 * len(splits), 4.0)
    for axis, split in zip(figure.subplots(1, len(splits), squeeze=False)[0], splits, strict=True):
        part = parts.part(split)
        names = ["training", *parts.names(split)]
        start = np.zeros(len(names))
        for place, cls in enumerate(cohort.classes):
            own = [
                ((part == name) & (parts.records["label"] == cls)).sum() / max((part == name).sum(), 1)
                for name in names
            ]
            colour = f"C{place}"
            axis.bar(np.arange(len(names)), own, 0.7, bottom=start, label=cls, color=colour)
            start += own
        axis.set_xticks(np.arange(len(names)), [f"{name}\n{(part == name).sum():,}" for name in names], fontsize=8)
        axis.set_ylabel("share of the part")
        leaks = len(parts.leaks[split])
        axis.set_title(f"{WORDS[split]}: {leaks:,} lesions or copies in several parts", fontsize=10)
        axis.set_xlim(-0.6, len(names) + 0.6)
        axis.legend(fontsize=7, loc="center right")
    figure.suptitle(title("Step 4: data partitioning", settings), fontsize=11)
    return saved(work, "step4-partition", figure)


def draw_curves(work: Work, number: int) -> list[Path]:
    """Figure 6 or 7: precision and recall on the test of HAM or of BCN, a panel a combination; a file a partition."""
    settings, results, written = work.settings, results_of(work), []
    for split in settings.chosen_splits():
        own = {which.name: judged.of(TESTS[number]) for which, judged in results.items() if which.split == split}
        own = {name: rows for name, rows in own.items() if len(rows)}
        if len(own) < 2:
            continue
        what = f"Figure {number}: {TESTS[number]}, divided {WORDS[split]}"
        figure = curve_figure(own, work.value("cohort").classes, title(what, settings))
        written += saved(work, f"figure{number}" + ("" if split == "cluster" else f"-{split}"), figure)
    return written


def curve_figure(judged: Mapping[str, pd.DataFrame], classes: Sequence[str], heading: str) -> Figure:
    """One panel a combination; solid: with attention transfer, dotted: the baseline; a colour a class.

    The curves are interpolated after Davis and Goadrich, as the paper asks for and straight lines would not be.

    Args:
        judged: {network: predictions}, among them the baseline.
        classes: of the predictions.
        heading: of the figure.
    """
    students = [name for name in judged if name != BASELINE]
    columns = min(3, len(students))
    lines = -(-len(students) // columns)
    figure = blank_figure(4.4 * columns + 0.3, 4.4 * lines + 0.9)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for place, (axis, name) in enumerate(zip(axes, students, strict=False)):
        _curves(axis, judged[name], judged[BASELINE], classes)
        axis.set_title(f"({chr(ord('a') + place)}) layers {name}", fontsize=10)
    for axis in axes[len(students) :]:
        axis.set_axis_off()
    figure.suptitle(heading, fontsize=11)
    figure.supxlabel("AP: average precision with / without attention transfer (n: images of the class)", fontsize=8)
    return figure


def _curves(axis: Axes, ours: pd.DataFrame, baseline: pd.DataFrame, classes: Sequence[str]) -> None:
    handles = []
    for cls, colour in CURVES.items():
        index = list(classes).index(cls)
        found = []
        for rows, style in ((ours, "-"), (baseline, ":")):
            y = (rows["target"] == index).to_numpy(int)
            curve = precision_recall(y, probabilities(rows)[:, index])
            axis.plot(*curve.line(), style, color=colour, linewidth=1.5)
            found.append(curve.average_precision)
        words = f"{cls} (n {y.sum()}): " + (" / ".join(f"{value:.3f}" for value in found) if y.sum() else "none")
        handles.append(Line2D([], [], color=colour, label=words))
    axis.legend(handles=handles, fontsize=7.5, loc="best", title="AP", title_fontsize=7.5, framealpha=0.6)
    axis.set_xlabel("recall")
    axis.set_ylabel("precision")
    axis.set_xlim(-0.01, 1.01)
    axis.set_ylim(-0.01, 1.01)
    axis.set_aspect("equal")
    axis.grid(alpha=0.3)
