"""What a training was really fed, from inside its batches: ids that a kill does not lose, each with a right to it."""

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from melano_tf.errors import InputError
from melano_tf.runs import journal
from melano_tf.runs.atomic_files import atomic
from melano_tf.runs.file_integrity import read_frame
from melano_tf.runs.run_folder import Run
from melano_tf.splits.disjoint_sides import Sides
from melano_tf.splits.leaks import LeakError
from melano_tf.training.loop import Batches
from melano_tf.training.steps import Batch

Noted = Callable[[Iterable[Any]], Iterable[Any]]  # what batches (with "id") go through: `Fed.chose`, `Fed.also`
LOG = "fed.jsonl"  # beside the checkpoint
FED, CHOSE, JUDGED, AFTER, DIVIDED = "fed", "chose", "judged", "after", "divided"  # roles in a training's record


def unnoted(batches: Iterable[Any]) -> Iterable[Any]:
    """Batches by which nothing is trained nor chosen: nobody needs to know whom they held."""
    return batches


class Fed:
    """The ids that stood in a training's batches, each of whom must have that part.

    They are written to a log beside the checkpoint before a batch is given away, and read from there by a training that
    is taken up again. Of steps that the log lost with the machine's power the batches are read again, which are a pure
    function of the step.

    Args:
        stem: the training's name.
        sides: who has which part.
        folder: of the checkpoint; None: nothing is kept there.

    Raises:
        LeakError: while batches are given, somebody has no part.
    """

    def __init__(self, stem: str, sides: Sides, folder: Path | None) -> None:
        self.stem, self.sides, self.path = stem, sides, None if folder is None else Path(folder) / LOG
        self.steps = 0  # that the log holds
        self.ids: dict[str, dict[str, None]] = {FED: {}, CHOSE: {}}
        self._allowed = {FED: frozenset(sides.trains), CHOSE: frozenset(sides.held_out)}
        self._read()

    def batches(self, batches: Batches) -> "WatchedBatches":
        """The same batches, noted as they are given."""
        return WatchedBatches(batches, self)

    def chose(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Batches (with "id") by which something is chosen, noted as they are given."""
        for batch in batches:
            self.note(CHOSE, ids_of(batch))
            yield batch

    def also(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Batches (with "id") that a training looks at beside its steps, for example to cluster them; noted as fed."""
        for batch in batches:
            self.note(FED, ids_of(batch))
            yield batch

    def note(self, role: str, ids: Collection[str], step: int = -1) -> None:
        """Write down ids; of a batch with its global step.

        Raises:
            LeakError: one of them has no such part.
        """
        known, new = self.ids[role], []
        for name in ids:
            if name not in known:
                self.check(role, name)
                known[name] = None
                new.append(name)
        if new or step >= self.steps:
            self._append(json.dumps([role, step, new], ensure_ascii=False) + "\n")
        self.steps = max(self.steps, step + 1)

    def check(self, role: str, name: str) -> None:
        """Whoever is fed trains, and whoever chooses is held out.

        Raises:
            LeakError: it is not so.
        """
        if self.sides.case(name) not in self._allowed[role]:
            what = "was fed to" if role == FED else "chose for"
            raise LeakError(f"{self.stem}: {name} {what} the training, and has no such part in it")

    def frame(self) -> pd.DataFrame:
        """The training's record, columns role, id, case and why: who was fed, who chose, who is judged, after what."""
        sides = self.sides
        rows = [(role, name, sides.case(name), "") for role, names in self.ids.items() for name in sorted(names)]
        rows += [(JUDGED, case, case, "") for case in sorted(sides.judged)]
        rows += [(AFTER, stem, "", why) for stem, why in sorted(sides.after.items())]
        rows += [(DIVIDED, "", "", sides.divided)] if sides.divided else []
        return pd.DataFrame(rows, columns=["role", "id", "case", "why"], dtype="str")

    def write(self, run: Run) -> Path:
        """Write the record to audit/<training>.parquet; returns its path."""
        path = record_path(run, self.stem)
        with atomic(path) as temporary:
            self.frame().to_parquet(temporary)
        return path

    def _append(self, line: str) -> None:
        if self.path is None:
            return
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            journal.claim(self.path)
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def _read(self) -> None:
        """What an earlier session wrote; from a torn line on it is noted anew."""
        if self.path is None or not self.path.is_file():
            return
        content, whole = self.path.read_bytes(), 0
        for line in content.splitlines(keepends=True):
            try:
                role, step, ids = json.loads(line) if line.endswith(b"\n") else ("", 0, [])
                self.ids[role] |= dict.fromkeys(ids)
            except (ValueError, TypeError, KeyError):
                break
            if step > self.steps:
                break
            whole += len(line)
            self.steps = max(self.steps, step + 1)
        if whole < len(content):
            os.truncate(self.path, whole)


class WatchedBatches:
    """Batches whose ids are noted as they are given.

    Args:
        batches: the batches by global step.
        fed: where to.
    """

    def __init__(self, batches: Batches, fed: Fed) -> None:
        self.wrapped, self.fed = batches, fed

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch."""
        return self.wrapped.steps_per_epoch

    def from_step(self, step: int) -> Iterator[Batch]:
        """The batches from the global step `step` on."""
        self.catch_up(step)
        for at, batch in enumerate(self.wrapped.from_step(step), start=step):
            self.fed.note(FED, ids_of(batch), at)
            yield batch

    def catch_up(self, step: int) -> None:
        """Read the batches before `step` that a checkpoint covers and the log does not; without a log none.

        Raises:
            InputError: there is no such batch.
        """
        while self.fed.path is not None and self.fed.steps < step:
            first = self.fed.steps
            for at, batch in enumerate(self.wrapped.from_step(first), start=first):
                if at >= step:
                    break
                self.fed.note(FED, ids_of(batch), at)
            if self.fed.steps == first:
                raise InputError(f"{self.fed.path}: no batch of step {first}; remove its folder to train anew")


def ids_of(batch: Mapping[str, Any]) -> list[str]:
    """The ids in a batch as text."""
    names = np.asarray(batch["id"]).ravel().tolist()
    return [name if isinstance(name, str) else bytes(name).decode() for name in names]


def record_path(run: Run, stem: str) -> Path:
    """Where the record of a training lies."""
    return run.path("audit", f"{stem}.parquet")


def check_chain(run: Run, stem: str, sides: Sides) -> None:
    """Who judges here was seen by none of the trainings that this one stands on, nor by those behind them, and who
    chooses here was fed to none of them.

    Raises:
        LeakError: somebody was, or there is no record of one of them.
    """
    left, seen = [(name, name) for name in sides.after], set()
    while left:
        first, name = left.pop()
        if (first, name) in seen or sides.after[first]:
            continue
        seen.add((first, name))
        path = record_path(run, name)
        if not path.is_file():
            raise LeakError(f"{stem}: stands on {name}, of which there is no record of what it was fed ({path})")
        record = read_frame(path)
        fed, chose = (set(record["case"][record["role"] == role]) for role in (FED, CHOSE))
        sides.check_after(first, fed, chose)
        behind = record[record["role"] == AFTER]
        left += [(first, up) for up, why in zip(behind["id"], behind["why"], strict=True) if not why]


def record_choice(run: Run, choice: Fed) -> Path:
    """Write the record of a choice beside the trainings (a calibration, a threshold, clusters); returns its path.

    Args:
        run: the open run.
        choice: `Fed(stem, sides, None)`, through whose `chose` the batches went that a network was asked with to make
            it, so that the record says on whom it was really made; `sides.after` names what was trained before.

    Raises:
        LeakError: somebody held out was seen by what it stands on, or no batch went through `chose`.
    """
    check_chain(run, choice.stem, choice.sides)
    if not choice.ids[CHOSE]:
        raise LeakError(f"{choice.stem}: was chosen, and on whom is not known: no batch of theirs was noted")
    return choice.write(run)
