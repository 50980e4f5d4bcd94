"""Requests that a server answers while it loads a model, so that the first client does not wait for TensorFlow.

`assets.extra/tf_serving_warmup_requests` is a TFRecord file of `tensorflow.serving.PredictionLog` messages. They
are put together here by their field numbers (PredictionLog.predict_log = 6, PredictLog.request = 1,
PredictRequest.model_spec = 1 and .inputs = 2, ModelSpec.name = 1 and .signature_name = 3), so that an export needs no
other package; a test reads them with the official ones.
"""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from melano_tf.metadata_fields import BY_NAME, NOT_SENT, UNKNOWN
from melano_tf.pipelines.tfrecords import message_field

FILE = "tf_serving_warmup_requests"
SIZES = (1, 4)  # images in a request


def predict_request(name: str, signature: str, inputs: dict[str, Any]) -> bytes:
    """A serialised `tensorflow.serving.PredictRequest`."""
    spec = message_field(1, name.encode()) + message_field(3, signature.encode())
    entries = [
        message_field(2, message_field(1, key.encode()) + message_field(2, proto(value).SerializeToString()))
        for key, value in inputs.items()
    ]
    return message_field(1, spec) + b"".join(entries)


def proto(value: Any) -> Any:
    """A tensor as a TensorProto."""
    return tf.make_tensor_proto(value)


def write_warmup(folder: Path, name: str, endpoints: dict[str, Any], card: dict[str, Any]) -> Path:
    """Write requests for every signature below `folder`; each is answered once here, so that none can fail there."""
    path = folder / "assets.extra" / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, function in endpoints.items():
            for inputs in example_inputs(function, card):
                function(**inputs)
                request = predict_request(name, signature, {key: v.numpy() for key, v in inputs.items()})
                writer.write(message_field(6, message_field(1, request)))
    return path


def example_inputs(function: Any, card: dict[str, Any]) -> list[dict[str, Any]]:
    """Inputs for one signature at each of a few batch sizes, by the names and types that it takes."""
    px = int(card["sidecar"]["input_px"])
    specs = {spec.name: spec for spec in function.input_signature}
    most = card["limits"]["max_images"]
    return [{name: _example(spec, count, px) for name, spec in specs.items()} for count in SIZES if count <= most]


def _example(spec: Any, count: int, px: int) -> Any:
    """One tensor: pictures of even colour, patients of whom nothing is known."""
    if spec.name in ("image_bytes", "tile_bytes"):
        encoded = np.array([picture(px).numpy()] * count, object)
        return tf.constant(encoded if spec.shape.rank == 1 else encoded[None])
    if spec.name in ("image", "tile"):
        return tf.fill([count, px, px, 3], tf.constant(127, tf.uint8))
    if spec.name in BY_NAME:
        return tf.fill([count], NOT_SENT if spec.dtype == tf.float32 else UNKNOWN)
    if spec.name == "embeddings":
        return tf.zeros([1, count, spec.shape[2]])
    if spec.name == "features":
        return tf.zeros([1, count, spec.shape[2]] if spec.shape.rank == 3 else [count, spec.shape[1]])
    if spec.name == "mask":
        return tf.ones([1, count], tf.bool)
    return tf.zeros([count], spec.dtype)


def picture(px: int) -> Any:
    """A JPEG of a plain grey square, scalar string."""
    return tf.io.encode_jpeg(tf.fill([px, px, 3], tf.constant(127, tf.uint8)))
