"""`compare`: several runs in one table, with paired bootstrap differences on the test cases that they share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import tyro

from melano_tf.errors import InputError
from melano_tf.evaluation.binary_metrics import format_value
from melano_tf.evaluation.interval import DELONG, METHODS, WIDER, WILSON, ends_text
from melano_tf.evaluation.paired_differences import Answer, Paired, paired_intervals
from melano_tf.reports.table_layout import aligned
from melano_tf.runs import journal
from melano_tf.runs.atomic_files import atomic, write_csv
from melano_tf.runs.file_integrity import mapping
from melano_tf.runs.judgements import Judgement, read_judgements, read_record
from melano_tf.runs.settings_digest import flat
from melano_tf.splits.undivided_groups import joined_groups

LABELS = {"AUC": "ROC AUC", "BACC": "balanced accuracy", "ACC": "accuracy"}
ASIDE = ("out", "workers", "threads", "cache", "cache_mib", "tables", "figures", "steps")
FILES = ("comparison.csv", "comparison.md")


@dataclass(frozen=True)
class CompareSettings:
    """Several finished runs in one table: each model's test numbers on the cases that all runs tested, and its
    difference from the first run's, with intervals by patient (or lesion); the differences' from the same resamples."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of finished runs; the others are compared with the first one."""
    out: Path | None = None
    """Folder for comparison.csv and comparison.md. Not given: the tables are only shown."""
    repeats: int = 2000
    """Bootstrap resamples of patients (or lesions) behind each interval."""
    level: float = 0.95
    """Coverage of the intervals."""
    seed: int = 0
    """Of the resamples."""


@dataclass(frozen=True)
class OneRun:
    """A run: what it is called here, its settings on one level, its models, and its input files' checksums by name."""

    name: str
    settings: Mapping[str, Any]
    models: Mapping[str, Judgement]
    files: Mapping[str, frozenset[str]]


def compare(settings: CompareSettings, say: Callable[[str], None]) -> pd.DataFrame:
    """Show the comparison, and write it where a folder is given; returns one row a model, run and metric.

    Raises:
        InputError: fewer than two runs, or nothing that can be compared.
    """
    if len({Path(folder).resolve() for folder in settings.runs}) < max(2, len(settings.runs)):
        raise InputError("compare: name at least two runs, each once: compare runs/a runs/b")
    if settings.repeats < 1 or not 0 < settings.level < 1:
        raise InputError("compare: --repeats is at least 1, and --level lies between 0 and 1")
    if settings.seed < 0:
        raise InputError(f"compare: --seed {settings.seed}: 0 or more")
    if settings.out is not None:
        journal.check_free(settings.out, *FILES)
    runs = read_runs(settings.runs)
    frames, texts, reasons = [], [difference_text(runs)], []
    for name in models_of_all(runs):
        try:
            frame, warnings = compare_model(name, runs, settings)
        except InputError as error:
            reasons.append(str(error))
            continue
        frames.append(frame)
        texts.append(table_text(name, frame, runs, warnings))
    if not frames:
        raise InputError("compare: " + "; ".join(reasons))
    texts += [f"{reason} (left out)" for reason in reasons] + [notes(settings)]
    text = "\n\n".join(part for part in texts if part)
    say(text)
    whole = pd.concat(frames, ignore_index=True)
    if settings.out is not None:
        for path in write(settings.out, whole, text):
            say(f"wrote {path}")
    return whole


def read_runs(folders: Sequence[Path]) -> list[OneRun]:
    """The runs, named by their folders: by the last part where that tells them apart."""
    short = [Path(folder).resolve().name for folder in folders]
    names = short if len(set(short)) == len(short) else [str(folder) for folder in folders]
    runs = []
    for name, folder in zip(names, folders, strict=True):
        record = read_record(Path(folder))
        models = {one.name: one for one in read_judgements(Path(folder), record)}
        if not models:
            raise InputError(
                f"{folder}: holds no test predictions of its present settings; let the run finish (steps train and "
                "tables)"
            )
        settings = {"recipe": record["recipe"], **flat(record["settings"])}
        runs.append(OneRun(name, settings, models, checksums(Path(folder))))
    return runs


