"""Which files of a run belong to its present plan: what was made under other settings or another split is not shown."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from melano_tf.runs.atomic_files import file_sha256, read_json
from melano_tf.runs.run_folder import plan_key

SHOWN = ("tables", "figures", "maps", "predictions", "models", "history")


class Standing:
    """What of a run's folder was made under the plan that run.json records.

    Args:
        folder: the run's folder.
        record: the content of run.json.
    """

    def __init__(self, folder: Path, record: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self._plan = plan_key(record.get("plan") or {})
        try:
            made = read_json(self.folder / "made.json")
        except (OSError, ValueError):
            made = {}
        self._made: dict[str, Any] = made if isinstance(made, dict) else {}

    def holds(self, path: Path) -> bool:
        """Whether a file was made under the present plan, and is what was made then."""
        facts = self._made.get(str(Path(path).relative_to(self.folder)))
        if not isinstance(facts, dict) or facts.get("plan") != self._plan or not path.is_file():
            return False
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
