"""A slide at several magnifications, judged by a multimag model's files and by its export: the same answer."""

import json
import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from melano_tf.commands.predict.magnified_output import _write_tiles
from melano_tf.commands.predict.threshold_words import threshold_words
from melano_tf.errors import InputError
from melano_tf.pipelines.tile_batches import predict_batches
from melano_tf.runs.settings_digest import plain
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving import magnified_models
from melano_tf.serving.answer_record import answer_record
from melano_tf.serving.export import Exported, export_model
from melano_tf.serving.exported_models import ExportedTiles
from melano_tf.serving.magnified_models import (
    OWN,
    JudgedTiles,
    LocalTiles,
    MagnifiedModel,
    judged_by,
    tile_signatures,
)
from melano_tf.serving.model_finding import exported_card, file_card
from melano_tf.serving.model_interface import Case, SeenTile
from melano_tf.serving.serving_files import _what, read_card
from tests.papers.tiny import Finished
from tests.pipelines.small_slides import write_slide_file
from tests.serving.small_models import magnified_models as made_models
from tests.serving.standin import Served
from tests.serving.test_client import every_server, same

Command = Callable[..., Finished]
NAME = "melanoma-10x"
FAST = ("--thumbnail-mpp", "8")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return made_models(tmp_path_factory.mktemp("magnified") / "models")


