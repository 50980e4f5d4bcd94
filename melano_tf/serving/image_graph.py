"""What an exported graph does to images before and after its network: everything that training and `predict` do.

Encoded images are judged, decoded, brought to the stored size, put under neutral light where training did so, and seen
as the network sees them: the same pixels as `image_cache.decode_image` and `image_batches.seen` give.
Behind the network stand calibration, threshold and decision. All outputs have the batch first, so that a server may
answer row by row and join requests.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from melano_tf.errors import InputError
from melano_tf.evaluation.calibration import RESOLUTION, Calibration
from melano_tf.metadata_fields import NOT_SENT, UNKNOWN, NumberField
from melano_tf.models.colour_constancy_layer import ColourNormalisation
from melano_tf.models.metadata_layer import MetadataCode
from melano_tf.pipelines.image_batches import seen
from melano_tf.pipelines.image_cache import SHRINKS, decode_jpeg
from melano_tf.runs.settings_digest import plain
from melano_tf.runs.sidecar import Sidecar
from melano_tf.serving.encoded_image_checks import (
    EARLY,
    GOOD,
    Judged,
    judge_image,
    refuse_count,
    refuse_images,
    refuse_metadata,
)
from melano_tf.serving.image_remarks import remarks_on
from melano_tf.serving.jpeg_graph import corner_is_grey, with_filler
from melano_tf.training.embedding import heard
from melano_tf.training.steps import traced

Told = Mapping[str, Any]  # what is told of patients: a tensor (B,) by the name of each field
UNDECIDED = "undecided"  # where two classes are the most probable
AT_ONCE = 2  # images decoded at the same time: bounds the memory


@dataclass(frozen=True)
class Limits:
    """What one request may cost.

    Attributes:
        max_pixels: width x height of an image; what is larger is refused before it is decoded.
        max_bytes: of one encoded image.
        max_images: in one request.
    """

    max_pixels: int = 50_000_000
    max_bytes: int = 32 * 2**20
    max_images: int = 256

    def __post_init__(self) -> None:
        wrong = [name for name in ("max_pixels", "max_bytes", "max_images") if getattr(self, name) < 1]
        if wrong:
            raise InputError(f"{wrong[0]} {getattr(self, wrong[0])}: at least 1")


def resized(images: Any, size: int) -> Any:
    """uint8 or float32 (n, H, W, 3), of any size, as uint8 (n, size, size, 3): by area where the picture shrinks,
    bilinearly where it grows; see `pipelines.image_cache.decode_image`."""
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    # A side that keeps its length keeps its values, so that both steps can always be done.
    images = tf.image.resize(images, tf.stack([tf.minimum(height, size), tf.minimum(width, size)]), method="area")
    images = tf.image.resize(images, (size, size), method="bilinear")
    return tf.cast(tf.clip_by_value(tf.round(images), 0, 255), tf.uint8)


def centre_square(images: Any) -> Any:
    """The largest square at the centre of images (n, H, W, 3); see `pipelines.image_cache.decode_image`."""
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    side = tf.minimum(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images[:, top : top + side, left : left + side]


def decode_images(
    contents: Any, size: int, limits: Limits, shrink: bool = True, crop: str = "whole"
) -> tuple[Any, Any]:
    """Encoded JPEGs and PNGs of mixed sizes as squares of one size.

    Args:
        contents: string (B,).
        size: side of the result in pixels.
        limits: what is refused.
        shrink: decode large JPEGs at a fraction of their size, as the training's cache of whole images does.
        crop: "whole": the picture squeezed to a square; "centre": the square at its centre.

    Returns:
        (uint8 (B, size, size, 3) RGB, width / height of each picture, float32 (B,)).

    Raises:
        tf.errors.InvalidArgumentError (when run): images that cannot be used, named by their index.
    """
    few = refuse_count(tf.size(contents), limits.max_images, "images")
    with tf.control_dependencies([few]):
        contents = tf.identity(contents)
    judged = tf.map_fn(
        lambda content: judge_image(content, limits.max_pixels, limits.max_bytes),
        contents,
        fn_output_signature=Judged(*(tf.TensorSpec([], tf.int32),) * 5, tf.TensorSpec([], tf.bool)),
        parallel_iterations=AT_ONCE,
    )
    with tf.control_dependencies([refuse_images(judged.code, limits.max_pixels, limits.max_bytes)]):
        contents = tf.identity(contents)
    heights, widths, kinds = judged.height, judged.width, judged.kind
    ratios = (1, *SHRINKS) if shrink else (1,)
    shorter = tf.minimum(heights, widths)
    branch = tf.where(tf.equal(kinds, 1), 0, len(ratios) - 2 + kinds)
    for place, ratio in reversed(list(enumerate(ratios[1:], start=1))):
        branch = tf.where(tf.equal(kinds, 1) & (shorter // ratio >= 2 * size), place, branch)
    pixels, whole = tf.map_fn(
        lambda one: _decode(one[0], one[1], one[2], one[3], ratios, size, crop),
        (contents, branch, judged.end, judged.doubtful),
        fn_output_signature=(tf.TensorSpec([size, size, 3], tf.uint8), tf.TensorSpec([], tf.bool)),
        parallel_iterations=AT_ONCE,
    )
    codes = tf.where(whole, GOOD, EARLY)
    with tf.control_dependencies([refuse_images(codes, limits.max_pixels, limits.max_bytes)]):
        pixels = tf.identity(pixels)
    aspects = tf.cast(tf.cast(widths, tf.float64) / tf.cast(heights, tf.float64), tf.float32)
    return pixels, tf.ones_like(aspects) if crop == "centre" else aspects


@functools.cache
def decoder(size: int, limits: Limits, shrink: bool = True, crop: str = "whole") -> Any:
    """`decode_images` as one function of the graph, which all signatures call: traced and stored once."""
    signature = [tf.TensorSpec([None], tf.string)]
    return traced(lambda contents: decode_images(contents, size, limits, shrink, crop), signature)


def _decode(
    content: Any, branch: Any, end: Any, doubtful: Any, ratios: Sequence[int], size: int, crop: str
) -> tuple[Any, Any]:
    """One image, and whether its data last to its end. Branches: a JPEG at each of the ratios, a PNG, a PNG of 16-bit
    greys."""

    def jpeg(ratio: int) -> Any:
        def decoded() -> tuple[Any, Any]:
            image = decode_jpeg(content, ratio)
            again = lambda: tf.reduce_all(tf.equal(decode_jpeg(with_filler(content, end), ratio), image))  # noqa: E731
            return image, tf.cond(doubtful | corner_is_grey(image), again, lambda: True)

        return decoded

    def grey16() -> tuple[Any, Any]:
        # Scaled to 8 bits by rounding, as the training's reader does; TensorFlow would cut the lower ones off.
        grey = tf.cast(tf.io.decode_png(content, channels=1, dtype=tf.uint16), tf.float64)
        return tf.tile(tf.cast(tf.round(grey / 257.0), tf.uint8), [1, 1, 3]), True

    decoders = [jpeg(ratio) for ratio in ratios] + [lambda: (tf.io.decode_png(content, channels=3), True), grey16]
    image, whole = tf.switch_case(branch, decoders)
    image = tf.ensure_shape(image, [None, None, 3])[None]
    return resized(centre_square(image) if crop == "centre" else image, size)[0], whole


def colour_layer(store: Mapping[str, Any]) -> Any:
    """What brings stored pixels uint8 (B, h, w, 3) under neutral light, or None where the training did not."""
    settings = store.get("colour")
    if settings is None:
        return None
    # In double precision the layer gives the very grey levels that the training's cache holds.
    layer = ColourNormalisation(**plain(settings), precision="float64", dtype="float32")
    return lambda pixels: tf.cast(layer(pixels), tf.uint8)


def shared(network: Any) -> Any:
    """A network in inference mode as one function of the graph, which all signatures call: traced and stored once."""
    return traced(lambda inputs: network(inputs, training=False))


def signature(call: Callable[..., Any], *specs: Any) -> Any:
    """`call` as one of the graph's signatures.

    Its code decides nothing by a tensor's value in Python's own words (`if`, `for`), which would have to be rewritten
    as a graph's: that takes longer than the tracing.
    """
    return tf.function(call, input_signature=specs, autograph=False)


class ImageNetwork:
    """A classifier of whole images with what stands before and behind it.

    Args:
        network: takes {"image": float32 (B, px, px, 3)}, with "metadata" (B, M) where the sidecar has a code for it;
            gives (B, 1), the probability of the second of two classes, or (B, C).
        sidecar: of the network.
        limits: of requests.
    """

    def __init__(self, network: Any, sidecar: Sidecar, limits: Limits) -> None:
        self.forward, self.sidecar, self.limits = shared(network), sidecar, limits
        self.store = sidecar.preprocessing["store"]
        self.colour = colour_layer(self.store)
        self.crop = self.store.get("crop", "whole")
        written = sidecar.preprocessing.get("metadata")
        self.code = None if written is None else MetadataCode.from_json(written)

    def endpoints(self) -> dict[str, Any]:
        """The signatures, traced TensorFlow functions by name."""
        contents = tf.TensorSpec([None], tf.string, name="image_bytes")
        images = tf.TensorSpec([None, None, None, 3], tf.uint8, name="image")
        if (code := self.code) is None:
            return {
                "serving_default": signature(lambda image_bytes: self._bytes(image_bytes), contents),
                "tensors": signature(lambda image: self._tensors(image), images),
            }
        told = [
            tf.TensorSpec([None], tf.float32 if isinstance(one, NumberField) else tf.string, name=one.name)
            for one in code.fields
        ]

        def with_metadata(answer: Callable[[Any, Told], dict[str, Any]], first: Any) -> Any:
            def call(image: Any, *values: Any) -> dict[str, Any]:
                return answer(image, {one.name: value for one, value in zip(code.fields, values, strict=True)})

            return signature(named(call, [spec.name for spec in (first, *told)]), first, *told)

        return {
            "serving_default": with_metadata(self._bytes, contents),
            "image_only": signature(
                lambda image_bytes: self._bytes(image_bytes, nothing_told(tf.size(image_bytes), code)), contents
            ),
            "tensors": with_metadata(self._tensors, images),
        }

    def _bytes(self, contents: Any, told: Told | None = None) -> dict[str, Any]:
        if told is not None:
            told = checked_metadata(told, self.code)
        pixels, aspects = decoder(self.store["stored_px"], self.limits, crop=self.crop)(contents)
        return self._answers(pixels, aspects, told)

    def _tensors(self, images: Any, told: Told | None = None) -> dict[str, Any]:
        count, height, width = tf.shape(images)[0], tf.shape(images)[1], tf.shape(images)[2]
        few = refuse_count(count, self.limits.max_images, "images")
        filled = tf.debugging.Assert((height > 0) & (width > 0), ["images without pixels"])
        small = tf.debugging.Assert(
            tf.cast(height, tf.int64) * tf.cast(width, tf.int64) <= self.limits.max_pixels,
            [f"images have more pixels than the limit of {self.limits.max_pixels:,}"],
        )
        with tf.control_dependencies([few, filled, small]):
            images = tf.identity(images)
        if told is not None:
            told = checked_metadata(told, self.code)
        if self.crop == "centre":
            images, width = centre_square(images), height
        pixels = resized(images, self.store["stored_px"])
        return self._answers(pixels, tf.fill([count], tf.cast(width / height, tf.float32)), told)

    def _answers(self, pixels: Any, aspects: Any, told: Told | None) -> dict[str, Any]:
        if self.colour is not None:
            pixels = self.colour(pixels)
        remarks = remarks_on(tf.ensure_shape(pixels, [None, self.store["stored_px"], self.store["stored_px"], 3]))
        # The layer that squeezes, turns and crops in training; here it resamples the whole picture, upright.
        px = self.sidecar.input_px
        inputs = {"image": tf.ensure_shape(tf.cast(seen(pixels, aspects, px), tf.float32), [None, px, px, 3])}
        if told is not None and self.code is not None:
            inputs["metadata"] = encode_metadata(told, self.code)
        outputs, distance = heard(self.forward(inputs))
        return answers(outputs, self.sidecar, distance) | {"remark": remarks}


def named(call: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """`call` as a function of arguments of these names, after which TensorFlow names a signature's inputs."""

    def function(*values: Any) -> Any:
        return call(*values)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    function.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])  # type: ignore[attr-defined]
    return function


