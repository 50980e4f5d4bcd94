"""Who saw whom: every judged case of a finished run against all that its model has seen, from the run's files alone.

What a training was fed stands in audit/<training>.parquet, written from inside its batches (`training.fed_cases`); who
is whose, and what is in each file, in audit/cases.parquet; which pairs are copies, in copies.csv. What belongs together
is found here again, and so is who is judged: by the record, and by what lies in predictions/.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from melano_tf.errors import InputError
from melano_tf.runs.file_integrity import mapping, read_frame, read_words
from melano_tf.runs.files_of_plan import Standing
from melano_tf.runs.judgements import judged_cases
from melano_tf.splits.disjoint_sides import shared_by, words
from melano_tf.splits.undivided_groups import alike_lines, case_groups

CASES = "cases"  # audit/cases.parquet is no training's record
UNRECORDED = "there is no record of what it was fed"
PAIR = ("image_1", "image_2", "kind")  # columns of copies.csv


@dataclass(frozen=True)
class Record:
    """What a training's record says.

    Attributes:
        fed, chose, judged: cases.
        after: {training that it stands on: why those whom that one saw may be judged; "" where they may not}.
        divided: why groups stand on two sides; "" where they may not.
    """

    fed: frozenset[str]
    chose: frozenset[str]
    judged: frozenset[str]
    after: Mapping[str, str]
    divided: str


@dataclass(frozen=True)
class Finding:
    """What was found of one training.

    Attributes:
        training: its name.
        counts: cases that it was fed, that chose for it, and that are judged.
        overlaps: who stands on two sides and may not, a line each.
        declared: the same where the run's settings or the paper want it so, with the reason.
    """

    training: str
    counts: tuple[int, int, int] = (0, 0, 0)
    overlaps: tuple[str, ...] = ()
    declared: tuple[str, ...] = ()

    def line(self) -> str:
        """One line for a reader."""
        fed, chose, judged = self.counts
        numbers = f"{fed:,} cases fed, {chose:,} chose, {judged:,} judged"
        told = [f"OVERLAP: {one}" for one in self.overlaps] + [f"declared: {one}" for one in self.declared]
        return f"{self.training}: {numbers}: {'; '.join(told) or 'no overlap'}"


@dataclass(frozen=True)
class Audit:
    """What was found of a run.

    Attributes:
        findings: one a training.
        notes: what a reader must know beside them.
    """

    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def overlaps(self) -> list[Finding]:
        """Those with an overlap that nothing declares."""
        return [one for one in self.findings if one.overlaps]

    @property
    def declared(self) -> list[Finding]:
        """Those with an overlap that the settings or the paper declare."""
        return [one for one in self.findings if one.declared]

    def summary(self) -> str:
        """All of it in one line."""
        return (
            f"{len(self.findings)} trainings and choices: {len(self.overlaps)} with an overlap, "
            f"{len(self.declared)} with one that the paper or a setting declares"
        )


def audit_run(folder: Path, record: Mapping[str, Any]) -> Audit:
    """Compare who is judged with whom every model, and what it stands on, has seen.

    Args:
        folder: the run's folder.
        record: the content of run.json.

    Raises:
        InputError: a file of the record is damaged, or none of what lies there is known to be of the present plan.
    """
    folder, standing = Path(folder), Standing(folder, record)
    files = standing.of(sorted((folder / "audit").glob("*.parquet")))
    tables = {path.stem: read_frame(path) for path in files}
    cases = tables.pop(CASES, None)
    notes = [] if cases is not None else ["audit/cases.parquet is missing: cases stand for themselves"]
    pairs = _copies(standing, record.get("copies") or {})
    if pairs is None:
        notes.append("copies.csv is missing, and run.json counts copies: copies of an image stand for themselves")
    groups = {} if cases is None else case_groups(cases, pairs or ())
    if cases is not None:
        notes += alike_lines({kind: cases[kind] for kind in ("patient", "lesion")})
    records = {stem: _record(table) for stem, table in tables.items()}
    judged = judged_cases(folder, record)
    for stem in judged.keys() & records.keys():
        records[stem] = replace(records[stem], judged=records[stem].judged | judged[stem])
    found = [_compare(stem, records, groups) for stem in records]
    models = [path.stem for path in standing.of(sorted((folder / "models").glob("*.keras")))]
    missing = [stem for stem in dict.fromkeys([*judged, *models]) if stem not in records]
    found += [Finding(stem, (0, 0, len(judged.get(stem, ()))), (UNRECORDED,)) for stem in missing]
    if not found:
        _check_nothing_lies_there(folder)
    return Audit(tuple(found), tuple(notes))


def _check_nothing_lies_there(folder: Path) -> None:
    """Where nothing was found, nothing was trained yet.

    Raises:
        InputError: there are files, and none is known to be of the present plan.
    """
    files = [path for name in ("models", "predictions", "audit") for path in sorted((folder / name).glob("*"))]
    left = [path for path in files if path.name[0] != "." and path != folder / "audit" / f"{CASES}.parquet"]
    if not left:
        return
    if mapping(folder / "made.json"):
        first = left[0].relative_to(folder)
        why = f"none of {len(left):,} files ({first}, …) is of the run's present settings and data"
    else:
        why = "made.json, which tells a run's files from older ones, is missing or damaged"
    raise InputError(f"{folder}: nothing can be audited: {why}; give the run's command again")


def _compare(stem: str, records: Mapping[str, Record], groups: Mapping[str, str]) -> Finding:
    """One training against itself and against all that it stands on."""
    own, whole = records[stem], not records[stem].divided
    overlaps, declared = [], []

    def look(what: str, first: Iterable[str], second: Iterable[str], why: str) -> None:
        here, there = list(first), list(second)
        cases, all_groups = shared_by(groups, here, there, whole=False), shared_by(groups, here, there)
        if why or not whole:
            if cases and not why:
                overlaps.append(f"{what}: {words(cases)}")
            elif all_groups:
                declared.append(f"{what}: {words(all_groups)}, for {why or own.divided}")
        elif all_groups:
            overlaps.append(f"{what}: {words(all_groups)}")

    look("trained on and judged", own.fed, own.judged, "")
    look("chose and judged", own.chose, own.judged, "")
    look("trained on and chose", own.fed, own.chose, "")
    left, seen = list(own.after.items()), set()
    while left:
        name, why = left.pop()
        if (name, bool(why)) in seen:
            continue
        seen.add((name, bool(why)))
        if name not in records:
            overlaps.append(f"it stands on {name}, of which there is no record")
            continue
        up = records[name]
        look(f"seen by {name} and judged", up.fed | up.chose, own.judged, why)
        look(f"seen by {name} and chose", up.fed, own.chose, why)
        left += [(further, why or reason) for further, reason in up.after.items()]
    counts = (len(own.fed), len(own.chose), len(own.judged))
    return Finding(stem, counts, tuple(overlaps), tuple(declared))


def _record(table: pd.DataFrame) -> Record:
    def cases(role: str) -> frozenset[str]:
        return frozenset(table["case"][table["role"] == role])

    after, divided = table[table["role"] == "after"], table["why"][table["role"] == "divided"].tolist()
    stands_on = dict(zip(after["id"], after["why"], strict=True))
    return Record(cases("fed"), cases("chose"), cases("judged"), stands_on, divided[0] if divided else "")


def _copies(standing: Standing, counted: Mapping[str, Any]) -> list[tuple[str, str]] | None:
    """The pairs of copies; None where their table is lost.

    Args:
        standing: the run.
        counted: how many pairs of each kind run.json counts.

    Raises:
        InputError: the table is damaged.
    """
    path = standing.folder / "copies.csv"
    if not standing.holds(path):
        return None if counted else []
    pairs = read_words(path)
    if lacking := [name for name in PAIR if name not in pairs]:
        raise InputError(f"{path}: the columns {', '.join(lacking)} are missing; give the run's command again")
    cut_short = (pairs[list(PAIR)] == "").any(axis=None)
    if cut_short or (counted and pairs["kind"].value_counts().to_dict() != counted):
        raise InputError(f"{path}: is damaged: it holds other pairs than were found; give the run's command again")
    return list(zip(pairs["image_1"], pairs["image_2"], strict=True))
