"""A run's folder: settings, environment, finished steps.

A run's folder is its own record. `run.json` says what was asked, by which command, with which versions, on what;
`steps/<name>.json` says that a step is finished, with the key of everything that it depends on and the files that it
wrote. The same command again therefore goes on where it stopped, and a changed setting re-runs what depends on it.
"""

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from melano_tf import __version__
from melano_tf.environment import environment
from melano_tf.errors import InputError
from melano_tf.runs import journal
from melano_tf.runs.atomic_files import atomic, read_json, write_json
from melano_tf.runs.file_integrity import check_record, fault, mapping
from melano_tf.runs.files_of_plan import MadeFiles, Standing
from melano_tf.runs.folder_lock import FolderLock
from melano_tf.runs.replaced_results import MADE, STOOD_ON, made_of_replaced, replaced, result_digest, stood_on
from melano_tf.runs.session_checksums import SessionChecksums
from melano_tf.runs.settings_digest import digest, flat, plain

ASIDE = (
    "out",
    "preset",
    "workers",
    "threads",
    "cache",
    "cache_mib",
    "log_weights",
    "tables",
    "figures",
    "steps",
    "cells",
    "plan",
    "jobs",
    "gpus",
    "scheduler",
    "deterministic",
    "yes",
)
# Settings that came later, and at what they change nothing: earlier runs stand.
AS_BEFORE = {"precision": "float32", "micro_batch": 0}


# Files up to this size are read whole to see whether a step still stands, and larger ones whose readers check nothing.
CHECKED_BYTES = 512 * 2**20
CHECKED_BY_READERS = (".tfrecord",)


class Company(Protocol):
    """The other hosts of a run, as a training that is spread over them meets them.

    Attributes:
        chief: whether this host decides and writes.
    """

    chief: bool

    def begin(self, stem: str) -> None:
        """All hosts come to a training, or to the building of its network."""
        ...

    def end(self) -> None:
        """A training is done; who only helps leaves its step here, unless that has another training."""
        ...


