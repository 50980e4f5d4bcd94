import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.models.attention_transfer import (
    COMBINATIONS,
    AttentionMap,
    TransferSettings,
    attention_difference,
    attention_map,
    build_classifier,
    build_embedding,
    distillation,
    map_weight,
    pooled,
    stage_layers,
    tapped,
    transfer,
)
from melano_tf.models.backbone_graphs import build_features
from melano_tf.models.classifier_head import classify, logits_of
from melano_tf.models.layers import Preprocess
from melano_tf.training.checkpoint import training_variables, weights_sha256
from melano_tf.training.losses import categorical_crossentropy
from melano_tf.training.steps import GradientStep, Progress
from tests.models.layer_checks import check_layer, nested_models

PX = 32
NOW = Progress(*(tf.constant(number, tf.int64) for number in (0, 0, 10, 2)))


@pytest.fixture(scope="module")
def student() -> keras.Model:
    return build_classifier("standin_residual", PX, 3, seed=1)[0]


@pytest.fixture(scope="module")
def teacher() -> keras.Model:
    return build_embedding("standin_residual", PX, 8, seed=2)[0]


def _batch(count: int = 5, seed: int = 0, px: int = PX) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "x": {"image": tf.constant(rng.integers(0, 256, (count, px, px, 3)), tf.uint8)},
        "y": tf.constant(rng.integers(0, 3, count), tf.int32),
        "id": tf.constant([f"i{place}" for place in range(count)]),
    }


def _naive_map(features: np.ndarray) -> np.ndarray:
    """(H, W, C) -> (H, W), by loops."""
    height, width, channels = features.shape
    result = np.array(
        [[sum(features[y, x, c] ** 2 for c in range(channels)) / channels for x in range(width)] for y in range(height)]
    )
    return result / np.sqrt((result**2).sum())


def test_the_map_and_its_loss_against_loops() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 3, 4, 5, 6))
    maps = attention_map(first)
    assert maps.shape == (3, 4, 5)
    found = attention_difference(maps, attention_map(second))
    for sample in range(3):
        mine, theirs = _naive_map(first[sample]), _naive_map(second[sample])
        np.testing.assert_allclose(maps[sample], mine, rtol=1e-6)
        expected = sum((a - b) ** 2 for a, b in zip(mine.ravel(), theirs.ravel(), strict=True)) / 20
        np.testing.assert_allclose(found[sample], expected, rtol=1e-6)


def test_by_hand() -> None:
    # Two places, two channels: means of squares 12.5 and 0, or 4 and 3.
    maps = np.asarray(attention_map(np.array([[[[3.0, 4.0], [0.0, 0.0]]], [[[2.0, 2.0], [6**0.5, 0.0]]]])))
    np.testing.assert_allclose(maps, [[[1, 0]], [[0.8, 0.6]]], rtol=1e-6)
    np.testing.assert_allclose(attention_difference(maps[:1], maps[1:]), [(0.2**2 + 0.6**2) / 2], rtol=1e-6)
    # The size of the activations says nothing.
    x = np.random.default_rng(1).normal(size=(2, 3, 3, 4)).astype("float32")
    np.testing.assert_allclose(attention_map(x), attention_map(7 * x), rtol=1e-5)


def test_a_map_of_zeros_has_no_gradient_that_is_not_a_number() -> None:
    x = tf.zeros([2, 3, 3, 4])
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(attention_difference(attention_map(x), tf.ones([2, 3, 3])))
    np.testing.assert_array_equal(tape.gradient(loss, x), np.zeros((2, 3, 3, 4)))
    assert float(loss) == 2.0


def test_the_layer(tmp_path: Path) -> None:
    inputs = np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype("float32")
    layer = check_layer(AttentionMap, inputs, (3, 4, 5), tmp_path)
    np.testing.assert_allclose(layer(inputs), attention_map(inputs))
    half = AttentionMap(dtype="mixed_float16")(inputs * 1000)
    np.testing.assert_allclose(np.asarray(half, np.float32), attention_map(inputs), atol=1e-3)
    with pytest.raises(ValueError, match="expected"):
        AttentionMap()(inputs[0])


