"""The published cells of the similarity paper: what is known, and how many our text has lost."""

import pytest

from melano_tf.papers.similarity.settings import COMBINATIONS, JUDGED
from melano_tf.reports.published_numbers import load_published, table_of

CLASSES = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC"]


@pytest.fixture(scope="module")
def cells():
    return load_published("similarity")


def test_known_and_lost_cells_are_counted(cells) -> None:
    assert len(cells) == 409
    sizes = {1: 32, 2: 44, 5: 36, 6: 11, 7: 88, 8: 11, 9: 88, 10: 11, 11: 88}
    assert cells["table"].value_counts().to_dict() == sizes
    known = cells[cells["value"].notna()]
    assert known["table"].value_counts().to_dict() == {2: 4, 5: 3, 6: 2, 7: 6, 8: 2, 9: 5, 10: 2, 11: 6}
    assert len(known) == 30 and cells["value"].isna().sum() == 379
    assert (known["flag"] == "inferred").all()  # from the running text; every table itself is lost
    lost = cells[cells["value"].isna()]
    assert (lost["flag"] == "printed").all() and lost["words"].isna().all() and lost["std"].isna().all()


def test_numbers_stand_in_the_words_they_were_read_from(cells) -> None:
    for table, value, words in cells.loc[cells["value"].notna(), ["table", "value", "words"]].itertuples(index=False):
        written = f"{value:.0f}" if table in (2, 5) else f"{value:g}"
        assert written in words.replace(",", " ").replace(")", " ").split() or written in words, (written, words)


def test_every_result_table_has_the_nine_combinations(cells) -> None:
    for accuracy, by_class in JUDGED.values():
        columns = ["baseline", *COMBINATIONS, "highest"]
        for table, rows in ((accuracy, ["Accuracy"]), (by_class, CLASSES)):
            part = cells[cells["table"] == table]
            assert list(dict.fromkeys(part["column"])) == columns
            assert list(dict.fromkeys(part["row"])) == rows


def test_the_papers_claim_holds_in_its_own_numbers(cells) -> None:
    """Where method and baseline are both known, the method is above; HAM's SCC is the one whose baseline is lost."""
    compared = 0
    for pair in JUDGED.values():
        for table in pair:
            found = table_of(cells, table)
            for (row, column), cell in found.items():
                below = found[row, "baseline"].value
                if column == "highest" and cell.value == cell.value:
                    if below != below:
                        assert (table, row) == (9, "SCC")
                        continue
                    assert cell.value > below
                    compared += 1
    assert compared == 11
