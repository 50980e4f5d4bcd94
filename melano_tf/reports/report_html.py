"""`report.html`: one self-contained file of a finished run, made from the run's folder alone.

Nothing in it is fetched, by rule of its own content policy; all text from data is escaped by the template engine; the
same folder gives the same bytes.
"""

import fnmatch
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2

from melano_tf.errors import InputError
from melano_tf.reports.audit import Audit, audit_run
from melano_tf.reports.embedded_pictures import Album, Picture, Source, album
from melano_tf.reports.kept_pictures import KeptPictures
from melano_tf.reports.reader_tables import readers
from melano_tf.reports.run_contents import (
    MOST_ROWS,
    command_text,
    counts,
    durations,
    exclusions,
    is_phantom,
    models,
    read_tables,
)
from melano_tf.reports.run_figures import judged_pictures, training_pictures
from melano_tf.runs.atomic_files import atomic
from melano_tf.runs.files_of_plan import Standing
from melano_tf.runs.judgements import Judgement, read_judgements, read_record
from melano_tf.runs.settings_digest import flat

NAME = "report.html"
UNKNOWN: Mapping[str, Any] = {"paper": "", "asked": "", "method": (), "case": "cases", "pictures": ()}


def write_report(folder: Path, say: Callable[[str], None] = lambda line: None) -> Path:
    """Write the report of a finished run; returns its path.

    Args:
        folder: the run's folder; what of it is missing is missing in the report too.
        say: shows a line to the person at the terminal.

    Raises:
        InputError: the folder holds no run.
    """
    folder = Path(folder)
    record = read_record(folder)
    facts = {**UNKNOWN, "title": record["recipe"], **(record.get("report") or {})}
    standing = Standing(folder, record)
    judgements, faults = _judgements(folder, record)
    kept = KeptPictures(folder)
    sources = {
        "curves": _files(standing, "figures", facts, {"roc", "pr", "reliability"}, inside=True),
        "training": training_pictures(standing.of(sorted((folder / "history").glob("*.csv"))), kept),
        "figures": _files(standing, "figures", facts, {"roc", "pr", "reliability"}, inside=False),
        "maps": _files(standing, "maps", facts, set(), inside=False),
    }
    undrawn: list[tuple[str, str]] = []
    if not sources["curves"]:  # where the recipe draws none
        sources["curves"], undrawn = judged_pictures(judgements, int(record["settings"].get("seed", 0)), kept)
    kept.keep()
    pictures = album([source for name in ("curves", "figures", "maps", "training") for source in sources[name]])
    pictures.left_out += undrawn
    path = folder / NAME
    text = render(
        record=record,
        facts=facts,
        **_data(standing, record, facts, judgements),
        **_doing(standing, record),
        tables=read_tables(standing),
        sections={name: gallery(part, pictures) for name, part in sources.items()},
        album=pictures,
        faults=faults,
        audit=_audit(folder, record),
        readers=readers(folder, judgements, int(record["settings"].get("seed", 0))),
    )
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    size = path.stat().st_size / 1e6
    say(f"report    {path} ({len(pictures.pictures)} pictures inside, {size:.1f} MB)")
    return path


