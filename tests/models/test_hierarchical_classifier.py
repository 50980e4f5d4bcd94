"""The flat and the hierarchical network: exact for any tree, one set of weights under two heads, saved and loaded."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.models.classifier_head import logits_of
from melano_tf.models.hierarchical_classifier import (
    Conditional,
    DecisionTree,
    Hierarchy,
    LeafProbabilities,
    Strongest,
    Taxonomy,
    attention_model,
    build_flat,
    build_hierarchical,
)
from melano_tf.specs import load_spec
from melano_tf.training.hierarchy_loss import path_focal_loss
from melano_tf.training.sample_weights import Strategy, curriculum, focal_loss
from melano_tf.training.steps import GradientStep, Progress
from tests.models.layer_checks import check_layer, nested_models
from tests.models.test_taxonomy import leaf_probabilities

RNG = np.random.default_rng(0)
PX = 32  # the stand-in's last map is (2, 2, 96)
IMAGES = RNG.uniform(0, 255, (4, PX, PX, 3)).astype("float32")
SMALL = {"units": 6, "embedding": 3, "ratio": 2, "kernel": 3}


def isic() -> Taxonomy:
    spec = load_spec("isic2018")
    return Taxonomy.from_mapping(spec["taxonomy"], tuple(spec["labels"]))


TREES = {
    "isic": isic(),
    "unbalanced": Taxonomy.from_mapping({"a": ["A", {"b": {"c": ["D", "C"], "x": "B"}}], "e": "E"}, "ABCDE"),
    "one level": Taxonomy.from_mapping(["C", "A", "B"], "ABC"),
}


def built(name: str, dropout: float = 0.0, **more: Any) -> Hierarchy:
    chosen = {"units": 16, "embedding": 4, "dropout": dropout, "seed": 1, **more}
    model, _ = build_hierarchical(TREES[name], "standin", PX, **chosen)
    return model


def scattered(model: keras.Model) -> None:
    """The head's weights moved from their start, where every bias is zero."""
    rng = np.random.default_rng(5)
    for layer in model.layers:
        if layer.name in ("decisions", "cbam"):
            layer.set_weights([w + rng.normal(0, 0.1, w.shape).astype(w.dtype) for w in layer.get_weights()])


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def naive_path(layer: DecisionTree, features: np.ndarray, tree: Taxonomy, label: int) -> list[float]:
    """p_l of one image along the path to one class, the true previous decision fed back at each level."""
    units, weights = layer.units, {w.path.rpartition("decisions/")[2]: np.asarray(w) for w in layer.weights}
    starts = np.cumsum([0, *tree.children])
    h, c, found = np.zeros(units), np.zeros(units), []
    node = 0
    for decision in tree.paths[label]:
        attended, _, _ = (np.asarray(o) for o in layer.cbam([features[None], h[None].astype("float32")]))
        pooled = attended[0].reshape(-1, features.shape[-1]).mean(axis=0)
        x = np.concatenate([pooled, weights["previous"][node]])
        gates = x @ weights["lstm/kernel"] + h @ weights["lstm/recurrent_kernel"] + weights["lstm/bias"]
        enter, forget, new, out = np.split(gates, 4)
        c = sigmoid(forget) * c + sigmoid(enter) * np.tanh(new)
        h = sigmoid(out) * np.tanh(c)
        scores = [np.exp(h @ weights["w"][:, d] + weights["b"][d]) for d in range(starts[node], starts[node + 1])]
        found.append(scores[decision - starts[node]] / sum(scores))
        node = tree.entries.index(decision) if decision in tree.entries else -1
    return found


