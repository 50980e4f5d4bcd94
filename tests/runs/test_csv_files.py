"""Tables that people open in a spreadsheet: text that would be calculated there is text, numbers are numbers."""

from pathlib import Path

import numpy as np
import pandas as pd

from melano_tf.commands.compare import write
from melano_tf.commands.predict.challenge_table import write_challenge
from melano_tf.reports.table_files import write_table
from melano_tf.reports.tables import Table, frame_of
from melano_tf.runs.atomic_files import write_csv
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.model_interface import Answer, Case

EVIL = '=HYPERLINK("x")'


def test_text_is_text_and_numbers_stay(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "name": [EVIL, "@a", "-0.5 kg", "S-1"],
            "+value": [-0.5, np.nan, 2.25, -3.0],
            "count": pd.array([-1, None, 3, 4], dtype="Int64"),
            "mixed": [-0.5, "+1", None, "-"],
        }
    )
    write_csv(tmp_path / "a.csv", frame)
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines == [
        "name,'+value,count,mixed",
        '"\'=HYPERLINK(""x"")",-0.5,-1,-0.5',
        "'@a,,,'+1",
        "'-0.5 kg,2.25,3,",
        "S-1,-3.0,4,'-",
    ]
    write_csv(tmp_path / "b.csv", frame.set_index("name")[["count"]], index=True)
    assert (tmp_path / "b.csv").read_text().splitlines()[2] == "'@a,"


def test_the_tables_of_a_run_and_compare_are_written_so(tmp_path: Path) -> None:
    frame = pd.DataFrame({"row": [EVIL], "column": ["-x"], "ours": [-0.5]})
    write(tmp_path / "compared", frame, "text")
    assert "'=HYPERLINK" in (tmp_path / "compared" / "comparison.csv").read_text()
    assert pd.read_csv(tmp_path / "compared" / "comparison.csv")["ours"].tolist() == [-0.5]
    written = write_table(tmp_path, "table1", Table("one", frame_of(frame.to_dict("records"))))
    told = pd.read_csv(written[0])
    assert told["row"].tolist() == ["'" + EVIL] and told["ours"].tolist() == [-0.5]
    assert EVIL in written[2].read_text().replace("\\", "") and "'=" not in written[2].read_text()


def test_a_challenges_table_is_written_so(tmp_path: Path) -> None:
    sidecar = Sidecar("weighting", ("MEL", "NV"), 32, {}, None, "none", {})
    given = {"=1+1.jpg": 0.25, "-5.jpg": 1.0, "@x.png": 1e-12, "ISIC_1.jpg": 0.5}
    answers = [Answer(Case(Path(name)), np.array([p, 1 - p])) for name, p in given.items()]
    write_challenge(tmp_path / "a.csv", [*answers, Answer(Case(Path("+torn.jpg")), None, "torn")], [], sidecar)
    assert (tmp_path / "a.csv").read_text().splitlines() == [
        "image,MEL,NV",
        "'=1+1,0.2500000000,0.7500000000",
        "'-5,1.0000000000,0.0000000000",
        "'@x,0.0000000000,1.0000000000",
        "ISIC_1,0.5000000000,0.5000000000",
    ]
    write_challenge(tmp_path / "b.csv", [], [], sidecar)
    assert (tmp_path / "b.csv").read_text() == "image,MEL,NV\n"
