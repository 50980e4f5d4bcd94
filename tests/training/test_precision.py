"""Half precision wherever a network is built: the same gradient but for rounding, float32 where it counts, and files
that answer the same wherever they are read."""

import dataclasses
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.errors import InputError, RunError
from melano_tf.models.attention_transfer import build_embedding
from melano_tf.models.bag_models import build_bag_model
from melano_tf.models.bag_settings import BagModelSettings
from melano_tf.models.biopsy_classifier import build_target, split_target
from melano_tf.models.classifier_head import classify
from melano_tf.models.hierarchical_classifier import build_flat, build_hierarchical
from melano_tf.models.layers import Preprocess
from melano_tf.models.mixup_layer import mixing
from melano_tf.models.seanet import build_source
from melano_tf.models.tta_and_prior_shift import answering
from melano_tf.models.zoome_network import build_zoome
from melano_tf.papers import PAPERS
from melano_tf.papers.plan import Step
from melano_tf.papers.shell import Work
from melano_tf.papers.step_states import inputs_of
from melano_tf.papers.weighting.cohort import class_names, read_taxonomy
from melano_tf.runs.run_folder import Run
from melano_tf.training import tensorflow_runtime as runtime
from melano_tf.training.exact_bags import BagStep, predict_bag
from melano_tf.training.fit import Network, changed_by_parts, fit
from melano_tf.training.losses import binary_crossentropy, categorical_crossentropy
from melano_tf.training.optimizers import make_optimizer
from melano_tf.training.steps import GradientStep, Progress, float32
from melano_tf.training.tensorflow_runtime import computing_in, kernels_named
from tests.training import test_fit

NOW = Progress(*(tf.constant(number, tf.int64) for number in (3, 1, 10, 2)))
RNG = np.random.default_rng(4)
PX = 32
PICTURES = RNG.uniform(0, 255, (3, PX, PX, 3)).astype(np.float32)
HALVES = ["bfloat16", "float16"]


def batch_of(count: int) -> dict[str, Any]:
    rng = np.random.default_rng(count)
    return {
        "x": tf.constant(rng.uniform(0, 255, (count, PX, PX, 3)), tf.float32),
        "y": tf.constant(rng.integers(0, 2, count)),
        "weight": tf.constant(rng.uniform(0.2, 2.0, count), tf.float32),
        "id": tf.constant([f"i{i}" for i in range(count)]),
    }


def network(dropout: float = 0.0, norm: bool = False, seed: int = 5) -> keras.Model:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((PX, PX, 3))
    x = keras.layers.Conv2D(6, 3, strides=2, activation="relu", kernel_regularizer="l2")(Preprocess("tf")(inputs))
    x = keras.layers.BatchNormalization()(x) if norm else x
    x = keras.layers.Dropout(dropout)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, keras.layers.Dense(2)(x))


def loss(batch: Any, outputs: Any) -> Any:
    assert outputs.dtype == tf.float32
    return categorical_crossentropy(batch["y"], outputs)


def stepped(precision: str, rate: float = 0.5) -> tuple[dict[str, float], list[np.ndarray]]:
    """Scalars of one step, and the weights after it."""
    with computing_in(precision):
        model, optimizer = network(), make_optimizer("sgd", rate, clipnorm=100.0)
    found = GradientStep(model, optimizer, loss)(batch_of(7), NOW)
    assert all(variable.dtype == "float32" for variable in model.weights)
    return {name: float(found[name]) for name in found if name != "loss_per_sample"}, model.get_weights()


@pytest.mark.parametrize("precision", HALVES)
def test_a_step_is_that_of_float32_but_for_rounding(precision: str) -> None:
    (full, wanted), (half, weights) = stepped("float32"), stepped(precision)
    assert half["loss"] == pytest.approx(full["loss"], rel=0.02) and half["loss"] != full["loss"]
    assert half["gradient_norm"] == pytest.approx(full["gradient_norm"], rel=0.05)  # not scaled any more
    assert half.get("skipped") == (0.0 if precision == "float16" else None)
    with computing_in("float32"):
        start = network().get_weights()
    moved, expected = (
        np.concatenate([(a - b).ravel() for a, b in zip(w, start, strict=True)]) for w in (weights, wanted)
    )
    assert np.linalg.norm(moved - expected) < 0.05 * np.linalg.norm(expected)


