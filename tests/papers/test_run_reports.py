"""The report that every recipe writes at its end, of the runs that the session shares; and two runs compared."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from melano_tf.reports.run_contents import read_tables
from melano_tf.reports.table_files import read_table
from melano_tf.reports.table_layout import markdown
from melano_tf.runs.atomic_files import read_json
from melano_tf.runs.files_of_plan import Standing
from melano_tf.runs.judgements import read_judgements, read_record
from melano_tf.runs.predictions import decided, read_predictions
from tests.papers.tiny import Finished, TinyRun


def check(finished: TinyRun, *words: str) -> None:
    """The report stands in the folder, is named last, lists what differs, and holds these words."""
    path = finished.folder / "report.html"
    assert finished.first.shown.strip().splitlines()[-1].startswith(f"report    {path}")
    page = path.read_text(encoding="utf-8")
    record = read_record(finished.folder)
    assert f"{len(record['differs'])} settings of the method differ" in page
    for text in ("drawings of skin", "Nothing was left out", "None was left out", *words):
        assert text in page, text
    tables = list((finished.folder / "tables").glob("*.md"))
    assert page.count("<article>") >= len(tables) > 0
    pictures = [*(finished.folder / "figures").glob("*.png"), *(finished.folder / "maps").glob("*.png")]
    assert page.count("<img ") > len(pictures) > 0
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def check_data(folder: Path) -> None:
    """Predictions are of the one form, every table stands as data, and the paper's numbers stand first."""
    record, judged = read_record(folder), {name for one in read_record(folder)["judged"] for name in one["files"]}
    made = json.loads((folder / "made.json").read_text())
    files = [path for path in (folder / "predictions").iterdir() if (folder / "models" / f"{path.stem}.json").exists()]
    assert {path.name for path in files} >= judged & {path.name for path in files} != set()
    for path in files:
        table = read_predictions(path)
        assert list(table)[:4] == ["case", "group", "part", "target"]
        threshold = read_json(folder / "models" / f"{path.stem}.json")["threshold"]
        if "calibrated" not in table:
            assert (table["called"] == decided(table, threshold)).all()
    tables = sorted((folder / "tables").glob("*.json"))
    for path in tables:
        assert markdown(read_table(path)) == path.with_suffix(".md").read_text(encoding="utf-8")
        assert len(made[f"tables/{path.name}"]["key"]) == 16 and made[f"tables/{path.name}"]["output"]
    shown = read_tables(Standing(folder, record))
    assert len(shown.shown) >= len(tables) > 0 and len(shown.first) >= 2
    assert any(one.paper for one in shown.first) and all("interval" in one.interval for one in shown.first)
    said = [note for table in shown.shown for note in table.notes]
    assert shown.notes and len(said) == len(set(said)), "what several tables say is said once"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "First numbers" in page and record["report"]["title"].split(":")[0] in page


def test_weighting(tiny_weighting: TinyRun) -> None:
    check_data(tiny_weighting.folder)


def test_similarity(tiny_similarity: TinyRun) -> None:
    check_data(tiny_similarity.folder)


def test_spitzoid(tiny_run: TinyRun) -> None:
    check_data(tiny_run.folder)
    check(tiny_run, "Table 5: the chosen source (tiles)", "target model: ROC.", "Attention over a test slide")
    target, source = read_judgements(tiny_run.folder, read_record(tiny_run.folder))
    assert (target.classes, source.classes) == (("benign", "malignant"), ("non-tumour", "tumour"))
    test = set(read_record(tiny_run.folder)["split"]["test"])
    assert set(source.frame["group"]) <= test == set(target.frame["group"])


def test_multimag(multimag_run: TinyRun) -> None:
    check_data(multimag_run.folder)
    page = (multimag_run.folder / "report.html").read_text(encoding="utf-8")
    assert multimag_run.first.shown.strip().splitlines()[-1].startswith("report    ")
    for text in ("Table 1: melanoma against nevi", "melanoma-40x, first network: ROC.", "only the first 12 are drawn"):
        assert text in page, text
    judged = {one.name: one for one in read_judgements(multimag_run.folder, read_record(multimag_run.folder))}
    assert judged["nevi, second network"].scores.shape[1] == 3
    assert set(judged["melanoma-40x, first network"].frame["called"]) <= {0, 1}


def test_zoome_and_a_comparison(tiny_zoome: TinyRun, inside: Callable[..., Finished], tmp_path: Path) -> None:
    check_data(tiny_zoome.folder)
    check(
        tiny_zoome, "ROC curves: sensitivity against false alarms", "Table II", "Loss by epoch: resnext_standin-zoom."
    )
    [first, *_] = judged = read_judgements(tiny_zoome.folder, read_record(tiny_zoome.folder))
    assert [one.name for one in judged][:3] == ["ZooME", "w/o Zoom-SE", "w/o metadata"]
    assert len(first.frame) == sum(map(len, read_record(tiny_zoome.folder)["folds"].values()))
    for name in ("run.json", "made.json", "inputs.json", "predictions", "models"):
        copy = shutil.copytree if (tiny_zoome.folder / name).is_dir() else shutil.copy
        (tmp_path / "other").mkdir(exist_ok=True)
        copy(tiny_zoome.folder / name, tmp_path / "other" / name)
    found = inside("compare", str(tiny_zoome.folder), str(tmp_path / "other"))
    assert found.code == 0 and "settings do not differ" in found.shown
    # No resample can vary: what the patients' number leaves open stands in its place.
    assert re.search(r"0\.0000 \(-0\.\d+ to \+0\.\d+\)", found.shown)


@pytest.mark.parametrize("command", ["compare", "report"])
def test_help_names_the_runs(inside: Callable[..., Finished], command: str) -> None:
    assert "run" in inside(command, "--help").shown.lower()
