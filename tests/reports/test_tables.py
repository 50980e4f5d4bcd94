"""Tables beside the published ones: numbers in the CSV, and what a reader sees in the Markdown."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from melano_tf.errors import InputError
from melano_tf.evaluation.binary_metrics import METRICS
from melano_tf.evaluation.interval import Interval
from melano_tf.reports.published_numbers import load_published
from melano_tf.reports.table_files import read_table, write_table
from melano_tf.reports.table_layout import layout
from melano_tf.reports.table_layout import markdown as text_of
from melano_tf.reports.tables import (
    AUC_IS_BALANCED_ACCURACY,
    Headline,
    Table,
    count_table,
    interval_table,
    metric_table,
    split_note,
)
from melano_tf.splits.validation_cohorts import Split


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    return load_published("spitzoid")


def grid(text: str) -> dict[str, dict[str, str]]:
    """The Markdown table as {row: {column: text}}; fails where lines do not align."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {line[0]: dict(zip(cells[0][1:], line[1:], strict=True)) for line in cells[2:]}


def markdown(frame: pd.DataFrame, title: str, notes: Sequence[str] = ()) -> str:
    return text_of(Table(title, frame, tuple(notes)))


def cohort(value: float, **other: float) -> dict[str, float]:
    return dict.fromkeys(METRICS, value) | other


def table4(published: pd.DataFrame) -> pd.DataFrame:
    bgas = [cohort(0.5, PPV=math.nan, NPV=math.nan), cohort(1.0, NPV=math.nan)]
    return metric_table({"BGAS": bgas, "mine": bgas}, published, 4, published_as=AUC_IS_BALANCED_ACCURACY)


def test_metric_table_stands_beside_the_paper(published: pd.DataFrame) -> None:
    cells = grid(markdown(table4(published), "Table 4"))
    assert list(cells) == ["SN", "SPC", "PPV", "NPV", "F1S", "ACC", 'BACC (printed as "AUC")', "ROC AUC"]
    assert list(cells["SN"]) == [f"{m}, {side}" for m in ("BGMP", "BGAP", "BGAS", "mine") for side in ("paper", "ours")]
    assert cells["SN"]["BGAS, paper"] == "0.7500 ± 0.2764"
    assert cells["SN"]["BGAS, ours"] == "0.7500 ± 0.2500"
    assert cells["PPV"]["BGAS, ours"] == "1.0000 (1 of 2)"
    assert cells["NPV"]["BGAS, ours"] == "n/a"
    assert cells["SPC"]["BGMP, paper"] == "0.9000 ± 0.3953 †"
    assert cells["SN"]["BGMP, ours"] == "–"
    assert cells["SN"]["mine, paper"] == "–"
    # the printed AUC stands beside our balanced accuracy, our ROC AUC alone
    assert cells['BACC (printed as "AUC")']["BGAS, paper"] == "0.8000 ± 0.0963"
    assert cells["ROC AUC"]["BGAS, paper"] == "–"
    assert cells["ROC AUC"]["BGAS, ours"] == "0.7500 ± 0.2500"


def test_notes_explain_what_a_reader_could_mistake(published: pd.DataFrame) -> None:
    text = markdown(table4(published), "Table 4", ["Phantom slides, not CLARIFYv1."])
    assert text.startswith("# Table 4\n")
    assert "- Phantom slides, not CLARIFYv1.\n" in text
    assert "mean ± standard deviation over 2 validation cohorts" in text
    assert "(k of n): undefined in the other cohorts" in text
    assert "n/a: undefined" in text
    assert 'The paper\'s "AUC" is (SN + SPC)/2 (in this table to within 0.0001)' in text
    # sqrt(0.9 * 0.1) = 0.3
    assert (
        "† Suspect" in text
        and "BGMP SPC 0.9000 ± 0.3953 (values between 0 and 1 with this mean spread by 0.3000" in text
    )
    assert "‡" not in text


