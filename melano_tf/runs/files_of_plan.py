"""Which files of a run belong to its present plan: what was made under other settings or another split is not shown."""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from melano_tf.runs.atomic_files import file_sha256, read_json
from melano_tf.runs.file_integrity import mapping
from melano_tf.runs.run_folder import plan_key

SHOWN = ("tables", "figures", "maps", "predictions", "models", "history", "clusters")


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
            made = read_json(self.folder / "made.json")
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
        made = [facts for facts in self._made.values() if isinstance(facts, dict)]
        own, folder = [facts.get("step") for facts in made if facts.get("plan") == self._plan], self.folder / "steps"
        states = {
            str(path.relative_to(folder).with_suffix("")): mapping(path) for path in sorted(folder.rglob("*.json"))
        }
        return {
            name: float(state["seconds"])
            for name, state in states.items()
            if isinstance(state.get("seconds"), int | float) and (name in own or not state.get("outputs"))
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
