"""Features of slides in TRIDENT's layout: read back by plain h5py as its documentation says, and by our own reader."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.features.feature_file import open_features
from melano_tf.pipelines import slide_features
from melano_tf.pipelines.feature_cohort import SETTINGS
from melano_tf.pipelines.slide_features import Encoder, SlideFeatureSettings, load_encoder, write_features
from melano_tf.runs import journal
from melano_tf.slides.slide import Slide
from melano_tf.slides.tiling import TileGrid
from tests.pipelines.small_slides import MPP, SIZE, write_slide_file

GRID = TileGrid(tile_px=64, mpp=1.0, overlap=0.0)


def mean_colour(path: Path, px: int | None = 64, layer: str = "out") -> str:
    """A `.keras` file whose features are a tile's mean colour and twice it."""
    tiles = keras.Input((px, px, 3))
    mean = keras.layers.GlobalAveragePooling2D(name=layer)(tiles)
    keras.Model(tiles, keras.layers.Concatenate()([mean, 2.0 * mean])).save(path)
    return str(path)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("slides")
    rows = [(f"s{seed}", str(write_slide_file(folder / f"s{seed}.tiff", seed))) for seed in (1, 2)]
    rows.append(("glass", str(write_slide_file(folder / "glass.tiff", 3, tissue=False))))
    rows.append(("gone", str(folder / "gone.tiff")))
    return pd.DataFrame(rows, columns=["slide_id", "path"])


def trident_read_coords(path: Path) -> tuple[dict, np.ndarray]:
    """As trident.IO.read_coords: attributes and level-0 coordinates."""
    with h5py.File(path, "r") as file:
        return dict(file["coords"].attrs), file["coords"][:]


def test_layout_and_content(slides: pd.DataFrame, tmp_path: Path) -> None:
    settings = SlideFeatureSettings(mean_colour(tmp_path / "colour.keras"), grid=GRID, batch=5)
    outcomes = write_features(slides, settings, tmp_path / "out")
    assert outcomes["status"].tolist() == ["done", "done", "empty", "failed"]
    assert "20% tissue" in outcomes["reason"][2] and "gone.tiff" in outcomes["reason"][3]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["s1.h5", "s2.h5"]
    # TRIDENT's reader, then what its patcher and CLAM's data set do with it.
    attributes, coords = trident_read_coords(tmp_path / "out" / "s1.h5")
    patch, level0, target = (attributes[k] for k in ("patch_size", "level0_magnification", "target_magnification"))
    assert (patch, level0, target, attributes["overlap"]) == (64, 20, 10, 0)
    assert attributes["patch_size_level0"] == round(patch * level0 / target) == 128
    assert (attributes["level0_width"], attributes["level0_height"]) == SIZE and attributes["name"] == "s1"
    with h5py.File(tmp_path / "out" / "s1.h5", "r") as file:
        features, name = file["features"][:], file["features"].attrs["encoder"]
    assert name == "colour" and features.shape == (len(coords), 6) and features.dtype == np.float32
    assert coords.dtype == np.int64 and len(coords) == outcomes["tiles"][0] > 10
    with Slide(slides["path"][0]) as slide:
        for place in (0, 7, len(coords) - 1):
            tile = slide.read(*coords[place], 64, 1.0)
            np.testing.assert_allclose(features[place, :3], tile.mean(axis=(0, 1)), rtol=1e-4)
    np.testing.assert_allclose(features[:, 3:], 2 * features[:, :3], rtol=1e-6)
    own = open_features(tmp_path / "out" / "s1.h5")
    assert (own.format, own.mpp, own.tile_px, own.tile_extent) == ("trident", 1.0, 64, (128.0, 128.0))
    assert own.encoder == "colour" and own.check() == []
    np.testing.assert_array_equal(own.coordinates(), coords)


@pytest.mark.parametrize(
    ("mpp", "power"),
    [(0.25, 40), (0.2527, 40), (0.499, 20), (0.51, 20), (0.69, 14.493), (3.0, 3.333), (10.0, 1), (20.0, 0.5)],
)
def test_a_magnification_is_whole_where_it_nearly_is(mpp: float, power: float) -> None:
    assert slide_features._power(mpp) == power


def test_finished_files_are_kept_until_something_changes(slides: pd.DataFrame, tmp_path: Path) -> None:
    model = mean_colour(tmp_path / "colour.keras")
    settings = SlideFeatureSettings(model, grid=GRID)
    assert write_features(slides[:1], settings, tmp_path / "out")["status"].tolist() == ["done"]
    before = (tmp_path / "out" / "s1.h5").stat().st_mtime_ns
    assert write_features(slides[:2], settings, tmp_path / "out")["status"].tolist() == ["kept", "done"]
    assert (tmp_path / "out" / "s1.h5").stat().st_mtime_ns == before
    other = SlideFeatureSettings(mean_colour(tmp_path / "colour.keras", layer="embedding"), grid=GRID, dtype="float16")
    assert write_features(slides[:1], other, tmp_path / "out")["status"].tolist() == ["done"]
    again = open_features(tmp_path / "out" / "s1.h5")
    assert (again.width, again.dtype) == (3, "float16")  # up to the layer "embedding"


