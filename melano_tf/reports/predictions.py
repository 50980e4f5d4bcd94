"""A finished run's test predictions, whatever its recipe: which files they are stands in `recipes.yaml`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from melano_tf.errors import InputError
from melano_tf.runs.files import read_json
from melano_tf.runs.plain import flat
from melano_tf.runs.standing import Standing

RECIPES = Path(__file__).with_name("recipes.yaml")


@dataclass(frozen=True)
class Judgement:
    """What one model of a run says of the test cases that it did not see.

    Attributes:
        name: the model's part in the paper, the same in every run of the recipe, for example "ZooME".
        classes: names of the classes, in order; of two the second is positive. () where no model file tells.
        frame: one row a case: case (its name), group (patient or lesion), target (class index), p0, p1, …
            (probabilities), called (class index that was decided for; absent for more than two classes).
        unit: what the cases are, for example "biopsies".
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
        columns = [name for name in self.frame if re.fullmatch(r"p\d+", str(name))]
        values = self.frame[columns].to_numpy(float)
        return values[:, 1] if len(columns) == 2 else values


def recipe_facts(recipe: str) -> dict[str, Any]:
    """What the report knows of a recipe beforehand: `recipes.yaml`; {} for one that it does not know."""
    content = yaml.safe_load(RECIPES.read_text(encoding="utf-8"))
    return dict(content["recipes"].get(recipe) or {})


def read_record(folder: Path) -> dict[str, Any]:
    """The content of a run's run.json.

    Raises:
        InputError: the folder holds no run, or its record is damaged.
    """
    path = Path(folder) / "run.json"
    if not path.is_file():
        raise InputError(f"{folder}: no run is recorded there (run.json is missing); name the folder given by --out")
    try:
        record = dict(read_json(path))
        if not isinstance(record.get("settings"), dict) or not isinstance(record.get("recipe"), str):
            raise ValueError("it names no recipe and settings")
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not a run's record ({error})") from None
    return record


def read_judgements(folder: Path, record: Mapping[str, Any]) -> list[Judgement]:
    """The test predictions that a run holds of its present plan, in the recipe's order.

    Those of other settings or another split are passed over, whoever the test patients are now: their models may have
    been trained on them.

    Raises:
        InputError: a file of predictions is damaged, or lacks a column.
    """
    found: list[Judgement] = []
    standing = Standing(folder, record)
    settings = _dotted(record["settings"])
    for rule in recipe_facts(record["recipe"]).get("predictions", []):
        pattern = str(rule["files"]).format_map(_Names(settings))
        for star, files in _matching(folder / "predictions", pattern, settings.get(rule.get("pooled"))):
            if len(standing.of(files)) < len(files):
                continue
            name = str(rule["name"]).replace("*", star)
            if name in (one.name for one in found):
                continue  # two parts of the paper that one network fills
            stems = [file.stem for file in files]
            cards = [_sidecar(standing, stem) for stem in stems]
            parts = [_read(file, rule, record, card) for file, card in zip(files, cards, strict=True)]
            whole = pd.concat(parts, ignore_index=True).sort_values("case", kind="stable")
            classes = tuple(map(str, cards[0].get("classes", ())))
            same = {key: settings[key] for key in settings for part in rule.get("same", ()) if _under(key, part)}
            for part, rows in ((str(name), rows) for name, rows in whole.groupby("by", sort=False)):
                if rows["case"].duplicated().any():
                    raise InputError(
                        f"{folder}: {', '.join(stems)}: a case is judged twice; the predictions do not fit"
                    )
                own = rows.drop(columns="by").reset_index(drop=True)
                whose = f"{name}: {part}" if part else name
                found.append(Judgement(whose, classes, own, str(rule["unit"]), same))
    return found


