"""What readers wrote of a run's cases, and how well they agree with its models, with the truth and with each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from melano_tf.evaluation.binary_metrics import format_value
from melano_tf.evaluation.interval import ends_text
from melano_tf.evaluation.reader_agreement import kappa_interval
from melano_tf.runs.judgements import Judgement
from melano_tf.runs.reader_notes import BLIND, OPEN, case_contents, last_notes, of_cohort, read_notes

TRUTH = "the label"
UNSURE = "unsure"
MOST_NOTES = 60
FEWEST = 2  # cases that both read


@dataclass(frozen=True)
class Agreement:
    """Two readings of the same cases.

    Attributes:
        first, second: readers, models or the label.
        cases, groups: cases that both read (a reader's "unsure" counts as not read), and their patients or lesions.
        same: share of cases called alike.
        kappa: Cohen's, and its interval, in words.
    """

    first: str
    second: str
    cases: int
    groups: int
    same: str
    kappa: str

    @property
    def cells(self) -> tuple[str, str, int, int, str, str]:
        """As a row of a table."""
        return self.first, self.second, self.cases, self.groups, self.same, self.kappa


@dataclass(frozen=True)
class Readers:
    """The readers' part of a report.

    Attributes:
        agreements: blind readings against models, the label and each other.
        open_notes: (reader, case, verdict, text, model and what it called), the last one of each reader and case, the
            newest first.
        total: open notes in all.
        unsure: {reader: blind cases called unsure}.
        cohort: lines on notes that are of another cohort, or do not say.
    """

    agreements: Sequence[Agreement] = ()
    open_notes: Sequence[tuple[str, str, str, str, str]] = ()
    total: int = 0
    unsure: Mapping[str, int] | None = None
    cohort: Sequence[str] = ()


def readers(folder: Path, judgements: Sequence[Judgement], seed: int = 0) -> Readers:
    """The notes in a run's folder.

    Args:
        folder: the run's.
        judgements: what its models said of the cases that are judged.
        seed: of the intervals' draws.
    """
    own, others_notes = of_cohort(folder, read_notes(folder))
    notes = last_notes(own)
    blind = notes[notes["mode"] == BLIND]
    said = {
        str(reader): dict(zip(rows["case"], rows["verdict"], strict=True))
        for reader, rows in blind[blind["verdict"] != UNSURE].groupby("reader")
    }
    counted = blind[blind["verdict"] == UNSURE]["reader"].value_counts()
    unsure = {str(reader): int(count) for reader, count in counted.items()}
    others, groups = _others(judgements)
    pairs = [(reader, other) for reader in said for other in others] + list(combinations(said, 2))
    answers = {**others, **said}
    found = [_agreement(one, other, answers, groups, seed) for one, other in pairs]
    remarks = notes[notes["mode"] == OPEN].sort_values("time", ascending=False, kind="stable")
    shown = [
        (*(row[name] for name in ("reader", "case", "verdict", "text")), f"{row['model']}: {row['called']}".strip(": "))
        for row in remarks.head(MOST_NOTES).to_dict("records")
    ]
    lines = cohort_lines(len(others_notes), int((own["content"] == "").sum()) if case_contents(folder) else 0)
    return Readers([one for one in found if one is not None], shown, len(remarks), unsure, lines)


def cohort_lines(other: int, unsaid: int) -> list[str]:
    """What is said of notes on another cohort's cases, and of those that do not say."""
    lines = []
    if other:
        lines.append(f"Left out, of cases of another cohort in this folder: {other:,} note{'s' * (other > 1)}.")
    if unsaid:
        lines.append(
            f"An earlier version wrote {unsaid:,} note{'s' * (unsaid > 1)} that do not say of which file they are; "
            "they count as this cohort's."
        )
    return lines


def _others(judgements: Sequence[Judgement]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """{the label, or a model: {case: class}}, and the group of each case."""
    others: dict[str, dict[str, str]] = {}
    groups: dict[str, str] = {}
    for one in judgements:
        if not one.classes or "tile" in one.frame:
            continue
        names = np.array(one.classes, dtype=object)
        cases = one.frame["case"].tolist()
        truth = dict(zip(cases, names[one.frame["target"]], strict=True))
        others[TRUTH] = {**truth, **others.get(TRUTH, {})}
        others[one.name] = dict(zip(cases, names[one.frame["called"]], strict=True))
        groups |= dict(zip(cases, one.frame["group"], strict=True))
    return others, groups


def _agreement(
    first: str, second: str, answers: Mapping[str, Mapping[str, str]], groups: Mapping[str, str], seed: int
) -> Agreement | None:
    """How two agree on the cases that both read; None where there are too few."""
    one, other = answers[first], answers[second]
    cases = sorted(set(one) & set(other))
    if len(cases) < FEWEST:
        return None
    read = pd.DataFrame({"one": [one[case] for case in cases], "other": [other[case] for case in cases]})
    whose = [groups.get(case, case) for case in cases]
    found = kappa_interval(read["one"].tolist(), read["other"].tolist(), whose, seed=seed)
    ends = ends_text(found.low, found.high)
    same = f"{(read['one'] == read['other']).mean():.3f}"
    return Agreement(first, second, len(cases), len(set(whose)), same, f"{format_value(found.value)} ({ends})")
