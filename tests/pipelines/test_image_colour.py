"""Colour constancy in the image cache and in use; caches, records and sidecars that know nothing of it stay valid."""

import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from melano_tf.dermoscopy.colour_constancy import ColourConstancy, normalise
from melano_tf.papers.settings_values import differing
from melano_tf.pipelines.image_batches import predict_image_batches
from melano_tf.pipelines.image_cache import cache_images, decode_image
from melano_tf.pipelines.image_settings import ImageCacheSettings
from melano_tf.run import _parse
from melano_tf.runs.settings_digest import digest, plain
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.model_finding import open_model
from melano_tf.serving.model_interface import Case

PLAIN = ImageCacheSettings(stored_px=24)
COLOUR = replace(PLAIN, colour=ColourConstancy(p=5.0))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Pictures under a red light, a JPEG and a PNG, and a damaged one."""
    rng = np.random.default_rng(0)
    found = {}
    for name in ("one.jpg", "two.png"):
        small = rng.integers(40, 240, (4, 6, 3), dtype=np.uint8) * np.array([1.0, 0.7, 0.5])
        image = Image.fromarray(small.astype(np.uint8)).resize((60, 50), Image.Resampling.BICUBIC)
        found[Path(name).stem] = tmp_path / name
        image.save(tmp_path / name)
    found["bad"] = tmp_path / "bad.png"
    found["bad"].write_bytes(found["two"].read_bytes()[:200])
    return found


def test_the_cache_holds_normalised_pixels_under_another_name(files: dict[str, Path], tmp_path: Path) -> None:
    sums = {name: name for name in files}
    without, with_colour = (cache_images(files, sums, s, tmp_path / "cache") for s in (PLAIN, COLOUR))
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2
    for name in ("one", "two"):
        (before,), (after,) = (cache.pixels(cache.rows([name])) for cache in (without, with_colour))
        np.testing.assert_array_equal(after, normalise(before, ColourConstancy(p=5.0)))
        np.testing.assert_array_equal(after, decode_image(files[name], COLOUR).pixels)
        assert decode_image(files[name], COLOUR).aspect == decode_image(files[name], PLAIN).aspect
        red, _, blue = after.reshape(-1, 3).astype(float).mean(axis=0)
        assert before[..., 0].mean() / before[..., 2].mean() > 1.5 > 1.15 > red / blue
    assert set(with_colour.unreadable) == {"bad"}
    (batch,) = predict_image_batches(with_colour, ["one", "two"], 24, 2)
    np.testing.assert_array_equal(batch["x"][0], decode_image(files["one"], COLOUR).pixels)


def test_what_does_not_use_it_keeps_its_keys_and_sidecars(files: dict[str, Path], tmp_path: Path) -> None:
    files = {"one": files["one"]}
    cache_images(files, {"one": "sum"}, PLAIN, tmp_path / "cache")
    before = digest([1, {"stored_px": 24, "max_pixels": 50_000_000}, [["one", "sum"]]])  # as it was named without
    assert [path.stem for path in (tmp_path / "cache").glob("*.npy")] == [before]
    assert "colour" not in plain(PLAIN)
    assert ImageCacheSettings(**plain(PLAIN)) == PLAIN
    assert ImageCacheSettings(**{"stored_px": 24, "max_pixels": 50_000_000}) == PLAIN


def test_a_sidecar_restores_it() -> None:
    written = json.loads(json.dumps(plain(COLOUR)))
    assert written["colour"] == {"method": "shades_of_gray", "p": 5.0, "mask_saturated": False, "saturated": 255}
    assert ImageCacheSettings(**written) == COLOUR
    assert isinstance(ImageCacheSettings(**written).colour, ColourConstancy)


def test_serving_sees_what_training_saw(files: dict[str, Path], tmp_path: Path) -> None:
    """A model that answers with the mean of blue."""
    image = keras.Input((24, 24, 3), name="image")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
    dense = keras.layers.Dense(1, use_bias=False)
    model = keras.Model({"image": image}, dense(x))
    dense.set_weights([np.array([[0.0], [0.0], [1.0]], "float32")])
    model.save(tmp_path / "model.keras")
    for settings in (PLAIN, COLOUR):
        store = json.loads(json.dumps(plain(settings)))
        sidecar = Sidecar("zoome", ("benign", "melanoma"), 24, {"store": store, "metadata": None}, 0.5, "", {})
        sidecar.write(tmp_path / "model.keras")
        images = [files["one"], files["two"]]
        answers = open_model(tmp_path / "model.keras").answer([Case(path) for path in images], tmp_path)
        for path, answer in zip(images, answers, strict=True):
            expected = decode_image(path, settings).pixels[..., 2].mean() / 255
            assert answer.probabilities[1] == pytest.approx(expected, rel=1e-5)
    blue = [decode_image(files["one"], settings).pixels[..., 2].mean() for settings in (PLAIN, COLOUR)]
    assert blue[1] > 1.1 * blue[0]


def test_the_command_line_sets_it_where_the_preset_has_it_and_does_not_ask_for_a_subcommand() -> None:
    found = _parse(ImageCacheSettings, ["--colour.p", "3", "--stored-px", "32"], "x", default=COLOUR)
    assert found == ImageCacheSettings(stored_px=32, colour=ColourConstancy(p=3.0))
    assert _parse(ImageCacheSettings, ["--stored-px", "32"], "x", default=PLAIN) == ImageCacheSettings(stored_px=32)


def test_it_counts_as_a_difference_from_the_paper() -> None:
    missing = {name: (here, there) for name, here, there in differing(PLAIN, COLOUR, (), ())}
    assert missing == {
        "colour.method": (None, "shades_of_gray"),
        "colour.p": (None, 5.0),
        "colour.mask_saturated": (None, False),
        "colour.saturated": (None, 255),
    }
    assert ("colour.p", 5.0, None) in differing(COLOUR, PLAIN, (), ())
    assert differing(COLOUR, COLOUR, (), ()) == []