def nothing_told(count: Any, code: MetadataCode) -> Told:
    """Of so many patients what is sent where nothing is known."""
    return {one.name: tf.fill([count], NOT_SENT if isinstance(one, NumberField) else UNKNOWN) for one in code.fields}


def checked_metadata(told: Told, code: MetadataCode | None) -> Told:
    """Each field's values (B,), refused where out of range; words in small letters, numbers not known as NaN."""
    assert code is not None
    numbers = {one.name for one in code.fields if isinstance(one, NumberField)}
    found = {
        name: value if name in numbers else tf.strings.lower(tf.strings.strip(value)) for name, value in told.items()
    }
    with tf.control_dependencies([refuse_metadata(found, code.fields)]):
        return {
            name: tf.where(value < 0, float("nan"), value) if name in numbers else tf.identity(value)
            for name, value in found.items()
        }


def encode_metadata(told: Told, code: MetadataCode) -> Any:
    """`MetadataCode.encode` in the graph: float32 (B, width)."""
    columns: list[Any] = []
    for one in code.fields:
        values = told[one.name]
        if isinstance(one, NumberField):
            missing = tf.math.is_nan(values)
            scaled = tf.where(missing, tf.constant(0.0, tf.float64), tf.cast(values, tf.float64) / one.scale)
            columns += [tf.cast(scaled, tf.float32), tf.cast(missing, tf.float32)]
        else:
            known = [tf.equal(values, word) for word in one.known_words]
            unknown = tf.equal(values, "") | tf.equal(values, UNKNOWN)
            columns += [tf.cast(column, tf.float32) for column in (*known, unknown)]
    return tf.ensure_shape(tf.stack(columns, axis=1), [None, code.width])