def test_a_footnote_says_how_wide_a_suspect_spread_is(published: pd.DataFrame) -> None:
    text = markdown(metric_table({}, published, 3, published_as=AUC_IS_BALANCED_ACCURACY), "Table 3")
    assert "SeaNet+MLP SN 0.8716 ± 0.3000 (2.8 times the widest spread beside it)" in text
    assert "SeaNet+GMP AUC 0.8935 ± 0.2490 (4.4 times" in text
    assert "Ours" not in text


def test_nothing_is_explained_that_the_table_does_not_hold(published: pd.DataFrame) -> None:
    same_names = metric_table({"SM": [cohort(0.5)]}, published, 5, published_as={}, metrics=["SN", "AUC"])
    text = markdown(same_names, "Table")
    assert grid(text)["ROC AUC"]["SM, paper"] == "0.9244"
    assert "BACC" not in text and "†" not in text and "n/a" not in text
    assert "one validation cohort" in text


def test_cohort_counts_that_differ_name_their_models(published: pd.DataFrame) -> None:
    models = {"BGAP": [cohort(0.5)] * 4, "BGAS": [cohort(0.5)] * 2}
    text = markdown(metric_table(models, published, 4, published_as=AUC_IS_BALANCED_ACCURACY), "Table 4")
    assert "Ours (BGAS): mean ± standard deviation over 2 validation cohorts." in text
    assert "Ours (BGAP): mean ± standard deviation over 4 validation cohorts." in text


def test_interval_table(published: pd.DataFrame) -> None:
    found = dict.fromkeys(METRICS, Interval(0.75, 0.5, 0.9, 0, 2000, 12, 0.95))
    found |= {"PPV": Interval(math.nan, math.nan, math.nan, 2000, 2000, 12, 0.95)}
    found |= {
        "AUC": Interval(0.8, 0.6, 0.95, 0, 0, 12, 0.95, "DeLong"),
        "SPC": Interval(1, 0.7, 1, 0, 0, 12, 0.95, "Wilson"),
    }
    found |= {"ACC": Interval(1, 1, 1, 0, 2000, 12, 0.95), "BACC": Interval(0.7, 0.5, 0.9, 7, 2000, 12, 0.95, "wider")}
    frame = interval_table({"TM": found}, published, 5, published_as=AUC_IS_BALANCED_ACCURACY)
    text = markdown(frame, "Table 5")
    cells = grid(text)
    assert cells["SN"]["TM, paper"] == "0.6700"
    assert cells["SN"]["TM, ours"] == "0.7500 (0.5000 to 0.9000)"
    assert cells["PPV"]["TM, ours"] == "n/a"
    assert cells["ROC AUC"] == {
        "SM, paper": "–",
        "SM, ours": "–",
        "TM, paper": "–",
        "TM, ours": "0.8000 (0.6000 to 0.9500)",
    }
    assert "value (and 95% interval by the 12 judged patients)" in text
    of_test = text_of(Table("Table 5", frame, unit="lesions", part="test"))
    assert "value (and 95% interval by the 12 test lesions)" in of_test
    assert cells["ACC"]["TM, ours"] == "1.0000 (not estimable)", "of no width in an old record"
    assert "SPC: Wilson's score interval with continuity correction" in text
    assert "ROC AUC: DeLong's with clusters (Obuchowski 1997)" in text
    assert "2,000 resamples, up to 7 of which (BACC) leave it undefined and are not counted" in text
    row = frame[(frame["row"] == "AUC") & (frame["column"] == "TM")].iloc[0]
    assert (row["low"], row["high"], row["patients"], row["undefined"], row["method"]) == (0.6, 0.95, 12, 0, "DeLong")


def test_count_table(published: pd.DataFrame) -> None:
    counts = {
        "Benign": {"# WSI": 24, "# Tumor patches": 0, "# Non tumor patches": 12345, "# patients": 20},
        "Malignant": {"# WSI": 16, "# Tumor patches": 7},
    }
    cells = grid(markdown(count_table(counts, published), "Table 1"))
    assert list(cells) == ["# WSI", "# Tumor patches", "# Non tumor patches", "# patients"]
    benign = [row["Benign, ours"] for row in cells.values()]
    assert benign == ["24", "0", "12,345", "20"]
    assert [row["Malignant, ours"] for row in cells.values()] == ["16", "7", "–", "–"]
    assert [row["Malignant, paper"] for row in cells.values()] == ["21", "4,726", "8,139", "–"]