LARGE = TileGrid(tile_px=512, mpp=1.0, overlap=0.0, min_tissue=1.0)  # no tile of the slides is so full
FINE = TileGrid(tile_px=64, mpp=0.25, overlap=0.0)  # the slides are too coarse for it


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> SlideFeatureSettings:
    return SlideFeatureSettings(mean_colour(tmp_path_factory.mktemp("model") / "colour.keras"), grid=GRID)


@pytest.fixture(scope="module")
def encoder(colour: SlideFeatureSettings) -> Encoder:
    return load_encoder(colour)


def attributes(path: Path) -> dict[str, Any]:
    with h5py.File(path, "r") as file:
        return dict(file.attrs)


def make(slides: pd.DataFrame, folder: Path, encoder: Encoder, settings: SlideFeatureSettings) -> list[Any]:
    """Status and notes of each slide."""
    found = write_features(slides, settings, folder, encoder)
    return [list(pair) for pair in zip(found["status"], found["notes"], strict=True)]


@pytest.mark.parametrize(("grid", "status"), [(LARGE, "empty"), (FINE, "failed")])
def test_no_file_of_other_settings_stays_where_a_slide_has_none_now(
    slides: pd.DataFrame, tmp_path: Path, colour: SlideFeatureSettings, encoder: Encoder, grid: TileGrid, status: str
) -> None:
    assert make(slides[:2], tmp_path, encoder, colour) == [["done", ""], ["done", ""]]
    other = replace(colour, grid=grid)
    assert make(slides[:1], tmp_path, encoder, other) == [[status, "its features of other settings were removed"]]
    assert [path.name for path in tmp_path.iterdir()] == ["s2.h5"]  # a slide that was not named
    assert make(slides[:1], tmp_path, encoder, other) == [[status, ""]]


def test_a_file_that_another_program_made_stays(
    slides: pd.DataFrame, tmp_path: Path, colour: SlideFeatureSettings, encoder: Encoder
) -> None:
    make(slides[:1], tmp_path / "elsewhere", encoder, colour)
    journal.open_folder(tmp_path / "ours")
    shutil.copy(tmp_path / "elsewhere" / "s1.h5", tmp_path / "ours")  # by a person: the journal does not know it
    with h5py.File(tmp_path / "ours" / "s2.h5", "w") as file:
        file["features"] = np.zeros((3, 6), np.float32)
    (tmp_path / "ours" / "glass.h5").write_text("no HDF5")
    before = {path: path.read_bytes() for path in (tmp_path / "ours").glob("*.h5")}
    found = make(slides[:3], tmp_path / "ours", encoder, replace(colour, grid=LARGE))
    assert found == [["empty", ""]] * 3
    assert {path: path.read_bytes() for path in (tmp_path / "ours").glob("*.h5")} == before


def test_features_of_a_slide_that_is_away_stay_under_the_same_settings_only(
    slides: pd.DataFrame, tmp_path: Path, colour: SlideFeatureSettings, encoder: Encoder
) -> None:
    shutil.copy(slides["path"][0], tmp_path / "s1.tiff")
    here = slides[:1].assign(path=str(tmp_path / "s1.tiff"))
    make(here, tmp_path / "out", encoder, colour)
    (tmp_path / "s1.tiff").unlink()
    assert make(here, tmp_path / "out", encoder, replace(colour, batch=7)) == [["failed", ""]]
    assert (tmp_path / "out" / "s1.h5").is_file()
    assert make(here, tmp_path / "out", encoder, replace(colour, dtype="float16"))[0][1]
    assert not (tmp_path / "out" / "s1.h5").exists()


def test_a_file_names_its_settings_without_the_slide(
    slides: pd.DataFrame, tmp_path: Path, colour: SlideFeatureSettings, encoder: Encoder
) -> None:
    overlapping = replace(colour, grid=replace(GRID, overlap=0.5))
    changed = {
        "same": colour,
        "batch": replace(colour, batch=3),
        "grid": overlapping,
        "mask": replace(colour, mask_mpp=4.0),
    }
    for name, settings in changed.items():
        make(slides[:2], tmp_path / name, encoder, settings)
    found = {name: [attributes(tmp_path / name / f"s{i}.h5")[SETTINGS] for i in (1, 2)] for name in changed}
    assert all(one == two for one, two in found.values())
    assert found["same"] == found["batch"] and len({one for one, _ in found.values()}) == 3
    make(slides[:1], tmp_path / "model", replace(encoder, digest="another"), colour)
    assert attributes(tmp_path / "model" / "s1.h5")[SETTINGS] != found["same"][0]


def test_a_doubtful_resolution_is_noted_also_of_a_file_that_is_kept(
    slides: pd.DataFrame, tmp_path: Path, colour: SlideFeatureSettings, encoder: Encoder
) -> None:
    doubtful = slides[:2].assign(mpp=[1.0, np.nan])
    note = "the given 1 µm/px contradicts the file's own 0.5 µm/px; the given one was taken"
    assert make(doubtful, tmp_path, encoder, colour) == [["done", note], ["done", ""]]
    assert make(doubtful, tmp_path, encoder, colour) == [["kept", note], ["kept", ""]]
    found = write_features(doubtful[:1], replace(colour, grid=LARGE), tmp_path, encoder)
    assert found["notes"][0] == f"{note}; its features of other settings were removed"


