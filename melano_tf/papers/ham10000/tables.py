"""The experiment's table: every strategy and the best cell, with intervals over lesions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from melano_tf.evaluation.intervals import ends_text, group_draws, percentile_interval
from melano_tf.evaluation.multiclass import class_metrics, decide, multiclass_intervals
from melano_tf.models.squares import shifted
from melano_tf.papers.ham10000.cohort import scores
from melano_tf.papers.ham10000.settings import CLASSES, METRICS, STRATEGIES, Settings
from melano_tf.runs.files import atomic
from melano_tf.runs.run import Run
from melano_tf.runs.sidecar import Sidecar
from melano_tf.runs.standing import Standing

BASE = "CEL"
NO_COLOUR = "Colours are as photographed: no colour constancy, which the paper's section 4.2 has."


@dataclass(frozen=True)
class Row:
    """One row of the table: `predictions` hold target and group of each image, `probabilities` (n, 7) what was said."""

    name: str
    split: int
    predictions: pd.DataFrame
    probabilities: np.ndarray


def rows_of(run: Run, settings: Settings) -> list[Row]:
    """A row of each thing that was trained with these settings, split by split; what was not is not there."""
    rows = []
    standing = Standing(run.folder, run.record())
    for split in settings.splits:
        for name in settings.strategies:
            path = run.folder / "predictions" / f"{STRATEGIES[name].name}-split-{split}.parquet"
            if standing.holds(path):
                table = pd.read_parquet(path)
                rows.append(Row(name, split, table, scores(table)))
        model = run.folder / "models" / f"ham10000-split-{split}.keras"
        if standing.holds(model):
            facts = Sidecar.read(model).run
            table = pd.read_parquet(run.folder / "predictions" / f"ham10000-split-{split}.parquet")
            mean = scores(table, "mean_")
            moved = shifted(mean, np.array(facts["factors"]))
            rows += [
                Row("best cell, upright pictures", split, table, scores(table, "one_")),
                Row("best cell, mean of mirror images", split, table, mean),
                Row(f"the same, shifted (power {facts['power']:g})", split, table, moved),
            ]
    return rows


def write_tables(run: Run, settings: Settings) -> str:
    """tables/ham10000.csv (one row a cell), ham10000.md, differences.csv and recall.csv; returns the Markdown."""
    text = ["| strategy | split | " + " | ".join(METRICS) + " |", "|---" * (2 + len(METRICS)) + "|"]
    cells, recalls = [], []
    rows = rows_of(run, settings)
    for row in rows:
        targets, groups = row.predictions["target"].to_numpy(), row.predictions["group"].tolist()
        found = multiclass_intervals(
            targets, row.probabilities, groups, CLASSES, repeats=settings.repeats, seed=settings.seed
        ).overall
        shown = [f"{one.value:.3f} ({one.ends(3)})" for one in (found[name] for name in METRICS)]
        text.append(f"| {row.name} | {row.split} | " + " | ".join(shown) + " |")
        for metric, one in found.items():
            numbers = {"value": one.value, "low": one.low, "high": one.high, "lesions": one.groups}
            cells.append({"strategy": row.name, "split": row.split, "metric": metric, **numbers})
        by_class = class_metrics(targets, row.probabilities, CLASSES)
        recalls.append({"strategy": row.name, "split": row.split} | {k: by_class[k]["RE"] for k in CLASSES})
    markdown = "\n".join(text) + f"\n\n{NO_COLOUR}\n"
    compared = differences(rows, settings.repeats, settings.seed)
    markdown += "\n" + difference_lines(compared)
    files = {
        "ham10000.csv": pd.DataFrame(cells).to_csv(index=False),
        "ham10000.md": markdown,
        "differences.csv": compared.to_csv(index=False),
        "recall.csv": pd.DataFrame(recalls).round(4).to_csv(index=False),
    }
    for name, content in files.items():
        with atomic(run.path("tables", name)) as temporary:
            temporary.write_text(content, encoding="utf-8")
    run.made_output((run.folder / "tables" / name for name in files), "ham10000", {})
    return markdown


def differences(rows: Sequence[Row], repeats: int, seed: int) -> pd.DataFrame:
    """Each strategy minus CEL on the same images, mean over splits: columns strategy, splits, metric, value, low, high.

    Intervals (95 %) are paired: both are judged on the same draws of lesions. They say what other lesions would change,
    not what another training would.
    """
    base = {row.split: row for row in rows if row.name == BASE}
    lines = []
    for name in dict.fromkeys(row.name for row in rows if row.name in STRATEGIES and row.name != BASE):
        pairs = [(base[row.split], row) for row in rows if row.name == name and row.split in base]
        if not pairs:
            continue
        found = [_resampled(row, repeats, seed) - _resampled(first, repeats, seed) for first, row in pairs]
        samples = np.mean(found, axis=0)  # (2, 1 + repeats), the first of them undrawn
        for metric, sample in zip(("Acc", "BAcc"), samples, strict=True):
            found_gap = percentile_interval(sample[0], sample[1:], 0.95, 0)
            numbers = {"metric": metric, "value": sample[0], "low": found_gap.low, "high": found_gap.high}
            lines.append({"strategy": name, "splits": len(pairs), **numbers})
    return pd.DataFrame(lines, columns=["strategy", "splits", "metric", "value", "low", "high"])


def _resampled(row: Row, repeats: int, seed: int) -> np.ndarray:
    """Accuracy and balanced accuracy, (2, 1 + repeats): of the images themselves, then of each draw of lesions."""
    targets = row.predictions["target"].to_numpy()
    right = (decide(row.probabilities) == targets).astype(np.float64)
    index, draws = group_draws(row.predictions["group"].tolist(), repeats, seed)
    weights = np.concatenate([np.ones((1, len(index))), draws[:, index]])
    recalls = []
    for place in np.unique(targets):
        held = weights[:, targets == place]
        count = held.sum(axis=1)
        recalls.append(
            np.divide(held @ right[targets == place], count, out=np.full(len(count), np.nan), where=count > 0)
        )
    return np.stack([weights @ right / weights.sum(axis=1), np.mean(recalls, axis=0)])


def difference_lines(table: pd.DataFrame) -> str:
    """The differences as Markdown."""
    text = [f"| minus {BASE}, mean over splits | Acc | BAcc |", "|---|---|---|"]
    for name in dict.fromkeys(table["strategy"]):
        part = table[table["strategy"] == name].to_dict("records")
        cells = [f"{one['value']:+.3f} ({_signed_ends(one['low'], one['high'])})" for one in part]
        text.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def _signed_ends(low: float, high: float) -> str:
    return f"{low:+.3f} to {high:+.3f}" if high > low else ends_text(low, high)