def answers(outputs: Any, sidecar: Sidecar, distance: Any = None) -> dict[str, Any]:
    """What a network's probabilities (B, 1) or (B, C) mean: the named outputs of a signature.

    Of two classes the second is called from the threshold on, of more the most probable one, after calibration; only
    the former have a threshold. Where the distance from the training (B,) is known, it is given, and `called`: the
    decision, or "" past 1, where it is withheld.
    """
    named = _decided(outputs, sidecar)
    if distance is None:
        return named
    called = tf.where(distance <= 1.0, named["decision"], "")
    return named | {"distance": tf.cast(distance, tf.float32), "called": called}


def _decided(outputs: Any, sidecar: Sidecar) -> dict[str, Any]:
    count = tf.shape(outputs)[0]
    probabilities = tf.concat([1.0 - outputs, outputs], axis=1) if outputs.shape[-1] == 1 else outputs
    calibrated = calibrate(probabilities, sidecar.calibration)
    classes = tf.constant(list(sidecar.classes))
    named = {
        "classes": tf.tile(classes[None], [count, 1]),
        "probabilities": tf.cast(probabilities, tf.float32),
        "calibrated_probabilities": tf.cast(calibrated, tf.float32),
    }
    if len(sidecar.classes) != 2:
        highest = tf.equal(calibrated, tf.reduce_max(calibrated, axis=1, keepdims=True))
        tied = tf.reduce_sum(tf.cast(highest, tf.int32), axis=1) > 1
        return named | {"decision": tf.where(tied, UNDECIDED, tf.gather(classes, tf.argmax(calibrated, axis=1)))}
    called = tf.cast(calibrated[:, 1] >= tf.constant(sidecar.threshold, tf.float64), tf.int32)
    threshold = tf.fill([count], tf.constant(sidecar.threshold, tf.float32))
    return named | {"threshold": threshold, "decision": tf.gather(classes, called)}


def calibrate(probabilities: Any, written: Mapping[str, Any] | None) -> Any:
    """`Calibration.apply` in the graph: (B, C) -> float64 (B, C); as they are where nothing was fitted."""
    values = tf.cast(probabilities, tf.float64)
    if written is None:
        return values
    fitted = Calibration.from_json(written)
    if fitted.outputs == 1:
        p = tf.clip_by_value(values[:, 1], RESOLUTION, 1 - RESOLUTION)
        p = tf.sigmoid((tf.math.log(p) - tf.math.log1p(-p)) / fitted.temperature)
        return tf.stack([1 - p, p], axis=1)
    return tf.nn.softmax(tf.math.log(tf.maximum(values, RESOLUTION)) / fitted.temperature, axis=-1)
