"""The target model: is a biopsy malignant, judged by the bag of its tumour tiles? (spitzoid, section 4.2)

Importing this module registers every layer that source and target models are made of, so that
`keras.saving.load_model` reads them.
"""

from typing import Any, Literal

import keras

from melano_tf.errors import InputError
from melano_tf.models.bag_aggregation import BagAggregation, BagAttention, BagMax, BagMean
from melano_tf.models.classifier_head import LOGITS, classify
from melano_tf.models.layers import AsBag, FixedBatchNormalization
from melano_tf.seeding import seeded

Aggregation = Literal["bgmp", "bgap", "bgas"]


def build_target(
    source: keras.Model, aggregation: Aggregation, attention_units: int = 128, seed: int | None = None
) -> keras.Model:
    """A biopsy classifier that starts from a trained source model: its layers up to "embedding", then one bag.

    The batch axis is the bag, so the model takes all tiles of ONE slide at once, and is called, not `predict`ed (which
    would cut the bag). Long bags go through `split_target`. The source's weights are copied, not shared, and its frozen
    layers stay frozen. Its batch normalisation becomes `FixedBatchNormalization`: stored statistics, trained gamma and
    beta. Dropout before the source's softmax is not taken over.

    Args:
        source: from `melano_tf.models.seanet.build_source`; any flat functional model with a layer "embedding" (N, C).
        aggregation: "bgmp" maximum, "bgap" mean, "bgas" attention (equation 2).
        attention_units: L of equation 2.
        seed: of the aggregation's and the last layer's initial weights; None: from Python's random state.

    Returns:
        Flat functional model: (N, h, w, 3) -> {"probability": (1, 1) of the positive class, "attention": (1, N), which
        sums to one}. Beyond the source's layers: "bag", "aggregation", "probability_logits", "probability".

    Raises:
        InputError: unknown aggregation.
        ValueError: the source has no layer "embedding".
    """
    upto = keras.Model(source.inputs[0], source.get_layer("embedding").output)
    with seeded(seed):
        copy = keras.models.clone_model(upto, clone_function=_copy_layer)
        copy.set_weights(upto.get_weights())
        embeddings = AsBag(name="bag")(copy.outputs[0])
        bag, attention = make_aggregation(aggregation, attention_units)(embeddings)
        probability = classify(bag, 1, "sigmoid", "probability")
    outputs = {"probability": probability, "attention": attention}
    return keras.Model(copy.inputs[0], outputs, name=source.name.replace("source", "target", 1) + f"_{aggregation}")


def make_aggregation(aggregation: Aggregation, attention_units: int = 128, **kwargs: Any) -> BagAggregation:
    """The layer "aggregation", with further arguments of a Keras layer. Raises InputError for an unknown name."""
    if aggregation == "bgmp":
        return BagMax(name="aggregation", **kwargs)
    if aggregation == "bgap":
        return BagMean(name="aggregation", **kwargs)
    if aggregation == "bgas":
        return BagAttention(attention_units, name="aggregation", **kwargs)
    raise InputError(f"aggregation {aggregation!r}: choose bgmp, bgap or bgas")


def split_target(model: keras.Model) -> tuple[keras.Model, "BagClassifier"]:
    """The two halves of a target model, sharing its variables: what is done to each tile, and to the bag.

    Returns:
        (embedder: tiles (n, h, w, 3) -> (n, C); aggregator: embeddings (B, N, C), mask=(B, N) or None ->
        {"logit": (B, 1), "probability": (B, 1), "attention": (B, N)}).

    Raises:
        InputError: the model has no layer of its own for the logits (an earlier version saved it).
    """
    last = f"probability{LOGITS}"
    if last not in {layer.name for layer in model.layers}:
        raise InputError(f"{model.name}: has no layer {last}; models of versions before 0.2 are to be trained again")
    embedder = keras.Model(model.inputs[0], model.get_layer("embedding").output, name=f"{model.name}_embedder")
    return embedder, BagClassifier(model.get_layer("aggregation"), model.get_layer(last))


@keras.saving.register_keras_serializable("melano_tf")
class BagClassifier(keras.Model):
    """Aggregation and the last neuron, on embeddings (B, N, C).

    Output: {"logit": (B, 1), "probability": (B, 1), "attention": (B, N)}, float32 under any precision policy.
    A loss takes the logit, whose gradient does not vanish where the probability rounds to 0 or 1.

    Args:
        aggregation: a layer (B, N, C) -> ((B, C), (B, N)).
        classifier: a linear dense layer (B, C) -> (B, 1): the logit.

    Raises:
        ValueError: the classifier has an activation.
    """

    def __init__(self, aggregation: keras.layers.Layer, classifier: keras.layers.Layer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if classifier.activation is not keras.activations.linear:
            raise ValueError(f"classifier {classifier.name!r} has an activation; its logit is expected")
        self.aggregation = aggregation
        self.classifier = classifier
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        batch, _, channels = input_shape
        for layer, shape in ((self.aggregation, input_shape), (self.classifier, (batch, channels))):
            if not layer.built:
                layer.build(shape)
        self.built = True

    def call(self, inputs: Any, mask: Any = None, training: bool | None = None) -> dict[str, Any]:
        embedding, attention = self.aggregation(inputs, mask=mask)
        logit = keras.ops.cast(self.classifier(embedding), "float32")
        attention = keras.ops.cast(attention, "float32")
        return {"logit": logit, "probability": keras.ops.sigmoid(logit), "attention": attention}

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        return None

    def get_config(self) -> dict[str, Any]:
        parts = {
            name: keras.saving.serialize_keras_object(getattr(self, name)) for name in ("aggregation", "classifier")
        }
        return {**super().get_config(), **parts}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "BagClassifier":
        parts = {name: keras.saving.deserialize_keras_object(config[name]) for name in ("aggregation", "classifier")}
        return cls(**{**config, **parts})


def _copy_layer(layer: Any) -> Any:
    kind = FixedBatchNormalization if isinstance(layer, keras.layers.BatchNormalization) else type(layer)
    return kind.from_config(layer.get_config())
