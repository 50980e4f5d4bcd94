"""The third step: black edges are removed in the clusters that have them (section "Pre-processing")."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from melano_tf.dermoscopy.black_borders import BorderSettings, find_border
from melano_tf.papers.shell import Work
from melano_tf.papers.similarity.clusters import clusters_of
from melano_tf.pipelines.image_cache import ImageCache
from melano_tf.pipelines.replaced_images import EditedCache, stored, write_cropped
from melano_tf.training.fit import write_frame

EDGES = "edges"  # the step
PUBLISHED = 3506  # images that the paper processed
BOX = ("left", "top", "right", "bottom")


@dataclass(frozen=True)
class Edges:
    """What was found and removed.

    Attributes:
        cache: the images, with those that were processed replaced.
        found: one row a looked-at image: image_id, row (in the cache), source, cluster, found (a black edge), reason,
            left, top, right, bottom (px of the stored image), removed, aspect (of what is left).
    """

    cache: ImageCache
    found: pd.DataFrame

    def line(self) -> str:
        """How many were looked at and processed, and what the paper processed."""
        removed, with_edges = int(self.found["removed"].sum()), int(self.found["found"].sum())
        clusters = self.found[self.found["removed"]].groupby("source")["cluster"].nunique()
        of = ", ".join(f"{count} clusters of {source}" for source, count in clusters.items()) or "no cluster"
        return (
            f"edges     {with_edges:,} of {len(self.found):,} images have a black edge; removed from {removed:,} of "
            f"{of} (the paper: {PUBLISHED:,} of BCN)"
        )


def remove_edges(work: Work) -> list[Path]:
    """Look for black edges, and remove them in clusters where enough images have one."""
    settings, cohort, clusters = work.settings, work.value("cohort"), clusters_of(work)
    sources = cohort.records["source"].to_numpy()[clusters.places]
    looked = np.isin(sources, settings.edges.sources)
    rows = cohort.cache.rows(cohort.names(clusters.places[looked]))
    with tqdm(total=len(rows), desc="looking for black edges", unit="image", leave=False) as bar:
        found = look(cohort.cache, rows, bar.update)
    image_ids = cohort.names(clusters.places[looked])
    found = found.assign(image_id=image_ids, source=sources[looked], cluster=clusters.cluster[looked])
    share = found.groupby(["source", "cluster"])["found"].transform("mean") if len(found) else found["found"]
    found["removed"] = found["found"] & (share >= settings.edges.share)
    removed = found[found["removed"]]
    boxes = dict(zip(removed["row"], removed[list(BOX)].itertuples(index=False, name=None), strict=True))
    pixels, aspects = write_cropped(cohort.cache, boxes, work.path("edges", "pixels.npy"))
    found["aspect"] = cohort.cache.aspects[found["row"].to_numpy(np.int64)]
    found.loc[found["removed"], "aspect"] = np.array(aspects, np.float32)
    return [pixels, write_frame(work.path("edges", "edges.csv"), found)]


def edges_of(work: Work) -> Edges:
    """What was found and removed, from its files; said once."""

    def read() -> Edges:
        types = {"image_id": str, "reason": str, "found": bool, "removed": bool}
        found = pd.read_csv(work.path("edges", "edges.csv"), dtype=types)
        removed = found[found["removed"]]
        cropped = work.path("edges", "pixels.npy")
        cache = EditedCache(work.value("cohort").cache, removed["row"].tolist(), cropped, removed["aspect"].tolist())
        edges = Edges(cache, found)
        work.say(edges.line())
        return edges

    return work.once(EDGES, read)


def look(cache: ImageCache, rows: np.ndarray, progress: Callable[[int], object]) -> pd.DataFrame:
    """What `find_border` says of stored images: row, found, reason, left, top, right, bottom."""
    lines = []
    chosen = BorderSettings()
    for part, pixels in stored(cache, rows):
        for row, image in zip(part, pixels, strict=True):
            border = find_border(image, chosen)
            lines.append((int(row), border.found, border.reason, *border.box))
        progress(len(part))
    return pd.DataFrame(lines, columns=["row", "found", "reason", *BOX]).astype({"found": bool})
