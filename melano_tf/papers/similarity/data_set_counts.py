"""What the data set holds and what the partition holds: Tables 1 to 3 and Figure 3, from tables
alone; and Table 5, from the partition."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from melano_tf.dermoscopy.image_files import ImageHeader, read_image
from melano_tf.reports.curve_figures import COLOURS
from melano_tf.reports.figures import blank_figure
from melano_tf.reports.published_numbers import load_published
from melano_tf.reports.tables import count_table

ALL = "all"
SOURCES = {"HAM": "HAM", "BCN": "BCN", "MSK": "MSK", "unnamed": "unk"}  # ours -> the paper's word
# Sites as the metadata write them -> Table 2's columns; the four below the line are named in the text only.
SITES = {
    "head/neck": "HN",
    "anterior torso": "A",
    "posterior torso": "P",
    "lower extremity": "Lo",
    "upper extremity": "Up",
    "palms/soles": "palms/soles",
    "oral/genital": "oral/genital",
    "lateral torso": "lateral torso",
}
NO_SITE, OTHER_SITE = "no site", "other site"
MAIN_SITES = ("HN", "A", "P", "Lo", "Up")
TITLES = {
    1: "Table 1: images of each class and source",
    2: "Table 2: images of each class and anatomical site",
    3: "Table 3: resolution of the images of each source",
    5: "Table 5: training, validation and test parts",
}


def counted(columns: Sequence[str], rows: Sequence[str]) -> dict[str, dict[str, int]]:
    """{column: {row: images}} of two names an image, (n,) each, with the row "all"."""
    frame = pd.crosstab(pd.Series(list(rows), name="row"), pd.Series(list(columns), name="column"))
    found = {str(c): {str(r): int(frame.loc[r, c]) for r in frame.index} for c in frame.columns}
    return {column: {**part, ALL: sum(part.values())} for column, part in found.items()}


def filled(
    counts: Mapping[str, Mapping[str, int]], columns: Sequence[str], rows: Sequence[str]
) -> dict[str, dict[str, int]]:
    """The same with a 0 where a row or column holds nothing."""
    return {column: {row: counts.get(column, {}).get(row, 0) for row in (*rows, ALL)} for column in columns}


def source_table(records: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Table 1: counts of class and source; `records` are all labelled rows."""
    counts = counted([SOURCES[name] for name in records["source"]], records["label"].tolist())
    return count_table(filled(counts, list(SOURCES.values()), classes), load_published("similarity"), 1)


def site_names(records: pd.DataFrame) -> list[str]:
    """Table 2's word for the site of each image."""

    def name(written: object) -> str:
        if not isinstance(written, str) or not written.strip() or written.strip().casefold() == "unknown":
            return NO_SITE
        return SITES.get(" ".join(written.casefold().split()), OTHER_SITE)

    return [name(written) for written in records["site_written"]]


def site_table(records: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Table 2: counts of class and site."""
    sites = site_names(records)
    columns = [*SITES.values(), *([OTHER_SITE] if OTHER_SITE in sites else []), NO_SITE]
    counts = filled(counted(sites, records["label"].tolist()), columns, classes)
    return count_table(counts, load_published("similarity"), 2)


def resolution_table(records: pd.DataFrame, headers: Mapping[str, ImageHeader], most: int = 12) -> pd.DataFrame:
    """Table 3: counts of resolution and source, of the files that are there; the rarest resolutions together."""
    there = records[records["image_id"].isin(list(headers))]
    sizes = pd.Series([f"{headers[name].width} x {headers[name].height}" for name in there["image_id"]], dtype=object)
    often = sizes.value_counts(sort=True)
    often = often.sort_index().sort_values(ascending=False, kind="stable")
    kept = list(often.index[:most])
    others = f"{len(often) - most} others"
    rows = [size if size in kept else others for size in sizes]
    names = [*kept, *([others] if len(often) > most else [])]
    counts = counted([SOURCES[name] for name in there["source"]], rows)
    columns = [word for word in SOURCES.values() if word in counts]
    return count_table(filled(counts, columns, names), load_published("similarity"), 3, extra_rows=names)


def part_table(parts: Mapping[str, pd.Series], labels: pd.Series, classes: Sequence[str]) -> pd.DataFrame:
    """Table 5: images of each class in each part, of each partition.

    Args:
        parts: {"": part of each image by cluster, ", by lesion": …}: what stands behind a column's name -> part of
            each image ("training", "validation", "HAM test", …), or None for an image of no part.
        labels: class of each image.
        classes: all of them.
    """
    counts: dict[str, dict[str, int]] = {}
    for behind, part in parts.items():
        used = part.notna().to_numpy()
        found = counted(part[used].tolist(), labels[used].tolist())
        order: list[str] = [name for name in ("training", "validation") if name in found]
        order += sorted(set(found) - set(order), reverse=True)  # HAM before BCN
        counts |= {f"{name}{behind}": found[name] for name in order}
    return count_table(filled(counts, list(counts), classes), load_published("similarity"), 5)


def distribution_figure(records: pd.DataFrame, classes: Sequence[str], title: str) -> Figure:
    """Figure 3: classes on the five main sites, classes of the sources, and an example of each class."""
    figure = blank_figure(12.5, 6.6)
    grid = figure.add_gridspec(2, len(classes), height_ratios=(3, 1.6))
    half = len(classes) // 2
    by_site = counted(site_names(records), records["label"].tolist())
    by_source = counted([SOURCES[name] for name in records["source"]], records["label"].tolist())
    for axes, counts, columns, words in (
        (grid[0, :half], by_site, MAIN_SITES, "five main anatomical sites"),
        (grid[0, half:], by_source, tuple(SOURCES.values()), "sources"),
    ):
        axis = figure.add_subplot(axes)
        width = 0.8 / len(columns)
        for place, column in enumerate(columns):
            heights = [counts.get(column, {}).get(name, 0) for name in classes]
            at = np.arange(len(classes)) + (place - (len(columns) - 1) / 2) * width
            axis.bar(at, heights, width, label=column, color=COLOURS[(place + 1) % len(COLOURS)])
        axis.set_xticks(np.arange(len(classes)), classes, fontsize=8)
        axis.set_ylabel("images")
        axis.set_title(f"(a) classes and {words}", fontsize=10)
        axis.legend(fontsize=8)
        axis.grid(axis="y", alpha=0.3)
    there = records[records["path"].notna()].sort_values("image_id")
    for place, name in enumerate(classes):
        axis = figure.add_subplot(grid[1, place])
        axis.set_xticks([])
        axis.set_yticks([])
        own = there[there["label"] == name]
        if len(own):
            axis.imshow(read_image(own["path"].iloc[0]))
        axis.set_title(f"{'(b) ' * (place == 0)}{name}", fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure
