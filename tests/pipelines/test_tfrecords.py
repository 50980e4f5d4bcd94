"""The record files are what TensorFlow reads, checksums and all, though TensorFlow did not write them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from melano_tf.errors import InputError
from melano_tf.pipelines.tfrecords import append_image, crc32c, example, read_jpegs

FEATURES = {
    "slide_id": "Fäll-1",
    "patient_id": "p",
    "x": -3,
    "y": 2**40,
    "w0": 2048.5,
    "tissue": 0.25,
    "tumour": np.nan,
}


def crc_by_bits(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_crc_of_the_standard_check_word() -> None:
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 8, 1023, 1024, 1025, 2048, 5000])
def test_crc_equals_the_bitwise_one(length: int) -> None:
    data = np.random.default_rng(length).bytes(length)
    assert crc32c(data) == crc_by_bits(data)


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
    assert read_jpegs(tmp_path, "s", *zip(*places, strict=True)) == images
    assert read_jpegs(tmp_path, "s", [places[2][0]], [places[2][1]]) == [images[2]]


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
        offset, _ = append_image(file, FEATURES, "jpeg", b"image" * 100)
    content = bytearray(path.read_bytes())
    content[offset + 50] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(tf.errors.DataLossError):
        list(tf.data.TFRecordDataset(str(path)))


def test_a_file_cut_short_or_gone_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "s.tfrecord"
    with path.open("wb") as file:
        place = append_image(file, FEATURES, "jpeg", b"image" * 100)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"s\.tfrecord: shorter"):
        read_jpegs(tmp_path, "s", [place[0]], [place[1]])
    with pytest.raises(InputError, match=r"other\.tfrecord: No such file"):
        read_jpegs(tmp_path, "other", [0], [1])


def test_settings_and_workers_import_no_tensorflow() -> None:
    code = (
        "import sys, melano_tf.pipelines.tile_store, melano_tf.pipelines.augment; "
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
