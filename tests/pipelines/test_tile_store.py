"""The tile store: what it holds, what it refuses, and what a kill leaves behind."""

import dataclasses
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from small_slides import MPP, SIZE, write_annotation, write_slide_file

from melano_tf.errors import InputError
from melano_tf.pipelines import slide_cutting, tile_store
from melano_tf.pipelines.processes import DIED, Engine, WorkerDied, on_this_machine
from melano_tf.pipelines.slide_cutting import write_slide
from melano_tf.pipelines.slide_outcome import finished
from melano_tf.pipelines.tfrecords import PLACE, read_jpegs
from melano_tf.pipelines.tile_store import write_cohort
from melano_tf.pipelines.tile_store_settings import StoreSettings
from melano_tf.runs import journal
from melano_tf.slides.annotations import AnnotationSettings
from melano_tf.slides.slide import Slide, SlideReadError
from melano_tf.slides.tiling import TileGrid

GRID = TileGrid(tile_px=64, mpp=1.0, overlap=0.0)
STORE = StoreSettings(stored_px=32, mask_mpp=4.0)
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good slides, one of glass, one cut short, one damaged in the middle, one with a polygon elsewhere."""
    folder = tmp_path_factory.mktemp("slides")
    for seed, name in enumerate(("a", "b", "c", "outside", "damaged", "cut")):
        write_slide_file(folder / f"{name}.tiff", seed)
    write_slide_file(folder / "glass.tiff", 9, tissue=False)
    content = (folder / "cut.tiff").read_bytes()
    (folder / "cut.tiff").write_bytes(content[: len(content) // 2])
    damaged = bytearray((folder / "damaged.tiff").read_bytes())
    with tifffile.TiffFile(folder / "damaged.tiff") as file:
        start = file.pages[0].dataoffsets[5]  # a tile in the middle of the tissue
    damaged[start : start + 5000] = bytes(5000)
    (folder / "damaged.tiff").write_bytes(damaged)
    write_annotation(folder / "a.geojson", [(0, 0), (512, 0), (512, 768), (0, 768)])
    write_annotation(folder / "outside.geojson", [(5000, 5000), (6000, 5000), (6000, 6000)])
    return folder


def manifest(slides: Path, *names: str) -> pd.DataFrame:
    rows = []
    for name in names:
        annotation = slides / f"{name}.geojson"
        rows.append(
            {
                "slide_id": name,
                "path": str(slides / f"{name}.tiff"),
                "patient_id": f"patient-{name}",
                "label": "benign",
                "annotation": str(annotation) if annotation.exists() else None,
                "mpp": np.nan,
            }
        )
    return pd.DataFrame(rows)


def row(slides: Path, name: str) -> dict[str, Any]:
    return {str(key): value for key, value in manifest(slides, name).iloc[0].items()}


def hashes(folder: Path) -> dict[str, str]:
    """Of everything that must not depend on when and by how many processes it was written."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.suffix in (".tfrecord", ".parquet")
    }


def test_a_slide_becomes_tiles(slides: Path, tmp_path: Path) -> None:
    outcome = write_slide(row(slides, "a"), GRID, STORE, tmp_path)
    table = pd.read_parquet(tmp_path / "a.tiles.parquet")
    assert (outcome.status, outcome.attempts, outcome.reason) == ("done", 1, "")
    assert outcome.notes == "1 Point passed over"
    assert outcome.grid_positions == 8 * 6 and outcome.tiles == len(table) > 20
    assert outcome.bytes == (tmp_path / "a.tfrecord").stat().st_size
    assert table.dtypes.astype(str).to_dict() == tile_store.TABLE
    assert (table["tissue"] >= 0.2).all()
    # The polygon is the slide's left half.
    assert (table["tumour"] == np.where(table["x"] < SIZE[0] / 2, 1.0, 0.0)).all()
    jpegs = read_jpegs(tmp_path, "a", table[list(PLACE)].to_numpy())
    with Slide(slides / "a.tiff") as slide:
        for jpeg, tile in zip(jpegs, table.to_dict("records"), strict=True):
            image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
            truth = cv2.resize(slide.read(tile["x"], tile["y"], 64, 1.0), (32, 32), interpolation=cv2.INTER_AREA)
            assert np.abs(image.astype(int) - truth).mean() < 6
            assert tile["w0"] == tile["h0"] == 64 / MPP