def judged_cases(folder: Path, record: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """{model: slides or images that the report judges it by}, of those predictions that belong to the present plan.

    Raises:
        InputError: a file of predictions is damaged, or lacks a column.
    """
    found: dict[str, frozenset[str]] = {}
    standing, settings = Standing(folder, record), _dotted(record["settings"])
    for rule in recipe_facts(record["recipe"]).get("predictions", []):
        pattern = str(rule["files"]).format_map(_Names(settings))
        for _, files in _matching(folder / "predictions", pattern, settings.get(rule.get("pooled"))):
            for file in standing.of(files):
                cases = _read(file, {**rule, "case": rule["case"][:1]}, record, {})["case"]
                found[file.stem] = found.get(file.stem, frozenset()) | frozenset(cases)
    return found


class _Names(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "?"  # no such setting: no such file


def _under(key: str, part: str) -> bool:
    return key == part or key.startswith(part + ".")


def _dotted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by names without dots, which `str.format` would take for attributes: model_backbones_0."""
    result: dict[str, Any] = {}
    for key, value in flat(settings).items():
        result[key] = value
        result[key.replace(".", "_")] = value
        if isinstance(value, list):
            result |= {f"{key.replace('.', '_')}_{place}": item for place, item in enumerate(value)}
    return result


def _matching(folder: Path, pattern: str, pooled: int | None) -> list[tuple[str, list[Path]]]:
    """Files of a pattern with one * at most: each with what the * stands for, or those of all folds in one."""
    head, _, tail = pattern.partition("*")
    if pooled is not None:  # by number: an earlier session with more folds may have left others
        parts = [folder / f"{head}{fold}{tail}" for fold in range(1, pooled + 1)]
        return [("", parts)] if all(path.is_file() for path in parts) else []
    files = sorted(path for path in folder.glob("*") if re.fullmatch(_regex(pattern), path.name))
    stars = [path.name[len(head) : len(path.name) - len(tail)] if "*" in pattern else "" for path in files]
    return [(star, [path]) for star, path in zip(stars, files, strict=True)]


def _regex(pattern: str) -> str:
    # A * stands for a fold's number or a part of a name without another model's suffix.
    return ".+".join(re.escape(part) for part in pattern.split("*", 1))


def _sidecar(standing: Standing, stem: str) -> dict[str, Any]:
    path = standing.folder / "models" / f"{stem}.json"
    if not standing.holds(path):
        return {}
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return dict(content) if isinstance(content, dict) else {}


def _read(path: Path, rule: Mapping[str, Any], record: Mapping[str, Any], sidecar: Mapping[str, Any]) -> pd.DataFrame:
    """One file in the form of `Judgement.frame`."""
    try:
        names = dict.fromkeys([*rule["case"], rule["group"]], str)
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype=names)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give the run's command again") from None
    score = str(rule["score"])
    patterns = {"p*": r"p\d+", "p_*": r"p_.+"}
    columns = [name for name in frame if re.fullmatch(patterns[score], str(name))] if score in patterns else [score]
    needed = [*rule["case"], rule["group"], rule["target"], *columns, *rule.get("keep", {}), *rule.get("drop", {})]
    if missing := [name for name in needed if name not in frame] or ([score] if not columns else []):
        raise InputError(f"{path}: the columns {missing} are missing; these predictions are of another version")
    for column, allowed in rule.get("keep", {}).items():
        frame = frame[frame[column].isin(allowed)]
    for column, banned in rule.get("drop", {}).items():
        frame = frame[~frame[column].isin(banned)]
    if "test" in rule:
        frame = frame[frame[rule["group"]].astype(str).isin(set(map(str, _place(record, rule["test"]))))]
    case = frame[rule["case"][0]].astype(str)
    for column in rule["case"][1:]:
        case = case + "/" + frame[column].astype(str)
    result = pd.DataFrame(
        {"case": case, "group": frame[rule["group"]].astype(str), "target": frame[rule["target"]].astype("int64")}
    )
    result["by"] = frame[rule["by"]].astype(str) if "by" in rule else ""
    values = frame[columns].to_numpy(float)
    if values.shape[1] == 1:
        values = np.column_stack([1 - values[:, 0], values[:, 0]])
    for place in range(values.shape[1]):
        result[f"p{place}"] = values[:, place]
    if values.shape[1] == 2:
        fixed = float(sidecar.get("threshold", 0.5))
        called = frame[rule["called"]] if rule.get("called") in frame else values[:, 1] >= fixed
        result["called"] = np.asarray(called).astype("int64")
    return result


def _place(record: Mapping[str, Any], dotted: str) -> list[Any]:
    """What stands in run.json under a dotted name; [] where it does not."""
    value: Any = record
    for name in dotted.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return list(value or [])
