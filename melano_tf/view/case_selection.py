"""Which cases of a run are shown, and in which order: pure functions of tables."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from melano_tf.view.model_predictions import Judged
from melano_tf.view.run_cases import Seen

EVERYTHING = "all"
WRONG, SURE, UNSURE, NO_TUMOUR = "wrong", "wrong and sure", "unsure", "no tumour tile found"
RIGHT = "right"
ORDERS = ("loss, highest first", "loss, lowest first", "confidence, lowest first", "name", "as in the table")
TIED = "undecided"  # of several classes two are the most probable, which counts as wrong, as in the tables
EPSILON = 1e-12


def with_answers(run: Seen, model: Judged | None, place: int | None = None) -> pd.DataFrame:
    """The run's cases, or one of them by its number, with one model's answers.

    Returns:
        Further columns: called (-1 where two of several classes tie), called_name (`TIED` there), likely (the class
        called, of tied ones the first), truth_name, p (probability of the positive, or of several of the likely
        class), truth (of the true class), loss (its negative logarithm), right, judged, fallback (bool), stem; NaN
        or "" where the model did not judge.
    """
    cases = run.cases.copy() if place is None else run.cases.loc[[place]]
    if model is None:
        empty = {"called": np.nan, "likely": np.nan, "p": np.nan, "truth": np.nan, "loss": np.nan}
        return cases.assign(**empty, called_name="", truth_name="", right=False, judged=False, stem="", fallback=False)
    frame = model.frame
    if place is not None:
        frame = frame[frame["case"] == cases["case"][place]]
    frame = frame.drop_duplicates("case").reset_index(drop=True)
    scores = frame[[f"p{number}" for number in range(len(model.classes))]].to_numpy(float)
    rows = np.arange(len(frame))
    called, target = frame["called"].to_numpy(), frame["target"].to_numpy()
    frame["likely"] = np.where(called < 0, scores.argmax(axis=1), called)
    frame["p"] = scores[:, 1] if len(model.classes) == 2 else scores[rows, frame["likely"].to_numpy()]
    frame["truth"] = scores[rows, target]
    frame["loss"] = -np.log(np.maximum(frame["truth"], EPSILON))
    frame["right"] = called == target
    frame["called_name"] = [TIED if number < 0 else model.classes[number] for number in called]
    frame["truth_name"] = [model.classes[number] for number in target]
    kept = [
        "case",
        "called",
        "likely",
        "called_name",
        "truth_name",
        "p",
        "truth",
        "loss",
        "right",
        "stem",
        "part",
        "group",
    ]
    kept += [name for name in ("threshold", "raw", "fallback", "tiles") if name in frame]
    found = cases.merge(frame[kept], on="case", how="left", suffixes=("", "_judged")).set_axis(cases.index)
    found["judged"] = found["called"].notna()
    found["part"] = found["part_judged"].where(found["part_judged"].notna(), found["part"])
    found["right"] = found["right"].fillna(False).astype(bool)
    for name in ("called_name", "truth_name", "stem"):
        found[name] = found[name].fillna("")
    if "fallback" not in found:
        found["fallback"] = False
    found["fallback"] = found["fallback"].fillna(False).astype(bool)
    return found


def confidence(frame: pd.DataFrame, binary: bool) -> pd.Series:
    """Probability of the called class."""
    if not binary:
        return frame["p"]
    return frame["p"].where(frame["called"] == 1, 1 - frame["p"])


def p_words(model: Judged | None) -> str:
    """What the column `p` of a model's answers is the probability of."""
    if model is None:
        return "probability"
    return f"P({model.classes[1]})" if len(model.classes) == 2 else "P(called)"


def kinds_of(frame: pd.DataFrame, kind: str, binary: bool) -> pd.Series:
    """Whether each case is of a kind of answer: one of the words above."""
    sure = confidence(frame, binary)
    wrong = frame["judged"] & ~frame["right"]
    chosen = {
        WRONG: wrong,
        SURE: wrong & (sure >= 0.9),
        RIGHT: frame["judged"] & frame["right"],
        UNSURE: frame["judged"] & (sure < 0.7),
        NO_TUMOUR: frame["fallback"],
    }
    return chosen.get(kind, pd.Series(True, index=frame.index))


def chosen_rows(frame: pd.DataFrame, equal: Mapping[str, str], kind: str, words: str, binary: bool) -> pd.DataFrame:
    """The cases of a kind, with these values in these columns, and with these words in their name or patient."""
    keep = kinds_of(frame, kind, binary)
    for column, value in equal.items():
        if value != EVERYTHING and column in frame:
            keep &= frame[column].astype(str) == value
    if words.strip():
        wanted = words.strip().casefold()
        searched = frame["case"].str.casefold() + " " + frame["patient"].astype(str).str.casefold()
        keep &= searched.str.contains(wanted, regex=False)
    return frame[keep]


def ordered(frame: pd.DataFrame, order: str, binary: bool) -> pd.DataFrame:
    """The cases in one of `ORDERS`; ties, and what was not judged, as in the table, the latter last."""
    if order == ORDERS[0]:
        return frame.sort_values("loss", ascending=False, kind="stable", na_position="last")
    if order == ORDERS[1]:
        return frame.sort_values("loss", kind="stable", na_position="last")
    if order == ORDERS[2]:
        return frame.assign(_sure=confidence(frame, binary)).sort_values("_sure", kind="stable").drop(columns="_sure")
    return frame.sort_values("case", kind="stable") if order == ORDERS[3] else frame


def values_of(frame: pd.DataFrame, column: str) -> list[str]:
    """What a filter offers: everything, and each value that occurs."""
    values = frame[column].unique()
    return [EVERYTHING, *sorted({str(value) for value in values} - {"", "nan"})]


def first_model(run: Seen, wanted: str = "") -> str:
    """The model that a page begins with: the one asked for, else the run's final one, else that of most cases."""
    if wanted in run.models:
        return wanted
    sizes: Sequence[tuple[str, int]] = [(name, len(one.frame)) for name, one in run.models.items()]
    final = [name for name, _ in sizes if name in ("target", "zoome")]
    return final[0] if final else max(sizes, key=lambda item: item[1], default=("", 0))[0]
