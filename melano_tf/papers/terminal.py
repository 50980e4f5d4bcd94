"""What every recipe says first and last."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from melano_tf.reports.html import write_report
from melano_tf.workspace import Run

Say = Callable[[str], None]


def announce(
    about: str, drawn: str | None, settings: Any, differing: Sequence[tuple[str, object, object]], say: Say
) -> None:
    """Say what this is, which preset, on what data, and every setting that differs from the paper's.

    Args:
        about: the recipe and its subject, in one line.
        drawn: "slides" or "images" where these are phantoms; None for a user's own.
        settings: their `preset` and `seed` are said.
        differing: (name, here, in the paper).
        say: shows a line.
    """
    say(f"{about}. Research only.")
    if drawn is not None:
        say(f"These are PHANTOMS: {drawn} drawn by this program. Their numbers say nothing of real skin.")
    colon = ":" if differing else ""
    say(f"preset {settings.preset}, seed {settings.seed}; {len(differing)} settings differ from the paper's{colon}")
    for name, here, paper in differing:
        say(f"  {name:<28} {here}  (paper: {paper})")


def finish(run: Run, say: Say, written: Sequence[Path], found: Iterable[str] = (), models: str = "") -> Path:
    """Say what was done, what was kept from before, what was found, and where it lies; write the report.

    Args:
        run: the open run.
        say: shows a line.
        written: files that this call made.
        found: lines with the main results.
        models: which models are there and what takes them; "" where none is.

    Returns:
        The run's folder.
    """
    run.made(written)
    run.note(durations=run.durations())
    kept = len(set(run.kept) - set(run.repeated))  # what is made once and asked for again was not kept from before
    say("")
    say(f"did {len(run.repeated)} steps" + (f", kept {kept} finished ones from before" if kept else ""))
    for line in found:
        say(line)
    for folder in dict.fromkeys(path.parent for path in written):
        names = [path.name for path in written if path.parent == folder]
        say(f"{folder.name:<8}  {folder} ({len(names)} files)")
    if models:
        say(f"models    {run.folder / 'models'} ({models})")
    say(f"record    {run.folder / 'run.json'}")
    write_report(run.folder, say)
    return run.folder
