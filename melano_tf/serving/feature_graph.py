"""A bag model as an exported graph: embeddings in; probability, decision and attention out."""

from typing import Any

import tensorflow as tf

from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.encoded_image_checks import refuse_count
from melano_tf.serving.image_graph import Limits, answers, shared, signature
from melano_tf.training.embedding import heard

MOST_INSTANCES = 100_000  # of a bag, unless something else is said


class FeatureNetwork:
    """A bag model with what stands before and behind it.

    Signatures: `serving_default` takes `features` float32 (B, N, C) and `mask` bool (B, N), false where a shorter bag
    is padded; `bag` takes one bag alone, `features` float32 (N, C). Both give what every exported model gives, and
    `attention` float32 (B, N), which sums to one over a bag's own instances.

    Args:
        network: the bag model.
        sidecar: of the network.
        limits: of requests; `max_images` counts the instances of a bag.
    """

    def __init__(self, network: Any, sidecar: Sidecar, limits: Limits) -> None:
        self.forward, self.sidecar, self.limits = shared(network), sidecar, limits
        self.width = int(sidecar.preprocessing["features"]["width"])
        self.dtype = network.input["features"].dtype

    def endpoints(self) -> dict[str, Any]:
        """The signatures, traced TensorFlow functions by name."""
        several = [
            tf.TensorSpec([None, None, self.width], tf.float32, name="features"),
            tf.TensorSpec([None, None], tf.bool, name="mask"),
        ]
        alone = tf.TensorSpec([None, self.width], tf.float32, name="features")
        return {
            "serving_default": signature(lambda features, mask: self._answers(features, mask), *several),
            "bag": signature(
                lambda features: self._answers(features[None], tf.ones([1, tf.shape(features)[0]], tf.bool)), alone
            ),
        }

    def _answers(self, features: Any, mask: Any) -> dict[str, Any]:
        few = refuse_count(tf.shape(features)[1], self.limits.max_images, "instances")
        filled = tf.debugging.Assert(tf.reduce_all(tf.reduce_any(mask, axis=1)), ["a bag without instances"])
        real = tf.where(mask[:, :, None], features, 0.0)
        finite = tf.debugging.Assert(tf.reduce_all(tf.math.is_finite(real)), ["features that are NaN or infinite"])
        with tf.control_dependencies([few, filled, finite]):
            real = tf.cast(real, self.dtype)
        outputs, distance = heard(self.forward({"features": real, "mask": mask}))
        return answers(outputs["probability"], self.sidecar, distance) | {"attention": outputs["attention"]}
