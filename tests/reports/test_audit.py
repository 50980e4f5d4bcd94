"""The audit of a run's folder: who is judged, against all that a model, and what it stands on, has seen."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from melano_tf import run
from melano_tf.reports.audit import audit_run
from melano_tf.reports.report_html import write_report
from melano_tf.runs.judgements import JudgedModel, read_record
from melano_tf.runs.predictions import TEST, write_predictions
from melano_tf.runs.predictions import predictions as in_form
from melano_tf.runs.settings_digest import plain
from tests.reports.made_run import MODEL, bare_run, made_run, of_its_plan, predictions, write_json

STEM = f"{MODEL}-fold-1"
IMAGES = [f"I{number}" for number in range(6)]  # two a patient: P0, P1, P2
OTHERS = ["T0", "T1", "T2", "T3"]
COPIES = "image_1,image_2,kind,distance\n"


def record(folder: Path, stem: str, fed: list[str], chose: tuple[str, ...] = (), **more: Any) -> None:
    """A training's record as `training.fed_cases` writes it."""
    rows = [("fed", name, name, "") for name in fed] + [("chose", name, name, "") for name in chose]
    rows += [("judged", name, name, "") for name in more.get("judged", ())]
    rows += [("after", name, "", why) for name, why in more.get("after", {}).items()]
    rows += [("divided", "", "", more["divided"])] if "divided" in more else []
    path = folder / "audit" / f"{stem}.parquet"
    path.parent.mkdir(exist_ok=True)
    pd.DataFrame(rows, columns=["role", "id", "case", "why"]).to_parquet(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of one model, judged by six images of three patients; four others are there."""
    folder = made_run(tmp_path / "run", predictions(IMAGES))
    owners = [f"P{place // 2}" for place in range(6)] + ["Q0", "Q0", "Q1", "p 1"]
    content = [f"c{place}" for place in range(10)]
    cases = {"case": [*IMAGES, *OTHERS], "patient": owners, "lesion": None, "content": content}
    (folder / "audit").mkdir()
    pd.DataFrame(cases).to_parquet(folder / "audit" / "cases.parquet")
    return folder


def found(folder: Path) -> dict[str, str]:
    """The line of each training."""
    of_its_plan(folder)
    return {one.training: one.line() for one in audit_run(folder, read_record(folder)).findings}


def audited(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str]:
    """The command, and what it showed."""
    of_its_plan(folder)
    code = run.main(["audit", str(folder), *more])
    return code, capsys.readouterr().out


def test_a_run_without_overlap_ends_well_and_says_what_it_compared(folder, capsys) -> None:
    record(folder, STEM, OTHERS)
    code, shown = audited(folder, capsys)
    assert code == 0 and f"{STEM}: 4 cases fed, 0 chose, 6 judged: no overlap" in shown
    assert "1 patients may be two names of one" in shown and "'P1' = 'p 1'" in shown
    page = write_report(folder).read_text(encoding="utf-8")
    assert "Who saw whom" in page and "1 trainings and choices: 0 with an overlap, 0 with one that" in page


def test_who_is_judged_in_a_file_of_predictions_was_not_fed_whatever_the_record_says(folder, capsys) -> None:
    record(folder, STEM, [*OTHERS, "I2", "I3"])
    code, shown = audited(folder, capsys)
    assert code == 1 and f"{STEM}: 6 cases fed, 0 chose, 6 judged: OVERLAP: trained on and judged: 1 (P1)" in shown
    assert "OVERLAP: trained on and judged: 1 (P1)" in write_report(folder).read_text(encoding="utf-8")


def test_a_copy_of_a_judged_image_counts_as_that_image(folder) -> None:
    record(folder, STEM, OTHERS[:2])
    assert found(folder)[STEM].endswith("no overlap")
    pd.DataFrame({"image_1": ["T1"], "image_2": ["I5"], "kind": ["near"], "distance": [3]}).to_csv(
        folder / "copies.csv", index=False
    )
    assert "OVERLAP: trained on and judged: 1 (P2)" in _with_copies(folder)[STEM]
    cases = pd.read_parquet(folder / "audit" / "cases.parquet")
    cases.loc[cases["case"] == "T0", "content"] = "c0"  # equal files under two names
    cases.to_parquet(folder / "audit" / "cases.parquet")
    (folder / "copies.csv").unlink()
    assert "OVERLAP: trained on and judged: 1 (P0)" in found(folder)[STEM]


def copies_of_its_plan(folder: Path) -> Path:
    """The same with a table of copies in the run's own folder, which `of_its_plan` passes over."""
    of_its_plan(folder)
    made = json.loads((folder / "made.json").read_text())
    made["copies.csv"] = next(iter(made.values()))
    write_json(folder / "made.json", made)
    return folder


def _with_copies(folder: Path) -> dict[str, str]:
    copies_of_its_plan(folder)
    return {one.training: one.line() for one in audit_run(folder, read_record(folder)).findings}


def count_copies(folder: Path, **kinds: int) -> None:
    """Have run.json count pairs of copies."""
    write_json(folder / "run.json", read_record(folder) | {"copies": kinds})


def test_lost_copies_are_said_where_the_run_counts_some(folder, capsys) -> None:
    record(folder, STEM, OTHERS[:2])
    count_copies(folder)
    code, shown = audited(folder, capsys)
    assert code == 0 and "copies.csv" not in shown
    count_copies(folder, near=1)
    code, shown = audited(folder, capsys)
    assert code == 0 and "note: copies.csv is missing, and run.json counts copies" in shown
    (folder / "copies.csv").write_text(COPIES + "T1,I5,near,3\n")
    assert "OVERLAP: trained on and judged: 1 (P2)" in _with_copies(folder)[STEM]
    assert run.main(["audit", str(folder)]) == 1 and "copies.csv" not in capsys.readouterr().out


def test_an_image_called_na_has_copies_as_well(folder) -> None:
    cases = pd.read_parquet(folder / "audit" / "cases.parquet")
    cases.loc[cases["case"] == "T1", "case"] = "NA"
    cases.to_parquet(folder / "audit" / "cases.parquet")
    record(folder, STEM, ["NA"])
    (folder / "copies.csv").write_text(COPIES + "NA,I5,near,3\n")
    assert "OVERLAP: trained on and judged: 1 (P2)" in _with_copies(folder)[STEM]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"image_1,kind,distance\nT1,near,3\n",
        COPIES.encode() + b"T1,I5,near,3\nT2,I",  # torn in a row
        COPIES.encode() + b"T1,I5,near,3\n",  # torn between two
        COPIES.encode() + b'T1,"I5,near,3\n',
        COPIES.encode() + b"T1,\xff\xfe,near,3\n",
    ],
)
def test_damaged_copies_are_said_in_one_line(folder, capsys, content) -> None:
    record(folder, STEM, OTHERS)
    count_copies(folder, near=2)
    (folder / "copies.csv").write_bytes(content)
    copies_of_its_plan(folder)
    assert run.main(["audit", str(folder)]) == 2
    errors = capsys.readouterr().err
    assert str(folder / "copies.csv") in errors and errors.count("\n") == 1
    assert str(folder / "copies.csv") in write_report(folder).read_text(encoding="utf-8")