def test_distillation_by_hand() -> None:
    student = np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]])
    teacher = np.array([[0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    found = np.asarray(distillation(np.log(student) + 5.0, np.log(teacher) - 2.0, 3.0))  # any logits that give them

    def softened(p: np.ndarray) -> np.ndarray:
        return p ** (1 / 3) / (p ** (1 / 3)).sum(axis=1, keepdims=True)

    q, t = softened(student), softened(teacher)
    np.testing.assert_allclose(found, 9 * (t * np.log(t / q)).sum(axis=1), rtol=1e-6, atol=1e-12)
    assert found[0] > 0 and abs(found[1]) < 1e-12


@pytest.mark.parametrize("temperature", [1.0, 2.5, 4.0])
def test_distillation_is_the_naive_loop_however_sure_they_are(temperature: float) -> None:
    """Up to 60 logits apart, in half precision too; the gradient is T (softened student - softened teacher)."""
    draw = np.random.default_rng(3)
    z, told = (np.round(draw.uniform(-30, 30, (20, 4)) * 4) / 4 for _ in range(2))  # exact in half precision

    def softened(row: np.ndarray) -> list[float]:
        powers = [math.exp((value - row.max()) / temperature) for value in row]
        return [power / sum(powers) for power in powers]

    pairs = [(softened(mine), softened(theirs)) for mine, theirs in zip(z, told, strict=True)]
    expected = [temperature**2 * sum(t * math.log(t / q) for q, t in zip(*pair, strict=True)) for pair in pairs]
    for dtype in (tf.float16, tf.float32):
        x = tf.constant(z, dtype)
        with tf.GradientTape() as tape:
            tape.watch(x)
            found = distillation(x, tf.constant(told, dtype), temperature)
        assert found.dtype == tf.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        slope = temperature * np.array([np.subtract(*pair) for pair in pairs])
        gradient = np.asarray(tf.cast(tape.gradient(found, x), tf.float32))
        np.testing.assert_allclose(gradient, slope, atol=1e-5 if dtype == tf.float32 else 4e-3)


def test_the_networks(student: keras.Model, teacher: keras.Model, tmp_path: Path) -> None:
    batch = _batch()
    probabilities = student(batch["x"])
    assert probabilities.shape == (5, 3) and not nested_models(student)
    np.testing.assert_allclose(np.sum(probabilities, axis=1), 1, rtol=1e-6)
    embedded = teacher(batch["x"])
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), np.ones(5), rtol=1e-5)
    features = pooled(teacher)({"image": batch["x"]["image"]})
    assert features.shape == (5, 96)
    for model in (student, teacher):
        model.save(tmp_path / "m.keras")
        loaded = keras.saving.load_model(tmp_path / "m.keras")
        np.testing.assert_array_equal(loaded(batch["x"]), model(batch["x"]))
        assert stage_layers(loaded) == ("block1_conv", "block2_out", "block3_out", "block4_out")
    again = build_classifier("standin_residual", PX, 3, seed=1)[0]
    assert weights_sha256(again) == weights_sha256(student)
    with pytest.raises(InputError, match="at least 2"):
        build_classifier("standin", PX, 1)
    with pytest.raises(InputError, match="at least 2"):
        build_embedding("standin", PX, 1)


def test_resnet50s_stages() -> None:
    model, _ = build_embedding("resnet50", 64, seed=0)
    assert stage_layers(model) == ("conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out")
    shapes = {name: tuple(output.shape[1:]) for name, output in tapped(model).output.items()}
    assert shapes == {"output": (128,), "stage1": (16, 16), "stage2": (8, 8), "stage3": (4, 4), "stage4": (2, 2)}
    vgg, _ = build_embedding("vgg16", 32, seed=0)
    with pytest.raises(InputError, match="vgg16_embedding: its four stages are not known"):
        tapped(vgg)
    assert set(tapped(vgg, ()).output) == {"output"}


def test_torchvisions_resnet50(tmp_path: Path) -> None:
    """Another network than keras.applications' of that name, with torchvision's weights, as student and as teacher."""
    plain = build_features("torchvision_resnet50", 64)
    rng = np.random.default_rng(0)
    for variable in plain.variables:
        variable.assign(rng.uniform(0.01, 0.05, variable.shape))
    state = {}
    for layer in plain.layers:
        name = layer.name.replace("_", ".")
        if isinstance(layer, keras.layers.BatchNormalization):
            parts = zip(("weight", "bias", "running_mean", "running_var"), layer.weights, strict=True)
            state |= {f"{name}.{part}": np.asarray(value) for part, value in parts}
        elif layer.weights:
            state[f"{name}.weight"] = np.asarray(layer.kernel).transpose(3, 2, 0, 1)
    np.savez(tmp_path / "resnet50.npz", **state, **{"fc.weight": np.zeros((1000, 2048)), "fc.bias": np.zeros(1000)})
    student, report = build_classifier("torchvision_resnet50", 64, 3, tmp_path / "resnet50.npz", seed=1)
    assert report.tensors_loaded == len(plain.weights) == 265 and report.parameters == plain.count_params()
    image = rng.integers(0, 256, (1, 64, 64, 3)).astype("float32")
    inner = keras.Model(student.inputs, student.get_layer("features").output)
    seen = Preprocess("torch")(image)
    np.testing.assert_allclose(inner({"image": image}), plain(seen), rtol=1e-4)
    assert stage_layers(student) == ("layer1_2_relu3", "layer2_3_relu3", "layer3_5_relu3", "layer4_2_relu3")
    teacher, _ = build_embedding("torchvision_resnet50", 64, 8, seed=2)
    shapes = {name: tuple(output.shape[1:]) for name, output in tapped(teacher).output.items()}
    assert shapes == {"output": (8,), "stage1": (16, 16), "stage2": (8, 8), "stage3": (4, 4), "stage4": (2, 2)}
    assert transfer(student, teacher, TransferSettings()).model.output["stage4"].shape == (None, 2, 2)
    with pytest.raises(InputError, match="torchvision's state dict as a file"):
        build_classifier("torchvision_resnet50", 64, 3, "imagenet")


@pytest.mark.parametrize("layers", [*COMBINATIONS, ()])
def test_the_loss_of_every_combination(student: keras.Model, teacher: keras.Model, layers: tuple[int, ...]) -> None:
    batch = _batch()
    found = transfer(student, teacher, TransferSettings(layers=layers, weight=50.0))
    terms = found.loss_fn(batch, found.model(batch["x"], training=True))
    assert list(terms) == (["cross_entropy_loss", "transfer_loss"] if layers else ["cross_entropy_loss"])
    expected = np.asarray(categorical_crossentropy(batch["y"], logits_of(student)(batch["x"])))
    np.testing.assert_allclose(terms["cross_entropy_loss"], expected, rtol=1e-4)
    transferred = np.zeros(5)
    for stage in layers:
        maps = []
        for model in (student, teacher):
            layer = model.get_layer(stage_layers(model)[stage - 1])
            maps.append(keras.Model(model.inputs, layer.output)(batch["x"]))
        difference = attention_difference(attention_map(maps[0]), attention_map(maps[1]))
        assert float(np.max(difference)) > 0
        side = {1: 16, 2: 8, 3: 4, 4: 2}[stage]
        transferred += 50 * min(1, side**2 / 49) * np.asarray(difference)
    if layers:
        np.testing.assert_allclose(terms["transfer_loss"], transferred, rtol=1e-4)


def test_a_small_map_weighs_as_one_of_7x7() -> None:
    """The same two looks, on maps of any size: weight x mean is a share of their sum of squares, 20.4 at the most."""

    def share(side: int) -> float:
        first, second = np.zeros((2, 1, side, side, 3))
        first[0, 0, 0], second[0, -1, -1] = 2.0, 5.0  # all energy in one corner, or in the other
        difference = attention_difference(attention_map(first), attention_map(second))
        return map_weight(1e3, side, side) * float(difference[0]) / 2  # 2: the sum of squares of these unit maps

    for side in (2, 4, 6, 7):
        assert share(side) == pytest.approx(1000 / 49, rel=1e-6), side
    assert share(14) == pytest.approx(1000 / 14**2, rel=1e-6)  # as the reference implementation has it
    assert map_weight(1e3, 3, 8) == pytest.approx(1e3 * 24 / 49) and map_weight(1e3, 56, 56) == 1e3


def test_a_step_trains_the_student_and_nothing_of_the_teacher(
    student: keras.Model, teacher: keras.Model, tmp_path: Path
) -> None:
    student = keras.models.clone_model(student)
    batch = _batch()
    found = transfer(student, teacher, TransferSettings(layers=(3, 4)))
    optimizer = keras.optimizers.Adam(1e-3)
    step = GradientStep(found.model, optimizer, found.loss_fn)
    before = (weights_sha256(student), weights_sha256(teacher))
    results = [step(batch, NOW) for _ in range(8)]
    losses = [float(result["loss"]) for result in results]
    assert losses[-1] < losses[0]
    for result in results:  # what is recorded apart adds up
        apart = float(result["cross_entropy_loss"]) + float(result["transfer_loss"])
        assert float(result["transfer_loss"]) > 0 and apart == pytest.approx(float(result["loss"]), rel=1e-5)
    assert weights_sha256(student) != before[0] and weights_sha256(teacher) == before[1]
    held = {id(variable) for variable in training_variables(found.model, optimizer)}
    assert not held & {id(variable) for variable in teacher.variables}
    assert {id(variable) for variable in student.variables} <= held
    student.save(tmp_path / "s.keras")
    loaded = keras.saving.load_model(tmp_path / "s.keras")
    assert loaded.count_params() == student.count_params()
    np.testing.assert_allclose(loaded(batch["x"]), tf.nn.softmax(found.model(batch["x"])["output"]), atol=1e-6)


def test_the_student_learns_where_the_teacher_looks(teacher: keras.Model) -> None:
    """With the attention's loss alone, its maps come nearer; the baseline's do not have to."""
    batch = _batch(12)
    student, _ = build_classifier("standin_residual", PX, 3, seed=7)
    found = transfer(student, teacher, TransferSettings(layers=(2, 3), weight=1e4))
    step = GradientStep(found.model, keras.optimizers.Adam(3e-3), found.loss_fn)
    told = tapped(teacher)(batch["x"])

    def apart() -> list[float]:
        outputs = tapped(student)(batch["x"])
        return [float(np.mean(attention_difference(outputs[name], told[name]))) for name in ("stage2", "stage3")]

    first = apart()
    for _ in range(30):
        step(batch, NOW)
    assert all(after < 0.7 * before for before, after in zip(first, apart(), strict=True))


def test_a_teacher_stays_in_inference_mode() -> None:
    """Its batch statistics neither count nor change."""

    def network(name: str) -> keras.Model:
        inputs = keras.Input((8, 8, 3), name="image")
        x = inputs
        for layer in ("block1_conv", "block2_out", "block3_out", "block4_out"):
            x = keras.layers.Conv2D(4, 3, padding="same", name=f"{layer}_c")(x)
            x = keras.layers.BatchNormalization(name=layer)(x)
        x = keras.layers.Dropout(0.5)(keras.layers.GlobalAveragePooling2D()(x))
        return keras.Model(inputs, classify(x, 3, "softmax", "probabilities"), name=name)

    keras.utils.set_random_seed(0)
    student, teacher = network("student"), network("teacher")
    before = [np.array(variable) for variable in teacher.variables]
    found = transfer(student, teacher, TransferSettings(layers=(1, 4), distillation=1.0))
    step = GradientStep(found.model, keras.optimizers.SGD(0.01), found.loss_fn)
    statistics = np.array(student.get_layer("block1_conv").moving_mean)
    batch = _batch(px=8)
    outputs = found.model(batch["x"], training=False)
    first, second = (found.loss_fn(batch, outputs) for _ in range(2))
    assert set(first) == {"cross_entropy_loss", "transfer_loss", "distillation_loss"}
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])  # no dropout
    step(batch, NOW)
    for old, variable in zip(before, teacher.variables, strict=True):
        np.testing.assert_array_equal(old, variable)
    assert not np.array_equal(statistics, student.get_layer("block1_conv").moving_mean)