def checksums(folder: Path) -> dict[str, frozenset[str]]:
    """SHA-256 of a run's input files by their names without folder and suffix."""
    path = folder / "inputs.json"
    found: dict[str, set[str]] = {}
    for file, facts in mapping(path).items():
        if isinstance(facts, dict) and isinstance(facts.get("sha256"), str):
            found.setdefault(Path(file).stem, set()).add(facts["sha256"])
    return {stem: frozenset(sums) for stem, sums in found.items()}


def models_of_all(runs: Sequence[OneRun]) -> list[str]:
    """The models that every run has, in the first one's order."""
    shared = [name for name in runs[0].models if all(name in run.models for run in runs)]
    if not shared:
        held = "; ".join(f"{run.name} ({run.settings['recipe']}) holds {', '.join(run.models)}" for run in runs)
        raise InputError(f"compare: no model is in all runs: {held}")
    return shared


def compare_model(name: str, runs: Sequence[OneRun], settings: CompareSettings) -> tuple[pd.DataFrame, list[str]]:
    """One model of every run on the cases that all of them tested; and what a reader must be warned of.

    Raises:
        InputError: other classes, other cases, or cases whose truth differs.
    """
    models = [run.models[name] for run in runs]
    first = models[0]
    for run, model in zip(runs[1:], models[1:], strict=True):
        if (model.classes, model.scores.ndim) != (first.classes, first.scores.ndim):
            told = " and ".join(f"{one.name}: {', '.join(one.models[name].classes)}" for one in (runs[0], run))
            raise InputError(f"{name}: the classes differ ({told})")
        if unlike := [key for key in {**first.same, **model.same} if first.same.get(key) != model.same.get(key)]:
            raise InputError(f"{name}: {first.unit} of the same name are not the same ({unlike[0]} differs)")
    cases, warnings = common_cases(name, runs)
    parts = [model.frame.set_index("case").loc[cases] for model in models]
    for run, part in zip(runs[1:], parts[1:], strict=True):
        apart = (part["target"] != parts[0]["target"]).to_numpy()
        if apart.any():
            raise InputError(
                f"{name}: {runs[0].name} and {run.name} give {int(apart.sum())} cases another truth, for example "
                f"{cases[int(apart.argmax())]}"
            )
    groups = shared_groups([part["group"].tolist() for part in parts])
    picked = [model.frame["case"].searchsorted(cases) for model in models]
    answers = [
        Answer(model.scores[rows], part.get("called")) for model, part, rows in zip(models, parts, picked, strict=True)
    ]
    kept: dict[str, Any] = {"repeats": settings.repeats, "level": settings.level, "seed": settings.seed}
    found = paired_intervals(parts[0]["target"].to_numpy(), answers, groups, **kept)
    return as_frame(name, runs, len(cases), found), warnings


def common_cases(name: str, runs: Sequence[OneRun]) -> tuple[list[str], list[str]]:
    """The cases that all runs tested, sorted, and a warning where they tested different ones.

    Raises:
        InputError: there is none.
    """
    frames = [run.models[name].frame for run in runs]
    tested = [set(frame["case"]) for frame in frames]
    shared = set.intersection(*tested)
    # Phantoms of another seed bear the same names: a case is the same only where its file is.
    other = {case for case in shared if _unlike([run.files.get(case.partition("/")[0]) for run in runs])}
    cases, unit = sorted(shared - other), runs[0].models[name].unit
    counts = ", ".join(f"{run.name} {len(cases_of):,}" for run, cases_of in zip(runs, tested, strict=True))
    if not cases:
        why = f"; {len(other):,} have the same name but another file" if other else ""
        raise InputError(f"{name}: the runs were tested on no common {unit} ({counts}{why})")
    warnings = []
    if any(len(cases_of) > len(cases) for cases_of in tested):
        why = f"; {len(other):,} of the same name are other files" if other else ""
        warnings.append(
            f"WARNING: the runs were tested on different {unit} ({counts}{why}); compared on the {len(cases):,} that "
            "all of them tested"
        )
    return cases, warnings