@pytest.mark.parametrize("named", ["{}/{}", "{}/40x/{}"])  # as spitzoid and multimag call a tile
def test_a_judged_tile_counts_as_its_slide(tmp_path, named) -> None:
    folder = bare_run(tmp_path / "run", "spitzoid")
    model = JudgedModel("source model", ("source.parquet",), ("non-tumour", "tumour"), "tiles")
    write_json(folder / "run.json", read_record(folder) | {"judged": plain([model])})
    tiles = pd.DataFrame([(f"S{n // 3}", f"P{n // 3}", n % 3) for n in range(9)], columns=["slide_id", "group", "tile"])
    names = [named.format(*row) for row in zip(tiles["slide_id"], tiles["tile"], strict=True)]
    rows = tiles.assign(case=names, part=TEST, target=tiles["tile"] % 2)
    (folder / "predictions").mkdir()
    write_predictions(folder / "predictions" / "source.parquet", in_form(rows, np.full(9, 0.5)))
    slides = [f"S{n}" for n in range(6)]
    owners = pd.DataFrame({"case": slides, "patient": [f"P{n}" for n in range(6)], "lesion": None, "content": slides})
    (folder / "audit").mkdir()
    owners.to_parquet(folder / "audit" / "cases.parquet")
    record(folder, "source", ["S3", "S4"], judged=["S0", "S1", "S2"])
    assert found(folder)["source"] == "source: 2 cases fed, 0 chose, 3 judged: no overlap"
    record(folder, "source", ["S2", "S4"], judged=["S0", "S1"])
    assert found(folder)["source"] == "source: 2 cases fed, 0 chose, 3 judged: OVERLAP: trained on and judged: 1 (P2)"
    owners.assign(content=owners["content"].replace("S4", "S1")).to_parquet(folder / "audit" / "cases.parquet")
    assert found(folder)["source"].endswith("OVERLAP: trained on and judged: 2 (P1, P2)")


def test_what_a_model_stands_on_counts_through_any_number_of_steps(folder) -> None:
    record(folder, STEM, ["T2"], after={"warm": ""})
    record(folder, "warm", ["T2"], after={"teacher": ""})
    assert "it stands on teacher, of which there is no record" in found(folder)[STEM]
    record(folder, "teacher", ["T2", "I0"])
    lines = found(folder)
    assert "OVERLAP: seen by teacher and judged: 1 (P0)" in lines[STEM]
    assert lines["teacher"].endswith("no overlap") and lines["warm"].endswith("no overlap")


