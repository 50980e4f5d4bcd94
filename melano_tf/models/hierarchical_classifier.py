"""Diagnosis at once and by sequential decisions: the two networks of the sample-weighting paper, section 4.1.

Flat: backbone -> CBAM -> mean over places -> one softmax. Hierarchical: at each level, dynamic CBAM conditioned on the
recurrent state -> mean over places -> beside the embedded previous decision into an LSTM -> a softmax over the children
of the node reached. Dropout on the attended map, on the pooled vector, and on the LSTM's output (our reading of "in
several layers").

Importing this module registers every layer that these models are made of, so that `keras.saving.load_model` reads them.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from keras import ops

from melano_tf.errors import InputError
from melano_tf.models.backbone_graphs import BackboneReport, build_backbone
from melano_tf.models.cbam import Cbam
from melano_tf.models.classifier_head import classify
from melano_tf.models.taxonomy import Taxonomy
from melano_tf.seeding import seeded

__all__ = [
    "Conditional",
    "DecisionTree",
    "Hierarchy",
    "LeafProbabilities",
    "Strongest",
    "Taxonomy",
    "attention_model",
    "build_flat",
    "build_hierarchical",
]
Shape = tuple[int | None, ...]


# Another name than before 0.2, when it gave probabilities: a model saved then is refused, and not read as scores.
@keras.saving.register_keras_serializable("melano_tf", name="DecisionScores")
class DecisionTree(keras.layers.Layer):
    """Every decision of a tree of classes, scored among those of its node, by one recurrent network.

    Each internal node is unrolled along its own path: it starts from the state of the node above and the embedding of
    the decision that led here. On the path to a sample's true class the previous decisions are therefore the true ones,
    which is training with the ground truth fed back ("teacher forcing"); a loss that reads that path alone trains it.

    Input F (B, H, W, C). Output: (logit of each decision among its siblings (B, D), channel attention (B, N, C),
    spatial attention (B, N, H, W)), N internal nodes and D decisions in `Taxonomy`'s order. The logits are float32
    under any policy; `Conditional` makes probabilities of them.

    Args:
        children: `Taxonomy.children`.
        parents: `Taxonomy.parents`.
        units: of the LSTM (512).
        embedding: width of an embedded decision (not given; 64).
        ratio, kernel: of the CBAM.
        dropout: share that each of the three dropouts drops.
    """

    def __init__(
        self,
        children: Sequence[int],
        parents: Sequence[int],
        units: int = 512,
        embedding: int = 64,
        ratio: int = 16,
        kernel: int = 7,
        dropout: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.children, self.parents = tuple(children), tuple(parents)
        fits = len(self.children) == len(self.parents) == sum(self.children) - self._leaves() + 1
        if not fits or self.parents[0] != -1 or any(not 0 <= p < n for n, p in enumerate(self.parents) if n):
            raise ValueError(f"children {self.children}, parents {self.parents}: not a tree, breadth first")
        if min(units, embedding) < 1 or not 0.0 <= dropout < 1.0:
            raise ValueError(f"units {units}, embedding {embedding}, dropout {dropout}: see DecisionTree")
        self.units, self.embedding, self.ratio, self.kernel, self.dropout = units, embedding, ratio, kernel, dropout
        self.cbam = Cbam(ratio, kernel, name="cbam", dtype=self.dtype_policy)
        self.cell = keras.layers.LSTMCell(units, name="lstm", dtype=self.dtype_policy)
        self.drops = [
            keras.layers.Dropout(dropout, name=f"drop_{name}", dtype=self.dtype_policy)
            for name in ("map", "pooled", "state")
        ]
        self.flat = keras.layers.GlobalAveragePooling2D(name="pool", dtype=self.dtype_policy)

    def _leaves(self) -> int:
        return sum(self.children) - (len(self.parents) - 1)

    def build(self, input_shape: Any) -> None:
        channels = input_shape[-1]
        self.cbam.build([tuple(input_shape), (input_shape[0], self.units)])
        self.cell.build((input_shape[0], channels + self.embedding))
        decisions = sum(self.children)
        self.previous = self.add_weight(
            name="previous", shape=(len(self.parents), self.embedding), initializer="uniform"
        )
        # As every classifier's last layer these two stay in float32: a logit rounded to half precision is another one.
        whole = {"dtype": "float32", "autocast": False}
        self.w = self.add_weight(name="w", shape=(self.units, decisions), initializer="glorot_uniform", **whole)
        self.b = self.add_weight(name="b", shape=(decisions,), initializer="zeros", **whole)
        self.built = True

    def call(self, features: Any, training: bool | None = None) -> tuple[Any, Any, Any]:
        one = ops.ones_like(features[:, 0, 0, :1])
        zeros = ops.matmul(one, ops.zeros((1, self.units), one.dtype))
        states: list[list[Any]] = []
        scores, channels, spatials = [], [], []
        start = 0
        for node, (above, count) in enumerate(zip(self.parents, self.children, strict=True)):
            state = [zeros, zeros] if above < 0 else states[above]
            attended, channel, spatial = self.cbam([features, state[0]])
            pooled = self.flat(self.drops[0](attended, training=training))
            pooled = self.drops[1](pooled, training=training)
            decided = ops.matmul(one, ops.cast(self.previous[node : node + 1], one.dtype))
            hidden, state = self.cell(ops.concatenate([pooled, decided], axis=-1), state, training=training)
            states.append(list(state))
            dropped = ops.cast(self.drops[2](hidden, training=training), "float32")
            places = slice(start, start + count)
            scores.append(ops.matmul(dropped, self.w[:, places]) + self.b[places])
            channels.append(channel)
            spatials.append(spatial)
            start += count
        return ops.concatenate(scores, axis=-1), ops.stack(channels, axis=1), ops.stack(spatials, axis=1)

    def compute_output_shape(self, input_shape: Shape) -> tuple[Shape, Shape, Shape]:
        batch, height, width, channels = input_shape
        nodes = len(self.parents)
        return (batch, sum(self.children)), (batch, nodes, channels), (batch, nodes, height, width)

    def compute_output_spec(self, features: Any, training: bool | None = None) -> tuple[keras.KerasTensor, ...]:
        scores, channels, spatials = self.compute_output_shape(features.shape)
        attention = (keras.KerasTensor(shape, self.compute_dtype) for shape in (channels, spatials))
        return keras.KerasTensor(scores, "float32"), *attention

    def get_config(self) -> dict[str, Any]:
        names = ("units", "embedding", "ratio", "kernel", "dropout")
        tree = {"children": list(self.children), "parents": list(self.parents)}
        return {**super().get_config(), **tree, **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable("melano_tf")
class Conditional(keras.layers.Layer):
    """Probability of each decision given its parent: logits (B, D) -> (B, D), the softmax over each node's decisions.

    Args:
        children: `Taxonomy.children`.
    """

    def __init__(self, children: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.children = tuple(children)

    def build(self, input_shape: Shape) -> None:
        if input_shape[-1] != sum(self.children):
            raise ValueError(f"{input_shape[-1]} logits for nodes of {self.children} decisions")
        self.built = True

    def call(self, scores: Any) -> Any:
        ends = list(itertools.accumulate(self.children))
        parts = [scores[:, end - count : end] for end, count in zip(ends, self.children, strict=True)]
        return ops.concatenate([ops.softmax(part, axis=-1) for part in parts], axis=-1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "children": list(self.children)}


@keras.saving.register_keras_serializable("melano_tf")
class LeafProbabilities(keras.layers.Layer):
    """The product along each class's path: conditional probabilities (B, D) -> (B, C), whose rows sum to one.

    Args:
        paths: `Taxonomy.paths`.
    """

    def __init__(self, paths: Sequence[Sequence[int]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.paths = tuple(tuple(path) for path in paths)
        if not self.paths or not all(self.paths):
            raise ValueError("paths: each class needs at least one decision")

    def build(self, input_shape: Shape) -> None:
        self.built = True

    def call(self, conditional: Any) -> Any:
        leaves = []
        for path in self.paths:
            product = conditional[:, path[0]]
            for decision in path[1:]:
                product = product * conditional[:, decision]
            leaves.append(product)
        return ops.stack(leaves, axis=-1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], len(self.paths))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "paths": [list(path) for path in self.paths]}


@keras.saving.register_keras_serializable("melano_tf")
class Strongest(keras.layers.Layer):
    """The channel with the highest attention, and its map: [F (B, H, W, C), attention (B, N, C)] -> (int32 (B, N),
    F's own values in that channel (B, N, H, W)); ties go to the first channel.
    """

    def build(self, input_shape: Any) -> None:
        self.built = True

    def call(self, inputs: Any) -> tuple[Any, Any]:
        features, attention = inputs
        best = ops.cast(ops.argmax(attention, axis=-1), "int32")
        chosen = ops.one_hot(best, attention.shape[-1], dtype=features.dtype)
        return best, ops.einsum("bhwc,bnc->bnhw", features, chosen)

    def compute_output_spec(self, inputs: Any) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        features, attention = inputs
        batch, nodes, _ = attention.shape
        maps = (batch, nodes, *features.shape[1:3])
        return keras.KerasTensor((batch, nodes), "int32"), keras.KerasTensor(maps, self.compute_dtype)


@dataclass(frozen=True)
class Hierarchy:
    """One hierarchical network under two heads that share all weights.

    Attributes:
        taxonomy: its tree.
        training: {"image": (B, H, W, 3)} -> (B, D), each decision's logit among its siblings: what the loss needs.
        leaves: the same input -> (B, C), each class's probability: what is saved for use.
    """

    taxonomy: Taxonomy
    training: keras.Model
    leaves: keras.Model


def build_flat(
    backbone: str = "vgg16",
    input_px: int = 299,
    classes: int = 7,
    dropout: float = 0.5,
    ratio: int = 16,
    kernel: int = 7,
    weights: str | Path = "none",
    seed: int | None = None,
) -> tuple[keras.Model, BackboneReport]:
    """The flat model: backbone, CBAM, mean over places, one dense layer with softmax.

    Args:
        backbone, input_px, weights: as `build_backbone`.
        classes: neurons of the last layer.
        dropout: share dropped of the attended map and of the pooled vector.
        ratio, kernel: of the CBAM.
        seed: of initial weights and dropout; None: from Python's random state.

    Returns:
        ({"image": (B, H, W, 3) RGB 0..255} -> probabilities (B, classes), layers "features", "cbam",
        "probabilities_logits", "probabilities"; report of the backbone).

    Raises:
        InputError: as `build_backbone`; fewer than two classes, or a number outside its range.
    """
    if classes < 2:
        raise InputError(f"classes {classes}: at least 2")
    _check(dropout, ratio, kernel)
    with seeded(seed):
        image, features, report = build_backbone(backbone, input_px, weights, input_name="image")
        attended, _, _ = Cbam(ratio, kernel, name="cbam")(features)
        x = keras.layers.Dropout(dropout, name="drop_map")(attended)
        x = keras.layers.GlobalAveragePooling2D(name="pooled")(x)
        x = keras.layers.Dropout(dropout, name="drop_pooled")(x)
        x = classify(x, classes, "softmax", "probabilities")
    return keras.Model({"image": image}, x, name=f"flat_{report.backbone}"), report


def build_hierarchical(
    taxonomy: Taxonomy,
    backbone: str = "vgg16",
    input_px: int = 299,
    dropout: float = 0.5,
    ratio: int = 16,
    kernel: int = 7,
    units: int = 512,
    embedding: int = 64,
    weights: str | Path = "none",
    seed: int | None = None,
) -> tuple[Hierarchy, BackboneReport]:
    """The hierarchical model for any tree of classes.

    Args:
        taxonomy: the tree; its classes are the outputs.
        backbone, input_px, weights: as `build_backbone`.
        dropout, ratio, kernel, units, embedding: as `DecisionTree`.
        seed: of initial weights and dropout; None: from Python's random state.

    Raises:
        InputError: as `build_backbone`; a number outside its range.
    """
    _check(dropout, ratio, kernel)
    if min(units, embedding) < 1:
        raise InputError(f"units {units}, embedding {embedding}: at least 1")
    with seeded(seed):
        image, features, report = build_backbone(backbone, input_px, weights, input_name="image")
        tree = DecisionTree(
            taxonomy.children, taxonomy.parents, units, embedding, ratio, kernel, dropout, name="decisions"
        )
        scores, _, _ = tree(features)
        conditional = Conditional(taxonomy.children, dtype="float32", name="conditional")(scores)
        leaves = LeafProbabilities(taxonomy.paths, dtype="float32", name="probabilities")(conditional)
    name = f"hierarchical_{report.backbone}"
    training = keras.Model({"image": image}, scores, name=f"{name}_training")
    return Hierarchy(taxonomy, training, keras.Model({"image": image}, leaves, name=name)), report


def _check(dropout: float, ratio: int, kernel: int) -> None:
    if not 0.0 <= dropout < 1.0:
        raise InputError(f"dropout {dropout}: expected at least 0 and less than 1")
    if min(ratio, kernel) < 1:
        raise InputError(f"ratio {ratio}, kernel {kernel}: at least 1")


def attention_model(model: keras.Model) -> keras.Model:
    """What a flat or hierarchical model attends to (Figures 3 and 4), sharing its weights.

    Args:
        model: from `build_flat`, or `Hierarchy.leaves`; also one that was saved and loaded again.

    Returns:
        {"image"} -> dict of "probabilities" (B, C), "channel" (B, N, C'), "spatial" (B, N, h, w), "strongest" int32
        (B, N), the channel of highest attention, "strongest_map" (B, N, h, w), the backbone's features in it, and of a
        hierarchical model "conditional" (B, D). N is 1 for a flat model, else the nodes of its taxonomy.

    Raises:
        InputError: the model is neither.
    """
    names = {layer.name for layer in model.layers}
    features = model.get_layer("features").output if "features" in names else None
    if features is None or not names & {"cbam", "decisions"}:
        raise InputError(f"{model.name}: is no flat or hierarchical model of the weighting paper")
    outputs = {"probabilities": model.get_layer("probabilities").output}
    if "decisions" in names:
        outputs["conditional"] = model.get_layer("conditional").output
        _, channel, spatial = model.get_layer("decisions").output
    else:
        _, channel, spatial = model.get_layer("cbam").output
        channel = keras.layers.Reshape((1, *channel.shape[1:]))(channel)
        spatial = keras.layers.Reshape((1, *spatial.shape[1:]))(spatial)
    strongest, strongest_map = Strongest(name="strongest")([features, channel])
    outputs |= {"channel": channel, "spatial": spatial, "strongest": strongest, "strongest_map": strongest_map}
    return keras.Model(model.input, outputs, name=f"{model.name}_attention")
