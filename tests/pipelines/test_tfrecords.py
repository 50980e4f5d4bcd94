"""The record files are what TensorFlow reads, checksums and all, though TensorFlow did not write them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from melano_tf.errors import InputError
from melano_tf.pipelines.tfrecords import append_image, example, masked_crc, read_jpegs

FEATURES = {
    "slide_id": "Fäll-1",
    "patient_id": "p",
    "x": -3,
    "y": 2**40,
    "w0": 2048.5,
    "tissue": 0.25,
    "tumour": np.nan,
}


def test_the_checksum_is_that_of_the_standards_check_word_masked() -> None:
    crc = 0xE3069283  # of "123456789", as RFC 3720 has it
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    assert masked_crc(b"123456789") == ((rotated + 0xA282EAD8) % 2**32).to_bytes(4, "little")


def test_tensorflow_reads_what_was_written(tmp_path: Path) -> None:
    import tensorflow as tf

    images = [np.random.default_rng(i).bytes(size) for i, size in enumerate((1, 127, 128, 5000))]
    path = tmp_path / "s.tfrecord"
    with path.open("wb") as file:
        places = [append_image(file, {**FEATURES, "x": i - 3}, "jpeg", image) for i, image in enumerate(images)]
    kinds = {
        "jpeg": tf.string,
        "slide_id": tf.string,
        "patient_id": tf.string,
        "x": tf.int64,
        "y": tf.int64,
        "w0": tf.float32,
        "tissue": tf.float32,
        "tumour": tf.float32,
    }
    schema = {name: tf.io.FixedLenFeature([], kind) for name, kind in kinds.items()}
    read = [tf.io.parse_single_example(record, schema) for record in tf.data.TFRecordDataset(str(path))]
    assert [record["jpeg"].numpy() for record in read] == images
    assert [int(record["x"]) for record in read] == [-3, -2, -1, 0]
    for record in read:
        assert record["slide_id"].numpy().decode() == FEATURES["slide_id"]
        assert int(record["y"]) == 2**40
        assert float(record["w0"]) == 2048.5
        assert float(record["tissue"]) == 0.25
        assert np.isnan(float(record["tumour"]))
    assert read_jpegs(tmp_path, "s", places) == images
    assert read_jpegs(tmp_path, "s", [places[2]]) == [images[2]]


def test_the_message_equals_protobufs_own() -> None:
    import tensorflow as tf

    message = tf.train.Example.FromString(example({**FEATURES, "jpeg": b"\x00\xff" * 300}))
    value = message.features.feature
    assert value["jpeg"].bytes_list.value[0] == b"\x00\xff" * 300
    assert value["x"].int64_list.value[0] == -3
    assert len(value) == len(FEATURES) + 1


def test_a_damaged_record_is_noticed(tmp_path: Path) -> None:
    import tensorflow as tf

    path = tmp_path / "s.tfrecord"
    with path.open("wb") as file:
        place = append_image(file, FEATURES, "jpeg", b"image" * 100)
        other = append_image(file, FEATURES, "jpeg", b"other" * 70)
    content = bytearray(path.read_bytes())
    content[place[0] + 50] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(tf.errors.DataLossError):
        list(tf.data.TFRecordDataset(str(path)))
    with pytest.raises(InputError, match=rf"s\.tfrecord: the tile at byte {place[0]} is not what was written"):
        read_jpegs(tmp_path, "s", [other, place])
    assert read_jpegs(tmp_path, "s", [other]) == [b"other" * 70]


def test_a_file_cut_short_or_gone_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "s.tfrecord"
    with path.open("wb") as file:
        place = append_image(file, FEATURES, "jpeg", b"image" * 100)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"s\.tfrecord: shorter"):
        read_jpegs(tmp_path, "s", [place])
    with pytest.raises(InputError, match=r"other\.tfrecord: No such file"):
        read_jpegs(tmp_path, "other", [(0, 1, 0)])


def test_settings_and_workers_import_no_tensorflow() -> None:
    code = (
        "import sys, melano_tf.pipelines.tile_store, melano_tf.pipelines.augment; "
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