def test_what_chose_may_be_neither_fed_nor_judged(folder) -> None:
    record(folder, STEM, ["T0", "T2"], chose=("T1",))
    assert found(folder)[STEM].endswith("OVERLAP: trained on and chose: 1 (Q0)")
    record(folder, STEM, ["T2"], chose=("T1", "I4"))
    assert "OVERLAP: chose and judged: 1 (P2)" in found(folder)[STEM]
    record(folder, STEM, ["T2"])
    record(folder, "decision", [], chose=("T2",), after={STEM: ""})
    assert f"OVERLAP: seen by {STEM} and chose: 1 (Q1)" in found(folder)["decision"]


def test_what_the_paper_or_a_setting_declares_is_told_apart(folder, capsys) -> None:
    record(folder, STEM, ["T2"], after={"teacher": "the paper's teacher sees all"})
    record(folder, "teacher", IMAGES)
    code, shown = audited(folder, capsys)
    assert (
        code == 1 and "declared: seen by teacher and judged: 3 (P0, P1, P2), for the paper's teacher sees all" in shown
    )
    assert "1 with one that the paper or a setting declares" in shown and "OVERLAP" not in shown
    assert audited(folder, capsys, "--accept-declared")[0] == 0
    # A division by image excuses a patient on both sides, never an image.
    cases = pd.read_parquet(folder / "audit" / "cases.parquet")
    cases.loc[cases["case"] == "T2", "patient"] = "P0"
    cases.to_parquet(folder / "audit" / "cases.parquet")
    record(folder, STEM, ["T2"], divided="--allow-leaks")
    assert "declared: trained on and judged: 1 (P0), for --allow-leaks" in found(folder)[STEM]
    record(folder, STEM, ["T2", "I3"], divided="--allow-leaks")
    assert "OVERLAP: trained on and judged: 1 (I3)" in found(folder)[STEM]


def test_a_model_without_a_record_and_a_record_of_another_plan_are_no_evidence(folder, capsys) -> None:
    record(folder, STEM, OTHERS)
    (folder / "models" / "other.keras").write_bytes(b"weights")
    code, shown = audited(folder, capsys)
    assert (
        code == 1 and "other: 0 cases fed, 0 chose, 0 judged: OVERLAP: there is no record of what it was fed" in shown
    )
    (folder / "models" / "other.keras").unlink()
    of_its_plan(folder)
    record(folder, "older", IMAGES, judged=IMAGES)  # made after made.json: of no plan
    code = run.main(["audit", str(folder)])
    assert code == 0 and "older" not in capsys.readouterr().out


def test_predictions_whose_record_is_gone_are_no_evidence(folder, capsys) -> None:
    record(folder, STEM, OTHERS)
    assert audited(folder, capsys)[0] == 0
    (folder / "audit" / f"{STEM}.parquet").unlink()
    (folder / "models" / f"{STEM}.keras").write_bytes(b"weights")
    code, shown = audited(folder, capsys)
    line = f"{STEM}: 0 cases fed, 0 chose, 6 judged: OVERLAP: there is no record of what it was fed"
    assert code == 1 and shown.splitlines().count(line) == 1 and shown.count(STEM) == 1


@pytest.mark.parametrize("content", [None, b"", b'{"models/a', b"[]"])
def test_a_run_that_no_longer_knows_its_files_is_not_audited(folder, capsys, content) -> None:
    record(folder, STEM, OTHERS)
    assert audited(folder, capsys)[0] == 0
    (folder / "made.json").unlink()
    if content is not None:
        (folder / "made.json").write_bytes(content)
    assert run.main(["audit", str(folder)]) == 2
    told = capsys.readouterr()
    assert not told.out and told.err.count("\n") == 1
    assert f"{folder}: nothing can be audited: made.json" in told.err and "missing or damaged" in told.err
    assert "nothing can be audited" in write_report(folder).read_text(encoding="utf-8")


def test_a_run_of_other_settings_is_not_audited_and_an_untrained_one_ends_well(folder, tmp_path, capsys) -> None:
    record(folder, STEM, OTHERS)
    of_its_plan(folder)
    write_json(folder / "run.json", read_record(folder) | {"plan": {"settings": "others", "data": None}})
    assert run.main(["audit", str(folder)]) == 2
    errors = capsys.readouterr().err
    assert "is of the run's present settings and data" in errors and errors.count("\n") == 1
    bare = bare_run(tmp_path / "bare")
    (bare / "audit").mkdir()
    (folder / "audit" / "cases.parquet").rename(bare / "audit" / "cases.parquet")
    assert audited(bare, capsys)[0] == 0
    (bare / "made.json").unlink()
    assert run.main(["audit", str(bare)]) == 0
    assert "nothing was trained under this run's settings" in capsys.readouterr().out


def test_a_damaged_record_is_said_in_one_line(folder, capsys) -> None:
    record(folder, STEM, OTHERS)
    path = folder / "audit" / f"{STEM}.parquet"
    path.write_bytes(path.read_bytes()[:40])
    of_its_plan(folder)
    assert run.main(["audit", str(folder)]) == 2
    errors = capsys.readouterr().err
    assert str(path) in errors and errors.count("\n") == 1
    assert "cannot be read" in write_report(folder).read_text(encoding="utf-8")