def test_what_does_not_fit_is_refused(student: keras.Model, teacher: keras.Model) -> None:
    plain, _ = build_classifier("standin_residual", 48, 3, seed=0)
    with pytest.raises(InputError, match="teacher takes images of 32x32 px and the student of 48x48"):
        transfer(plain, teacher, TransferSettings())
    resnet, _ = build_classifier("resnet50", PX, 3, seed=0)
    with pytest.raises(InputError, match=r"differ in size.*\n.*stage 1: teacher 16x16, student 8x8\n.*stage 2"):
        transfer(resnet, teacher, TransferSettings(layers=(1, 2)))
    with pytest.raises(InputError, match="no teacher"):
        transfer(student, None, TransferSettings())
    with pytest.raises(InputError, match=r"needs a teacher with the student's 3 classes, and this one .* has none"):
        transfer(student, teacher, TransferSettings(layers=(), distillation=1.0))
    assert transfer(student, None, TransferSettings(layers=())).model.output.keys() == {"output"}
    wrong: list[Callable[[], Any]] = [
        lambda: TransferSettings(layers=(0,)),
        lambda: TransferSettings(layers=(2, 2)),
        lambda: TransferSettings(weight=-1.0),
        lambda: TransferSettings(temperature=0.5),
    ]
    for make in wrong:
        with pytest.raises(InputError, match="transfer: "):
            make()


def test_the_nine_combinations() -> None:
    assert len(COMBINATIONS) == len(set(COMBINATIONS)) == 9
    assert {layer for layers in COMBINATIONS for layer in layers} == {1, 2, 3, 4}
