"""The published cells of the sample-weighting paper, and whether they are plausible."""

import pytest

from melano_tf.reports.published_numbers import load_published, table_of

ROWS = [f"{loss}{weights}" for loss in ("CEL", "FL") for weights in ("", "-CB", "-ES", "-SPL", "-OHEM")]
METRICS = ["Acc", "BAcc", "mPR", "mF1"]


@pytest.fixture(scope="module")
def cells():
    return load_published("weighting")


def value(cells, table: int, metric: str, row: str) -> float:
    return table_of(cells, table)[metric, row].value


def test_all_167_cells(cells) -> None:
    assert len(cells) == 167
    assert cells["table"].value_counts().to_dict() == {1: 7, 2: 40, 3: 40, 4: 40, 5: 40}
    for table in (2, 3, 4, 5):
        part = cells[cells["table"] == table]
        assert list(dict.fromkeys(part["column"])) == ROWS
        assert all(list(part.loc[part["column"] == row, "row"]) == METRICS for row in ROWS)
        assert part["value"].between(0.35, 0.9).all()
    assert cells["std"].isna().all()


def test_numbers_are_the_printed_words(cells) -> None:
    for table, row, column, number, words in cells[["table", "row", "column", "value", "words"]].itertuples(
        index=False
    ):
        said, printed = words.rsplit(" ", 1)
        if table == 1:
            assert said.replace("Beningn", "Benign") == row and float(printed) == number
            continue
        loss, weights = said.partition(":")[0].split()
        assert column == (loss if weights == "-" else f"{loss}-{weights}")
        assert said.endswith(row) and float(printed) == pytest.approx(100 * number)


def test_table_1_does_not_add_up(cells) -> None:
    """Its text says 10,015, which is what the official files hold; each printed count is at or above the official."""
    found = cells[cells["table"] == 1]
    assert found["value"].sum() == 10_068 and found["flag"].eq("suspect").all()
    assert cells.loc[cells["table"] > 1, "flag"].eq("printed").all()


@pytest.mark.parametrize("table", [2, 3, 4, 5])
def test_means_of_f1_scores_are_possible(cells, table) -> None:
    """Of each class F1 is at most (RE + PR) / 2, so the means are too; 0.001 is what rounding of averages allows."""
    for row in ROWS:
        accuracy, recall, precision, f1 = (value(cells, table, metric, row) for metric in METRICS)
        assert f1 <= (recall + precision) / 2 + 0.001
        assert recall < accuracy, "nevus, two thirds of the images, is the easiest"


def test_what_the_text_says_of_the_tables(cells) -> None:
    for flat, sgd in ((2, 4), (3, 5)):
        assert all(value(cells, flat, "BAcc", row) > value(cells, sgd, "BAcc", row) for row in ROWS)
    for table in (2, 3, 4, 5):
        for loss in ("CEL", "FL"):
            for weights in ("CB", "ES"):
                assert value(cells, table, "BAcc", f"{loss}-{weights}") > value(cells, table, "BAcc", loss)
                assert value(cells, table, "Acc", f"{loss}-{weights}") < value(cells, table, "Acc", loss)
    # Three of four cells of a row of Table 2 are printed twice: noted under our table.
    assert all(value(cells, 2, m, "FL-CB") == value(cells, 2, m, "CEL-CB") for m in ("BAcc", "mPR", "mF1"))
    assert value(cells, 2, "Acc", "FL-CB") != value(cells, 2, "Acc", "CEL-CB")