@pytest.fixture(scope="module")
def exported(files: dict[str, Path]) -> Exported:
    return export_model(file_card(files["10x"]), files["10x"].parent.parent / "serving")


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two slides, one of them empty, and their list."""
    folder = tmp_path_factory.mktemp("slides")
    write_slide_file(folder / "s1.tif", seed=1)
    write_slide_file(folder / "s2.tif", seed=2, tissue=False)
    (folder / "slides.csv").write_text("path,slide_id\ns1.tif,one\ns2.tif,empty\n")
    return folder


def answer(folder: Path) -> dict[str, Any]:
    return {k: v for k, v in json.loads((folder / "prediction.json").read_text()).items() if k != "model"}


def test_slides_get_the_same_answers_by_every_way(
    files: dict[str, Path], exported: Exported, slides: Path, tmp_path: Path, inside: Command
) -> None:
    def predict(out: str, slide: str, *arguments: str) -> Path:
        done = inside("predict", "--input", str(slides / slide), "--out", str(tmp_path / out), *FAST, *arguments)
        assert done.code == 0, done.errors
        assert ("no figure2.png" in done.shown) == (out != "local")
        return tmp_path / out

    mine = predict("local", "slides.csv", "--model", str(files["10x"]))
    served = Served(exported.folder.parent.parent)
    with every_server(served) as addresses:
        far = predict("rest", "slides.csv", "--server", addresses["rest"], "--model", NAME, "--chunk", "8")
        asked = [(signature, items) for _, signature, items in served.asked if signature != "card"]
        assert {signature for signature, _ in asked} == {"serving_default", "tiles_5x"}
        assert max(items for _, items in asked) == 8 and len(asked) > 4, "the slide must need several chunks"
        ways = {"folder": ("--model", str(exported.folder))}
        if "grpc" in addresses:
            ways["grpc"] = ("--server", addresses["grpc"], "--model", f"{NAME}/1")
        # A picture of an answer before.
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "figure2.png").write_bytes(b"old")
        others = [predict(way, "s1.tif", *arguments) for way, arguments in ways.items()]
    tables = [pd.read_csv(folder / "predictions.csv") for folder in (mine, far)]
    assert tables[0]["slide_id"].tolist() == ["one", "empty"] and "tissue" in tables[0]["failed"][1]
    pd.testing.assert_frame_equal(tables[0], tables[1], atol=1e-5)
    first, tiles = answer(mine / "one"), pd.read_csv(mine / "one" / "tiles.csv")
    assert list(first["evidence"]["magnifications"]) == ["5x", "10x"]
    assert "not at 40x" in first["evidence"]["left_out"]
    assert len({one["probabilities"]["MM"] for one in first["evidence"]["magnifications"].values()}) == 2
    assert tiles["p1"].std() > 0.01, "tiles must differ, else any order of them would do"
    for folder in (far / "one", *others):
        found, theirs = answer(folder), pd.read_csv(folder / "tiles.csv")
        pd.testing.assert_frame_equal(tiles, theirs, atol=1e-5, rtol=0)
        assert set(first["files"]) - set(found["files"]) == {"figure2.png"}
        keys = [key for key in first if key not in ("input", "files")]
        assert same({key: first[key] for key in keys}, {key: found[key] for key in keys})
    for folder in (mine / "one", far / "one"):
        assert sorted(path.name for path in folder.iterdir()) == sorted(answer(folder)["files"])
    assert (tmp_path / "folder" / "figure2.png").read_bytes() == b"old"


def test_a_slide_streams_and_the_shown_tiles_are_those_that_were_judged(
    files: dict[str, Path], slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures: list[weakref.ref[np.ndarray]] = []
    living: list[int] = []

    def watched(*arguments: Any) -> Iterator[dict[str, Any]]:
        for batch in predict_batches(*arguments):
            living.append(sum(one() is not None for one in pictures))
            pictures.append(weakref.ref(batch["x"]))
            yield batch

    monkeypatch.setattr(magnified_models, "predict_batches", watched)
    monkeypatch.setattr(magnified_models, "CHUNK", 4)
    card = file_card(files["10x"])
    judge = LocalTiles(card)
    [answer] = MagnifiedModel(card, judge).answer([Case(slides / "s1.tif")], tmp_path)
    assert answer.tiles is not None
    assert len(pictures) > 6, "the slide must need several chunks"
    assert max(living) <= 2, "the one at work and the one before it"
    assert 1 < len(answer.seen) < len(answer.tiles)
    for tile in answer.seen:
        found = np.asarray(judge.network(tile.row["magnification"])(tile.image[None].astype(np.float32)))[0]
        np.testing.assert_allclose(found, [tile.row["p0"], tile.row["p1"]], atol=1e-5)


SAID = {"5x": [0.9, 0.35, 0.1], "10x": [0.2, 0.1, 0.25, 0.29, 0.8]}  # of melanoma, tile by tile


class Told:
    """The models of two magnifications, which say what is written above."""

    def __init__(self, files: dict[str, Path]) -> None:
        self.files: Mapping[str, str] = {name: files[name].name for name in SAID}

    def judge(self, magnification: str, tiles: pd.DataFrame, scratch: Path) -> JudgedTiles:
        p = np.array([SAID[magnification][tile] for tile in tiles["tile"]], np.float32)
        return JudgedTiles(np.stack([1 - p, p], axis=1), None)

    def seen(self, shown: pd.DataFrame, scratch: Path) -> tuple[SeenTile, ...]:
        return ()


@pytest.mark.parametrize(
    ("how", "each", "threshold", "decision"),
    [
        (None, (0.45, 0.328), 0.3, "MM"),  # of an earlier run
        ("mean", (0.45, 0.328), 0.3, "MM"),
        ("majority", (2 / 3, 1 / 5), 0.5, "nevus"),  # above 0.3, and less than half of the tiles
        ("top", (0.625, 0.545), 0.3, "MM"),
    ],
)
def test_a_slide_is_judged_as_its_run_aggregates_tiles(
    how: str | None,
    each: tuple[float, float],
    threshold: float,
    decision: str,
    files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [(name, tile) for name, values in SAID.items() for tile in range(len(values))]
    tiles = pd.DataFrame(rows, columns=["magnification", "tile"])
    tiles = tiles.assign(slide_id="s1", x=tiles["tile"] * 48, y=0, w0=48, h0=48, tissue=0.7)
    outcome = SimpleNamespace(grid_positions=20, notes="")
    monkeypatch.setattr(magnified_models, "cut_slide", lambda *asked: (outcome, tiles))
    card = file_card(files["10x"])
    made = {**card.sidecar.preprocessing, "top": 2} | ({} if how is None else {"aggregation": how})
    card = replace(card, sidecar=replace(card.sidecar, preprocessing=made, threshold=0.3))
    model = MagnifiedModel(card, Told(files))
    [found] = model.answer([Case(tmp_path / "s1.tif")], tmp_path)
    record = answer_record(found, model.card)
    assert record["probabilities"]["MM"] == pytest.approx(sum(each) / 2, abs=1e-6)
    assert sum(record["probabilities"].values()) == pytest.approx(1.0, abs=1e-9)
    parts = record["evidence"]["magnifications"]
    assert [parts[name]["probabilities"]["MM"] for name in SAID] == pytest.approx(list(each), abs=1e-6)
    assert (record["decision"], record["threshold"]) == (decision, threshold)
    assert ("from a probability of 0.3 on" in record["threshold_from"]) == (how == "majority")
    assert f"threshold {threshold}" in threshold_words(model.card)
    words = {"majority": "each the share of its tiles", "top": "each the mean of its 2 tiles"}
    assert words.get(str(how), "each the mean over its tiles") in record["evidence"]["combined_by"]
    assert found.tiles is not None  # a tile is called by the threshold on tiles, whatever a slide is called by
    called = np.where(np.concatenate(list(SAID.values())) >= 0.3, "MM", "nevus").tolist()
    assert found.tiles["called"].tolist() == called and called.count("MM") == 3
    _write_tiles(tmp_path / "tiles.geojson", found.tiles.assign(probability=found.tiles["p1"]), "MM")
    features = json.loads((tmp_path / "tiles.geojson").read_text())["features"]
    assert [one["properties"]["classification"]["name"].split(",")[0] for one in features] == called
    assert words.get(str(how), "each the mean over its tiles") in _what(plain(card.sidecar), {})


def test_the_card_says_which_signature_judges_what(exported: Exported) -> None:
    card = read_card(exported.folder)
    assert card["magnifications"] == {"5x": "tiles_5x", "10x": "serving_default", "40x": "tiles_40x"}
    assert set(exported.signatures) == {"serving_default", "tensors", "tiles_5x", "tiles_40x", "card"}
    assert "5x by `tiles_5x`" in (exported.folder / "assets.extra" / "model_card.md").read_text()
    calls = (exported.folder.parent.parent / f"CALLS-{NAME}.md").read_text()
    assert f"--model {NAME} --input slide.svs" in calls


def test_an_export_without_companions_is_named(exported: Exported) -> None:
    class Nobody:
        class transport:
            where = "http://here"

    card = {**read_card(exported.folder), "companions": {}}
    with pytest.raises(InputError, match="http://here: exported without the models melanoma-5x, melanoma-40x"):
        ExportedTiles(exported_card(card, exported.folder), Nobody)  # type: ignore[arg-type]


def test_a_companion_that_is_missing_or_of_another_run(files: dict[str, Path], tmp_path: Path, inside: Command) -> None:
    for path in files.values():
        shutil.copy(path, tmp_path)
        shutil.copy(Sidecar.path(path), tmp_path)
    (tmp_path / files["5x"].name).unlink()
    done = inside("export", "--model", str(tmp_path / files["10x"].name), "--out", str(tmp_path / "serving"))
    assert done.code == 2 and "melanoma-5x.keras: no such model file" in done.errors
    assert not (tmp_path / "serving").exists()
    own, other = Sidecar.read(files["10x"]), Sidecar.read(files["5x"])
    with pytest.raises(InputError, match=r"melanoma-5x\.keras: its classes or input differ"):
        judged_by(own, {"melanoma-5x": replace(other, classes=("MM", "nevus"))})


def test_which_model_and_signature_judge_a_magnification(files: dict[str, Path]) -> None:
    own = Sidecar.read(files["10x"])
    others = {role: Sidecar.read(files[role.removeprefix("melanoma-")]) for role in own.companions}
    assert judged_by(own, others) == {"5x": "melanoma-5x", "10x": OWN, "40x": "melanoma-40x"}
    mixed = replace(own, preprocessing={**own.preprocessing, "magnifications": ["40x", "5x"]})
    assert judged_by(mixed, {}) == {"5x": OWN, "40x": OWN}
    assert tile_signatures({"2.5x": "a", "5x": OWN, "40x": OWN}) == {
        "2.5x": "tiles_2_5x",
        "5x": "serving_default",
        "40x": "serving_default",
    }
    with pytest.raises(InputError, match="two would get the same signature"):
        tile_signatures({"2.5x": "a", "2,5x": "b"})


def test_each_signature_is_its_own_model(files: dict[str, Path], exported: Exported) -> None:
    import tensorflow as tf

    from melano_tf.pipelines.tile_batches import decode
    from melano_tf.serving.export import load_network
    from tests.serving.pictures import encoded
    from tests.serving.small_models import tiles

    served = Served(exported.folder.parent.parent)
    jpegs = tf.constant([encoded(tile, "JPEG") for tile in tiles(3)])
    for name, signature in read_card(exported.folder)["magnifications"].items():
        network = load_network(files[name], True)
        expected = network(tf.cast(decode(jpegs, tf.constant(32)), tf.float32)).numpy()
        found = served.signature(NAME, "1", signature)(image_bytes=jpegs)["probabilities"]
        np.testing.assert_allclose(found, expected, atol=1e-5)
