"""Which files of a run belong to its present plan: what was made under other settings or another split is not shown.

made.json holds of each file the plan under which it was made, and by which step or output.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from melano_tf.runs.atomic_files import file_sha256, read_json, write_json
from melano_tf.runs.file_integrity import mapping
from melano_tf.runs.settings_digest import digest

SHOWN = ("tables", "figures", "maps", "predictions", "models", "history", "clusters")
MADE = "made.json"
LONGEST_S = 1e10  # of a step; more, or NaN, stands in a damaged record alone


def plan_key(plan: Mapping[str, Any]) -> str:
    """The key of a run's plan, which stands with every file that was made under it.

    Args:
        plan: as run.json holds it: `settings`, a key of all that changes a result (not where files lie, how many
            processes there are, or which part is asked for), and `data`, that of the images or slides, of who is
            trained on and judged, and of the initial weights; None while these are not known.
    """
    return digest([plan.get("settings"), plan.get("data")])


class MadeFiles:
    """What a session knows to be made under its plan, and writes into made.json: what the report may show.

    Args:
        folder: the run's folder.
        plan: gives the plan as run.json holds it now.
    """

    def __init__(self, folder: Path, plan: Callable[[], Mapping[str, Any]]) -> None:
        self.folder, self._plan = folder, plan
        self.known: dict[str, dict[str, Any]] = {}

    def know(self, files: Iterable[str], step: str, key: str) -> None:
        """These files, named as in the run's folder, are a finished step's; `write` says so.

        Args:
            files: their names.
            step, key: of the step.
        """
        self.known |= {file: {"step": step, "key": key} for file in files}

    def output(self, files: Iterable[Path], output: str, stands_on: Mapping[str, str | None]) -> None:
        """Write down files of an output (a table, a figure); it is forgotten once one of its steps is done anew.

        Args:
            files: inside the run's folder.
            output: its name.
            stands_on: what the steps that it is made of are known by, by name; None of those that are missing in it.
        """
        facts = {"step": None, "output": output, "key": digest([output, stands_on]), "of": list(stands_on)}
        for file in map(Path, files):
            self.known[str(file.relative_to(self.folder))] = {**facts, "sha256": file_sha256(file)}
        self.write()

    def drop(self, step: str) -> None:
        """Say no more of a step's files than made.json does already."""
        self.known = {file: facts for file, facts in self.known.items() if facts["step"] != step}

    def write(self) -> None:
        """The session's files under its plan; those of other plans as they stand there."""
        if not self.known:
            return
        there, plan = mapping(self.folder / MADE), plan_key(self._plan())
        now = there | {file: {"plan": plan, **facts} for file, facts in self.known.items()}
        if now != there:
            write_json(self.folder / MADE, now)

    def forget_step(self, step: str) -> None:
        """Forget the files of a step that is done anew, and the tables and figures that were made of it."""

        def of_it(file: str, one: Mapping[str, Any]) -> bool:
            return one.get("step") == step or (isinstance(of := one.get("of"), list) and step in of)

        self._forget(of_it)

    def forget(self, files: Iterable[str]) -> None:
        """Forget files that are about to be written anew, on the disk too, until they are known again."""
        names = frozenset(files)
        self._forget(lambda file, one: file in names)

    def _forget(self, which: Callable[[str, Mapping[str, Any]], bool]) -> None:
        self.known = {file: one for file, one in self.known.items() if not which(file, one)}
        there = mapping(self.folder / MADE)
        left = {file: one for file, one in there.items() if isinstance(one, dict) and not which(file, one)}
        if len(left) < len(there):
            write_json(self.folder / MADE, left)


class Standing:
    """What of a run's folder was made under the plan that run.json records.

    Args:
        folder: the run's folder.
        record: the content of run.json.
    """

    def __init__(self, folder: Path, record: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self._plan: str | None = plan_key(record.get("plan") or {})
        try:
            made = read_json(self.folder / MADE)
        except (OSError, ValueError):
            made = {}
        self._made: dict[str, Any] = made if isinstance(made, dict) else {}

    def plan_of(self, path: Path) -> str | None:
        """The key of the plan under which a file was made; None of one that no finished step or output made."""
        facts = self._made.get(str(Path(path).relative_to(self.folder)))
        plan = facts.get("plan") if isinstance(facts, dict) else None
        return plan if isinstance(plan, str) else None

    def beside(self, path: Path) -> "Standing":
        """What was made under the plan of a file, whichever is the present one; of an unknown file: nothing."""
        found = copy.copy(self)
        found._plan = self.plan_of(path)
        return found

    def durations(self) -> dict[str, float]:
        """Seconds that each finished step took whose files belong to the plan (or that wrote none), by name."""
        made, folder = [facts for facts in self._made.values() if isinstance(facts, dict)], self.folder / "steps"
        named = [facts.get("step") for facts in made if facts.get("plan") == self._plan]
        own = {step for step in named if isinstance(step, str)}
        states = {
            str(path.relative_to(folder).with_suffix("")): mapping(path) for path in sorted(folder.rglob("*.json"))
        }
        return {
            name: float(state["seconds"])
            for name, state in states.items()
            if _is_time(state.get("seconds")) and (name in own or not state.get("outputs"))
        }

    def holds(self, path: Path) -> bool:
        """Whether a file was made under the present plan, and is what was made then."""
        plan = self.plan_of(path)
        if plan is None or plan != self._plan or not path.is_file():
            return False
        facts = self._made[str(Path(path).relative_to(self.folder))]
        # A step's files are forgotten before it is done anew, or they are restated; of a table that a session replaced
        # which was then killed, the checksum tells.
        return facts.get("step") is not None or file_sha256(path) == facts.get("sha256")

    def of(self, paths: Iterable[Path]) -> list[Path]:
        """Those of the files that belong to the present plan, in their order."""
        return [path for path in paths if self.holds(path)]

    def older(self) -> list[str]:
        """Files where results lie that do not belong to the present plan, by their paths there; tables first."""
        files = (path for name in SHOWN for path in sorted((self.folder / name).rglob("*")))
        left = [path for path in files if path.is_file() and path.name[0] != "." and not self.holds(path)]
        return [str(path.relative_to(self.folder)) for path in left]


def _is_time(seconds: Any) -> bool:
    """Whether a step's record holds a time that can be told."""
    return isinstance(seconds, int | float) and 0 <= seconds < LONGEST_S
