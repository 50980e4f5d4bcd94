"""What the models of a finished run say of the cases that they were not trained on, whatever its recipe.

Which files of predictions these are the recipe says (`JudgedModel`), and run.json holds it: whoever reads a run needs
no recipe for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from melano_tf.errors import InputError, line_of
from melano_tf.runs.atomic_files import read_json
from melano_tf.runs.file_integrity import check_record
from melano_tf.runs.files_of_plan import Standing
from melano_tf.runs.predictions import TEST, UNKNOWN, probability_columns, read_predictions, scores
from melano_tf.runs.settings_digest import flat


@dataclass(frozen=True)
class JudgedModel:
    """A model of a recipe, or one of each fold, and the predictions by which it is judged.

    Attributes:
        name: the model's part in the paper, the same in every run of the recipe, for example "ZooME".
        files: names below predictions/; of several folds one each, which are judged together.
        classes: their names in order; of two the second is positive. () where the run's data name them: the model's
            sidecar then does.
        unit: what the cases are, for example "biopsies".
        part: of the cases that are judged.
        only: a column of the recipe's own, true for the cases that count; "": all of them.
        same: settings by name that must agree between two runs for cases of one name to be the same case.
    """

    name: str
    files: tuple[str, ...]
    classes: tuple[str, ...]
    unit: str
    part: str = TEST
    only: str = ""
    same: tuple[str, ...] = ()

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> "JudgedModel":
        """As run.json holds it."""
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in said.items()}
        try:
            found = cls(**values)
        except TypeError as error:
            raise InputError(f"run.json: 'judged' holds something else than models ({line_of(error)})") from None
        texts = (found.name, found.unit, found.part, found.only)
        names = (found.files, found.classes, found.same)
        if not all(isinstance(text, str) for text in texts) or not all(
            isinstance(own, tuple) and all(isinstance(name, str) for name in own) for own in names
        ):
            raise InputError(f"run.json: 'judged' holds something else than models ({values})")
        return found


@dataclass(frozen=True)
class Judgement:
    """What one model of a run says of the test cases that it did not see.

    Attributes:
        name, unit: see `JudgedModel`.
        classes: names of the classes, in order; of two the second is positive. () where no file tells.
        frame: one row a case, sorted by case: predictions of the form of `runs.predictions`, targets known.
        same: settings by name that must agree for cases of one name to be the same case.
    """

    name: str
    classes: tuple[str, ...]
    frame: pd.DataFrame
    unit: str
    same: Mapping[str, Any]

    @property
    def scores(self) -> NDArray[np.float64]:
        """Probability of the positive class (n,), or of each of several classes (n, K)."""
        return scores(self.frame)


def read_record(folder: Path) -> dict[str, Any]:
    """The content of a run's run.json.

    Raises:
        InputError: the folder holds no run, or its record is damaged.
    """
    path = Path(folder) / "run.json"
    if not path.is_file():
        raise InputError(f"{folder}: no run is recorded there (run.json is missing); name the folder given by --out")
    try:
        record = check_record(read_json(path))
        if not isinstance(record.get("settings"), dict) or not isinstance(record.get("recipe"), str):
            raise ValueError("it names no recipe and settings")
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not a run's record ({line_of(error)})") from None
    return record


def read_judgements(folder: Path, record: Mapping[str, Any]) -> list[Judgement]:
    """The test predictions that a run holds of its present plan, in the recipe's order.

    Those of other settings or another split are passed over, whoever the test patients are now: their models may have
    been trained on them.

    Raises:
        InputError: the run is of a version that did not record its models, or a file of predictions is damaged.
    """
    folder, found = Path(folder), []
    standing, settings = Standing(folder, record), flat(record["settings"])
    if "judged" not in record and standing.of(sorted((folder / "predictions").glob("*"))):
        raise InputError(
            f"{folder}: a run of an earlier version, which does not say which predictions are of which model; give its "
            "command again with another --out"
        )
    for said in record.get("judged", []):
        model = JudgedModel.of(said)
        files = [folder / "predictions" / name for name in model.files]
        if len(standing.of(files)) < len(files):
            continue
        frame = _judged(files, model)
        if frame.empty:
            continue
        if frame["case"].duplicated().any():
            raise InputError(f"{folder}: {', '.join(model.files)}: a case is judged twice; the predictions do not fit")
        same = {key: settings[key] for key in settings for part in model.same if _under(key, part)}
        found.append(Judgement(model.name, _classes(standing, frame, model), frame, model.unit, same))
    return found


def judged_cases(folder: Path, record: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """{model: slides, bags or images that it is judged by}, of those predictions that belong to the present plan.

    A tile is judged with its slide, which is what a training's record names.

    Raises:
        InputError: a file of predictions is damaged, or lacks a column.
    """
    found: dict[str, frozenset[str]] = {}
    standing = Standing(folder, record)
    for model in map(JudgedModel.of, record.get("judged", [])):
        for file in standing.of([Path(folder) / "predictions" / name for name in model.files]):
            frame = _judged([file], model)
            cases = frame["slide_id" if "slide_id" in frame else "case"].astype(str)
            found[file.stem] = found.get(file.stem, frozenset()) | frozenset(cases)
    return found


def _judged(files: list[Path], model: JudgedModel) -> pd.DataFrame:
    """The cases that count, of all folds together."""
    frame = pd.concat([read_predictions(file) for file in files], ignore_index=True)
    frame = frame[(frame["part"] == model.part) & (frame["target"] != UNKNOWN)]
    if model.only:
        frame = frame[frame[model.only].astype(bool)]
    return frame.sort_values("case", kind="stable").reset_index(drop=True)


def _classes(standing: Standing, frame: pd.DataFrame, model: JudgedModel) -> tuple[str, ...]:
    """Names of the classes: as the columns or the recipe say, or else the model's sidecar."""
    if columns := probability_columns(frame):
        return tuple(name.partition("_")[2] for name in columns)
    path = standing.folder / "models" / f"{Path(model.files[0]).stem}.json"
    if model.classes or not standing.holds(path):
        return model.classes
    try:
        return tuple(map(str, read_json(path)["classes"]))
    except (OSError, ValueError, TypeError, KeyError):
        return ()


def _under(key: str, part: str) -> bool:
    return key == part or key.startswith(part + ".")