def test_tensorflow_reads_the_records(slides: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    write_slide(row(slides, "a"), GRID, STORE, tmp_path)
    table = pd.read_parquet(tmp_path / "a.tiles.parquet")
    numbers = {"x": tf.int64, "y": tf.int64} | dict.fromkeys(("w0", "h0", "tissue", "tumour"), tf.float32)
    schema = {
        name: tf.io.FixedLenFeature([], kind)
        for name, kind in (numbers | dict.fromkeys(("slide_id", "patient_id", "jpeg"), tf.string)).items()
    }
    records = [
        tf.io.parse_single_example(record, schema) for record in tf.data.TFRecordDataset(str(tmp_path / "a.tfrecord"))
    ]
    assert len(records) == len(table)
    for record, tile in zip(records, table.to_dict("records"), strict=True):
        assert tf.io.decode_jpeg(record["jpeg"]).shape == (32, 32, 3)
        assert record["slide_id"].numpy() == b"a" and record["patient_id"].numpy() == b"patient-a"
        assert all(record[name].numpy() == np.float32(tile[name]) for name in numbers)


def test_a_cohort_with_faults_goes_on(slides: Path, tmp_path: Path) -> None:
    names = ("a", "cut", "glass", "damaged", "outside", "b", "missing")
    calls: list[tuple[int, int]] = []
    tiles, outcomes = write_cohort(
        manifest(slides, *names), GRID, STORE, tmp_path, workers=0, progress=lambda *call: calls.append(call)
    )
    assert outcomes["slide_id"].tolist() == list(names)
    assert outcomes["status"].tolist() == ["done", "failed", "empty", "failed", "failed", "done", "failed"]
    assert outcomes["attempts"].tolist() == [1, 2, 1, 2, 2, 1, 2]
    reasons = outcomes.set_index("slide_id")["reason"]
    for name, words in {
        "cut": "not a slide that OpenSlide can read",
        "glass": "no tile with at least 20% tissue",
        "damaged": "cannot read",
        "outside": "lie outside of the slide",
        "missing": "missing.tiff",
    }.items():
        assert words in reasons[name]
    assert set(tiles["slide_id"]) == {"a", "b"}
    assert tiles.dtypes.astype(str).to_dict() == tile_store.TABLE
    assert len(tiles) == outcomes["tiles"].sum()
    assert calls == [(done, 7) for done in range(8)]
    # Nothing that failed has tiles, and the files say what was returned.
    assert sorted(path.stem for path in tmp_path.glob("*.tfrecord")) == ["a", "b", "glass"]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "tiles.parquet"), tiles)
    written = pd.read_csv(tmp_path / "slides.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(written, outcomes, check_dtype=False)


def test_a_cohort_without_any_tile(slides: Path, tmp_path: Path) -> None:
    tiles, outcomes = write_cohort(manifest(slides, "glass", "cut"), GRID, STORE, tmp_path, workers=0)
    assert len(tiles) == 0 and tiles.dtypes.astype(str).to_dict() == tile_store.TABLE
    assert outcomes["status"].tolist() == ["empty", "failed"]


def test_two_workers_write_what_one_writes(slides: Path, tmp_path: Path) -> None:
    rows = manifest(slides, "a", "b", "glass", "c", "damaged")
    for workers in (1, 2):
        write_cohort(rows, GRID, STORE, tmp_path / str(workers), workers=workers)
    assert hashes(tmp_path / "1") == hashes(tmp_path / "2")
    one, two = (pd.read_csv(tmp_path / name / "slides.csv").drop(columns="seconds") for name in "12")
    pd.testing.assert_frame_equal(one, two)


def test_threads_on_one_slide_write_what_one_writes(slides: Path, tmp_path: Path) -> None:
    small = dataclasses.replace(GRID, overlap=0.5)
    for threads in (1, 3):
        outcome = write_slide(row(slides, "a"), small, STORE, tmp_path / str(threads), threads=threads)
        assert outcome.tiles > 100 and outcome.reader == "OpenSlide"  # these tiles are no JPEG
    assert hashes(tmp_path / "1") == hashes(tmp_path / "3")


def test_the_last_slides_share_the_workers() -> None:
    assert on_this_machine(4).threads(5) == [1, 1, 1, 2, 4]
    assert on_this_machine(1).threads(1) == [1] and on_this_machine(8).threads(2) == [4, 8]


def test_a_wide_slide_is_cut_in_columns_and_nothing_is_lost(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = row(slides, "a")
    write_slide(values, GRID, STORE, tmp_path / "rows")
    monkeypatch.setattr(slide_cutting, "HELD_MIB", 0.5)
    write_slide(values, GRID, STORE, tmp_path / "columns")
    one, other = (pd.read_parquet(tmp_path / name / "a.tiles.parquet") for name in ("rows", "columns"))
    assert one["offset"].is_monotonic_increasing and not other["offset"].is_monotonic_increasing
    pd.testing.assert_frame_equal(one.drop(columns="offset"), other.drop(columns="offset"))
    places = [table[list(PLACE)].to_numpy() for table in (one, other)]
    jpegs = [read_jpegs(tmp_path / name, "a", place) for name, place in zip(("rows", "columns"), places, strict=True)]
    assert jpegs[0] == jpegs[1]


def test_finished_slides_are_not_repeated(slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = manifest(slides, "a", "b", "cut")
    first, _ = write_cohort(rows, GRID, STORE, tmp_path, workers=0)
    done: list[str] = []
    original = slide_cutting.slide_key

    def noted(values: dict[str, Any], *others: Any) -> Any:
        done.append(values["slide_id"])
        return original(values, *others)

    monkeypatch.setattr(slide_cutting, "slide_key", noted)
    again, outcomes = write_cohort(rows, GRID, STORE, tmp_path, workers=0)
    assert done == ["cut", "cut"]  # what failed is tried again
    pd.testing.assert_frame_equal(first, again)
    assert outcomes["status"].tolist() == ["done", "done", "failed"]
    done.clear()
    (tmp_path / "b.tfrecord").write_bytes(b"short")
    write_cohort(rows[:2], GRID, STORE, tmp_path, workers=0)
    assert done == ["b"]
    done.clear()
    write_cohort(rows[:2], GRID, StoreSettings(stored_px=32, mask_mpp=4.0, jpeg_quality=80), tmp_path, workers=0)
    assert done == ["a", "b"]


def test_a_changed_slide_or_annotation_is_cut_again(slides: Path, tmp_path: Path) -> None:
    path = write_slide_file(tmp_path / "x.tiff", 1)
    annotation = write_annotation(tmp_path / "x.geojson", [(0, 0), (100, 0), (100, 100)])
    values = {**row(slides, "b"), "slide_id": "x", "path": str(path), "annotation": str(annotation)}
    folder = tmp_path / "store"
    write_slide(values, GRID, STORE, folder)
    assert finished(values, GRID, STORE, folder) is not None
    assert finished({**values, "mpp": 0.6}, GRID, STORE, folder) is None
    os.utime(annotation, ns=(1, 1))
    assert finished(values, GRID, STORE, folder) is None


def test_classes_of_outlines_and_a_doubtful_mpp_stand_in_slides_csv(slides: Path, tmp_path: Path) -> None:
    annotation = tmp_path / "classes.geojson"
    boxes = {"Tumor": (0, 0, 512, 768), "Epidermis": (512, 0, 1024, 384)}
    features = [
        {
            "type": "Feature",
            "properties": {"classification": {"name": name}},
            "geometry": {"type": "Polygon", "coordinates": [[[x, y], [u, y], [u, v], [x, v], [x, y]]]},
        }
        for name, (x, y, u, v) in boxes.items()
    ]
    annotation.write_text(json.dumps(features))
    rows = manifest(slides, "a", "b").assign(annotation=[str(annotation), None], mpp=[np.nan, 0.4])
    folder = tmp_path / "store"
    every, outcomes = write_cohort(rows, GRID, STORE, folder, workers=0)
    assert outcomes["outlines"].tolist() == ["1 Tumor (0.0983 mm²), 1 Epidermis (0.0492 mm²)", ""]
    assert "2 classes count as tumour: 1 Tumor (0.0983 mm²), 1 Epidermis" in outcomes["notes"][0]
    assert outcomes["notes"][1] == "the given 0.4 µm/px contradicts the file's own 0.5 µm/px; the given one was taken"
    pd.testing.assert_frame_equal(pd.read_csv(folder / "slides.csv", keep_default_na=False), outcomes)
    upper_right = (every["slide_id"] == "a") & (every["x"] >= 512) & (every["y"] < 384)
    assert (every.loc[upper_right, "tumour"] == 1).all() and upper_right.any()

    named = AnnotationSettings(tumour_classes=("tumor",))
    kept = (folder / "b.tfrecord").stat().st_mtime_ns
    tumour, outcomes = write_cohort(rows, GRID, STORE, folder, workers=0, annotation=named)
    assert (tumour.loc[upper_right, "tumour"] == 0).all()
    assert outcomes["notes"][0] == "" and "Epidermis (0.0492 mm², not tumour)" in outcomes["outlines"][0]
    assert (folder / "b.tfrecord").stat().st_mtime_ns == kept, "a slide without outlines is not cut again"


def test_the_cap_on_otsu_is_part_of_the_key(slides: Path, tmp_path: Path) -> None:
    values = row(slides, "b")
    write_slide(values, GRID, STORE, tmp_path)
    assert finished(values, GRID, STORE, tmp_path) is not None
    assert finished(values, GRID, dataclasses.replace(STORE, mask_headroom=None), tmp_path) is None
    with pytest.raises(InputError, match="mask_headroom"):
        StoreSettings(mask_headroom=0)


def test_settings_of_older_models_are_read() -> None:
    assert StoreSettings.recorded({"stored_px": 96, "mend_outlines": True}) == StoreSettings(stored_px=96)


def test_a_read_error_is_tried_once_more(slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, reads, handles = Slide.read, [0], set()

    def fails_once(self: Slide, *arguments: Any, **named: Any) -> np.ndarray:
        reads[0] += 1
        handles.add(id(self))
        if reads[0] == 5:
            raise SlideReadError("the network was away")
        return original(self, *arguments, **named)

    write_slide(row(slides, "a"), GRID, STORE, tmp_path / "whole")
    monkeypatch.setattr(Slide, "read", fails_once)
    outcome = write_slide(row(slides, "a"), GRID, STORE, tmp_path / "retried")
    assert (outcome.status, outcome.attempts) == ("done", 2)
    assert hashes(tmp_path / "whole") == hashes(tmp_path / "retried")


def test_a_blank_tile_in_tissue_is_no_tile(slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Slide.read

    def blank(self: Slide, x: float, y: float, size: Any, mpp: float) -> np.ndarray:
        image = original(self, x, y, size, mpp)
        return np.full_like(image, 255) if mpp == GRID.mpp else image

    monkeypatch.setattr(Slide, "read", blank)
    outcome = write_slide(row(slides, "a"), GRID, STORE, tmp_path)
    assert outcome.status == "failed" and "reads as one colour" in outcome.reason
    assert not list(tmp_path.glob("*.tfrecord"))


def test_a_full_disk_stops_the_cohort(slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cohort(manifest(slides, "a"), GRID, STORE, tmp_path, workers=0)
    before = hashes(tmp_path)

    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(slide_cutting, "append_image", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_cohort(manifest(slides, "a", "b"), GRID, STORE, tmp_path, workers=0)
    kept = hashes(tmp_path)
    assert kept.items() <= before.items() and "a.tfrecord" in kept


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import pandas as pd
from melano_tf.pipelines import slide_cutting, tile_store
from test_tile_store import GRID, STORE
original, count = slide_cutting.append_image, [0]
def dies(file, *others):
    count[0] += 1
    if count[0] == int(sys.argv[4]):
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return original(file, *others)
slide_cutting.append_image = dies
rows = pd.read_parquet(sys.argv[1])
tile_store.write_cohort(rows, GRID, STORE, Path(sys.argv[2]), workers=0)
"""


def test_a_kill_leaves_nothing_that_is_read_as_whole(slides: Path, tmp_path: Path) -> None:
    rows = manifest(slides, "a", "b", "c")
    rows.to_parquet(tmp_path / "rows.parquet")
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    write_cohort(rows, GRID, STORE, whole, workers=0)
    places = pd.read_parquet(whole / "tiles.parquet")["slide_id"].tolist()
    kill_at = places.index("b") + 10  # in the middle of the second slide
    folder.mkdir()
    journal.begin(folder)
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "rows.parquet"), str(folder), str(HERE), str(kill_at)]
    done = subprocess.run(arguments, cwd=HERE.parents[1], timeout=60, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert sorted(path.name for path in folder.iterdir() if path.name[0] != ".") == [
        "a.json",
        "a.tfrecord",
        "a.tiles.parquet",
    ]
    assert len([path for path in folder.iterdir() if ".partial" in path.name]) == 1
    stamp = (folder / "a.tfrecord").stat().st_mtime_ns
    write_cohort(rows, GRID, STORE, folder, workers=0)
    assert (folder / "a.tfrecord").stat().st_mtime_ns == stamp
    assert hashes(folder) == hashes(whole)
    assert not list(folder.glob(".*.partial*"))


@pytest.mark.parametrize("content", [b"", b"PAR1" + bytes(40) + b"PAR1"])
def test_a_damaged_table_of_a_slide_costs_its_slide(slides: Path, tmp_path: Path, content: bytes) -> None:
    rows = manifest(slides, "a", "b")
    write_cohort(rows, GRID, STORE, tmp_path, workers=0)
    before, stamp = hashes(tmp_path), (tmp_path / "a.tfrecord").stat().st_mtime_ns
    (tmp_path / "b.tiles.parquet").write_bytes(content)
    write_cohort(rows, GRID, STORE, tmp_path, workers=0)
    assert hashes(tmp_path) == before and (tmp_path / "a.tfrecord").stat().st_mtime_ns == stamp


def test_a_slide_that_killed_its_processes_leaves_its_reason_alone(slides: Path, tmp_path: Path) -> None:
    begun = [tmp_path / name for name in ("a.tfrecord", "a.tiles.parquet", "b.tfrecord")]
    for path in begun:
        path.write_text("of a pass that was killed")
    journal.begin(tmp_path, ours=begun)
    told: list[tuple[int, int]] = []
    killing = Engine(lambda _, items: ((place, WorkerDied()) for place in range(len(items))), lambda count: [1] * count)
    tiles, outcomes = write_cohort(
        manifest(slides, "a", "glass"), GRID, STORE, tmp_path, progress=lambda *done: told.append(done), engine=killing
    )
    assert told == [(0, 2), (1, 2), (2, 2)] and len(tiles) == 0
    facts = outcomes[["slide_id", "patient_id", "status", "reason", "attempts", "seconds"]].to_numpy().tolist()
    assert facts == [[name, f"patient-{name}", "failed", DIED, 2, 0.0] for name in ("a", "glass")]
    assert json.loads((tmp_path / "a.json").read_text())["key"] == ""
    left = {"a.json", "glass.json", "b.tfrecord", "slides.csv", "tiles.parquet"}
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == left


def test_settings_out_of_range_are_all_named() -> None:
    with pytest.raises(InputError) as refused:
        StoreSettings(stored_px=0, jpeg_quality=101, mask_mpp=0.0, mask_headroom=256)
    assert str(refused.value).splitlines() == [
        "store:",
        "  - stored_px must be at least 1, and is 0",
        "  - jpeg_quality must lie between 1 and 100, and is 101",
        "  - mask_mpp must be above 0, and is 0.0",
        "  - mask_headroom must lie above 0, to 255 (or be None), and is 256",
    ]
    with pytest.raises(InputError, match="jpeg_quality must lie between 1 and 100, and is 0"):
        StoreSettings(jpeg_quality=0)
    assert StoreSettings(stored_px=1, jpeg_quality=1, mask_mpp=0.5, mask_headroom=255).stored_px == 1
    assert StoreSettings(jpeg_quality=100).jpeg_quality == 100


def test_a_real_slide(real_data: Path, tmp_path: Path) -> None:
    rows = pd.DataFrame(
        [
            {
                "slide_id": "cmu",
                "path": str(real_data / "wsi" / "CMU-1-Small-Region.svs"),
                "patient_id": "p",
                "label": "benign",
                "annotation": None,
                "mpp": np.nan,
            }
        ]
    )
    tiles, outcomes = write_cohort(rows, TileGrid(), StoreSettings(), tmp_path, workers=0)
    # 2220 x 2967 px at 0.499 µm/px are 1108 x 1481 µm: four columns and five rows of 512 µm at steps of 256.
    assert outcomes["status"].tolist() == ["done"] and outcomes["grid_positions"].tolist() == [20]
    assert 10 <= len(tiles) <= 20
