"""`check`: counts, copies, folds; a fault where a run could not start; bad input in one clear line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from melano_tf.commands.check import CheckSettings, check
from melano_tf.dermoscopy.image_files import MAX_PIXELS, read_image
from melano_tf.phantoms.skin.isic_data_sets import PhantomDermoscopy, draw_dermoscopy
from melano_tf.phantoms.skin.patients import PhantomDermoscopySettings
from melano_tf.run import main


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> PhantomDermoscopy:
    settings = PhantomDermoscopySettings(patients=36, height_px=64, duplicate_share=0.06)
    return draw_dermoscopy(tmp_path_factory.mktemp("check") / "set", settings, seed=2)


def lines_of(settings: CheckSettings) -> tuple[int, str]:
    shown: list[str] = []
    code = check(settings, shown.append)
    return code, "\n".join(shown)


def test_it_says_what_the_set_holds(drawn: PhantomDermoscopy, tmp_path: Path) -> None:
    tables = tuple(drawn.tables.values())
    code, shown = lines_of(CheckSettings(tables, (drawn.images,), tmp_path / "found", folds=3))
    assert code == 0, shown
    truth = pd.read_csv(drawn.truth)
    assert f"rows: {len(truth):,} (official: 33,126)" in shown
    assert f"class melanoma: {truth['label'].eq('melanoma').sum()}" in shown
    assert "exact duplicate pairs" in shown and "listed duplicate pairs" in shown
    assert "3 folds by patient:" in shown and "a run could start" in shown
    copies = pd.read_csv(tmp_path / "found" / "copies.csv")
    assert truth["copy"].eq("exact").sum() <= len(copies)
    assert len(pd.read_csv(tmp_path / "found" / "records.csv")) == len(truth)
    assert json.loads((tmp_path / "found" / "check.json").read_text())["dataset"] == "isic2020"


def test_without_images_only_the_tables_are_looked_at(drawn: PhantomDermoscopy) -> None:
    code, shown = lines_of(CheckSettings((drawn.tables["ground_truth"],), folds=3))
    assert code == 0 and "without a file" not in shown and "folds by patient" in shown


def test_classes_too_small_for_the_folds_are_a_fault(drawn: PhantomDermoscopy) -> None:
    code, shown = lines_of(CheckSettings((drawn.tables["ground_truth"],), folds=35))
    assert code == 2 and "WRONG  class melanoma" in shown and "ask for fewer folds" in shown


def test_bad_files_are_named(drawn: PhantomDermoscopy, tmp_path: Path) -> None:
    truth = pd.read_csv(drawn.tables["ground_truth"])
    folder = tmp_path / "images"
    folder.mkdir()
    names = truth["image_name"].tolist()
    for name in names[3:]:
        (folder / f"{name}.jpg").write_bytes((drawn.images / f"{name}.jpg").read_bytes())
    (folder / f"{names[0]}.jpg").write_text("not an image")
    whole = (drawn.images / f"{names[1]}.jpg").read_bytes()
    (folder / f"{names[1]}.jpg").write_bytes(whole[: len(whole) // 2])
    upright = Image.open(drawn.images / f"{names[2]}.jpg")
    exif = upright.getexif()
    exif[274] = 6
    upright.save(folder / f"{names[2]}.jpg", exif=exif)
    code, shown = lines_of(CheckSettings((drawn.tables["ground_truth"],), (folder,), folds=3))
    assert code == 0
    assert "1 unreadable images" in shown and "neither a JPEG nor a PNG" in shown
    assert f"unreadable: {names[1]}" in shown
    assert f"images that can be used: {len(names) - 2:,} " in shown
    assert f"a run could start on {len(names) - 2:,} images; the other 2 of the table cannot be used" in shown
    assert "1 images with an EXIF orientation (ignored)" in shown


def test_images_of_more_pixels_than_allowed_are_neither_decoded_nor_counted(drawn: PhantomDermoscopy) -> None:
    given = ((drawn.tables["ground_truth"],), (drawn.images,))
    code, shown = lines_of(CheckSettings(*given, folds=3, max_pixels=100))
    assert code == 2 and "not one image can be used" in shown
    above = replace(CheckSettings(*given, folds=3), max_pixels=MAX_PIXELS + 7)
    seen: list[int] = []

    def watched(path: Path, most: int, shrink_to: int) -> np.ndarray:
        seen.append(most)
        return read_image(path, most, shrink_to=shrink_to)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("melano_tf.dermoscopy.duplicates.read_image", watched)
        lines_of(above)
    assert set(seen) == {MAX_PIXELS + 7}


def test_all_that_was_found_stands_in_the_file(drawn: PhantomDermoscopy, tmp_path: Path) -> None:
    truth = pd.read_csv(drawn.tables["ground_truth"])
    path = tmp_path / drawn.tables["ground_truth"].name
    truth.assign(extra=1, lesion_id="IL_1").to_csv(path, index=False)
    code, shown = lines_of(CheckSettings((path,), out=tmp_path / "found", folds=3))
    found = json.loads((tmp_path / "found" / "check.json").read_text())
    assert code == 0 and "lesion IL_1 belongs to several patients" in shown
    assert found["lesions_of_several_patients"] == ["IL_1"]
    assert found["unused_columns"] == [[path.name, "extra"]]
    classes = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
    rows = [f"I{n},{','.join('01'[n % 8 == k] for k in range(8))}" for n in range(24)]
    (tmp_path / "truth.csv").write_text("\n".join([f"image,{','.join(classes)}", *rows]))
    told = [f"I{n},{5 * n},torso,L{n},male" for n in range(24)]
    (tmp_path / "told.csv").write_text("\n".join(["image,age_approx,anatom_site_general,lesion_id,sex", *told]))
    tables = (tmp_path / "truth.csv", tmp_path / "told.csv")
    code, shown = lines_of(CheckSettings(tables, out=tmp_path / "found", folds=3))
    found = json.loads((tmp_path / "found" / "check.json").read_text())
    assert code == 0 and "1 images of age 0" in shown
    assert [entry[:2] for entry in found["doubtful"]] == [["I0", "age 0"]]


def test_bad_input_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert main(["check", "--table", str(tmp_path / "other.csv")]) == 2
    assert "none of the ISIC 2018, 2019 or 2020 tables" in capsys.readouterr().err
    assert main(["check", "--table", str(tmp_path / "missing.csv")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_the_official_table(real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = real_data / "isic2020"
    names = ("ISIC_2020_Training_GroundTruth.csv", "ISIC_2020_Training_Duplicates.csv")
    assert main(["check", "--table", *(str(folder / name) for name in names)]) == 0
    shown = capsys.readouterr().out
    assert "rows: 33,126 (as published)" in shown and "58 to 59 melanoma" in shown
    assert "listed duplicate pairs: 425 (as published)" in shown