class Run:
    """One run's folder, locked for this process while it is open (use it as a context manager).

    Args:
        folder: the run's folder; made if missing.
        recipe: name of the recipe; a folder of another recipe is refused.
        settings: the settings dataclass of the recipe.
        threads: threads that the run may use, for the record.
        say: shows a line to the person at the terminal.

    Raises:
        InputError: the folder cannot be written, holds files and no run, belongs to another recipe, or is in use by
            another run.
    """

    def __init__(self, folder: Path, recipe: str, settings: Any, threads: int, say: Callable[[str], None]) -> None:
        self.folder = Path(folder)
        self.recipe = recipe
        self.settings = plain(settings)
        self.threads = threads
        self.say = say
        # Shows a training's progress, as `training.progress.bar_over_epochs`; None: by that.
        self.bars: Callable[[str, int, int], contextlib.AbstractContextManager[Any]] | None = None
        self.company: Company | None = None  # None: there are no other hosts
        self.repeated: list[str] = []
        self.kept: list[str] = []
        self._stood = ""  # the step that was kept last, until it is restated
        self._lock: FolderLock | None = None
        self.made = MadeFiles(self.folder, lambda: self.record()["plan"])
        self._sums = SessionChecksums()

    @property
    def writes(self) -> bool:
        """Whether this process writes a training's files; False on a host that only helps the chief."""
        return self.company is None or self.company.chief

    def __enter__(self) -> "Run":
        try:
            self._take_folder()
            self._lock = FolderLock(self.folder)
        except OSError as error:
            raise InputError(
                f"{self.folder}: cannot be written ({os.strerror(error.errno or errno.EIO)}); choose another --out"
            ) from None
        try:
            self._open_record()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _take_folder(self) -> None:
        """Make the folder, or make sure that it is a run's; nothing is written into any other."""
        if self.folder.is_dir() and not journal.is_ours(self.folder) and any(self.folder.iterdir()):
            try:
                record = self.record()
            except InputError:
                record = {}
            if not isinstance(record.get("settings"), dict) or "recipe" not in record:
                raise InputError(f"{self.folder}: is not empty and holds no run; choose another --out")
            self._check_recipe(record)
            journal.begin(self.folder, self._made_before(), (p for p in self.folder.rglob("*") if p.is_file()))
        self.folder.mkdir(parents=True, exist_ok=True)
        journal.begin(self.folder)

    def _made_before(self) -> list[Path]:
        """What a run of a version without journal recorded as its own."""
        steps = sorted((self.folder / "steps").rglob("*.json"))
        outputs: list[Path] = []
        for step in steps:
            with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError):
                outputs += [self.folder / file for file in read_json(step)["outputs"]]
        return [path for path in (*steps, *outputs) if path.is_file()]

    def _check_recipe(self, record: Mapping[str, Any]) -> None:
        if record and record.get("recipe") != self.recipe:
            raise InputError(
                f"{self.folder}: holds a run of {record.get('recipe')!r}, not of {self.recipe!r}; choose another --out"
            )

    def _open_record(self) -> None:
        record = self.record()
        self._check_recipe(record)
        session = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": sys.argv,
            "environment": environment(self.threads),
        }
        sessions = [*record.get("sessions", []), session]
        asked = self.settings_key()
        if record.get("plan", {}).get("settings") != asked:
            # What was noted of another plan (its split, what it left out) says nothing of this one.
            record = {"plan": {"settings": asked, "data": None}}
        head = {"recipe": self.recipe, "settings": self.settings, "sessions": sessions}
        write_json(self.folder / "run.json", plain({**record, **head}))
        journal.tidy(self.folder)  # only we hold the lock

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        if self._lock is not None:
            if kind is not None:
                self.made.drop(self._stood)
            with contextlib.suppress(OSError):
                self.made.write()
            self._lock.release()
            self._lock = None

    def record(self) -> dict[str, Any]:
        """The content of run.json, or an empty dict before the first session.

        Raises:
            InputError: it is damaged.
        """
        path = self.folder / "run.json"
        try:
            return check_record(read_json(path)) if path.exists() else {}
        except (ValueError, TypeError):
            raise InputError(f"{path}: is damaged, or no run's record; choose another --out") from None

    def note(self, **content: Any) -> None:
        """Add facts to run.json, for example input checksums and what was found."""
        self._write_record(**content)

    def _write_record(self, **content: Any) -> None:
        write_json(self.folder / "run.json", {**self.record(), **plain(content)})

    def settings_key(self) -> str:
        """The key of all settings that change a result; see `files_of_plan.plan_key`."""
        used = {name: value for name, value in flat(self.settings).items() if name.partition(".")[0] not in ASIDE}
        used = {name: value for name, value in used.items() if name not in AS_BEFORE or value != AS_BEFORE[name]}
        return digest([self.recipe, __version__, used])

    def stands_on(self, *keys: str) -> None:
        """Note what the session's results stand on besides its settings: keys of the data, their split, the weights."""
        plan = {**self.record()["plan"], "data": digest(keys)}
        if plan != self.record()["plan"]:
            self._write_record(plan=plan)
        self.made.write()

    def made_output(self, files: Iterable[Path], output: str, stands_on: Mapping[str, str | None]) -> None:
        """Write down that an output of the session's plan wrote these files; see `MadeFiles.output`."""
        self.made.output(files, output, stands_on)

    def path(self, *parts: str) -> Path:
        """A path inside the run's folder, its parent made."""
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def scratch(self, name: str, key: str) -> Path:
        """A folder for the unfinished work of one step under one key; what it left under other keys is removed."""
        return self.only_folder(f"work/{name}", key)

    def only_folder(self, parent: str, key: str) -> Path:
        """The folder `parent`/`key`, made if missing; what the run made in `parent` under other keys is removed."""
        folder = self.folder / parent / key
        for other in sorted(folder.parent.glob("*")):
            if other.is_dir() and other != folder:
                journal.clear(other)
        if not folder.exists():
            journal.make_folder(folder)
        return folder

    def keep_logs(self, scratch: Path, name: str) -> None:
        """Copy a finished training's TensorBoard logs from its scratch folder to logs/<name>."""
        self.keep(scratch / "logs", self.folder / "logs" / name)

    def keep(self, made: Path, target: Path) -> None:
        """Copy the files that a step made in a scratch folder to `target`, in the place of those of an earlier time."""
        journal.clear(target)
        for path in journal.recorded(made):
            if path.is_file():
                with atomic(target / path.relative_to(made.resolve())) as temporary:
                    temporary.write_bytes(path.read_bytes())

    def step(self, name: str, inputs: Mapping[str, Any], work: Callable[[Path], Iterable[Path]]) -> str:
        """Do a step unless it is finished under the same key; returns the key.

        Args:
            name: the step's name; may hold slashes ("source/vgg16-gap/cohort-1").
            inputs: all that the result depends on: settings, and the keys of earlier steps.
            work: gets a scratch folder that survives a kill, does the work and returns the files that it wrote.

        Returns:
            The step's key, to be put into the inputs of what depends on it.
        """
        key = self.key(name, inputs)
        if not self.stands(name, key):
            self.begin(name)
            self.perform(name, key, inputs, work)
            self.end(name, key)
        return key

    def _check_lock(self) -> None:
        if self._lock is not None:  # that of a process which only helps is another's
            self._lock.check()

    def stands(self, name: str, key: str) -> bool:
        """Whether a step is finished under this key; if so, it counts as kept."""
        if not self.finished(name, key):
            return False
        self.kept.append(name)
        self._stood = name
        self.made.know(self._outputs(name), name, key)
        return True

    def settle(self) -> None:
        """The step that was kept last says what it is to say now (`restated_models`): however the session ends, its
        files are those of the session's plan."""
        self._stood = ""

    def _outputs(self, name: str) -> list[str]:
        """The files of a finished step, as its record names them, without those that are being restated."""
        state = read_json(self.folder / "steps" / f"{name}.json")
        return [file for file in state["outputs"] if file not in state.get("restating", ())]

    def begin(self, name: str) -> None:
        """A step is done anew: what stood under its name is no longer its result.

        Raises:
            InputError: another run took the folder.
        """
        self.settle()
        self._check_lock()
        self._discard_damaged(self.path("steps", f"{name}.json"))
        journal.remove(self.path("steps", f"{name}.json"))
        self.made.forget_step(name)

    def perform(self, name: str, key: str, inputs: Mapping[str, Any], work: Callable[[Path], Iterable[Path]]) -> None:
        """Do a step and record that it is finished; between `begin` and `end`, which another process may call.

        Raises:
            InputError: another run took the folder.
        """
        started, made_of = time.monotonic(), stood_on(self.folder, inputs)
        outputs = [Path(path) for path in work(self._begun(name, key, made_of))]
        self._check_lock()
        state = {
            "key": key,
            "inputs": plain(inputs),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seconds": round(time.monotonic() - started, 2),
        }
        with self._sums.shown(outputs) as sha256:  # of what the work kept from before they are known
            facts = {path: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in outputs}
        state["outputs"] = {str(path.relative_to(self.folder)): one for path, one in facts.items()}
        state[MADE], state[STOOD_ON] = result_digest(self.folder, state["outputs"]), made_of
        write_json(self.path("steps", f"{name}.json"), state)

    def _begun(self, name: str, key: str, made_of: Mapping[str, str]) -> Path:
        """The step's scratch folder, without what was begun of results that other ones have replaced since."""
        begun = self.scratch(name, key) / f"{STOOD_ON}.json"
        if begun.is_file() and mapping(begun) != made_of:
            journal.clear(begun.parent)
            self.scratch(name, key)
        if made_of:
            write_json(begun, dict(made_of))
        return begun.parent

    def end(self, name: str, key: str) -> None:
        """A step was done: its files are the run's, and its unfinished work goes."""
        self.made.know(self._outputs(name), name, key)
        self.made.write()
        for other in made_of_replaced(self.folder, name):  # they are to be done again
            self.made.forget_step(other)
        journal.clear(self.folder / "work" / name, self.folder)
        self.repeated.append(name)

    @staticmethod
    def key(name: str, inputs: Mapping[str, Any]) -> str:
        """The key under which `step` finishes a step with these inputs."""
        return digest({"step": name, "melano_tf": __version__, "inputs": plain(inputs)})

    def finished(self, name: str, key: str) -> bool:
        """Whether a step stands finished under this key, with all its files there and as they were written, and made of
        what the steps that it needs came to last (`replaced_results`).

        Their checksums are compared, once a session; of tiles' files above `CHECKED_BYTES`, whose readers check what
        they read, the sizes. `doctor --run` compares all. Of files that were being restated when a session ended
        (`restated_models`) either state is whole: they must be there.
        """
        path = self.folder / "steps" / f"{name}.json"
        try:
            state = read_json(path)
            if state["key"] != key or replaced(self.folder, state):
                return False
            restating = state.get("restating", ())
            whole = {self.folder / file: facts for file, facts in state["outputs"].items() if file not in restating}
            there = all((self.folder / file).is_file() for file in restating if file in state["outputs"])
            return there and self._stand(whole)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return False  # not there, or no step's state

    def _discard_damaged(self, state_path: Path) -> None:
        """Remove those of a step's files that are not as they were written, so that nothing takes them for whole."""
        outputs = mapping(state_path).get("outputs")
        files = {self.folder / name: facts for name, facts in outputs.items()} if isinstance(outputs, dict) else {}
        with self._sums.shown(files) as sha256:
            for file in [file for file, facts in files.items() if file.is_file() and fault(file, facts, sha256)]:
                journal.remove(file)

    def _stand(self, files: Mapping[Path, Mapping[str, Any]]) -> bool:
        """Whether a step's files are as they were written: first their sizes, for that costs nothing."""
        if not all(file.is_file() and file.stat().st_size == facts["bytes"] for file, facts in files.items()):
            return False
        read = [file for file in files if not _checked_by_its_readers(file)]
        with self._sums.shown(read) as sha256:
            return all(sha256(file) == files[file]["sha256"] for file in read)

    def durations(self) -> dict[str, float]:
        """Seconds that each step took that is finished under the present plan, by name."""
        self.made.write()
        return Standing(self.folder, self.record()).durations()


def _checked_by_its_readers(file: Path) -> bool:
    return file.stat().st_size > CHECKED_BYTES and file.suffix in CHECKED_BY_READERS
