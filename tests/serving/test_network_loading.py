"""Model files that cannot be used: one line, exit code 2."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from melano_tf.models.fused_batch_norm import fuse_batch_norm
from melano_tf.runs.sidecar import Sidecar
from tests.papers.tiny import Finished


@pytest.mark.parametrize("damage", ["cut", "words", "weights"])
def test_a_damaged_model_is_one_line(models, pictures, tmp_path, inside, damage) -> None:
    whole = models.files["seven"]
    file = tmp_path / whole.name
    shutil.copy(Sidecar.path(whole), Sidecar.path(file))
    content = {"cut": whole.read_bytes()[:3000], "words": b"no model", "weights": _without_weights(whole, tmp_path)}
    file.write_bytes(content[damage])
    image = next(path for path in sorted(pictures.iterdir()) if path.suffix == ".jpg")
    for command in (
        ("predict", "--input", str(image), "--out", str(tmp_path / "answer")),
        ("export", "--out", str(tmp_path / "serving")),
    ):
        done = inside(*command, "--model", str(file))
        _one_line(done, file)
        assert "damaged, or copied in part" in done.errors


def test_a_sidecar_or_a_folder_is_no_model(models, tmp_path, inside) -> None:
    for path in (Sidecar.path(models.files["seven"]), models.files["seven"].parent):
        _one_line(inside("export", "--model", str(path), "--out", str(tmp_path / "serving")), path)


def test_an_exported_model_without_its_weights_is_one_line(models, pictures, tmp_path, inside) -> None:
    folder = tmp_path / "seven" / "1"
    shutil.copytree(models.exports["seven"].folder, folder)
    for path in (folder / "variables").iterdir():
        path.unlink()
    image = next(path for path in sorted(pictures.iterdir()) if path.suffix == ".jpg")
    _one_line(inside("predict", "--model", str(folder), "--input", str(image), "--out", str(tmp_path / "a")), folder)


ANEW = """
import importlib, os, pkgutil, sys
from pathlib import Path
import keras
import melano_tf.models

def read(command):
    if command == "predict":
        from melano_tf.serving.network_loading import load_network
        return load_network(Path(sys.argv[1]))
    from melano_tf.pipelines.slide_features import SlideFeatureSettings, load_encoder
    return load_encoder(SlideFeatureSettings(encoder=sys.argv[1])).model

for command in ("predict", "features"):  # each in a process that knows what Keras itself knows
    if child := os.fork():
        if os.waitpid(child, 0)[1]:
            sys.exit(f"{command} failed")
        continue
    network = read(command)
    known = set(keras.saving.get_custom_objects())
    for module in pkgutil.iter_modules(melano_tf.models.__path__):
        importlib.import_module(f"melano_tf.models.{module.name}")
    unknown = sorted(set(keras.saving.get_custom_objects()) - known)
    print(command, float(keras.ops.sum(network(keras.ops.ones((1, 6, 6, 3))))), unknown)
    break
"""


def test_a_process_that_built_no_network_reads_them_all(tmp_path: Path) -> None:
    """`predict` and `view` are given a file, and have not imported what its run was made with."""
    picture = keras.Input((6, 6, 3))
    mapped = keras.layers.BatchNormalization()(keras.layers.Conv2D(2, 3)(picture))
    network = keras.Model(*fuse_batch_norm(picture, keras.layers.GlobalAveragePooling2D()(mapped)))
    network.save(tmp_path / "best-all.keras")
    line = [sys.executable, "-c", ANEW, str(tmp_path / "best-all.keras")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    wanted = float(np.sum(network(np.ones((1, 6, 6, 3), np.float32))))
    said = done.stdout.splitlines()
    assert [words.split()[0] for words in said] == ["predict", "features"]
    for words in said:
        _, total, unknown = words.split(" ", 2)
        assert unknown == "[]", words  # every layer of the project's
        assert float(total) == pytest.approx(wanted, abs=1e-5)


def _one_line(done: Finished, path: Path) -> None:
    assert done.code == 2, done.errors
    lines = [line for line in done.errors.splitlines() if line.startswith("melano_tf:")]
    assert len(lines) == 1 and str(path) in lines[0], done.errors
    assert "Traceback" not in done.errors


def _without_weights(whole: Path, folder: Path) -> bytes:
    """The model's archive without the file of its weights."""
    short = folder / "short.zip"
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(short, "w") as new:
        for name in old.namelist():
            if not name.endswith(".h5"):
                new.writestr(name, old.read(name))
    return short.read_bytes()