def test_in_float16_a_step_whose_gradients_overflow_is_left_out_and_counted() -> None:
    with computing_in("float16"):
        model, optimizer = network(), make_optimizer("sgd", 0.1)
    step = GradientStep(model, optimizer, loss)
    before = [model.get_weights(), float(optimizer.dynamic_scale)]
    optimizer.dynamic_scale.assign(1e30)
    found = step(batch_of(4), NOW)
    assert float(found["skipped"]) == 1.0 and float(found["gradient_norm"]) == 0.0 and np.isfinite(float(found["loss"]))
    for now, then in zip(model.get_weights(), before[0], strict=True):
        np.testing.assert_array_equal(now, then)
    assert float(optimizer.dynamic_scale) < 1e30
    optimizer.dynamic_scale.assign(before[1])
    assert float(step(batch_of(4), NOW)["skipped"]) == 0.0


def test_grey_levels_are_subtracted_before_they_are_rounded() -> None:
    grey = tf.constant(np.full((1, 1, 1, 3), 103.0 + 57 / 64, np.float32))
    for mode in ("caffe", "torch", "tf"):
        whole = np.asarray(Preprocess(mode, dtype="float32")(grey))
        half = Preprocess(mode, dtype="mixed_bfloat16")(grey)
        assert half.dtype == tf.bfloat16
        np.testing.assert_array_equal(np.asarray(half, np.float32), np.asarray(tf.cast(whole, tf.bfloat16), np.float32))


def target(aggregation: Any) -> keras.Model:
    source = build_source("standin", PX, seanet=True, head="gmp", seed=1)
    return build_target(source, aggregation, attention_units=8, seed=2)


NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "source": lambda: build_source("standin", PX, seanet=True, head="mlp", seed=1),
    "zoome": lambda: build_zoome("resnext_standin", PX, seed=1)[0],
    "embedding": lambda: build_embedding("standin_residual", PX, 16, seed=1)[0],
    "flat": lambda: build_flat("standin", PX, 7, seed=1)[0],
    "hierarchy": lambda: build_hierarchical(read_taxonomy(None, class_names()), "standin", PX, seed=1)[0].leaves,
    "answering": lambda: answering(network_that_classifies(), 40, 4, (1.0, 2.0)),
    **{kind: lambda kind=kind: target(kind) for kind in ("bgmp", "bgas")},
    **{kind: lambda kind=kind: bag_model(kind) for kind in ("gated", "clam_multi", "transformer")},
}


def network_that_classifies() -> keras.Model:
    model = network(norm=True)
    return keras.Model(model.inputs[0], classify(model.outputs[0], 2, "softmax", "classes"))


def bag_model(kind: Any) -> keras.Model:
    settings = BagModelSettings(kind, hidden=(8,), attention_units=8, landmarks=4, heads=2, extremes=2, dropout=0.3)
    return build_bag_model(8, 2, settings, keras.config.dtype_policy().name, seed=1)