def test_written_files(published: pd.DataFrame, tmp_path: Path) -> None:
    frame = table4(published)
    first = (Headline("BACC", "BGAS", "the best"), Headline("SN", "nobody", "not there"))
    table = Table("Table 4", frame, ("A note.",), "Three ways.", True, "lesions", first, "test")
    _, text, data = write_table(tmp_path, "table4", table)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table4.csv", "table4.json", "table4.md"]
    assert text.read_text(encoding="utf-8") == text_of(table)
    again = read_table(data)
    pd.testing.assert_frame_equal(again.frame, frame)
    assert {**vars(again), "frame": None} == {**vars(table), "frame": None}
    assert text_of(again) == text_of(table), "all that is read stands in the data"
    cells = json.loads(data.read_text(encoding="utf-8"))["cells"]
    [undefined] = [cell for cell in cells if (cell["row"], cell["column"]) == ("NPV", "BGAS")]
    assert "ours" not in undefined and undefined["cohorts"] == 2, "JSON has no NaN"
    for damaged in ("{}", "[]", "torn", '{"cells": [], "headlines": [], "notes": []}'):
        data.write_text(damaged)
        with pytest.raises(InputError, match=r"table4.json: cannot be read as a table \("):
            read_table(data)


def test_written_numbers(published: pd.DataFrame, tmp_path: Path) -> None:
    frame = table4(published)
    csv, text, _ = write_table(tmp_path, "table4", Table("Table 4", frame, ("A note.",)))
    assert text.read_text(encoding="utf-8") == markdown(frame, "Table 4", ["A note."])
    back = pd.read_csv(csv)
    assert len(back) == 4 * len(METRICS)
    cell = back[(back["row"] == "BACC") & (back["column"] == "BGAS")].iloc[0]
    assert (cell["published_row"], cell["published"], cell["ours"]) == ("AUC", 0.8, 0.75)
    assert (cell["defined"], cell["cohorts"]) == (2, 2)


def test_a_cell_has_its_interval_below(published: pd.DataFrame) -> None:
    found = {"TM": {"SN": Interval(0.75, 0.5, 0.9, 0, 2000, 12, 0.95)}}
    frame = interval_table(found, published, 5, published_as={}, metrics=["SN"])
    header, [row] = layout(Table("Table 5", frame))
    assert [(one.text, one.side) for one in header[3:]] == [("TM", "paper"), ("TM", "ours")]
    assert [(one.text, one.below) for one in row[3:]] == [("0.6700", ""), ("0.7500", "0.5000 to 0.9000")]
    partly = layout(Table("Table 4", table4(published)))[1][2]
    assert partly[0].text == "PPV" and (partly[6].text, partly[6].below) == ("1.0000", "1 of 2")


def test_a_mean_of_some_cohorts_says_so_beside_its_interval(published: pd.DataFrame) -> None:
    """It stood there as if of all, above a note that explained "(k of n)"."""
    around = {
        "BGAS": {
            "PPV": Interval(1.0, 0.6, 1.0, 0, 0, 12, 0.95, "Wilson"),
            "SN": Interval(0.75, 0.5, 0.9, 0, 0, 12, 0.95),
        }
    }
    bgas = [cohort(0.5, PPV=math.nan), cohort(1.0)]
    frame = metric_table({"BGAS": bgas}, published, 4, published_as={}, metrics=["PPV", "SN"], intervals=around)
    text = markdown(frame, "Table 4")
    cells = grid(text)
    assert cells["PPV"]["BGAS, ours"] == "1.0000 (0.6000 to 1.0000, 1 of 2)"
    assert cells["SN"]["BGAS, ours"] == "0.7500 ± 0.2500 (0.5000 to 0.9000)"
    assert "(k of n): undefined in the other cohorts" in text


def test_split_note_names_the_test_patients() -> None:
    note = split_note(Split(("a", "b", "c"), (("d", "e"), ("f",))), most=2)
    assert note == "6 patients: 3 in 2 validation cohorts of 2, 1; 3 test patients: a, b and 1 more."
