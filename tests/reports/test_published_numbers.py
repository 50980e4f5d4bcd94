"""The published cells of the spitzoid paper: all there, and consistent where arithmetic says so."""

import pandas as pd
import pytest

from melano_tf.errors import InputError
from melano_tf.reports import published_numbers
from melano_tf.reports.published_numbers import load_published, table_of

METRICS = ["SN", "SPC", "PPV", "NPV", "F1S", "ACC", "AUC"]
MODELS = {
    2: ["VGG16", "SeaNet (with VGG16)", "RESNET", "SeaNet (with RESNET)"],
    3: ["SeaNet+MLP", "SeaNet+GMP", "SeaNet+GAP"],
    4: ["BGMP", "BGAP", "BGAS"],
    5: ["SM", "TM"],
}


@pytest.fixture(scope="module")
def cells() -> pd.DataFrame:
    return load_published("spitzoid")


def test_all_ninety_cells(cells: pd.DataFrame) -> None:
    assert len(cells) == 90
    assert cells["table"].value_counts().to_dict() == {1: 6, 2: 28, 3: 21, 4: 21, 5: 14}
    for table, models in MODELS.items():
        part = cells[cells["table"] == table]
        assert list(dict.fromkeys(part["column"])) == models
        assert all(list(part.loc[part["column"] == model, "row"]) == METRICS for model in models)
    assert cells["value"].notna().all()
    assert (cells["std"].notna() == cells["table"].isin([2, 3, 4])).all()


def test_flags(cells: pd.DataFrame) -> None:
    suspect = cells[cells["flag"] == "suspect"]
    assert suspect[["table", "column", "row", "value", "std"]].to_numpy().tolist() == [
        [3, "SeaNet+MLP", "SN", 0.8716, 0.3],
        [3, "SeaNet+GMP", "AUC", 0.8935, 0.249],
        [4, "BGMP", "SPC", 0.9, 0.3953],
    ]
    assert (cells["flag"] == "printed").sum() == 87


def test_numbers_are_those_of_their_words(cells: pd.DataFrame) -> None:
    for value, std, words in cells[["value", "std", "words"]].itertuples(index=False):
        assert [float(number) for number in words.split(" ± ")] == ([value] if pd.isna(std) else [value, std])


def test_cells_known_from_elsewhere_in_the_text(cells: pd.DataFrame) -> None:
    assert table_of(cells, 5)["ACC", "SM"].value == 0.9231  # the conclusion's testing accuracies
    assert table_of(cells, 5)["ACC", "TM"].value == 0.8
    assert table_of(cells, 4)["ACC", "BGAS"].value == 0.8229  # section 7.2
    assert table_of(cells, 1)["# WSI", "Malignant"].value == 21  # section 3: 21 of the 51 patients
    gap, seanet = table_of(cells, 3), table_of(cells, 2)  # one model in two tables
    assert all(gap[metric, "SeaNet+GAP"] == seanet[metric, "SeaNet (with VGG16)"] for metric in METRICS)


def test_the_printed_auc_is_a_balanced_accuracy(cells: pd.DataFrame) -> None:
    for table, tolerance in ((2, 0.0126), (3, 0.0097), (4, 1e-4), (5, 1e-4)):
        found = table_of(cells, table)
        for model in MODELS[table]:
            half = (found["SN", model].value + found["SPC", model].value) / 2
            assert found["AUC", model].value == pytest.approx(half, abs=tolerance)


def test_a_damaged_file_is_refused_with_all_its_faults(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    path = tmp_path / "x.csv"
    monkeypatch.setattr(published_numbers, "spec_path", lambda name: path)
    path.write_text("table,row,column,value,std,flag,words\n1,a,b,1,,printed,1\n1,a,b,1,,maybe,1\n")
    with pytest.raises(InputError, match="row 3: flag 'maybe'") as caught:
        load_published("x")
    assert "row 3: the cell is listed before" in str(caught.value)
    path.write_text("table,row\n1,a\n")
    with pytest.raises(InputError, match=r"\['column', 'value', 'std', 'flag', 'words'\] are missing"):
        load_published("x")
