"""The end of a classifier: probabilities for who asks, logits of the same layers for who trains."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.models.attention_transfer import build_classifier
from melano_tf.models.biopsy_classifier import BagClassifier, build_target, split_target
from melano_tf.models.classifier_head import classify, logits_of
from melano_tf.models.hierarchical_classifier import build_flat, build_hierarchical
from melano_tf.models.seanet import build_source
from melano_tf.models.taxonomy import Taxonomy
from melano_tf.models.zoome_network import build_zoome
from melano_tf.training.exact_bags import BagStep
from melano_tf.training.losses import binary_crossentropy, binary_focal, categorical_crossentropy
from melano_tf.training.steps import GradientStep, Progress

PX = 32
IMAGES = np.random.default_rng(0).uniform(0, 255, (3, PX, PX, 3)).astype(np.float32)
NOW = Progress(*(tf.constant(number, tf.int64) for number in (0, 0, 10, 2)))
CLASSIFIERS = {
    "source": lambda: build_source("standin", PX, True, "gmp", seed=1),
    "flat": lambda: build_flat("standin", PX, 7, seed=1)[0],
    "student": lambda: build_classifier("standin", PX, 3, seed=1)[0],
    "zoome": lambda: build_zoome("resnet_standin", PX, 5, seed=1)[0],
}


def given(model: keras.Model) -> object:
    """The images, and metadata of zeros where the model takes any."""
    names = [tensor.name for tensor in model.inputs]
    values = {"image": IMAGES, "metadata": np.zeros((3, 5), np.float32)}
    return {name: values[name] for name in names} if "image" in names else IMAGES


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_logits_are_of_the_same_layers(name: str) -> None:
    model = CLASSIFIERS[name]()
    scores = logits_of(model)
    x = given(model)
    z, p = np.asarray(scores(x)), np.asarray(model(x))
    expected = tf.sigmoid(z) if p.shape[1] == 1 else tf.nn.softmax(z)
    np.testing.assert_allclose(p, expected, rtol=1e-5)
    assert [id(variable) for variable in scores.variables] == [id(variable) for variable in model.variables]
    assert not np.allclose(z, p)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_saved_and_loaded_it_still_has_them(name: str, tmp_path) -> None:
    model = CLASSIFIERS[name]()
    logits_of(model)  # which leaves nothing behind that is saved
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert len(loaded.layers) == len(model.layers)
    x = given(model)
    np.testing.assert_allclose(logits_of(loaded)(x), logits_of(model)(x), rtol=1e-6)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_started_60_logits_wrong_learns(name: str) -> None:
    """From probabilities that are clipped, the gradient of every one of these steps is zero."""
    model = CLASSIFIERS[name]()
    classes = model.output_shape[-1]
    layer = next(layer for layer in model.layers if layer.name.endswith("_logits"))
    layer.set_weights([layer.kernel, np.array([-60.0, *[0.0] * (classes - 1)], np.float32)])
    y = np.full(3, 1 if classes == 1 else 0)
    loss = (
        (lambda b, z: binary_focal(b["y"], z[:, 0]))
        if classes == 1
        else (lambda b, z: categorical_crossentropy(b["y"], z))
    )
    step = GradientStep(logits_of(model), keras.optimizers.Adam(0.02), loss)
    batch = {"x": given(model), "y": tf.constant(y), "id": tf.constant(["a", "b", "c"])}
    losses = [float(step(batch, NOW)["loss"]) for _ in range(60)]
    assert losses[0] > 10 and losses[-1] < 0.2 * losses[0], losses[::6]


@pytest.mark.parametrize(("aggregation", "chunk"), [("bgmp", 2), ("bgap", 16), ("bgas", 2)])
def test_a_target_model_started_60_logits_wrong_learns(aggregation: str, chunk: int) -> None:
    target = build_target(build_source("standin", PX, True, "gmp", seed=1), aggregation, seed=1)
    last = target.get_layer("probability_logits")
    last.set_weights([last.kernel, np.array([-60.0], np.float32)])
    step = BagStep(
        *split_target(target),
        keras.optimizers.SGD(0.01),
        lambda batch, outputs: binary_crossentropy(batch["y"], outputs["logit"][:, 0]),
        chunk=chunk,
    )
    bag = {"x": tf.constant(IMAGES), "y": tf.constant([1]), "id": tf.constant(["slide"])}
    assert float(target(IMAGES)["probability"][0, 0]) < 1e-20
    first = step(bag, NOW)
    assert float(first["loss"]) == pytest.approx(60, abs=5) and float(first["gradient_norm"]) > 0.5
    for _ in range(20):
        step(bag, NOW)
    assert float(target(IMAGES)["probability"][0, 0]) > 0.9


def test_a_step_refuses_probabilities() -> None:
    model = CLASSIFIERS["source"]()
    x = keras.Input((4,))
    joined = keras.Model(x, keras.layers.Dense(2, activation="softmax")(x))
    for wrong in (model, joined, keras.Model(x, keras.layers.Softmax()(keras.layers.Dense(2)(x)))):
        with pytest.raises(InputError, match="ends in probabilities"):
            GradientStep(wrong, keras.optimizers.SGD(0.1), lambda b, z: categorical_crossentropy(b["y"], z))


def test_what_an_earlier_version_saved_is_refused() -> None:
    x = keras.Input((4,))
    with pytest.raises(InputError, match=r"before 0\.2"):
        logits_of(keras.Model(x, keras.layers.Dense(2, activation="softmax")(x)))
    target = build_target(build_source("standin", PX, True, "gap", seed=1), "bgap", seed=1)
    bag = target.get_layer("aggregation").output[0]
    joined = keras.layers.Dense(1, activation="sigmoid", name="probability")(bag)
    with pytest.raises(InputError, match=r"before 0\.2"):
        split_target(keras.Model(target.inputs, {"probability": joined}))
    with pytest.raises(ValueError, match="has an activation"):
        BagClassifier(target.get_layer("aggregation"), keras.layers.Dense(1, activation="sigmoid"))


def test_several_outputs_of_which_one_is_a_probability() -> None:
    x = keras.Input((4,), name="x")
    hidden = keras.layers.Dense(3, name="hidden")(x)
    model = keras.Model({"x": x}, {"p": classify(hidden, 2, "softmax", "p"), "hidden": hidden})
    scores = logits_of(model)
    values = {"x": np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)}
    found, answered = scores(values), model(values)
    assert set(found) == {"p", "hidden"}
    np.testing.assert_array_equal(found["hidden"], answered["hidden"])
    np.testing.assert_allclose(tf.nn.softmax(found["p"]), answered["p"], rtol=1e-6)


def test_a_hierarchy_trains_scores() -> None:
    tree, _ = build_hierarchical(
        Taxonomy.from_mapping(["C", "A", "B"], "ABC"), "standin", PX, units=8, embedding=4, seed=1
    )
    assert GradientStep(tree.training, keras.optimizers.SGD(0.1), lambda b, z: z[:, 0])
    assert np.abs(np.asarray(tree.training({"image": IMAGES})).sum(axis=1) - 1).min() > 1e-3
