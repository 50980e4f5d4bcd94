from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.training.checkpoint import (
    Snapshot,
    load_checkpoint,
    training_variables,
    weights_sha256,
    write_snapshot,
)


def save_checkpoint(path: Path, variables: list[Any], state: dict[str, Any]) -> None:
    write_snapshot(path, Snapshot.of(variables, state))


class Held:
    """One device's part of a variable, or all of one device's variable."""

    def __init__(self, *numbers: float) -> None:
        self.held = np.array(numbers, np.float32)

    def numpy(self) -> np.ndarray:
        return self.held

    def assign(self, numbers: np.ndarray) -> None:
        self.held = np.asarray(numbers)


class Mirrored:
    """What a checkpoint asks of a variable that lies on several devices; given as a whole, all have it."""

    path, shape, dtype = "norm/moving_mean", (2,), "float32"

    def __init__(self, *parts: Held) -> None:
        self.value = SimpleNamespace(values=parts)

    def assign(self, numbers: np.ndarray) -> None:
        for part in self.value.values:
            part.assign(numbers)


def test_devices_that_differ_get_their_own_back_and_another_number_of_them_the_mean(tmp_path: Path) -> None:
    written, alike = Mirrored(Held(1, np.nan), Held(4, 7), Held(4, 2)), Mirrored(Held(np.nan, 3), Held(np.nan, 3))
    save_checkpoint(tmp_path / "c.npz", [alike, written], {"step": 3})
    with np.load(tmp_path / "c.npz") as file:
        assert sorted(file.files) == ["header", "replicas1", "v0", "v1"], "what is alike is written once"
    again, other = Mirrored(Held(0, 0), Held(0, 0), Held(0, 0)), Mirrored(Held(0, 0))
    assert load_checkpoint(tmp_path / "c.npz", [other, again]) == {"step": 3}
    found = [part.held.tolist() for part in again.value.values]
    assert found[1:] == [[4.0, 7.0], [4.0, 2.0]] and found[0][0] == 1.0 and np.isnan(found[0][1])
    assert np.isnan(other.value.values[0].held[0]) and other.value.values[0].held[1] == 3.0
    written.assign(np.zeros(2, np.float32))
    written.value.values[2].assign(np.array([6, 3], np.float32))
    save_checkpoint(tmp_path / "d.npz", [written], {})
    two = Mirrored(Held(9, 9), Held(9, 9))
    load_checkpoint(tmp_path / "d.npz", [two])
    for part in two.value.values:
        assert part.held.tolist() == [2.0, 1.0] and part.held.dtype == np.float32


def _made(toy: ModuleType, seed: int) -> tuple[Any, Any, list[Any]]:
    keras.utils.set_random_seed(seed)
    model, optimizer = toy.toy_model(), toy.toy_optimizer()
    optimizer.build(model.trainable_variables)
    return model, optimizer, training_variables(model, optimizer)


def _values(variables: list[Any]) -> list[np.ndarray]:
    return [np.asarray(variable) for variable in variables]


def test_everything_comes_back_into_another_model_object(toy: ModuleType, tmp_path: Path) -> None:
    model, optimizer, variables = _made(toy, 1)
    batch = toy.ToyBatches().batch(0)
    model(batch["x"], training=True)  # moves the statistics and the seed generator
    optimizer.apply([np.ones(v.shape, np.float32) for v in model.trainable_variables], model.trainable_variables)
    assert any("seed_generator_state" in v.path for v in variables)
    assert any("moving_mean" in v.path for v in variables)
    assert any("momentum" in v.path for v in variables) and any("iteration" in v.path for v in variables)
    state = {"step": 7, "loss": 0.1 + 0.2, "history": [{"epoch": 0, "loss": 1 / 3}]}
    save_checkpoint(tmp_path / "c.npz", variables, state)

    other, _, others = _made(toy, 2)  # its layers carry other automatic names
    assert other.layers[1].name != model.layers[1].name
    assert weights_sha256(other) != weights_sha256(model)
    assert load_checkpoint(tmp_path / "c.npz", others) == state
    for a, b in zip(_values(variables), _values(others), strict=True):
        np.testing.assert_array_equal(a, b)
    assert weights_sha256(other) == weights_sha256(model)
    np.testing.assert_array_equal(model(batch["x"], training=True), other(batch["x"], training=True))