@pytest.mark.parametrize("name", TREES)
def test_equals_loops_that_feed_the_true_decisions_back(name: str) -> None:
    tree, model = TREES[name], built(name)
    scattered(model.training)
    features = np.asarray(keras.Model(model.leaves.input, model.leaves.get_layer("features").output)({"image": IMAGES}))
    conditional = np.asarray(Conditional(tree.children)(model.training({"image": IMAGES})))
    leaves = np.asarray(model.leaves({"image": IMAGES}))
    assert conditional.shape == (4, len(tree.decisions)) and leaves.shape == (4, len(tree.classes))
    layer = model.training.get_layer("decisions")
    for image in range(4):
        for label, path in enumerate(tree.paths):
            expected = naive_path(layer, features[image], tree, label)
            np.testing.assert_allclose(conditional[image, list(path)], expected, rtol=2e-4)
            assert leaves[image, label] == pytest.approx(np.prod(expected), rel=1e-3)
    assert np.ptp(conditional, axis=0).max() > 0.01  # images differ
    np.testing.assert_allclose(leaves.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(leaves, leaf_probabilities(tree, conditional), rtol=1e-5)
    start = 0
    for count in tree.children:
        np.testing.assert_allclose(conditional[:, start : start + count].sum(axis=1), 1, rtol=1e-5)
        start += count


@pytest.mark.parametrize("name", ["isic", "unbalanced"])
def test_decision_tree_is_a_layer(name: str, tmp_path: Path) -> None:
    tree = TREES[name]
    f = RNG.normal(size=(2, 4, 3, 8)).astype("float32")
    nodes, decisions = len(tree.nodes), len(tree.decisions)
    check_layer(
        lambda: DecisionTree(tree.children, tree.parents, **SMALL, dropout=0.0),
        f,
        [(2, decisions), (2, nodes, 8), (2, nodes, 4, 3)],
        tmp_path,
        trainable_tensors=5 + 3 + 3 + 3,  # channel, spatial, LSTM, and the layer's own: each gets a gradient
        logits=1,
    )


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_logits_are_not_rounded_to_half_precision(precision: str) -> None:
    tree = TREES["unbalanced"]
    layer = DecisionTree(tree.children, tree.parents, **SMALL, dropout=0.0, dtype=f"mixed_{precision}")
    symbolic = layer(keras.Input((4, 3, 8)))
    assert [output.dtype for output in symbolic] == ["float32", precision, precision]
    bias = 1000.0625 + np.arange(len(tree.decisions), dtype=np.float32)  # of five bits less in half precision
    layer.b.assign(bias)
    layer.w.assign(np.zeros(layer.w.shape))
    found = layer(RNG.normal(size=(2, 4, 3, 8)).astype("float32"))
    assert [keras.backend.standardize_dtype(output.dtype) for output in found] == ["float32", precision, precision]
    np.testing.assert_array_equal(found[0], [bias, bias])


def test_the_papers_sizes() -> None:
    tree = TREES["isic"]
    layer = DecisionTree(tree.children, tree.parents)
    layer.build((None, 9, 9, 512))
    assert layer.cell.count_params() == 4 * 512 * (512 + 64 + 512 + 1)
    assert layer.w.shape == (512, 11) and layer.previous.shape == (5, 64)
    assert (layer.ratio, layer.kernel, layer.dropout) == (16, 7, 0.5)


def test_leaf_probabilities_and_strongest_are_layers(tmp_path: Path) -> None:
    tree = TREES["unbalanced"]
    conditional = RNG.uniform(0.1, 0.9, (3, len(tree.decisions))).astype("float32")
    layer = check_layer(lambda: LeafProbabilities(tree.paths), conditional, (3, 5), tmp_path)
    np.testing.assert_allclose(layer(conditional), leaf_probabilities(tree, conditional), rtol=1e-6)
    with pytest.raises(ValueError, match="at least one decision"):
        LeafProbabilities([[0], []])
    f = RNG.normal(size=(2, 3, 4, 5)).astype("float32")
    attention = np.array([[[0, 1, 2, 3, 4], [5, 1, 1, 1, 5]], [[1, 9, 1, 1, 1], [0, 0, 0, 7, 0]]], "float32")
    best, maps = Strongest()([f, attention])
    assert np.asarray(best).tolist() == [[4, 0], [1, 3]]
    for image in range(2):
        for node in range(2):
            np.testing.assert_array_equal(maps[image, node], f[image, :, :, int(best[image, node])])


def test_an_image_does_not_depend_on_its_batch_or_its_place() -> None:
    model = built("unbalanced").leaves
    together = np.asarray(model({"image": IMAGES}))
    order = [3, 1, 0, 2]
    np.testing.assert_allclose(model({"image": IMAGES[order]}), together[order], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model({"image": IMAGES[2:3]}), together[2:3], rtol=1e-5, atol=1e-6)


def test_the_same_seed_builds_the_same_and_another_does_not() -> None:
    one, same, other = (built("isic", seed=seed).leaves.get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def batch_of(y: np.ndarray, strategy: Strategy) -> dict[str, Any]:
    ids = tf.constant([f"image{i}" for i in range(len(y))])
    return {
        "x": {"image": tf.constant(IMAGES[: len(y)])},
        "y": tf.constant(y, tf.int32),
        "id": ids,
        "strategy": strategy.tensors(y),
    }


PROGRESS = Progress(*(tf.constant(number, tf.int64) for number in (0, 0, 100, 100)))


@pytest.mark.parametrize("name", ["isic", "unbalanced"])
def test_training_reaches_every_weight_and_learns(name: str) -> None:
    tree, model = TREES[name], built(name, dropout=0.2)
    y = np.arange(4) % len(tree.classes) if name == "isic" else np.array([0, 1, 2, 4])
    loss = path_focal_loss(tree.path_matrix(), tree.children)
    before = [np.array(w) for w in model.training.trainable_variables]
    traces = []

    def counted(batch: Any, outputs: Any) -> Any:
        traces.append(outputs.shape)
        return loss(batch, outputs)

    step = GradientStep(model.training, keras.optimizers.Adam(3e-3), counted, weights_fn=curriculum)
    first = step(batch_of(y, Strategy()), PROGRESS)
    assert first["loss_per_sample"].shape == (4,)
    for weight, old in zip(model.training.trainable_variables, before, strict=True):
        assert np.any(np.asarray(weight) != old), weight.path
    for _ in range(60):
        last = step(batch_of(y, Strategy(gamma=1.0)), PROGRESS)
    step(batch_of(y[:3], Strategy(curriculum="ohem")), PROGRESS)  # a shorter last batch, another strategy
    assert len(traces) == 1
    assert float(last["loss"]) < 0.2 * float(first["loss"])
    # The weights are shared: what was trained under one head is used under the other.
    assert np.asarray(model.leaves({"image": IMAGES})).argmax(axis=1).tolist() == y.tolist()


def test_only_the_nodes_on_the_path_are_trained() -> None:
    tree, model = TREES["isic"], built("isic")
    weights = model.training.get_layer("decisions")
    melanoma = np.zeros(4, np.int64)
    loss = path_focal_loss(tree.path_matrix(), tree.children)
    with tf.GradientTape() as tape:
        losses = loss(batch_of(melanoma, Strategy()), model.training({"image": IMAGES}))
    gradients = tape.gradient(losses, [weights.w.value, weights.previous.value])
    used = np.any(np.asarray(gradients[0]) != 0, axis=0)
    assert np.flatnonzero(used).tolist() == [0, 1, 2, 3]  # the root's children and melanocytic's
    assert np.flatnonzero(np.any(np.asarray(gradients[1]) != 0, axis=1)).tolist() == [0, 1]


def test_dropout_is_at_work_in_training_alone() -> None:
    model = built("isic", dropout=0.5).training
    one, two = (np.asarray(model({"image": IMAGES}, training=True)) for _ in range(2))
    assert np.abs(one - two).max() > 1e-4
    np.testing.assert_array_equal(model({"image": IMAGES}), model({"image": IMAGES}, training=False))


@pytest.mark.parametrize("name", ["flat", "isic", "unbalanced", "one level"])
def test_saved_models_answer_the_same_and_show_where_they_look(name: str, tmp_path: Path) -> None:
    model = build_flat("standin", PX, 7, seed=1)[0] if name == "flat" else built(name, dropout=0.5).leaves
    scattered(model)
    assert nested_models(model) == []
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = np.asarray(model({"image": IMAGES}))
    np.testing.assert_array_equal(loaded({"image": IMAGES}), expected)
    np.testing.assert_array_equal(loaded({"image": tf.cast(IMAGES, tf.uint8)}).shape, expected.shape)
    found = {key: np.asarray(value) for key, value in attention_model(loaded)({"image": IMAGES}).items()}
    nodes = 1 if name == "flat" else len(TREES[name].nodes)
    np.testing.assert_array_equal(found["probabilities"], expected)
    assert found["channel"].shape == (4, nodes, 96) and found["spatial"].shape == (4, nodes, 2, 2)
    assert found["strongest_map"].shape == (4, nodes, 2, 2)
    np.testing.assert_array_equal(found["strongest"], found["channel"].argmax(axis=-1))
    for key in ("channel", "spatial"):
        assert found[key].min() > 0 and found[key].max() < 1
    assert ("conditional" in found) == (name != "flat")
    if nodes > 1:  # dynamic: the attention changes with the level
        assert np.abs(found["spatial"][:, 0] - found["spatial"][:, 1]).max() > 1e-4
        assert np.abs(found["channel"][:, 0] - found["channel"][:, 1]).max() > 1e-4


def test_flat_model_learns() -> None:
    model, report = build_flat("standin", PX, 3, dropout=0.2, seed=1)
    assert report.backbone == "standin" and model.output_shape == (None, 3)
    y = np.array([0, 1, 2, 1])
    before = [np.array(w) for w in model.trainable_variables]
    step = GradientStep(logits_of(model), keras.optimizers.Adam(3e-3), focal_loss, weights_fn=curriculum)
    first = step(batch_of(y, Strategy(gamma=1.0)), PROGRESS)
    for weight, old in zip(model.trainable_variables, before, strict=True):
        assert np.any(np.asarray(weight) != old), weight.path
    for _ in range(60):
        last = step(batch_of(y, Strategy(gamma=1.0)), PROGRESS)
    assert float(last["loss"]) < 0.2 * float(first["loss"])
    np.testing.assert_allclose(np.asarray(model({"image": IMAGES})).sum(axis=1), 1, rtol=1e-5)


def test_refused() -> None:
    tree = TREES["isic"]
    for arguments in ({"dropout": 1.0}, {"ratio": 0}, {"units": 0}, {"embedding": 0}, {"backbone": "vgg"}):
        with pytest.raises(InputError):
            build_hierarchical(tree, **{"backbone": "standin", "input_px": PX, **arguments})
    for arguments in ({"classes": 1}, {"dropout": -0.1}, {"kernel": 0}, {"input_px": 8}):
        with pytest.raises(InputError):
            build_flat(**{"backbone": "standin", "input_px": PX, **arguments})
    for children, parents in (([2, 2], [-1]), ([2], [0]), ([2, 2, 2], [-1, 0, 2]), ([2, 2], [-1, 1])):
        with pytest.raises(ValueError, match="not a tree"):
            DecisionTree(children, parents)
    with pytest.raises(ValueError, match="see DecisionTree"):
        DecisionTree([2], [-1], dropout=1.0)
    inputs = keras.Input((3,))
    with pytest.raises(InputError, match="no flat or hierarchical model"):
        attention_model(keras.Model(inputs, keras.layers.Dense(2)(inputs)))
