"""Readers in the report: agreement on the cases that both read, and notes as they were written."""

from pathlib import Path

import numpy as np
import pandas as pd

from melano_tf.reports.reader_tables import TRUTH, readers
from melano_tf.reports.report_html import write_report
from melano_tf.runs.judgements import Judgement
from melano_tf.runs.predictions import predictions
from melano_tf.runs.reader_notes import BLIND, OPEN, Note, append
from tests.reports.made_run import HOSTILE, made_run
from tests.reports.made_run import predictions as made_predictions
from tests.runs.test_reader_notes import hold

CASES = [f"P{number:02}" for number in range(12)]
TARGET = [0, 1] * 6


def judgement() -> Judgement:
    rows = pd.DataFrame({"case": CASES, "part": "test", "target": TARGET})
    rows["group"] = [f"Q{number // 2}" for number in range(12)]
    answers = np.where(np.arange(12) < 9, np.array(TARGET) * 0.8 + 0.1, 0.9)  # wrong on P10
    return Judgement("target model", ("benign", "malignant"), predictions(rows, answers), "biopsies", {})


def write(folder: Path, reader: str, verdicts: dict[str, str]) -> None:
    for case, verdict in verdicts.items():
        append(folder, Note("2026-01-01T10:00:00+0000", reader, BLIND, case, verdict, seed="0"))


def test_readers_against_model_label_and_each_other(tmp_path: Path) -> None:
    names = ("benign", "malignant")
    truth = {case: names[target] for case, target in zip(CASES, TARGET, strict=True)}
    write(tmp_path, "ada", {**truth, "P00": "unsure"})
    write(tmp_path, "bo", {case: ("malignant" if case == "P04" else truth[case]) for case in CASES[:8]})
    write(tmp_path, "lone", {"P03": "benign"})
    found = readers(tmp_path, [judgement()])
    by_pair = {(one.first, one.second): one for one in found.agreements}
    assert set(by_pair) == {
        ("ada", TRUTH),
        ("ada", "target model"),
        ("bo", TRUTH),
        ("bo", "target model"),
        ("ada", "bo"),
    }
    assert by_pair["ada", TRUTH].same == "1.000" and by_pair["ada", TRUTH].cases == 11
    assert by_pair["ada", "bo"].cases == 7 and by_pair["ada", "bo"].same == f"{6 / 7:.3f}"
    # 7 of 8 alike; ada's and the label's shares: by hand 0.75 with 4 and 4 against 3 and 5.
    assert by_pair["bo", TRUTH].kappa.startswith("0.7500 (")
    assert by_pair["bo", TRUTH].groups == 4
    assert found.unsure == {"ada": 1}


def test_notes_stand_in_the_report_as_they_were_written(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", made_predictions([f"ISIC_{n:03}" for n in range(40)]))
    append(run, Note("2026-01-01T10:00:00+0000", "ada", OPEN, "ISIC_003", "disagree", HOSTILE, "ZooME", "melanoma"))
    write(run, "ada", {f"ISIC_{n:03}": "melanoma" if n % 2 else "benign" for n in range(10)})
    page = write_report(run).read_text(encoding="utf-8")
    assert "Readers" in page and "disagree" in page and HOSTILE not in page
    assert "Cohen" in page and "ZooME" in page


def test_a_run_without_readers_says_nothing_of_them(tmp_path: Path) -> None:
    assert readers(tmp_path, [judgement()]).agreements == []
    run = made_run(tmp_path / "run", made_predictions([f"ISIC_{n:03}" for n in range(40)]))
    assert 'id="readers"' not in write_report(run).read_text(encoding="utf-8")


def test_tiles_are_no_cases(tmp_path: Path) -> None:
    tiles = judgement()
    write(tmp_path, "ada", dict.fromkeys(CASES[:4], "benign"))
    only = Judgement(tiles.name, tiles.classes, tiles.frame.assign(tile=1), "tiles", {})
    assert readers(tmp_path, [only]).agreements == []


def test_readings_of_another_cohort_are_left_out_and_counted(tmp_path: Path) -> None:
    write(tmp_path, "old", dict.fromkeys(CASES[:3], "benign"))  # does not say of which files
    hold(tmp_path, **dict.fromkeys(CASES, "ab12"))
    write(tmp_path, "ada", dict.fromkeys(CASES[:5], "benign"))
    hold(tmp_path, **{case: "cd34" if case in CASES[:4] else "ab12" for case in CASES})
    write(tmp_path, "bo", dict.fromkeys(CASES[:6], "malignant"))
    found = readers(tmp_path, [judgement()])
    counts = {(one.first, one.second): one.cases for one in found.agreements}
    assert counts == {(r, o): n for r, n in (("bo", 6), ("old", 3)) for o in (TRUTH, "target model")} | {
        ("bo", "old"): 3
    }
    assert found.cohort == [
        "Left out, of cases of another cohort in this folder: 4 notes.",
        "An earlier version wrote 3 notes that do not say of which file they are; they count as this cohort's.",
    ]