def test_no_file_no_state(toy: ModuleType, tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "c.npz", _made(toy, 1)[2]) is None


def test_the_file_of_another_model_is_refused_and_changes_nothing(toy: ModuleType, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.npz", _made(toy, 1)[2], {})
    keras.utils.set_random_seed(2)
    model = toy.toy_model(batch_norm=False)
    optimizer = toy.toy_optimizer()
    optimizer.build(model.trainable_variables)
    variables = training_variables(model, optimizer)
    before = _values(variables)
    with pytest.raises(InputError, match=r"another model(.|\n)*variables"):
        load_checkpoint(tmp_path / "c.npz", variables)
    for a, b in zip(before, _values(variables), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_optimizer_is_refused(toy: ModuleType, tmp_path: Path) -> None:
    model, _, variables = _made(toy, 1)
    save_checkpoint(tmp_path / "c.npz", variables, {})
    adam = keras.optimizers.Adam()
    adam.build(model.trainable_variables)
    with pytest.raises(InputError, match="another model"):
        load_checkpoint(tmp_path / "c.npz", training_variables(model, adam))


def test_a_damaged_file_is_one_clear_line(toy: ModuleType, tmp_path: Path) -> None:
    variables = _made(toy, 1)[2]
    path = tmp_path / "c.npz"
    save_checkpoint(path, variables, {})
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    for damaged in (whole[:middle], b"", b"not a checkpoint", flipped):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged checkpoint"):
            load_checkpoint(path, variables)


def test_a_bit_that_turned_anywhere_costs_the_checkpoint_or_changes_nothing(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32), np.ones((2, 2), np.float32)
    variables, path = [keras.Variable(value) for value in values], tmp_path / "c.npz"
    save_checkpoint(path, variables, {"step": 3})
    whole, damaged = path.read_bytes(), 0
    turned = (whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in range(len(whole)))
    for content in (*turned, *(whole[:size] for size in range(0, len(whole), 31))):
        path.write_bytes(content)
        try:
            assert load_checkpoint(path, variables) == {"step": 3}
        except InputError as error:
            assert "damaged checkpoint" in str(error) or "another model" in str(error)
            damaged += 1
        for variable, value in zip(variables, values, strict=True):
            np.testing.assert_array_equal(variable, value)
    assert damaged > len(whole) // 2


def test_a_failed_write_leaves_the_old_file(toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = _made(toy, 1)[2]
    save_checkpoint(tmp_path / "c.npz", variables, {"step": 1})

    def full(path: Path, **arrays: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path / "c.npz", variables, {"step": 2})
    assert load_checkpoint(tmp_path / "c.npz", variables) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["c.npz"]


def test_bfloat16_and_plain_tensorflow_variables(tmp_path: Path) -> None:
    half = keras.Variable(np.array([1.5, -2.25], np.float32), dtype="bfloat16", name="half")
    plain = tf.Variable([1, 2, 3], name="plain")
    save_checkpoint(tmp_path / "c.npz", [half, plain], {})
    half.assign(np.zeros(2, np.float32))
    plain.assign([0, 0, 0])
    load_checkpoint(tmp_path / "c.npz", [half, plain])
    np.testing.assert_array_equal(np.asarray(half.value).astype(np.float32), [1.5, -2.25])
    np.testing.assert_array_equal(plain.numpy(), [1, 2, 3])


def test_the_digest_tells_shapes_apart() -> None:
    digests = set()
    for shape in ((2, 6), (6, 2), (12,)):
        layer = keras.layers.Layer()
        layer.add_weight(shape=shape, initializer="ones")
        digests.add(weights_sha256(layer))
    assert len(digests) == 3
