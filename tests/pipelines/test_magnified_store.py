"""A store of several magnifications: right pixels for each; what a slide is too coarse for is left out."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from small_slides import MPP, write_annotation, write_slide_file

from melano_tf.pipelines.slide_cutting import write_slide
from melano_tf.pipelines.slide_outcome import finished
from melano_tf.pipelines.tfrecords import PLACE, read_jpegs
from melano_tf.pipelines.tile_store import write_cohort
from melano_tf.pipelines.tile_store_settings import StoreSettings
from melano_tf.slides.magnifications import TileGrids
from melano_tf.slides.slide import Slide

GRIDS = TileGrids(names=("fine", "middle", "coarse", "finer"), mpp=(0.5, 1.0, 2.0, 0.25), tile_px=64)
STORE = StoreSettings(stored_px=64, mask_mpp=4.0, jpeg_quality=100)


def row(path: Path, label: str = "MM") -> dict:
    return {"slide_id": path.stem, "path": str(path), "patient_id": "p-" + path.stem, "label": label, "mpp": np.nan}


def stored(folder: Path, slide_id: str, rows: pd.DataFrame) -> list[np.ndarray]:
    jpegs = read_jpegs(folder, slide_id, rows[list(PLACE)].to_numpy())
    return [cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for one in jpegs]


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("slides")
    return [write_slide_file(folder / f"{name}.tiff", seed) for seed, name in enumerate("ab")]


def test_every_tile_is_the_slides_own_at_its_magnification(slides, tmp_path) -> None:
    outcome = write_slide(row(slides[0]), GRIDS, STORE, tmp_path)
    assert outcome.status == "done"
    assert outcome.notes == f"not at finer: its {MPP:.3g} µm/px would be enlarged 2.00 times to 0.25 µm/px"
    table = pd.read_parquet(tmp_path / "a.tiles.parquet")
    assert set(table["magnification"]) == {"fine", "middle", "coarse"}
    with Slide(slides[0]) as slide:
        for name, rows in table.groupby("magnification"):
            mpp = GRIDS.at(name).mpp
            for tile, image in zip(rows.to_dict("records"), stored(tmp_path, "a", rows), strict=True):
                expected = slide.read(tile["x"], tile["y"], 64, mpp).astype(int)
                assert np.abs(expected - image).mean() < 4, (name, tile["tile"])


def test_upsampling_only_where_it_is_allowed(slides, tmp_path) -> None:
    allowed = TileGrids(GRIDS.names, GRIDS.mpp, tile_px=64, most_enlargement=None)
    outcome = write_slide(row(slides[0]), allowed, STORE, tmp_path)
    table = pd.read_parquet(tmp_path / "a.tiles.parquet")
    assert outcome.notes == ""
    assert (table["magnification"] == "finer").sum() > 10


def test_a_cohort_keeps_its_magnifications_and_repeats_nothing(slides, tmp_path) -> None:
    manifest = pd.DataFrame([row(path) for path in slides]).assign(annotation=None)
    tiles, outcomes = write_cohort(manifest, GRIDS, STORE, tmp_path, workers=0)
    assert outcomes["status"].tolist() == ["done", "done"]
    assert not tiles.duplicated(["slide_id", "tile"]).any()
    pd.testing.assert_frame_equal(tiles, pd.read_parquet(tmp_path / "tiles.parquet"))
    assert tiles["magnification"].isin(GRIDS.names).all()
    assert finished(manifest.iloc[0].to_dict(), GRIDS, STORE, tmp_path) is not None
    assert finished(manifest.iloc[0].to_dict(), TileGrids(tile_px=64), STORE, tmp_path) is None


def test_what_is_wanted_later_is_added_and_the_rest_stays(slides, tmp_path, monkeypatch) -> None:
    outline = write_annotation(tmp_path / "a.geojson", [(300, 200), (600, 200), (600, 500), (300, 500)])
    reads: list[float] = []
    read = Slide.read

    def noted(self: Slide, x: float, y: float, size: object, mpp: float) -> np.ndarray:
        reads.extend([mpp] if size == 64 else [])  # a tile, not the overview for the mask
        return read(self, x, y, size, mpp)

    monkeypatch.setattr(Slide, "read", noted)

    def cut(wanted: dict[str, str] | None, folder: str) -> pd.DataFrame:
        reads.clear()
        rows = pd.DataFrame([{**row(slides[0]), "annotation": str(outline)}])
        rows = rows if wanted is None else rows.assign(wanted=[wanted])
        return write_cohort(rows, GRIDS, STORE, tmp_path / folder, workers=0)[0]

    everything = cut({"fine": "whole", "middle": "whole", "coarse": "whole"}, "at once")
    plain = cut(None, "outlined")
    first = cut({"middle": "outlined"}, "bit by bit")
    assert reads == [1.0] * len(first) and first["outlined"].all()
    assert first["x"].tolist() == plain.loc[plain["magnification"] == "middle", "x"].tolist()
    second = cut({"coarse": "whole"}, "bit by bit")
    assert reads == [2.0] * (len(second) - len(first)) and not second["outlined"].all()
    assert cut({"middle": "outlined", "coarse": "outlined"}, "bit by bit").equals(second) and not reads
    cut({"middle": "whole"}, "bit by bit")
    assert reads and set(reads) == {1.0}
    last = cut({"fine": "whole"}, "bit by bit")
    assert set(reads) == {0.5} and len(reads) == (last["magnification"] == "fine").sum()
    # The same tiles under the same numbers as from one pass, and the same pixels.
    places = list(PLACE)
    pd.testing.assert_frame_equal(last.drop(columns=places), everything.drop(columns=places))
    pictures = [stored(tmp_path / name, "a", table) for name, table in (("bit by bit", last), ("at once", everything))]
    assert all(np.array_equal(*pair) for pair in zip(*pictures, strict=True))


def test_too_coarse_for_every_magnification(slides, tmp_path) -> None:
    outcome = write_slide(row(slides[0]), TileGrids(("fine",), (0.25,), tile_px=64), STORE, tmp_path)
    assert outcome.status == "failed"
    assert "no magnification is possible" in outcome.reason


def test_real_slide(real_data, tmp_path) -> None:
    """10x and 20x against a resize of the whole slide; 4x padded at the slide's edge; 40x refused.

    By the paper's rule the 4x tile is omitted (68 % background): it comes as the fullest one, as in `predict`.
    """
    path = real_data / "wsi" / "CMU-1-Small-Region.svs"
    grids = TileGrids(fullest=True)
    outcome = write_slide(row(path), grids, StoreSettings(stored_px=256, jpeg_quality=100), tmp_path)
    assert outcome.status == "done", outcome.reason
    assert outcome.notes.startswith("not at 40x: its 0.499 µm/px would be enlarged 1.81 times")
    assert outcome.notes.endswith("at 4x: no tile with at least 60% tissue; the one with most, 32%, was kept")
    table = pd.read_parquet(tmp_path / f"{path.stem}.tiles.parquet")
    with Slide(path) as slide:
        width, height = slide.size
        whole = slide.read(0, 0, slide.size, slide.mpp[0])
        background = slide.background
        own = slide.mpp[0]
    for name in ("10x", "20x"):
        mpp = grids.at(name).mpp
        size = (round(width * own / mpp), round(height * own / mpp))
        small = cv2.resize(whole, size, interpolation=cv2.INTER_AREA).astype(int)
        rows = table[table["magnification"] == name]
        assert len(rows) >= 7
        for tile, image in zip(rows.to_dict("records"), stored(tmp_path, path.stem, rows), strict=True):
            x, y = round(tile["x"] * own / mpp), round(tile["y"] * own / mpp)
            expected = small[y : y + 256, x : x + 256]
            seen = image[: expected.shape[0], : expected.shape[1]].astype(int)
            # The whole slide's grid and the tile's differ by a known part of a pixel.
            known = (x - tile["x"] * size[0] / width, y - tile["y"] * size[1] / height)
            grey = [np.float32(part.mean(axis=2)) for part in (expected, seen)]
            assert np.abs(np.subtract(cv2.phaseCorrelate(*grey)[0], known)).max() < 0.3, (name, tile["tile"])
            # Half a pixel of shift changes single nuclei's edges; coarser things must agree (the
            # registration above is what would show a shift of a pixel; this alone gives 0.944 for one).
            smooth = [cv2.GaussianBlur(part, (0, 0), 1.0).ravel() for part in grey]
            assert np.corrcoef(*smooth)[0, 1] > 0.93, (name, tile["tile"])
    [coarse] = table[table["magnification"] == "4x"].to_dict("records")
    assert coarse["w0"] > width  # the tile is wider than the slide
    [image] = stored(tmp_path, path.stem, table[table["magnification"] == "4x"])
    edge = round(width * own / 5.0)
    assert np.abs(image[:, edge + 4 :].astype(int) - background).max() < 12
    expected = cv2.resize(whole, (edge, round(height * own / 5.0)), interpolation=cv2.INTER_AREA)[:256]
    assert np.abs(expected[:, : edge - 2].astype(int) - image[:, : edge - 2]).mean() < 8