def render(**content: Any) -> str:
    """The template filled in; everything is escaped."""
    engine = jinja2.Environment(
        loader=jinja2.PackageLoader("melano_tf.reports", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return engine.get_template("report.html.j2").render(**content)


def _judgements(folder: Path, record: Mapping[str, Any]) -> tuple[list[Judgement], list[str]]:
    """The test predictions; a report is written without them where they cannot be read, and says so."""
    try:
        return read_judgements(folder, record), []
    except InputError as error:
        return [], [str(error)]


def _audit(folder: Path, record: Mapping[str, Any]) -> Audit:
    """Who saw whom; a report is written without it where its files cannot be read, and says so."""
    try:
        return audit_run(folder, record)
    except InputError as error:
        return Audit(notes=(str(error),))


def _files(standing: Standing, key: str, facts: Mapping[str, Any], names: set[str], *, inside: bool) -> list[Source]:
    """The pictures of a folder whose names begin with one of `names` (or with none of them), in the recipe's order."""
    found = []
    for path in standing.of(sorted((standing.folder / key).glob("*.png"))):
        if (path.stem.partition("-")[0] in names) == inside:
            place, words = words_for(path.stem, facts["pictures"])
            # Maps of one slide stay together.
            slide = path.stem.rpartition("-")[0] if key == "maps" else ""
            found.append((slide, place, path.name, Source(path.name, words, path)))
    return [source for *_, source in sorted(found, key=lambda item: item[:3])]


def words_for(name: str, pictures: Sequence[tuple[str, str]]) -> tuple[int, str]:
    """Place in the recipe's order, and words, of a picture by its name; behind all others without words."""
    fitting = ((place, words) for place, (match, words) in enumerate(pictures) if fnmatch.fnmatchcase(name, match))
    return next(fitting, (len(pictures), ""))


@dataclass(frozen=True)
class Gallery:
    """Pictures of a section, and (which, words) of several that show the same thing, said once."""

    pictures: Sequence[Picture]
    words: Sequence[tuple[str, str]]


def gallery(sources: Sequence[Source], pictures: Album) -> Gallery:
    """The pictures of these sources that are in the album."""
    shown = [pictures.pictures[source.name] for source in sources if source.name in pictures.pictures]
    alike: dict[str, list[str]] = {}
    for one in shown:
        alike.setdefault(one.words, []).append(one.name)
    repeated = {words: names for words, names in alike.items() if words and len(names) > 1}
    said = [(f"{len(names)} pictures, {_in_common(names)}", words) for words, names in repeated.items()]
    return Gallery([replace(one, said=one.words in repeated) for one in shown], said)


def _in_common(names: Sequence[str]) -> str:
    """How these names begin and end: "figure2-…-standin.png"."""
    first = _beginning(names)
    return f"{first}…{_beginning([name[len(first) :][::-1] for name in names])[::-1]}"


def _beginning(names: Sequence[str]) -> str:
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in same)


def _data(
    standing: Standing, record: Mapping[str, Any], facts: Mapping[str, Any], judgements: Sequence[Judgement]
) -> dict[str, Any]:
    left_out = exclusions(record)
    leaks = leaks_of(record.get("leaks") or {})
    return {
        "phantom": is_phantom(record, facts),
        "own_data": str(record["settings"].get(facts.get("data", ""), "")),
        "counts": counts(standing, record, facts, judgements),
        "excluded": left_out[:MOST_ROWS],
        "excluded_total": len(left_out),
        "leaks": leaks,
    }


def _doing(standing: Standing, record: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked and done: settings, commands, machine, durations, models."""
    grouped, steps = durations(standing, record)
    sessions, (cards, same) = list(record.get("sessions") or []), models(standing)
    return {
        "settings": flat(record["settings"]),
        "differs": record.get("differs"),
        "sessions": [
            {
                "started": session.get("started", ""),
                "command": command_text(session.get("command", [])),
                "environment": session.get("environment", {}),
            }
            for session in sessions
        ],
        "grouped": grouped,
        "steps": steps,
        "models": cards,
        "same_models": same,
        "older": (older := standing.older())[:MOST_ROWS],
        "older_total": len(older),
    }


def leaks_of(counted: Mapping[str, Any]) -> dict[str, int]:
    """{what stands on two sides: how many}, from counts by kind, or by partition and then by kind."""
    found: dict[str, int] = {}
    for name, count in counted.items():
        if isinstance(count, Mapping):
            found |= {f"{kind} (partition by {name})": number for kind, number in count.items()}
        else:
            found[name] = count
    return {kind: count for kind, count in found.items() if count}