def shown(model: keras.Model) -> Any:
    given = {"image": PICTURES, "metadata": np.zeros((3, 99), np.float32)}
    given |= {"features": RNG.normal(size=(2, 5, 8)), "mask": np.arange(5) < [[3], [5]]}
    if not isinstance(model.input, dict | list):
        return PICTURES
    if isinstance(model.input, list):
        return [
            given[each.name][:, : each.shape[-1]] if each.name == "metadata" else given[each.name]
            for each in model.input
        ]
    return {name: tf.cast(given[name], each.dtype) for name, each in model.input.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_saved_network_answers_the_same_where_float32_is_the_policy(name: str, tmp_path: Path) -> None:
    with computing_in("bfloat16"):
        model = NETWORKS[name]()
    assert keras.config.dtype_policy().name == "float32"
    assert any(layer.compute_dtype == "bfloat16" for layer in model._flatten_layers(include_self=False))
    x = shown(model)
    said = model(x, training=False)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")(x, training=False)
    answers = {key: value for key, value in said.items() if key != "attention"} if isinstance(said, dict) else said
    assert all(each.dtype == tf.float32 for each in tf.nest.flatten(answers))
    for one, other in zip(tf.nest.flatten(float32(said)), tf.nest.flatten(float32(again)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("precision", HALVES)
def test_a_bag_in_chunks_gives_the_gradient_of_the_whole(precision: str) -> None:
    rng = np.random.default_rng(0)
    bag = {"x": tf.constant(rng.uniform(0, 255, (11, PX, PX, 3)), tf.float32)}
    bag |= {"y": tf.constant([1]), "id": tf.constant(["b"]), "weight": tf.constant([0.7])}

    def gradients(computes: str, chunk: int) -> np.ndarray:
        with computing_in(computes):
            model, optimizer = target("bgas"), make_optimizer("sgd", 0.1)
        step = BagStep(
            *split_target(model), optimizer, lambda b, o: binary_crossentropy(b["y"], o["logit"][:, 0]), chunk
        )
        assert all(each.dtype == tf.float32 for each in step._sums.values())
        found = np.concatenate([each.ravel() for each in step.gradients(bag)])
        scalars = step(bag, NOW)
        assert float(scalars["gradient_norm"]) == pytest.approx(np.linalg.norm(found), rel=1e-4)
        answer = predict_bag(*split_target(model), [bag["x"][:6], bag["x"][6:]])
        assert answer.attention.dtype == answer.embeddings.dtype == np.float32
        return found

    exact, whole, chunked = gradients("float32", 16), gradients(precision, 16), gradients(precision, 4)
    assert np.linalg.norm(chunked - whole) < 0.02 * np.linalg.norm(whole)
    assert 0 < np.linalg.norm(whole - exact) < 0.1 * np.linalg.norm(exact)


@dataclass(frozen=True)
class Half(test_fit.Settings):
    """Of a run in half precision, in parts."""

    precision: str = "bfloat16"
    micro_batch: int = 4


def test_a_training_is_built_in_the_runs_precision_and_nothing_else_is(tmp_path: Path) -> None:
    said: list[str] = []
    with Run(tmp_path, "toy", Half(), 1, said.append) as run:
        files = fit(run, dataclasses.replace(test_fit.TRAINING, judge=None), run.scratch("toy", "k"))
    model = keras.saving.load_model(files[0])
    assert model.layers[-1].compute_dtype == "bfloat16" and keras.config.dtype_policy().name == "float32"
    assert model.layers[-1].kernel.dtype == "float32"


# --- in parts


def twice(losses: Any, batch: Any, progress: Any) -> Any:
    """Weights that only the whole batch's losses give: the larger half counts."""
    return tf.cast(losses >= tf.sort(losses)[tf.shape(losses)[0] // 2], tf.float32)


def terms(batch: Any, outputs: Any) -> dict[str, Any]:
    return {"one": loss(batch, outputs), "two": 0.5 * outputs[:, 0] ** 2}


@pytest.mark.parametrize("weights_fn", [None, twice])
@pytest.mark.parametrize("samples", [1, 4, 7, 50])
def test_parts_add_up_to_the_batch(samples: int, weights_fn: Any) -> None:
    results = []
    for parts in (0, samples):
        model = network()
        step = GradientStep(model, make_optimizer("sgd", 0.5), terms, weights_fn)
        step = step.in_parts(parts) if parts else step
        found = [step(batch_of(count), NOW) for count in (7, 5)]  # a smaller last batch, in the same graph
        scalars = [float(each[name]) for each in found for name in ("loss", "one", "two", "gradient_norm")]
        losses = np.concatenate([each["loss_per_sample"] for each in found])
        results.append((scalars, losses, np.concatenate([w.ravel() for w in model.get_weights()])))
    for whole, added in zip(*results, strict=True):
        np.testing.assert_allclose(added, whole, rtol=1e-5, atol=1e-6)


def test_passes_for_the_weights_leave_nothing_behind() -> None:
    """Batch normalisation has seen each part once, and dropout has drawn once for it."""
    kept = []
    for weights_fn in (None, lambda losses, batch, progress: tf.ones_like(losses)):
        model = network(dropout=0.5, norm=True)
        GradientStep(model, make_optimizer("sgd", 0.5), loss, weights_fn).in_parts(3)(batch_of(7), NOW)
        kept.append([variable.numpy() for variable in model.variables])
    for one, other in zip(*kept, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_parts_change_is_said(tmp_path: Path) -> None:
    """Dropout, batch normalisation and mixup depend on which samples are done together."""

    def build() -> Network:
        inputs = keras.Input((3,), name="x")
        x = keras.layers.Dropout(0.5, seed=3)(keras.layers.BatchNormalization()(inputs))
        model = keras.Model(inputs, keras.layers.Dense(1, dtype="float32")(x))
        return Network(model, keras.optimizers.SGD(0.1), model, loss=test_fit.loss)

    said: list[str] = []
    with Run(tmp_path, "toy", Half(precision="float32"), 1, said.append) as run:
        fit(run, dataclasses.replace(test_fit.TRAINING, build=build, judge=None), run.scratch("toy", "k"))
    words = "BatchNorm takes its statistics over 4 samples, dropout draws its masks anew for every 4 samples"
    assert f"toy: --micro-batch: {words}" in said
    plain = keras.Sequential([keras.Input((3,), name="image"), keras.layers.Dense(1)])
    assert not changed_by_parts(plain, 4) and changed_by_parts(mixing(plain), 4) == ["mixup blends within 4 samples"]


# --- what a run says and is known by


@pytest.mark.parametrize("name", PAPERS)
def test_it_differs_from_the_paper_and_is_part_of_the_keys_of_what_computes(name: str, tmp_path: Path) -> None:
    recipe = importlib.import_module(f"{PAPERS[name][0]}.settings").RECIPE
    paper = recipe.preset(recipe.base)
    half = dataclasses.replace(paper, precision="bfloat16", deterministic=False)
    assert recipe.changes(half) == [("precision", "bfloat16", "float32")]
    step = Step("train/x", "train", print, depends={"a": 1})

    def inputs(settings: Any, step: Step) -> dict[str, Any]:
        return inputs_of(Work(Run(tmp_path, name, settings, 1, print), settings, {}), step)

    assert inputs(paper, step) == inputs(dataclasses.replace(paper, deterministic=False), step) == {"a": 1}
    assert inputs(half, step) == {"a": 1, "precision": "bfloat16"}
    assert inputs(dataclasses.replace(paper, micro_batch=8), step) == {"a": 1, "micro_batch": 8}
    for own in ({"here": True}, {"always": True}):  # tiles are the same in any precision
        assert inputs(half, dataclasses.replace(step, **own)) == {"a": 1}
    keys = [Run(tmp_path, name, each, 1, print).settings_key() for each in (paper, half)]
    assert keys[0] != keys[1]


def test_an_operation_without_a_deterministic_kernel_is_named() -> None:
    text = "Graph execution error:\n\nA deterministic GPU implementation of Resize is not currently available.\n"
    text += "\t [[{{node zoome/up/resize}}]] [Op:__inference_7]"
    with pytest.raises(RunError) as found, kernels_named():
        raise tf.errors.UnimplementedError(None, None, text)
    assert str(found.value).startswith(
        "A deterministic GPU implementation of Resize is not currently available (at zoome/"
    )
    assert "--no-deterministic" in str(found.value) and "\n" not in str(found.value)
    with pytest.raises(tf.errors.UnimplementedError), kernels_named():
        raise tf.errors.UnimplementedError(None, None, "Cast string to float is not supported")


def test_a_gpu_gives_memory_as_it_is_needed_and_leaves_the_cpus_threads_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    for place, name in (
        (tf.config.experimental, "set_memory_growth"),
        (tf.config.experimental, "enable_op_determinism"),
        (tf.config.threading, "set_intra_op_parallelism_threads"),
        (tf.config.threading, "set_inter_op_parallelism_threads"),
    ):
        monkeypatch.setattr(place, name, lambda *values, name=name: called.append((name, *values)))
    for gpus, deterministic in ((["gpu0"], False), ([], True)):
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind, gpus=gpus: gpus)
        assert runtime.configure(3, deterministic=deterministic) == 3
    assert called == [
        ("set_memory_growth", "gpu0", True),
        ("set_intra_op_parallelism_threads", 3),
        ("set_inter_op_parallelism_threads", 1),
        ("enable_op_determinism",),
    ]
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {1, 4, 5}, raising=False)
    assert runtime.configure(0) == 3  # cores that this process may use


def test_other_threads_where_tensorflow_is_at_work_already_are_one_line() -> None:
    tf.constant(1.0)  # from here on TensorFlow is at work
    other = tf.config.threading.get_intra_op_parallelism_threads() + 7
    with pytest.raises(InputError, match=f"^--threads {other}: TensorFlow is at work .*restart the kernel") as error:
        runtime.configure(other)
    assert "\n" not in str(error.value)
