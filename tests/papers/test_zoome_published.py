"""The published cells of the ZooME paper, and how our table stands beside them."""

import pytest

from melano_tf.evaluation.interval import Interval
from melano_tf.papers.zoome.tables import METRICS, PUBLISHED_AS
from melano_tf.reports.published_numbers import load_published, table_of
from melano_tf.reports.table_layout import markdown
from melano_tf.reports.tables import Table, metric_table

ROWS = {
    1: ["Maron et al.", "Kaur et al.", "AlexNet", "ZooME", "w/o Zoom-SE", "w/o Metadata"],
    2: ["ResNet50", "ResNet50 + ZoomSE", "AlexNet", "AlexNet + Meta"],
}
NAMES = ["Accuracy", "Sensitivity", "Specialty", "ROC_AUC"]


@pytest.fixture(scope="module")
def cells():
    return load_published("zoome")


def test_all_thirty_six_cells(cells) -> None:
    assert len(cells) == 36
    assert cells["table"].value_counts().to_dict() == {1: 24, 2: 12}
    for table, models in ROWS.items():
        part = cells[cells["table"] == table]
        assert list(dict.fromkeys(part["column"])) == models
        names = NAMES if table == 1 else NAMES[:3]  # Table II prints no AUC
        assert all(list(part.loc[part["column"] == model, "row"]) == names for model in models)
    assert cells["value"].between(0.7, 0.95).all() and cells["std"].between(0.01, 0.08).all()


def test_numbers_are_the_printed_percents(cells) -> None:
    for value, std, words in cells[["value", "std", "words"]].itertuples(index=False):
        assert [float(number) for number in words.split("±")] == pytest.approx([100 * value, 100 * std])


def test_cells_known_from_elsewhere_in_the_text(cells) -> None:
    own = table_of(cells, 1)  # the abstract
    assert [own[name, "ZooME"].value for name in NAMES] == [0.8459, 0.8595, 0.8463, 0.9223]
    assert own["Accuracy", "AlexNet"] == table_of(cells, 2)["Accuracy", "AlexNet"]


def test_accuracies_that_cannot_be_are_suspect(cells) -> None:
    """An accuracy is the mean of sensitivity and specificity weighted by prevalence, so it lies between them."""
    suspect = 0
    for table, models in ROWS.items():
        found = table_of(cells, table)
        for model in models:
            accuracy = found["Accuracy", model]
            ends = sorted(found[name, model].value for name in NAMES[1:3])
            assert accuracy.flag == ("printed" if ends[0] <= accuracy.value <= ends[1] else "suspect")
            suspect += accuracy.flag == "suspect"
    assert suspect == 6 == (cells["flag"] == "suspect").sum()


def test_one_line_a_model_with_intervals(cells) -> None:
    folds = [{"ACC": 0.7, "SN": 0.8, "SPC": 0.6, "AUC": 0.75}, {"ACC": 0.8, "SN": 0.9, "SPC": 0.7, "AUC": 0.85}]
    around = {"ZooME": {"AUC": Interval(0.8, 0.71, 0.88, 0, 100, 42, 0.95)}}
    frame = metric_table({"ZooME": folds}, cells, 1, published_as=PUBLISHED_AS, metrics=METRICS, intervals=around)
    text = markdown(Table("Table I", frame, models_down=True))
    [line] = [line for line in text.splitlines() if line.startswith("| ZooME")]
    assert "0.9223 ± 0.0169 | 0.8000 ± 0.0500 (0.7100 to 0.8800)" in line
    assert "0.8459 ± 0.0294 † |" in line and "0.7500 ± 0.0500" in line
    header = next(line for line in text.splitlines() if line.startswith("|  "))
    assert "ROC AUC, paper" in header and 'SPC (printed as "Specialty"), ours' in header
    assert "95% interval of the mean by the 42 patients within their cohorts" in text
    assert "mean ± standard deviation over 2 validation cohorts" in text
    assert "an accuracy lies between sensitivity and specificity, 0.8463 to 0.8595" in text
    assert len([line for line in text.splitlines() if line.startswith("| ")]) == 2 + 6


def test_a_table_that_the_paper_does_not_have_has_no_paper_side(cells) -> None:
    frame = metric_table({"given": [{"AUC": 0.7}]}, cells, 0, published_as={}, metrics=("AUC",))
    text = markdown(Table("What the metadata add", frame, models_down=True))
    assert "paper" not in text and "| given |  0.7000 |" in text
    assert "no published value" not in text
