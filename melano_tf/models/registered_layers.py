"""All layers that a saved network of this project may be made of.

Importing this module registers them with Keras, so that `keras.saving.load_model` reads such a file in any process, and
not only in one that happens to have imported what built it.
"""

from melano_tf.models import (
    adaptive_pooling,
    attention_transfer,
    bag_aggregation,
    bag_attention_layers,
    biopsy_classifier,
    cbam,
    colour_constancy_layer,
    fused_batch_norm,
    grouped_convolution,
    hierarchical_classifier,
    layers,
    mixup_layer,
    tta_and_prior_shift,
    zoome_network,
)

__all__ = [
    "adaptive_pooling",
    "attention_transfer",
    "bag_aggregation",
    "bag_attention_layers",
    "biopsy_classifier",
    "cbam",
    "colour_constancy_layer",
    "fused_batch_norm",
    "grouped_convolution",
    "hierarchical_classifier",
    "layers",
    "mixup_layer",
    "tta_and_prior_shift",
    "zoome_network",
]