def test_a_slide_too_coarse_for_the_tiles_is_refused(
    slides: pd.DataFrame, tmp_path: Path, colour: SlideFeatureSettings, encoder: Encoder
) -> None:
    found = write_features(slides[:2].assign(mpp=[1.2, 1.1]), colour, tmp_path, encoder)
    assert found["status"].tolist() == ["failed", "done"]
    assert "slide s1: its 1.2 µm/px would be enlarged 1.20 times to 1 µm/px" in found["reason"][0]


def test_coordinates_count_from_the_file_not_from_the_bounds(
    slides: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SlideFeatureSettings(mean_colour(tmp_path / "colour.keras"), grid=GRID)
    write_features(slides[:1], settings, tmp_path / "plain")
    read = slide_features._batches

    def read_and_move(slide: Slide, *given: Any) -> Iterator[Any]:
        yield from read(slide, *given)
        slide.origin = (1000, 30)  # of a slide with bounds, once its pixels are read

    monkeypatch.setattr(slide_features, "_batches", read_and_move)
    write_features(slides[:1], settings, tmp_path / "moved")
    first, second = (trident_read_coords(tmp_path / name / "s1.h5")[1] for name in ("plain", "moved"))
    np.testing.assert_array_equal(second - first, np.broadcast_to([1000, 30], first.shape))


def test_a_named_network_pools_its_last_map(slides: pd.DataFrame, tmp_path: Path) -> None:
    settings = SlideFeatureSettings("standin", "none", grid=GRID)
    encoder = load_encoder(settings)
    assert encoder.input_px == 64 and encoder.name == "standin"
    assert encoder.digest == load_encoder(settings).digest
    write_features(slides[:1], settings, tmp_path, encoder)
    assert open_features(tmp_path / "s1.h5").width == encoder.model.output_shape[-1]
    with Slide(slides["path"][0], mpp=MPP) as slide:
        tile = slide.read(*open_features(tmp_path / "s1.h5").coordinates()[3], 64, 1.0)
    expected = encoder.model(tf.constant(tile[None], tf.float32))[0]
    np.testing.assert_allclose(open_features(tmp_path / "s1.h5").features()[3], expected, rtol=1e-4, atol=1e-5)


def test_a_named_network_has_the_weights_that_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    build = slide_features.build_backbone
    asked: list[tuple[str, int, str, int]] = []

    def without_weights(name: str, px: int, weights: str = "none", seed: int = 7) -> Any:
        asked.append((name, px, weights, seed))
        return build(name, px, "none", seed=seed)

    monkeypatch.setattr(slide_features, "build_backbone", without_weights)
    load_encoder(SlideFeatureSettings("standin", "mine.weights.h5", grid=GRID))
    assert asked == [("standin", 64, "mine.weights.h5", 0)]


def test_an_encoder_is_known_by_what_it_computes_not_by_its_layers_numbers(tmp_path: Path) -> None:
    def digest_of(settings: SlideFeatureSettings) -> str:
        return load_encoder(settings).digest

    named = SlideFeatureSettings("standin", "none", grid=GRID)
    assert digest_of(named) == digest_of(named)  # unnamed layers are numbered by what the process built before
    made = [SlideFeatureSettings(mean_colour(tmp_path / f"{n}.keras"), grid=GRID) for n in (1, 2)]
    assert digest_of(made[0]) == digest_of(made[1])
    assert digest_of(made[0]) != digest_of(replace(made[0], layer="out"))


def test_an_encoder_of_another_size_gets_tiles_of_its_size(slides: pd.DataFrame, tmp_path: Path) -> None:
    settings = SlideFeatureSettings(mean_colour(tmp_path / "colour.keras", px=32), grid=GRID)
    assert load_encoder(settings).input_px == 32
    write_features(slides[:1], settings, tmp_path / "out")
    assert open_features(tmp_path / "out" / "s1.h5").tile_px == 64


def test_what_is_no_encoder(tmp_path: Path) -> None:
    def refuse(encoder: str, words: str, **more: str) -> None:
        with pytest.raises(InputError, match=words):
            load_encoder(SlideFeatureSettings(encoder, "none", grid=GRID, **more))

    refuse("nothing", "unknown")
    refuse(str(tmp_path / "no.keras"), "no such model file")
    refuse("~nobody-is-called-so/no.keras", "no.keras: no such model file")
    (tmp_path / "bad.keras").write_text("no model")
    refuse(str(tmp_path / "bad.keras"), "is no .keras file")
    refuse(mean_colour(tmp_path / "colour.keras"), "has no layer 'x'", layer="x")
    refuse("standin", "of a .keras file", layer="x")
    keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)]).save(tmp_path / "table.keras")
    refuse(str(tmp_path / "table.keras"), "RGB tiles and one vector")