def _unlike(sums: Sequence[frozenset[str] | None]) -> bool:
    known = [one for one in sums if one]
    return len(known) == len(sums) and not frozenset.intersection(*known)


def shared_groups(groups: Sequence[Sequence[str]]) -> list[str]:
    """Groups in which no two cases are divided that hang together in any run (copies may be joined in one alone)."""
    pairs: list[tuple[int, int]] = []
    for names in groups[1:]:
        first: dict[str, int] = {}
        pairs += [(first.setdefault(name, place), place) for place, name in enumerate(names)]
    return joined_groups(list(groups[0]), pairs)


def as_frame(name: str, runs: Sequence[OneRun], cases: int, found: Sequence[Paired]) -> pd.DataFrame:
    """One row a run and metric."""
    rows = []
    for run, paired in zip(runs, found, strict=True):
        for metric, own in paired.own.items():
            gap = paired.differences[metric] if paired.differences else None
            rows.append(
                {
                    **{"model": name, "run": run.name, "metric": metric, "cases": cases, "groups": own.groups},
                    **{"value": own.value, "low": own.low, "high": own.high},
                    **{"difference": gap.value if gap else None},
                    **{"difference_low": gap.low if gap else None, "difference_high": gap.high if gap else None},
                    **{"level": own.level, "repeats": own.repeats, "undefined": (gap or own).undefined},
                }
            )
    return pd.DataFrame(rows)


def table_text(name: str, frame: pd.DataFrame, runs: Sequence[OneRun], warnings: Sequence[str]) -> str:
    """One model's table to be read, its warnings above it."""
    metrics = list(dict.fromkeys(frame["metric"]))
    unit = runs[0].models[name].unit
    header = ["run", *(text for m in metrics for text in (LABELS[m], f"difference from {runs[0].name}"))]
    body = []
    for run in runs:
        line = [run.name]
        for metric in metrics:
            [row] = frame[(frame["run"] == run.name) & (frame["metric"] == metric)].to_dict("records")
            line.append(_text(row["value"], row["low"], row["high"], ""))
            gap = (row["difference"], row["difference_low"], row["difference_high"])
            line.append("–" if run is runs[0] else _text(*gap, "+"))
        body.append(line)
    title = f"# {name}: {frame['cases'].iloc[0]:,} {unit}, {frame['groups'].iloc[0]:,} groups"
    return "\n".join([title, "", *[line for words in warnings for line in (words, "")], *aligned(header, body)])


def _text(value: float, low: float, high: float, sign: str) -> str:
    def one(number: float) -> str:
        text = format_value(number)
        return sign + text if sign and number > 0 else text

    if not high > low:
        return f"{one(value)} ({ends_text(low, high)})"
    return f"{one(value)} ({one(low)} to {one(high)})"


def difference_text(runs: Sequence[OneRun]) -> str:
    """The settings in which the runs differ."""
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    rows = []
    for name in names:
        values = [str(run.settings.get(name, "not there")) for run in runs]
        if name not in ASIDE and len(set(values)) > 1:
            rows.append([name, *values])
    if not rows:
        return "The runs' settings do not differ."
    return "\n".join(["# Settings that differ", "", *aligned(["setting", *(run.name for run in runs)], rows)])


def notes(settings: CompareSettings) -> str:
    """How to read the tables."""
    return (
        f"In brackets: {settings.level:.0%} intervals by groups (patients or lesions). ROC AUC: {METHODS[DELONG]}; "
        f"accuracy: {METHODS[WILSON]}; balanced accuracy: {METHODS[WIDER]}. Differences: percentile bootstrap of "
        f"{settings.repeats:,} resamples, the same for all runs, so that they are paired; where all resamples agree, "
        "Wilson's upper end of none of the groups in either direction. They say "
        "what other patients would change, not another training; several comparisons are not corrected for. Networks "
        "of several folds are judged together, each case by the one that was not trained on it."
    )


def write(folder: Path, frame: pd.DataFrame, text: str) -> list[Path]:
    """Write comparison.csv and comparison.md; returns their paths."""
    journal.open_folder(folder)
    paths = [folder / name for name in FILES]
    write_csv(paths[0], frame)
    with atomic(paths[1]) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return paths
